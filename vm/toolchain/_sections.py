# SPDX-License-Identifier: MIT
"""The ELF file: its header, sections and symbols (System V ABI, chapters 4 and 5; RISC-V ELF psABI).

Everything in the file is taken for hostile: counts are checked against the bytes that are there before anything is
made of them. Symbols stay bytes until they are asked for, because a large guest has hundreds of thousands.
"""

from __future__ import annotations

import bisect
import enum
import itertools
import struct
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from vm._printable import shorten
from vm.memory_map import MAX_PAGE_SIZE, align_up
from vm.toolchain._errors import ElfError

_EM_RISCV: Final = 243
_ET_REL, _ET_EXEC, _ET_DYN = 1, 2, 3

_SHF_WRITE, _SHF_ALLOC, _SHF_EXECINSTR, _SHF_TLS = 0x1, 0x2, 0x4, 0x400
_SHF_COMPRESSED: Final = 0x800
_SHT_PROGBITS, _SHT_SYMTAB, _SHT_RELA, _SHT_NOBITS, _SHT_REL = 1, 2, 4, 8, 9
_SHT_SYMTAB_SHNDX: Final = 18
_DATA_TYPES: Final = frozenset({_SHT_PROGBITS, _SHT_NOBITS, 14, 15, 16})  # with INIT_, FINI_ and PREINIT_ARRAY
#: What the dynamic linker and the unwinder read, and no guest: STRTAB, RELA, HASH, DYNAMIC, NOTE, REL, DYNSYM, RELR,
#: GNU_HASH, the symbol versions, RISCV_ATTRIBUTES.
_LINKER_TYPES: Final = frozenset({3, 4, 5, 6, 7, 9, 11, 19, 0x6FFFFFF6, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF, 0x70000003})
_LINKER_NAMES: Final = (".eh_frame", ".eh_frame_hdr", ".interp", ".dynamic", ".gcc_except_table")
#: Writable for whoever relocates the program, which is us; read-only for the guest.
_RELRO_NAMES: Final = (".data.rel.ro", ".got", ".got.plt", ".relro_padding")

_SHN_UNDEF, _SHN_LORESERVE, _SHN_ABS, _SHN_COMMON, _SHN_XINDEX = 0, 0xFF00, 0xFFF1, 0xFFF2, 0xFFFF
_STB_WEAK: Final = 2
_STT_OBJECT, _STT_FUNC, _STT_SECTION, _STT_FILE = 1, 2, 3, 4

#: Largest address and size we calculate with.
_ADDRESS_LIMIT: Final = 1 << 63

#: How many times the bytes of the file its sections may have in all. Those of a file that a tool made do not overlap.
_SLACK: Final = 2

#: A `Target` with this for its section is a plain number; one with `UNDEFINED` has no value.
ABSOLUTE: Final = 0
UNDEFINED: Final = -1


class Kind(enum.Enum):
    """What becomes of a section."""

    CODE = "code"
    RO_DATA = "read-only data"
    RW_DATA = "data"
    BSS = "zeroed data"
    #: PolkaVM's own: read by the linker, not by the guest.
    METADATA = "metadata"
    TLS = "thread-local data"
    #: Not for the guest's memory: debug information, symbols and the like.
    OTHER = "other"


class Target(NamedTuple):
    """What a relocation refers to: an address in the ELF file's address space, and the section it belongs to."""

    section: int
    address: int


class Section:
    """A section; `address` is in the ELF file's address space (our own choice for a relocatable file)."""

    __slots__ = (
        "address",
        "align",
        "data",
        "entry_size",
        "flags",
        "index",
        "info",
        "kind",
        "link",
        "name",
        "size",
        "type",
    )

    def __init__(self, index: int, name: str, header: tuple[int, ...], data: memoryview) -> None:
        _, self.type, self.flags, self.address, _, self.size, self.link, self.info, self.align, self.entry_size = header
        self.index = index
        self.name = name
        #: Empty for sections of zeros.
        self.data = data
        self.kind = Kind.OTHER

    def has_name(self, name: str) -> bool:
        """Whether it is `name`, or one of several that a linker was told not to merge into it."""
        return self.name == name or self.name.startswith(name + ".")


