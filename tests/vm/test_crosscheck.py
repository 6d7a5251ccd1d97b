# SPDX-License-Identifier: MIT
"""Guests that run in both backends at once: every difference is found and named, everything else is as ever."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from guests import basic, build, memory
from processes import Census, wait_for_death, watch

import vm
from vm._crosschecked import Crosschecked
from vm._sandbox import ffi, lib

MIB = 1 << 20


@pytest.fixture
async def engine(nothing_left: Census) -> AsyncIterator[vm.Engine]:
    async with vm.Engine(vm.Config(crosscheck=True, module_cache_size=0)) as engine:
        yield engine


def pair(instance: vm.Instance) -> Crosschecked:
    return cast(Crosschecked, instance._machine)


async def unequal(
    engine: vm.Engine, ours: str, theirs: str, their_settings: dict[str, Any] | None = None, **settings: Any
) -> vm.Instance:
    """A guest whose recompiled program is another one than the one that is interpreted."""
    module = await engine.compile(build(ours), vm.ModuleConfig(**settings))
    other = await engine.compile(build(theirs), vm.ModuleConfig(**{**settings, **(their_settings or {})}))
    assert len(module.blob.code) == len(other.blob.code)
    module._reference = other._reference
    return await module.instantiate()


async def difference(instance: vm.Instance, export: str = "main", *args: int, gas: int = 0) -> vm.CrosscheckError:
    """The error that a call ends with, after which the guest is gone."""
    instance.gas = gas
    instance.prepare_call(export, *args)
    pid = instance.pid
    with watch(pid) as pidfds:
        with pytest.raises(vm.CrosscheckError) as caught:
            while isinstance(await instance.run(), vm.Step | vm.HostCall):
                pass
        for _ in range(2):
            with pytest.raises(vm.InstanceStateError, match="did not agree"):
                await instance.run()
        wait_for_death(pidfds[pid])
    assert "dead" in repr(instance)
    await instance.aclose()
    return caught.value


def values(error: vm.CrosscheckError) -> tuple[object, ...]:
    return error.what, error.recompiler, error.interpreter


# --- differences ------------------------------------------------------------------------------------------------------

ADD = """
%rw_data_size = 4096
pub @main:
    a1 = 7
    s1 = a0 {0}
    a2 = 9
    ret
