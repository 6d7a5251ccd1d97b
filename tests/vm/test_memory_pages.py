# SPDX-License-Identifier: MIT
"""Zeroing, freeing and asking about guest memory, and auxiliary data that ends early; the same in both backends, and in
both at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from guests import basic, memory
from processes import Census, mappings, open_files, resident

import vm
from vm._interpreted import Interpreted
from vm._sandbox import ffi

MIB = 1 << 20
AUX = 3 * 0x4000

CONFIGS = {
    "recompiler": vm.Config(),
    "generic": vm.Config(sandbox="generic"),
    "interpreter": vm.Config(backend="interpreter"),
    "crosscheck": vm.Config(crosscheck=True),
}


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> vm.Config:
    return CONFIGS[request.param]


@pytest.fixture
async def engine(nothing_left: Census, config: vm.Config) -> AsyncIterator[vm.Engine]:
    async with vm.Engine(config) as engine:
        yield engine


async def instantiate(engine: vm.Engine, page_size: int = 0x1000, aux_data_size: int = AUX) -> vm.Instance:
    config = vm.ModuleConfig(page_size=page_size, aux_data_size=aux_data_size)
    return await (await engine.compile(memory(), config)).instantiate()


async def traps(instance: vm.Instance, export: str, *args: int) -> bool:
    instance.prepare_call(export, *args)
    return isinstance(await instance.run(), vm.Trap)


def regions(layout: vm.MemoryMap) -> dict[str, tuple[int, int]]:
    """Where they begin, and how long they are."""
    return {
        "rw": (layout.rw_address, layout.rw_accessible),
        "stack": (layout.stack_low, layout.stack_accessible),
        "aux": (layout.aux_address, layout.aux_accessible),
    }


#: What changes memory, in the same way: as ``operation(memory, address, length)``.
CHANGES: list[Callable[[vm.Memory, int, int], Any]] = [vm.Memory.zero, vm.Memory.free]
ALL = [*CHANGES, vm.Memory.is_accessible]


# --- zeros ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("region", ["rw", "stack", "aux"])
async def test_zero(engine: vm.Engine, region: str) -> None:
    async with await instantiate(engine) as instance:
        begin, size = regions(instance.memory.map)[region]
        for first, length in ((0, 1), (1, 6), (size - 1, 1), (size - 9, 9), (5, size - 10), (7, 0), (0, size)):
            instance.memory.write(begin, b"\xaa" * size)
            instance.memory.zero(begin + first, length)
            expected = b"\xaa" * first + bytes(length) + b"\xaa" * (size - first - length)
            assert instance.memory.read(begin, size) == expected
        assert await instance.call("load", begin + 7) == 0


@pytest.mark.parametrize("first", [0, 1, 0xFFF])
@pytest.mark.parametrize("length", [0x10000, 0x10001, 0x40000, 0x40001, MIB - 1, MIB, MIB + 0x1FFF])
async def test_zero_much(engine: vm.Engine, first: int, length: int) -> None:
    """Around the sizes at which another way is faster: nothing else changes, and the guest sees it."""
    async with await instantiate(engine) as instance:
        base = instance.memory.map.heap_base + -instance.memory.map.heap_base % 0x1000
        size = 2 * MIB
        await instance.call("grow", size)
        size -= base - instance.memory.map.heap_base
        instance.memory.write(base, b"\xaa" * size)
        instance.memory.zero(base + first, length)
        expected = b"\xaa" * first + bytes(length) + b"\xaa" * (size - first - length)
        assert instance.memory.read(base, size) == expected
        assert await instance.call("load", base + first + length - 1) == 0
        assert await instance.call("load", base + first + length) == 0xAA
        assert not await traps(instance, "store", base + first, 7)
        assert instance.memory.read(base + first, 2) == b"\x07\0"


async def test_zeroing_what_was_never_touched_takes_no_memory(engine: vm.Engine) -> None:
    async with await instantiate(engine) as instance:
        layout = instance.memory.map
        await instance.call("grow", layout.max_heap_size)
        before = resident()
        instance.memory.zero(layout.heap_base, layout.max_heap_size)  # gigabytes
        instance.memory.write(layout.heap_base + (1 << 30), b"x" * MIB)
        instance.memory.zero(layout.heap_base, layout.max_heap_size)
        assert resident() < before + 4 * MIB
        assert not any(instance.memory.read(layout.heap_base + (1 << 30), MIB))


# --- pages that go back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [0x1000, 0x4000])
@pytest.mark.parametrize("region", ["rw", "stack", "aux"])
async def test_free(engine: vm.Engine, region: str, page_size: int) -> None:
    async with await instantiate(engine, page_size) as instance:
        begin, size = regions(instance.memory.map)[region]
        for first, length in ((0, 1), (0, page_size), (size - page_size, page_size), (size - page_size, 1), (0, size)):
            instance.memory.write(begin, b"\xaa" * size)
            instance.memory.free(begin + first, length)
            freed = -(-length // page_size) * page_size
            expected = b"\xaa" * first + bytes(freed) + b"\xaa" * (size - first - freed)
            assert instance.memory.read(begin, size) == expected
        assert await instance.call("load", begin) == 0
        assert await traps(instance, "store", begin, 5) is (region == "aux")
        instance.memory.write(begin, b"again")
        assert instance.memory.read(begin, 6) == b"again\0"


async def test_freed_pages_go_back(engine: vm.Engine) -> None:
    async with await instantiate(engine) as instance:
        base = instance.memory.map.heap_base + -instance.memory.map.heap_base % 0x1000
        await instance.call("grow", 65 * MIB)
        before = resident()
        instance.memory.write(base, b"\xaa" * (64 * MIB))
        assert resident() > before + 60 * MIB
        instance.memory.free(base, 64 * MIB)
        assert resident() < before + 4 * MIB
        assert await instance.call("load", base + 63 * MIB) == 0


@pytest.mark.parametrize("offset", [1, 0x800, 0x1000, 0x3FFF])
async def test_free_needs_the_start_of_a_page(engine: vm.Engine, offset: int) -> None:
    async with await instantiate(engine, 0x4000) as instance:
        address = instance.memory.map.rw_address + offset
        for length in (0, 1, 0x4000):
            with pytest.raises(ValueError, match=f"{address:#x} is not a multiple of the page size 0x4000"):
                instance.memory.free(address, length)
        assert instance.memory.read(instance.memory.map.rw_address, 2) == b"\1\2"


# --- what the guest may touch -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [0x1000, 0x10000])
async def test_is_accessible_says_what_the_guest_finds(engine: vm.Engine, page_size: int) -> None:
    async with await instantiate(engine, page_size) as instance:
        layout = instance.memory.map
        await instance.call("grow", 0x12345)
        instance.accessible_aux_size = page_size
        heap_end = -(-(layout.heap_base + 0x12345) // page_size) * page_size
        ends = {
            layout.ro_address: layout.ro_address + layout.ro_accessible,
            layout.rw_address: heap_end,
            layout.stack_low: layout.stack_high,
            layout.aux_address: layout.aux_address + page_size,
        }
        for begin, end in ends.items():
            writable = begin in (layout.rw_address, layout.stack_low)
            ask = instance.memory.is_accessible
            assert ask(begin, end - begin)
            assert ask(begin, end - begin, writable=True) is writable
            assert not ask(begin - 1, 2)
            assert not ask(begin, end - begin + 1)
            for address in (begin - 1, begin, begin + 8, end - 1, end):
                assert ask(address, 1) is not await traps(instance, "load", address)
                assert ask(address, 1, writable=True) is not await traps(instance, "store", address, 1)
            for address in (end - 8, end - 7):
                assert ask(address, 8) is not await traps(instance, "load_u64", address)
                assert ask(address, 8, writable=True) is not await traps(instance, "store_u64", address, 1)


async def test_is_accessible_answers_any_question(engine: vm.Engine) -> None:
    async with await instantiate(engine) as instance:
        ask, inside = instance.memory.is_accessible, instance.memory.map.rw_address
        for address in (0, inside, 2**32 - 1):
            assert ask(address, 0)
            assert ask(address, 0, writable=True)
        for address, length in ((-1, 0), (2**32, 0), (0, 1), (2**32 - 1, 1), (2**64, 1), (-(2**64), 1)):
            assert not ask(address, length)
        for length in (2**32 - 1, 2**32, 2**64, 2**100):
            assert not ask(inside, length)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
async def test_bounds(engine: vm.Engine, change: Callable[[vm.Memory, int, int], Any]) -> None:
    async with await instantiate(engine) as instance:
        layout = instance.memory.map
        wrong = [(0, 1), (0xFFFF_F000, 0x1000), (2**32, 0), (2**32, 1), (2**64, 1), (-0x1000, 1), (-(2**64), 0)]
        wrong += [(layout.ro_address, 1), (layout.ro_address, layout.ro_accessible)]  # not the host's to write
        for begin, size in regions(layout).values():
            instance.memory.write(begin, b"\xaa" * size)
            # the pages before and behind, and ranges that only begin or end inside
            wrong += [(begin - 0x1000, 1), (begin + size, 1), (begin, size + 1), (begin - 0x1000, 0x1001)]
            wrong += [(begin, 2**32), (begin, 2**64)]
        for address, length in wrong:
            message = f"not writable.* {length} bytes .* {address:#x}$"
            with pytest.raises(vm.MemoryAccessError, match=message) as caught:
                change(instance.memory, address, length)
            assert (caught.value.address, caught.value.length) == (address, length)
        for begin, size in regions(layout).values():
            assert instance.memory.read(begin, size) == b"\xaa" * size
        assert instance.memory.read(layout.ro_address, 1) == b"\x11"
        change(instance.memory, layout.ro_address, 0)  # nothing is written


@pytest.mark.parametrize("operation", ALL, ids=lambda operation: operation.__name__)
async def test_misuse(engine: vm.Engine, operation: Callable[[vm.Memory, Any, Any], Any]) -> None:
    async with await instantiate(engine) as instance:
        address = instance.memory.map.rw_address
        with pytest.raises(ValueError, match="length -1 is negative"):
            operation(instance.memory, address, -1)
        for wrong in ("0", 4096.5, None):
            with pytest.raises((TypeError, ValueError)):
                operation(instance.memory, wrong, 1)
            with pytest.raises(TypeError):
                operation(instance.memory, address, wrong)


async def test_only_while_the_guest_is_stopped(engine: vm.Engine) -> None:
    module = await engine.compile(basic(), vm.ModuleConfig(aux_data_size=1))
    instance = await module.instantiate()
    address = module.memory_map.rw_address

    def refused(match: str) -> None:
        for operation in ALL:
            for length in (0, 1):
                with pytest.raises(vm.InstanceStateError, match=match):
                    operation(instance.memory, address, length)
        with pytest.raises(vm.InstanceStateError, match=match):
            _ = instance.accessible_aux_size
        with pytest.raises(vm.InstanceStateError, match=match):
            instance.accessible_aux_size = 0

    call = asyncio.create_task(instance.call("spin"))
    while "running" not in repr(instance):
        await asyncio.sleep(0)
    refused("running")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await instance.aclose()
    refused("closed")


# --- auxiliary data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [0x1000, 0x4000])
async def test_accessible_aux_size(engine: vm.Engine, page_size: int) -> None:
    async with await instantiate(engine, page_size) as instance:
        begin, whole = instance.memory.map.aux_address, instance.memory.map.aux_accessible
        assert instance.accessible_aux_size == whole == AUX
        instance.memory.write(begin, b"\xaa" * whole)
        for size in (whole, page_size, page_size - 1, 1, 0, whole, 0, whole - page_size + 1):
            instance.accessible_aux_size = size
            end = -(-size // page_size) * page_size
            assert instance.accessible_aux_size == end
            if end:
                assert not await traps(instance, "load", begin + end - 1)
                assert len(instance.memory.read(begin, end)) == end
                instance.memory.write(begin + end - 1, b"x")
                assert await instance.call("load", begin + end - 1) == ord("x")
            assert await traps(instance, "load", begin + end)
            for operation in (instance.memory.read, instance.memory.zero):
                with pytest.raises(vm.MemoryAccessError):
                    operation(begin, end + 1)
            with pytest.raises(vm.MemoryAccessError):
                instance.memory.write(begin + end, b"x")
            with pytest.raises(vm.MemoryAccessError):
                instance.memory.free(begin, end + 1)


async def test_aux_data_that_was_cut_off_is_zero_when_it_comes_back(engine: vm.Engine) -> None:
    async with await instantiate(engine) as instance:
        begin, whole = instance.memory.map.aux_address, instance.memory.map.aux_accessible
        instance.memory.write(begin, b"\xaa" * whole)
        instance.accessible_aux_size = 0x1000
        instance.accessible_aux_size = whole
        assert instance.memory.read(begin, whole) == b"\xaa" * 0x1000 + bytes(whole - 0x1000)
        assert await instance.call("load", begin + 0x1000) == 0


async def test_aux_sizes_that_cannot_be(engine: vm.Engine) -> None:
    async with await instantiate(engine) as instance, await instantiate(engine, aux_data_size=0) as without:
        for size in (-1, AUX + 1, 2**32, 2**64):
            with pytest.raises(ValueError, match=f"{size} bytes"):
                instance.accessible_aux_size = size
        with pytest.raises(TypeError):
            instance.accessible_aux_size = 1.5  # type: ignore[assignment]
        assert instance.accessible_aux_size == AUX
        assert without.accessible_aux_size == 0
        without.accessible_aux_size = 0
        with pytest.raises(ValueError, match="the module has 0"):
            without.accessible_aux_size = 1


async def test_the_next_instance_has_all_its_aux_data(engine: vm.Engine) -> None:
    module = await engine.compile(memory(), vm.ModuleConfig(aux_data_size=AUX))
    layout = module.memory_map
    for left in (0x1000, 0, AUX):
        async with await module.instantiate() as first:
            pid = first.pid
            first.memory.write(layout.aux_address, b"secret" * 1000)
            first.accessible_aux_size = left
            assert await traps(first, "load", layout.aux_address + left)
        async with await module.instantiate() as second:
            assert second.pid == pid  # the same process, or this would show nothing
            assert second.accessible_aux_size == AUX
            assert second.memory.read(layout.aux_address, AUX) == bytes(AUX)
            assert await second.call("load", layout.aux_address + AUX - 1) == 0


async def test_only_modules_with_aux_data_pay_for_it(engine: vm.Engine) -> None:
    for aux_data_size in (0, 1):
        module = await engine.compile(memory(), vm.ModuleConfig(aux_data_size=aux_data_size))
        before = open_files()
        async with await module.instantiate():
            more = open_files() - before
        in_files = (engine.config.backend == "recompiler") + engine.config.crosscheck
        assert more["/memfd:pvm-aux (deleted)"] == aux_data_size * in_files
        assert more["/memfd:pvm-ram (deleted)"] == in_files


async def test_a_guest_that_outlives_its_image(nothing_left: Census) -> None:
    """Python frees what is in a cycle in any order: the image first, and its place taken by another one."""
    async with vm.Engine(vm.Config(backend="interpreter", module_cache_size=0)) as engine:
        first = await engine.compile(memory(), vm.ModuleConfig(aux_data_size=8192))
        machine = Interpreted(first._image, in_files=True)
        ffi.release(first._image)
        others = [await engine.compile(memory()) for _ in range(8)]
        ffi.release(machine._handle)
        assert len(others) == 8
        assert not [mapping for mapping in mappings("self") if "pvm-" in mapping.name]
