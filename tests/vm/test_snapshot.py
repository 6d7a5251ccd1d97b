# SPDX-License-Identifier: MIT
"""Snapshots: copies of a stopped guest go on as it does, whatever it stopped at and whoever runs them."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import signal
import weakref
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeAlias, cast

import pytest
from guests import LATEST32, MEMORY, basic, build
from processes import Census, open_files, until, wait_for_death, watch

import vm
from vm._sandbox import lib
from vm._worker import Worker

PAGE = 0x1000
AUX = 3 * 0x4000
CONFIGS = {
    "recompiler": vm.Config(),
    "interpreter": vm.Config(backend="interpreter"),
    "generic": vm.Config(sandbox="generic"),
    "crosscheck": vm.Config(crosscheck=True),
}
ONE_LOOP = pytest.mark.asyncio(loop_factories=["aioring"])

#: Everything that a guest can be in the middle of; the registers hash it.
WORK = """
%rw_data = 01 02 03 04 05 06 07 08
%rw_data_size = 9000
%stack_size = 8192

pub @work:
    s0 = 3
@again:
    sp = sp - 16
    u64 [sp] = s0
    u64 [sp + 8] = ra
    a1 = 0x20000
    a0 = u64 [a1]
    a0 = a0 + s0
    u64 [a1] = a0
    a0 = 0x21000
    a1 = s0
    a2 = 300
    [a0..a0 + a2] = u8 a1
    u64 [a0] = s0
    a0 = 4000
    a0 = sbrk a0
    u64 [a0 + -64] = a2
    a1 = a0
    ecalli 7
    t0 = t0 ^ a0
    t0 = t0 + a1
    s0 = s0 - 1
    jump @again if s0 != 0
    a0 = u64 [sp]
    a1 = t0
    u32 [0xffff0000] = 1
    ret
"""


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> vm.Config:
    return CONFIGS[request.param]


@pytest.fixture
async def engine(nothing_left: Census, config: vm.Config) -> AsyncIterator[vm.Engine]:
    async with vm.Engine(config) as engine:
        yield engine


@pytest.fixture
async def linux(nothing_left: Census) -> AsyncIterator[vm.Engine]:
    async with vm.Engine() as engine:
        yield engine


def state(instance: vm.Instance) -> tuple[object, ...]:
    """All that a program can observe, and the pages that are there."""
    layout, memory = instance.module.memory_map, instance.memory
    regions = (
        (layout.rw_address, layout.rw_accessible + memory.heap_size & -layout.page_size),
        (layout.stack_low, layout.stack_accessible),
        (layout.aux_address, instance.accessible_aux_size),
    )
    pages = {
        (page, writable): memory.read(page, PAGE)
        for begin, size in regions
        for page in range(begin, begin + size, PAGE)
        for writable in (False, True)
        if memory.is_accessible(page, PAGE, writable=writable)
    }
    place = instance.program_counter, instance.next_program_counter
    return dict(instance.registers), place, instance.gas, memory.heap_size, instance.accessible_aux_size, pages


def ration(module: vm.Module) -> int:
    """Gas for a block or two."""
    return 40 if module.config.cost_model.is_naive else 5000


def serve(instance: vm.Instance, stop: vm.Interrupt) -> None:
    """Does what a guest at this stop needs to go on, by rule."""
    if isinstance(stop, vm.HostCall):
        instance.registers["a0"] = instance.registers["s0"] + 5
    elif isinstance(stop, vm.OutOfGas):
        instance.gas = ration(instance.module)
    elif isinstance(stop, vm.PageFault):
        instance.memory.zero(stop.address, stop.size)


def label(stop: vm.Interrupt) -> object:
    """What all homes have in common: the signal of a trap is the processor's."""
    return ("trap", stop.pc) if isinstance(stop, vm.Trap) else stop


async def finish(instance: vm.Instance) -> list[object]:
    """What becomes of a guest that traps in the end: all its stops, and its state at the last one."""
    stops: list[object] = []
    while True:
        stop = await instance.run()
        stops.append(label(stop))
        if isinstance(stop, vm.Trap):
            return [*stops, state(instance)]
        serve(instance, stop)


