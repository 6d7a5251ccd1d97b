# SPDX-License-Identifier: MIT
"""Guest memory from both sides: regions, bounds, protection, heap, memset."""

from __future__ import annotations

import array
import asyncio
import gc
from collections.abc import Sequence
from typing import Any

import pytest
from guests import LATEST32, build, memory

import vm

PAGE_SIZES = (0x1000, 0x2000, 0x4000, 0x8000, 0x10000)


def regions(layout: vm.MemoryMap) -> dict[str, tuple[int, int]]:
    """First and last accessible address."""
    return {
        "ro": (layout.ro_address, layout.ro_address + layout.ro_accessible - 1),
        "rw": (layout.rw_address, layout.rw_address + layout.rw_accessible - 1),
        "stack": (layout.stack_low, layout.stack_high - 1),
        "aux": (layout.aux_address, layout.aux_address + layout.aux_accessible - 1),
    }


async def instantiate(engine: vm.Engine, page_size: int = 0x1000, aux_data_size: int = 100) -> vm.Instance:
    config = vm.ModuleConfig(page_size=page_size, aux_data_size=aux_data_size)
    return await (await engine.compile(memory(), config)).instantiate()


async def traps(instance: vm.Instance, export: str, *args: int) -> bool:
    instance.prepare_call(export, *args)
    match await instance.run():
        case vm.Trap(pc):
            assert pc == instance.module.exports[export]
            return True
        case vm.Finished():
            return False
        case other:
            raise AssertionError(other)


# --- from the host ----------------------------------------------------------------------------------------------------


async def test_initial_contents(engine: vm.Engine) -> None:
    async with await instantiate(engine) as instance:
        layout = instance.memory.map
        assert layout is instance.module.memory_map
        ro, rw = bytes.fromhex("1122334455667788"), bytes.fromhex("0102030405060708")
        assert instance.memory.read(layout.ro_address, 16) == ro + bytes(8)
        assert instance.memory.read(layout.rw_address, layout.rw_accessible) == rw + bytes(layout.rw_accessible - 8)
        assert instance.memory.read(layout.stack_low, layout.stack_accessible) == bytes(layout.stack_accessible)
        assert instance.memory.read(layout.aux_address, layout.aux_accessible) == bytes(layout.aux_accessible)
        assert instance.memory.heap_size == 0


@pytest.mark.parametrize("region", ["rw", "stack", "aux"])
async def test_write_and_read(engine: vm.Engine, region: str) -> None:
    async with await instantiate(engine) as instance:
        first, last = regions(instance.memory.map)[region]
        instance.memory.write(first, b"abc")
        instance.memory.write(last - 2, b"xyz")
        assert instance.memory.read(first, 3) == b"abc"
        assert instance.memory.read(last - 2, 3) == b"xyz"
        assert await instance.call("load", first + 1) == ord("b")
        assert await instance.call("load", last) == ord("z")
        buffer = bytearray(b"........")
        instance.memory.read_into(last - 2, memoryview(buffer)[2:5])
        assert buffer == b"..xyz..."
        everything = bytes(n % 251 for n in range(last - first + 1))
        instance.memory.write(first, everything)
        assert instance.memory.read(first, len(everything)) == everything


@pytest.mark.parametrize(
    "data",
    [b"abcd", bytearray(b"abcd"), memoryview(b"abcd"), memoryview(b"..abcd")[2:], array.array("I", [0x64636261])],
    ids=lambda data: type(data).__name__,
)
async def test_what_can_be_written(engine: vm.Engine, data: Any) -> None:
    async with await instantiate(engine) as instance:
        address = instance.memory.map.rw_address
        instance.memory.write(address, data)
        assert instance.memory.read(address, 5) == b"abcd\x05"


@pytest.mark.parametrize("data", ["text", 5, None, [1], memoryview(b"abcdef")[::2]], ids=repr)
async def test_what_cannot_be_written(engine: vm.Engine, data: Any) -> None:
    async with await instantiate(engine) as instance:
        with pytest.raises((TypeError, ValueError, BufferError)):
            instance.memory.write(instance.memory.map.rw_address, data)
        assert instance.memory.read(instance.memory.map.rw_address, 2) == b"\1\2"


async def test_read_into_needs_a_writable_buffer(engine: vm.Engine) -> None:
    async with await instantiate(engine) as instance:
        for buffer in (b"abc", memoryview(b"abc"), "abc", 3):
            with pytest.raises((TypeError, BufferError)):
                instance.memory.read_into(instance.memory.map.rw_address, buffer)  # type: ignore[arg-type]


