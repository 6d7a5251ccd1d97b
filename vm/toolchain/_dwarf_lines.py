# SPDX-License-Identifier: MIT
"""DWARF line number programs (DWARF 5, section 6.2; versions 2 to 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from vm.toolchain._dwarf_forms import (
    LINE_STRP,
    STRING,
    STRP,
    Budget,
    DwarfError,
    form_size,
    initial_length,
    read_form,
    sleb,
    string_at,
    uleb,
    unsigned,
)

_PATH, _DIRECTORY = 1, 2
_MOST_ENTRIES: Final = 1 << 16
_ADDRESS_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF


#: Address, file, line and column: from this address on, code comes from this line of this file of `LineTable.paths`
#: (-1: from nowhere).
Row: TypeAlias = tuple[int, int, int, int]


class LineTable:
    """The line number program of one unit, run. Rows are in the order of the program."""

    def __init__(
        self,
        sections: dict[str, bytes],
        offset: int,
        directory: str,
        budget: Budget,
        is_code: Callable[[int], bool],
    ) -> None:
        self._sections = sections
        self._data = sections[".debug_line"]
        self._budget = budget
        self._is_code = is_code
        #: Path of each file, by the numbers that rows and call sites use.
        self.paths: list[str] = []
        self.rows: list[Row] = []
        self._read(offset, directory)

    def _read(self, p: int, directory: str) -> None:
        data = self._data
        end, offset_size, p = initial_length(data, p)
        version = unsigned(data, p, 2)
        p += 2
        if not 2 <= version <= 5:
            raise DwarfError(f"line number program of version {version}")
        address_size = 8
        if version == 5:
            address_size = data[p]
            p += 2
        program = p + offset_size + unsigned(data, p, offset_size)
        p += offset_size
        if program > end:
            raise DwarfError("a line number program leaves its unit")
        self._smallest = data[p]
        p += 2 if version >= 4 else 1
        p += 1  # default_is_stmt
        line_base = data[p] - 256 if data[p] > 127 else data[p]
        line_range, opcode_base = data[p + 1], data[p + 2]
        if line_range == 0 or opcode_base == 0:
            raise DwarfError("a line number program's opcodes make no sense")
        lengths = data[p + 3 : p + 2 + opcode_base]
        p += 2 + opcode_base
        if version == 5:
            self._read_tables(p, directory, address_size, offset_size)
        else:
            self._read_old_tables(p, directory)
        self._run(program, end, line_base, line_range, opcode_base, lengths)

    def _read_tables(self, p: int, directory: str, address_size: int, offset_size: int) -> None:
        directories, p = self._entries(p, address_size, offset_size)
        files, p = self._entries(p, address_size, offset_size)
        # The first one is that of the unit, to which the others are relative.
        root = directories[0][0] if directories else directory
        names = [root, *(_join(root, name) for name, _ in directories[1:])]
        self.paths = [_join(names[index] if index < len(names) else root, name) for name, index in files]

    def _entries(self, p: int, address_size: int, offset_size: int) -> tuple[list[tuple[str, int]], int]:
        """Name and directory number of each entry of a table."""
        data = self._data
        formats, p = [], p + 1
        for _ in range(data[p - 1]):
            content, p = uleb(data, p)
            form, p = uleb(data, p)
            formats.append((content, form, form_size(form, address_size, offset_size, 5)))
        count, p = uleb(data, p)
        if count > _MOST_ENTRIES:
            raise DwarfError(f"{count} files or directories")
        entries = []
        for _ in range(count):
            self._budget.spend(1 + len(formats))
            name, index = "", 0
            for content, form, size in formats:
                value, p = read_form(data, p, form, size)
                if content == _PATH:
                    name = self._string(form, value)
                elif content == _DIRECTORY:
                    index = value
            entries.append((name, index))
        return entries, p

    def _string(self, form: int, value: int) -> str:
        if form == STRING:
            return string_at(self._data, value)
        if form == LINE_STRP:
            return string_at(self._sections[".debug_line_str"], value)
        if form == STRP:
            return string_at(self._sections[".debug_str"], value)
        raise DwarfError(f"a path of form {form:#x}")

    def _read_old_tables(self, p: int, directory: str) -> None:
        data = self._data
        directories = [directory]
        while data[p]:
            directories.append(_join(directory, string_at(data, p)))
            p = data.index(b"\0", p) + 1
            self._budget.spend()
        p += 1
        self.paths = [""]  # files count from 1
        while data[p]:
            name = string_at(data, p)
            p = data.index(b"\0", p) + 1
            index, p = uleb(data, p)
            _, p = uleb(data, p)
            _, p = uleb(data, p)
            self.paths.append(_join(directories[index] if index < len(directories) else directory, name))
            self._budget.spend()

    def _run(self, p: int, end: int, line_base: int, line_range: int, opcode_base: int, lengths: bytes) -> None:
        data, rows, smallest = self._data, self.rows, self._smallest
        self._budget.spend(end - p)
        address, file, line, column = 0, 1, 1, 0
        sequence = len(rows)
        while p < end:
            opcode = data[p]
            p += 1
            if opcode >= opcode_base:
                opcode -= opcode_base
                address += opcode // line_range * smallest
                line += line_base + opcode % line_range
                rows.append((address, file, line, column))
            elif opcode == 0:
                length, p = uleb(data, p)
                after = p + length
                if length == 0 or after > end:
                    raise DwarfError("an extended opcode leaves its unit")
                kind = data[p]
                if kind == 1:  # end of the sequence
                    if sequence < len(rows) and self._is_code(rows[sequence][0]):
                        rows.append((address, -1, 0, 0))
                    else:  # the linker threw the function away
                        del rows[sequence:]
                    sequence = len(rows)
                    address, file, line, column = 0, 1, 1, 0
                elif kind == 2:
                    address = int.from_bytes(data[p + 1 : after], "little") & _ADDRESS_MASK
                p = after
            elif opcode == 1:
                rows.append((address, file, line, column))
            elif opcode == 2:
                advance, p = uleb(data, p)
                address = address + advance * smallest & _ADDRESS_MASK
            elif opcode == 3:
                advance, p = sleb(data, p)
                line = line + advance & 0xFFFF_FFFF
            elif opcode == 4:
                file, p = uleb(data, p)
            elif opcode == 5:
                column, p = uleb(data, p)
            elif opcode == 8:
                address += (255 - opcode_base) // line_range * smallest
            elif opcode == 9:
                address += unsigned(data, p, 2)
                p += 2
            elif opcode not in (6, 7, 10, 11):
                for _ in range(lengths[opcode - 1]):
                    _, p = uleb(data, p)
        del rows[sequence:]


def _join(directory: str, name: str) -> str:
    if name.startswith("/") or not directory:
        return name
    return f"{directory.rstrip('/')}/{name}" if name else directory
