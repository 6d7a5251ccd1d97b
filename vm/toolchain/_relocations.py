# SPDX-License-Identifier: MIT
"""Relocations: which bytes of the ELF file are addresses, and of what (RISC-V ELF psABI, "Relocations").

In a linked file the bytes hold final values already; the relocations that ``--emit-relocs`` keeps are how we know
which of them are addresses, all of which change. What they hold is not looked at: RELA entries have it all.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from vm.toolchain._sections import UNDEFINED, Image, Kind, Section, Target

_SHT_RELA, _SHT_REL = 4, 9
_SHF_ALLOC: Final = 2


class Type(enum.IntEnum):
    """The types we know, by the psABI's names without ``R_RISCV_``."""

    NONE = 0
    ABS32 = 1
    ABS64 = 2
    RELATIVE = 3
    BRANCH = 16
    JAL = 17
    CALL = 18
    CALL_PLT = 19
    GOT_HI20 = 20
    TLS_GOT_HI20 = 21
    TLS_GD_HI20 = 22
    PCREL_HI20 = 23
    PCREL_LO12_I = 24
    PCREL_LO12_S = 25
    HI20 = 26
    LO12_I = 27
    LO12_S = 28
    TPREL_HI20 = 29
    TPREL_LO12_I = 30
    TPREL_LO12_S = 31
    TPREL_ADD = 32
    ADD8 = 33
    ADD16 = 34
    ADD32 = 35
    ADD64 = 36
    SUB8 = 37
    SUB16 = 38
    SUB32 = 39
    SUB64 = 40
    ALIGN = 43
    RVC_BRANCH = 44
    RVC_JUMP = 45
    GPREL_LO12_I = 47
    GPREL_LO12_S = 48
    RELAX = 51
    SUB6 = 52
    SET6 = 53
    SET8 = 54
    SET16 = 55
    SET32 = 56
    PCREL32 = 57
    PLT32 = 59
    SET_ULEB128 = 60
    SUB_ULEB128 = 61


#: Those that say nothing about addresses.
_IGNORED: Final = frozenset({Type.NONE, Type.ALIGN, Type.RELAX})
_TLS: Final = frozenset(
    {Type.TLS_GOT_HI20, Type.TLS_GD_HI20, Type.TPREL_HI20, Type.TPREL_LO12_I, Type.TPREL_LO12_S, Type.TPREL_ADD}
) | frozenset(range(62, 66))
JUMPS: Final = frozenset({Type.BRANCH, Type.JAL, Type.CALL, Type.CALL_PLT, Type.RVC_BRANCH, Type.RVC_JUMP})
_CODE_TYPES: Final = JUMPS | {
    Type.GOT_HI20,
    Type.PCREL_HI20,
    Type.PCREL_LO12_I,
    Type.PCREL_LO12_S,
    Type.HI20,
    Type.LO12_I,
    Type.LO12_S,
    Type.GPREL_LO12_I,
    Type.GPREL_LO12_S,
    Type.ABS32,
    Type.ABS64,
}
#: Bits of the data that are set to, or have subtracted from them, the address of a symbol. 0: a ULEB128 number.
_ADDED: Final[dict[int, int]] = {
    Type.ABS32: 32,
    Type.ABS64: 64,
    Type.ADD8: 8,
    Type.ADD16: 16,
    Type.ADD32: 32,
    Type.ADD64: 64,
    Type.SET6: 6,
    Type.SET8: 8,
    Type.SET16: 16,
    Type.SET32: 32,
    Type.SET_ULEB128: 0,
}
_SUBTRACTED: Final[dict[int, int]] = {
    Type.SUB6: 6,
    Type.SUB8: 8,
    Type.SUB16: 16,
    Type.SUB32: 32,
    Type.SUB64: 64,
    Type.SUB_ULEB128: 0,
}
_RELATIVE_TO_ITSELF: Final[dict[int, int]] = {Type.PCREL32: 32, Type.PLT32: 32}


class CodeRelocation(NamedTuple):
    type: int
    target: Target


