# SPDX-License-Identifier: MIT
"""Where the regions of a program lie in its 32-bit address space (blob specification, section 8).

From low to high: guard, read-only data, guard, read-write data and heap, free space, stack, guard, auxiliary
data, guard.  Every region starts on a boundary of `MAX_PAGE_SIZE`, whatever the page size, so that a
program's addresses do not depend on the host's pages; only how much of a region can be touched does.

All values are numbers of bytes or guest addresses.  This module is pure data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from vm._errors import MemoryMapError

#: Smallest and largest page size; a page size is a power of two.
MIN_PAGE_SIZE: Final = 0x1000
MAX_PAGE_SIZE: Final = 0x10000

#: End of what a program can be given; auxiliary data and the stack grow down from here.
ADDRESS_SPACE_TOP: Final = 0x1_0000_0000 - MAX_PAGE_SIZE

_U32_MAX: Final = 0xFFFF_FFFF


def align_up(value: int, granule: int) -> int:
    """`value` rounded up to a multiple of `granule`, a power of two."""
    return (value + granule - 1) & -granule


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryMap:
    """The memory layout of one program; made of the five sizes, everything else follows.

    Of each region, ``*_accessible`` is what the guest can touch (whole pages) and ``*_reserved`` the address space
    kept for it (whole multiples of `MAX_PAGE_SIZE`).

    Raises `MemoryMapError` for a bad page size, a size outside 0..2^32-1, and sizes that do not fit together.
    """

    #: Bytes of read-only data, as the blob declares them.
    ro_size: int = 0
    #: Bytes of read-write data, as the blob declares them.
    rw_size: int = 0
    #: Bytes of stack, as the blob declares them.
    stack_size: int = 0
    #: Bytes of auxiliary data, the host's choice: the host may write it, the guest only read it.
    aux_size: int = 0
    #: Bytes of a page, the host's choice.
    page_size: int = MIN_PAGE_SIZE

    ro_address: int = field(init=False)
    ro_accessible: int = field(init=False)
    ro_reserved: int = field(init=False)

    rw_address: int = field(init=False)
    #: Before any `sbrk`, which makes more of it accessible.
    rw_accessible: int = field(init=False)
    rw_reserved: int = field(init=False)

    #: Where the heap starts: the first byte after the read-write data, not aligned.
    heap_base: int = field(init=False)
    #: Most bytes `sbrk` can hand out in all.
    max_heap_size: int = field(init=False)

    #: Lowest accessible address of the stack.
    stack_low: int = field(init=False)
    #: End of the stack, exclusive; the initial stack pointer.
    stack_high: int = field(init=False)
    stack_accessible: int = field(init=False)
    stack_reserved: int = field(init=False)

    aux_address: int = field(init=False)
    aux_accessible: int = field(init=False)
    aux_reserved: int = field(init=False)

    def __post_init__(self) -> None:
        page, guard = self.page_size, MAX_PAGE_SIZE
        if not MIN_PAGE_SIZE <= page <= MAX_PAGE_SIZE or page & (page - 1):
            raise MemoryMapError(
                f"invalid page size {page:#x}: it must be a power of two from {MIN_PAGE_SIZE:#x} to {MAX_PAGE_SIZE:#x}"
            )
        for name in ("ro_size", "rw_size", "stack_size", "aux_size"):
            size = getattr(self, name)
            if not 0 <= size <= _U32_MAX:
                raise MemoryMapError(f"invalid {name} {size}: it must be from 0 to {_U32_MAX}")

        ro_reserved = align_up(self.ro_size, guard)
        rw_reserved = align_up(self.rw_size, guard)
        stack_reserved = align_up(self.stack_size, guard)
        aux_reserved = align_up(self.aux_size, guard)

        rw_address = guard + ro_reserved + guard
        heap_base = rw_address + self.rw_size
        low = rw_address + rw_reserved + guard

        aux_address = ADDRESS_SPACE_TOP - aux_reserved
        stack_high = aux_address - guard
        high = stack_high - stack_reserved
        if low > high:
            raise MemoryMapError(
                f"the memory regions do not fit the address space: {low - high:#x} bytes too many for ro_size "
                f"{self.ro_size:#x}, rw_size {self.rw_size:#x}, stack_size {self.stack_size:#x}, "
                f"aux_size {self.aux_size:#x}"
            )

        values = {
            "ro_address": guard,
            "ro_accessible": align_up(self.ro_size, page),
            "ro_reserved": ro_reserved,
            "rw_address": rw_address,
            "rw_accessible": align_up(self.rw_size, page),
            "rw_reserved": rw_reserved,
            "heap_base": heap_base,
            "max_heap_size": (high - low) + (rw_address + rw_reserved - heap_base),
            "stack_low": stack_high - align_up(self.stack_size, page),
            "stack_high": stack_high,
            "stack_accessible": align_up(self.stack_size, page),
            "stack_reserved": stack_reserved,
            "aux_address": aux_address,
            "aux_accessible": align_up(self.aux_size, page),
            "aux_reserved": aux_reserved,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
