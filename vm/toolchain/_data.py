# SPDX-License-Identifier: MIT
"""The initial contents of the guest's memory: the sections of data, with the addresses in them brought up to date."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vm.toolchain._layout import Layout
from vm.toolchain._relocations import DataRelocation, Relocations
from vm.toolchain._sections import ABSOLUTE, Image, Kind, Section, Target

_LOW_6_BITS: Final = 0x3F
#: Our own limit on zeros between two sections of data, which come from alignment or from read-only zeros.
_LARGEST_GAP: Final = 1 << 20


class Data:
    """Fills the two regions; `code_address` gives the code address of an address in the ELF file."""

    def __init__(
        self, image: Image, relocations: Relocations, layout: Layout, code_address: Callable[[int], int]
    ) -> None:
        self._image = image
        self._relocations = relocations
        self._layout = layout
        self._code_address = code_address
        self.ro_data = self._region(layout.ro_sections, layout.ro_address)
        self.rw_data = self._region(layout.rw_sections, layout.rw_address)

    def _region(self, sections: list[Section], start: int) -> bytes:
        """The contents up to the last byte that is not zero."""
        region = bytearray()
        for section in sections:
            offset = self._layout.addresses[section.index] - start
            data = bytearray(section.data)
            for relocation in self._relocations.of_data(section):
                self._apply(section, data, relocation)
            if any(data):
                if offset > len(region) + _LARGEST_GAP:
                    raise self._image.error(f"a gap of {offset - len(region)} bytes before it", section=section)
                region += bytes(offset - len(region))
                region += data.rstrip(b"\0")
        return bytes(region)

    def _value(self, target: Target | None) -> int:
        if target is None:
            return 0
        if target.section != ABSOLUTE and self._image.sections[target.section].kind is Kind.CODE:
            return self._code_address(target.address)
        return self._layout.address_of(target)

    def _apply(self, section: Section, data: bytearray, relocation: DataRelocation) -> None:
        offset, bits, added, subtracted = relocation
        value = self._value(added) - self._value(subtracted)
        if added is not None and added.section == ABSOLUTE and subtracted is None:
            value = added.address  # of which there may be 64 bits
        if bits == 0:
            self._write_uleb128(section, data, offset, value)
        elif bits == 6:
            data[offset] = data[offset] & ~_LOW_6_BITS | value & _LOW_6_BITS
        else:
            data[offset : offset + bits // 8] = (value & ((1 << bits) - 1)).to_bytes(bits // 8, "little")

    def _write_uleb128(self, section: Section, data: bytearray, offset: int, value: int) -> None:
        """Overwrite the ULEB128 number at `offset`, in as many bytes as it has."""
        place = section.address + offset
        if value < 0:
            raise self._image.error("a negative distance in a ULEB128 number", section=section, address=place)
        while True:
            more = offset < len(data) and data[offset] & 0x80
            if offset >= len(data):
                raise self._image.error("a ULEB128 number leaves its section", section=section, address=place)
            data[offset] = value & 0x7F | (0x80 if more else 0)
            value >>= 7
            if not more:
                break
            offset += 1
        if value:
            raise self._image.error("a distance does not fit its ULEB128 number", section=section, address=place)
