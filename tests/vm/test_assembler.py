# SPDX-License-Identifier: MIT
"""The text assembler: every statement form, layout, and the shared conformance cases."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vm._asm_layout import Jump, lay_out
from vm._asm_statements import OPERATORS
from vm._errors import AssemblyError
from vm.assembler import assemble
from vm.encoding import TARGET_FORMATS, encode_instruction, instructions
from vm.isa import OPCODE_BY_NAME, OPCODES, REGISTERS, InstructionSet
from vm.program import Export, ProgramBlob

SHARED = Path(__file__).resolve().parents[3] / "shared"
VECTORS = SHARED / "vectors" / "pvm-spec.json"

quick = settings(deadline=None, database=None)

ISA = InstructionSet.LATEST64
RA, SP, T0, T1, T2, S0, S1, A0, A1, A2, A3, A4, A5 = range(13)


def program(text: str, isa: InstructionSet | None = ISA) -> ProgramBlob:
    return ProgramBlob.parse(assemble(text, isa))


def operations(text: str, isa: InstructionSet | None = ISA) -> list[tuple[str, *tuple[int, ...]]]:
    return [(i.name, *i.operands) for i in instructions(program(text, isa)) if i.length]


# --- Conformance ------------------------------------------------------------------------------------------------------


def is_spectool_line(line: str) -> bool:
    """Whether the line instructs the reference's test runner, not its assembler."""
    return line.strip().startswith(("pre:", "post:", "step:"))


def test_shared_vectors() -> None:
    if not VECTORS.exists():
        pytest.skip("the conformance vectors are not at ../shared/vectors")
    cases = json.loads(VECTORS.read_text())
    assert len(cases) == 257
    for case in cases:
        text = "\n".join(line for line in case["assembly"].split("\n") if not is_spectool_line(line))
        assert assemble(text, InstructionSet.JAM_V1).hex() == case["blob"], case["name"]


# --- Whole programs ---------------------------------------------------------------------------------------------------


def test_whole_blob() -> None:
    text = """
        // Adds two numbers.
        %isa = latest32
        %ro_data_size = 4
        %ro_data = 01 02
        %rw_data_size = 16
        %rw_data = ff
        %stack_size = 4096

        pub @main:
            i32 a0 = a0 + a1
            jump @done if a0 == 0
            a2 = @done
        @done:
            ret
    """
    sections = (
        "01 04 04 10 9000"  # memory config: 4, 16, 4096
        "02 02 0102"
        "03 01 ff"
        "05 07 01 00 04 6d61696e"  # exports: 1, pc 0, "main"
        "06 12 01 01 0c"  # 1 entry of 1 byte, 12 bytes of code
        "0a"  # jump table: done
        "be8707 510707 330902 01 3200"
        "4906"  # instructions start at 0, 3, 6, 9 and 10
        "00"
    )
    body = bytes.fromhex(sections)
    assert assemble(text).hex(" ") == (b"PVM\0\1" + (13 + len(body)).to_bytes(8, "little") + body).hex(" ")


def test_directive_overrides_the_caller() -> None:
    assert program("%isa = revive_v1\ntrap", InstructionSet.JAM_V1).isa is InstructionSet.REVIVE_V1
    assert program("trap\n%isa = latest32", InstructionSet.JAM_V1).isa is InstructionSet.LATEST32


@pytest.mark.parametrize("isa", InstructionSet)
def test_isa_directive(isa: InstructionSet) -> None:
    assert program(f"%isa = {isa.label}\ntrap", None).isa is isa


def test_data_without_a_size_gives_the_region_its_length() -> None:
    p = program("%ro_data = 01 0203\n%rw_data =\ntrap")
    assert (p.ro_data, p.ro_data_size, p.rw_data, p.rw_data_size) == (b"\1\2\3", 3, b"", 0)


def test_size_without_data_is_all_zero() -> None:
    p = program("%ro_data_size = 4294967295\n%rw_data_size=7\ntrap")
    assert (p.ro_data, p.ro_data_size, p.rw_data_size) == (b"", 0xFFFFFFFF, 7)


def test_line_ends_and_white_space() -> None:
    assert assemble("\ttrap  \r\n\r\n   // x\r\n  nop", ISA) == assemble("trap\nnop", ISA)


# --- Statements -------------------------------------------------------------------------------------------------------