"""


async def test_a_register(engine: vm.Engine) -> None:
    instance = await unequal(engine, ADD.format("+ 1"), ADD.format("+ 2"))
    error = await difference(instance, "main", 40)
    assert values(error) == ("s1", 41, 42)
    assert (error.since, error.pc, error.address, error.instruction) == (0, None, None, "")
    assert str(error) == (
        "recompiler and interpreter differ between pc 0 and its end: s1 is 0x29 recompiled and 0x2a interpreted; "
        "step tracing (ModuleConfig.step_tracing) finds the instruction"
    )


async def test_the_instruction(engine: vm.Engine) -> None:
    instance = await unequal(engine, ADD.format("+ 1"), ADD.format("+ 2"), step_tracing=True)
    (pc,) = [line.pc for line in instructions(instance) if line.name.startswith("add_imm")]
    error = await difference(instance, "main", 40)
    assert values(error) == ("s1", 41, 42)
    assert (error.since, error.pc, error.instruction) == (pc, pc, "s1 = a0 + 1")
    assert str(error) == (
        f"recompiler and interpreter differ at pc {pc} (s1 = a0 + 1): s1 is 0x29 recompiled and 0x2a interpreted"
    )


def instructions(instance: vm.Instance) -> list[vm.encoding.Instruction]:
    return list(vm.encoding.instructions(instance.module.blob))


async def test_the_kind_of_stop(engine: vm.Engine) -> None:
    ours, theirs = "pub @main:\n trap\n ecalli 1\n ret", "pub @main:\n fallthrough\n ecalli 1\n ret"
    error = await difference(await unequal(engine, ours, theirs))
    assert values(error) == ("event", "Trap", "HostCall")
    assert (error.since, error.pc) == (0, 0)
    assert "between pc 0 and pc 0: event is Trap recompiled and HostCall interpreted" in str(error)


async def test_where_it_stopped(engine: vm.Engine) -> None:
    text = "pub @main:\n jump @{0} if a0 == 0\n trap\n@two:\n trap\n@one:\n trap"
    instance = await unequal(engine, text.format("one"), text.format("two"))
    first, second, third = [line.pc for line in instructions(instance) if line.name == "trap"]
    error = await difference(instance)
    assert values(error) == ("pc", third, second)
    assert (error.since, error.pc) == (0, third)
    traced = await unequal(engine, text.format("one"), text.format("two"), step_tracing=True)
    error = await difference(traced)
    assert values(error) == ("pc", third, second)
    assert (error.pc, error.instruction) == (0, f"jump {third} if a0 == 0")
    assert f"pc is {third} recompiled and {second} interpreted" in str(error)
    assert first < second


async def test_the_number_of_a_host_call(engine: vm.Engine) -> None:
    error = await difference(await unequal(engine, "pub @main:\n ecalli 1\n ret", "pub @main:\n ecalli 2\n ret"))
    assert values(error) == ("host call", 1, 2)


async def test_gas(engine: vm.Engine) -> None:
    text = "pub @main:\n a0 = 1\n trap"
    dear = {"cost_model": vm.CostModel.table({"load_imm": 5})}
    error = await difference(await unequal(engine, text, text, dear, gas_metering="sync"), gas=100)
    what, ours, theirs = values(error)
    assert what == "gas"
    assert isinstance(ours, int)
    assert theirs == ours - 4


async def test_nobody_looks_at_gas_without_metering(engine: vm.Engine) -> None:
    async with await (await engine.compile(basic())).instantiate() as instance:
        pair(instance).interpreted.guest.gas = 5
        assert await instance.call("add", 1, 2) == 3


async def test_the_size_of_the_heap(engine: vm.Engine) -> None:
    instance = await (await engine.compile(memory())).instantiate()
    await instance.call("grow", 100)
    pair(instance).interpreted.guest.heap_size = 99
    error = await difference(instance, "stack_pointer")
    assert values(error) == ("heap size", 100, 99)


@pytest.mark.parametrize("whose", [0, 1], ids=["worker", "interpreter"])
@pytest.mark.parametrize("offset", [0, 1, 4095, 4096, -1])
@pytest.mark.parametrize("region", ["rw", "stack", "aux", "heap"])
async def test_a_byte_of_memory(engine: vm.Engine, region: str, offset: int, whose: int) -> None:
    """The first byte that differs, wherever it is; mostly nothing else was ever written there."""
    module = await engine.compile(memory(), vm.ModuleConfig(aux_data_size=3 * 4096))
    instance = await module.instantiate()
    layout = module.memory_map
    assert await instance.call("grow", 9 * MIB) == layout.heap_base + 9 * MIB
    heap = -(-layout.heap_base // 4096) * 4096
    begin, end = {
        "rw": (layout.rw_address, layout.rw_address + layout.rw_accessible),
        "stack": (layout.stack_low, layout.stack_high),
        "aux": (layout.aux_address, layout.aux_address + layout.aux_accessible),
        "heap": (heap, heap + 8 * MIB),
    }[region]
    address = min((begin if offset >= 0 else end) + offset, end - 1)
    before = instance.memory.read(address, 1)[0]
    for at, value in ((address, b"\xee"), (end - 1, b"\xdd" if address < end - 1 else b"\xee")):
        assert lib.sandbox_memory_write(pair(instance).memories[whose], at, ffi.from_buffer(value), 1) == 0
    error = await difference(instance, "stack_pointer")
    assert values(error) == ("memory", *((0xEE, before) if whose == 0 else (before, 0xEE)))
    assert error.address == address
    assert f"memory at {address:#x} is " in str(error)


async def test_a_store(engine: vm.Engine) -> None:
    text = "%rw_data_size = 4096\npub @main:\n a1 = 5\n u16 [0x20010] = {0}\n trap"
    instance = await unequal(engine, text.format(0x1234), text.format(0x1334), step_tracing=True)
    error = await difference(instance)
    assert (*values(error), error.address) == ("memory", 0x12, 0x13, 0x20011)
    assert error.instruction == "u16 [0x20010] = 0x1234"


async def test_a_byte_among_much_memory(engine: vm.Engine) -> None:
    """Compared off the event loop's thread."""
    instance = await (await engine.compile(memory())).instantiate()
    size = 16 * MIB
    await instance.call("grow", size)
    base = instance.memory.map.heap_base
    assert await instance.call("fill", base, 0x55, size) == base + size
    lib.sandbox_memory_write(pair(instance).memories[1], base + 10 * MIB, ffi.from_buffer(b"\x56"), 1)
    error = await difference(instance, "stack_pointer")
    assert (*values(error), error.address) == ("memory", 0x55, 0x56, base + 10 * MIB)


