# SPDX-License-Identifier: MIT
"""Guests awaited in stock asyncio, uvloop, aioring and trio: the same tests, written with anyio, in each."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import io
import os
import signal
import threading
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

import anyio
import pytest
from guests import BASIC, build
from processes import census, images, thread_names

import aioring
import vm
import vm.anyio
from vm.anyio import Caller, Config, Engine, Instance, Limits, Linker, u64

ASK = contextvars.ContextVar("ASK", default=0)


class Run(Protocol):
    def __call__(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None: ...


@pytest.fixture(params=["asyncio", "uvloop", "aioring", "trio"])
def library(request: pytest.FixtureRequest) -> str:
    if request.param == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop is not installed")
    if request.param == "trio":
        pytest.importorskip("trio", reason="trio is not installed")
    name: str = request.param
    return name


@pytest.fixture(params=["io_uring", "threads"])
def run(library: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a coroutine function under `library`, with either way to wait; it may leave nothing behind."""
    monkeypatch.setenv("PVM_WAITING", request.param)

    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "asyncio": asyncio.new_event_loop,
        "aioring": aioring.new_event_loop,
    }
    if library == "uvloop":
        factories["uvloop"] = importlib.import_module("uvloop").new_event_loop

    def run_coroutine(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if library == "trio":
            importlib.import_module("trio").run(main)
        else:
            with asyncio.Runner(loop_factory=factories[library]) as runner:
                runner.run(main())

    async def nothing() -> None:
        pass

    def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        run_coroutine(nothing)  # uvloop's first loop opens a pipe for all
        before = census()
        run_coroutine(main)
        assert "vm-loop" not in {thread.name for thread in threading.enumerate()}
        assert "vm-waits" not in thread_names()
        assert images() == 0
        assert not census() - before

    return run


def blob() -> vm.ProgramBlob:
    return build(BASIC, imports=["ask"])


def asking(function: Callable[..., Any]) -> Linker:
    linker = Linker()
    linker.define("ask", function)
    return linker


def test_calls(run: Run) -> None:
    async def main() -> None:
        async with Engine() as engine:
            module = await engine.compile(blob())
            assert await engine.compile(blob()) is module
            async with await asking(lambda caller: 1).instantiate(module) as instance:
                for number in range(20):
                    assert await instance.call("add", number, 2) == number + 2
                with pytest.raises(vm.TrapError) as caught:
                    await instance.call("trap")
                assert caught.value.export == "trap"
                with pytest.raises(KeyError, match="no export 'nothing'"):
                    await instance.call("nothing")
                assert instance.registers["a5"] == 0x77
                instance.prepare_call("ask", 5)
                assert await instance.run() == vm.HostCall(0)
                instance.registers["a0"] = 10
                assert await instance.run() == vm.Finished()
                assert instance.registers["a0"] == 15
                with pytest.raises(vm.InstanceStateError, match="nothing to run"):
                    await instance.run()
            with pytest.raises(vm.InstanceStateError, match="closed"):
                await instance.call("add", 1, 2)
            await instance.aclose()

    run(main)


def test_host_functions_run_in_the_task_that_calls(run: Run) -> None:
    seen: list[object] = []

    async def ask(caller: Caller) -> u64:
        await anyio.sleep(0)
        seen.append((anyio.get_current_task().id, threading.get_ident(), ASK.get()))
        ASK.set(ASK.get() + 1)
        return 40

    def ask_at_once(caller: Caller) -> u64:
        seen.append((anyio.get_current_task().id, threading.get_ident(), ASK.get()))
        assert caller.memory is caller.instance.memory
        return 50

    async def main() -> None:
        here = anyio.get_current_task().id, threading.get_ident()
        ASK.set(7)
        async with Engine() as engine:
            module = await engine.compile(blob())
            async with await asking(ask).instantiate(module) as instance:
                assert await instance.call("ask", 2) == 42
                assert ASK.get() == 8
            async with await asking(ask_at_once).instantiate(module) as instance:
                assert await instance.call("ask", 2) == 52
        assert seen == [(*here, 7), (*here, 8)]

    run(main)


def test_errors_of_host_functions_cross_unchanged(run: Run) -> None:
    class HostError(Exception):
        pass

    async def main() -> None:
        error = HostError("no answer")

        async def ask(caller: Caller) -> u64:
            await anyio.sleep(0)
            raise error

        async with Engine() as engine:
            module = await engine.compile(blob())
            async with await asking(ask).instantiate(module) as instance:
                with pytest.raises(HostError) as caught:
                    await instance.call("ask", 1)
                assert caught.value is error
                assert "in ask" in "".join(traceback.format_exception(error))
                assert await instance.call("add", 1, 1) == 2
            with pytest.raises(vm.LinkError):
                await Linker().instantiate(module)
            with pytest.raises(vm.ProgramParseError) as invalid:
                await engine.compile(b"no program")
            # down to where the program is parsed, in whichever thread that is
            assert "program.py" in "".join(traceback.format_exception(invalid.value))

    run(main)


def test_a_cancelled_scope_stops_the_guest(run: Run) -> None:
    async def ask(caller: Caller) -> u64:
        await anyio.sleep_forever()
        return 0

    async def main() -> None:
        async with Engine() as engine:
            module = await engine.compile(blob())
            async with await asking(ask).instantiate(module) as instance:
                for export in ("spin", "ask", "spin"):
                    with anyio.move_on_after(0.01) as scope:
                        await instance.call(export)
                    assert scope.cancelled_caught
                    assert await instance.call("add", 1, 2) == 3
                # one that is cancelled before it begins
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await instance.call("spin")
                assert scope.cancelled_caught
                # a stopped guest goes on where it was
                instance.prepare_call("count_down", 300_000_000)
                with anyio.move_on_after(0.01):
                    await instance.run()
                assert instance.next_program_counter is not None
                left = instance.registers["a0"]
                assert 0 < left < 300_000_000
                with pytest.raises(TimeoutError):
                    with anyio.fail_after(0.01):
                        await instance.run()
                assert 0 < instance.registers["a0"] < left

    run(main)


def test_closing_in_a_cancelled_scope(run: Run) -> None:
    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with Engine(Config(reuse="never")) as engine:
                module = await engine.compile(blob())
                async with await asking(lambda caller: 1).instantiate(module) as instance:
                    assert await instance.call("add", 1, 2) == 3
                    scope.cancel()
        with pytest.raises(vm.InstanceStateError):
            await engine.compile(blob())

    run(main)


def test_cancelled_starts(run: Run) -> None:
    async def main() -> None:
        async with Engine() as engine:
            module = await engine.compile(blob())
            for delay in (0, 0.0001, 0.0003, 0.001, 0.003):
                with anyio.move_on_after(delay):
                    async with await asking(lambda caller: 1).instantiate(module) as instance:
                        await instance.call("spin")
                with anyio.move_on_after(delay):
                    await engine.compile(build(BASIC + f"pub @nr{int(delay * 10000)}:\n    ret\n", imports=["ask"]))
        for delay in (0, 0.0005, 0.002):
            with anyio.move_on_after(delay):
                async with Engine():
                    await anyio.sleep_forever()

    run(main)


def test_many_tasks(run: Run) -> None:
    count = 30

    async def ask(caller: Caller) -> u64:
        await anyio.sleep(0.001)
        return 1

    async def main() -> None:
        results: list[int] = []

        async def one(instance: Instance, number: int) -> None:
            async with instance:
                results.append(await instance.call("ask", number))
                results.append(await instance.call("count_down", 100_000))

        async with Engine() as engine:
            module = await engine.compile(blob())
            async with anyio.create_task_group() as group:
                for number in range(count):
                    group.start_soon(one, await asking(ask).instantiate(module, tenant=number), number)
        assert sorted(results) == sorted([number + 1 for number in range(count)] + count * [7])

    run(main)


def test_interrupts_limits_and_deaths(run: Run) -> None:
    async def main() -> None:
        ends: list[object] = []

        async def keep(instance: Instance) -> None:
            try:
                ends.append(await instance.run())
            except vm.SandboxDiedError as error:
                ends.append(error)

        async def running(instance: Instance) -> None:
            with anyio.fail_after(10):
                while "running" not in repr(instance):
                    await anyio.sleep(0)

        async with Engine() as engine:
            module = await engine.compile(blob())
            async with await module.instantiate() as instance:
                assert not await instance.interrupt()
                instance.prepare_call("spin")
                async with anyio.create_task_group() as group:
                    group.start_soon(keep, instance)
                    await running(instance)
                    with pytest.raises(vm.InstanceStateError, match="is running"):
                        await instance.run()
                    with pytest.raises(vm.InstanceStateError, match="is running"):
                        instance.memory.read(0, 1)
                    assert await instance.interrupt()
                assert isinstance(ends.pop(), vm.Interrupted)
                async with anyio.create_task_group() as group:
                    group.start_soon(keep, instance)
                    await running(instance)
                    os.kill(instance.pid, signal.SIGKILL)
                assert isinstance(ends.pop(), vm.SandboxDiedError)
            for limits in (Limits(wall=0.01), Limits(cpu=0.01)):
                async with await module.instantiate(limits=limits) as instance:
                    with pytest.raises(vm.LimitError):
                        await instance.call("spin")

    run(main)


def test_closed_while_it_runs(run: Run) -> None:
    async def main() -> None:
        errors: list[Exception] = []

        async def keep(instance: Instance) -> None:
            try:
                await instance.call("spin")
            except vm.VMError as error:
                errors.append(error)

        async with Engine() as engine:
            module = await engine.compile(blob())
            instance = await asking(lambda caller: 1).instantiate(module)
            async with anyio.create_task_group() as group:
                group.start_soon(keep, instance)
                with anyio.fail_after(10):
                    while "running" not in repr(instance):
                        await anyio.sleep(0)
                await instance.aclose()
            assert len(errors) == 1
            assert isinstance(errors[0], vm.InstanceStateError)

    run(main)


@pytest.mark.parametrize("config", [Config(sandbox="generic"), Config(backend="interpreter"), Config(crosscheck=True)])
def test_other_homes(run: Run, config: Config) -> None:
    async def main() -> None:
        async with Engine(config) as engine:
            module = await engine.compile(blob())
            async with await asking(lambda caller: 4).instantiate(module) as instance:
                assert await instance.call("ask", 2) == 6
                assert await instance.call("count_down", 1_000_000) == 7

    run(main)


def test_files_and_streams(run: Run, tmp_path: Path) -> None:
    """What vm does in threads: saving modules, and reading and writing for guests."""

    async def main() -> None:
        async with Engine() as engine:
            module = await engine.compile(blob())
            await module.save(tmp_path / "module")
            with pytest.raises(FileNotFoundError):
                await module.save(tmp_path / "nowhere" / "module")
            linker = asking(lambda caller: 1)
            vm.Stdio(stdout=io.BytesIO()).link(linker)
            async with await linker.instantiate(await engine.load(tmp_path / "module")) as instance:
                assert await instance.call("add", 1, 2) == 3
            with pytest.raises(vm.ModuleLoadError):
                await engine.load(tmp_path)

    run(main)


def test_pages_that_a_handler_puts_there(run: Run) -> None:
    async def main() -> None:
        linker = Linker()

        @linker.on_page_fault
        async def serve(caller: Caller, fault: vm.PageFault) -> None:
            await anyio.sleep(0)
            caller.memory.write(fault.address, b"\x2a" * 16)

        program = build("%rw_data_size = 4096\npub @load:\n    a0 = u8 [a0]\n    ret\n")
        async with Engine() as engine:
            module = await engine.compile(program, vm.ModuleConfig(dynamic_paging=True))
            async with await linker.instantiate(module) as instance:
                assert await instance.call("load", module.memory_map.rw_address + 1) == 0x2A

    run(main)


def test_states_of_an_engine(run: Run) -> None:
    async def main() -> None:
        engine = Engine()
        await engine.aclose()
        with pytest.raises(vm.InstanceStateError, match="not open"):
            await engine.compile(blob())
        async with engine:
            assert engine.waiting == os.environ["PVM_WAITING"]
            with pytest.raises(vm.InstanceStateError, match="entered already"):
                await engine.__aenter__()
            module = await engine.compile(blob())
            instance = await module.instantiate()
        await engine.aclose()
        with pytest.raises(vm.InstanceStateError, match="not open"):
            await module.instantiate()
        with pytest.raises(vm.VMError):
            await instance.run()
        await instance.aclose()
        await engine.aclose()

    run(main)


def test_an_engine_that_cannot_start(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "file").write_text("")
        for _ in range(2):
            with pytest.raises(vm.ModuleLoadError):
                await Engine(Config(cache_directory=tmp_path / "file")).__aenter__()

    run(main)


def test_snapshots(run: Run, tmp_path: Path) -> None:
    """Small ones, and one that threads take and restore; cancelled, closed meanwhile, and through a file."""

    async def main() -> None:
        async with Engine(Config(spare_workers=0)) as engine:
            module = await engine.compile(build("%rw_data_size = 12000000\npub @load:\n a0 = u8 [a0]\n ret"))
            data = module.memory_map.rw_address
            for size in (1000, 11_000_000):
                instance = await module.instantiate()
                instance.memory.write(data, b"x" * size)
                snapshot = await instance.snapshot()
                with anyio.move_on_after(0) as scope:
                    await instance.snapshot()
                assert scope.cancelled_caught or size == 1000
                taken: list[vm.Snapshot] = []

                async def take(instance: Instance = instance, taken: list[vm.Snapshot] = taken) -> None:
                    taken.append(await instance.snapshot())

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(take)
                    while not taken and instance._copying is None:
                        await anyio.sleep(0)
                    await instance.aclose()
                assert taken[0].resident_size == snapshot.resident_size
                await snapshot.save(tmp_path / "file")
                for source in (snapshot, await engine.load_snapshot(tmp_path / "file", module)):
                    for _ in range(2):
                        async with await source.instantiate() as fork:
                            assert await fork.call("load", data + size - 1) == ord("x")

    run(main)


def test_it_is_all_of_vm() -> None:
    assert vm.anyio.__all__ == vm.__all__
    for name in vm.__all__:
        assert (getattr(vm.anyio, name) is getattr(vm, name)) == (name != "Engine")
    assert issubclass(vm.anyio.Engine, vm.Engine)