_Lines = Callable[[int], str | None]


class Image:
    """The ELF file: what it says, found by address, section and symbol.

    Raises `ElfError` for what is no RISC-V ELF file of ours, and for sections that leave the file.
    """

    def __init__(self, elf: bytes) -> None:
        self.bytes = memoryview(elf)
        if len(elf) < 64 or elf[:4] != b"\x7fELF":
            raise ElfError("this is not an ELF file", hint="link with ld.lld --emit-relocs first")
        if elf[4] not in (1, 2) or elf[5] != 1:
            raise ElfError("this is not a little-endian 32-bit or 64-bit ELF file")
        self.is64 = elf[4] == 2
        fields = struct.unpack_from("<HHIQQQIHHHHHH" if self.is64 else "<HHIIIIIHHHHHH", elf, 16)
        file_type, machine, _, self.entry, _, table, self.flags, _, _, _, entry_size, count, names = fields
        if machine != _EM_RISCV:
            raise ElfError(f"this ELF file is for machine {machine}, not for RISC-V ({_EM_RISCV})")
        if file_type not in (_ET_REL, _ET_EXEC, _ET_DYN):
            raise ElfError(f"this ELF file is of type {file_type}: neither an executable nor an object")
        self.relocatable = file_type == _ET_REL
        self.word_size = 8 if self.is64 else 4
        self.sections = self._read_sections(table, entry_size, count, names)
        if self.relocatable:
            self._place_sections()
        self.code_sections = sorted((s for s in self.sections if s.kind is Kind.CODE), key=lambda s: s.address)
        self._code_starts = [s.address for s in self.code_sections]
        for before, after in itertools.pairwise(self.code_sections):
            if before.address + before.size > after.address:
                raise ElfError(f"the code sections {shorten(before.name)} and {shorten(after.name)} overlap")
        self._read_symbol_table()
        #: Set by whoever reads the debug information.
        self.find_source: _Lines = lambda address: None
        self._loaded: tuple[list[int], list[Section]] | None = None
        self._functions: tuple[list[int], list[tuple[int, int]]] | None = None

    # --- Sections -----------------------------------------------------------------------------------------------------

    def _read_sections(self, table: int, entry_size: int, count: int, names: int) -> list[Section]:
        layout = struct.Struct("<IIQQQQIIQQ" if self.is64 else "<IIIIIIIIII")
        if table == 0:
            raise ElfError("the ELF file has no section headers", hint="do not strip it")
        if entry_size != layout.size or not layout.size <= len(self.bytes) - table:
            raise ElfError("the ELF file's section headers leave the file, or are of an unknown size")
        first = layout.unpack_from(self.bytes, table)
        count = count or first[5]
        names = first[6] if names == _SHN_XINDEX else names
        if count > (len(self.bytes) - table) // layout.size:
            raise ElfError("the ELF file's section headers leave the file")
        headers: list[tuple[int, ...]] = [layout.unpack_from(self.bytes, table + i * layout.size) for i in range(count)]
        total = sum(header[5] for header in headers if header[1] not in (0, _SHT_NOBITS))
        if total > _SLACK * len(self.bytes):  # or a small file could stand for an enormous one
            raise ElfError(f"the sections overlap: they have {total} bytes in all, the file has {len(self.bytes)}")
        strings = self._section_bytes("section names", headers[names]) if 0 < names < count else memoryview(b"")
        sections = []
        for index, header in enumerate(headers):
            name = _string(strings, header[0])
            data = memoryview(b"") if header[1] in (0, _SHT_NOBITS) else self._section_bytes(name, header)
            section = Section(index, name, header, data)
            section.kind = _kind(section)
            if section.address + section.size >= _ADDRESS_LIMIT:
                raise ElfError("the section's addresses overflow", section=name)
            sections.append(section)
        return sections

    def _section_bytes(self, name: str, header: tuple[int, ...]) -> memoryview:
        offset, size = header[4], header[5]
        if offset + size > len(self.bytes):
            raise ElfError(f"{size} bytes at {offset:#x} leave the file, which has {len(self.bytes)}", section=name)
        return self.bytes[offset : offset + size]

    def _place_sections(self) -> None:
        """Give the sections of a relocatable file, which all are at 0, addresses of their own."""
        address = MAX_PAGE_SIZE
        for section in self.sections:
            if section.kind in (Kind.CODE, Kind.RO_DATA, Kind.RW_DATA, Kind.BSS):
                address = (
                    align_up(address, min(max(section.align, 1), MAX_PAGE_SIZE)) if _power(section.align) else address
                )
                section.address = address
                address += section.size

    def code_section_at(self, address: int) -> Section | None:
        index = bisect.bisect_right(self._code_starts, address) - 1
        if index < 0:
            return None
        section = self.code_sections[index]
        return section if address - section.address < section.size else None

    def loaded_section_at(self, address: int) -> Section | None:
        """The allocated section, of any kind, that `address` is in."""
        if self._loaded is None:
            loaded = sorted((s for s in self.sections if s.flags & _SHF_ALLOC), key=lambda s: s.address)
            self._loaded = [s.address for s in loaded], loaded
        starts, sections = self._loaded
        index = bisect.bisect_right(starts, address) - 1
        if index < 0 or address - starts[index] >= sections[index].size:
            return None
        return sections[index]

    def sections_named(self, name: str) -> Iterator[Section]:
        return (section for section in self.sections if section.has_name(name))

    # --- Symbols ------------------------------------------------------------------------------------------------------

    def _read_symbol_table(self) -> None:
        self._symbol = struct.Struct("<IBBHQQ" if self.is64 else "<IIIBBH")
        self._symbols = self._strings = self._wide_indexes = memoryview(b"")
        self.symbol_table = 0
        for section in self.sections:
            if section.type == _SHT_SYMTAB:
                if section.entry_size != self._symbol.size:
                    raise ElfError("symbols of an unknown size", section=section.name)
                self._symbols = section.data
                self.symbol_table = section.index
                if section.link < len(self.sections):
                    self._strings = self.sections[section.link].data
                break
        for section in self.sections:
            if section.type == _SHT_SYMTAB_SHNDX and section.link == self.symbol_table:
                self._wide_indexes = section.data

    @property
    def symbol_count(self) -> int:
        return len(self._symbols) // self._symbol.size

    def _raw_symbol(self, index: int) -> tuple[int, int, int, int, int]:
        """Name, info, section, value and size of a symbol."""
        raw = self._symbol.unpack_from(self._symbols, index * self._symbol.size)
        if self.is64:
            name, info, _, section, value, size = raw
        else:
            name, value, size, info, _, section = raw
        if section == _SHN_XINDEX and 4 * index + 4 <= len(self._wide_indexes):
            section = int.from_bytes(self._wide_indexes[4 * index : 4 * index + 4], "little")
        elif section in (_SHN_ABS, _SHN_COMMON):
            section = -section
        return name, info, section, value, size

    def symbol_name(self, index: int) -> str:
        if not 0 <= index < self.symbol_count:
            return ""
        name, info, section, _, _ = self._raw_symbol(index)
        if info & 15 == _STT_SECTION and 0 <= section < len(self.sections):
            return self.sections[section].name
        return _string(self._strings, name)

    def resolve(self, index: int, addend: int) -> Target | None:
        """What symbol number `index` plus `addend` is; None if there is no such symbol."""
        if index == 0:
            return Target(ABSOLUTE, addend)
        if index >= self.symbol_count:
            return None
        _, info, section, value, _ = self._raw_symbol(index)
        if section == _SHN_UNDEF:
            return Target(ABSOLUTE, value + addend) if info >> 4 == _STB_WEAK else Target(UNDEFINED, index)
        if section == -_SHN_ABS:
            return Target(ABSOLUTE, value + addend)
        if not 0 < section < len(self.sections):
            return Target(UNDEFINED, index)
        if self.relocatable:
            value += self.sections[section].address
        return Target(section, value + addend)

    def code_symbols(self, names: set[str]) -> dict[str, int]:
        """The addresses of the symbols of code that have one of these names; a global one goes before local ones."""
        found: dict[str, int] = {}
        for index in range(self.symbol_count) if names else ():
            _, info, section, value, _ = self._raw_symbol(index)
            if 0 < section < len(self.sections) and self.sections[section].kind is Kind.CODE:
                name = self.symbol_name(index)
                if name in names and (info >> 4 or name not in found):
                    found[name] = value + (self.sections[section].address if self.relocatable else 0)
        return found

    # --- For people ---------------------------------------------------------------------------------------------------

    def _function_table(self) -> tuple[list[int], list[tuple[int, int]]]:
        """Sorted starts of the functions (and other labels of code and data), with end and symbol index of each."""
        if self._functions is None:
            found: dict[int, tuple[int, int, int]] = {}
            for index in range(self.symbol_count):
                _, info, section, value, size = self._raw_symbol(index)
                if info & 15 in (_STT_SECTION, _STT_FILE) or not 0 < section < len(self.sections):
                    continue
                name = self.symbol_name(index)
                if not name or name.startswith((".L", "$")):
                    continue
                owner = self.sections[section]
                value += owner.address if self.relocatable else 0
                rank = 2 * (info & 15 == _STT_FUNC) + (info & 15 == _STT_OBJECT)
                end = value + size if size else owner.address + owner.size
                if value not in found or found[value][0] < rank:
                    found[value] = (rank, end, index)
            starts = sorted(found)
            self._functions = starts, [found[start][1:] for start in starts]
        return self._functions

    def symbol_at(self, address: int) -> str | None:
        """The name of the function or object around `address`."""
        starts, entries = self._function_table()
        place = bisect.bisect_right(starts, address) - 1
        if place < 0 or address >= max(entries[place][0], starts[place] + 1):
            return None
        return self.symbol_name(entries[place][1])

    def error(
        self, what: str, *, section: Section | None = None, address: int | None = None, hint: str | None = None
    ) -> ElfError:
        """The error for a place of the file: of `address` in `section` (default: the code section around it)."""
        offset = symbol = source = None
        if section is None and address is not None:
            section = self.code_section_at(address)
        if section is not None and address is not None:
            offset = address - section.address
            if section.kind is not Kind.OTHER and section.flags & _SHF_ALLOC:
                symbol = self.symbol_at(address)
            if section.kind is Kind.CODE:
                source = self.find_source(address)
        name = None if section is None else section.name
        return ElfError(what, section=name, symbol=symbol, offset=offset, address=address, source=source, hint=hint)


