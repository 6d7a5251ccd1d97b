# SPDX-License-Identifier: MIT
"""The lowest layer of DWARF: numbers, attribute forms, strings (DWARF 5, sections 7.5 and 7.6; versions 2 to 5).

DWARF is as hostile as the rest of an ELF file, and needed for nothing but names: whatever is wrong with it is a
`DwarfError`, after which there is no debug information. Work is counted, because a few bytes can refer to many.
"""

from __future__ import annotations

from typing import Final

#: Forms whose values are of 1, 2, 4 and 8 bytes, whatever they mean.
_FIXED: Final = {0x05: 2, 0x06: 4, 0x07: 8, 0x0B: 1, 0x0C: 1, 0x11: 1, 0x12: 2, 0x13: 4, 0x14: 8, 0x19: 0, 0x1C: 4}
_FIXED_TOO: Final = {0x1E: 16, 0x20: 8, 0x21: 0, 0x24: 8, 0x25: 1, 0x26: 2, 0x27: 3, 0x28: 4}
_FIXED_ADDRESSES: Final = {0x29: 1, 0x2A: 2, 0x2B: 3, 0x2C: 4}
_OFFSETS: Final = frozenset({0x0E, 0x10, 0x17, 0x1D, 0x1F, 0x1F20, 0x1F21})
_ULEB: Final = frozenset({0x0F, 0x15, 0x1A, 0x1B, 0x22, 0x23, 0x1F01, 0x1F02})

ADDR, STRING, SDATA, STRP, REF_ADDR, INDIRECT = 0x01, 0x08, 0x0D, 0x0E, 0x10, 0x16
STRX, ADDRX, LINE_STRP, IMPLICIT_CONST, RNGLISTX = 0x1A, 0x1B, 0x1F, 0x21, 0x23
_BLOCKS: Final = {0x0A: 1, 0x03: 2, 0x04: 4}
_ULEB_BLOCKS: Final = frozenset({0x09, 0x18})
STRING_INDEXES: Final = frozenset({STRX, 0x25, 0x26, 0x27, 0x28, 0x1F02})
ADDRESS_INDEXES: Final = frozenset({ADDRX, 0x29, 0x2A, 0x2B, 0x2C, 0x1F01})
#: References relative to their unit.
UNIT_REFERENCES: Final = frozenset({0x11, 0x12, 0x13, 0x14, 0x15})

#: Longest name or path; longer ones are cut.
_LONGEST_STRING: Final = 4096


class DwarfError(Exception):
    """The debug information makes no sense."""


class Budget:
    """Counts work; raises `DwarfError` when there is too much of it."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def spend(self, steps: int = 1) -> None:
        self._left -= steps
        if self._left < 0:
            raise DwarfError("too much work")


def uleb(data: bytes, p: int) -> tuple[int, int]:
    """The ULEB128 number at `p`, of at most 64 bits, and the position behind it. IndexError at the end of `data`."""
    byte = data[p]
    if byte < 0x80:
        return byte, p + 1
    value, shift = byte & 0x7F, 7
    while True:
        p += 1
        byte = data[p]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, p + 1
        shift += 7
        if shift > 63:
            raise DwarfError("a number of more than 64 bits")


def sleb(data: bytes, p: int) -> tuple[int, int]:
    value, after = uleb(data, p)
    bits = 7 * (after - p)
    return value - (1 << bits) if value >> (bits - 1) & 1 else value, after


def unsigned(data: bytes, p: int, size: int) -> int:
    if p + size > len(data):
        raise DwarfError("a value leaves its section")
    return int.from_bytes(data[p : p + size], "little")


def initial_length(data: bytes, p: int) -> tuple[int, int, int]:
    """Where the unit at `p` ends, the size of offsets in it, and the position behind its length."""
    length, size, p = unsigned(data, p, 4), 4, p + 4
    if length == 0xFFFF_FFFF:
        length, size, p = unsigned(data, p, 8), 8, p + 8
    if length > len(data) - p:
        raise DwarfError("a unit leaves its section")
    return p + length, size, p


def string_at(data: bytes, p: int) -> str:
    if not 0 <= p < len(data):
        raise DwarfError("a string leaves its section")
    end = data.find(b"\0", p, p + _LONGEST_STRING)
    return data[p : end if end >= 0 else p + _LONGEST_STRING].decode("utf-8", "replace")


def form_size(form: int, address_size: int, offset_size: int, version: int) -> int | None:
    """Bytes of a value of `form`; None if that depends on the value."""
    if form == ADDR:
        return address_size
    if form == REF_ADDR and version == 2:
        return address_size
    if form in _OFFSETS:
        return offset_size
    for table in (_FIXED, _FIXED_TOO, _FIXED_ADDRESSES):
        if form in table:
            return table[form]
    return None


def read_form(data: bytes, p: int, form: int, size: int | None) -> tuple[int, int]:
    """The value of `form` at `p`, whose `form_size` is `size`, and the position behind it.

    Of strings and blocks in place the value is where they are.
    """
    if size is not None:
        return int.from_bytes(data[p : p + size], "little"), p + size
    if form in _ULEB:
        return uleb(data, p)
    if form == SDATA:
        return sleb(data, p)
    if form == STRING:
        end = data.find(b"\0", p)
        if end < 0:
            raise DwarfError("a string leaves its section")
        return p, end + 1
    if form in _BLOCKS:
        width = _BLOCKS[form]
        return p, p + width + unsigned(data, p, width)
    if form in _ULEB_BLOCKS:
        length, start = uleb(data, p)
        return p, start + length
    raise DwarfError(f"unknown form {form:#x}")
