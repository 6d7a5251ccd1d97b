# SPDX-License-Identifier: MIT
"""What DWARF says of code: the functions it belongs to, inlined ones included, and the source lines (DWARF 5, chapters
2, 3 and 7; versions 2 to 5)."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from vm.toolchain._dwarf_forms import (
    ADDR,
    ADDRESS_INDEXES,
    ADDRX,
    IMPLICIT_CONST,
    INDIRECT,
    LINE_STRP,
    REF_ADDR,
    RNGLISTX,
    STRING,
    STRING_INDEXES,
    STRP,
    UNIT_REFERENCES,
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
from vm.toolchain._dwarf_lines import LineTable

_SUBPROGRAM, _INLINED = 0x2E, 0x1D
_COMPILE_UNIT, _SKELETON_UNIT = 0x11, 0x4A
#: Class, structure, union, enumeration, interface and namespace: what the name of a function can be in.
_NAMESPACES: Final = frozenset({0x02, 0x13, 0x17, 0x04, 0x38, 0x39})
_INTERESTING: Final = _NAMESPACES | {_SUBPROGRAM, _INLINED, _COMPILE_UNIT, _SKELETON_UNIT}

_NAME, _STMT_LIST, _LOW_PC, _HIGH_PC, _COMP_DIR, _ORIGIN = 0x03, 0x10, 0x11, 0x12, 0x1B, 0x31
_SPECIFICATION, _RANGES, _CALL_COLUMN, _CALL_FILE, _CALL_LINE, _LINKAGE_NAME = 0x47, 0x55, 0x57, 0x58, 0x59, 0x6E
_STR_OFFSETS_BASE, _ADDR_BASE, _RNGLISTS_BASE = 0x72, 0x73, 0x74
_WANTED: Final = frozenset(
    {_NAME, _STMT_LIST, _LOW_PC, _HIGH_PC, _COMP_DIR, _ORIGIN, _SPECIFICATION, _RANGES, _CALL_COLUMN, _CALL_FILE}
) | {_CALL_LINE, _LINKAGE_NAME, _STR_OFFSETS_BASE, _ADDR_BASE, _RNGLISTS_BASE}

#: How deep functions are inlined, or names refer to others, before we stop counting.
MOST_NESTED: Final = 64
_DEEPEST: Final = 1000
#: Steps for each byte of debug information, and for having some at all.
_STEPS_PER_BYTE: Final = 2
_FIRST_STEPS: Final = 1 << 16
_MOST_STEPS: Final = 1 << 26

SECTIONS: Final = (
    *(".debug_info", ".debug_abbrev", ".debug_line", ".debug_str", ".debug_line_str", ".debug_str_offsets"),
    *(".debug_addr", ".debug_rnglists", ".debug_ranges"),
)

_Attributes = dict[int, tuple[int, int]]  # form and value, by attribute


class Location(NamedTuple):
    """A place in a source file; a path of "" and 0 for what is not known."""

    path: str
    line: int
    column: int


_NO_LOCATION: Final = Location("", 0, 0)


class Scope(NamedTuple):
    """A stretch of code of a function; `call` is where it was inlined, None for the function proper."""

    low: int
    high: int
    level: int
    namespace: str
    name: str
    call: Location | None


class _Abbreviation:
    __slots__ = ("attributes", "children", "size", "tag")

    def __init__(self, tag: int, children: bool, attributes: list[tuple[int, int, int | None, int]]) -> None:
        self.tag = tag
        self.children = children
        #: Attribute, form, size of its values if that is fixed, and the value of an implicit constant.
        self.attributes = attributes
        sizes = [size for _, _, size, _ in attributes]
        #: Bytes of all values, if that is fixed.
        self.size = None if None in sizes else sum(size for size in sizes if size is not None)


class _Unit:
    def __init__(self, start: int, end: int, offset_size: int, address_size: int, version: int) -> None:
        self.start = start
        self.end = end
        self.offset_size = offset_size
        self.address_size = address_size
        self.version = version
        self.low_pc = 0
        self.str_offsets_base = self.addr_base = self.rnglists_base = 0
        self.lines: LineTable | None = None


class _Entry(NamedTuple):
    """A function, abstract or not, by which others are named."""

    unit: _Unit
    namespace: str
    attributes: _Attributes


class Dwarf:
    """The debug information of an ELF file; raises `DwarfError` if it makes no sense.

    `is_code` tells whether an address is one of code, so that functions the linker threw away, whose addresses are
    made up, can be told from others.
    """

    def __init__(self, sections: dict[str, bytes], is_code: Callable[[int], bool]) -> None:
        self._sections = {name: sections.get(name, b"") for name in SECTIONS}
        self._info = self._sections[".debug_info"]
        self._is_code = is_code
        size = sum(map(len, self._sections.values()))
        self._budget = Budget(min(_MOST_STEPS, _FIRST_STEPS + _STEPS_PER_BYTE * size))
        self._abbreviations: dict[tuple[int, int, int, int], dict[int, _Abbreviation]] = {}
        self._line_tables: dict[int, LineTable] = {}
        self._entries: dict[int, _Entry] = {}
        self._found: list[tuple[int, int, int, int, _Unit, _Attributes]] = []
        self._names: dict[int, tuple[str, str]] = {}
        try:
            self._read_units()
            self.scopes = self._make_scopes()
        except (IndexError, ValueError) as error:  # the end of a section
            raise DwarfError(str(error)) from error

    # --- Units and their entries --------------------------------------------------------------------------------------

    def _read_units(self) -> None:
        data, p = self._info, 0
        while p < len(data):
            start = p
            end, offset_size, p = initial_length(data, p)
            version = unsigned(data, p, 2)
            p += 2
            kind = 1
            if version == 5:
                kind, address_size = data[p], data[p + 1]
                abbreviations, p = unsigned(data, p + 2, offset_size), p + 2 + offset_size
                if kind in (4, 5):  # skeleton and split units have an id
                    p += 8
            else:
                abbreviations, p = unsigned(data, p, offset_size), p + offset_size
                address_size, p = data[p], p + 1
            if 2 <= version <= 5 and kind in (1, 3, 4) and address_size in (4, 8):
                unit = _Unit(start, end, offset_size, address_size, version)
                self._walk(unit, p, self._read_abbreviations(abbreviations, unit))
            p = end

    def _read_abbreviations(self, p: int, unit: _Unit) -> dict[int, _Abbreviation]:
        key = (p, unit.offset_size, unit.address_size, unit.version)
        table = self._abbreviations.get(key)
        if table is not None:
            return table
        table = self._abbreviations[key] = {}
        data = self._sections[".debug_abbrev"]
        while True:
            code, p = uleb(data, p)
            if code == 0:
                return table
            tag, p = uleb(data, p)
            children, p = data[p] != 0, p + 1
            attributes = []
            while True:
                self._budget.spend()
                attribute, p = uleb(data, p)
                form, p = uleb(data, p)
                constant = 0
                if form == IMPLICIT_CONST:
                    constant, p = sleb(data, p)
                if attribute == form == 0:
                    break
                size = form_size(form, unit.address_size, unit.offset_size, unit.version)
                attributes.append((attribute, form, size, constant))
            table[code] = _Abbreviation(tag, children, attributes)

    def _walk(self, unit: _Unit, p: int, table: dict[int, _Abbreviation]) -> None:
        data, end, entries = self._info, unit.end, self._entries
        # Of each open entry: the namespace in it, and how many functions it is in.
        open_entries: list[tuple[str, int]] = []
        namespace, level = "", 0
        steps = 0
        while p < end:
            steps += 1
            offset = p
            code, p = uleb(data, p)
            if code == 0:
                if not open_entries:
                    break
                namespace, level = open_entries.pop()
                continue
            abbreviation = table.get(code)
            if abbreviation is None:
                raise DwarfError(f"there is no abbreviation {code}")
            tag = abbreviation.tag
            if abbreviation.children:
                if len(open_entries) > _DEEPEST:
                    raise DwarfError("entries are nested too deeply")
                open_entries.append((namespace, level))
            if tag not in _INTERESTING:
                p = p + abbreviation.size if abbreviation.size is not None else self._skip(p, abbreviation)
                continue
            attributes, p = self._read_attributes(unit, p, abbreviation)
            if tag in (_SUBPROGRAM, _INLINED):
                if tag == _SUBPROGRAM:
                    entries[offset] = _Entry(unit, namespace, attributes)
                    if not abbreviation.children:
                        self._note(unit, offset, 0, tag, attributes)
                        continue
                    namespace, level = "", 0
                self._note(unit, offset, level, tag, attributes)
                if abbreviation.children:
                    level += 1
            elif tag in _NAMESPACES:
                if abbreviation.children:
                    name = self._string(unit, attributes.get(_NAME))
                    namespace = f"{namespace}::{name}" if namespace and name else namespace or name
                    self._budget.spend(len(namespace))
            else:
                self._begin_unit(unit, attributes)
        self._budget.spend(steps)

    def _skip(self, p: int, abbreviation: _Abbreviation) -> int:
        data = self._info
        self._budget.spend(len(abbreviation.attributes))
        for _, form, size, _ in abbreviation.attributes:
            if size is not None:
                p += size
            else:
                while form == INDIRECT:
                    form, p = uleb(data, p)
                _, p = read_form(data, p, form, None)
        return p

    def _read_attributes(self, unit: _Unit, p: int, abbreviation: _Abbreviation) -> tuple[_Attributes, int]:
        data, found = self._info, {}
        self._budget.spend(len(abbreviation.attributes))
        for attribute, form, size, constant in abbreviation.attributes:
            while form == INDIRECT:
                form, p = uleb(data, p)
                size = form_size(form, unit.address_size, unit.offset_size, unit.version)
            value, p = read_form(data, p, form, size)
            if attribute in _WANTED:
                found[attribute] = (form, constant if form == IMPLICIT_CONST else value)
        return found, p

    def _begin_unit(self, unit: _Unit, attributes: _Attributes) -> None:
        unit.str_offsets_base = attributes.get(_STR_OFFSETS_BASE, (0, 8))[1]
        unit.addr_base = attributes.get(_ADDR_BASE, (0, 8))[1]
        unit.rnglists_base = attributes.get(_RNGLISTS_BASE, (0, 12))[1]
        if _LOW_PC in attributes:
            unit.low_pc = self._address(unit, *attributes[_LOW_PC])
        if _STMT_LIST in attributes:
            offset = attributes[_STMT_LIST][1]
            table = self._line_tables.get(offset)
            if table is None:
                directory = self._string(unit, attributes.get(_COMP_DIR))
                table = LineTable(self._sections, offset, directory, self._budget, self._is_code)
                self._line_tables[offset] = table
            unit.lines = table

    # --- Values -------------------------------------------------------------------------------------------------------

    def _string(self, unit: _Unit, value: tuple[int, int] | None) -> str:
        if value is None:
            return ""
        text = self._find_string(unit, *value)
        self._budget.spend(len(text) >> 5)
        return text

    def _find_string(self, unit: _Unit, form: int, offset: int) -> str:
        if form == STRING:
            return string_at(self._info, offset)
        if form == STRP:
            return string_at(self._sections[".debug_str"], offset)
        if form == LINE_STRP:
            return string_at(self._sections[".debug_line_str"], offset)
        if form in STRING_INDEXES:
            size = unit.offset_size
            place = unit.str_offsets_base + size * offset
            return string_at(self._sections[".debug_str"], unsigned(self._sections[".debug_str_offsets"], place, size))
        return ""

    def _address(self, unit: _Unit, form: int, value: int) -> int:
        if form in ADDRESS_INDEXES:
            place = unit.addr_base + unit.address_size * value
            return unsigned(self._sections[".debug_addr"], place, unit.address_size)
        return value

    def _note(self, unit: _Unit, offset: int, level: int, tag: int, attributes: _Attributes) -> None:
        """Remember an entry that has code."""
        if _LOW_PC not in attributes and _RANGES not in attributes:
            return
        for low, high in self._ranges(unit, attributes):
            self._budget.spend()
            if low < high and self._is_code(low):
                self._found.append((low, high, level, offset if tag == _SUBPROGRAM else -1, unit, attributes))

    def _ranges(self, unit: _Unit, attributes: _Attributes) -> Iterator[tuple[int, int]]:
        if _RANGES in attributes:
            form, value = attributes[_RANGES]
            yield from self._new_ranges(unit, form, value) if unit.version == 5 else self._old_ranges(unit, value)
        elif _HIGH_PC in attributes:
            low = self._address(unit, *attributes[_LOW_PC])
            form, value = attributes[_HIGH_PC]
            is_address = form == ADDR or form in ADDRESS_INDEXES
            yield low, self._address(unit, form, value) if is_address else low + value

    def _old_ranges(self, unit: _Unit, p: int) -> Iterator[tuple[int, int]]:
        data, size = self._sections[".debug_ranges"], unit.address_size
        base, largest = unit.low_pc, (1 << 8 * size) - 1
        while True:
            self._budget.spend()
            low, high = unsigned(data, p, size), unsigned(data, p + size, size)
            p += 2 * size
            if low == high == 0:
                return
            if low == largest:
                base = high
            else:
                yield base + low, base + high

    def _new_ranges(self, unit: _Unit, form: int, p: int) -> Iterator[tuple[int, int]]:
        data, size, base = self._sections[".debug_rnglists"], unit.address_size, unit.low_pc
        if form == RNGLISTX:
            place = unit.rnglists_base + unit.offset_size * p
            p = unit.rnglists_base + unsigned(data, place, unit.offset_size)
        while True:
            self._budget.spend()
            kind, p = data[p], p + 1
            if kind == 0:
                return
            if kind in (1, 2, 3):
                first, p = uleb(data, p)
                low = self._address(unit, ADDRX, first)
                if kind == 1:
                    base = low
                    continue
                second, p = uleb(data, p)
                yield low, self._address(unit, ADDRX, second) if kind == 2 else low + second
            elif kind == 4:
                first, p = uleb(data, p)
                second, p = uleb(data, p)
                yield base + first, base + second
            elif kind == 5:
                base, p = unsigned(data, p, size), p + size
            elif kind == 6:
                yield unsigned(data, p, size), unsigned(data, p + size, size)
                p += 2 * size
            elif kind == 7:
                low, p = unsigned(data, p, size), p + size
                second, p = uleb(data, p)
                yield low, low + second
            else:
                raise DwarfError(f"unknown range list entry {kind}")

    # --- Functions ----------------------------------------------------------------------------------------------------

    def _reference(self, unit: _Unit, value: tuple[int, int]) -> int:
        form, offset = value
        if form in UNIT_REFERENCES:
            return unit.start + offset
        return offset if form == REF_ADDR else -1

    def _name(self, offset: int) -> tuple[str, str]:
        """Namespace and name of the function whose entry is at `offset`."""
        found = self._names.get(offset)
        if found is None:
            namespace = name = linkage = ""
            place = offset
            for _ in range(MOST_NESTED):
                entry = self._entries.get(place)
                if entry is None:
                    break
                namespace = namespace or entry.namespace
                name = name or self._string(entry.unit, entry.attributes.get(_NAME))
                linkage = linkage or self._string(entry.unit, entry.attributes.get(_LINKAGE_NAME))
                following = entry.attributes.get(_ORIGIN) or entry.attributes.get(_SPECIFICATION)
                if following is None:
                    break
                place = self._reference(entry.unit, following)
            found = self._names[offset] = (namespace, name or linkage)
        return found

    def _make_scopes(self) -> list[Scope]:
        """All stretches of code of functions, outer ones before the inner ones that start at the same address."""
        scopes = []
        for low, high, level, offset, unit, attributes in self._found:
            call = None
            if offset < 0:
                origin = attributes.get(_ORIGIN)
                offset = -1 if origin is None else self._reference(unit, origin)
                file = attributes.get(_CALL_FILE, (0, -1))[1]
                paths = [] if unit.lines is None else unit.lines.paths
                path = paths[file] if 0 <= file < len(paths) else ""
                call = Location(path, attributes.get(_CALL_LINE, (0, 0))[1], attributes.get(_CALL_COLUMN, (0, 0))[1])
            scopes.append(Scope(low, high, level, *self._name(offset), call))
        scopes.sort(key=lambda scope: (scope.low, scope.level, -scope.high))
        return scopes

    # --- Lines --------------------------------------------------------------------------------------------------------

    def locations(self, addresses: list[int]) -> list[Location]:
        """The source lines of `addresses`, which are sorted."""
        tables = list(self._line_tables.values())
        # Of rows with the same address the last one counts, but for ends of sequences.
        rows = sorted(
            (row[0], row[1] >= 0, number, order)
            for number, table in enumerate(tables)
            for order, row in enumerate(table.rows)
        )
        starts = [row[0] for row in rows]
        found, index = [], 0
        for address in addresses:
            index = bisect.bisect_right(starts, address, lo=index)
            location = _NO_LOCATION
            if index:
                _, _, number, order = rows[index - 1]
                table = tables[number]
                _, file, line, column = table.rows[order]
                if 0 <= file < len(table.paths):
                    location = Location(table.paths[file], line, column)
            found.append(location)
        return found
