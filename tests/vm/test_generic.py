# SPDX-License-Identifier: MIT
"""The generic sandbox: recompiled code in this process, bounded, trapped, interrupted, and gone without a trace."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from guests import LATEST32, basic, build, memory
from processes import Census, census, children, mappings

import vm
import vm._generic

GENERIC = vm.Config(sandbox="generic")


@pytest.fixture
async def engine(nothing_left: Census) -> AsyncIterator[vm.Engine]:
    async with vm.Engine(GENERIC) as engine:
        yield engine


@pytest.fixture
async def reference() -> AsyncIterator[vm.Engine]:
    async with vm.Engine(vm.Config(backend="interpreter")) as engine:
        yield engine


def linker() -> vm.Linker:
    made = vm.Linker()

    @made.function("ask")
    async def ask(caller: vm.Caller, value: int) -> int:
        await asyncio.sleep(0)
        return value

    return made


async def end_of(instance: vm.Instance, export: str, *args: int) -> tuple[object, int | None, list[int]]:
    """How a call ends, where, and with which registers."""
    instance.prepare_call(export, *args)
    end = await instance.run()
    kind = vm.Trap(end.pc) if isinstance(end, vm.Trap) else end  # signals are the processor's
    return kind, instance.program_counter, list(instance.registers.values())


# --- what it is -------------------------------------------------------------------------------------------------------


async def test_it_needs_no_process(engine: vm.Engine) -> None:
    before = children()
    module = await engine.compile(basic())
    async with await linker().instantiate(module) as instance:
        assert instance.pid == os.getpid()
        assert await instance.call("add", 1, 2) == 3
        assert await instance.call("ask", 21) == 42
        assert await instance.call("sum9", *range(1, 10)) == 45
        assert await instance.call("negate", 1) == 2**64 - 1
        with pytest.raises(vm.TrapError) as caught:
            await instance.call("trap")
        assert caught.value.pc is not None
        assert instance.registers["a5"] == 0x77
        assert await instance.call("add", 1, 2) == 3
    assert children() == before
    assert module.native_size == len(module.native_code()) > 0


async def test_32_bits(engine: vm.Engine) -> None:
    module = await engine.compile(build("pub @main:\n i32 a0 = a0 - a1\n ret", LATEST32))
    async with await module.instantiate() as instance:
        assert await instance.call("main", 1, 2) == 2**32 - 1
        assert await instance.call("main", 1, 2, returns=vm.i32) == -1


async def test_it_says_what_it_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "vm"):
        async with vm.Engine(GENERIC):
            pass
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "a fault of the recompiler" in caplog.text


def test_what_it_does_not_go_with(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="crosscheck"):
        vm.Config(sandbox="generic", crosscheck=True)
    with pytest.raises(ValueError, match="cache_directory"):
        vm.Config(sandbox="generic", cache_directory=tmp_path)
    assert not vm.Config(sandbox="generic", backend="interpreter").runs_in_process


async def test_native_code_is_neither_saved_nor_loaded(engine: vm.Engine, tmp_path: Path) -> None:
    module = await engine.compile(basic())
    with pytest.raises(vm.InstanceStateError, match="not saved"):
        await module.save(tmp_path / "module")
    async with vm.Engine() as linux:
        await (await linux.compile(basic())).save(tmp_path / "module")
    with pytest.raises(vm.ModuleLoadError, match="not run in this process"):
        await engine.load(tmp_path / "module")


# --- bounds -----------------------------------------------------------------------------------------------------------


def edges(layout: vm.MemoryMap) -> list[int]:
    """Addresses around every place where memory begins or ends."""
    ends = [0, 1 << 31, 1 << 32]
    for begin, size in (
        (layout.ro_address, layout.ro_accessible),
        (layout.rw_address, layout.rw_accessible),
        (layout.stack_low, layout.stack_accessible),
        (layout.aux_address, layout.aux_accessible),
    ):
        ends += [begin, begin + size]
    return sorted({(end + n) % (1 << 32) for end in ends for n in (-9, -8, -7, -4, -1, 0, 1, 7, 8)})


async def test_every_edge_of_memory(engine: vm.Engine, reference: vm.Engine) -> None:
    config = vm.ModuleConfig(aux_data_size=0x4000)
    one, other = [await (await each.compile(memory(), config)).instantiate() for each in (engine, reference)]
    async with one, other:
        traps = 0
        for address in edges(one.memory.map):
            for upper in (0, 0xFFFF_FFFF << 32):  # above an address nothing counts
                for export in ("load", "load_u64", "store", "store_u64"):
                    arguments = (address | upper, 0x1122334455667788)
                    found, expected = [await end_of(each, export, *arguments) for each in (one, other)]
                    assert found == expected, (export, hex(arguments[0]))
                    traps += isinstance(found[0], vm.Trap)
        assert traps > 500
        layout = one.memory.map
        for begin, size in ((layout.rw_address, layout.rw_accessible), (layout.stack_low, layout.stack_accessible)):
            assert one.memory.read(begin, size) == other.memory.read(begin, size)


@pytest.mark.parametrize("gas", [None, 5, 4000, 100_000])
async def test_memset_at_every_edge(engine: vm.Engine, reference: vm.Engine, gas: int | None) -> None:
    """Also where it would run around the end of the address space, and where the gas runs out in its middle."""
    config = vm.ModuleConfig(aux_data_size=0x4000, gas_metering=None if gas is None else "sync")
    one, other = [await (await each.compile(memory(), config)).instantiate() for each in (engine, reference)]
    async with one, other:
        for address in edges(one.memory.map):
            for size in (0, 1, 20, 5000, 0xFFFF_FFFF):
                for each in (one, other):
                    each.gas = gas or 0
                found, expected = [await end_of(each, "fill", address, address & 0xFF, size) for each in (one, other)]
                assert found == expected, (hex(address), size)
                assert gas is None or one.gas == other.gas
        layout = one.memory.map
        for begin, size in ((layout.rw_address, layout.rw_accessible), (layout.stack_low, layout.stack_accessible)):
            assert one.memory.read(begin, size) == other.memory.read(begin, size)


async def test_wild_jumps(engine: vm.Engine, reference: vm.Engine) -> None:
    rng = random.Random("jumps")
    targets = [*range(8), 0xFFFF_0000, *(0xFFFF_0000 + n for n in range(-16, 17)), 2**32 - 1, 2**32 - 8, 1 << 31]
    targets += [rng.getrandbits(32) for _ in range(200)] + [rng.getrandbits(64) for _ in range(200)]
    one, other = [await (await each.compile(memory())).instantiate() for each in (engine, reference)]
    async with one, other:
        for target in targets:
            found, expected = [await end_of(each, "jump_to", target) for each in (one, other)]
            assert found == expected, hex(target)


async def test_recursion_and_a_growing_heap(engine: vm.Engine, reference: vm.Engine) -> None:
    one, other = [await (await each.compile(memory())).instantiate() for each in (engine, reference)]
    async with one, other:
        assert await end_of(one, "recurse") == await end_of(other, "recurse")
        top = one.memory.map.rw_address + one.memory.map.rw_accessible
        for size in (0, 1, 0x10000, 100 << 20, 1 << 32, 0xFFFF_FFFF):
            assert await end_of(one, "grow", size) == await end_of(other, "grow", size)
            for address in (top + 0x1000, top + (50 << 20)):
                assert await end_of(one, "store", address, 7) == await end_of(other, "store", address, 7)


async def test_guests_do_not_see_each_other(engine: vm.Engine) -> None:
    module = await engine.compile(memory())
    address = module.memory_map.rw_address
    async with await module.instantiate() as one, await module.instantiate() as other:
        await one.call("store", address, 0xAA)
        await other.call("store", address, 0xBB)
        assert [await each.call("load", address) for each in (one, other)] == [0xAA, 0xBB]
    async with await module.instantiate() as fresh:
        assert await fresh.call("load", address) == 1


# --- time -------------------------------------------------------------------------------------------------------------

#: Everything that an interrupt can come into the middle of.
BUSY = build(
    """
    %rw_data_size = 262144
    %stack_size = 4096
    pub @main:
        s0 = a0
        s1 = 0
    @again:
        a0 = 0x20000
        a1 = s0
        a2 = 200000
        [a0..a0 + a2] = u8 a1
        a0 = 0x20000
        a3 = u64 [a0 + 777]
        a4 = a3 mulhsu a0
        a5 = a3 /s s0
        t0 = a3 %u s0
        t1 = a3 << s0
        s1 = s1 + a4
        s1 = s1 ^ a5
        s1 = s1 + t0
        s1 = s1 ^ t1
        t1 = 0
        t2 = sbrk t1
        s0 = s0 - 1
        jump @again if s0 != 0
        a0 = s1
        ret
    """
)


@pytest.mark.parametrize("metering", [None, "sync", "async"])
async def test_turns_do_not_show(metering: object, reference: vm.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that is interrupted again and again computes what one computes that is not."""
    monkeypatch.setattr(vm._generic, "_INLINE_NS", 0)
    monkeypatch.setattr(vm._generic, "_TURN_NS", 0)
    turns = 0
    run = vm._generic.lib.sandbox_generic_run
    config = vm.ModuleConfig(gas_metering=metering)  # type: ignore[arg-type]
    async with vm.Engine(GENERIC) as engine:
        one, other = [await (await each.compile(BUSY, config)).instantiate() for each in (engine, reference)]
        async with one, other:
            machine = one._machine
            assert isinstance(machine, vm._generic.Generic)
            while turns <= 5:  # how many a run has depends on who else uses the machine
                for each in (one, other):
                    each.gas = 1 << 40
                    each.prepare_call("main", 3000)
                while (event := run(machine._home, machine._handle, 0)) == vm._generic.lib.SANDBOX_BUSY:
                    turns += 1
                assert event == vm._generic.lib.SANDBOX_FINISHED
                await other.run()
                assert list(one.registers.items()) == list(other.registers.items())
                assert metering is None or one.gas == other.gas