STATEMENTS = [
    ("trap", ("trap",)),
    ("fallthrough", ("fallthrough",)),
    ("unlikely", ("unlikely",)),
    ("ret", ("jump_indirect", RA, 0)),
    ("nop", ("move_reg", RA, RA)),
    ("ecalli 0", ("ecalli", 0)),
    ("ecalli  7 ", ("ecalli", 7)),
    ("ecalli 4294967295", ("ecalli", -1)),
    ("jump [a0]", ("jump_indirect", A0, 0)),
    ("jump [ a0 + 0x10 ]", ("jump_indirect", A0, 16)),
    ("jump [t0 + -4]", ("jump_indirect", T0, -4)),
    ("tmp = a0, a0 = 5, jump [tmp]", ("load_imm_and_jump_indirect", A0, A0, 5, 0)),
    ("tmp=a1,a0=0xffffffff,jump[tmp+8]", ("load_imm_and_jump_indirect", A0, A1, -1, 8)),
    ("a0 = 5, jump [a1 + 4]", ("load_imm_and_jump_indirect", A0, A1, 5, 4)),
    ("a0 = -5, jump [a1]", ("load_imm_and_jump_indirect", A0, A1, -5, 0)),
    ("a0 = a1 if a2 == 0", ("cmov_if_zero", A0, A1, A2)),
    ("a0 = a1 if a2 != 0", ("cmov_if_not_zero", A0, A1, A2)),
    ("a0 = -3 if a2 == 0", ("cmov_if_zero_imm", A0, A2, -3)),
    ("a0 = 0xffffffff if a2 != 0x0", ("cmov_if_not_zero_imm", A0, A2, -1)),
    ("a0 = cpop a1", ("count_set_bits_64", A0, A1)),
    ("i32 a0 = cpop a1", ("count_set_bits_32", A0, A1)),
    ("a0 = clz a1", ("count_leading_zero_bits_64", A0, A1)),
    ("i32 a0 = clz a1", ("count_leading_zero_bits_32", A0, A1)),
    ("a0 = ctz a1", ("count_trailing_zero_bits_64", A0, A1)),
    ("i32 a0 = ctz a1", ("count_trailing_zero_bits_32", A0, A1)),
    ("a0 = sext8 a1", ("sign_extend_8", A0, A1)),
    ("a0 = sext16 a1", ("sign_extend_16", A0, A1)),
    ("a0 = zext16 a1", ("zero_extend_16", A0, A1)),
    ("a0 = reverse a1", ("reverse_byte", A0, A1)),
    ("a0 = sbrk a1", ("sbrk", A0, A1)),
    ("a0 = a1", ("move_reg", A0, A1)),
    ("a0=a1", ("move_reg", A0, A1)),
    ("r7 = r12", ("move_reg", A0, A5)),
    ("a0 = 5", ("load_imm", A0, 5)),
    ("a0 = -2147483648", ("load_imm", A0, -0x80000000)),
    ("a0 = 0b101", ("load_imm", A0, 5)),
    ("a0 = 0xffffffffdeadbeef", ("load_imm", A0, 0xDEADBEEF - (1 << 32))),
    ("a0 = 0xdeadbeef", ("load_imm64", A0, 0xDEADBEEF)),
    ("a0 = 2147483648", ("load_imm64", A0, 0x80000000)),
    ("a0 = 18446744073709551615", ("load_imm", A0, -1)),
    ("a0 = 9223372036854775807", ("load_imm64", A0, (1 << 63) - 1)),
    ("a0 = i64 5", ("load_imm64", A0, 5)),
    ("a0 = i64 -5", ("load_imm64", A0, (1 << 64) - 5)),
    ("a0 = ~(a1 ^ a2)", ("xnor", A0, A1, A2)),
    ("a0 = maxs(a1, a2)", ("maximum", A0, A1, A2)),
    ("a0 = maxu( a1 ,a2 )", ("maximum_unsigned", A0, A1, A2)),
    ("a0 = mins(a1, a2)", ("minimum", A0, A1, A2)),
    ("a0 = minu(a1, a2)", ("minimum_unsigned", A0, A1, A2)),
    ("a0 = a1 mulh a2", ("mul_upper_signed_signed", A0, A1, A2)),
    ("a0 = a1 mulhu a2", ("mul_upper_unsigned_unsigned", A0, A1, A2)),
    ("a0 = a1 mulhsu a2", ("mul_upper_signed_unsigned", A0, A1, A2)),
    ("a0 = a1 & ~a2", ("and_inverted", A0, A1, A2)),
    ("a0 = a1 | ~ a2", ("or_inverted", A0, A1, A2)),
    ("a0 = a1 >u a2", ("set_less_than_unsigned", A0, A2, A1)),
    ("a0 = a1 >s a2", ("set_less_than_signed", A0, A2, A1)),
    ("a0 = a1 >u 5", ("set_greater_than_unsigned_imm", A0, A1, 5)),
    ("a0 = a1 >s 5", ("set_greater_than_signed_imm", A0, A1, 5)),
    ("a0 = 5 >u a1", ("set_less_than_unsigned_imm", A0, A1, 5)),
    ("a0 = 5 >s a1", ("set_less_than_signed_imm", A0, A1, 5)),
    ("a0 = a1 <u 5", ("set_less_than_unsigned_imm", A0, A1, 5)),
    ("a0 = a1 <s 5", ("set_less_than_signed_imm", A0, A1, 5)),
    ("a0 = 5 <u a1", ("set_greater_than_unsigned_imm", A0, A1, 5)),
    ("a0 = 5 <s a1", ("set_greater_than_signed_imm", A0, A1, 5)),
    ("a0 = a1 <u a2", ("set_less_than_unsigned", A0, A1, A2)),
    ("a0 = a1 <s a2", ("set_less_than_signed", A0, A1, A2)),
    ("a0 = a1 - 5", ("add_imm_64", A0, A1, -5)),
    ("a0 = a1 - -5", ("add_imm_64", A0, A1, 5)),
    ("a0 = a1 - -2147483648", ("add_imm_64", A0, A1, -0x80000000)),
    ("i32 a0 = a1 - 5", ("add_imm_32", A0, A1, -5)),
    ("a0 = 5 - a1", ("negate_and_add_imm_64", A0, A1, 5)),
    ("a0 = -5 - a1", ("negate_and_add_imm_64", A0, A1, -5)),
    ("i32 a0 = 5 - a1", ("negate_and_add_imm_32", A0, A1, 5)),
    ("a0=a1+a2", ("add_64", A0, A1, A2)),
    ("a0 = a1 + -5", ("add_imm_64", A0, A1, -5)),
    ("a0 = -5 + a1", ("add_imm_64", A0, A1, -5)),
    ("a0 = a1 & 0xfffffffffffff8ff", ("and_imm", A0, A1, -0x701)),
    ("a0 = 7 | a1", ("or_imm", A0, A1, 7)),
    ("a0 = a1 ^ 1", ("xor_imm", A0, A1, 1)),
    ("a0 = a1 & a2", ("and", A0, A1, A2)),
    ("a0 = a1 | a2", ("or", A0, A1, A2)),
    ("a0 = a1 ^ a2", ("xor", A0, A1, A2)),
    ("a0 = a1 <<r a2", ("rotate_left_64", A0, A1, A2)),
    ("i32 a0 = a1 <<r a2", ("rotate_left_32", A0, A1, A2)),
    ("a0 = u8 [a1]", ("load_indirect_u8", A0, A1, 0)),
    ("a0 = i8[sp+-8]", ("load_indirect_i8", A0, SP, -8)),
    ("a0 = u64 [0x10000]", ("load_u64", A0, 0x10000)),
    ("a0 = i32 [0xfffffff0]", ("load_i32", A0, -16)),
    ("u8 [a1] = a0", ("store_indirect_u8", A0, A1, 0)),
    ("u64 [a1 + 0x8] = a0", ("store_indirect_u64", A0, A1, 8)),
    ("u16 [0x10000] = a0", ("store_u16", A0, 0x10000)),
    ("u8 [a1] = 255", ("store_imm_indirect_u8", A1, 0, 255)),
    ("u16 [a1 + 4] = 65535", ("store_imm_indirect_u16", A1, 4, 65535)),
    ("u32 [a1 + 4] = -1", ("store_imm_indirect_u32", A1, 4, -1)),
    ("u64 [4] = -1", ("store_imm_u64", 4, -1)),
    ("u8 [4] = 0", ("store_imm_u8", 4, 0)),
    ("[a0..a0 + a2] = u8 a1", ("memset",)),
    ("[ a0 .. a0+a2 ]=u8 a1", ("memset",)),
]

