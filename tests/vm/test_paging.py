# SPDX-License-Identifier: MIT
"""Dynamic paging: the same in both backends, and in both at once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from guests import LATEST32, MEMORY, basic, build
from processes import Census, open_files

import vm
from vm._sandbox import lib

PAGE = 0x1000
AUX = 3 * 0x4000
CONFIGS = {
    "recompiler": vm.Config(),
    "interpreter": vm.Config(backend="interpreter"),
    "generic": vm.Config(sandbox="generic"),
    "crosscheck": vm.Config(crosscheck=True),
}

#: Beside the accesses of MEMORY: sums of a range, and accesses of every other kind.
PROGRAM = (
    MEMORY
    + """
pub @sum:
    a2 = 0
@next:
    a3 = u8 [a0]
    a2 = a2 + a3
    a0 = a0 + a4
    a1 = a1 - 1
    jump @next if a1 != 0
    a0 = a2
    ret
pub @store_imm:
    u32 [a0 + 8] = 0x11223344
    a0 = u16 [a0 + 8]
    ret
pub @fill_then:
    [a0..a0 + a2] = u8 a1
    a0 = 99
    ret
"""
)


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> vm.Config:
    return CONFIGS[request.param]


@pytest.fixture
async def engine(nothing_left: Census, config: vm.Config) -> AsyncIterator[vm.Engine]:
    async with vm.Engine(config) as engine:
        yield engine


async def compile_paged(engine: vm.Engine, page_size: int = PAGE, **settings: object) -> vm.Module:
    config = vm.ModuleConfig(dynamic_paging=True, page_size=page_size, aux_data_size=AUX, **settings)  # type: ignore[arg-type]
    return await engine.compile(build(PROGRAM), config)


def places(module: vm.Module) -> dict[str, int]:
    """A page of each region that can be absent."""
    layout = module.memory_map
    return {"stack": layout.stack_low, "bss": layout.rw_address + layout.page_size, "aux": layout.aux_address}


def heap(module: vm.Module) -> int:
    """The first page of the heap alone."""
    layout = module.memory_map
    return layout.rw_address + layout.rw_accessible


def served(instance: vm.Instance) -> int:
    assert instance._machine is not None
    return int(lib.sandbox_memory_faults_served(instance._machine.memories[0]))


# --- faults that run() returns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [0x1000, 0x4000])
@pytest.mark.parametrize("region", ["stack", "aux"])
async def test_a_read(engine: vm.Engine, region: str, page_size: int) -> None:
    module = await compile_paged(engine, page_size)
    async with await module.instantiate() as instance:
        page = places(module)[region]
        instance.prepare_call("load", page + page_size - 1)
        before = dict(instance.registers)
        for _ in range(2):  # not served, it faults again
            assert await instance.run() == vm.PageFault(page, page_size, False)
            assert instance.program_counter == instance.next_program_counter == module.exports["load"]
            assert dict(instance.registers) == before
        assert not instance.memory.is_accessible(page, 1)
        instance.memory.write(page + page_size - 2, b"ab")
        assert await instance.run() == vm.Finished()
        assert instance.registers["a0"] == ord("b")
        # around what was written there are zeros, in the whole page and nowhere else
        assert instance.memory.read(page, page_size) == bytes(page_size - 2) + b"ab"
        assert not instance.memory.is_accessible(page, page_size + 1)


@pytest.mark.parametrize("page_size", [0x1000, 0x4000])
async def test_every_byte_of_a_page_is_there(engine: vm.Engine, page_size: int) -> None:
    """Also where the machine's pages are smaller."""
    module = await compile_paged(engine, page_size)
    async with await module.instantiate() as instance:
        page = places(module)["stack"]
        instance.memory.write(page, b"x")
        for offset in range(0, page_size, 0x800):
            assert await instance.call("load", page + offset) == (ord("x") if offset == 0 else 0)
            await instance.call("store", page + offset + 1, 7)
            assert instance.memory.read(page + offset + 1, 1) == b"\7"