async def test_a_long_run_leaves_the_loop_free(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    async with await linker().instantiate(module) as instance:
        turns = 0
        call = asyncio.create_task(instance.call("count_down", 300_000_000))
        while not call.done():
            await asyncio.sleep(0.001)
            turns += 1
        assert await call == 7
        assert turns > 3


async def test_cancelled_while_it_runs(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    instance = await linker().instantiate(module)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await instance.call("spin")
    assert await instance.call("add", 1, 2) == 3
    await instance.aclose()
    assert time.monotonic() - began < 2  # a turn would end by itself, but nobody waits for that
    async with await linker().instantiate(module) as another:
        assert await another.call("add", 1, 2) == 3


async def test_closed_while_it_runs(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    instance = await linker().instantiate(module)
    call = asyncio.create_task(instance.call("spin"))
    while "running" not in repr(instance):
        await asyncio.sleep(0)
    await instance.aclose()
    with pytest.raises(vm.InstanceStateError):
        await call


async def test_the_engine_closes_with_guests_running(nothing_left: Census) -> None:
    async with vm.Engine(GENERIC) as engine:
        module = await engine.compile(basic())
        instances = [await linker().instantiate(module) for _ in range(8)]  # more than there are threads for
        calls = [asyncio.create_task(instance.call("spin")) for instance in instances]
        await asyncio.sleep(0.05)
    assert all(isinstance(end, vm.InstanceStateError) for end in await asyncio.gather(*calls, return_exceptions=True))
    for instance in instances:
        await instance.aclose()


async def test_endless_guests_leave_room_for_others(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    endless = [await linker().instantiate(module) for _ in range(2 * len(os.sched_getaffinity(0)))]
    calls = [asyncio.create_task(instance.call("spin")) for instance in endless]
    async with await linker().instantiate(module) as instance, asyncio.timeout(10):
        assert await instance.call("count_down", 10_000_000) == 7
    for instance in endless:
        await instance.aclose()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_many_at_once(engine: vm.Engine) -> None:
    module = await engine.compile(basic())

    async def one(n: int) -> int:
        async with await linker().instantiate(module) as instance:
            await instance.call("count_down", 100_000)
            return await instance.call("ask", n)

    assert list(await asyncio.gather(*(one(n) for n in range(50)))) == [2 * n for n in range(50)]


# --- many, and none ---------------------------------------------------------------------------------------------------


async def test_a_thousand_alive(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    before = len(mappings("self")), census()
    instances = [await linker().instantiate(module) for _ in range(1000)]
    assert [await instance.call("ask", n) for n, instance in enumerate(instances)] == [2 * n for n in range(1000)]
    for instance in instances:
        await instance.aclose()
    instances.clear()
    assert not census() - before[1]
    assert len(mappings("self")) < before[0] + 50


SCRIPT = """
import asyncio, gc, os, resource, sys, vm
sys.path.insert(0, {tests!r})
from guests import basic, build

async def main():
    async with vm.Engine(vm.Config(sandbox="generic")) as engine:
{body}

asyncio.run(main())
"""


def run_script(body: str) -> subprocess.CompletedProcess[str]:
    """Runs `body`, indented, in an engine in another process."""
    indented = "".join(f"        {line}\n" for line in body.strip().splitlines())
    script = SCRIPT.format(tests=str(Path(__file__).parents[1]), body=indented)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=15, check=False
    )


def test_no_address_space() -> None:
    found = run_script("""
module = await engine.compile(basic())
resource.setrlimit(resource.RLIMIT_AS, (80 << 30, 80 << 30))
instances = []
try:
    while True:
        instances.append(await module.instantiate())
except vm.SandboxError as error:
    print(len(instances), error)
assert await instances[0].call("add", 1, 2) == 3
for _ in range(100):  # and nothing is left of those that failed
    try:
        await module.instantiate()
    except vm.SandboxError:
        pass
try:
    await engine.compile(build("pub @main:\\ntrap"))
except vm.CompileError as error:
    print(error)
for instance in instances:
    await instance.aclose()
del instances[:], instance
gc.collect()
async with await module.instantiate() as instance:
    print(await instance.call("add", 1, 2))
""")
    lines = found.stdout.splitlines()
    assert found.returncode == 0, found.stderr
    assert 3 < int(lines[0].split()[0]) < 20
    assert "ulimit -v" in lines[0]
    assert "ulimit -v" in lines[1]
    assert lines[2] == "3"


def test_no_descriptors() -> None:
    found = run_script("""
module = await engine.compile(basic())
used = max(int(name) for name in os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (used + 5, used + 5))
instances = []
try:
    while True:
        instances.append(await module.instantiate())
except vm.SandboxError as error:
    print(error)
for instance in instances:
    await instance.aclose()
""")
    assert found.returncode == 0, found.stderr
    assert "ulimit -n" in found.stdout


def test_a_forked_child() -> None:
    """What the parent made it cannot run, nor end; an engine of its own it can have."""
    found = run_script("""
module = await engine.compile(basic())
instance, endless = await module.instantiate(), await module.instantiate()
call = asyncio.create_task(endless.call("spin"))
await asyncio.sleep(0.05)
child = os.fork()
if child == 0:
    try:
        asyncio._set_running_loop(None)
        async def other():
            try:
                await instance.call("add", 1, 2)
            except vm.InstanceStateError as error:
                assert "forked" in str(error), error
            instance._machine.kill()
            endless._machine.kill()
            async with vm.Engine(vm.Config(sandbox="generic")) as another:
                async with await (await another.compile(basic())).instantiate() as mine:
                    assert await mine.call("count_down", 50_000_000) == 7
                    try:
                        await mine.call("trap")
                    except vm.TrapError:
                        pass
            os._exit(3)
        asyncio.run(other())
    finally:
        os._exit(4)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(await instance.call("add", 1, 2), call.done())
await instance.aclose()
await endless.aclose()
await asyncio.gather(call, return_exceptions=True)
""")
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["3", "3", "False"], found.stderr


def test_an_engine_in_each_of_two_threads() -> None:
    """Traps, interrupts and turns of one do not disturb the other."""
    failures: list[BaseException] = []

    async def guests() -> None:
        async with vm.Engine(GENERIC) as engine:
            module = await engine.compile(basic())
            for _ in range(20):
                async with await linker().instantiate(module) as instance:
                    with pytest.raises(vm.TrapError):
                        await instance.call("trap")
                    assert await instance.call("count_down", 2_000_000) == 7
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(0.002):
                            await instance.call("spin")

    def run() -> None:
        try:
            asyncio.run(guests())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