SIZED = {
    "+": ("add", "add_imm", "add_imm"),
    "*": ("mul", "mul_imm", "mul_imm"),
    "<<": ("shift_logical_left", "shift_logical_left_imm", "shift_logical_left_imm_alt"),
    ">>": ("shift_logical_right", "shift_logical_right_imm", "shift_logical_right_imm_alt"),
    ">>a": ("shift_arithmetic_right", "shift_arithmetic_right_imm", "shift_arithmetic_right_imm_alt"),
    ">>r": ("rotate_right", "rotate_right_imm", "rotate_right_imm_alt"),
}
for _symbol, (_rr, _ri, _ir) in SIZED.items():
    for _prefix, _width in (("", 64), ("i32 ", 32)):
        STATEMENTS += [
            (f"{_prefix}a0 = a1 {_symbol} a2", (f"{_rr}_{_width}", A0, A1, A2)),
            (f"{_prefix}a0 = a1 {_symbol} 5", (f"{_ri}_{_width}", A0, A1, 5)),
            (f"{_prefix}a0 = 5 {_symbol} a1", (f"{_ir}_{_width}", A0, A1, 5)),
        ]
REGISTERS_ONLY = {
    "-": "sub",
    "/u": "div_unsigned",
    "/s": "div_signed",
    "%u": "rem_unsigned",
    "%s": "rem_signed",
}
for _symbol, _name in REGISTERS_ONLY.items():
    STATEMENTS += [
        (f"a0 = a1 {_symbol} a2", (f"{_name}_64", A0, A1, A2)),
        (f"i32 a0 = a1 {_symbol} a2", (f"{_name}_32", A0, A1, A2)),
    ]