async def test_comparing_fills_no_holes(engine: vm.Engine) -> None:
    async with await (
        await engine.compile(memory(), vm.ModuleConfig(aux_data_size=16 * MIB))
    ).instantiate() as instance:
        layout = instance.memory.map
        await instance.call("grow", layout.max_heap_size)  # gigabytes
        await instance.call("store", layout.heap_base + (1 << 30), 1)
        instance.memory.write(layout.aux_address + 8 * MIB, b"x")
        before = [lib.sandbox_memory_resident(memory) for memory in pair(instance).memories]
        for _ in range(10):
            await instance.call("stack_pointer")
        assert [lib.sandbox_memory_resident(memory) for memory in pair(instance).memories] == before
        assert max(before) < MIB


async def test_an_interpreter_that_does_not_stop(engine: vm.Engine) -> None:
    ours, theirs = "pub @main:\n trap\n jump @main", "pub @main:\n fallthrough\n jump @main"
    error = await difference(await unequal(engine, ours, theirs))
    assert values(error) == ("event", "Trap", "none yet")


# --- no difference ----------------------------------------------------------------------------------------------------


def linker() -> vm.Linker:
    made = vm.Linker()

    @made.function("ask")
    async def ask(caller: vm.Caller, value: int) -> int:
        await asyncio.sleep(0)
        if value == 13:
            raise LookupError("unlucky")
        return value

    return made


async def test_what_the_host_does_reaches_both(engine: vm.Engine) -> None:
    """Nothing of it is a difference, and everything is what the guest then works with."""
    module = await engine.compile(memory(), vm.ModuleConfig(aux_data_size=3 * 4096, gas_metering="sync"))
    async with await module.instantiate() as instance:
        instance.gas = 1 << 40
        layout = module.memory_map
        first, second = pair(instance).memories

        async def same() -> None:
            await instance.call("stack_pointer")
            assert lib.sandbox_memory_compare(first, second, ffi.new("struct sandbox_difference *")) == 0

        await instance.call("grow", MIB)
        for address in (layout.rw_address, layout.stack_low, layout.aux_address, layout.heap_base + 5000):
            instance.memory.write(address, b"\xaa" * 3000)
            await same()
            assert await instance.call("load", address + 2999) == 0xAA
            instance.memory.zero(address + 1, 2998)
            await same()
            assert await instance.call("load", address + 2998) == 0
            page = address - address % 4096
            instance.memory.free(page, 4096)
            await same()
            assert await instance.call("load", address) == 0
        instance.memory.write(layout.heap_base, b"\xaa" * MIB)
        instance.memory.zero(layout.heap_base + 100, MIB - 200)
        await same()
        for size in (4096, 0, 8192):
            instance.accessible_aux_size = size
            await same()
            instance.prepare_call("load", layout.aux_address + size)
            assert isinstance(await instance.run(), vm.Trap)
        instance.prepare_call("load", layout.rw_address)
        instance.memory.write(layout.rw_address, b"\x05\x06")
        instance.registers["a0"] += 1
        assert await instance.run() == vm.Finished()
        assert instance.registers["a0"] == 6
        instance.registers["a0"] = layout.rw_address
        instance.next_program_counter = module.exports["load"]
        assert await instance.run() == vm.Finished()
        assert instance.registers["a0"] == 5
        instance.clear_registers()
        instance.gas = 7
        await same()