async def test_read_only_data_is_read_only_for_the_host_too(engine: vm.Engine) -> None:
    async with await instantiate(engine) as instance, await instantiate(engine) as other:
        first, last = regions(instance.memory.map)["ro"]
        for address in (first, last):
            with pytest.raises(vm.MemoryAccessError, match="not writable"):
                instance.memory.write(address, b"x")
        assert other.memory.read(first, 1) == b"\x11"
        instance.memory.write(first, b"")  # nothing is written


@pytest.mark.parametrize("region", ["ro", "rw", "stack", "aux"])
async def test_bounds(engine: vm.Engine, region: str) -> None:
    async with await instantiate(engine) as instance:
        first, last = regions(instance.memory.map)[region]
        size = last - first + 1
        assert len(instance.memory.read(first, size)) == size
        for address, length in ((first - 1, 1), (first - 1, 2), (last, 2), (last + 1, 1), (first, size + 1)):
            with pytest.raises(vm.MemoryAccessError) as caught:
                instance.memory.read(address, length)
            assert (caught.value.address, caught.value.length) == (address, length)
            with pytest.raises(vm.MemoryAccessError):
                instance.memory.write(address, bytes(length))
            with pytest.raises(vm.MemoryAccessError):
                instance.memory.read_into(address, bytearray(length))


@pytest.mark.parametrize(
    ("address", "length"),
    [
        (0, 1),
        (2**32 - 1, 1),
        (2**32, 1),
        (2**64, 1),
        (-1, 1),
        (-(2**64), 1),
        (0x20000, 2**32),
        (0x20000, 2**32 + 1),
        (0x20000, 2**64),
        (0x20000, 2**100),
        (2**64 - 1, 2),
    ],
)
async def test_absurd_ranges(engine: vm.Engine, address: int, length: int) -> None:
    async with await instantiate(engine) as instance:
        with pytest.raises(vm.MemoryAccessError):
            instance.memory.read(address, length)


async def test_misuse(engine: vm.Engine) -> None:
    async with await instantiate(engine) as instance:
        address = instance.memory.map.rw_address
        with pytest.raises(ValueError, match="negative"):
            instance.memory.read(address, -1)
        for wrong in ("0", 1.5, None):
            with pytest.raises(TypeError):
                instance.memory.read(wrong, 1)  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                instance.memory.read(address, wrong)  # type: ignore[arg-type]


async def test_nothing(engine: vm.Engine) -> None:
    """Ranges of no bytes are fine wherever an address can be, as empty slices are."""
    async with await instantiate(engine) as instance:
        for address in (0, 0x10000, instance.memory.map.rw_address, 2**32 - 1):
            assert instance.memory.read(address, 0) == b""
            instance.memory.write(address, b"")
            instance.memory.read_into(address, bytearray())
        for address in (-1, 2**32):
            with pytest.raises(vm.MemoryAccessError):
                instance.memory.read(address, 0)


async def test_without_any_region(engine: vm.Engine) -> None:
    async with await (await engine.compile(build("pub @main:\na0 = u8 [a0]\nret"))).instantiate() as instance:
        layout = instance.memory.map
        for address in (layout.ro_address, layout.rw_address, layout.stack_low, layout.stack_high - 1):
            with pytest.raises(vm.MemoryAccessError):
                instance.memory.read(address, 1)
            assert await traps(instance, "main", address)


# --- from the guest ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", PAGE_SIZES)
async def test_what_the_guest_can_touch(engine: vm.Engine, page_size: int) -> None:
    """Exactly what the memory map says, to the byte, and never a byte more."""
    async with await instantiate(engine, page_size) as instance:
        for name, (first, last) in regions(instance.memory.map).items():
            writable = name in ("rw", "stack")
            for address, inside in ((first - 1, False), (first, True), (last, True), (last + 1, False)):
                assert await traps(instance, "load", address) is not inside, (name, hex(address))
                assert await traps(instance, "store", address, 0x5A) is not (inside and writable), (name, hex(address))
            assert await traps(instance, "load_u64", last - 6)
            assert not await traps(instance, "load_u64", last - 7)
            assert await traps(instance, "store_u64", last - 6, -1)
        assert instance.memory.read(regions(instance.memory.map)["ro"][0], 1) == b"\x11"


async def test_a_store_over_the_edge_writes_nothing(engine: vm.Engine) -> None:
    async with await instantiate(engine) as instance:
        for name in ("rw", "stack"):
            last = regions(instance.memory.map)[name][1]
            assert await traps(instance, "store_u64", last - 3, -1)
            assert instance.memory.read(last - 3, 4) == bytes(4)