for _kind in ("u8", "u16", "u32", "u64", "i8", "i16", "i32"):
    STATEMENTS += [
        (f"a0 = {_kind} [a1 + 4]", (f"load_indirect_{_kind}", A0, A1, 4)),
        (f"a0 = {_kind} [4]", (f"load_{_kind}", A0, 4)),
    ]
for _kind in ("u8", "u16", "u32", "u64"):
    STATEMENTS += [
        (f"{_kind} [a1 + 4] = a0", (f"store_indirect_{_kind}", A0, A1, 4)),
        (f"{_kind} [4] = a0", (f"store_{_kind}", A0, 4)),
        (f"{_kind} [a1 + 4] = 9", (f"store_imm_indirect_{_kind}", A1, 4, 9)),
        (f"{_kind} [4] = 9", (f"store_imm_{_kind}", 4, 9)),
    ]


@pytest.mark.parametrize(("text", "expected"), STATEMENTS, ids=[text for text, _ in STATEMENTS])
def test_statement(text: str, expected: tuple[object, ...]) -> None:
    assert operations(text) == [expected]


def test_every_operation_can_be_written() -> None:
    """With the branches and jumps to labels below, nothing of the instruction set is out of reach."""
    written = {expected[0] for _, expected in STATEMENTS} | {name for _, (name, *_) in BRANCHES}
    written |= {"jump", "load_imm_and_jump"}
    assert {o.name for o in OPCODES} - written == set()


@pytest.mark.parametrize("name", REGISTERS)
def test_register_names(name: str) -> None:
    number = REGISTERS.index(name)
    assert operations(f"{name} = r{number}") == [("move_reg", number, number)]