async def test_calls_and_host_functions(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    async with await linker().instantiate(module) as instance:
        assert instance.pid != os.getpid()
        assert await instance.call("add", 1, 2) == 3
        assert await instance.call("ask", 21) == 42
        assert await instance.call("count_down", 3_000_000) == 7  # longer than either is waited for
        with pytest.raises(LookupError, match="unlucky"):
            await instance.call("ask", 13)
        with pytest.raises(vm.TrapError):
            await instance.call("trap")
        assert await instance.call("ask", 4) == 8
        pid = instance.pid
    async with await linker().instantiate(module) as instance:
        assert instance.pid == pid  # reused, and the interpreted guest is new
        assert await instance.call("sum9", *range(1, 10)) == 45


async def test_after_a_difference(engine: vm.Engine) -> None:
    instance = await unequal(engine, ADD.format("+ 1"), ADD.format("+ 2"))
    module, pid = instance.module, instance.pid
    await difference(instance)
    good = await engine.compile(build(ADD.format("+ 1")))
    module._reference = good._reference
    async with await module.instantiate() as another, await good.instantiate() as third:
        assert pid not in (another.pid, third.pid)
        for each in (another, third):
            await each.call("main", 1)
            assert each.registers["s1"] == 2


async def test_call_raises_it_too(engine: vm.Engine) -> None:
    async with await unequal(engine, ADD.format("+ 1"), ADD.format("+ 2")) as instance:
        with pytest.raises(vm.CrosscheckError, match="s1 is 0x1 recompiled and 0x2 interpreted"):
            await instance.call("main")


async def test_memory_that_cannot_be_compared(engine: vm.Engine) -> None:
    module = await engine.compile(memory(), vm.ModuleConfig(aux_data_size=4096))
    async with await module.instantiate() as instance:
        assert lib.sandbox_memory_set_aux_size(pair(instance).memories[1], 0) == 0
        with pytest.raises(vm.SandboxError, match="comparing guest memory"):
            await instance.call("stack_pointer")


# --- the end ----------------------------------------------------------------------------------------------------------


async def running(instance: vm.Instance, export: str, *args: int) -> asyncio.Task[int]:
    call = asyncio.create_task(instance.call(export, *args))
    while "running" not in repr(instance):
        await asyncio.sleep(0)
    return call


#: Endless, and so long that the interpreter is at it when the worker has stopped.
LONG = [("spin", ()), ("count_down", (500_000_000,))]


@pytest.mark.parametrize(("export", "args"), LONG)
async def test_cancelled_while_it_runs(engine: vm.Engine, export: str, args: tuple[int, ...]) -> None:
    instance = await linker().instantiate(await engine.compile(basic()))
    with watch(instance.pid) as pidfds:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.4):
                await instance.call(export, *args)
        wait_for_death(*pidfds.values())
        with pytest.raises(vm.SandboxDiedError):
            await instance.call("add", 1, 2)
        await instance.aclose()


@pytest.mark.parametrize(("export", "args"), LONG)
async def test_closed_while_it_runs(engine: vm.Engine, export: str, args: tuple[int, ...]) -> None:
    instance = await linker().instantiate(await engine.compile(basic()))
    call = await running(instance, export, *args)
    await instance.aclose()
    with pytest.raises(vm.InstanceStateError, match="closed"):
        await call


@pytest.mark.parametrize(("export", "args"), LONG)
async def test_the_engine_closes_with_guests_running(nothing_left: Census, export: str, args: tuple[int, ...]) -> None:
    async with vm.Engine(vm.Config(crosscheck=True, module_cache_size=0)) as engine:
        instance = await linker().instantiate(await engine.compile(basic()))
        call = await running(instance, export, *args)
    with pytest.raises(vm.SandboxDiedError, match="SIGKILL"):
        await call
    await instance.aclose()


async def test_killed_while_it_runs(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    async with await linker().instantiate(module) as instance:
        call = await running(instance, "spin")
        os.kill(instance.pid, signal.SIGKILL)
        with pytest.raises(vm.SandboxDiedError, match="SIGKILL"):
            await call
        with pytest.raises(vm.SandboxDiedError, match="SIGKILL"):
            await instance.call("add", 1, 2)
    async with await linker().instantiate(module) as instance:
        assert await instance.call("add", 1, 2) == 3


async def test_killed_while_the_interpreter_follows(engine: vm.Engine) -> None:
    async with await linker().instantiate(await engine.compile(basic())) as instance:
        call = await running(instance, "count_down", 500_000_000)
        while lib.sandbox_worker_poll(pair(instance).worker.handle) == lib.SANDBOX_BUSY:
            await asyncio.sleep(0)
        os.kill(instance.pid, signal.SIGKILL)
        with pytest.raises(vm.SandboxDiedError, match="SIGKILL"):
            await call


async def test_killed_while_it_is_stopped(engine: vm.Engine) -> None:
    async with await linker().instantiate(await engine.compile(basic())) as instance:
        assert await instance.call("add", 1, 2) == 3
        with watch(instance.pid) as pidfds:
            os.kill(instance.pid, signal.SIGKILL)
            wait_for_death(*pidfds.values())
        with pytest.raises(vm.SandboxDiedError, match="SIGKILL"):
            await instance.call("add", 1, 2)
