# SPDX-License-Identifier: MIT
"""From a code offset back to the source: the debug sections of a blob (blob specification, section 9).

A blob may carry, for ranges of its code, little *line programs*: run, they give for every region of the range a
stack of *frames*, the function the region was written in and those it was inlined into.

All of it is untrusted, and none of it is needed to run the program: `DebugInfo.locate` gives no frames where the
sections make no sense, `DebugInfo.check` says what is wrong with them.  Either way the work is bounded.

This module is pure data.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from vm._errors import ProgramParseError
from vm._printable import shorten
from vm._varint import VarintError, decode_varint
from vm.program import ProgramBlob

#: Frames a line program can stack up, and operations it can spend on one region (section 9).
MAX_FRAMES: Final = 16
MAX_OPERATIONS_PER_REGION: Final = 512

#: Limits of our own: bytes of a name or path, and operations that one `locate` runs.
MAX_STRING: Final = 1 << 14
MAX_OPERATIONS: Final = 1 << 18

_VERSION: Final = 1
_RANGE_SIZE: Final = 12
_U32: Final = 0xFFFF_FFFF

_STRINGS: Final = "debug strings"
_PROGRAMS: Final = "debug line programs"
_RANGES: Final = "debug line program ranges"


class FrameKind(enum.Enum):
    """What the location of a frame stands for."""

    #: Where the function starts, by its declaration.
    ENTER = "enter"
    #: Where the function was inlined: a place in the function of the frame around this one.
    CALL = "call"
    #: A place in the function: where the code comes from, or where it calls the function of the frame inside.
    LINE = "line"


@dataclass(frozen=True, slots=True)
class Frame:
    """One step of how a place of the code got there; None for what the blob does not say."""

    kind: FrameKind
    #: What the function's name is relative to, such as ``core::fmt``.
    namespace: str | None
    function: str | None
    path: str | None
    #: Counted from 1.
    line: int | None
    column: int | None

    @property
    def name(self) -> str | None:
        """The function's name with its namespace; None without a function name."""
        if self.namespace is None or self.function is None:
            return self.function
        return f"{self.namespace}::{self.function}"

    @property
    def location(self) -> str | None:
        """``path:line:column``, as much of it as is known; None without a path."""
        if self.path is None or self.line is None:
            return self.path
        return f"{self.path}:{self.line}" + ("" if self.column is None else f":{self.column}")


class Region(NamedTuple):
    """Code offsets from `begin` to before `end`, all of which come from the same source lines."""

    begin: int
    end: int
    #: Innermost first, as in `DebugInfo.locate`.
    frames: tuple[Frame, ...]


class Function(NamedTuple):
    """Code offsets from `begin` to before `end` belong to the function `name`."""

    begin: int
    end: int
    name: str


class _Range(NamedTuple):
    begin: int
    end: int
    #: Where in the section of line programs the range's own one starts.
    program: int


class _RawFrame:
    """A frame while its program runs: offsets into the debug strings, 0 for what is not known."""

    __slots__ = ("column", "function", "kind", "line", "namespace", "path")

    def __init__(self) -> None:
        self.kind = FrameKind.LINE
        self.namespace = self.function = self.path = self.line = self.column = 0


