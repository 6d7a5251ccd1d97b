# SPDX-License-Identifier: MIT
"""PolkaVM's metadata: what a guest exports, imports and how much stack it wants (ELF input specification)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final, NamedTuple

from vm._printable import shorten
from vm.isa import ARGUMENT_REGISTERS
from vm.program import MAX_EXPORTS, MAX_IMPORTS
from vm.toolchain._relocations import Relocations
from vm.toolchain._sections import Image, Section, Target

_EXPORTS: Final = ".polkavm_exports"
_MIN_STACK_SIZE: Final = ".polkavm_min_stack_size"
_MOST_RESULTS: Final = 2
#: Our own limits, on each symbol and on all of them: they can overlap in the file, but not in memory.
_LONGEST_SYMBOL: Final = 4096
_MOST_SYMBOL_BYTES: Final = 1 << 24


class Metadata(NamedTuple):
    """The prototype of a function that is imported or exported."""

    symbol: bytes
    inputs: int
    outputs: int
    #: The number that the guest wants for an import; None if it does not care.
    wanted_index: int | None


class ExportedFunction(NamedTuple):
    symbol: bytes
    address: int
    outputs: int


class MetadataReader:
    """Reads the metadata sections of an image."""

    def __init__(self, image: Image, relocations: Relocations) -> None:
        self._image = image
        self._relocations = relocations
        self._found: dict[Target, Metadata] = {}
        self._symbol_bytes = 0

    def exports(self, entry_points: Sequence[str]) -> list[ExportedFunction]:
        """The exports in the order of the file, then `entry_points`, which are symbols.

        Raises `ElfError` if two have the same name, or a symbol is not there.
        """
        image, word = self._image, self._image.word_size
        found: dict[bytes, ExportedFunction] = {}
        for section in image.sections_named(_EXPORTS):
            data, offset = section.data, 0
            while offset < len(data):
                if data[offset] != 1:
                    raise image.error(
                        f"an export of unknown version {data[offset]}",
                        section=section,
                        address=section.address + offset,
                    )
                if len(data) - offset < 1 + 2 * word:
                    raise image.error("the last export is cut short", section=section, address=section.address + offset)
                metadata = self.read(self._pointer(section, offset + 1, "the metadata of an export"))
                target = self._pointer(section, offset + 1 + word, f"the export {_show(metadata.symbol)}")
                if image.code_section_at(target.address) is None or target.section == 0:
                    raise image.error(
                        f"the export {_show(metadata.symbol)} is not in a section of code",
                        section=section,
                        address=section.address + offset,
                    )
                if metadata.symbol in found:
                    raise image.error(
                        f"two exports are called {_show(metadata.symbol)}",
                        section=section,
                        address=section.address + offset,
                    )
                if len(found) == MAX_EXPORTS:
                    raise image.error(f"more than {MAX_EXPORTS} exports", section=section)
                found[metadata.symbol] = ExportedFunction(metadata.symbol, target.address, metadata.outputs)
                offset += 1 + 2 * word
        symbols = self._image.code_symbols(set(entry_points))
        for name in entry_points:
            if name not in symbols:
                raise image.error(f"the entry point {shorten(name)} is no symbol of code")
            # What it returns nobody says: at most two values.
            found.setdefault(name.encode(), ExportedFunction(name.encode(), symbols[name], _MOST_RESULTS))
        return list(found.values())

    def stack_size(self) -> int:
        """The largest stack size asked for, in bytes; 0 if none is."""
        largest = 0
        for section in self._image.sections_named(_MIN_STACK_SIZE):
            if len(section.data) % 4:
                raise self._image.error(f"{len(section.data)} bytes are no multiple of 4", section=section)
            for offset in range(0, len(section.data), 4):
                largest = max(largest, int.from_bytes(section.data[offset : offset + 4], "little"))
        return largest

    def _pointer(self, section: Section, offset: int, what: str) -> Target:
        target = self._relocations.pointer(section, offset) or self._plain_pointer(section, offset)
        if target is None:
            raise self._image.error(
                f"there is no relocation for the pointer to {what}",
                section=section,
                address=section.address + offset,
                hint="link with --emit-relocs",
            )
        return target

    def _plain_pointer(self, section: Section, offset: int) -> Target | None:
        """What the bytes themselves point to, in a linked file.

        ld.lld up to version 19 loses the relocations of sections that are not allocated when it relaxes code.
        """
        image = self._image
        if image.relocatable:
            return None
        address = int.from_bytes(section.data[offset : offset + image.word_size], "little")
        pointed = image.loaded_section_at(address)
        return None if pointed is None else Target(pointed.index, address)

    def read(self, target: Target) -> Metadata:
        """The metadata at `target`."""
        found = self._found.get(target)
        if found is None:
            found = self._found[target] = self._read(target)
        return found

    def _read(self, target: Target) -> Metadata:
        image = self._image
        if not 0 < target.section < len(image.sections):
            raise image.error("a pointer to metadata leads into no section")
        section = image.sections[target.section]
        offset, word = target.address - section.address, image.word_size
        data = section.data
        # version, flags, symbol length, symbol, inputs, outputs; then in version 2: has_index, index
        size = 11 + word
        if not 0 <= offset <= len(data) - size:
            raise image.error("metadata leaves its section", section=section, address=target.address)
        version = data[offset]
        if version not in (1, 2):
            raise image.error(f"metadata of unknown version {version}", section=section, address=target.address)
        flags, length = (int.from_bytes(data[offset + i : offset + i + 4], "little") for i in (1, 5))
        if flags:
            raise image.error(f"metadata with unknown flags {flags:#x}", section=section, address=target.address)
        name = self._pointer(section, offset + 9, "a symbol in metadata")
        inputs, outputs = data[offset + 9 + word], data[offset + 10 + word]
        if inputs > len(ARGUMENT_REGISTERS) or outputs > _MOST_RESULTS:
            raise image.error(
                f"metadata of a function with {inputs} arguments and {outputs} results; "
                f"it can have {len(ARGUMENT_REGISTERS)} and {_MOST_RESULTS}",
                section=section,
                address=target.address,
            )
        index = None
        if version == 2:
            if offset + size + 5 > len(data):
                raise image.error("metadata leaves its section", section=section, address=target.address)
            if data[offset + size]:
                index = int.from_bytes(data[offset + size + 1 : offset + size + 5], "little")
        holder = image.sections[name.section] if 0 < name.section < len(image.sections) else section
        start = name.address - holder.address
        if length > _LONGEST_SYMBOL or not 0 <= start <= len(holder.data) - length:
            raise image.error("the symbol of metadata leaves its section", section=section, address=target.address)
        self._symbol_bytes += length
        if self._symbol_bytes > _MOST_SYMBOL_BYTES:
            raise image.error(f"the symbols of exports and imports have more than {_MOST_SYMBOL_BYTES} bytes")
        return Metadata(bytes(holder.data[start : start + length]), inputs, outputs, index)

    def number_imports(self, used: set[Metadata]) -> tuple[dict[Metadata, int], list[bytes]]:
        """The number of each import, and the symbols in that order; raises `ElfError` if imports contradict others."""
        image = self._image
        ordered = sorted(
            used, key=lambda m: (m.symbol, -1 if m.wanted_index is None else m.wanted_index, m.inputs, m.outputs)
        )
        for before, after in itertools.pairwise(ordered):
            if before.symbol == after.symbol:
                raise image.error(f"the import {_show(before.symbol)} is declared with different prototypes")
        if any(metadata.wanted_index is not None for metadata in ordered):
            by_index: dict[int, Metadata] = {}
            for metadata in ordered:
                if metadata.wanted_index is None:
                    raise image.error(
                        f"the import {_show(metadata.symbol)} has no index, but others have",
                        hint="give all imports an index, or none",
                    )
                if metadata.wanted_index >= MAX_IMPORTS:
                    raise image.error(
                        f"the import {_show(metadata.symbol)} has index {metadata.wanted_index}; "
                        f"there can be no more than {MAX_IMPORTS} imports"
                    )
                if metadata.wanted_index in by_index:
                    other = by_index[metadata.wanted_index]
                    raise image.error(
                        f"the imports {_show(other.symbol)} and {_show(metadata.symbol)} "
                        f"both have index {metadata.wanted_index}"
                    )
                by_index[metadata.wanted_index] = metadata
            symbols = [by_index[i].symbol if i in by_index else b"" for i in range(max(by_index) + 1)]
            return {metadata: index for index, metadata in by_index.items()}, symbols
        if len(ordered) > MAX_IMPORTS:
            raise image.error(f"{len(ordered)} imports; there can be no more than {MAX_IMPORTS}")
        return {metadata: i for i, metadata in enumerate(ordered)}, [metadata.symbol for metadata in ordered]


def _show(symbol: bytes) -> str:
    return shorten(symbol.decode("utf-8", "backslashreplace"))
