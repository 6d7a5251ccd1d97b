# SPDX-License-Identifier: MIT
"""The engine: its life, what it compiles, what it keeps, and cancellation in the middle of all that."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from guests import LATEST64, basic, build, memory
from processes import Census, census, children, free_descriptors, parent, wait_for_death, watch

import aioring
import vm

ONE_LOOP = pytest.mark.asyncio(loop_factories=["aioring"])


def pass_on() -> vm.Linker:
    linker = vm.Linker()
    linker.define("ask", lambda caller, value: value)
    return linker


# --- life -------------------------------------------------------------------------------------------------------------


async def test_it_is_entered_once(nothing_left: Census) -> None:
    engine = vm.Engine()
    async with engine as entered:
        assert entered is engine
        with pytest.raises(vm.InstanceStateError, match="entered already"):
            await engine.__aenter__()
        await engine.compile(basic())
    with pytest.raises(vm.InstanceStateError):
        await engine.__aenter__()


async def test_before_it_is_entered(nothing_left: Census) -> None:
    engine = vm.Engine()
    with pytest.raises(vm.InstanceStateError, match="not open"):
        await engine.compile(basic())
    await engine.aclose()


async def test_after_it_was_closed(nothing_left: Census) -> None:
    async with vm.Engine() as engine:
        module = await engine.compile(basic())
    await engine.aclose()
    with pytest.raises(vm.InstanceStateError, match="not open"):
        await engine.compile(basic())
    with pytest.raises(vm.InstanceStateError, match="not open"):
        await module.instantiate()
    with pytest.raises(vm.InstanceStateError, match="not open"):
        await pass_on().instantiate(module)
    assert module.exports["add"] == 0
    assert len(module.native_code()) == module.native_size


async def test_closing_ends_every_process(nothing_left: Census) -> None:
    async with vm.Engine() as engine:
        module = await engine.compile(basic())
        instances = [await pass_on().instantiate(module) for _ in range(5)]
        await instances.pop().aclose()  # one that is kept for reuse
        pids = [*(instance.pid for instance in instances), parent(instances[0].pid)]
        running = asyncio.create_task(instances[0].call("spin"))
        while "running" not in repr(instances[0]):
            assert not running.done()
            await asyncio.sleep(0)
        with watch(*pids) as pidfds:
            await engine.aclose()
            for pid in pids:  # not only told to die
                with pytest.raises(ProcessLookupError):
                    os.kill(pid, 0)
            wait_for_death(*pidfds.values())
        with pytest.raises(vm.SandboxDiedError):
            await running
    for instance in instances:
        with pytest.raises(vm.VMError):
            await instance.call("add", 1, 2)
        await instance.aclose()


async def test_closing_while_a_host_function_is_awaited(nothing_left: Census) -> None:
    entered, opened = asyncio.Event(), asyncio.Event()
    linker = vm.Linker()

    @linker.function("ask")
    async def ask(caller: vm.Caller) -> int:
        entered.set()
        await opened.wait()
        return 1

    async with vm.Engine() as engine:
        instance = await linker.instantiate(await engine.compile(basic()))
        call = asyncio.create_task(instance.call("ask", 1))
        await entered.wait()
    opened.set()
    with pytest.raises(vm.VMError):
        await call
    await instance.aclose()


async def test_closing_from_several_tasks(nothing_left: Census) -> None:
    async def close() -> set[int]:
        await engine.aclose()
        return children()

    async with vm.Engine() as engine:
        before = children()
        async with await pass_on().instantiate(await engine.compile(basic())) as instance:
            assert await instance.call("add", 1, 2) == 3
        assert before
        # nothing is left for whoever of them returns first
        assert await asyncio.gather(*(close() for _ in range(5))) == [set()] * 5


async def test_an_exception_in_the_body_closes_it(nothing_left: Census) -> None:
    with pytest.raises(RuntimeError, match="body"):
        async with vm.Engine() as engine:
            instance = await pass_on().instantiate(await engine.compile(basic()))
            raise RuntimeError("body")
    await instance.aclose()


async def test_two_engines(engine: vm.Engine) -> None:
    async with vm.Engine() as other:
        first, second = [await pass_on().instantiate(await e.compile(basic())) for e in (engine, other)]
        assert list(await asyncio.gather(first.call("add", 1, 2), second.call("add", 3, 4))) == [3, 7]
        assert parent(first.pid) != parent(second.pid)
        await second.aclose()
    assert await first.call("add", 5, 6) == 11
    await first.aclose()


def test_engines_in_two_threads() -> None:
    results: list[int] = []

    async def main() -> None:
        async with vm.Engine() as engine, await pass_on().instantiate(await engine.compile(basic())) as instance:
            results.extend([await instance.call("ask", n) for n in range(50)])

    threads = [threading.Thread(target=run, args=[main()]) for run in (asyncio.run, aioring.run)]
    before = census()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted(2 * n for n in range(50) for _ in threads)
    assert not census() - before


@ONE_LOOP
async def test_starting_many_times(nothing_left: Census) -> None:
    for _ in range(200):
        async with vm.Engine():
            pass


# --- compiling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, vm.ProgramBlob.parse])
async def test_what_it_compiles(engine: vm.Engine, kind: Callable[[bytes], Any]) -> None:
    module = await engine.compile(kind(basic().to_bytes()))
    assert module.blob == basic()
    assert module.isa is LATEST64
    assert module.imports == (b"ask",)
    assert module.config == vm.ModuleConfig()
    assert set(module.exports) >= {"add", "spin"}
    async with await pass_on().instantiate(module) as instance:
        assert await instance.call("add", 1, 2) == 3


@pytest.mark.parametrize("kind", [str, Path])
async def test_files(engine: vm.Engine, tmp_path: Path, kind: Callable[[Path], Any]) -> None:
    path = tmp_path / "program.polkavm"
    path.write_bytes(basic().to_bytes())
    async with await pass_on().instantiate(await engine.compile(kind(path))) as instance:
        assert await instance.call("add", 1, 2) == 3
    with pytest.raises(FileNotFoundError, match="no-such-file"):
        await engine.compile(kind(tmp_path / "no-such-file"))
    with pytest.raises(IsADirectoryError):
        await engine.compile(kind(tmp_path))
    path.write_bytes(b"")
    with pytest.raises(vm.ProgramParseError):
        await engine.compile(kind(path))


@pytest.mark.parametrize("source", [b"", b"PVM\0", b"\x7fELF" + bytes(100), bytes(1000)], ids=repr)
async def test_what_is_no_program(engine: vm.Engine, source: bytes) -> None:
    with pytest.raises(vm.ProgramParseError):
        await engine.compile(source)


@pytest.mark.parametrize("source", [None, 5, 1.5, ["PVM"]], ids=repr)
async def test_what_is_no_source(engine: vm.Engine, source: Any) -> None:
    with pytest.raises(TypeError):
        await engine.compile(source)


@pytest.mark.parametrize("page_size", [0, 1, 0x800, 0x1001, 0x3000, 0x20000, -0x1000, 2**32])
async def test_bad_page_sizes(engine: vm.Engine, page_size: int) -> None:
    with pytest.raises(vm.MemoryMapError, match="page size"):
        await engine.compile(basic(), vm.ModuleConfig(page_size=page_size))


@pytest.mark.parametrize("aux_data_size", [-1, 2**32, 2**32 - 1])
async def test_bad_sizes_of_auxiliary_data(engine: vm.Engine, aux_data_size: int) -> None:
    with pytest.raises(vm.MemoryMapError):
        await engine.compile(basic(), vm.ModuleConfig(aux_data_size=aux_data_size))


async def test_memory_that_does_not_fit(engine: vm.Engine) -> None:
    blob = build("%rw_data_size = 4294967295\n%stack_size = 4294967295\nret")
    with pytest.raises(vm.MemoryMapError, match="do not fit"):
        await engine.compile(blob)


async def test_the_largest_memory(engine: vm.Engine) -> None:
    """Gigabytes that nobody touches cost nothing."""
    blob = build("%rw_data_size = 4000000000\npub @main:\nu8 [a0] = 5\na0 = u8 [a0]\nret")
    async with await (await engine.compile(blob)).instantiate() as instance:
        last = instance.memory.map.rw_address + 4_000_000_000 - 1
        assert await instance.call("main", last) == 5


def long_program(times: int) -> vm.ProgramBlob:
    """`main` adds 8 * `times` to a0; made without the assembler, which would take seconds."""
    unit, end = build("a0 = a0 + 1\n" * 8), build("ret")
    assert len(unit.code) % 8 == 0
    return vm.ProgramBlob.build(
        isa=LATEST64,
        code=unit.code * times + end.code,
        bitmask=unit.bitmask * times + end.bitmask,
        exports=[(0, b"main")],
    )


async def test_compiling_leaves_the_loop_free(engine: vm.Engine) -> None:
    blob = long_program(100_000)
    turns = 0
    compiling = asyncio.create_task(engine.compile(blob))
    while not compiling.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 10
    async with await (await compiling).instantiate() as instance:
        assert await instance.call("main", 1) == 800_001


async def test_many_modules_at_once(engine: vm.Engine) -> None:
    modules = await asyncio.gather(*(engine.compile(build(f"pub @main:\na0 = {n}\nret")) for n in range(50)))

    async def call(module: vm.Module) -> int:
        async with await module.instantiate() as instance:
            return await instance.call("main")

    assert await asyncio.gather(*map(call, modules)) == list(range(50))


async def test_module_repr(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    expected = f"<Module latest64, {len(basic().code)} bytes of code, {module.native_size} native>"
    assert repr(module) == expected


async def test_of_exports_with_one_name_the_first_counts(engine: vm.Engine) -> None:
    plain = build("pub @main:\na0 = 1\nret\n@two:\na0 = 2\nret")
    exports = [(0, b"main"), (5, b"main"), (5, b"\xff")]
    blob = vm.ProgramBlob.build(isa=plain.isa, code=plain.code, bitmask=plain.bitmask, exports=exports)
    module = await engine.compile(blob)
    assert module.exports == {"main": 0, "\\xff": 5}
    async with await module.instantiate() as instance:
        assert await instance.call("main") == 1


# --- reuse ------------------------------------------------------------------------------------------------------------


async def test_processes_are_reused(engine: vm.Engine) -> None:
    module, other = await engine.compile(basic()), await engine.compile(memory())
    async with await pass_on().instantiate(module) as instance:
        pid = instance.pid
    async with await other.instantiate() as instance:  # never by another module
        assert instance.pid != pid
    async with await pass_on().instantiate(module) as instance:
        assert instance.pid == pid
        with pytest.raises(vm.TrapError):
            await instance.call("trap")
    async with await pass_on().instantiate(module) as instance:  # a trap is no reason against it
        assert instance.pid == pid
        assert await instance.call("add", 1, 2) == 3


@pytest.mark.parametrize("config", [vm.Config(reuse="never"), vm.Config(max_idle_workers=0)], ids=repr)
async def test_processes_are_not_reused(nothing_left: Census, config: vm.Config) -> None:
    async with vm.Engine(config) as engine:
        module = await engine.compile(basic())
        seen = []
        for _ in range(3):
            async with await pass_on().instantiate(module) as instance:
                seen.append(instance.pid)
                with watch(instance.pid) as pidfds:
                    await instance.aclose()
                    wait_for_death(*pidfds.values())
        assert len(set(seen)) == 3


async def test_only_so_many_idle_processes_are_kept(nothing_left: Census) -> None:
    async with vm.Engine(vm.Config(max_idle_workers=2, module_cache_size=0)) as engine:
        modules = [await engine.compile(basic()) for _ in range(2)]
        instances = [await pass_on().instantiate(module) for module in modules for _ in range(2)]
        with watch(*(instance.pid for instance in instances)) as pidfds:
            pids = list(pidfds)
            for instance in instances:
                await instance.aclose()
            wait_for_death(*(pidfds[pid] for pid in pids[:2]))  # the longest idle ones went
            again = [await pass_on().instantiate(modules[1]) for _ in range(2)]
            assert {instance.pid for instance in again} == set(pids[2:])
            for instance in again:
                await instance.aclose()


async def test_without_spinning(nothing_left: Census) -> None:
    config = vm.Config(spin=0)
    async with vm.Engine(config) as engine, await pass_on().instantiate(await engine.compile(basic())) as instance:
        assert [await instance.call("ask", n) for n in range(100)] == [2 * n for n in range(100)]


# --- limits -----------------------------------------------------------------------------------------------------------


@ONE_LOOP
@pytest.mark.parametrize("free", range(4))
async def test_instantiating_without_file_descriptors(nothing_left: Census, free: int) -> None:
    async with vm.Engine(vm.Config(spare_workers=0)) as engine:
        await _instantiate_with(engine, free)


async def _instantiate_with(engine: vm.Engine, free: int) -> None:
    module = await engine.compile(basic())
    linker = pass_on()
    async with await linker.instantiate(module) as before:
        with free_descriptors(free):
            (another,) = await asyncio.gather(linker.instantiate(module), return_exceptions=True)
        if isinstance(another, vm.Instance):
            assert free > 0
            assert await another.call("add", 1, 2) == 3
            await another.aclose()
        else:
            assert isinstance(another, vm.SandboxError)
            assert another.errno == errno.EMFILE
            assert "open files" in str(another)
            assert free < 3
        assert await before.call("add", 1, 2) == 3
    async with await linker.instantiate(module) as after:
        assert await after.call("add", 1, 2) == 3


@ONE_LOOP
@pytest.mark.parametrize("free", range(6))
async def test_starting_without_file_descriptors(nothing_left: Census, free: int) -> None:
    engine = vm.Engine()
    with free_descriptors(free):
        (started,) = await asyncio.gather(engine.__aenter__(), return_exceptions=True)
    if started is not engine:
        assert isinstance(started, vm.SandboxError | OSError)
        assert started.errno == errno.EMFILE
    await engine.aclose()


@ONE_LOOP
async def test_compiling_without_file_descriptors(engine: vm.Engine) -> None:
    with pytest.raises(vm.CompileError, match="too many open files"), free_descriptors(0):
        await engine.compile(basic())
    await engine.compile(basic())


# --- cancellation -----------------------------------------------------------------------------------------------------


async def cancel_after(turns: int, work: Coroutine[Any, Any, Any]) -> Any:
    """Cancels `work` after so many turns of the loop; its result if it was done by then, else None."""
    task = asyncio.ensure_future(work)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return None


TURNS = (0, 1, 2, 3, 5, 10, 30, 100, 1000)


@pytest.mark.parametrize("turns", TURNS)
async def test_cancelled_while_it_starts(nothing_left: Census, turns: int) -> None:
    engine = vm.Engine()
    await cancel_after(turns, engine.__aenter__())
    await engine.aclose()


@pytest.mark.parametrize("turns", TURNS)
async def test_cancelled_while_it_compiles(nothing_left: Census, turns: int) -> None:
    blob = long_program(10_000)
    async with vm.Engine() as engine:
        await cancel_after(turns, engine.compile(blob))
        async with await (await engine.compile(blob)).instantiate() as instance:
            assert await instance.call("main") == 80_000
    await asyncio.get_running_loop().shutdown_default_executor()  # what was cancelled ends with its thread


@pytest.mark.parametrize("turns", TURNS)
async def test_cancelled_while_it_instantiates(engine: vm.Engine, turns: int) -> None:
    module = await engine.compile(basic())
    made = await asyncio.gather(*(cancel_after(turns, module.instantiate()) for _ in range(5)))
    async with await pass_on().instantiate(module) as instance:
        assert await instance.call("ask", 4) == 8
        (nursery,) = {parent(instance.pid)} & children()
        for other in filter(None, made):
            await other.aclose()
        assert nursery


@pytest.mark.parametrize("turns", TURNS)
async def test_cancelled_while_an_instance_closes(engine: vm.Engine, turns: int) -> None:
    module = await engine.compile(memory())
    instance = await module.instantiate()
    size = 8 << 20  # large enough to be reset off the loop's thread
    top = await instance.call("grow", size)
    await instance.call("fill", top - size, 0x55, size)
    await cancel_after(turns, instance.aclose())
    await instance.aclose()
    async with await module.instantiate() as another:
        await another.call("grow", size)
        assert not any(another.memory.read(top - size, size))


@pytest.mark.parametrize("turns", TURNS)
async def test_cancelled_while_it_closes(nothing_left: Census, turns: int) -> None:
    """Closing is finished first: nothing is left when the cancellation comes through."""
    engine = vm.Engine()
    await engine.__aenter__()
    module = await engine.compile(basic())
    instances = [await pass_on().instantiate(module) for _ in range(3)]
    with watch(*(instance.pid for instance in instances)) as pidfds:
        await cancel_after(turns, engine.aclose())
        if turns:
            for pid in pidfds:
                with pytest.raises(ProcessLookupError):
                    os.kill(pid, 0)
        await engine.aclose()
        wait_for_death(*pidfds.values())


async def test_leaving_the_body_by_cancellation(nothing_left: Census) -> None:
    entered = asyncio.Event()

    async def body() -> None:
        async with vm.Engine() as engine, await pass_on().instantiate(await engine.compile(basic())) as instance:
            entered.set()
            await instance.call("spin")

    task = asyncio.create_task(body())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_timeout_around_everything(nothing_left: Census) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), vm.Engine() as engine:
            module = await engine.compile(basic())
            async with asyncio.TaskGroup() as group:
                for _ in range(10):
                    group.create_task((await pass_on().instantiate(module)).call("spin"))