BRANCHES = [
    ("a0 == a1", ("branch_eq", A0, A1)),
    ("a0 != a1", ("branch_not_eq", A0, A1)),
    ("a0 <u a1", ("branch_less_unsigned", A0, A1)),
    ("a0 <s a1", ("branch_less_signed", A0, A1)),
    ("a0 <=u a1", ("branch_greater_or_equal_unsigned", A1, A0)),
    ("a0 <=s a1", ("branch_greater_or_equal_signed", A1, A0)),
    ("a0 >u a1", ("branch_less_unsigned", A1, A0)),
    ("a0 >s a1", ("branch_less_signed", A1, A0)),
    ("a0 >=u a1", ("branch_greater_or_equal_unsigned", A0, A1)),
    ("a0 >=s a1", ("branch_greater_or_equal_signed", A0, A1)),
    ("a0 == 5", ("branch_eq_imm", A0, 5)),
    ("a0 != -5", ("branch_not_eq_imm", A0, -5)),
    ("a0 <u 5", ("branch_less_unsigned_imm", A0, 5)),
    ("a0 <s 5", ("branch_less_signed_imm", A0, 5)),
    ("a0 <=u 5", ("branch_less_or_equal_unsigned_imm", A0, 5)),
    ("a0 <=s 5", ("branch_less_or_equal_signed_imm", A0, 5)),
    ("a0 >u 5", ("branch_greater_unsigned_imm", A0, 5)),
    ("a0 >s 5", ("branch_greater_signed_imm", A0, 5)),
    ("a0 >=u 0xffffffff", ("branch_greater_or_equal_unsigned_imm", A0, -1)),
    ("a0 >=s 5", ("branch_greater_or_equal_signed_imm", A0, 5)),
    ("5 == a0", ("branch_eq_imm", A0, 5)),
    ("5 != a0", ("branch_not_eq_imm", A0, 5)),
    ("5 <u a0", ("branch_greater_unsigned_imm", A0, 5)),
    ("5 <s a0", ("branch_greater_signed_imm", A0, 5)),
    ("5 <=u a0", ("branch_greater_or_equal_unsigned_imm", A0, 5)),
    ("5 <=s a0", ("branch_greater_or_equal_signed_imm", A0, 5)),
    ("5 >u a0", ("branch_less_unsigned_imm", A0, 5)),
    ("5 >s a0", ("branch_less_signed_imm", A0, 5)),
    ("5 >=u a0", ("branch_less_or_equal_unsigned_imm", A0, 5)),
    ("5 >=s a0", ("branch_less_or_equal_signed_imm", A0, 5)),
]


@pytest.mark.parametrize(("condition", "expected"), BRANCHES, ids=[text for text, _ in BRANCHES])
def test_branch(condition: str, expected: tuple[object, ...]) -> None:
    assert operations(f"@l:\njump @l if {condition}") == [(*expected, 0)]
    assert operations(f"@l:\n  jump @l  if  {condition.replace(' ', '  ')}") == [(*expected, 0)]


def test_jumps_to_labels() -> None:
    text = "jump @b\n@a:\ntrap\n@b:\na0 = 5, jump @a"
    assert operations(text) == [("jump", 3), ("trap",), ("load_imm_and_jump", A0, 5, 2)]
    assert program(text).code.hex() == "2803" + "00" + "501705ff"


def test_jump_to_itself_has_no_distance() -> None:
    assert program("@l:\njump @l").code == b"\x28"


# --- Labels and blocks ------------------------------------------------------------------------------------------------


def test_fallthrough_is_inserted_before_a_label_in_mid_block() -> None:
    assert operations("nop\n@a:\nnop\n@b:\n@c:\ntrap\n@d:\ntrap") == [
        ("move_reg", RA, RA),
        ("fallthrough",),
        ("move_reg", RA, RA),
        ("fallthrough",),
        ("trap",),
        ("trap",),
    ]


def test_no_fallthrough() -> None:
    """The export means the very instruction, the label the start of its block."""
    p = program("trap\nnop\npub @x: %no_fallthrough\nunlikely\njump @x")
    assert p.exports == (Export(3, b"x"),)
    assert [(i.name, *i.operands) for i in instructions(p)][-1] == ("jump", 1)
    assert program("nop\n@x:%no_fallthrough\ntrap").code == bytes.fromhex("6400 00")


def test_exports_are_sorted_by_name() -> None:
    p = program("pub @b:\ntrap\npub @a:\npub @ü:\npub @Z:\ntrap")
    assert p.exports == (Export(1, b"Z"), Export(1, b"a"), Export(0, b"b"), Export(1, "ü".encode()))


def test_private_labels_are_not_exported() -> None:
    assert program("@a:\ntrap").exports == ()


def test_labels_may_hold_punctuation() -> None:
    assert operations("jump @x::y<z>\n@x::y<z>:\ntrap") == [("jump", 2), ("trap",)]
    assert program("pub @core::fmt (1):\ntrap").exports == (Export(0, b"core::fmt (1)"),)


def test_code_addresses_are_jump_table_entries() -> None:
    p = program("a0 = @l\na1 = @l\n@l:\na2 = @l\ntrap")
    assert [i.operands for i in instructions(p) if i.name == "load_imm"] == [(A0, 2), (A1, 4), (A2, 6)]
    assert [p.jump_table_entry(i) for i in range(p.jump_table_entry_count)] == [7, 7, 7]


