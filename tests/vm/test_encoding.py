# SPDX-License-Identifier: MIT
"""Finding, decoding and encoding instructions: every format by hand, the odd shapes, and random code."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vm.encoding import (
    OPERAND_COUNT,
    TARGET_FORMATS,
    Instruction,
    decode_instruction,
    encode_immediate,
    encode_instruction,
    immediate_size,
    instruction_starts,
    instructions,
    is_instruction_start,
    previous_start,
    skip_at,
)
from vm.isa import OPCODE_BY_NAME, OPCODE_BY_NUMBER, OPCODES, Format, InstructionSet, Opcode
from vm.program import ProgramBlob

quick = settings(deadline=None, database=None)

ISA = InstructionSet.LATEST64


def program(code: bytes, starts: set[int], isa: InstructionSet = ISA) -> ProgramBlob:
    bitmask = bytearray((len(code) + 7) // 8)
    for start in starts:
        bitmask[start // 8] |= 1 << start % 8
    return ProgramBlob.build(isa=isa, code=code, bitmask=bytes(bitmask))


def decode(code: str, *, pc: int = 0, starts: set[int] | None = None) -> Instruction:
    return decode_instruction(program(bytes.fromhex(code), starts or {pc}), pc)


# Every format in its canonical form: bytes, operation, operands; all at pc 0.
CANONICAL = [
    ("00", "trap", ()),
    ("02", "memset", ()),
    ("0a", "ecalli", (0,)),
    ("0a05", "ecalli", (5,)),
    ("0aff", "ecalli", (-1,)),
    ("28", "jump", (0,)),
    ("280a", "jump", (10,)),
    ("288000", "jump", (128,)),
    ("28ff", "jump", (0xFFFFFFFF,)),
    ("1e00", "store_imm_u8", (0, 0)),
    ("1e01087f", "store_imm_u8", (8, 127)),
    ("200400000080ffff0001", "store_imm_u32", (-0x80000000, 0x0100FFFF)),
    ("3200", "jump_indirect", (0, 0)),
    ("330780", "load_imm", (7, -128)),
    ("33078000", "load_imm", (7, 128)),
    ("4607", "store_imm_indirect_u8", (7, 0, 0)),
    ("461704fe", "store_imm_indirect_u8", (7, 4, -2)),
    ("5017030a", "load_imm_and_jump", (7, 3, 10)),
    ("510a", "branch_eq_imm", (10, 0, 0)),
    ("521cff7f", "branch_not_eq_imm", (12, -1, 127)),
    ("788710", "store_indirect_u8", (7, 8, 16)),
    ("8321fcff00", "add_imm_32", (1, 2, 65532)),
    ("aa8710", "branch_eq", (7, 8, 16)),
    ("ab87", "branch_not_eq", (7, 8, 0)),
    ("b4870102", "load_imm_and_jump_indirect", (7, 8, 2, 0)),
    ("b487010203", "load_imm_and_jump_indirect", (7, 8, 2, 3)),
    ("b4870003", "load_imm_and_jump_indirect", (7, 8, 0, 3)),
    ("b48704010000800200007f", "load_imm_and_jump_indirect", (7, 8, -0x7FFFFFFF, 0x7F000002)),
    ("14070123456789abcdef", "load_imm64", (7, 0xEFCDAB8967452301)),
    ("6487", "move_reg", (7, 8)),
    ("be9807", "add_32", (7, 8, 9)),
]


@pytest.mark.parametrize(("code", "name", "operands"), CANONICAL)
def test_canonical(code: str, name: str, operands: tuple[int, ...]) -> None:
    expected = Instruction(0, OPCODE_BY_NAME[name], operands, len(code) // 2)
    assert decode(code) == expected
    assert encode_instruction(ISA, name, operands).hex() == code
    assert expected.name == name
    assert expected.next_pc == len(code) // 2


def test_canonical_cases_cover_every_format() -> None:
    assert {OPCODE_BY_NAME[name].format for _, name, _ in CANONICAL} == set(Format)
    assert set(OPERAND_COUNT) == set(Format)


@pytest.mark.parametrize(
    ("code", "operands"),
    [
        ("33ff01", (12, 1)),  # a register nibble above 12 is 12
        ("330500000000", (5, 0)),  # longer than needed
        ("3305ffffffff", (5, -1)),
        ("330501000000ffff", (5, 1)),  # bytes beyond the fourth are ignored
        ("33", (0, 0)),  # past the end of code there are zeros
        ("3307", (7, 0)),
    ],
)
def test_odd_load_imm(code: str, operands: tuple[int, ...]) -> None:
    assert decode(code).operands == operands


@pytest.mark.parametrize("length", range(4, 8))
def test_length_above_four_is_four(length: int) -> None:
    assert decode(f"1e{length:02x}0100000002").operands == (1, 2)
    assert decode(f"46{length:x}70100000002").operands == (7, 1, 2)
    assert decode(f"b487{length:02x}0100000002").operands == (7, 8, 1, 2)


def test_length_bits_above_three_are_ignored() -> None:
    assert decode("1ef90102").operands == (1, 2)
    assert decode("469701f0").operands == (7, 1, -16)


def test_arguments_reach_into_what_follows() -> None:
    """A first immediate has the length it says, whatever the bitmask leaves for it; the second one shrinks."""
    assert decode("1e0411223344ff", starts={0, 2}).operands == (0x44332211, 0)
    assert decode("6487", starts={0, 1}).operands == (7, 8)
    assert decode("be9807", starts={0, 1}).operands == (7, 8, 9)
    assert decode("14070123456789abcdef", starts={0, 2}).operands == (7, 0xEFCDAB8967452301)
    assert decode("330411", starts={0, 2}).operands == (4, 0)


def test_load_imm64_is_zero_padded_past_the_end_of_code() -> None:
    assert decode("1407ffff").operands == (7, 0xFFFF)


def test_targets_wrap_modulo_2_to_the_32() -> None:
    assert decode("0028fe", pc=1).operands == (0xFFFFFFFF,)
    assert encode_instruction(ISA, "jump", (0xFFFFFFFF,), pc=1).hex() == "28fe"
    assert decode("0000000028fc", pc=4).operands == (0,)
    assert encode_instruction(ISA, "jump", (0,), pc=4).hex() == "28fc"


def test_unknown_opcode_is_invalid() -> None:
    blob = program(b"\xff\x01\x00", {0, 2})
    instruction = decode_instruction(blob, 0)
    assert instruction == Instruction(0, None, (), 2)
    assert instruction.name == "invalid"
    assert instruction.ends_block
    assert instruction.falls_through


def test_opcode_bytes_depend_on_the_instruction_set() -> None:
    names = [decode_instruction(program(b"\x02", {0}, isa), 0).name for isa in InstructionSet]
    assert names == ["invalid", "memset", "memset", "unlikely"]
    names = [decode_instruction(program(b"\x65\x00", {0}, isa), 0).name for isa in InstructionSet]
    assert names == ["invalid", "sbrk", "sbrk", "count_set_bits_64"]


@pytest.mark.parametrize("pc", [-1, 1, 3, 100, 1 << 32, 1 << 80])
def test_no_instruction_starts_there(pc: int) -> None:
    assert decode_instruction(program(b"\x33\x07\x01", {0}), pc) == Instruction(pc, None, (), 0)


# --- The linear walk --------------------------------------------------------------------------------------------------


def walk(code: bytes, starts: set[int]) -> list[tuple[int, str, int]]:
    return [(i.pc, i.name, i.length) for i in instructions(program(code, starts))]


def test_walk_ends_in_an_implicit_trap() -> None:
    assert walk(b"\x01", {0}) == [(0, "fallthrough", 1), (1, "invalid", 0)]
    assert walk(b"\x33\x07", {0}) == [(0, "load_imm", 2), (2, "invalid", 0)]
    assert walk(b"\xff", {0}) == [(0, "invalid", 1), (1, "invalid", 0)]


@pytest.mark.parametrize("code", ["00", "28", "3200", "500700", "b48700"])
def test_walk_ends_for_good_where_nothing_falls_through(code: str) -> None:
    assert len(walk(bytes.fromhex(code), {0})) == 1


def test_walk_without_an_instruction_at_0() -> None:
    assert walk(bytes(10), {7}) == [(0, "invalid", 0), (7, "trap", 3)]
    assert walk(bytes(10), set()) == [(0, "invalid", 0)]


def test_walk_over_an_over_long_instruction() -> None:
    assert walk(b"\x01" + bytes(63), {0, 63}) == [(0, "fallthrough", 25), (25, "invalid", 0), (63, "trap", 1)]
    assert walk(bytes(64), {0, 63}) == [(0, "trap", 25), (63, "trap", 1)]


@pytest.mark.parametrize("following", [26, 27, 40, 63])
def test_over_long_instruction_alone(following: int) -> None:
    assert decode_instruction(program(bytes(64), {0, following}), 0).length == 25
    assert decode_instruction(program(bytes(64), {0}), 0).length == 25


@pytest.mark.parametrize("first", range(16))
def test_longest_instruction(first: int) -> None:
    """25 bytes are no more than allowed, wherever they lie within the bitmask's bytes (section 4's edge case)."""
    code = bytes(first) + b"\x01" + bytes(25)
    expected = [(first, "fallthrough", 25), (first + 25, "trap", 1)]
    assert walk(code, {first, first + 25})[-2:] == expected
    blob = program(code, {first, first + 25})
    assert decode_instruction(blob, first).length == 25
    assert blob.is_valid_jump_target(first + 25)
    assert not program(code + b"\0", {first, first + 26}).is_valid_jump_target(first + 26)


def test_over_long_instruction_at_the_end() -> None:
    assert walk(b"\x01" + bytes(24), {0}) == [(0, "fallthrough", 25), (25, "invalid", 0)]
    assert walk(b"\x01" + bytes(40), {0}) == [(0, "fallthrough", 25), (25, "invalid", 0)]


# --- Jump targets -----------------------------------------------------------------------------------------------------


def test_valid_jump_targets() -> None:
    # load_imm, trap, an unknown opcode, trap, load_imm
    blob = program(bytes.fromhex("3307 00 ff 00 3307"), {0, 2, 3, 4, 5})
    assert [pc for pc in range(-1, 9) if blob.is_valid_jump_target(pc)] == [0, 3, 5]


def test_start_of_code_is_no_target_without_an_instruction() -> None:
    assert not program(bytes(2), {1}).is_valid_jump_target(0)
    assert not program(bytes(2), {1}).is_valid_jump_target(1)


def test_every_terminator_makes_a_target() -> None:
    for opcode in OPCODES:
        number = opcode.numbers[ISA]
        assert number is not None
        assert program(bytes([number, 0]), {0, 1}).is_valid_jump_target(1) is opcode.ends_block


# --- Encoding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, ""),
        (1, "01"),
        (-1, "ff"),
        (127, "7f"),
        (128, "8000"),
        (-128, "80"),
        (-129, "7fff"),
        (32767, "ff7f"),
        (32768, "008000"),
        (-32769, "ff7fff"),
        (0x7FFFFF, "ffff7f"),
        (0x800000, "00008000"),
        (-0x800001, "ffff7fff"),
        (0x7FFFFFFF, "ffffff7f"),
        (-0x80000000, "00000080"),
    ],
)
def test_canonical_immediates(value: int, encoded: str) -> None:
    assert encode_immediate(value).hex() == encoded
    assert immediate_size(value) == len(encoded) // 2


@pytest.mark.parametrize(
    ("name", "operands", "message"),
    [
        ("bogus", (), "no instruction 'bogus'"),
        ("load_imm", (7,), "takes 2 operands, 1 were given"),
        ("load_imm", (13, 0), "no register 13"),
        ("load_imm", (-1, 0), "no register -1"),
        ("load_imm", (0, 1 << 31), "does not fit 32 bits"),
        ("load_imm64", (0, -1), "does not fit 64 bits"),
        ("load_imm64", (0, 1 << 64), "does not fit 64 bits"),
        ("jump", (1 << 32,), "jump target 4294967296 does not fit"),
        ("jump", (-1,), "jump target -1 does not fit"),
    ],
)
def test_what_cannot_be_encoded(name: str, operands: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_instruction(ISA, name, operands)


def test_not_in_the_instruction_set() -> None:
    with pytest.raises(ValueError, match="latest32 has no add_64"):
        encode_instruction(InstructionSet.LATEST32, "add_64", (0, 0, 0))


# --- Properties -------------------------------------------------------------------------------------------------------

registers = st.integers(0, 12)
edges = st.sampled_from([s * v + d for v in (0, 0x80, 0x8000, 0x800000) for s in (1, -1) for d in (-1, 0, 1)])
immediates = st.one_of(edges, st.integers(-0x80000000, 0x7FFFFFFF))
targets = st.integers(0, 0xFFFFFFFF)
wide = st.integers(0, (1 << 64) - 1)

OPERANDS = {
    Format.NONE: st.tuples(),
    Format.IMM: st.tuples(immediates),
    Format.OFFSET: st.tuples(targets),
    Format.IMM_IMM: st.tuples(immediates, immediates),
    Format.REG_IMM: st.tuples(registers, immediates),
    Format.REG_IMM_IMM: st.tuples(registers, immediates, immediates),
    Format.REG_IMM_OFFSET: st.tuples(registers, immediates, targets),
    Format.REG_REG_IMM: st.tuples(registers, registers, immediates),
    Format.REG_REG_OFFSET: st.tuples(registers, registers, targets),
    Format.REG_REG_IMM_IMM: st.tuples(registers, registers, immediates, immediates),
    Format.REG_IMM64: st.tuples(registers, wide),
    Format.REG_REG: st.tuples(registers, registers),
    Format.REG_REG_REG: st.tuples(registers, registers, registers),
}


@st.composite
def any_instruction(draw: st.DrawFn) -> tuple[InstructionSet, Opcode, tuple[int, ...]]:
    isa = draw(st.sampled_from(InstructionSet))
    opcode = draw(st.sampled_from(list(OPCODE_BY_NUMBER[isa].values())))
    return isa, opcode, draw(OPERANDS[opcode.format])


@quick
@given(any_instruction(), st.binary(max_size=40), st.binary(max_size=12))
def test_what_was_encoded_is_decoded(
    instruction: tuple[InstructionSet, Opcode, tuple[int, ...]], before: bytes, after: bytes
) -> None:
    isa, opcode, operands = instruction
    pc = len(before)
    encoded = encode_instruction(isa, opcode, operands, pc)
    end = pc + len(encoded)
    blob = program(before + encoded + after, {pc} | ({end} if after else set()), isa)
    assert decode_instruction(blob, pc) == Instruction(pc, opcode, operands, len(encoded))


@st.composite
def any_code(draw: st.DrawFn) -> ProgramBlob:
    isa = draw(st.sampled_from(InstructionSet))
    code = draw(st.binary(min_size=1, max_size=120))
    starts = draw(st.sets(st.integers(0, len(code) - 1)))
    return program(code, starts, isa)


@quick
@given(any_code())
def test_walk_of_random_code(blob: ProgramBlob) -> None:
    size = len(blob.code)
    starts = [pc for pc in range(size) if blob.bitmask[pc // 8] >> pc % 8 & 1]
    assert list(instruction_starts(blob.bitmask)) == starts
    walked = list(instructions(blob))
    assert [i.pc for i in walked if i.length] == starts
    for instruction in walked:
        assert decode_instruction(blob, instruction.pc) == instruction
        if instruction.length and instruction.falls_through:
            follower = walked[walked.index(instruction) + 1]
            assert follower.pc == instruction.next_pc
        if instruction.opcode is not None:
            again = encode_instruction(blob.isa, instruction.opcode, instruction.operands, instruction.pc)
            alone = program(bytes(instruction.pc) + again, {instruction.pc}, blob.isa)
            assert decode_instruction(alone, instruction.pc).operands == instruction.operands


@quick
@given(any_code())
def test_neighbours_of_every_offset(blob: ProgramBlob) -> None:
    """The windows into the bitmask against a walk of single steps."""
    size = len(blob.code)

    def starts_at(pc: int) -> bool:
        return 0 <= pc < size and bool(blob.bitmask[pc // 8] >> pc % 8 & 1)

    for pc in range(size):
        assert is_instruction_start(blob.bitmask, pc) is starts_at(pc)
        following = next((p for p in range(pc + 1, pc + 26) if p >= size or starts_at(p)), pc + 25)
        assert skip_at(blob.bitmask, size, pc) == following - pc - 1
        nearest = next((p for p in range(pc - 1, pc - 26, -1) if starts_at(p)), None)
        assert previous_start(blob.bitmask, pc) == nearest


def test_target_formats_end_in_the_target() -> None:
    assert {Format.OFFSET, Format.REG_IMM_OFFSET, Format.REG_REG_OFFSET} == TARGET_FORMATS