async def test_a_write(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    async with await module.instantiate() as instance:
        page = places(module)["bss"]
        instance.prepare_call("store", page + 5, 0x42)
        assert await instance.run() == vm.PageFault(page, PAGE, True)
        instance.memory.zero(page, PAGE)
        assert await instance.run() == vm.Finished()
        assert instance.memory.read(page, 8) == b"\0\0\0\0\0\x42\0\0"
        instance.prepare_call("store_imm", places(module)["stack"])
        assert await instance.run() == vm.PageFault(places(module)["stack"], PAGE, True)


async def test_what_is_there_from_the_start(engine: vm.Engine) -> None:
    """Read-only data, and pages with initial data."""
    module = await compile_paged(engine)
    layout = module.memory_map
    async with await module.instantiate() as instance:
        assert await instance.call("load", layout.ro_address + 1) == 0x22
        assert await instance.call("load", layout.rw_address + 7) == 8
        assert await instance.call("load", layout.rw_address + PAGE - 1) == 0
        await instance.call("store", layout.rw_address + PAGE - 1, 1)
        assert instance.memory.is_accessible(layout.rw_address, PAGE, writable=True)
        assert not instance.memory.is_accessible(layout.rw_address, PAGE + 1)


async def test_beyond_the_regions_it_still_traps(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    layout = module.memory_map
    places_outside = (0, layout.stack_low - 1, layout.stack_high, layout.stack_high - 3, heap(module), 2**32 - 1)
    async with await module.instantiate() as instance:
        for address in places_outside:
            instance.prepare_call("load_u64", address)
            assert isinstance(await instance.run(), vm.Trap), hex(address)
        for address in (layout.ro_address, layout.aux_address):
            instance.prepare_call("store", address, 1)
            assert isinstance(await instance.run(), vm.Trap), hex(address)
        instance.accessible_aux_size = 0
        instance.prepare_call("load", layout.aux_address)
        assert isinstance(await instance.run(), vm.Trap)


async def test_an_access_across_two_pages(engine: vm.Engine) -> None:
    """Both are needed, the lower one first; nothing is stored before."""
    module = await compile_paged(engine)
    async with await module.instantiate() as instance:
        base = places(module)["aux"]
        instance.prepare_call("load_u64", base + PAGE - 4)
        assert await instance.run() == vm.PageFault(base, PAGE, False)
        instance.memory.write(base, b"\x11" * PAGE)
        assert await instance.run() == vm.PageFault(base + PAGE, PAGE, False)
        instance.memory.write(base + PAGE, b"\x22" * PAGE)
        assert await instance.run() == vm.Finished()
        assert instance.registers["a0"] == 0x2222_2222_1111_1111

        await instance.call("grow", 2 * PAGE + 0x1000)
        first = heap(module)
        instance.memory.zero(first, PAGE)
        instance.prepare_call("store_u64", first + PAGE - 4, 2**64 - 1)
        assert await instance.run() == vm.PageFault(first + PAGE, PAGE, True)
        assert instance.memory.read(first, PAGE) == bytes(PAGE)
        instance.memory.zero(first + PAGE, PAGE)
        assert await instance.run() == vm.Finished()
        assert instance.memory.read(first + PAGE - 4, 8) == b"\xff" * 8


async def test_memset_goes_on_where_it_stopped(engine: vm.Engine) -> None:
    module = await compile_paged(engine, gas_metering="sync")
    async with await module.instantiate() as instance:
        instance.gas = 1_000_000
        await instance.call("grow", 4 * PAGE)
        base = heap(module)
        size = 2 * PAGE + 10
        instance.prepare_call("fill_then", base - 6, 0xAB, size)
        instance.memory.zero(base - PAGE, PAGE)
        cost = module.gas_cost(module.exports["fill_then"])
        assert cost is not None
        gas = instance.gas
        stored = 6
        for page in (base, base + PAGE, base + 2 * PAGE):
            assert await instance.run() == vm.PageFault(page, PAGE, True)
            assert instance.registers["a0"] == page
            assert instance.registers["a2"] == size - stored
            assert instance.gas == gas - cost - stored
            instance.memory.zero(page, PAGE)
            stored += PAGE
        assert await instance.run() == vm.Finished()
        assert instance.registers["a0"] == 99
        assert instance.gas == gas - cost - size
        assert instance.memory.read(base - 7, size + 2) == b"\0" + b"\xab" * size + b"\0"


async def test_memset_out_of_gas_before_a_missing_page(engine: vm.Engine) -> None:
    """A byte that cannot be paid is not touched."""
    module = await compile_paged(engine, gas_metering="sync")
    async with await module.instantiate() as instance:
        page = places(module)["stack"]
        cost = module.gas_cost(module.exports["fill_then"])
        assert cost is not None
        instance.gas = cost
        instance.prepare_call("fill_then", page, 1, 100)
        assert isinstance(await instance.run(), vm.OutOfGas)
        instance.gas = 30
        assert await instance.run() == vm.PageFault(page, PAGE, True)
        assert instance.gas == 30
        instance.memory.zero(page, PAGE)
        assert isinstance(await instance.run(), vm.OutOfGas)
        assert instance.memory.read(page, 100) == b"\1" * 30 + bytes(70)


@pytest.mark.parametrize("per_instruction", [False, True])
async def test_gas_is_charged_once(engine: vm.Engine, per_instruction: bool) -> None:
    module = await compile_paged(engine, gas_metering="sync", per_instruction_metering=per_instruction)
    async with await module.instantiate() as instance:
        spent = []
        for page in (places(module)["stack"], places(module)["stack"]):
            instance.gas = 100
            instance.prepare_call("load", page)
            while isinstance(await instance.run(), vm.PageFault):
                assert instance.gas < 100
                instance.memory.zero(page, PAGE)
            spent.append(100 - instance.gas)
        assert spent[0] == spent[1]


async def test_step_tracing_steps_once(engine: vm.Engine) -> None:
    module = await compile_paged(engine, step_tracing=True)
    async with await module.instantiate() as instance:
        page = places(module)["stack"]
        instance.prepare_call("load", page)
        start = module.exports["load"]
        assert await instance.run() == vm.Step(start)
        assert await instance.run() == vm.PageFault(page, PAGE, False)
        instance.memory.zero(page, PAGE)
        step = await instance.run()
        assert isinstance(step, vm.Step)
        assert step.pc > start
        assert await instance.run() == vm.Finished()


async def test_32_bit_addresses_wrap(engine: vm.Engine) -> None:
    program = build("%stack_size = 4096\npub @load:\n    a0 = u8 [a0 + 0x1000]\n    ret\n", LATEST32)
    module = await engine.compile(program, vm.ModuleConfig(dynamic_paging=True, aux_data_size=PAGE))
    async with await module.instantiate() as instance:
        page = module.memory_map.stack_low
        instance.prepare_call("load", page - 0x1000 + 3)
        assert await instance.run() == vm.PageFault(page, PAGE, False)
        instance.memory.write(page + 3, b"\x77")
        assert await instance.run() == vm.Finished()
        assert instance.registers["a0"] == 0x77


# --- what the host does -----------------------------------------------------------------------------------------------


async def test_the_host_reads_only_what_is_there(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    async with await module.instantiate() as instance:
        page, memory = places(module)["aux"], instance.memory
        for length in (1, PAGE, 2 * PAGE):
            with pytest.raises(vm.MemoryAccessError, match=rf"the page at {page:#x} is not there"):
                memory.read(page, length)
        memory.write(page, b"x")
        with pytest.raises(vm.MemoryAccessError, match=rf"the page at {page + PAGE:#x} is not there"):
            memory.read_into(page, bytearray(2 * PAGE))
        with pytest.raises(vm.MemoryAccessError, match="not readable memory"):
            memory.read(12, 4)
        assert memory.read(page + PAGE, 0) == b""
        assert memory.read(page, PAGE) == b"x" + bytes(PAGE - 1)


@pytest.mark.parametrize("page_size", [0x1000, 0x4000])
async def test_writes_and_zeros_of_any_shape(engine: vm.Engine, page_size: int) -> None:
    module = await compile_paged(engine, page_size)
    async with await module.instantiate() as instance:
        await instance.call("grow", 12 * page_size)
        base, memory = heap(module), instance.memory
        size = 8 * page_size
        shadow: dict[int, bytearray] = {}
        writes = [(page_size - 3, 7), (3 * page_size, page_size), (2 * page_size + 1, 3 * page_size), (0, 1), (0, 0)]
        for number, (offset, length) in enumerate([*writes, (5, size - 9)], 1):
            expected = bytearray([number]) * length
            memory.write(base + offset, expected)
            if number % 2 == 0:
                half = length // 2
                memory.zero(base + offset + half, half)
                expected[half : 2 * half] = bytes(half)
            for at, value in enumerate(expected, offset):
                shadow.setdefault(at // page_size, bytearray(page_size))[at % page_size] = value
            for index in range(8):
                there = memory.is_accessible(base + index * page_size, page_size)
                assert there == (index in shadow)
                if there:
                    assert memory.read(base + index * page_size, page_size) == shadow[index]


async def test_freed_pages_fault_again(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    layout = module.memory_map
    async with await module.instantiate() as instance:
        for page in (places(module)["stack"], places(module)["aux"], layout.rw_address):
            instance.memory.write(page, b"secret")
            assert await instance.call("load", page) == ord("s")
            instance.memory.free(page, 1)
            assert not instance.memory.is_accessible(page, 1)
            instance.prepare_call("load", page)
            assert await instance.run() == vm.PageFault(page, PAGE, False)
            instance.memory.write(page + 1, b"x")
            assert await instance.run() == vm.Finished()
            assert instance.memory.read(page, 6) == b"\0x\0\0\0\0"


async def test_protection(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    async with await module.instantiate() as instance:
        memory = instance.memory
        await instance.call("grow", 4 * PAGE)
        base = heap(module)
        memory.zero(base, 3 * PAGE)
        memory.protect(base + PAGE, 1)
        memory.protect(base + PAGE, PAGE)  # again
        assert memory.is_accessible(base, 3 * PAGE)
        assert not memory.is_accessible(base, 3 * PAGE, writable=True)
        assert await instance.call("load", base + PAGE) == 0
        for neighbour in (base, base + 2 * PAGE):
            await instance.call("store", neighbour, 1)
        instance.prepare_call("store_u64", base + 2 * PAGE - 4, 2**64 - 1)
        assert await instance.run() == vm.PageFault(base + PAGE, PAGE, True)
        memory.write(base + PAGE, b"host")  # which may, and changes nothing about it
        assert await instance.run() == vm.PageFault(base + PAGE, PAGE, True)
        memory.unprotect(base, 3 * PAGE)
        assert await instance.run() == vm.Finished()
        assert memory.read(base + PAGE, 4) == b"host"
        assert memory.read(base + 2 * PAGE - 4, 8) == b"\xff" * 8
        # freeing takes it away as well
        memory.protect(base, PAGE)
        memory.free(base, PAGE)
        instance.prepare_call("store", base, 9)
        assert await instance.run() == vm.PageFault(base, PAGE, True)
        memory.zero(base, PAGE)
        assert await instance.run() == vm.Finished()


async def test_protection_before_the_guest_touched_the_page(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    async with await module.instantiate() as instance:
        address = module.memory_map.rw_address
        instance.memory.protect(address, PAGE)
        assert await instance.call("load", address + 2) == 3
        instance.prepare_call("fill", address + 1, 0xEE, 2)
        assert await instance.run() == vm.PageFault(address, PAGE, True)
        instance.memory.unprotect(address, PAGE)
        assert await instance.run() == vm.Finished()
        assert instance.memory.read(address, 4) == b"\x01\xee\xee\x04"


async def test_what_cannot_be_protected(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    layout = module.memory_map
    async with await module.instantiate() as instance:
        memory = instance.memory
        for change in (memory.protect, memory.unprotect):
            with pytest.raises(vm.MemoryAccessError, match="is not there"):
                change(layout.rw_address, 2 * PAGE)
            with pytest.raises(vm.MemoryAccessError, match="not memory that the guest can write"):
                change(layout.ro_address, PAGE)
            with pytest.raises(vm.MemoryAccessError):
                change(0, PAGE)
            with pytest.raises(ValueError, match="not a multiple of the page size"):
                change(layout.rw_address + 1, PAGE)
            with pytest.raises(ValueError, match="negative"):
                change(layout.rw_address, -1)
            change(layout.rw_address, 0)
        assert memory.is_accessible(layout.rw_address, PAGE, writable=True)
    async with await (await engine.compile(basic())).instantiate() as plain:
        with pytest.raises(vm.InstanceStateError, match="dynamic paging"):
            plain.memory.protect(plain.memory.map.rw_address, PAGE)


async def test_auxiliary_data_that_was_cut_off_is_gone(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    async with await module.instantiate() as instance:
        base = places(module)["aux"]
        instance.memory.write(base, b"x" * (3 * PAGE))
        instance.accessible_aux_size = PAGE
        instance.accessible_aux_size = AUX
        assert await instance.call("load", base) == ord("x")
        instance.prepare_call("load", base + PAGE)
        assert await instance.run() == vm.PageFault(base + PAGE, PAGE, False)


async def test_the_next_instance_starts_without_pages(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    layout = module.memory_map
    pages = [*places(module).values(), heap(module)]
    for _ in range(3):
        async with await module.instantiate() as instance:
            await instance.call("grow", 2 * PAGE)
            assert instance.memory.read(layout.rw_address, 16) == bytes([1, 2, 3, 4, 5, 6, 7, 8]) + bytes(8)
            for page in pages:
                assert not instance.memory.is_accessible(page, 1)
                instance.prepare_call("load", page)
                assert await instance.run() == vm.PageFault(page, PAGE, False)
                instance.memory.write(page, b"secret")
            instance.memory.protect(layout.rw_address, 2 * PAGE)
            instance.memory.write(layout.rw_address + 9, b"left")
            instance.memory.free(layout.rw_address, PAGE)
            instance.memory.write(layout.rw_address + 20, b"left")
            instance.memory.protect(layout.rw_address, PAGE)
    async with await module.instantiate() as instance:
        await instance.call("store", layout.rw_address, 1)  # protected no more


# --- handlers ---------------------------------------------------------------------------------------------------------


async def test_an_async_handler(engine: vm.Engine) -> None:
    """Pages come from anywhere, while others run."""
    module = await compile_paged(engine)
    linker = vm.Linker()
    faults = []
    turn = asyncio.Event()

    @linker.on_page_fault
    async def fetch(caller: vm.Caller, fault: vm.PageFault) -> None:
        faults.append(fault)
        turn.set()
        await asyncio.sleep(0)
        caller.memory.write(fault.address, bytes([len(faults)]) * fault.size)

    async with await linker.instantiate(module) as instance, await module.instantiate() as other:
        base = places(module)["aux"]
        call = asyncio.create_task(instance.call("sum", base, 3, 0, 0, PAGE))
        await turn.wait()
        assert await other.call("load", module.memory_map.ro_address) == 0x11
        assert await call == 1 + 2 + 3
        assert faults == [vm.PageFault(base + n * PAGE, PAGE, False) for n in range(3)]
        assert await instance.call("sum", base, 3, 0, 0, PAGE) == 1 + 2 + 3
        assert len(faults) == 3


async def test_a_def_handler_and_a_protected_page(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    linker = vm.Linker()
    written = []

    def handler(caller: vm.Caller, fault: vm.PageFault) -> str:
        written.append(fault.is_write)
        if caller.memory.is_accessible(fault.address, fault.size):
            caller.memory.unprotect(fault.address, fault.size)
        else:
            caller.memory.zero(fault.address, fault.size)
            caller.memory.protect(fault.address, fault.size)
        return "what it returns means nothing"

    assert linker.on_page_fault(handler) is handler
    async with await linker.instantiate(module) as instance:
        page = places(module)["stack"]
        assert await instance.call("load", page) == 0
        await instance.call("store", page, 5)
        assert instance.memory.read(page, 1) == b"\5"
        assert written == [False, True]


async def test_without_a_handler(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    page = places(module)["stack"]
    async with await module.instantiate() as instance:
        with pytest.raises(vm.TrapError, match=rf"page fault at {page:#x} \(read\), which nobody serves") as caught:
            await instance.call("load", page + 9)
        assert caught.value.pc == module.exports["load"]
        instance.memory.zero(page, 1)
        assert await instance.run() == vm.Finished()  # it was stopped, no more


async def test_a_handler_that_does_nothing(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    linker = vm.Linker()
    linker.on_page_fault(lambda caller, fault: caller.memory.zero(module.memory_map.aux_address, PAGE))
    async with await linker.instantiate(module) as instance:
        with pytest.raises(vm.TrapError, match=r"\(write\), which its handler left as it was"):
            await instance.call("store", places(module)["stack"], 1)
        assert await instance.call("load", places(module)["aux"]) == 0


async def test_exceptions_of_a_handler(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    linker = vm.Linker()

    class Gone(Exception):
        pass

    @linker.on_page_fault
    async def handler(caller: vm.Caller, fault: vm.PageFault) -> None:
        await asyncio.sleep(0)
        raise Gone(fault)

    async with await linker.instantiate(module) as instance:
        for _ in range(2):
            with pytest.raises(Gone) as caught:
                await instance.call("load", places(module)["aux"])
            assert caught.value.args == (vm.PageFault(places(module)["aux"], PAGE, False),)


async def test_cancelling_a_handler_leaves_the_guest_stopped(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    linker = vm.Linker()
    entered, cancelled = asyncio.Event(), []

    @linker.on_page_fault
    async def handler(caller: vm.Caller, fault: vm.PageFault) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(fault)
            raise

    async with await linker.instantiate(module) as instance:
        page = places(module)["stack"]
        call = asyncio.create_task(instance.call("load", page))
        await entered.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert cancelled == [vm.PageFault(page, PAGE, False)]
        instance.memory.write(page, b"\x33")
        assert await instance.run() == vm.Finished()
        assert instance.registers["a0"] == 0x33
        assert await instance.call("load", page) == 0x33


async def test_closing_in_a_handler(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    linker = vm.Linker()

    @linker.on_page_fault
    async def handler(caller: vm.Caller, fault: vm.PageFault) -> None:
        await caller.instance.aclose()

    async with await linker.instantiate(module) as instance:
        with pytest.raises(vm.InstanceStateError, match="closed"):
            await instance.call("load", places(module)["stack"])


async def test_a_handler_may_send_the_guest_elsewhere(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    linker = vm.Linker()

    @linker.on_page_fault
    def handler(caller: vm.Caller, fault: vm.PageFault) -> None:
        caller.instance.next_program_counter = module.exports["stack_pointer"]

    async with await linker.instantiate(module) as instance:
        assert await instance.call("load", places(module)["stack"]) == module.memory_map.stack_high


async def test_what_is_no_handler(engine: vm.Engine) -> None:
    linker = vm.Linker()
    with pytest.raises(TypeError, match="a function or a pager"):
        linker.on_page_fault(None)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="give an instance"):
        linker.on_page_fault(vm.ZeroPager)  # type: ignore[type-var]
    linker.on_page_fault(vm.ZeroPager())
    with pytest.raises(ValueError, match="already"):
        linker.on_page_fault(vm.ZeroPager())
    async with await linker.instantiate(await engine.compile(build(PROGRAM))) as instance:  # means nothing there
        assert await instance.call("load", instance.memory.map.stack_low) == 0


# --- built-in pagers --------------------------------------------------------------------------------------------------


async def test_zero_pager(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    linker = vm.Linker()
    linker.on_page_fault(vm.ZeroPager())
    async with await linker.instantiate(module) as instance:
        await instance.call("grow", 1024 * PAGE)
        base = heap(module)
        assert await instance.call("sum", base, 1000, 0, 0, PAGE) == 0
        assert served(instance) < 50  # read-ahead
        instance.prepare_call("load", places(module)["stack"])
        assert await instance.run() == vm.Finished()  # no stop either
        instance.memory.protect(base, PAGE)
        with pytest.raises(vm.TrapError, match="of a protected page"):
            await instance.call("store", base, 1)
        with pytest.raises(vm.TrapError):
            await instance.call("load", 0)
        instance.memory.free(base + PAGE, PAGE)
        assert await instance.call("load", base + PAGE) == 0


async def test_without_read_ahead(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    linker = vm.Linker()
    linker.on_page_fault(vm.ZeroPager(read_ahead=0))
    async with await linker.instantiate(module) as instance:
        await instance.call("grow", 40 * PAGE)
        assert await instance.call("sum", heap(module), 32, 0, 0, PAGE) == 0
        assert served(instance) == 32
        assert not instance.memory.is_accessible(heap(module) + 32 * PAGE, 1)


@pytest.mark.parametrize("page_size", [0x1000, 0x4000])
@pytest.mark.parametrize("shift", [0, 100])
async def test_file_pager(engine: vm.Engine, tmp_path: Path, shift: int, page_size: int) -> None:
    """Bytes of a file, at any address, with zeros before and behind them."""
    module = await compile_paged(engine, page_size)
    content = os.urandom(30 * page_size + 123)
    (tmp_path / "data").write_bytes(b"head" + content + b"tail")
    base = heap(module)
    linker = vm.Linker()
    linker.on_page_fault(
        vm.FilePager(
            tmp_path / "data", base + page_size + shift, offset=4, length=len(content), read_ahead=8 * page_size
        )
    )
    async with await linker.instantiate(module) as instance:
        await instance.call("grow", 40 * page_size)
        expected = bytes(page_size + shift) + content + bytes(40 * page_size)
        for stride, count in ((page_size, 36), (641, 36 * page_size // 641)):
            total = await instance.call("sum", base, count, 0, 0, stride)
            assert total == sum(expected[n * stride] for n in range(count))
        assert instance.memory.read(base, 36 * page_size) == expected[: 36 * page_size]
        assert await instance.call("load", places(module)["stack"]) == 0
        await instance.call("store", base + 2 * page_size, 0)
    assert (tmp_path / "data").read_bytes() == b"head" + content + b"tail"


async def test_file_pager_of_a_descriptor_and_a_short_file(engine: vm.Engine, tmp_path: Path) -> None:
    module = await compile_paged(engine)
    path = tmp_path / "data"
    path.write_bytes(b"abc")
    base = module.memory_map.aux_address
    before = open_files()
    with path.open("rb") as file:
        pager = vm.FilePager(file.fileno(), base, length=10 * PAGE)
        assert pager.length == 10 * PAGE
    linker = vm.Linker()
    linker.on_page_fault(pager)
    del pager
    async with await linker.instantiate(module) as instance:
        assert await instance.call("load_u64", base) == int.from_bytes(b"abc", "little")
        with path.open("ab") as file:
            file.write(bytes(PAGE) + b"later")
        assert await instance.call("load", base + PAGE + 3) == ord("l")
    del linker
    await engine.aclose()
    assert str(path) not in open_files() - before


async def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        vm.FilePager(tmp_path / "nothing", 0x10000)
    with pytest.raises(OSError, match="regular files only"):
        vm.FilePager(tmp_path, 0x10000)
    with pytest.raises(OSError, match="Bad file descriptor"):
        vm.FilePager(1 << 20, 0x10000)
    path = tmp_path / "data"
    path.write_bytes(b"abc")
    write_only = os.open(path, os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            vm.FilePager(write_only, 0x10000)
    finally:
        os.close(write_only)
    for wrong in ({"address": -1}, {"address": 1 << 32}, {"offset": -1}, {"length": -1}, {"length": 1 << 63}):
        with pytest.raises(ValueError, match=r"not that of guest memory|there are no"):
            vm.FilePager(path, **{"address": 0x10000, **wrong})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="read_ahead"):
        vm.FilePager(path, 0x10000, read_ahead=-1)
    assert "length=3" in repr(vm.FilePager(path, 0x10000))
    assert vm.ZeroPager(read_ahead=5).read_ahead == 5


async def test_a_file_that_is_not_in_memory(engine: vm.Engine, tmp_path: Path) -> None:
    """A thread reads it then, and faults go on where they stopped."""
    module = await compile_paged(engine)
    content = os.urandom(64 * PAGE)
    path = tmp_path / "data"
    path.write_bytes(content)
    file = os.open(path, os.O_RDONLY)
    linker = vm.Linker()
    try:
        linker.on_page_fault(vm.FilePager(file, heap(module)))
        async with await linker.instantiate(module) as instance:
            await instance.call("grow", 64 * PAGE)
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            assert await instance.call("sum", heap(module), 64, 0, 0, PAGE) == sum(content[::PAGE])
    finally:
        os.close(file)


async def test_one_pager_for_many(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    linker = vm.Linker()
    linker.on_page_fault(vm.ZeroPager())

    async def one() -> int:
        async with await linker.instantiate(module) as instance:
            await instance.call("grow", 100 * PAGE)
            return await instance.call("sum", heap(module), 90, 0, 0, PAGE)

    assert await asyncio.gather(*(one() for _ in range(8))) == [0] * 8