class DataRelocation(NamedTuple):
    """The `bits` at `offset` of a section become the address of `added` minus that of `subtracted`, if any."""

    offset: int
    bits: int
    added: Target | None
    subtracted: Target | None = None


_NAMES: Final = {member.value: member.name for member in Type}


def type_name(number: int) -> str:
    if number in (Type.ABS32, Type.ABS64):
        return f"R_RISCV_{32 * number}"
    name = _NAMES.get(number)
    return f"relocation type {number}" if name is None else f"R_RISCV_{name}"


class Relocations:
    """The relocations of an image; those of code by address, those of data section by section, when they are needed."""

    def __init__(self, image: Image) -> None:
        self._image = image
        #: Of allocated code, by address.
        self.code: dict[int, CodeRelocation] = {}
        self._tables: dict[int, list[Section]] = {}
        self._data: dict[int, list[DataRelocation]] = {}
        dynamic = []
        for table in image.sections:
            if table.type not in (_SHT_RELA, _SHT_REL):
                continue
            if table.flags & _SHF_ALLOC:
                dynamic.append(table)
                continue
            if not 0 < table.info < len(image.sections) or image.sections[table.info].kind is Kind.OTHER:
                continue
            if table.type == _SHT_REL:
                raise image.error("relocations without addends (REL)", section=table, hint="RISC-V uses RELA")
            self._tables.setdefault(table.info, []).append(table)
        for section in image.code_sections:
            self._read_code(section)
        #: Of each section, what the dynamic linker would do: offsets and targets.
        self._dynamic: dict[int, list[tuple[int, Target]]] = {}
        for table in dynamic:
            self._read_dynamic(table)

    def _entries(self, section: Section) -> Iterator[tuple[int, int, int, int]]:
        """Offset in the section, type, symbol and addend of its relocations."""
        base = 0 if self._image.relocatable else section.address
        for table in self._tables.get(section.index, ()):
            if table.link != self._image.symbol_table:
                raise self._image.error("relocations by symbols of another table", section=table)
            for place, number, symbol, addend in self._unpack(table):
                yield place - base, number, symbol, addend

    def _unpack(self, table: Section) -> Iterator[tuple[int, int, int, int]]:
        """Place, type, symbol and addend of the relocations in a table."""
        layout = struct.Struct("<QIIq" if self._image.is64 else "<IIi")
        if table.entry_size != layout.size:
            raise self._image.error("relocations of an unknown size", section=table)
        whole = table.data[: len(table.data) // layout.size * layout.size]
        if self._image.is64:
            yield from layout.iter_unpack(whole)
        else:
            for place, info, addend in layout.iter_unpack(whole):
                yield place, info & 0xFF, info >> 8, addend

    def _read_dynamic(self, table: Section) -> None:
        """Take in what is left for the dynamic linker of a position-independent executable.

        ``--emit-relocs`` should keep these relocations too, but ld.lld 19 does not when it relaxes code.
        """
        image = self._image
        if image.relocatable or table.type != _SHT_RELA:
            return
        for place, number, _, addend in self._unpack(table):
            holder, pointed = image.loaded_section_at(place), image.loaded_section_at(addend)
            if number == Type.RELATIVE and holder is not None and pointed is not None:
                target = Target(pointed.index, addend)
                if holder.kind is Kind.CODE:
                    word = Type.ABS64 if image.is64 else Type.ABS32
                    self.code.setdefault(place, CodeRelocation(word, target))
                else:
                    self._dynamic.setdefault(holder.index, []).append((place - holder.address, target))

    def _target(self, section: Section, offset: int, symbol: int, addend: int) -> Target:
        target = self._image.resolve(symbol, addend)
        if target is None:
            raise self._image.error(
                f"a relocation refers to symbol {symbol}, which is not there",
                section=section,
                address=section.address + offset,
            )
        return target

    def _read_code(self, section: Section) -> None:
        base, size, code, resolve = section.address, section.size, self.code, self._image.resolve
        known = _CODE_TYPES
        for offset, number, symbol, addend in self._entries(section):
            if number in known and 0 <= offset < size:
                code[base + offset] = CodeRelocation(
                    number, resolve(symbol, addend) or self._target(section, offset, symbol, addend)
                )
            elif number not in _IGNORED:
                self._refuse(section, offset, number)

    def _refuse(self, section: Section, offset: int, number: int) -> None:
        """Keep a relocation nobody can apply for the error it is once its place is reached."""
        if not 0 <= offset < section.size:
            raise self._image.error(
                f"{type_name(number)} at offset {offset:#x} is outside of the section", section=section
            )
        self.code[section.address + offset] = CodeRelocation(number, Target(UNDEFINED, 0))

    def check(self, relocation: CodeRelocation, address: int) -> None:
        """Raise `ElfError` for a relocation that cannot be applied to code, or one of a symbol that is not there."""
        if relocation.type in _TLS:
            raise self._image.error(
                f"thread-local storage ({type_name(relocation.type)})",
                address=address,
                hint="a guest has one thread: use plain variables, or compile with -femulated-tls",
            )
        if relocation.type not in _CODE_TYPES:
            raise self._image.error(f"unsupported {type_name(relocation.type)} in code", address=address)
        if relocation.target.section == UNDEFINED:
            raise self.undefined(relocation.target, address=address)

    def undefined(self, target: Target, *, section: Section | None = None, address: int) -> Exception:
        name = self._image.symbol_name(target.address)
        return self._image.error(
            f"undefined symbol {name or 'without a name'}",
            section=section,
            address=address,
            hint="link the object file or library that defines it, or import it from the host",
        )

    def of_data(self, section: Section) -> list[DataRelocation]:
        """The relocations of a section of data, in the order of their offsets."""
        found = self._data.get(section.index)
        if found is None:
            found = self._data[section.index] = self._read_data(section)
        return found

    def _read_data(self, section: Section) -> list[DataRelocation]:
        image = self._image
        whole: dict[int, DataRelocation] = {}
        for offset, number, symbol, addend in self._entries(section):
            if number in _IGNORED:
                continue
            target = self._target(section, offset, symbol, addend)
            if target.section == UNDEFINED:
                raise self.undefined(target, section=section, address=section.address + offset)
            before = whole.get(offset)
            if number in _ADDED and (before is None or before.added is None):
                found = DataRelocation(offset, _ADDED[number], target, before.subtracted if before else None)
            elif number in _SUBTRACTED and (before is None or before.subtracted is None):
                found = DataRelocation(offset, _SUBTRACTED[number], before.added if before else None, target)
            elif number in _RELATIVE_TO_ITSELF and before is None:
                here = Target(section.index, section.address + offset)
                found = DataRelocation(offset, _RELATIVE_TO_ITSELF[number], target, here)
            else:
                raise image.error(
                    f"unsupported {type_name(number)} in data", section=section, address=section.address + offset
                )
            if before is not None and before.bits != found.bits:
                raise image.error("relocations of different widths", section=section, address=section.address + offset)
            if not 0 <= offset <= len(section.data) - max(1, found.bits // 8):
                raise image.error(
                    f"{type_name(number)} at offset {offset:#x} is outside of the section", section=section
                )
            whole[offset] = found
        word = image.word_size
        for offset, target in self._dynamic.get(section.index, ()):
            if offset not in whole and offset <= len(section.data) - word:
                whole[offset] = DataRelocation(offset, 8 * word, target)
        return [whole[offset] for offset in sorted(whole)]

    def pointer(self, section: Section, offset: int) -> Target | None:
        """What the word at `offset` of a section points to; None without a relocation that says so."""
        if section.kind is Kind.CODE:
            relocation = self.code.get(section.address + offset)
            word = Type.ABS64 if self._image.is64 else Type.ABS32
            if relocation is None or relocation.type != word or relocation.target.section == UNDEFINED:
                return None
            return relocation.target
        low, entries = 0, self.of_data(section)
        high = len(entries)
        while low < high:
            middle = (low + high) // 2
            if entries[middle].offset < offset:
                low = middle + 1
            else:
                high = middle
        if low == len(entries) or entries[low].offset != offset:
            return None
        entry = entries[low]
        return entry.added if entry.bits == 8 * self._image.word_size and entry.subtracted is None else None
