# SPDX-License-Identifier: MIT
"""ELF files of guests for the tests of the linker, made without compiler and linker: a few instructions, sections,
symbols and relocations, written down by hand."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from vm.toolchain._relocations import Type

ALLOC, WRITE, EXECUTE, TLS = 2, 1, 4, 0x400
PROGBITS, SYMTAB, STRTAB, RELA, NOTE, NOBITS = 1, 2, 3, 4, 7, 8
REL_FILE, EXEC_FILE, DYN_FILE = 1, 2, 3
FUNCTION, OBJECT, LABEL, WEAK = 0x12, 0x11, 0x10, 0x20
ABSOLUTE = 0xFFF1

# --- RISC-V instructions: registers by their numbers ------------------------------------------------------------------

ZERO, RA, SP, GP, TP, T0, T1, T2, S0, S1, A0, A1, A2, A3, A4, A5, A6 = range(17)
RET = 0x0000_8067
ECALL, EBREAK, UNIMP = 0x73, 0x0010_0073, 0xC000_1073
HOST_CALL = 0x0B


def i_type(opcode: int, rd: int, funct3: int, rs1: int, imm: int) -> int:
    return (imm & 0xFFF) << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode


def r_type(opcode: int, rd: int, funct3: int, rs1: int, rs2: int, funct7: int = 0) -> int:
    return funct7 << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode


def addi(rd: int, rs1: int, imm: int) -> int:
    return i_type(0x13, rd, 0, rs1, imm)


def addiw(rd: int, rs1: int, imm: int) -> int:
    return i_type(0x1B, rd, 0, rs1, imm)


def slli(rd: int, rs1: int, amount: int) -> int:
    return i_type(0x13, rd, 1, rs1, amount)


def srli(rd: int, rs1: int, amount: int) -> int:
    return i_type(0x13, rd, 5, rs1, amount)


def add(rd: int, rs1: int, rs2: int) -> int:
    return r_type(0x33, rd, 0, rs1, rs2)


def mul(rd: int, rs1: int, rs2: int) -> int:
    return r_type(0x33, rd, 0, rs1, rs2, 1)


def lui(rd: int, upper: int) -> int:
    return (upper & 0xFFFFF) << 12 | rd << 7 | 0x37


def auipc(rd: int, upper: int = 0) -> int:
    return (upper & 0xFFFFF) << 12 | rd << 7 | 0x17


def lw(rd: int, rs1: int, offset: int = 0) -> int:
    return i_type(0x03, rd, 2, rs1, offset)


def ld(rd: int, rs1: int, offset: int = 0) -> int:
    return i_type(0x03, rd, 3, rs1, offset)


def store(funct3: int, rs2: int, rs1: int, offset: int = 0) -> int:
    return (offset >> 5 & 0x7F) << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | (offset & 31) << 7 | 0x23


def sw(rs2: int, rs1: int, offset: int = 0) -> int:
    return store(2, rs2, rs1, offset)


def sd(rs2: int, rs1: int, offset: int = 0) -> int:
    return store(3, rs2, rs1, offset)


def jal(rd: int, distance: int) -> int:
    bits = (distance >> 20 & 1) << 19 | (distance >> 1 & 0x3FF) << 9 | (distance >> 11 & 1) << 8
    return (bits | distance >> 12 & 0xFF) << 12 | rd << 7 | 0x6F


def jalr(rd: int, rs1: int, offset: int = 0) -> int:
    return i_type(0x67, rd, 0, rs1, offset)


def branch(funct3: int, rs1: int, rs2: int, distance: int) -> int:
    high = (distance >> 12 & 1) << 6 | distance >> 5 & 0x3F
    low = distance & 0x1E | distance >> 11 & 1
    return high << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | low << 7 | 0x63


def beq(rs1: int, rs2: int, distance: int) -> int:
    return branch(0, rs1, rs2, distance)


def bne(rs1: int, rs2: int, distance: int) -> int:
    return branch(1, rs1, rs2, distance)


def atomic(kind: int, rd: int, rs2: int, rs1: int, funct3: int = 3) -> int:
    return r_type(0x2F, rd, funct3, rs1, rs2, kind << 2)


# --- The file ---------------------------------------------------------------------------------------------------------


@dataclass
class Section:
    name: str
    data: bytearray
    type: int
    flags: int
    address: int
    align: int
    size: int
    relocations: list[tuple[int, int, int, int]] = field(default_factory=list)
    link: int = 0
    info: int = 0
    entry_size: int = 0


class ElfWriter:
    """Sections get addresses in the order they are added, from 0x20000 on."""

    def __init__(self, *, bits: int = 64, file_type: int = EXEC_FILE, machine: int = 243) -> None:
        self.bits = bits
        self.word = bits // 8
        self.file_type = file_type
        self.machine = machine
        self.sections: list[Section] = [Section("", bytearray(), 0, 0, 0, 0, 0)]
        self.symbols: list[tuple[str, int, int, int, int]] = [("", 0, 0, 0, 0)]
        self._next = 0x20000

    def add(
        self,
        name: str,
        data: bytes = b"",
        *,
        flags: int = ALLOC,
        type: int = PROGBITS,  # noqa: A002
        align: int = 8,
        size: int | None = None,
    ) -> int:
        """Adds a section; returns its number."""
        size = len(data) if size is None else size
        address = 0
        if flags & ALLOC and self.file_type != REL_FILE:
            address = self._next = -(-self._next // max(align, 1)) * max(align, 1)
            self._next += max(size, 0x4000)
        self.sections.append(Section(name, bytearray(data), type, flags, address, align, size))
        return len(self.sections) - 1

    def symbol(self, name: str, section: int, offset: int = 0, *, info: int = FUNCTION, size: int = 0) -> int:
        """Adds a symbol at `offset` of a section (an address, for section 0 and `ABSOLUTE`); returns its number."""
        base = self.sections[section].address if 0 < section < len(self.sections) else 0
        self.symbols.append((name, info, section, base + offset, size))
        return len(self.symbols) - 1

    def relocate(self, section: int, offset: int, number: int, symbol: int = 0, addend: int = 0) -> None:
        self.sections[section].relocations.append((offset, number, symbol, addend))

    def pointer_type(self) -> int:
        return Type.ABS64 if self.bits == 64 else Type.ABS32

    def to_bytes(self) -> bytes:
        sections = list(self.sections)
        names = bytearray(b"\0")
        for number, section in enumerate(self.sections):
            if section.relocations:
                base = 0 if self.file_type == REL_FILE else section.address
                data = b"".join(self._relocation(base, *entry) for entry in section.relocations)
                table = Section(f".rela{section.name}", bytearray(data), RELA, 0, 0, 8, len(data))
                table.info, table.entry_size = number, 3 * self.word
                sections.append(table)
        strings = bytearray(b"\0")
        table_data = bytearray()
        for name, info, index, value, size in self.symbols:
            table_data += self._symbol(len(strings) if name else 0, info, index, value, size)
            strings += name.encode() + b"\0" if name else b""
        symtab = Section(".symtab", table_data, SYMTAB, 0, 0, 8, len(table_data))
        symtab.entry_size, symtab.link = 24 if self.bits == 64 else 16, len(sections) + 1
        for section in sections:
            if section.type == RELA and not section.flags & ALLOC:
                section.link = len(sections)
        sections += [symtab, Section(".strtab", strings, STRTAB, 0, 0, 1, len(strings))]
        sections.append(Section(".shstrtab", names, STRTAB, 0, 0, 1, 0))
        offsets = []
        for section in sections:
            offsets.append(len(names))
            names += section.name.encode() + b"\0"
        sections[-1].size = len(names)
        header_size = 64 if self.bits == 64 else 52
        body, headers = bytearray(), bytearray()
        for section, name in zip(sections, offsets, strict=True):
            headers += self._section_header(section, name, header_size + len(body))
            if section.type != NOBITS:
                body += section.data
                body += bytes(-len(body) % 8)
        return self._header(header_size + len(body), len(sections)) + bytes(body + headers)

    def _relocation(self, base: int, offset: int, number: int, symbol: int, addend: int) -> bytes:
        if self.bits == 64:
            return struct.pack("<QIIq", base + offset, number, symbol, addend)
        return struct.pack("<IIi", base + offset, symbol << 8 | number, addend)

    def _symbol(self, name: int, info: int, section: int, value: int, size: int) -> bytes:
        if self.bits == 64:
            return struct.pack("<IBBHQQ", name, info, 0, section, value, size)
        return struct.pack("<IIIBBH", name, value, size, info, 0, section)

    def _section_header(self, s: Section, name: int, offset: int) -> bytes:
        layout = "<IIQQQQIIQQ" if self.bits == 64 else "<IIIIIIIIII"
        fields = (name, s.type, s.flags, s.address, offset, s.size, s.link, s.info, s.align, s.entry_size)
        return struct.pack(layout, *fields)

    def _header(self, sections_offset: int, count: int) -> bytes:
        is64 = self.bits == 64
        layout = "<HHIQQQIHHHHHH" if is64 else "<HHIIIIIHHHHHH"
        sizes = (64, 0, 0, 64) if is64 else (52, 0, 0, 40)
        fields = (self.file_type, self.machine, 1, 0, 0, sections_offset, 8, *sizes, count, count - 1)
        return b"\x7fELF" + bytes([2 if is64 else 1, 1, 1, *bytes(9)]) + struct.pack(layout, *fields)


class Guest(ElfWriter):
    """A guest with one section of code, and PolkaVM's metadata."""

    def __init__(self, *code: int, bits: int = 64, file_type: int = EXEC_FILE) -> None:
        super().__init__(bits=bits, file_type=file_type)
        self.text = self.add(".text", flags=ALLOC | EXECUTE, align=4)
        self._metadata = self.add(".polkavm_metadata", flags=ALLOC, align=1)
        self._exports = self.add(".polkavm_exports", type=NOTE, flags=0, align=1)
        self.emit(*code)

    @property
    def here(self) -> int:
        """The offset in the code of what is emitted next."""
        return len(self.sections[self.text].data)

    def emit(self, *words: int) -> int:
        """Adds instructions (of 16 bits if they are compressed); returns the offset of the first one."""
        start = self.here
        for word in words:
            self.put(self.text, word.to_bytes(4 if word & 3 == 3 else 2, "little"))
        return start

    def put(self, section: int, data: bytes) -> int:
        """Adds bytes to a section; returns their offset."""
        offset = len(self.sections[section].data)
        self.sections[section].data += data
        self.sections[section].size += len(data)
        return offset

    def function(self, name: str, *code: int) -> int:
        """Adds a function; returns its symbol."""
        start = self.emit(*code)
        return self.symbol(name, self.text, start, size=self.here - start)

    def pointer(self, section: int, symbol: int, addend: int = 0) -> None:
        """Adds a word to a section that holds the address of a symbol."""
        offset = self.put(section, bytes(self.word))
        self.relocate(section, offset, self.pointer_type(), symbol, addend)

    def metadata(self, name: str, inputs: int = 2, outputs: int = 1, *, index: int | None = None) -> int:
        """Adds the metadata of an import or export; returns its symbol."""
        text = self.put(self._metadata, name.encode())
        symbol = self.symbol("", self._metadata, text, info=OBJECT)
        version = 1 if index is None else 2
        start = self.put(self._metadata, struct.pack("<BII", version, 0, len(name.encode())))
        self.pointer(self._metadata, symbol)
        self.put(self._metadata, bytes([inputs, outputs]))
        if index is not None:
            self.put(self._metadata, b"\1" + index.to_bytes(4, "little"))
        return self.symbol(f"{name}_metadata", self._metadata, start, info=OBJECT)

    def export(self, name: str, function: int, inputs: int = 2, outputs: int = 1) -> None:
        """Exports the function whose symbol is given."""
        metadata = self.metadata(name, inputs, outputs)
        self.put(self._exports, b"\1")
        self.pointer(self._exports, metadata)
        self.pointer(self._exports, function)

    def host_function(self, name: str, inputs: int = 2, outputs: int = 1, *, index: int | None = None) -> int:
        """Adds the stub of an import; returns its symbol."""
        metadata = self.metadata(name, inputs, outputs, index=index)
        start = self.emit(HOST_CALL)
        self.pointer(self.text, metadata)
        self.emit(RET)
        return self.symbol(name, self.text, start)


def main(*code: int, bits: int = 64) -> Guest:
    """A guest that exports ``main``, which is this code."""
    guest = Guest(bits=bits)
    guest.export("main", guest.function("main", *code))
    return guest