def test_jump_table_entry_with_a_zero_byte_in_it() -> None:
    """The reference's writer would measure 0x100 as no bytes at all."""
    p = program("a0 = @l\n" + "trap\n" * 253 + "@l:\ntrap")
    assert (p.jump_table_entry_size, p.jump_table_entry(0)) == (2, 256)
    p = program("@l:\na0 = @l\ntrap")
    assert (p.jump_table_entry_count, p.jump_table_entry(0)) == (1, 0)


def test_label_at_the_end_in_mid_block_means_the_block() -> None:
    assert operations("trap\nnop\nnop\n@l: %no_fallthrough") == [("trap",), ("move_reg", 0, 0), ("move_reg", 0, 0)]


# --- What is there for disassembled programs --------------------------------------------------------------------------


def test_jumps_wider_than_they_need_to_be() -> None:
    text = "@l:\njump @l %width 1\njump @l if a0 == 5  %width  2\na0 = 5, jump @l %width 4\njump @l"
    assert program(text).code.hex(" ") == "28 00 51 17 05 fe ff 50 17 05 f9 ff ff ff 28 f2"


def test_width_is_a_lower_bound() -> None:
    text = "jump @l %width 1\n" + "trap\n" * 200 + "@l:\ntrap"
    assert program(text).code[:3].hex() == "28cb00"


def test_bytes_are_one_instruction() -> None:
    p = program("nop\n.bytes 33 07 0100\n.bytes\tff\n.bytes 00\n@l:\njump @l")
    assert p.code.hex(" ") == "64 00 33 07 01 00 ff 00 28"
    assert [i.pc for i in instructions(p) if i.length] == [0, 2, 6, 7, 8]


@pytest.mark.parametrize("isa", InstructionSet)
def test_bytes_end_a_block_as_the_instruction_does(isa: InstructionSet) -> None:
    for opcode in OPCODES:
        number = opcode.numbers[isa]
        if number is not None:
            inserted = "" if opcode.ends_block else "01"
            assert program(f".bytes {number:02x}\n@l:\ntrap", isa).code.hex() == f"{number:02x}{inserted}00"


def test_bytes_move_with_what_is_around_them() -> None:
    assert program("jump @l\n.bytes ff ff ff\nfallthrough\n@l:\ntrap").code.hex(" ") == "28 06 ff ff ff 01 00"


def test_gap() -> None:
    p = program(".gap 01 02\npub @main: %no_fallthrough\ntrap")
    assert (p.code.hex(), p.bitmask.hex(), p.exports) == ("010200", "04", (Export(2, b"main"),))
    p = program(".gap 01 02")
    assert (p.code.hex(), p.bitmask.hex()) == ("0102", "00")


def test_jump_table() -> None:
    """Those of the directive come before those of code addresses, wherever either stands."""
    p = program("a0 = @b\n%jump_table = @b @a\n@a:\nnop\n%jump_table =   77\n@b: %no_fallthrough\ntrap")
    assert [p.jump_table_entry(i) for i in range(p.jump_table_entry_count)] == [4, 4, 77, 4]
    assert p.code.hex(" ") == "33 07 08 01 64 00 00"


def test_imports() -> None:
    p = program(
        r"""
        %import = "print"
        ecalli 1
        %import = "\x00\"\\ü"
    """.replace("ü", r"\xc3\xBC")
    )
    assert p.imports == (b"print", b'\0"\\' + "ü".encode())


def test_exports_by_directive() -> None:
    """They keep their order, behind those of labels; a label means the instruction, not its block."""
    p = program(
        '%export = "b" @x\n%export = "a"   1\n%export = "a" @x\nnop\n@x: %no_fallthrough\npub @z: %no_fallthrough\ntrap'
    )
    assert p.exports == (Export(2, b"z"), Export(2, b"b"), Export(1, b"a"), Export(2, b"a"))


# --- Instruction sets -------------------------------------------------------------------------------------------------


def test_opcodes_of_the_instruction_set() -> None:
    assert program("unlikely\ntrap", InstructionSet.JAM_V1).code == b"\x02\x00"
    assert program("unlikely\ntrap", InstructionSet.LATEST32).code == b"\x03\x00"
    assert program("a0 = reverse a1", InstructionSet.JAM_V1).code == bytes.fromhex("6e87")
    assert program("a0 = reverse a1", InstructionSet.REVIVE_V1).code == bytes.fromhex("6f87")


