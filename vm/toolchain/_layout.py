# SPDX-License-Identifier: MIT
"""Where data goes in the guest's memory: read-only sections, data, the spill area, zeroed data (ELF input
specification; blob specification, section 8).

This is settled before any code is made, so that addresses of data are plain numbers from then on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from vm._errors import MemoryMapError
from vm.memory_map import MIN_PAGE_SIZE, MemoryMap, align_up
from vm.toolchain._sections import ABSOLUTE, Image, Kind, Section, Target

#: Stack of a guest that does not ask for more.
DEFAULT_STACK_SIZE: Final = 0x2000
_LUI_REACH: Final = 0x7FFF_F000
_SPILL_SLOTS: Final = 2


class Layout:
    """Addresses in the guest's memory of all that is in it; raises `ElfError` if it does not fit."""

    def __init__(self, image: Image, reached: Iterable[int], *, stack_size: int, spills: bool) -> None:
        self._image = image
        sections = [image.sections[index] for index in sorted(reached)]
        self.ro_sections = [s for s in sections if s.kind in (Kind.RO_DATA, Kind.METADATA)]
        self.rw_sections = [s for s in sections if s.kind is Kind.RW_DATA]
        self.bss_sections = [s for s in sections if s.kind is Kind.BSS]
        #: Address of each section in the guest's memory, by its index.
        self.addresses: dict[int, int] = {}
        # Regions start on multiples of the largest alignment a section can have.
        self.ro_size = self._place(self.ro_sections, 0)
        rw_size = self._place(self.rw_sections, 0)
        spill_offset = align_up(rw_size, 8)
        if spills:
            rw_size = spill_offset + _SPILL_SLOTS * image.word_size
        self.rw_size = self._place(self.bss_sections, rw_size)
        self.stack_size = align_up(max(stack_size, DEFAULT_STACK_SIZE), MIN_PAGE_SIZE)
        try:
            memory = MemoryMap(ro_size=self.ro_size, rw_size=self.rw_size, stack_size=self.stack_size)
        except MemoryMapError as error:
            raise image.error(str(error)) from None
        if memory.heap_base > _LUI_REACH and image.is64:
            raise image.error(f"{self.ro_size + self.rw_size} bytes of data are more than lui can address")
        self.ro_address, self.rw_address, self.heap_base = memory.ro_address, memory.rw_address, memory.heap_base
        for section in self.ro_sections:
            self.addresses[section.index] += memory.ro_address
        for section in (*self.rw_sections, *self.bss_sections):
            self.addresses[section.index] += memory.rw_address
        #: Where registers are spilled to, a word for each scratch register.
        self.spill_address = memory.rw_address + spill_offset

    def _place(self, sections: list[Section], size: int) -> int:
        for section in sections:
            size = align_up(size, max(section.align, 1))
            self.addresses[section.index] = size
            size += section.size
        return size

    def address_of(self, target: Target) -> int:
        """The address in the guest's memory, modulo 2^32; `target` is not code."""
        if target.section == ABSOLUTE:
            return target.address & 0xFFFF_FFFF
        moved = self.addresses[target.section] - self._image.sections[target.section].address
        return target.address + moved & 0xFFFF_FFFF
