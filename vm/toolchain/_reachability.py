# SPDX-License-Identifier: MIT
"""What the exports can reach: code by following it, sections of data by the addresses taken of them.

All else is left out of the program.
"""

from __future__ import annotations

from typing import Final

from vm.toolchain._cfg import Flow
from vm.toolchain._metadata import ExportedFunction, MetadataReader
from vm.toolchain._relocations import DataRelocation, Relocations
from vm.toolchain._sections import ABSOLUTE, UNDEFINED, Image, Kind, Section, Target

_SHF_ALLOC: Final = 2
_LOADED: Final = frozenset({Kind.RO_DATA, Kind.RW_DATA, Kind.BSS, Kind.METADATA})


class Reachable:
    """The part of the ELF file that the program is made of."""

    def __init__(
        self, image: Image, relocations: Relocations, metadata: MetadataReader, exports: list[ExportedFunction]
    ) -> None:
        self._image = image
        self._relocations = relocations
        self.exports = exports
        self.flow = Flow(image, relocations, metadata)
        #: Addresses of code that are in memory or in registers.
        self.taken: set[int] = set()
        #: Indexes of the sections of data.
        self.sections: set[int] = set()
        self._pending_sections: list[int] = []
        for export in exports:
            self.flow.lead(export.address, export.address)
        self._run()

    def _run(self) -> None:
        flow = self.flow
        while True:
            while flow.pending:
                flow.walk(flow.pending.pop())
            if flow.addresses:
                for target in set(flow.addresses):
                    self._take(target, None, 0)
                flow.addresses.clear()
            elif self._pending_sections:
                self._read(self._image.sections[self._pending_sections.pop()])
            else:
                return

    def _take(self, target: Target, holder: Section | None, offset: int) -> None:
        """Note that the program holds the address `target`; `holder` says where, if in data."""
        if target.section == ABSOLUTE:
            return
        assert target.section != UNDEFINED
        section = self._image.sections[target.section]
        if section.kind is Kind.CODE:
            if target.address not in self.taken:
                if target.address & 1 or not section.address <= target.address <= section.address + section.size:
                    raise self._error(f"the address {target.address:#x} is of no instruction", holder, offset)
                self.taken.add(target.address)
                if target.address not in self.flow.leaders:
                    self.flow.leaders.add(target.address)
                    self.flow.pending.append(target.address)
        elif section.kind in _LOADED and section.flags & _SHF_ALLOC:
            if section.index not in self.sections:
                self.sections.add(section.index)
                self._pending_sections.append(section.index)
        else:
            what = "thread-local" if section.kind is Kind.TLS else "not loaded"
            raise self._error(f"the address of something in section {section.name}, which is {what}", holder, offset)

    def _error(self, what: str, holder: Section | None, offset: int) -> Exception:
        return self._image.error(what, section=holder, address=None if holder is None else holder.address + offset)

    def _is_code(self, target: Target | None) -> bool:
        return (
            target is not None and target.section != ABSOLUTE and self._image.sections[target.section].kind is Kind.CODE
        )

    def _read(self, section: Section) -> None:
        for relocation in self._relocations.of_data(section):
            self._check(section, relocation)
            for target in (relocation.added, relocation.subtracted):
                if target is not None:
                    self._take(target, section, relocation.offset)

    def _check(self, section: Section, relocation: DataRelocation) -> None:
        added, subtracted, bits = relocation.added, relocation.subtracted, relocation.bits
        if self._is_code(subtracted):
            what = "a distance between two places of the code, which has no meaning for a guest"
            raise self._error(what, section, relocation.offset)
        if subtracted is not None and added is None:
            raise self._error("a negative address", section, relocation.offset)
        if bits not in (32, 64) and subtracted is None:
            raise self._error(f"an address in {bits or 'a variable number of'} bits", section, relocation.offset)
        if bits not in (32, 64) and self._is_code(added):
            raise self._error(f"a code address in {bits} bits", section, relocation.offset)
