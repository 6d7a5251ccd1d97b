# SPDX-License-Identifier: MIT
"""The memory layout of a program: the specification's example, the corners, and what holds for every map."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vm._errors import MemoryMapError, VMError
from vm.memory_map import ADDRESS_SPACE_TOP, MAX_PAGE_SIZE, MIN_PAGE_SIZE, MemoryMap, align_up

G = MAX_PAGE_SIZE


def test_example_of_the_specification() -> None:
    m = MemoryMap(ro_size=1, rw_size=1, stack_size=1, page_size=0x4000)
    assert (m.ro_address, m.ro_accessible, m.ro_reserved) == (0x10000, 0x4000, 0x10000)
    assert (m.rw_address, m.rw_accessible, m.rw_reserved) == (0x30000, 0x4000, 0x10000)
    assert m.heap_base == 0x30001
    assert (m.stack_low, m.stack_high) == (0xFFFDC000, 0xFFFE0000)
    assert (m.stack_accessible, m.stack_reserved) == (0x4000, 0x10000)
    assert m.max_heap_size == (0xFFFD0000 - 0x50000) + (0x40000 - 0x30001)


def test_empty_program() -> None:
    m = MemoryMap()
    assert m.page_size == 4096
    assert (m.ro_address, m.ro_accessible) == (0x10000, 0)
    assert (m.rw_address, m.rw_accessible, m.heap_base) == (0x20000, 0, 0x20000)
    assert m.stack_low == m.stack_high == 0xFFFE0000
    assert m.aux_address == ADDRESS_SPACE_TOP == 0xFFFF0000
    assert m.aux_accessible == m.aux_reserved == 0


def test_auxiliary_data_pushes_the_stack_down() -> None:
    m = MemoryMap(stack_size=0x2000, aux_size=0x10001)
    assert (m.aux_address, m.aux_accessible, m.aux_reserved) == (0xFFFD0000, 0x11000, 0x20000)
    assert (m.stack_low, m.stack_high) == (0xFFFBE000, 0xFFFC0000)


@pytest.mark.parametrize("page_size", [0, 1, -4096, 0x800, 0x1001, 0x3000, 0x20000, 1 << 32])
def test_bad_page_sizes(page_size: int) -> None:
    with pytest.raises(MemoryMapError, match="page size"):
        MemoryMap(page_size=page_size)


@pytest.mark.parametrize("page_size", [0x1000, 0x2000, 0x4000, 0x8000, 0x10000])
def test_good_page_sizes(page_size: int) -> None:
    assert MemoryMap(ro_size=1, page_size=page_size).ro_accessible == page_size


@pytest.mark.parametrize("name", ["ro_size", "rw_size", "stack_size", "aux_size"])
@pytest.mark.parametrize("size", [-1, 1 << 32])
def test_sizes_that_are_no_u32(name: str, size: int) -> None:
    with pytest.raises(MemoryMapError, match=name):
        MemoryMap(**{name: size})


@pytest.mark.parametrize("name", ["ro_size", "rw_size", "stack_size", "aux_size"])
def test_largest_single_region(name: str) -> None:
    largest = (1 << 32) - 5 * G
    assert MemoryMap(**{name: largest}) is not None
    with pytest.raises(MemoryMapError, match="do not fit the address space: 0x10000 bytes too many"):
        MemoryMap(**{name: largest + 1})
    with pytest.raises(MemoryMapError):
        MemoryMap(**{name: 0xFFFFFFFF})


def test_full_address_space_leaves_only_the_slack_as_heap() -> None:
    largest = (1 << 32) - 5 * G
    assert MemoryMap(ro_size=largest).max_heap_size == 0
    assert MemoryMap(ro_size=largest - 2 * G, rw_size=G + 5).max_heap_size == G - 5


def test_error_is_one_of_ours_and_a_value_error() -> None:
    with pytest.raises(VMError):
        MemoryMap(page_size=3)
    with pytest.raises(ValueError, match="page size 0x3"):
        MemoryMap(page_size=3)


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        MemoryMap().ro_size = 1  # type: ignore[misc]
    assert MemoryMap(ro_size=5) == MemoryMap(ro_size=5) != MemoryMap(ro_size=6)


sizes = st.one_of(st.integers(0, 0x50000), st.integers(0, 0xFFFFFFFF))


@settings(deadline=None, database=None)
@given(sizes, sizes, sizes, sizes, st.sampled_from([0x1000, 0x2000, 0x4000, 0x8000, 0x10000]))
def test_regions_keep_their_distance(ro: int, rw: int, stack: int, aux: int, page: int) -> None:
    needed = sum(align_up(size, G) for size in (ro, rw, stack, aux))
    arguments = {"ro_size": ro, "rw_size": rw, "stack_size": stack, "aux_size": aux, "page_size": page}
    if needed > (1 << 32) - 5 * G:
        with pytest.raises(MemoryMapError):
            MemoryMap(**arguments)
        return
    m = MemoryMap(**arguments)
    regions = [
        (m.ro_address, m.ro_address + m.ro_reserved, m.ro_accessible, ro),
        (m.rw_address, m.rw_address + m.rw_reserved, m.rw_accessible, rw),
        (m.stack_high - m.stack_reserved, m.stack_high, m.stack_accessible, stack),
        (m.aux_address, m.aux_address + m.aux_reserved, m.aux_accessible, aux),
    ]
    last = 0
    for start, end, accessible, size in regions:
        assert start >= last + G
        assert start % G == end % G == 0
        assert size <= accessible <= end - start
        assert accessible % page == 0
        assert accessible - size < page
        last = end
    assert last <= ADDRESS_SPACE_TOP
    assert m.stack_low == m.stack_high - m.stack_accessible
    heap_end = m.heap_base + m.max_heap_size
    assert m.heap_base == m.rw_address + rw
    assert heap_end + G == m.stack_high - m.stack_reserved
    assert MIN_PAGE_SIZE <= m.page_size <= MAX_PAGE_SIZE