class DebugInfo:
    """The debug information of a blob; making one costs nothing, its sections are read when asked."""

    def __init__(self, blob: ProgramBlob) -> None:
        self._code_size = len(blob.code)
        self._programs = blob.debug_line_programs
        self._ranges = blob.debug_line_program_ranges
        self._strings = blob.debug_strings
        # Enough for all the strings of a full stack: consecutive regions share most of them.
        self._string = functools.lru_cache(maxsize=4 * MAX_FRAMES)(functools.partial(_string_at, blob.debug_strings))

    @property
    def present(self) -> bool:
        """Whether the blob has line programs, good or bad."""
        return bool(self._ranges and self._programs)

    def locate(self, pc: int, *, budget: int = MAX_OPERATIONS) -> tuple[Frame, ...]:
        """The frames of code offset `pc`, innermost first: each was inlined into the one after it.

        The last one is of the function proper.  Empty where nothing is known, which includes sections that are
        malformed there, and what takes more than `budget` operations to find (about half a microsecond each).
        """
        with suppress(ProgramParseError):
            found = self._find(pc)
            if found is not None:
                run = _Run(self._programs, budget)
                for begin, end, depth in run.regions(found):
                    if begin <= pc < end:
                        return self._frames(run.stack[:depth])
        return ()

    def regions(self) -> Iterator[Region]:
        """Every region of every line program, in their order; a malformed program ends early."""
        run = _Run(self._programs, len(self._programs))
        for entry in range(len(self._ranges) // _RANGE_SIZE):
            with suppress(ProgramParseError):
                for begin, end, depth in run.regions(self._range(entry)):
                    yield Region(begin, end, self._frames(run.stack[:depth]))

    def functions(self) -> Iterator[Function]:
        """The functions whose code the blob names, in the order of their code; unnamed and malformed ones left out.

        A function appears once for each stretch of its code.
        """
        run = _Run(self._programs, len(self._programs))
        for entry in range(len(self._ranges) // _RANGE_SIZE):
            with suppress(ProgramParseError):
                found = self._range(entry)
                for _, _, depth in run.regions(found):
                    outermost = self._frames(run.stack[: min(depth, 1)])
                    if outermost and (name := outermost[0].name) is not None:
                        yield Function(found.begin, found.end, name)
                    break

    def check(self) -> None:
        """Read all of it; raises `ProgramParseError`, which names the section and the offset in it, if it is malformed.

        Stricter than `locate`, which looks only at what it needs: ranges must be sorted, must not overlap and must
        lie within the code, regions within their range, and line programs must not share their bytes.
        """
        if not self._ranges and not self._programs:
            return
        run = _Run(self._programs, len(self._programs))
        run.check_version()
        if len(self._ranges) % _RANGE_SIZE:
            raise ProgramParseError(f"{len(self._ranges)} bytes are no multiple of {_RANGE_SIZE}", section=_RANGES)
        previous = 0
        for entry in range(len(self._ranges) // _RANGE_SIZE):
            found = self._range(entry)
            if not previous <= found.begin < found.end <= self._code_size:
                what = f"range {entry}, {found.begin}..{found.end}, is empty, out of order or outside of the code"
                raise ProgramParseError(f"{what} at offset {entry * _RANGE_SIZE:#x}", section=_RANGES)
            previous = found.end
            for begin, end, depth in run.regions(found):
                if end > found.end:
                    what = f"region {begin}..{end} of the line program at offset {found.program:#x}"
                    raise ProgramParseError(f"{what} leaves its range, which ends at {found.end}", section=_PROGRAMS)
                self._frames(run.stack[:depth])

    def _range(self, entry: int) -> _Range:
        record = self._ranges[entry * _RANGE_SIZE : (entry + 1) * _RANGE_SIZE]
        begin, end, program = (int.from_bytes(record[i : i + 4], "little") for i in (0, 4, 8))
        return _Range(begin, end, program)

    def _find(self, pc: int) -> _Range | None:
        """The range that holds `pc`; some range or None if they are not sorted."""
        if len(self._ranges) % _RANGE_SIZE:
            return None
        low, high = 0, len(self._ranges) // _RANGE_SIZE
        while low < high:
            middle = (low + high) // 2
            found = self._range(middle)
            if pc < found.begin:
                high = middle
            elif pc >= found.end:
                low = middle + 1
            else:
                return found
        return None

    def _frames(self, stack: Sequence[_RawFrame]) -> tuple[Frame, ...]:
        string = self._string
        return tuple(
            Frame(
                kind=raw.kind,
                namespace=string(raw.namespace),
                function=string(raw.function),
                path=string(raw.path),
                line=raw.line or None,
                column=raw.column or None,
            )
            for raw in reversed(stack)
        )


def _string_at(strings: bytes, offset: int) -> str | None:
    if offset == 0:
        return None
    try:
        size, start = decode_varint(strings, offset, len(strings))
    except VarintError as error:
        raise ProgramParseError(f"{error} at offset {offset:#x}", section=_STRINGS) from None
    if size > MAX_STRING:
        raise ProgramParseError(
            f"a string of {size} bytes, more than the limit of {MAX_STRING}, at offset {offset:#x}", section=_STRINGS
        )
    if size > len(strings) - start:
        raise ProgramParseError(f"a string at offset {offset:#x} leaves the section", section=_STRINGS)
    try:
        return strings[start : start + size].decode() or None
    except UnicodeDecodeError:
        raise ProgramParseError(f"a string at offset {offset:#x} is not UTF-8", section=_STRINGS) from None


# --- Line programs ----------------------------------------------------------------------------------------------------

# Operations by their byte.  Those from _EMIT on give a region: of one byte if even, of as many as a varint says if odd;
# after it the stack is as before, one deeper, or one shallower.
_END: Final = 0
_MUTATION_DEPTH: Final = 1
_KINDS: Final = {2: FrameKind.ENTER, 3: FrameKind.CALL, 4: FrameKind.LINE}
_OFFSETS: Final = {5: "namespace", 6: "function", 7: "path", 8: "line", 9: "column"}
_STACK_DEPTH: Final = 10
_NEXT_LINE: Final = 11
_ADD_LINE: Final = 12
_SUBTRACT_LINE: Final = 13
_EMIT: Final = 14
_EMIT_LAST: Final = 19
_DEPTH_CHANGE: Final = (0, 1, -1)


class _Run:
    """Runs line programs, all together no more than `budget` operations of them.

    A budget of the section's size is enough to run all its programs once: operations have at least a byte.
    """

    def __init__(self, programs: bytes, budget: int) -> None:
        self._data = programs
        self._position = 0
        self._budget = budget
        #: Of the program that runs, outermost first; `regions` tells how many of them count.
        self.stack: list[_RawFrame] = []

    def _error(self, what: str, position: int) -> ProgramParseError:
        return ProgramParseError(f"{what} at offset {position:#x}", section=_PROGRAMS)

    def _varint(self) -> int:
        try:
            value, self._position = decode_varint(self._data, self._position, len(self._data))
        except VarintError as error:
            raise self._error(str(error), self._position) from None
        return value

    def check_version(self) -> None:
        if not self._data:
            raise self._error("there is no version", 0)
        if self._data[0] != _VERSION:
            raise self._error(f"unknown version {self._data[0]}", 0)

    def regions(self, found: _Range) -> Iterator[tuple[int, int, int]]:
        """Begin, end and number of frames of every region of the program of a range."""
        self.check_version()
        self._position = found.program
        self.stack = [_RawFrame() for _ in range(MAX_FRAMES)]
        # What a program does to a frame that is too deep to be shown is lost.
        beyond = _RawFrame()
        frame = self.stack[0]
        begin, depth = found.begin, 0
        while True:
            for _ in range(MAX_OPERATIONS_PER_REGION):
                operation = self._next_operation()
                if operation >= _EMIT:
                    break
                if operation == _END:
                    return
                if operation == _MUTATION_DEPTH:
                    level = self._varint()
                    frame = self.stack[level] if level < MAX_FRAMES else beyond
                elif operation == _STACK_DEPTH:
                    depth = self._varint()
                elif (kind := _KINDS.get(operation)) is not None:
                    frame.kind = kind
                elif operation == _NEXT_LINE:
                    frame.line = frame.line + 1 & _U32
                elif operation == _ADD_LINE:
                    frame.line = frame.line + self._varint() & _U32
                elif operation == _SUBTRACT_LINE:
                    frame.line = frame.line - self._varint() & _U32
                else:
                    setattr(frame, _OFFSETS[operation], self._varint())
            else:
                what = f"more than {MAX_OPERATIONS_PER_REGION} operations without a region"
                raise self._error(what, self._position)
            end = begin + (self._varint() if operation & 1 else 1)
            if end > begin:
                yield begin, end, min(depth, MAX_FRAMES)
            begin = end
            depth = max(0, depth + _DEPTH_CHANGE[(operation - _EMIT) // 2])

    def _next_operation(self) -> int:
        position = self._position
        if position >= len(self._data):
            raise self._error("a line program leaves the section", position)
        if self._budget == 0:
            raise self._error("too many operations: line programs are too long, or overlap,", position)
        operation = self._data[position]
        if operation > _EMIT_LAST:
            raise self._error(f"unknown operation {operation}", position)
        self._budget -= 1
        self._position = position + 1
        return operation


# --- For people -------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """A function, and where in it the code (or the function inlined there) is."""

    function: str | None
    #: ``path:line:column``, as much of it as is known.
    location: str | None


def places(frames: Sequence[Frame]) -> tuple[Place, ...]:
    """Frames, innermost first, as one place for each function.

    A function has up to three frames: where it was inlined, where it starts, where in it the code is. The first of
    them says more about the function around it, and the last one more than where the function starts.
    """
    found: list[Place] = []
    called = False
    for frame in reversed(frames):
        if frame.kind is FrameKind.CALL:
            if found:
                found[-1] = Place(found[-1].function, frame.location or found[-1].location)
            found.append(Place(frame.name, None))
            called = True
        elif found and (called or frame.kind is FrameKind.LINE) and found[-1].function == frame.name:
            found[-1] = Place(frame.name, frame.location or found[-1].location)
            called = False
        else:
            found.append(Place(frame.name, frame.location))
            called = False
    return tuple(reversed(found))


def format_place(frames: Sequence[Frame]) -> str:
    """The innermost of the `places` in a few words, such as ``main, main.c:12:5``; empty without frames.

    A path is cut down to the name of the file.  Safe to print, like all that is made for people here.
    """
    if not frames:
        return ""
    function, location = places(frames)[0]
    words = [function, None if location is None else location.replace("\\", "/").rpartition("/")[2]]
    return ", ".join(shorten(word) for word in words if word)


def format_backtrace(frames: Sequence[Frame], pc: int) -> str:
    """The `places` of frames that `DebugInfo.locate` gave for `pc`: a head line, and up to two lines for each.

    What the blob says is shown without control characters, and cut to the length of a line.
    """
    if not frames:
        return f"guest backtrace at pc {pc}: no debug information"
    lines = [f"guest backtrace at pc {pc}, innermost first:"]
    for number, (function, location) in enumerate(places(frames)):
        lines.append(f"  #{number} {shorten(function or '(unknown function)', 200)}")
        if location is not None:
            lines.append(f"       at {shorten(location, 200)}")
    return "\n".join(lines)