async def test_addresses_are_32_bits(engine: vm.Engine) -> None:
    async with await instantiate(engine) as instance:
        address = instance.memory.map.rw_address
        for alias in (address + 2**32, address - 2**32, address + (5 << 32)):
            assert await instance.call("load", alias) == 1
        assert await traps(instance, "load", 2**32 - 1)
        assert await traps(instance, "load_u64", 2**32 - 4)
        assert await traps(instance, "load", 2**35)


async def test_guard_pages_all_around(engine: vm.Engine) -> None:
    async with await instantiate(engine) as instance:
        layout = instance.memory.map
        holes: Sequence[int] = (0, 1, 0xFFF, 0x4000, 0xFFFF, 0xFFFF_0000, 0xFFFF_FFFF)
        for address in (*holes, layout.rw_address - 1, layout.aux_address - 1, layout.stack_low - 1, 0x8000_0000):
            assert await traps(instance, "load", address), hex(address)
            assert await traps(instance, "store", address, 1), hex(address)


async def test_the_stack_pointer(engine: vm.Engine) -> None:
    for aux, top in ((0, 0xFFFE_0000), (1, 0xFFFD_0000), (0x10001, 0xFFFC_0000)):
        async with await instantiate(engine, aux_data_size=aux) as instance:
            assert await instance.call("stack_pointer") == top == instance.memory.map.stack_high