# --- a copy is as the guest was ---------------------------------------------------------------------------------------

SETTINGS = {
    "plain": vm.ModuleConfig(),
    "sync": vm.ModuleConfig(gas_metering="sync"),
    "sync, by instruction": vm.ModuleConfig(gas_metering="sync", per_instruction_metering=True),
    "steps": vm.ModuleConfig(step_tracing=True),
    "steps and sync": vm.ModuleConfig(step_tracing=True, gas_metering="sync"),
    "steps and sync, by instruction": vm.ModuleConfig(
        step_tracing=True, gas_metering="sync", per_instruction_metering=True
    ),
    "expensive": vm.ModuleConfig(gas_metering="sync", cost_model=vm.CostModel.table({"fallthrough": 1}, default=200)),
    "paged": vm.ModuleConfig(dynamic_paging=True),
    "paged and sync": vm.ModuleConfig(dynamic_paging=True, gas_metering="sync"),
    "large pages": vm.ModuleConfig(dynamic_paging=True, page_size=0x4000),
}


@ONE_LOOP
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
async def test_every_stop_goes_on_everywhere(nothing_left: Census, settings: vm.ModuleConfig) -> None:
    """A copy from each stop of a guest, in each home and through a file's bytes, comes to the same end as the guest, by
    the same stops."""
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(vm.Engine(config)) for config in CONFIGS.values()]
        modules = [await engine.compile(build(WORK), settings) for engine in engines]
        for number, source in enumerate(modules):
            stops, copies = await _course(source, 6 if number < 2 else 2)
            for after, before, data in copies:
                for engine, module in zip(engines, modules, strict=True):
                    async with await engine.load_snapshot(data, module) as copy, await copy.instantiate() as fork:
                        assert copy.to_bytes() == data
                        assert state(fork) == before
                        if after is not None:
                            assert await finish(fork) == stops[after:]
                            continue
                        with pytest.raises(vm.InstanceStateError, match="nothing to run"):
                            await fork.run()


_Copy: TypeAlias = "tuple[int | None, tuple[object, ...], bytes]"


async def _course(module: vm.Module, most: int) -> tuple[list[object], list[_Copy]]:
    """All stops of a guest with its state in the end, and copies from `most` stops of each kind: the number of the stop
    that comes next, the state, and the bytes."""
    stops: list[object] = []
    copies: list[_Copy] = []
    seen: Counter[type] = Counter()

    async def copy(instance: vm.Instance, after: int | None) -> None:
        before = state(instance)
        copies.append((after, before, (await instance.snapshot()).to_bytes()))
        assert state(instance) == before

    async with await module.instantiate() as instance:
        instance.prepare_call("work")
        instance.gas = ration(module)
        await copy(instance, 0)
        while True:
            stop = await instance.run()
            stops.append(label(stop))
            seen[type(stop)] += 1
            if isinstance(stop, vm.Trap):
                await copy(instance, None)
                return [*stops, state(instance)], copies
            if seen[type(stop)] <= most and isinstance(stop, vm.OutOfGas):
                await copy(instance, len(stops) - 1)  # it cannot pay, and neither can its copy
            serve(instance, stop)
            if seen[type(stop)] <= most:
                await copy(instance, len(stops))