def _string(strings: memoryview, offset: int) -> str:
    """The NUL-terminated string at `offset`, no more than a line's worth of it."""
    text = bytes(strings[offset : offset + 4096])
    return text.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def _power(align: int) -> bool:
    return align & (align - 1) == 0


def _kind(section: Section) -> Kind:
    flags = section.flags
    if section.name.startswith(".polkavm_"):
        return Kind.METADATA
    if not flags & _SHF_ALLOC:
        # Metadata that exports point to need not be allocated.
        return Kind.METADATA if section.type == _SHT_PROGBITS and not section.name.startswith(".debug") else Kind.OTHER
    if flags & _SHF_TLS:
        return Kind.TLS
    if section.type in _LINKER_TYPES or section.name in _LINKER_NAMES:
        return Kind.OTHER
    if section.type not in _DATA_TYPES:
        raise ElfError(
            f"an allocated section of unknown type {section.type:#x}",
            section=section.name,
            hint="discard it in the linker script",
        )
    if not _power(section.align) or section.align > MAX_PAGE_SIZE:
        raise ElfError(
            f"an alignment of {section.align:#x}; it must be a power of two up to {MAX_PAGE_SIZE:#x}",
            section=section.name,
        )
    if section.size > 0xFFFF_FFFF:
        raise ElfError(f"a size of {section.size:#x} bytes does not fit the address space", section=section.name)
    if flags & _SHF_EXECINSTR:
        if flags & _SHF_WRITE:
            raise ElfError("a section of both code and writable data", section=section.name, hint="split it")
        if section.type == _SHT_NOBITS:
            raise ElfError("a section of code without contents", section=section.name)
        return Kind.CODE
    if not flags & _SHF_WRITE or any(section.has_name(name) for name in _RELRO_NAMES):
        return Kind.RO_DATA
    return Kind.BSS if section.type == _SHT_NOBITS else Kind.RW_DATA
