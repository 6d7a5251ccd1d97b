# SPDX-License-Identifier: MIT
"""Debug information for the tests of the linker: one unit, some functions, a line number program."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from elf_writer import ElfWriter

_UNIT, _FUNCTION, _ABSTRACT, _INLINED, _NAMESPACE = range(1, 6)


def uleb(value: int) -> bytes:
    out = bytearray()
    while True:
        out.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(out)


def _sleb(value: int) -> bytes:
    out = bytearray()
    while True:
        byte = value & 0x7F
        value >>= 7
        if (value == 0 and not byte & 0x40) or (value == -1 and byte & 0x40):
            out.append(byte)
            return bytes(out)
        out.append(byte | 0x80)


def _abbreviation(code: int, tag: int, children: bool, *pairs: tuple[int, int]) -> bytes:
    return uleb(code) + uleb(tag) + bytes([children]) + b"".join(uleb(a) + uleb(f) for a, f in pairs) + b"\0\0"


@dataclass
class Function:
    """A function; if it is inlined, `call` is line and column of the call."""

    name: str
    low: int
    high: int
    call: tuple[int, int] | None = None
    inside: Sequence[Function] = field(default_factory=tuple)


class Dwarf:
    """DWARF of version 4 or 5 for 64-bit guests; the file is ``/src/dir/a.c``."""

    def __init__(self, version: int, functions: Sequence[Function], rows: Sequence[tuple[int, int, int]]) -> None:
        self.version = version
        self._info = bytearray()
        self._functions = functions
        #: Address, line and column; line 0 ends the sequence.
        self._rows = rows

    def add_to(self, elf: ElfWriter) -> None:
        for name, data in self.sections().items():
            elf.add(name, data, flags=0, align=1)

    def sections(self) -> dict[str, bytes]:
        string, data1, addr, data8, offset, ref4 = 0x08, 0x0B, 0x01, 0x07, 0x17, 0x13
        abbreviations = (
            _abbreviation(_UNIT, 0x11, True, (0x03, string), (0x1B, string), (0x10, offset), (0x11, addr))
            + _abbreviation(_FUNCTION, 0x2E, True, (0x03, string), (0x11, addr), (0x12, data8))
            + _abbreviation(_ABSTRACT, 0x2E, False, (0x03, string), (0x20, data1))
            + _abbreviation(
                _INLINED,
                0x1D,
                True,
                (0x31, ref4),
                (0x11, addr),
                (0x12, addr),
                (0x58, data1),
                (0x59, data1),
                (0x57, data1),
            )
            + _abbreviation(_NAMESPACE, 0x39, True, (0x03, string))
            + b"\0"
        )
        info = self._info
        header = struct.pack("<H", self.version)
        header += struct.pack("<BBI", 1, 8, 0) if self.version == 5 else struct.pack("<IB", 0, 8)
        info += bytes(4) + header
        info += uleb(_UNIT) + b"a.c\0/src\0" + struct.pack("<IQ", 0, 0)
        info += uleb(_NAMESPACE) + b"space\0"
        self._abstract = {}
        for name in sorted(self._inlined(self._functions)):
            self._abstract[name] = len(info)
            info += uleb(_ABSTRACT) + name.encode() + b"\0\1"
        for function in self._functions:
            self._write(function)
        info += b"\0\0"
        info[:4] = (len(info) - 4).to_bytes(4, "little")
        return {".debug_abbrev": abbreviations, ".debug_info": bytes(info), ".debug_line": self._lines()}

    def _inlined(self, functions: Sequence[Function]) -> set[str]:
        found = {f.name for f in functions if f.call is not None}
        return found.union(*(self._inlined(f.inside) for f in functions))

    def _write(self, function: Function) -> None:
        info = self._info
        if function.call is None:
            info += uleb(_FUNCTION) + function.name.encode() + b"\0"
            info += struct.pack("<QQ", function.low, function.high - function.low)
        else:
            info += uleb(_INLINED) + struct.pack("<IQQ", self._abstract[function.name], function.low, function.high)
            info += bytes([1, *function.call])
        for inner in function.inside:
            self._write(inner)
        info += b"\0"

    def _lines(self) -> bytes:
        program = bytearray()
        before = 1
        for address, line, column in self._rows:
            program += b"\0\x09\x02" + address.to_bytes(8, "little")
            if line:
                program += b"\x05" + uleb(column) + b"\x03" + _sleb(line - before) + b"\x01"
                before = line
            else:
                program += b"\0\1\1"
                before = 1
        if self.version == 5:
            tables = b"\1\1\x08" + uleb(2) + b"/src\0dir\0" + b"\2\1\x08\2\x0b" + uleb(2) + b"a.c\0\1a.c\0\1"
        else:
            tables = b"dir\0\0" + b"a.c\0\1\0\0" + b"\0"
        rest = b"\1\1\1" + struct.pack("<bBB", -5, 14, 13) + bytes([0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1]) + tables
        sizes = b"\x08\0" if self.version == 5 else b""
        unit = struct.pack("<H", self.version) + sizes + len(rest).to_bytes(4, "little") + rest + program
        return len(unit).to_bytes(4, "little") + unit