async def test_before_the_first_call(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    async with await module.instantiate() as instance:
        snapshot = await instance.snapshot()
    assert snapshot.module is module
    assert snapshot.resident_size == 0
    async with await snapshot.instantiate() as fork:
        assert fork.program_counter is fork.next_program_counter is None
        assert await fork.call("add", 1, 2) == 3


async def test_copies_have_nothing_in_common(engine: vm.Engine) -> None:
    module = await engine.compile(build(MEMORY), vm.ModuleConfig(aux_data_size=AUX))
    layout = module.memory_map
    places = [layout.rw_address, layout.rw_address + 0x1100, layout.stack_low, layout.aux_address + 5000]
    async with await module.instantiate() as instance:
        for place in places:
            instance.memory.write(place, b"warm")
        async with await instance.snapshot() as snapshot:
            forks = [await snapshot.instantiate() for _ in range(3)]
        for number, fork in enumerate(forks):
            for place in places:
                assert fork.memory.read(place - 2 if place % PAGE else place, 4)[-2:] in (b"wa", b"rm")
                fork.memory.write(place, bytes([number] * 4))
        for number, fork in enumerate(forks):
            assert all(fork.memory.read(place, 4) == bytes([number] * 4) for place in places)
            assert await fork.call("load", places[1]) == number
            await fork.aclose()
        assert all(instance.memory.read(place, 4) == b"warm" for place in places)


async def test_what_the_program_begins_with_can_be_gone(engine: vm.Engine) -> None:
    """Initial data that was overwritten with zeros, or freed, is not there in the copy either; what is the same is not
    stored."""
    module = await engine.compile(
        build("%rw_data = " + " ".join(["aa"] * 0x3000) + "\n%rw_data_size = 20000\n" + "trap")
    )
    data = module.memory_map.rw_address
    async with await module.instantiate() as instance:
        instance.memory.zero(data, PAGE)
        instance.memory.free(data + 2 * PAGE, PAGE)
        instance.memory.write(data + 3 * PAGE + 7, bytes(3))  # zeros over zeros
        async with await instance.snapshot() as snapshot:
            assert snapshot.resident_size == 0
            for _ in range(3):
                async with await snapshot.instantiate() as fork:
                    assert fork.memory.read(data, 4 * PAGE) == bytes(PAGE) + b"\xaa" * PAGE + bytes(2 * PAGE)
                    fork.memory.write(data, b"\xbb" * 20000)
    async with await module.instantiate() as fresh:
        assert fresh.memory.read(data, 0x3000) == b"\xaa" * 0x3000
        assert fresh.memory.read(data + 0x3000, 20000 - 0x3000) == bytes(20000 - 0x3000)


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("size", [0, PAGE, AUX])
async def test_auxiliary_data(engine: vm.Engine, size: int, paged: bool) -> None:
    module = await engine.compile(build(MEMORY), vm.ModuleConfig(aux_data_size=AUX, dynamic_paging=paged))
    aux = module.memory_map.aux_address
    async with await module.instantiate() as instance:
        instance.memory.write(aux, b"x" * AUX)
        instance.accessible_aux_size = size
        async with await instance.snapshot() as snapshot:
            for _ in range(2):
                async with await snapshot.instantiate() as fork:
                    assert fork.accessible_aux_size == size
                    assert fork.memory.read(aux, size) == b"x" * size
                    fork.accessible_aux_size = AUX
                    if not paged:
                        assert fork.memory.read(aux + size, AUX - size) == bytes(AUX - size)


async def test_a_32_bit_program(engine: vm.Engine) -> None:
    module = await engine.compile(build("pub @main:\n ecalli 0\n ret", LATEST32))
    async with await module.instantiate() as instance:
        instance.prepare_call("main", 0xFFFFFFFF)
        assert await instance.run() == vm.HostCall(0)
        async with await instance.snapshot() as snapshot, await snapshot.instantiate() as fork:
            assert await fork.run() == vm.Finished()
            assert fork.registers["a0"] == 0xFFFFFFFF


async def test_a_snapshot_of_a_copy(engine: vm.Engine) -> None:
    """Also of one that never ran, with what its host changed."""
    module = await engine.compile(basic())
    async with await module.instantiate() as instance:
        instance.prepare_call("ask", 5)
        assert await instance.run() == vm.HostCall(0)
        first = await instance.snapshot()
    async with await first.instantiate() as fork:
        assert (await fork.snapshot()).to_bytes() == first.to_bytes()
        fork.registers["a0"] = 70
        second = await fork.snapshot()
    for snapshot, result in ((first, 10), (second, 75)):
        async with await snapshot.instantiate() as fork:
            assert await fork.run() == vm.Finished()
            assert fork.registers["a0"] == result


async def test_sent_elsewhere_before_it_ran(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    async with await module.instantiate() as instance:
        instance.prepare_call("ask", 5)
        await instance.run()
        async with await instance.snapshot() as snapshot, await snapshot.instantiate() as fork:
            fork.next_program_counter = module.exports["add"]
            fork.registers["a1"] = 3
            assert await fork.run() == vm.Finished()
            assert fork.registers["a0"] == 8
            assert await fork.call("add", 2, 2) == 4


@pytest.mark.parametrize("name", ["recompiler", "generic", "interpreter"])
async def test_interrupted(nothing_left: Census, name: str) -> None:
    async with vm.Engine(CONFIGS[name]) as engine:
        module = await engine.compile(basic())
        async with await module.instantiate() as instance:
            instance.prepare_call("count_down", 1 << 40)
            running = asyncio.create_task(instance.run())
            await asyncio.sleep(0)
            with pytest.raises(vm.InstanceStateError, match="is running"):
                await instance.snapshot()
            await until(lambda: not instance._execution.running or instance._execution._awaited)
            assert await instance.interrupt()
            stopped = await running
            assert isinstance(stopped, vm.Interrupted)
            async with await instance.snapshot() as snapshot, await snapshot.instantiate() as fork:
                assert fork.next_program_counter == stopped.pc
                assert dict(fork.registers) == dict(instance.registers)
                fork.registers["a0"] = 3
                assert await fork.run() == vm.Finished()
                assert fork.registers["a0"] == 7


@ONE_LOOP
@pytest.mark.parametrize("home", ["recompiler", "generic", "interpreter"])
@pytest.mark.parametrize("metering", [{}, {"per_instruction_metering": True}], ids=["blocks", "instructions"])
async def test_interrupted_anywhere(nothing_left: Census, home: str, metering: dict[str, bool]) -> None:
    """Between two instructions or in the middle of a memset: the copies pay as much for the rest as the guest."""
    program = """
%rw_data_size = 40000
pub @main:
    a0 = 0x20000
    a2 = 39000
    a1 = a1 + 1
    [a0..a0 + a2] = u8 a1
    a3 = a3 * 3
    u64 [0x20100] = a3
    jump @main if a3 != 1
    trap
"""
    settings = vm.ModuleConfig(gas_metering="sync", **metering)  # type: ignore[arg-type]
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(vm.Engine(config)) for config in CONFIGS.values()]
        modules = [await engine.compile(build(program), settings) for engine in engines]
        source = modules[list(CONFIGS).index(home)]
        async with await source.instantiate() as instance:
            instance.prepare_call("main")
            for turn in range(8):
                instance.gas = 1 << 50
                running = asyncio.create_task(instance.run())
                await until(lambda: instance._execution._awaited)
                for _ in range(turn % 3):
                    await asyncio.sleep(0)
                assert await instance.interrupt()
                assert isinstance(await running, vm.Interrupted)
                instance.gas = 5000 * turn + 777
                data = (await instance.snapshot()).to_bytes()
                end = await instance.run(), state(instance)
                assert isinstance(end[0], vm.OutOfGas)
                for engine, module in zip(engines, modules, strict=True):
                    async with await (await engine.load_snapshot(data, module)).instantiate() as fork:
                        assert (await fork.run(), state(fork)) == end


async def test_in_a_host_function(engine: vm.Engine) -> None:
    """A guest says that it is warm; the copies go on behind that call."""
    module = await engine.compile(basic())
    linker, taken = vm.Linker(), []

    @linker.function("ask")
    async def ask(caller: vm.Caller, value: int) -> int:
        taken.append(await caller.instance.snapshot())
        return value

    async with await linker.instantiate(module) as instance:
        assert await instance.call("ask", 4) == 8
    for result in (1, 2):
        async with await linker.instantiate(taken[0]) as fork:
            fork.registers["a0"] = result
            assert await fork.run() == vm.Finished()
            assert fork.registers["a0"] == result + 4
            assert await fork.call("ask", 10) == 20


async def test_a_linker_names_what_is_missing(linux: vm.Engine) -> None:
    module = await linux.compile(basic())
    async with await module.instantiate() as instance:
        snapshot = await instance.snapshot()
    with pytest.raises(vm.LinkError, match="ask"):
        await vm.Linker().instantiate(snapshot)


@ONE_LOOP
async def test_a_stop_that_nobody_was_told(nothing_left: Census) -> None:
    """The guest stops by itself, and before the loop knows the task that ran it is cancelled."""
    async with vm.Engine(vm.Config(spin=0)) as engine:
        program = "pub @main:\n a0 = a0 - 1\n jump @main if a0 != 0\n ecalli 3\n a0 = a0 + 8\n ret"
        module = await engine.compile(build(program))
        async with await module.instantiate() as instance:
            instance.prepare_call("main", 200_000_000)
            running = asyncio.create_task(instance.run())
            await until(lambda: instance._execution._awaited)
            word = lib.sandbox_worker_futex(cast(Worker, instance._machine).handle)
            while word[0] == lib.sandbox_worker_futex_value(cast(Worker, instance._machine).handle):
                pass
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert instance._execution.held == lib.SANDBOX_HOST_CALL
            data = (await instance.snapshot()).to_bytes()
            for snapshot in (await instance.snapshot(), await engine.load_snapshot(data, module)):
                async with await snapshot.instantiate() as fork:
                    assert await fork.run() == vm.HostCall(3)
                    assert await fork.run() == vm.Finished()
                    assert fork.registers["a0"] == 8
            assert await instance.run() == vm.HostCall(3)


# --- dynamic paging ---------------------------------------------------------------------------------------------------


async def paged(engine: vm.Engine, page_size: int = PAGE) -> vm.Module:
    config = vm.ModuleConfig(dynamic_paging=True, aux_data_size=AUX, page_size=page_size)
    return await engine.compile(build(MEMORY), config)


@pytest.mark.parametrize("page_size", [0x1000, 0x4000])
async def test_pages_and_protection(engine: vm.Engine, page_size: int) -> None:
    module = await paged(engine, page_size)
    layout, size = module.memory_map, page_size
    heap = layout.rw_address + layout.rw_accessible
    async with await module.instantiate() as instance:
        await instance.call("grow", 20 * size)
        instance.memory.write(heap + 2 * size, b"a" * (3 * size))
        instance.memory.zero(heap + 7 * size, size)
        instance.memory.protect(heap + 3 * size, size)
        instance.memory.free(layout.rw_address, size)  # the initial data
        instance.memory.write(layout.aux_address, b"aux")
        before = state(instance)
        async with await instance.snapshot() as snapshot:
            for _ in range(2):
                async with await snapshot.instantiate() as fork:
                    assert state(fork) == before
                async with await snapshot.instantiate() as fork:
                    for address, fault in (
                        (heap + size, True),
                        (heap + 2 * size, False),
                        (heap + 7 * size, False),
                        (heap + 8 * size, True),
                        (layout.rw_address, True),
                        (layout.aux_address, False),
                        (layout.stack_low, True),
                    ):
                        fork.prepare_call("load", address)
                        expected = vm.PageFault(address, size, False) if fault else vm.Finished()
                        assert await fork.run() == expected
                    fork.prepare_call("store", heap + 3 * size, 1)
                    assert await fork.run() == vm.PageFault(heap + 3 * size, size, True)
                    fork.prepare_call("store", heap + 4 * size, 1)
                    assert await fork.run() == vm.Finished()
                    assert fork.memory.read(heap + 4 * size, 3) == b"\1aa"
        assert instance.memory.read(heap + 4 * size, 1) == b"a"


async def test_what_the_host_does_to_pages_that_were_not_touched(engine: vm.Engine) -> None:
    """Copied or not yet, they are there for the host, and gone when it frees them."""
    module = await paged(engine)
    heap = module.memory_map.rw_address + module.memory_map.rw_accessible
    pages = 100  # of which it takes more than of those that are copied at once
    content = b"".join(bytes([n + 1] * PAGE) for n in range(pages))
    async with await module.instantiate() as instance:
        await instance.call("grow", pages * PAGE)
        instance.memory.write(heap, content)
        snapshot = await instance.snapshot()
    assert snapshot.resident_size == pages * PAGE
    async with await snapshot.instantiate() as fork:
        memory = fork.memory
        assert memory.is_accessible(heap + 3 * PAGE, PAGE, writable=True)
        assert memory.read(heap + 5 * PAGE - 1, 2) == b"\5\6"
        memory.write(heap + 8 * PAGE + 1, b"!")
        assert memory.read(heap + 8 * PAGE, 3) == b"\t!\t"
        memory.zero(heap + 10 * PAGE, PAGE + 1)
        assert memory.read(heap + 11 * PAGE, 2) == b"\0\x0c"
        memory.free(heap + 20 * PAGE, PAGE)
        assert not memory.is_accessible(heap + 20 * PAGE, 1)
        memory.protect(heap + 30 * PAGE, PAGE)
        fork.prepare_call("store", heap + 30 * PAGE, 0)
        assert await fork.run() == vm.PageFault(heap + 30 * PAGE, PAGE, True)
        again = await fork.snapshot()
        assert await fork.call("load", heap + 31 * PAGE) == 32
        await snapshot.aclose()  # the fork still gets pages from it
        assert await fork.call("load", heap + 99 * PAGE) == 100
    async with await again.instantiate() as second:
        assert second.memory.read(heap + 31 * PAGE, PAGE * 69) == content[31 * PAGE :]
        assert second.memory.read(heap + 8 * PAGE, 3) == b"\t!\t"
        assert not second.memory.is_accessible(heap + 20 * PAGE, 1)
        second.prepare_call("fill", heap + 40 * PAGE + 5, 0xEE, 3 * PAGE)
        assert await second.run() == vm.Finished()
        assert second.memory.read(heap + 40 * PAGE, 5 + 3 * PAGE + 1) == b"\x29" * 5 + b"\xee" * 3 * PAGE + b"\x2c"


async def test_a_pager_serves_what_the_snapshot_has_not(engine: vm.Engine) -> None:
    module = await paged(engine)
    heap = module.memory_map.rw_address + module.memory_map.rw_accessible
    linker = vm.Linker()
    linker.on_page_fault(vm.ZeroPager())
    async with await linker.instantiate(module) as instance:
        await instance.call("grow", 256 * PAGE)
        instance.memory.write(heap + 5 * PAGE, b"\t")
        instance.memory.write(heap + 40 * PAGE, b"\7" * (90 * PAGE))
        snapshot = await instance.snapshot()
    expected = [9 if n == 5 else 7 if 40 <= n < 130 else 0 for n in range(256)]
    for order in (range(256), range(255, -1, -1), range(3, 256, 5)):
        async with await linker.instantiate(snapshot) as fork:
            for n in order:
                assert await fork.call("load", heap + n * PAGE) == expected[n]
    async with await linker.instantiate(snapshot) as fork:
        assert await fork.call("fill", heap, 1, 256 * PAGE) == heap + 256 * PAGE
        assert fork.memory.read(heap, 256 * PAGE) == b"\1" * (256 * PAGE)
    async with await snapshot.instantiate() as fork:
        assert await fork.call("load", heap + 100 * PAGE) == 7
        assert fork._machine is not None
        # by a fault of the guest; two machines that are compared have copies of all from the start
        served = lib.sandbox_memory_faults_served(fork._machine.memories[0])
        assert served == (0 if engine.config.crosscheck else 1)


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_a_limit_of_memory(engine: vm.Engine) -> None:
    module = await engine.compile(build(MEMORY))
    async with await module.instantiate() as instance:
        await instance.call("grow", 10 * PAGE)
        snapshot = await instance.snapshot()
    layout = module.memory_map
    assert snapshot.memory_size == layout.stack_accessible + layout.rw_accessible + 10 * PAGE
    with pytest.raises(vm.LimitError) as caught:
        await snapshot.instantiate(limits=vm.Limits(memory=snapshot.memory_size - 1))
    assert (caught.value.which, caught.value.limit) == ("memory", snapshot.memory_size - 1)
    for _ in range(2):  # the second time in a process that had that limit
        async with await snapshot.instantiate(limits=vm.Limits(memory=snapshot.memory_size)) as fork:
            assert await fork.call("grow", PAGE) == 0
            assert await fork.call("grow", 0)
        async with await snapshot.instantiate() as fork:
            assert await fork.call("grow", PAGE)


async def test_a_limit_below_data_that_was_not_touched(engine: vm.Engine) -> None:
    """As for a new instance: that is not there, and what the snapshot has must be."""
    module = await engine.compile(build(MEMORY.replace("5000", "50000")))
    layout = module.memory_map
    async with await module.instantiate() as instance:
        instance.memory.write(layout.rw_address + 3 * PAGE, b"x")
        snapshot = await instance.snapshot()
    assert snapshot.memory_size == layout.stack_accessible + 4 * PAGE
    async with await snapshot.instantiate(limits=vm.Limits(memory=snapshot.memory_size)) as fork:
        assert await fork.call("load", layout.rw_address + 3 * PAGE) == ord("x")
        with pytest.raises(vm.LimitError):
            await fork.call("load", layout.rw_address + 4 * PAGE)
        small = await fork.snapshot()
    async with await small.instantiate() as fork:
        assert await fork.call("load", layout.rw_address + 4 * PAGE) == 0


async def test_gas(engine: vm.Engine) -> None:
    module = await engine.compile(basic(), vm.ModuleConfig(gas_metering="sync"))
    async with await module.instantiate() as instance:
        instance.gas = 1000
        await instance.call("add", 1, 2)
        left = instance.gas
        snapshot = await instance.snapshot()
    async with await snapshot.instantiate() as fork:
        assert fork.gas == left < 1000
    async with await snapshot.instantiate(limits=vm.Limits(gas=77)) as fork:
        assert fork.gas == 77


async def test_a_limit_of_gas_without_metering(linux: vm.Engine) -> None:
    module = await linux.compile(basic())
    async with await module.instantiate() as instance:
        snapshot = await instance.snapshot()
    with pytest.raises(ValueError, match="not metered"):
        await snapshot.instantiate(limits=vm.Limits(gas=77))


# --- the wrong moment -------------------------------------------------------------------------------------------------


async def test_closed(engine: vm.Engine, tmp_path: Path) -> None:
    module = await engine.compile(basic())
    instance = await module.instantiate()
    snapshot = await instance.snapshot()
    await instance.aclose()
    with pytest.raises(vm.InstanceStateError, match="closed"):
        await instance.snapshot()
    assert "0 bytes" in repr(snapshot)
    await snapshot.aclose()
    await snapshot.aclose()
    assert "closed" in repr(snapshot)
    with pytest.raises(vm.InstanceStateError, match="snapshot is closed"):
        await snapshot.instantiate()
    with pytest.raises(vm.InstanceStateError, match="snapshot is closed"):
        await snapshot.save(tmp_path / "file")
    with pytest.raises(vm.InstanceStateError, match="snapshot is closed"):
        snapshot.to_bytes()
    assert not list(tmp_path.iterdir())


async def test_after_the_engine(nothing_left: Census, tmp_path: Path) -> None:
    async with vm.Engine() as engine:
        module = await engine.compile(basic())
        async with await module.instantiate() as instance:
            snapshot = await instance.snapshot()
    with pytest.raises(vm.InstanceStateError, match="engine is not open"):
        await snapshot.instantiate()
    await snapshot.save(tmp_path / "file")
    with pytest.raises(vm.InstanceStateError, match="engine is not open"):
        await engine.load_snapshot(tmp_path / "file", module)
    async with vm.Engine() as other:
        with pytest.raises(vm.InstanceStateError, match="another engine"):
            await other.load_snapshot(tmp_path / "file", module)
        again = await other.load_snapshot(tmp_path / "file", await other.compile(basic()))
        assert again.to_bytes() == snapshot.to_bytes()


async def test_of_a_dead_process(linux: vm.Engine) -> None:
    module = await linux.compile(basic())
    async with await module.instantiate() as instance:
        with watch(instance.pid) as pidfds:
            signal.pidfd_send_signal(pidfds[instance.pid], signal.SIGKILL)
            wait_for_death(pidfds[instance.pid])
        with pytest.raises(vm.SandboxDiedError):
            await instance.snapshot()


async def test_while_a_large_one_is_taken(engine: vm.Engine) -> None:
    """It is taken in a thread: until it is there the instance waits, also when that is cancelled or it is closed."""
    module = await engine.compile(build(MEMORY))
    heap = module.memory_map.rw_address + module.memory_map.rw_accessible
    size = 24 << 20
    instance = await module.instantiate()
    await instance.call("grow", size)
    instance.memory.write(heap, b"large" * (size // 5))
    taking = asyncio.create_task(instance.snapshot())
    await asyncio.sleep(0)
    for use in (instance.run, lambda: instance.call("load", heap), instance.snapshot):
        with pytest.raises(vm.InstanceStateError, match="being taken"):
            await use()
    with pytest.raises(vm.InstanceStateError, match="being taken"):
        instance.memory.write(heap, b"x")
    snapshot = await taking
    assert await instance.call("load", heap) == ord("l")
    cancelled = asyncio.create_task(instance.snapshot())
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    last = asyncio.create_task(instance.snapshot())
    await asyncio.sleep(0)
    await instance.aclose()
    assert (await last).resident_size == snapshot.resident_size == size
    fork = asyncio.create_task(snapshot.instantiate())  # in a thread, too
    await asyncio.sleep(0)
    fork.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fork
    async with await snapshot.instantiate() as again:
        assert again.memory.read(heap + size // 5 * 5 - 5, 5) == b"large"


# --- how long, and how many ------------------------------------------------------------------------------------------


async def test_nothing_keeps_it(engine: vm.Engine) -> None:
    """Neither instances nor idle processes; it has no file."""
    module = await engine.compile(build(MEMORY))
    async with await module.instantiate() as instance:
        instance.memory.write(module.memory_map.rw_address, b"!")
        before = open_files()
        snapshot = await instance.snapshot()
        assert open_files() == before
    async with await snapshot.instantiate() as fork:
        gone = weakref.ref(snapshot)
        del snapshot
        gc.collect()
        assert gone() is None
        assert fork.memory.read(module.memory_map.rw_address, 1) == b"!"


async def test_many_at_once(engine: vm.Engine) -> None:
    module = await engine.compile(build(MEMORY))
    place = module.memory_map.rw_address
    async with await module.instantiate() as instance:
        instance.memory.write(place, b"!")
        snapshot = await instance.snapshot()

    async def one(n: int) -> int:
        async with await snapshot.instantiate(tenant=n % 3) as fork:
            assert await fork.call("load", place) == ord("!")
            await fork.call("store", place, n)
            return await fork.call("load", place)

    count = 16 if engine.config.crosscheck else 60
    assert await asyncio.gather(*map(one, range(count))) == list(range(count))


# --- files ------------------------------------------------------------------------------------------------------------


async def test_a_file(engine: vm.Engine, tmp_path: Path) -> None:
    module = await engine.compile(build(MEMORY))
    path = tmp_path / "guest.pvms"
    async with await module.instantiate() as instance:
        instance.memory.write(module.memory_map.rw_address + 100, b"saved")
        snapshot = await instance.snapshot()
    old = os.umask(0)
    try:
        await snapshot.save(path)
        await snapshot.save(str(path))
    finally:
        os.umask(old)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == snapshot.to_bytes()
    for source in (path, str(path), path.read_bytes(), memoryview(path.read_bytes())):
        loaded = await engine.load_snapshot(source, module)
        assert (loaded.memory_size, loaded.resident_size) == (snapshot.memory_size, snapshot.resident_size)
        async with await loaded.instantiate() as fork:
            assert fork.memory.read(module.memory_map.rw_address + 100, 5) == b"saved"


async def test_saving_fails(linux: vm.Engine, tmp_path: Path) -> None:
    module = await linux.compile(basic())
    async with await module.instantiate() as instance:
        snapshot = await instance.snapshot()
    with pytest.raises(FileNotFoundError):
        await snapshot.save(tmp_path / "nowhere" / "file")
    with pytest.raises(IsADirectoryError):
        await snapshot.save(tmp_path)
    saving = asyncio.create_task(snapshot.save(tmp_path / "file"))
    await asyncio.sleep(0)
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert set(itertools.chain(*(names for _, _, names in os.walk(tmp_path)))) <= {"file"}
    with pytest.raises(FileNotFoundError):
        await linux.load_snapshot(tmp_path / "none", module)
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises(OSError, match="regular"):
            await linux.load_snapshot(path, module)