@pytest.mark.parametrize(
    ("text", "isa", "name"),
    [
        ("a0 = a1 + a2", InstructionSet.LATEST32, "latest32 has no add_64"),
        ("a0 = i64 5", InstructionSet.LATEST32, "latest32 has no load_imm64"),
        ("a0 = u64 [a1]", InstructionSet.LATEST32, "latest32 has no load_indirect_u64"),
        ("a0 = sbrk a1", InstructionSet.JAM_V1, "jam_v1 has no sbrk"),
        ("[a0..a0 + a2] = u8 a1", InstructionSet.REVIVE_V1, "revive_v1 has no memset"),
        ("unlikely", InstructionSet.REVIVE_V1, "revive_v1 has no unlikely"),
    ],
)
def test_not_in_the_instruction_set(text: str, isa: InstructionSet, name: str) -> None:
    with pytest.raises(AssemblyError, match=name) as caught:
        assemble(f"nop\n {text}", isa)
    assert (caught.value.line, caught.value.text) == (2, text)


# --- Layout -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filler", "forward", "backward"),
    [
        (125, "287f", "2883"),
        (126, "288100", "2882"),
        (127, "288200", "2881"),
        (128, "288300", "2880"),
        (129, "288400", "287fff"),
        (32764, "28ff7f", "280480"),
        (32765, "28018000", "280380"),
        (32769, "28058000", "28ff7fff"),
    ],
)
def test_distances_take_as_few_bytes_as_they_can(filler: int, forward: str, backward: str) -> None:
    traps = "trap\n" * filler
    assert program(f"jump @l\n{traps}@l:\ntrap").code.hex().startswith(forward)
    assert program(f"@l:\n{traps}jump @l").code.hex().endswith(backward)


def test_a_longer_jump_lengthens_another() -> None:
    """One trap more takes @b out of reach of one byte, and the byte that adds takes @a out of reach, too."""

    def jumps(traps: int) -> str:
        return program("jump @a\njump @b\n" + "trap\n" * traps + "@a:\ntrap\ntrap\ntrap\n@b:\ntrap").code.hex()

    assert jumps(122).startswith("287e" + "287f" + "00")
    assert jumps(123).startswith("288100" + "288100" + "00")


def targets_are_kept(lengths: list[int], jumps: list[Jump]) -> None:
    positions, widths = lay_out(lengths, jumps)
    grown = dict(zip((j.source for j in jumps), widths, strict=True))
    assert positions[0] == 0
    for i, length in enumerate(lengths):
        assert positions[i + 1] - positions[i] == length + grown.get(i, 0)
    for (source, target, least), width in zip(jumps, widths, strict=True):
        assert width >= least
        (positions[target] - positions[source]).to_bytes(width, "little", signed=True)


@quick
@given(st.data())
def test_layouts_fit(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.one_of(st.integers(1, 4), st.integers(100, 140)), min_size=1, max_size=40))
    indices = st.integers(0, len(lengths) - 1)
    sources = data.draw(st.sets(indices))
    targets_are_kept(
        lengths, [Jump(source, data.draw(indices), data.draw(st.integers(0, 4))) for source in sorted(sources)]
    )


def cascade(links: int) -> str:
    """Jumps of which each, once lengthened, lengthens just the one before it; the last one starts it."""
    lines = []
    for link in range(links):
        fillers = ["fallthrough"] * 62
        if link:
            fillers.insert(61, f"@{link - 1}:")
        lines += [f"jump @{link}", *fillers]
    return "\n".join([*lines, *["fallthrough"] * 64, f"@{links - 1}:", "trap"])


@pytest.mark.parametrize(("links", "width"), [(20, 2), (200, 4)])
def test_cascade_of_lengthening_jumps(links: int, width: int) -> None:
    """Short ones settle at the least lengths; in long ones the work is bounded, at the price of longer jumps."""
    p = program(cascade(links))
    decoded = [i for i in instructions(p) if i.name == "jump"]
    assert {i.length for i in decoded} == {1 + width}
    assert all(p.is_valid_jump_target(i.operands[0]) for i in decoded)
    assert [p.code[i.operands[0]] for i in decoded] == [1] * (links - 1) + [0]


