# SPDX-License-Identifier: MIT
"""The blob's debug sections: for every instruction the function and source line it comes from (blob specification,
section 9; `vm.debug_info` reads them)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, TypeAlias

from vm._varint import encode_varint
from vm.debug_info import MAX_FRAMES
from vm.toolchain._dwarf import MOST_NESTED, SECTIONS, Dwarf, Location, Scope
from vm.toolchain._dwarf_forms import DwarfError
from vm.toolchain._emission import Code
from vm.toolchain._ir import Positions
from vm.toolchain._sections import Image

_SHF_COMPRESSED: Final = 0x800
_ELFCOMPRESS_ZLIB: Final = 1
#: Most bytes of a debug section, and how many times its compressed size.
_LARGEST_SECTION: Final = 1 << 30
_LARGEST_RATIO: Final = 16

#: Namespace, function, path, line and column; "" and 0 for what is not known.
_Frame: TypeAlias = tuple[str, str, str, int, int]
#: Outermost first.
Frames: TypeAlias = tuple[_Frame, ...]


class DebugSections(NamedTuple):
    strings: bytes = b""
    line_programs: bytes = b""
    ranges: bytes = b""


class Sources:
    """Where the code of an image comes from, as its DWARF has it, or at least its symbols."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._dwarf: Dwarf | None = None
        self._read = False

    def _information(self) -> Dwarf | None:
        """The DWARF; None if there is none, it is no good, or it is not linked yet (relocatable files)."""
        if not self._read:
            self._read = True
            image = self._image
            is_code: Callable[[int], bool] = lambda address: image.code_section_at(address) is not None  # noqa: E731
            if not image.relocatable:
                try:
                    self._dwarf = Dwarf(self._sections(), is_code)
                except DwarfError:
                    self._dwarf = None
        return self._dwarf

    def _sections(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for section in self._image.sections:
            if section.name in SECTIONS and section.name not in found:
                data = bytes(section.data)
                found[section.name] = self._decompress(data) if section.flags & _SHF_COMPRESSED else data
        return found

    def _decompress(self, data: bytes) -> bytes:
        header = 24 if self._image.is64 else 12
        if int.from_bytes(data[:4], "little") != _ELFCOMPRESS_ZLIB:
            raise DwarfError("an unknown compression")
        try:
            largest = min(_LARGEST_SECTION, len(data) * _LARGEST_RATIO)
            return zlib.decompressobj().decompress(data[header:], largest)
        except zlib.error as error:
            raise DwarfError(str(error)) from error

    def line_at(self, address: int) -> str | None:
        """``file:line`` of an address, as far as it is known."""
        dwarf = self._information()
        if dwarf is None:
            return None
        path, line, _ = dwarf.locations([address])[0]
        return f"{path}:{line}" if path else None

    def frames(self, addresses: Iterable[int]) -> dict[int, Frames]:
        """The frames of each address; none for those that nothing is known of."""
        ordered = sorted(set(addresses))
        dwarf = self._information()
        if dwarf is None:
            return {address: self._from_symbol(address) for address in ordered}
        found: dict[int, Frames] = {}
        scopes, position = dwarf.scopes, 0
        stack: list[Scope] = []
        for address, location in zip(ordered, dwarf.locations(ordered), strict=True):
            stack = [scope for scope in stack if scope.high > address]
            while position < len(scopes) and scopes[position].low <= address:
                scope = scopes[position]
                position += 1
                if scope.high > address and len(stack) < MOST_NESTED:
                    stack.append(scope)
            found[address] = self._frames(address, stack, location)
        return found

    def _from_symbol(self, address: int, location: Location | None = None) -> Frames:
        name = self._image.symbol_at(address)
        if location is None or not location.path:
            return () if name is None else (("", name, "", 0, 0),)
        return (("", name or "", *location),)

    def _frames(self, address: int, stack: list[Scope], location: Location) -> Frames:
        """Of each function the place of the call that was inlined there, of the innermost one the line."""
        # Levels start anew with each function that is no inlined one.
        first = max((i for i, scope in enumerate(stack) if scope.call is None), default=None)
        if first is None:
            return self._from_symbol(address, location)
        chain = sorted(stack[first:], key=lambda scope: scope.level)
        places = [scope.call or location for scope in chain[1:]] + [location]
        named = [(scope.namespace, scope.name, *place) for scope, place in zip(chain, places, strict=True)][:MAX_FRAMES]
        if not named[0][1]:
            named[0] = ("", self._image.symbol_at(address) or "", *named[0][2:])
        return tuple(named)


# --- Writing ----------------------------------------------------------------------------------------------------------

_VERSION: Final = 1
_END, _MUTATION_DEPTH, _KIND_LINE = 0, 1, 4
_NAMESPACE, _FUNCTION, _PATH, _LINE, _COLUMN, _STACK_DEPTH = 5, 6, 7, 8, 9, 10
_NEXT_LINE, _ADD_LINE, _SUBTRACT_LINE, _EMIT_ONE, _EMIT = 11, 12, 13, 14, 15
_LARGEST: Final = 0xFFFF_FFFF


class _Writer:
    def __init__(self) -> None:
        self.strings = bytearray(b"\0")  # the empty string is at 0, which stands for none
        self._offsets: dict[str, int] = {"": 0}
        self.programs = bytearray([_VERSION])
        self.ranges = bytearray()
        self._encoded: dict[int, bytes] = {}

    def _varint(self, value: int) -> bytes:
        found = self._encoded.get(value)
        if found is None:
            found = self._encoded[value] = encode_varint(min(max(value, 0), _LARGEST))
        return found

    def _string(self, text: str) -> int:
        offset = self._offsets.get(text)
        if offset is None:
            offset = self._offsets[text] = len(self.strings)
            data = text.encode("utf-8", "replace")
            self.strings += encode_varint(len(data)) + data
        return offset

    def begin(self, pc: int) -> None:
        self._begin = pc
        self._start = len(self.programs)
        self._stack: list[list[int]] = [[0] * 5 for _ in range(MAX_FRAMES)]
        self._kinds = [False] * MAX_FRAMES
        self._depth = self._mutated = 0

    def region(self, length: int, frames: Frames) -> None:
        out = self.programs
        for level, frame in enumerate(frames):
            namespace, function, path, line, column = frame
            state = self._stack[level]
            wanted = [self._string(namespace), self._string(function), self._string(path), line, column]
            if wanted == state and self._kinds[level]:
                continue
            if level != self._mutated:
                out.append(_MUTATION_DEPTH)
                out += self._varint(level)
                self._mutated = level
            if not self._kinds[level]:
                out.append(_KIND_LINE)
                self._kinds[level] = True
            for index, operation in ((0, _NAMESPACE), (1, _FUNCTION), (2, _PATH), (4, _COLUMN)):
                if wanted[index] != state[index]:
                    out.append(operation)
                    out += self._varint(wanted[index])
            self._change_line(wanted[3] - state[3], wanted[3])
            self._stack[level] = wanted
        if len(frames) != self._depth:
            out.append(_STACK_DEPTH)
            out += self._varint(len(frames))
            self._depth = len(frames)
        if length == 1:
            out.append(_EMIT_ONE)
        else:
            out.append(_EMIT)
            out += self._varint(length)

    def _change_line(self, change: int, line: int) -> None:
        out = self.programs
        if change == 1:
            out.append(_NEXT_LINE)
        elif change > 1 and change != line:
            out.append(_ADD_LINE)
            out += self._varint(change)
        elif change < 0:
            out.append(_SUBTRACT_LINE)
            out += self._varint(-change)
        elif change:
            out.append(_LINE)
            out += self._varint(line)

    def end(self, pc: int) -> None:
        self.programs.append(_END)
        for value in (self._begin, pc, self._start):
            self.ranges += value.to_bytes(4, "little")


def _outer(stacks: list[Frames]) -> Frames:
    """All the frames in one stack, of which the outermost ones are kept."""
    return tuple(frame for frames in stacks for frame in frames)[:MAX_FRAMES]


def write_debug_sections(sources: Sources, positions: Positions, code: Code) -> DebugSections:
    """The debug sections of `code`."""
    stacks = {position: positions.addresses(position) for position in set(code.positions)}
    known = sources.frames(address for stack in stacks.values() for address in stack)
    frames_of = {
        position: known[stack[0]] if len(stack) == 1 else _outer([known[address] for address in stack])
        for position, stack in stacks.items()
    }
    starts = code.instructions
    writer = _Writer()
    function: tuple[str, str] | None = None
    current: Frames = ()
    begin = 0
    for index, position in enumerate(code.positions):
        frames = frames_of[position]
        if frames is current or frames == current:
            continue
        pc = starts[index]
        if current and pc > begin:
            writer.region(pc - begin, current)
        name = frames[0][:2] if frames else None
        if name != function:
            if function is not None:
                writer.end(pc)
            if name is not None:
                writer.begin(pc)
            function = name
        current, begin = frames, pc
    if current:
        writer.region(starts[-1] - begin, current)
        writer.end(starts[-1])
    if not writer.ranges:
        return DebugSections()
    return DebugSections(bytes(writer.strings), bytes(writer.programs), bytes(writer.ranges))
