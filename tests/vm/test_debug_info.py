# SPDX-License-Identifier: MIT
"""Debug sections: what they say, and that nothing in them can do harm."""

from __future__ import annotations

import dataclasses
import struct
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vm._errors import ProgramParseError
from vm._varint import encode_varint
from vm.debug_info import (
    MAX_FRAMES,
    MAX_OPERATIONS,
    MAX_OPERATIONS_PER_REGION,
    MAX_STRING,
    DebugInfo,
    Frame,
    FrameKind,
    Function,
    Place,
    Region,
    format_backtrace,
    format_place,
    places,
)
from vm.encoding import instruction_starts
from vm.isa import InstructionSet
from vm.program import ProgramBlob

QUAKE = Path(__file__).resolve().parents[3] / "shared" / "programs" / "quake.polkavm"

quick = settings(deadline=None, database=None)

END, DEPTH, ENTER, CALL, LINE = b"\0", 1, b"\2", b"\3", b"\4"
NAMESPACE, FUNCTION, PATH, LINE_NUMBER, COLUMN, STACK = 5, 6, 7, 8, 9, 10
NEXT_LINE, ADD_LINE, SUBTRACT_LINE = b"\x0b", 12, 13
ONE, MANY, ONE_DEEPER, MANY_DEEPER, ONE_SHALLOWER, MANY_SHALLOWER = b"\x0e", 15, b"\x10", 17, b"\x12", 19


def op(number: int, value: int) -> bytes:
    return bytes([number]) + encode_varint(value)


class Strings:
    """A pool of debug strings; the one at offset 0 is empty, as the reference's linker has it."""

    def __init__(self) -> None:
        self.section = b"\0"

    def __call__(self, text: str | bytes) -> int:
        data = text.encode() if isinstance(text, str) else text
        offset = len(self.section)
        self.section += encode_varint(len(data)) + data
        return offset


def blob(
    programs: Sequence[tuple[int, int, bytes]], strings: bytes = b"\0", *, version: int = 1, size: int = 1000
) -> ProgramBlob:
    """A program of `size` traps whose line programs are `programs`: begin, end, and bytes."""
    section, ranges = bytes([version]), b""
    for begin, end, data in programs:
        ranges += struct.pack("<III", begin, end, len(section))
        section += data
    return with_sections(strings, section, ranges, size)