@pytest.mark.parametrize("name", ["doom.polkavm", "quake.polkavm"])
def test_layout_of_a_real_program(name: str) -> None:
    """Never longer than the reference's writer, which can settle for a byte more than a jump needs."""
    path = SHARED / "programs" / name
    if not path.exists():
        pytest.skip(f"{name} is not at ../shared/programs")
    blob = ProgramBlob.parse(path.read_bytes())
    decoded = [i for i in instructions(blob) if i.length]
    index = {instruction.pc: i for i, instruction in enumerate(decoded)}
    lengths, jumps = [], []
    for i, instruction in enumerate(decoded):
        length = instruction.length
        if instruction.opcode is not None:
            assert len(encode_instruction(blob.isa, instruction.opcode, instruction.operands, instruction.pc)) == length
            if instruction.opcode.format in TARGET_FORMATS:
                *others, target = instruction.operands
                length = len(encode_instruction(blob.isa, instruction.opcode, (*others, 0)))
                jumps.append(Jump(i, index[target]))
        lengths.append(length)
    size = lay_out(lengths, jumps).positions[-1]
    assert len(blob.code) * 0.9999 < size <= len(blob.code)


# --- Size and speed ---------------------------------------------------------------------------------------------------


def test_large_program_takes_seconds() -> None:
    body = [
        "@l{}:",
        "a0 = a1 + a2",
        "u32 [sp + 8] = a0",
        "a3 = 0x12345678",
        "i32 a0 = a1 - 7",
        "a4 = u8 [a3 + 4]",
        "a0 = a1 if a2 != 0",
        "jump @l{} if a0 <u 100",
    ]
    blocks = 12_500
    text = "\n".join("\n".join(body).format(i, (i * 7919) % blocks) for i in range(blocks))
    assert text.count("\n") + 1 == 100_000
    start = time.process_time()
    p = program(text)
    assert time.process_time() - start < 10
    assert sum(1 for i in instructions(p) if i.length) == blocks * 7


@pytest.mark.parametrize(
    "text",
    [
        "@" + " " * 200_000 + "x",
        "a0 = a" + " " * 200_000 + "!",
        "a0 = " + "a" * 200_000 + "!",
        "a0 = [" + " " * 200_000,
        "a0 = 5," + " " * 200_000 + "x",
        "a0 = u8 [a0" + " " * 200_000 + "x",
        "tmp = a0" + " " * 200_000 + "x",
        "%isa" + " " * 200_000 + "x",
        "u8 [a0 +" + " " * 200_000 + "= 5",
        "[a0" + " " * 200_000 + "= u8 a1",
        "a0 = a1 &" + " " * 200_000 + "!",
        "a0 = maxs(" + " " * 200_000 + "!",
        "a0 = -" * 50_000,
    ],
    ids=lambda text: text[:10],
)
def test_hostile_lines_take_linear_time(text: str) -> None:
    start = time.process_time()
    with pytest.raises(AssemblyError):
        assemble(text, ISA)
    assert time.process_time() - start < 2


WORDS = """
    a0 a1 sp r12 r13 x 0 5 -1 0xffffffff 0x80000000 i64 i32 u8 u64 = == != + - & ~ | ^ * /u %s << >>a >>r <u >s
    [ ] ( ) , @l @l: pub jump if ecalli tmp trap ret maxs clz sbrk mulh .. %isa %ro_data %no_fallthrough
"""


def assemble_or_refuse(text: str) -> None:
    refusal = None
    try:
        data = assemble(text, ISA)
    except AssemblyError as error:
        refusal = error
    if refusal is None:
        assert ProgramBlob.parse(data).to_bytes() == data
    else:
        assert refusal.what
        assert refusal.line is None or 1 <= refusal.line <= text.count("\n") + 1


@quick
@given(st.lists(st.lists(st.sampled_from(WORDS.split()), max_size=8).map(" ".join), max_size=6).map("\n".join))
def test_arbitrary_words(text: str) -> None:
    assemble_or_refuse(text)


@quick
@given(st.text(max_size=60))
def test_arbitrary_text(text: str) -> None:
    assemble_or_refuse(text)


def test_opcode_names_of_the_assembler_exist() -> None:
    for operator in OPERATORS.values():
        for pattern in (operator.reg_reg, operator.reg_imm, operator.imm_reg):
            for width in (32, 64):
                assert pattern is None or pattern.format(width) in OPCODE_BY_NAME