# --- heap -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", PAGE_SIZES)
async def test_growing_the_heap(engine: vm.Engine, page_size: int) -> None:
    async with await instantiate(engine, page_size) as instance:
        layout = instance.memory.map
        assert await instance.call("grow", 0) == layout.heap_base
        top = layout.heap_base
        for size in (1, page_size, 3, 3 * page_size - 1, 0x12345):
            top += size
            assert await instance.call("grow", size) == top
            assert await instance.call("grow", 0) == top
            assert instance.memory.heap_size == top - layout.heap_base
            end = -(-top // page_size) * page_size
            assert not await traps(instance, "store", end - 1, 0xAB)
            assert await traps(instance, "store", end, 0xAB)
            assert await traps(instance, "load", end)
            assert instance.memory.read(end - 2, 2) == b"\0\xab"
            with pytest.raises(vm.MemoryAccessError):
                instance.memory.read(end - 1, 2)
        assert instance.memory.read(layout.rw_address, 4) == b"\1\2\3\4"


async def test_growing_the_heap_too_much(engine: vm.Engine) -> None:
    async with await instantiate(engine) as instance:
        layout = instance.memory.map
        for size in (layout.max_heap_size + 1, 2**32 - 1, 2**32, 2**33, -1, 2**63):
            assert await instance.call("grow", size) == 0
            assert instance.memory.heap_size == 0
        assert await traps(instance, "load", layout.rw_address + layout.rw_accessible)
        top = layout.heap_base + layout.max_heap_size  # gigabytes, of which nothing is there until it is touched
        assert await instance.call("grow", layout.max_heap_size, returns=vm.u32) == top
        assert await instance.call("grow", 1) == 0
        assert not await traps(instance, "store", top - 1, 9)
        assert instance.memory.read(top - 2, 2) == b"\0\x09"
        assert await traps(instance, "load", top)


async def test_the_top_of_a_large_heap_is_sign_extended(engine: vm.Engine) -> None:
    async with await instantiate(engine) as instance:
        heap_base = instance.memory.map.heap_base
        top = await instance.call("grow", 0x9000_0000, returns=vm.i64)
        assert top == heap_base + 0x9000_0000 - 2**32


async def test_the_heap_of_a_32_bit_program(engine: vm.Engine) -> None:
    blob = build("%rw_data_size = 10\npub @grow:\na0 = sbrk a0\nret\npub @store:\nu8 [a0] = a1\nret", LATEST32)
    async with await (await engine.compile(blob)).instantiate() as instance:
        base = instance.memory.map.heap_base
        assert await instance.call("grow", 0) == base
        assert await instance.call("grow", 0x9000_0000) == base + 0x9000_0000
        assert not await traps(instance, "store", base + 0x9000_0000 - 1, 5)
        assert await instance.call("grow", 2**32 - 1) == 0


async def test_sbrk_in_a_loop_does_not_hold_the_loop_up(engine: vm.Engine) -> None:
    blob = build("pub @main:\na1 = sbrk a2\na0 = a0 - 1\njump @main if a0 != 0\nret")
    async with await (await engine.compile(blob)).instantiate() as instance:
        turns = 0
        call = asyncio.create_task(instance.call("main", 20_000))
        while not call.done():
            turns += 1
            await asyncio.sleep(0)
        assert await call == 0
        assert turns > 10


# --- memset -----------------------------------------------------------------------------------------------------------


async def test_memset(engine: vm.Engine) -> None:
    async with await instantiate(engine) as instance:
        address = instance.memory.map.rw_address
        await instance.call("fill", address + 2, 0x1AB, 3)
        assert instance.memory.read(address, 8) == bytes.fromhex("0102ababab060708")
        assert [instance.registers[name] for name in ("a0", "a1", "a2")] == [address + 5, 0x1AB, 0]
        await instance.call("fill", 5, 1, 0)  # nothing is touched
        assert [instance.registers[name] for name in ("a0", "a1", "a2")] == [5, 1, 0]
        await instance.call("fill", address, 0xCD, 0x5_0000_0002)  # the count is a u32
        assert instance.memory.read(address, 3) == b"\xcd\xcd\xab"
        assert instance.registers["a2"] == 0


@pytest.mark.parametrize("room", [0, 1, 7, 100, 4096])
async def test_a_memset_that_traps(engine: vm.Engine, room: int) -> None:
    """a0 and a2 say how far it came; the upper half of a2 is cleared whatever happened."""
    async with await instantiate(engine) as instance:
        end = regions(instance.memory.map)["rw"][1] + 1
        for _ in range(2):
            instance.memory.write(end - room - 1, bytes(room + 1))
            assert await traps(instance, "fill", end - room, 0xEE, (9 << 32) + room + 5)
            assert [instance.registers[name] for name in ("a0", "a1", "a2")] == [end, 0xEE, 5]
            assert instance.memory.read(end - room - 1, room + 1) == b"\0" + b"\xee" * room


async def test_memset_of_read_only_data_traps(engine: vm.Engine) -> None:
    async with await instantiate(engine) as instance:
        assert await traps(instance, "fill", instance.memory.map.ro_address, 1, 4)
        assert instance.registers["a2"] == 4


# --- reuse ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0x1000, 0x30000, 0x200000], ids=["in place", "punched", "off the loop"])
async def test_the_next_instance_sees_nothing_of_the_last(engine: vm.Engine, size: int) -> None:
    config = vm.ModuleConfig(aux_data_size=5000)
    module = await engine.compile(memory(), config)
    secret = b"secret" * 100
    async with await module.instantiate() as first:
        pid = first.pid
        layout = first.memory.map
        await first.call("grow", size)
        heap_end = layout.heap_base + size
        assert await first.call("fill", layout.heap_base, 0x55, size) == heap_end
        for address in (
            layout.rw_address,
            layout.stack_high - 600,
            layout.stack_low,
            layout.aux_address,
            heap_end - 600,
        ):
            first.memory.write(address, secret)
        first.registers["s0"] = 0xDEAD
    async with await module.instantiate() as second:
        assert second.pid == pid  # the same process, or this would show nothing
        rw = bytes.fromhex("0102030405060708")
        assert second.memory.read(layout.rw_address, layout.rw_accessible) == rw + bytes(layout.rw_accessible - 8)
        assert second.memory.read(layout.stack_low, layout.stack_accessible) == bytes(layout.stack_accessible)
        assert second.memory.read(layout.aux_address, layout.aux_accessible) == bytes(layout.aux_accessible)
        assert second.memory.heap_size == 0
        assert set(second.registers.values()) == {0}
        assert (second.program_counter, second.next_program_counter) == (None, None)
        assert await traps(second, "load", layout.rw_address + layout.rw_accessible)  # the heap is gone,
        await second.call("grow", size)
        assert not any(second.memory.read(layout.heap_base, size))  # and zero when it comes back
        assert await second.call("load", heap_end - 1) == 0


async def test_an_error_lets_go_of_the_buffer(engine: vm.Engine) -> None:
    """CPython 3.11 crashes when it collects a cycle with a cffi buffer of a memoryview in it."""
    module = await engine.compile(build("pub @main:\n    ret\n"))
    async with await module.instantiate() as instance:
        buffer = bytearray(16)
        with pytest.raises(vm.MemoryAccessError) as read:
            instance.memory.read_into(0, memoryview(buffer))
        with pytest.raises(vm.MemoryAccessError) as written:
            instance.memory.write(0, memoryview(buffer))
        for error in (read.value, written.value):
            error.args += (error,)  # a cycle
        del read, written, error
        gc.collect()