def with_sections(strings: bytes, programs: bytes, ranges: bytes, size: int = 1000) -> ProgramBlob:
    return ProgramBlob.build(
        isa=InstructionSet.LATEST64,
        code=bytes(size),
        bitmask=b"\xff" * (size // 8),
        debug_strings=strings,
        debug_line_programs=programs,
        debug_line_program_ranges=ranges,
    )


def line_of(pc: int, programs: Sequence[tuple[int, int, bytes]]) -> int | None:
    frames = DebugInfo(blob(programs)).locate(pc)
    return frames[0].line if frames else None


def check_error(program: ProgramBlob) -> str:
    with pytest.raises(ProgramParseError) as raised:
        DebugInfo(program).check()
    return str(raised.value)


def everything(program: ProgramBlob, pcs: Iterable[int] = range(0, 1000, 97)) -> None:
    """Asks for all there is; nothing may be raised."""
    info = DebugInfo(program)
    for pc in pcs:
        frames = info.locate(pc)
        format_backtrace(frames, pc)
        assert format_place(frames).isprintable()
    list(info.regions())
    list(info.functions())


# --- Line programs ----------------------------------------------------------------------------------------------------


def test_every_field() -> None:
    strings = Strings()
    program = (
        op(STACK, 1)
        + ENTER
        + op(NAMESPACE, strings("std::io"))
        + op(FUNCTION, strings("read"))
        + op(PATH, strings("src/io.rs"))
        + op(LINE_NUMBER, 12)
        + op(COLUMN, 34)
        + op(MANY, 4)
        + END
    )
    info = DebugInfo(blob([(8, 12, program)], strings.section))
    frame = Frame(FrameKind.ENTER, "std::io", "read", "src/io.rs", 12, 34)
    info.check()
    assert info.present
    assert [info.locate(pc) for pc in (7, 8, 11, 12)] == [(), (frame,), (frame,), ()]
    assert list(info.regions()) == [Region(8, 12, (frame,))]
    assert list(info.functions()) == [Function(8, 12, "std::io::read")]
    assert (frame.name, frame.location) == ("std::io::read", "src/io.rs:12:34")


def test_nothing_is_known_at_first() -> None:
    info = DebugInfo(blob([(0, 2, ONE + op(STACK, 1) + ONE + END)]))
    assert info.locate(0) == ()
    (frame,) = info.locate(1)
    assert frame == Frame(FrameKind.LINE, None, None, None, None, None)
    assert (frame.name, frame.location) == (None, None)
    assert list(info.functions()) == []


@pytest.mark.parametrize(
    ("frame", "name", "location"),
    [
        (Frame(FrameKind.LINE, "a", None, "p", None, 3), None, "p"),
        (Frame(FrameKind.LINE, None, "f", "p", 2, None), "f", "p:2"),
        (Frame(FrameKind.LINE, "a", "f", None, 2, 3), "a::f", None),
    ],
)
def test_partly_known_frames(frame: Frame, name: str | None, location: str | None) -> None:
    assert (frame.name, frame.location) == (name, location)


def test_lines_are_counted_modulo_32_bits() -> None:
    program = op(STACK, 1) + op(LINE_NUMBER, 5)
    for step in (NEXT_LINE, op(ADD_LINE, 10), op(SUBTRACT_LINE, 3), op(SUBTRACT_LINE, 14), op(ADD_LINE, 2)):
        program += step + ONE
    lines = [line_of(pc, [(0, 5, program + END)]) for pc in range(5)]
    assert lines == [6, 16, 13, 0xFFFF_FFFF, 1]


def test_frames_come_innermost_first() -> None:
    program = op(STACK, 2) + op(LINE_NUMBER, 1) + op(DEPTH, 1) + op(LINE_NUMBER, 2) + ONE + END
    assert [frame.line for frame in DebugInfo(blob([(0, 1, program)])).locate(0)] == [2, 1]


def test_depth_changes_after_the_region() -> None:
    program = b"".join(
        (
            op(STACK, 1),
            ONE_DEEPER,
            op(MANY_DEEPER, 2),
            ONE_SHALLOWER,
            op(MANY_SHALLOWER, 2),
            ONE_SHALLOWER,
            ONE_SHALLOWER,
            ONE,
        )
    )
    depths = [len(DebugInfo(blob([(0, 9, program + END)])).locate(pc)) for pc in range(9)]
    assert depths == [1, 2, 2, 3, 2, 2, 1, 0, 0]


def test_no_more_than_16_frames_are_kept() -> None:
    """What a program does to deeper ones is lost, and so they do not come back when the stack shrinks."""
    program = b"".join(op(DEPTH, depth) + op(LINE_NUMBER, depth + 1) for depth in (*range(20), 0xFFFF_FFFE))
    program += op(STACK, 0xFFFF_FFFF) + ONE_SHALLOWER + op(STACK, 3) + ONE + END
    info = DebugInfo(blob([(0, 2, program)]))
    info.check()
    assert [frame.line for frame in info.locate(0)] == [*range(MAX_FRAMES, 0, -1)]
    assert [frame.line for frame in info.locate(1)] == [3, 2, 1]


def test_empty_regions_are_none() -> None:
    info = DebugInfo(blob([(0, 1, op(STACK, 1) + op(MANY, 0) + ONE + END)]))
    info.check()
    assert [(region.begin, region.end) for region in info.regions()] == [(0, 1)]


def test_the_right_one_of_many_ranges() -> None:
    programs = [(n * 10, n * 10 + 5, op(STACK, 1) + op(LINE_NUMBER, n + 1) + op(MANY, 5) + END) for n in range(100)]
    info = DebugInfo(blob(programs))
    info.check()
    for pc in range(1000):
        frames = info.locate(pc)
        assert [frame.line for frame in frames] == ([pc // 10 + 1] if pc % 10 < 5 else [])
    assert info.locate(-1) == info.locate(1 << 40) == ()


def test_blobs_without_debug_information() -> None:
    info = DebugInfo(with_sections(b"", b"", b""))
    info.check()
    assert not info.present
    assert info.locate(0) == ()
    assert list(info.regions()) == list(info.functions()) == []


def test_sections_without_ranges() -> None:
    """What the reference's linker leaves of a program without symbols."""
    info = DebugInfo(with_sections(b"\0", b"\1", b""))
    info.check()
    assert not info.present


# --- Malformed ones ---------------------------------------------------------------------------------------------------

START = op(STACK, 1)
MALFORMED = {
    "no version": (with_sections(b"\0", b"", bytes(12)), "there is no version at offset 0x0"),
    "other version": (blob([(0, 1, ONE + END)], version=2), "unknown version 2 at offset 0x0"),
    "unknown operation": (blob([(0, 1, START + b"\x14")]), "unknown operation 20 at offset 0x3"),
    "no end": (blob([(0, 1, ONE)]), "a line program leaves the section at offset 0x2"),
    "cut off": (blob([(0, 1, b"\x08")]), "unexpected end of data at offset 0x2"),
    "cut off number": (blob([(0, 1, b"\x08\xf0")]), "truncated varint at offset 0x2"),
    "program outside": (
        with_sections(b"\0", b"\1", struct.pack("<III", 0, 1, 77)),
        "leaves the section at offset 0x4d",
    ),
    "no region": (
        blob([(0, 1, NEXT_LINE * MAX_OPERATIONS_PER_REGION + ONE + END)]),
        f"more than 512 operations without a region at offset {MAX_OPERATIONS_PER_REGION + 1:#x}",
    ),
    "region outside": (blob([(0, 1, op(MANY, 2) + END)]), "region 0..2 of the line program at offset 0x1 leaves its"),
    "shared program": (
        with_sections(b"\0", b"\1" + ONE * 9 + END, struct.pack("<6I", 0, 9, 1, 9, 18, 1)),
        "too many operations: line programs are too long, or overlap, at offset 0x2",
    ),
    "string outside": (blob([(0, 1, START + op(PATH, 9) + ONE + END)]), "unexpected end of data at offset 0x9"),
    "string cut off": (blob([(0, 1, START + op(PATH, 1) + ONE + END)], b"\0\5abcd"), "a string at offset 0x1 leaves"),
    "string too long": (
        blob([(0, 1, START + op(PATH, 1) + ONE + END)], b"\0" + encode_varint(MAX_STRING + 1) + bytes(MAX_STRING + 1)),
        "a string of 16385 bytes, more than the limit of 16384, at offset 0x1",
    ),
    "string not UTF-8": (blob([(0, 1, START + op(PATH, 1) + ONE + END)], b"\0\1\xff"), "at offset 0x1 is not UTF-8"),
    "part of a range": (with_sections(b"\0", b"\1", bytes(13)), "13 bytes are no multiple of 12"),
    "range outside": (blob([(999, 1001, ONE + ONE + END)]), "range 0, 999..1001, is empty, out of order or outside"),
    "empty range": (blob([(5, 5, END)]), "range 0, 5..5, is empty, out of order or outside of the code at offset 0x0"),
    "backward range": (blob([(5, 4, END)]), "range 0, 5..4, is empty"),
    "ranges out of order": (blob([(5, 6, ONE + END), (0, 1, ONE + END)]), "range 1, 0..1, is empty, out of order"),
    "overlapping ranges": (blob([(0, 6, ONE + END), (5, 9, ONE + END)]), "outside of the code at offset 0xc"),
}


@pytest.mark.parametrize(("program", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_sections(program: ProgramBlob, message: str) -> None:
    error = check_error(program)
    assert message in error
    assert error.startswith("invalid program blob: ")
    assert " in the debug " in error
    everything(program)


@pytest.mark.parametrize(
    "name", ["unknown operation", "no region", "string outside", "string too long", "string not UTF-8"]
)
def test_malformed_places_have_no_frames(name: str) -> None:
    assert DebugInfo(MALFORMED[name][0]).locate(0) == ()


def test_what_comes_before_the_fault_is_found() -> None:
    info = DebugInfo(blob([(0, 2, START + op(LINE_NUMBER, 7) + ONE + b"\xff"), (2, 3, START + ONE + END)]))
    assert [frame.line for frame in info.locate(0)] == [7]
    assert info.locate(1) == ()
    assert len(info.locate(2)) == 1
    assert [region.begin for region in info.regions()] == [0, 2]


def test_a_budget_of_operations() -> None:
    program = op(STACK, 1) + op(LINE_NUMBER, 5) + ONE + NEXT_LINE + ONE + END
    info = DebugInfo(blob([(0, 2, program)]))
    lines = [[frame.line for frame in info.locate(1, budget=budget)] for budget in (0, 4, 5)]
    assert lines == [[], [], [6]]
    assert [frame.line for frame in info.locate(0, budget=3)] == [5]


def test_work_is_bounded() -> None:
    """A section full of operations, and ranges that would run all of it again and again."""
    endless = (NEXT_LINE * 500 + op(MANY, 0)) * (2 * MAX_OPERATIONS // 500)
    ranges = b"".join(struct.pack("<III", n, n + 1, 1) for n in range(1000))
    program = with_sections(b"\0", b"\1" + endless, ranges)
    begin = time.perf_counter()
    everything(program, [500])
    assert time.perf_counter() - begin < 10


@quick
@given(st.binary(max_size=60), st.binary(max_size=60), st.lists(st.integers(0, 70), max_size=12))
def test_any_bytes(strings: bytes, programs: bytes, ranges: list[int]) -> None:
    program = with_sections(strings, b"\1" + programs, b"".join(n.to_bytes(4, "little") for n in ranges))
    everything(program, range(70))
    try:
        DebugInfo(program).check()
    except ProgramParseError:
        return
    # What is well formed is the same however it is asked for.
    info = DebugInfo(program)
    for region in info.regions():
        assert all(info.locate(pc) == region.frames for pc in range(region.begin, region.end))


@quick
@given(st.data())
def test_any_operations(data: st.DataObject) -> None:
    operations = st.one_of(
        st.sampled_from([ENTER, CALL, LINE, NEXT_LINE, ONE, ONE_DEEPER, ONE_SHALLOWER]),
        st.builds(op, st.sampled_from([1, *range(5, 11), 12, 13, 15, 17, 19]), st.integers(0, 20)),
    )
    program = b"".join(data.draw(st.lists(operations, max_size=40))) + END
    strings = Strings()
    for text in ("a", "bc", "", "def"):
        strings(text)
    everything(blob([(0, 1000, program)], strings.section), range(200))


# --- For people -------------------------------------------------------------------------------------------------------


def frame(kind: FrameKind, function: str, line: int | None) -> Frame:
    return Frame(kind, None, function, None if line is None else "x.c", line, None)


INNERMOST_FIRST = {
    "in a function": (
        [frame(FrameKind.LINE, "f", 12), frame(FrameKind.ENTER, "f", 10)],
        [Place("f", "x.c:12")],
    ),
    "where it starts": ([frame(FrameKind.ENTER, "f", 10)], [Place("f", "x.c:10")]),
    "symbols only": ([frame(FrameKind.ENTER, "f", None)], [Place("f", None)]),
    "inlined": (
        [
            frame(FrameKind.LINE, "g", 3),
            frame(FrameKind.ENTER, "g", 2),
            frame(FrameKind.CALL, "g", 12),
            frame(FrameKind.ENTER, "f", 10),
        ],
        [Place("g", "x.c:3"), Place("f", "x.c:12")],
    ),
    "inlined without a line": (
        [frame(FrameKind.ENTER, "g", 2), frame(FrameKind.CALL, "g", 12), frame(FrameKind.ENTER, "f", 10)],
        [Place("g", "x.c:2"), Place("f", "x.c:12")],
    ),
    "inlined by the linker": (
        [
            frame(FrameKind.LINE, "g", 3),
            frame(FrameKind.ENTER, "g", 2),
            frame(FrameKind.LINE, "f", 12),
            frame(FrameKind.ENTER, "f", 10),
        ],
        [Place("g", "x.c:3"), Place("f", "x.c:12")],
    ),
    "recursion": (
        [frame(FrameKind.ENTER, "f", 10), frame(FrameKind.CALL, "f", 12), frame(FrameKind.ENTER, "f", 10)],
        [Place("f", "x.c:10"), Place("f", "x.c:12")],
    ),
    "nothing but a call": ([frame(FrameKind.CALL, "f", 3)], [Place("f", None)]),
    "nothing": ([], []),
}


@pytest.mark.parametrize(("frames", "expected"), INNERMOST_FIRST.values(), ids=INNERMOST_FIRST)
def test_places(frames: list[Frame], expected: list[Place]) -> None:
    assert list(places(frames)) == expected


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([], ""),
        (INNERMOST_FIRST["inlined"][0], "g, x.c:3"),
        (INNERMOST_FIRST["symbols only"][0], "f"),
        ([Frame(FrameKind.LINE, None, None, None, 7, None)], ""),
        ([Frame(FrameKind.LINE, None, None, "/src/x.c", 7, 1)], "x.c:7:1"),
        ([Frame(FrameKind.LINE, "a", "f", "C:\\src\\x.rs", 7, None)], "a::f, x.rs:7"),
        ([Frame(FrameKind.LINE, None, "f", "/src/", None, None)], "f"),
        ([Frame(FrameKind.LINE, None, "\x1b[2J\n", "x" * 99, None, None)], r"\x1b[2J\x0a, " + "x" * 77 + "..."),
    ],
)
def test_place_in_short(frames: list[Frame], expected: str) -> None:
    assert format_place(frames) == expected


def test_backtrace() -> None:
    frames = INNERMOST_FIRST["inlined"][0]
    assert format_backtrace(frames, 77) == (
        "guest backtrace at pc 77, innermost first:\n  #0 g\n       at x.c:3\n  #1 f\n       at x.c:12"
    )
    assert format_backtrace([], 77) == "guest backtrace at pc 77: no debug information"
    unknown = Frame(FrameKind.LINE, None, None, None, None, None)
    assert format_backtrace([unknown], 77).endswith("\n  #0 (unknown function)")


def test_backtrace_is_safe_to_print() -> None:
    hostile = Frame(FrameKind.LINE, None, "\x1b[2J\nroot\u202e\U000e0001", "x" * 10_000, 1, None)
    lines = format_backtrace([hostile], 0).split("\n")
    assert lines[1] == r"  #0 \x1b[2J\x0aroot\u202e\U000e0001"
    assert all(line.isprintable() and len(line) < 220 for line in lines)
    assert len(lines) == 3


# --- A real program ---------------------------------------------------------------------------------------------------


def test_quake() -> None:
    if not QUAKE.exists():
        pytest.skip("quake.polkavm is not at ../shared/programs")
    program = ProgramBlob.parse(QUAKE.read_bytes())
    info = DebugInfo(program)
    info.check()
    regions = list(info.regions())
    starts = {*instruction_starts(program.bitmask), len(program.code)}
    assert all(region.begin in starts and region.end in starts for region in regions)
    for region in regions[::997]:
        assert info.locate(region.begin) == info.locate(region.end - 1) == region.frames
    functions = list(info.functions())
    assert functions[0] == Function(0, 85, "_start_c")
    assert len(functions) == len({function.begin for function in functions}) > 600
    # One of the two `sbrk` that the program traps at.
    innermost, *_ = places(info.locate(41801))
    assert innermost.function == "picoalloc::global_allocator_libc::posix_memalign"
    assert innermost.location is not None
    assert innermost.location.endswith("picoalloc/src/env.rs:114:9")


def test_sections_survive_the_blob() -> None:
    program = MALFORMED["string not UTF-8"][0]
    assert ProgramBlob.parse(program.to_bytes()) == program
    assert dataclasses.replace(program, debug_strings=b"") != program
