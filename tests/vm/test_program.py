# SPDX-License-Identifier: MIT
"""Program blobs: reading, refusing, writing.  Whatever the bytes are, the outcome is a blob or a ProgramParseError."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vm import _errors
from vm._errors import (
    AssemblyError,
    LinkError,
    MemoryAccessError,
    ProgramParseError,
    SandboxDiedError,
    TrapError,
    VMError,
)
from vm._varint import VarintError, decode_varint, encode_varint
from vm.encoding import instructions
from vm.isa import InstructionSet
from vm.program import MAX_EXPORTS, MAX_IMPORTS, Export, ProgramBlob

PROGRAMS = Path(__file__).resolve().parents[3] / "shared" / "programs"

quick = settings(deadline=None, database=None)

# trap; a0 = 1
CODE = bytes.fromhex("00 330701")
CODE_SECTION = bytes.fromhex("00 00 04") + CODE + b"\x03"


def section(number: int, payload: bytes) -> bytes:
    return bytes([number]) + encode_varint(len(payload)) + payload


def blob(*sections: bytes, version: int = 2, end: bytes = b"\0", size: int | None = None) -> bytes:
    body = b"".join(sections) + end
    total = 13 + len(body) if size is None else size
    return b"PVM\0" + bytes([version]) + total.to_bytes(8, "little") + body


def code_section(payload: bytes = CODE_SECTION) -> bytes:
    return section(6, payload)


FULL = blob(
    section(1, bytes.fromhex("04 8100 0a")),
    section(2, b"ro"),
    section(3, b"rwd"),
    section(4, b"\x02" + bytes.fromhex("00000000 01000000") + b"fgg"),
    section(5, b"\x02" + b"\x00\x04main" + b"\x01\x03two"),
    section(6, bytes.fromhex("02 01 04 0001") + CODE + b"\x03"),
    section(128, b"\x03abc"),
    section(129, b"\x01"),
    section(130, bytes(12)),
    section(200, b"unknown"),
)

# --- What is accepted -------------------------------------------------------------------------------------------------


def test_all_fields() -> None:
    p = ProgramBlob.parse(FULL)
    assert p.isa is InstructionSet.LATEST64
    assert (p.ro_data, p.ro_data_size) == (b"ro", 4)
    assert (p.rw_data, p.rw_data_size) == (b"rwd", 256)
    assert p.stack_size == 10
    assert p.imports == (b"f", b"gg")
    assert p.import_names == ("f", "gg")
    assert p.exports == (Export(0, b"main"), Export(1, b"two"))
    assert [e.name for e in p.exports] == ["main", "two"]
    assert (p.code, p.bitmask) == (CODE, b"\x03")
    assert (p.jump_table, p.jump_table_entry_size, p.jump_table_entry_count) == (b"\0\1", 1, 2)
    assert [p.jump_table_entry(i) for i in range(2)] == [0, 1]
    assert (p.debug_strings, p.debug_line_programs, p.debug_line_program_ranges) == (b"\3abc", b"\1", bytes(12))


def test_smallest_blob() -> None:
    p = ProgramBlob.parse(blob(code_section(), version=3))
    assert p.isa is InstructionSet.JAM_V1
    assert (p.ro_data_size, p.rw_data_size, p.stack_size) == (0, 0, 0)
    assert p.imports == ()
    assert p.exports == ()
    assert p.jump_table_entry_count == 0


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_like_object(kind: type) -> None:
    assert ProgramBlob.parse(kind(FULL)) == ProgramBlob.parse(FULL)


def test_source_may_change_afterwards() -> None:
    source = bytearray(FULL)
    p = ProgramBlob.parse(source)
    source[:] = bytes(len(source))
    assert p == ProgramBlob.parse(FULL)


@pytest.mark.parametrize("value", [5, "PVM", None, [1, 2]])
def test_other_types(value: object) -> None:
    with pytest.raises(TypeError):
        ProgramBlob.parse(value)  # type: ignore[arg-type]


def test_frozen_and_hashable() -> None:
    p = ProgramBlob.parse(FULL)
    with pytest.raises(dataclasses.FrozenInstanceError):
        p.code = b""  # type: ignore[misc]
    assert {p: 1}[ProgramBlob.parse(FULL)] == 1


def test_pickle_and_repr() -> None:
    p = ProgramBlob.parse(FULL)
    assert pickle.loads(pickle.dumps(p)) == p
    assert pickle.loads(pickle.dumps(p)).imports == p.imports
    assert repr(p) == "<ProgramBlob latest64, 4 bytes of code, 2 imports, 2 exports>"


def test_bytes_after_the_end_marker_are_not_looked_at() -> None:
    assert ProgramBlob.parse(blob(code_section(), end=b"\0junk")) == ProgramBlob.parse(blob(code_section()))


def test_unknown_optional_sections_are_skipped() -> None:
    late = blob(code_section(), section(128, b"s"), section(131, b"x"), section(255, b""), section(131, b"y"))
    assert ProgramBlob.parse(late).debug_strings == b"s"
    # In front of 128..130 it makes those unknown, too.
    early = blob(code_section(), section(200, b"x"), section(128, b"s"))
    assert ProgramBlob.parse(early).debug_strings == b""


def test_non_minimal_varints() -> None:
    padded = blob(b"\x06\xc0\x0a\x00" + b"\x80\x00\x00\x80\x04" + CODE + b"\x03")
    assert ProgramBlob.parse(padded).code == CODE


def test_invalid_imports_are_none() -> None:
    table = b"".join(offset.to_bytes(4, "little") for offset in (0, 3, 1, 0xFFFFFFFF, 2))
    p = ProgramBlob.parse(blob(section(4, b"\x05" + table + b"abc"), code_section()))
    assert p.imports == (b"abc", None, None, None, b"c")
    assert p.import_names == ("abc", None, None, None, "c")
    assert ProgramBlob.parse(p.to_bytes()) == p


def test_with_imports() -> None:
    program = ProgramBlob.parse(blob(code_section()))
    named = program.with_imports("read", "write", "")
    assert named.imports == (b"read", b"write", b"")
    assert named.code == program.code
    assert named.with_imports() == program
    with pytest.raises(ProgramParseError, match="imports"):
        program.with_imports(*["f"] * (MAX_IMPORTS + 1))


def test_symbols_that_are_no_utf8() -> None:
    p = ProgramBlob.build(
        isa=InstructionSet.LATEST64, code=b"\0", bitmask=b"\1", imports=[b"\xff"], exports=[(0, b"\xfe")]
    )
    assert p.imports == (b"\xff",)
    assert p.import_names == ("\\xff",)
    assert p.exports[0].name == "\\xfe"


@pytest.mark.parametrize(
    "payload",
    [
        b"\x03" + b"\x00\x01a",  # fewer than it says
        b"\xf0\xff\xff\xff\xff" + b"\x00\x01a",
        b"\x02" + b"\x00\x01a" + b"\x01",  # ends in the middle of an entry
        b"\x02" + b"\x00\x01a" + b"\x01\x09b",
        b"\x02" + b"\x00\x01a" + b"\xff\x01b",  # an invalid varint
        b"\x01" + b"\x00\x01a" + b"more",  # more than it says
    ],
)
def test_export_list_ends_early(payload: bytes) -> None:
    assert ProgramBlob.parse(blob(section(5, payload), code_section())).exports == (Export(0, b"a"),)


@pytest.mark.parametrize("payload", [b"", b"\x00", b"\xff", b"\x05"])
def test_no_exports_at_all(payload: bytes) -> None:
    assert ProgramBlob.parse(blob(section(5, payload), code_section())).exports == ()


def test_duplicate_exports_are_kept() -> None:
    payload = b"\x02" + b"\x00\x01a" + b"\x01\x01a"
    assert ProgramBlob.parse(blob(section(5, payload), code_section())).exports == (Export(0, b"a"), Export(1, b"a"))


@pytest.mark.parametrize("count_and_size", [b"\x05\x00", b"\x00\x03"])
def test_jump_table_without_entries(count_and_size: bytes) -> None:
    p = ProgramBlob.parse(blob(code_section(count_and_size + b"\x04" + CODE + b"\x03")))
    assert (p.jump_table, p.jump_table_entry_size, p.jump_table_entry_count) == (b"", 0, 0)
    with pytest.raises(IndexError, match="entry 0 of 0"):
        p.jump_table_entry(0)


@pytest.mark.parametrize("size", range(1, 5))
def test_jump_table_entries(size: int) -> None:
    entries = [0, 1, (1 << 8 * size) - 1]
    table = b"".join(entry.to_bytes(size, "little") for entry in entries)
    p = ProgramBlob.parse(blob(code_section(bytes([3, size, 4]) + table + CODE + b"\x03")))
    assert [p.jump_table_entry(i) for i in range(3)] == entries
    for index in (-1, 3):
        with pytest.raises(IndexError):
            p.jump_table_entry(index)


def test_whole_bytes_of_bitmask_have_no_padding() -> None:
    p = ProgramBlob.parse(blob(code_section(b"\x00\x00\x08" + bytes(8) + b"\xff")))
    assert [i.pc for i in instructions(p)] == list(range(8))


# --- What is refused --------------------------------------------------------------------------------------------------

REFUSED = {
    "empty": (b"", "magic", 0, None),
    "magic only": (b"PVM\0", "cannot|needs 1 bytes", 4, None),
    "other magic": (b"\x7fELF" + FULL[4:], "magic", 0, None),
    "unknown version": (blob(code_section(), version=4), "unknown instruction set version 4", 4, None),
    "truncated length": (FULL[:12], "blob length needs 8 bytes, 7 are left", 5, None),
    "length too small": (blob(code_section(), size=5), "says 5 bytes", 5, None),
    "length too large": (blob(code_section(), size=1 << 63), "says 9223372036854775808 bytes", 5, None),
    "no sections": (blob(end=b""), "section id needs 1 bytes", 13, None),
    "no code section": (blob(), "no code section", 13, None),
    "empty code section": (blob(code_section(b"")), "there is no code", 15, "code"),
    "no code": (blob(code_section(b"\0\0\0")), "there is no code", 17, "code"),
    "no end marker": (blob(code_section(), end=b""), "section id needs 1 bytes", 23, None),
    "section too long": (blob(b"\x06\x7f" + CODE_SECTION), "section needs 127 bytes, 9 are left", 15, "code"),
    "section length varint": (blob(b"\x06\xff"), "section length: invalid varint", 14, "code"),
    "section length overflow": (blob(b"\x06\xf1\0\0\0\0"), "invalid varint", 14, "code"),
    "memory config too short": (
        blob(section(1, b"\1\2"), code_section()),
        "stack size: unexpected end",
        17,
        "memory config",
    ),
    "memory config too long": (blob(section(1, b"\1\2\3\4"), code_section()), "1 bytes too many", 18, "memory config"),
    "ro data": (
        blob(section(1, b"\1\0\0"), section(2, b"ab"), code_section()),
        "2 bytes .* region of 1",
        20,
        "ro data",
    ),
    "rw data": (blob(section(3, b"ab"), code_section()), "2 bytes .* region of 0", 15, "rw data"),
    "repeated section": (blob(code_section(), code_section()), "misplaced or repeated code section", 23, None),
    "wrong order": (blob(section(3, b""), section(2, b""), code_section()), "no code section", 15, None),
    "late section": (blob(code_section(), section(5, b"\0")), "misplaced or repeated exports section", 23, None),
    "unknown section": (blob(code_section(), section(7, b"")), r"unknown section \(id 7\)", 23, None),
    "unknown section first": (blob(section(127, b""), code_section()), "no code section", 13, None),
    "too many imports": (
        blob(section(4, b"\x84\x01" + bytes(4100)), code_section()),
        "1025, more than the limit",
        16,
        "imports",
    ),
    "import offsets": (
        blob(section(4, b"\x02" + bytes(7)), code_section()),
        "offsets of the imports needs 8 bytes",
        16,
        "imports",
    ),
    "entry size": (
        blob(code_section(b"\x00\x05\x04" + CODE + b"\x03")),
        "5 bytes, more than the limit of 4",
        16,
        "code",
    ),
    "too many entries": (
        blob(code_section(b"\xf0\x01\x00\x00\x01\x00\x04")),
        "more than the limit of 16777216",
        15,
        "code",
    ),
    "too much code": (
        blob(code_section(b"\x00\x00\xf0\x01\x00\x00\x02")),
        "more than the limit of 33554432",
        17,
        "code",
    ),
    "no table": (
        blob(code_section(b"\xf0\x00\x00\x00\x01\x04\x04")),
        "jump table needs 67108864 bytes, 0 are left",
        22,
        "code",
    ),
    "code too short": (blob(code_section(b"\x00\x00\x04\0")), "code needs 4 bytes, 1 are left", 18, "code"),
    "no bitmask": (
        blob(code_section(b"\x00\x00\x04" + CODE)),
        "bitmask has 0 bytes, 4 bytes of code need 1",
        22,
        "code",
    ),
    "bitmask too long": (blob(code_section(CODE_SECTION + b"\0")), "bitmask has 2 bytes", 22, "code"),
    "padding": (blob(code_section(CODE_SECTION[:-1] + b"\x13")), "padding of the bitmask", 22, "code"),
    "last padding bit": (blob(code_section(CODE_SECTION[:-1] + b"\x83")), "padding of the bitmask", 22, "code"),
}


@pytest.mark.parametrize(("data", "message", "offset", "name"), REFUSED.values(), ids=REFUSED)
def test_refused(data: bytes, message: str, offset: int, name: str | None) -> None:
    with pytest.raises(ProgramParseError, match=message) as caught:
        ProgramBlob.parse(data)
    error = caught.value
    assert (error.offset, error.section) == (offset, name)
    assert error.what in str(error)
    assert f"at byte {offset:#x}" in str(error)
    assert name is None or f"in the {name} section" in str(error)


def test_as_many_imports_as_allowed() -> None:
    payload = encode_varint(MAX_IMPORTS) + bytes(4 * MAX_IMPORTS)
    assert ProgramBlob.parse(blob(section(4, payload), code_section())).imports == (b"",) * MAX_IMPORTS


# --- Hostile bytes ----------------------------------------------------------------------------------------------------


def parse_or_refuse(data: bytes) -> ProgramBlob | None:
    refusal = None
    try:
        program = ProgramBlob.parse(data)
    except ProgramParseError as error:
        refusal = error
    if refusal is not None:
        assert refusal.what
        assert refusal.offset is not None
        assert 0 <= refusal.offset <= len(data)
        return None
    assert ProgramBlob.parse(program.to_bytes()) == program
    for instruction in instructions(program):
        program.is_valid_jump_target(instruction.pc)
    return program


def with_size(data: bytes) -> bytes:
    return data[:5] + len(data).to_bytes(8, "little") + data[13:]


def test_truncation_at_every_byte() -> None:
    for length in range(len(FULL)):
        assert parse_or_refuse(FULL[:length]) is None
        if length >= 13:
            parse_or_refuse(with_size(FULL[:length]))


def test_every_single_bit_flipped() -> None:
    outcomes = set()
    for position in range(len(FULL)):
        for bit in range(8):
            damaged = bytearray(FULL)
            damaged[position] ^= 1 << bit
            outcomes.add(parse_or_refuse(bytes(damaged)) is None)
    assert outcomes == {True, False}


def test_every_byte_removed_or_doubled() -> None:
    for position in range(13, len(FULL)):
        parse_or_refuse(with_size(FULL[:position] + FULL[position + 1 :]))
        parse_or_refuse(with_size(FULL[:position] + FULL[position : position + 1] + FULL[position:]))


@quick
@given(st.binary(max_size=200))
def test_arbitrary_bytes(data: bytes) -> None:
    parse_or_refuse(data)
    parse_or_refuse(with_size(b"PVM\0" + bytes([data[0] % 4 if data else 0]) + bytes(8) + data))


@quick
@given(st.data())
def test_arbitrary_sections(data: st.DataObject) -> None:
    numbers = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 128, 129, 130, 131])
    sections = data.draw(st.lists(st.tuples(numbers, st.binary(max_size=30)), max_size=8))
    if data.draw(st.booleans()):
        sections.sort()
    parse_or_refuse(blob(*(section(number, payload) for number, payload in sections), code_section()))


HUGE_COUNTS = {
    "exports": blob(section(5, b"\xf0\xff\xff\xff\xff"), code_section()),
    "imports": blob(section(4, b"\xf0\xff\xff\xff\xff"), code_section()),
    "jump table": blob(code_section(b"\xf0\xff\xff\xff\xff\x04\x04" + CODE)),
    "code": blob(code_section(b"\x00\x00\xf0\xff\xff\xff\xff" + CODE)),
    "memory": blob(section(1, b"\xf0\xff\xff\xff\xff" * 3), code_section()),
    "sections before the code": blob(*(section(131, b"") for _ in range(100_000))),
    "sections after the code": blob(code_section(), *(section(131, b"") for _ in range(100_000))),
}


@pytest.mark.parametrize("hostile", HUGE_COUNTS.values(), ids=HUGE_COUNTS)
def test_huge_counts_without_data_cost_nothing(hostile: bytes) -> None:
    start = time.process_time()
    parse_or_refuse(hostile)
    assert time.process_time() - start < 2


def test_overlapping_symbols_do_not_multiply_the_blob() -> None:
    """Offsets that run back and forth would name the same bytes over and over, invalid imports between them."""
    pool = bytes(1 << 20)
    table = b"".join((len(pool) if i % 2 else 0).to_bytes(4, "little") for i in range(1024))
    with pytest.raises(ProgramParseError, match="overlapping symbols") as caught:
        ProgramBlob.parse(blob(section(4, encode_varint(1024) + table + pool), code_section()))
    assert caught.value.section == "imports"


def test_more_exports_than_fit_in_memory() -> None:
    hostile = blob(section(5, encode_varint(MAX_EXPORTS + 1) + bytes(2 * MAX_EXPORTS + 2)), code_section())
    with pytest.raises(ProgramParseError, match=f"more than {MAX_EXPORTS} exports"):
        ProgramBlob.parse(hostile)


# --- Writing ----------------------------------------------------------------------------------------------------------


def test_writer_leaves_out_what_is_empty() -> None:
    data = blob(code_section(), version=3)
    assert ProgramBlob.parse(data).to_bytes() == data


def test_signatures_may_stand_among_unknown_sections() -> None:
    first, second = section(192, b"first"), section(192, b"second")
    p = ProgramBlob.parse(blob(code_section(), section(200, b"unknown"), first, section(131, b""), second))
    assert p.signatures == b"first"
    assert p.to_bytes() == blob(code_section(), first)
    assert ProgramBlob.parse(blob(code_section(), second)) != p
    with pytest.raises(ProgramParseError, match=r"needs 9 bytes, 3 are left at byte .* in the signatures section"):
        ProgramBlob.parse(blob(code_section(), b"\xc0\x09ab"))


def test_writer_drops_only_unknown_sections() -> None:
    unknown = section(200, b"unknown")
    known = with_size(FULL.replace(unknown, b""))
    assert ProgramBlob.parse(FULL).to_bytes() == known


def test_build() -> None:
    p = ProgramBlob.build(
        isa=InstructionSet.LATEST64,
        code=CODE,
        bitmask=b"\x03",
        ro_data=b"ro",
        ro_data_size=4,
        rw_data=b"rwd",
        rw_data_size=256,
        stack_size=10,
        imports=[b"f", b"gg"],
        exports=[(0, b"main"), (1, b"two")],
        jump_table=[0, 1],
        debug_strings=b"\3abc",
        debug_line_programs=b"\1",
        debug_line_program_ranges=bytes(12),
    )
    assert p == ProgramBlob.parse(FULL)


def test_build_takes_region_sizes_from_the_data() -> None:
    p = ProgramBlob.build(isa=InstructionSet.LATEST64, code=b"\0", bitmask=b"\1", ro_data=b"abc", rw_data=b"d")
    assert (p.ro_data_size, p.rw_data_size, p.stack_size) == (3, 1, 0)


@pytest.mark.parametrize(
    ("entries", "size"), [([], 0), ([0], 1), ([255], 1), ([256], 2), ([0x10000, 1], 3), ([0xFFFFFFFF], 4)]
)
def test_build_sizes_jump_table_entries_by_their_true_length(entries: list[int], size: int) -> None:
    p = ProgramBlob.build(isa=InstructionSet.LATEST64, code=b"\0", bitmask=b"\1", jump_table=entries)
    assert p.jump_table_entry_size == size
    assert [p.jump_table_entry(i) for i in range(p.jump_table_entry_count)] == entries


def test_build_refuses_what_parse_would() -> None:
    isa = InstructionSet.LATEST64
    with pytest.raises(ProgramParseError, match="there is no code"):
        ProgramBlob.build(isa=isa, code=b"", bitmask=b"")
    with pytest.raises(ProgramParseError, match="padding"):
        ProgramBlob.build(isa=isa, code=b"\0", bitmask=b"\3")
    with pytest.raises(ProgramParseError, match="3 bytes of data for a region of 2"):
        ProgramBlob.build(isa=isa, code=b"\0", bitmask=b"\1", ro_data=b"abc", ro_data_size=2)
    with pytest.raises(ProgramParseError, match="number of imports is 1025"):
        ProgramBlob.build(isa=isa, code=b"\0", bitmask=b"\1", imports=[b""] * 1025)
    for entries in ([1 << 32], [-1], [1, -1]):
        with pytest.raises(ValueError, match="jump table entry does not fit"):
            ProgramBlob.build(isa=isa, code=b"\0", bitmask=b"\1", jump_table=entries)
    with pytest.raises(ValueError, match="does not fit a u32"):
        ProgramBlob.build(isa=isa, code=b"\0", bitmask=b"\1", stack_size=1 << 32)


u32 = st.one_of(st.integers(0, 300), st.integers(0, 0xFFFFFFFF))


@st.composite
def any_blob(draw: st.DrawFn) -> ProgramBlob:
    code = draw(st.binary(min_size=1, max_size=40))
    bits = draw(st.integers(0, (1 << len(code)) - 1))
    ro_data, rw_data = draw(st.binary(max_size=10)), draw(st.binary(max_size=10))
    return ProgramBlob.build(
        isa=draw(st.sampled_from(InstructionSet)),
        code=code,
        bitmask=bits.to_bytes((len(code) + 7) // 8, "little"),
        ro_data=ro_data,
        rw_data=rw_data,
        ro_data_size=draw(st.integers(len(ro_data), 0xFFFFFFFF)),
        rw_data_size=draw(st.integers(len(rw_data), 0xFFFFFFFF)),
        stack_size=draw(u32),
        imports=draw(st.lists(st.binary(max_size=5), max_size=5)),
        exports=draw(st.lists(st.tuples(u32, st.binary(max_size=200)), max_size=5)),
        jump_table=draw(st.lists(u32, max_size=5)),
        debug_strings=draw(st.binary(max_size=5)),
        debug_line_programs=draw(st.binary(max_size=5)),
        debug_line_program_ranges=draw(st.binary(max_size=5)),
        signatures=draw(st.binary(max_size=5)),
    )


@quick
@given(any_blob())
def test_round_trip(program: ProgramBlob) -> None:
    data = program.to_bytes()
    assert ProgramBlob.parse(data) == program
    assert ProgramBlob.parse(data).to_bytes() == data


# --- Varints ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (127, "7f"),
        (128, "8080"),
        ((1 << 14) - 1, "bfff"),
        (1 << 14, "c00040"),
        ((1 << 21) - 1, "dfffff"),
        (1 << 21, "e0000020"),
        ((1 << 28) - 1, "efffffff"),
        (1 << 28, "f000000010"),
        ((1 << 32) - 1, "f0ffffffff"),
    ],
)
def test_varints(value: int, encoded: str) -> None:
    data = bytes.fromhex(encoded)
    assert encode_varint(value) == data
    assert decode_varint(b"x" + data + b"x", 1, 1 + len(data)) == (value, 1 + len(data))
    for end in range(len(data)):
        with pytest.raises(VarintError, match=r"truncated|unexpected end"):
            decode_varint(data, 0, end)


@pytest.mark.parametrize("first", [0xF1, 0xF7, 0xF8, 0xFC, 0xFE, 0xFF])
def test_first_bytes_of_no_varint(first: int) -> None:
    with pytest.raises(VarintError, match="invalid varint"):
        decode_varint(bytes([first]) + bytes(8), 0, 9)


@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_no_varint_for_it(value: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        encode_varint(value)


@quick
@given(st.integers(0, 0xFFFFFFFF))
def test_varint_round_trip(value: int) -> None:
    data = encode_varint(value)
    assert decode_varint(data, 0, len(data)) == (value, len(data))


# --- Real programs ----------------------------------------------------------------------------------------------------


def shared_program(name: str) -> bytes:
    path = PROGRAMS / name
    if not path.exists():
        pytest.skip(f"{name} is not at ../shared/programs")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "isa", "code_size", "count", "entries"),
    [
        ("doom.polkavm", InstructionSet.LATEST32, 541450, 163243, 10002),
        ("quake.polkavm", InstructionSet.REVIVE_V1, 307512, 84355, None),
        ("hello-world.polkavm", InstructionSet.LATEST32, None, None, 0),
    ],
)
def test_shared_programs(
    name: str, isa: InstructionSet, code_size: int | None, count: int | None, entries: int | None
) -> None:
    data = shared_program(name)
    program = ProgramBlob.parse(data)
    assert program.isa is isa
    assert program.to_bytes() == data
    assert code_size in (None, len(program.code))
    assert entries in (None, program.jump_table_entry_count)
    walked = list(instructions(program))
    assert count in (None, len(walked))
    assert sum(i.length for i in walked) == len(program.code)
    for index in range(program.jump_table_entry_count):
        assert program.is_valid_jump_target(program.jump_table_entry(index))


def test_hello_world_names() -> None:
    program = ProgramBlob.parse(shared_program("hello-world.polkavm"))
    assert [e.symbol for e in program.exports] == [b"add_numbers"]
    assert program.imports == (b"get_third_number",)


def test_quake_holds_two_instructions_that_left_the_set() -> None:
    program = ProgramBlob.parse(shared_program("quake.polkavm"))
    assert [i.pc for i in instructions(program) if i.opcode is None] == [41801, 41821]


# --- The error tree ---------------------------------------------------------------------------------------------------

ERRORS = [
    ProgramParseError("bad", offset=3, section="code"),
    ProgramParseError("bad"),
    AssemblyError("bad", line=3, text="x = y"),
    AssemblyError("bad"),
    LinkError(("a", "b")),
    TrapError(pc=4, export="main", reason="because"),
    TrapError(),
    SandboxDiedError(12, "killed by SIGKILL", remedy="give it more memory"),
    MemoryAccessError(0x1000, 4, "not readable"),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_errors_survive_pickle_and_copy(error: VMError) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


def test_error_messages() -> None:
    assert [str(error) for error in ERRORS] == [
        "invalid program blob: bad at byte 0x3 in the code section",
        "invalid program blob: bad",
        "line 3: bad: 'x = y'",
        "bad",
        "2 unresolved imports: a, b",
        "the guest trapped in 'main' at pc 4: because",
        "the guest trapped",
        "sandbox process 12 died: killed by SIGKILL; give it more memory",
        "not readable: 4 bytes of guest memory at 0x1000",
    ]


def test_sandbox_error_names_step_and_remedy() -> None:
    error = _errors.SandboxError("clone", errno=1, remedy="allow user namespaces")
    assert str(error) == "cannot start a sandbox: clone: Operation not permitted (errno 1); allow user namespaces"
    assert (error.step, error.errno, error.remedy) == ("clone", 1, "allow user namespaces")


def test_the_tree_is_the_one_that_is_drawn() -> None:
    classes = [c for c in vars(_errors).values() if isinstance(c, type) and issubclass(c, VMError)]
    documented = _errors.__doc__ or ""
    assert all(c.__name__ in documented for c in classes)
    assert issubclass(MemoryAccessError, IndexError)
    assert issubclass(_errors.MemoryMapError, ValueError)
    assert issubclass(SandboxDiedError, _errors.SandboxError)
