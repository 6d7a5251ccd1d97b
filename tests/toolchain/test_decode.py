# SPDX-License-Identifier: MIT
"""The decoder: each format of the ISA manual, on words that an assembler made of the text beside them."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm.toolchain._decode import Bit, Decoded, Decoder, Form, UndecodableError
from vm.toolchain._ir import OPERATIONS, op

RV64, RV32 = Decoder(is64=True), Decoder(is64=False)


def name(decoded: Decoded) -> str:
    opcode = OPERATIONS[decoded.op]
    assert opcode is not None
    return opcode.name


# The words are llvm-mc's (LLVM 19) for the text beside them.
@pytest.mark.parametrize(
    ("text", "word", "form", "operation", "operands"),
    [
        ("add a0, a1, a2", 0x00C58533, Form.ALU, "add_64", (10, 11, 12, 0)),
        ("sub a0, a1, a2", 0x40C58533, Form.ALU, "sub_64", (10, 11, 12, 0)),
        ("subw a0, a1, a2", 0x40C5853B, Form.ALU, "sub_32", (10, 11, 12, 0)),
        ("mulhsu a0, a1, a2", 0x02C5A533, Form.ALU, "mul_upper_signed_unsigned", (10, 11, 12, 0)),
        ("remuw a0, a1, a2", 0x02C5F53B, Form.ALU, "rem_unsigned_32", (10, 11, 12, 0)),
        ("andn a0, a1, a2", 0x40C5F533, Form.ALU, "and_inverted", (10, 11, 12, 0)),
        ("maxu a0, a1, a2", 0x0AC5F533, Form.ALU, "maximum_unsigned", (10, 11, 12, 0)),
        ("rolw a0, a1, a2", 0x60C5953B, Form.ALU, "rotate_left_32", (10, 11, 12, 0)),
        ("addi a0, a1, -2048", 0x80058513, Form.ALU_IMM, "add_imm_64", (10, 11, 0, -2048)),
        ("sltiu a0, a1, -1", 0xFFF5B513, Form.ALU_IMM, "set_less_than_unsigned_imm", (10, 11, 0, -1)),
        ("slli a0, a1, 63", 0x03F59513, Form.ALU_IMM, "shift_logical_left_imm_64", (10, 11, 0, 63)),
        ("srai a0, a1, 63", 0x43F5D513, Form.ALU_IMM, "shift_arithmetic_right_imm_64", (10, 11, 0, 63)),
        ("sraiw a0, a1, 31", 0x41F5D51B, Form.ALU_IMM, "shift_arithmetic_right_imm_32", (10, 11, 0, 31)),
        ("rori a0, a1, 40", 0x6285D513, Form.ALU_IMM, "rotate_right_imm_64", (10, 11, 0, 40)),
        ("clz a0, a1", 0x60059513, Form.UNARY, "count_leading_zero_bits_64", (10, 11, 0, 0)),
        ("ctzw a0, a1", 0x6015951B, Form.UNARY, "count_trailing_zero_bits_32", (10, 11, 0, 0)),
        ("rev8 a0, a1", 0x6B85D513, Form.UNARY, "reverse_byte", (10, 11, 0, 0)),
        ("zext.h a0, a1", 0x0805C53B, Form.UNARY, "zero_extend_16", (10, 11, 0, 0)),
        ("lwu a0, -4(a1)", 0xFFC5E503, Form.LOAD, "load_indirect_u32", (10, 11, 0, -4)),
        ("sd a0, 2047(a1)", 0x7EA5BFA3, Form.STORE, "store_indirect_u64", (0, 11, 10, 2047)),
        ("bltu a0, a1, -4096", 0x80B56063, Form.BRANCH, "branch_less_unsigned", (0, 10, 11, -4096)),
        ("c.addi4spn a0, sp, 1020", 0x1FE8, Form.ALU_IMM, "add_imm_64", (10, 2, 0, 1020)),
        ("c.ld a0, 248(a1)", 0x7DE8, Form.LOAD, "load_indirect_u64", (10, 11, 0, 248)),
        ("c.sw a0, 124(a1)", 0xDDE8, Form.STORE, "store_indirect_u32", (0, 11, 10, 124)),
        ("c.addiw a0, -32", 0x3501, Form.ALU_IMM, "add_imm_32", (10, 10, 0, -32)),
        ("c.addi16sp sp, -512", 0x7101, Form.ALU_IMM, "add_imm_64", (2, 2, 0, -512)),
        ("c.srai a0, 63", 0x957D, Form.ALU_IMM, "shift_arithmetic_right_imm_64", (10, 10, 0, 63)),
        ("c.subw a0, a1", 0x9D0D, Form.ALU, "sub_32", (10, 10, 11, 0)),
        ("c.mv a0, a1", 0x852E, Form.ALU, "add_64", (10, 0, 11, 0)),
        ("c.ldsp ra, 504(sp)", 0x70FE, Form.LOAD, "load_indirect_u64", (1, 2, 0, 504)),
        ("c.beqz a0, -256", 0xD101, Form.BRANCH, "branch_eq", (0, 10, 0, -256)),
        ("c.zext.b a0", 0x9D61, Form.ALU_IMM, "and_imm", (10, 10, 0, 255)),
    ],
)
def test_operations(text: str, word: int, form: Form, operation: str, operands: tuple[int, ...]) -> None:
    decoded = RV64.decode(word)
    assert (decoded.form, name(decoded)) == (form, operation), text
    assert (decoded.rd, decoded.rs1, decoded.rs2, decoded.imm) == operands, text


@pytest.mark.parametrize(
    ("text", "word", "expected"),
    [
        ("lui a0, 0x80000", 0x80000537, Decoded(Form.LUI, 0, 10, 0, 0, -0x8000_0000)),
        ("auipc a0, 1", 0x00001517, Decoded(Form.AUIPC, 0, 10, 0, 0, 0x1000)),
        ("jal ra, -1048576", 0x800000EF, Decoded(Form.JAL, 0, 1, 0, 0, -0x10_0000)),
        ("jalr ra, -1(a0)", 0xFFF500E7, Decoded(Form.JALR, 0, 1, 10, 0, -1)),
        ("c.j -2048", 0xB001, Decoded(Form.JAL, 0, 0, 0, 0, -2048)),
        ("c.jalr a0", 0x9502, Decoded(Form.JALR, 0, 1, 10, 0, 0)),
        ("c.lui a0, 0xfffe0", 0x7501, Decoded(Form.LUI, 0, 10, 0, 0, -0x20000)),
        ("lr.w a0, (a1)", 0x1005A52F, Decoded(Form.LOAD_RESERVED, 0, 10, 11, 0, 0, 32)),
        ("sc.d a0, a1, (a2)", 0x18B6352F, Decoded(Form.STORE_CONDITIONAL, 0, 10, 12, 11, 0, 64)),
        ("amomaxu.w a0, a1, (a2)", 0xE0B6252F, Decoded(Form.ATOMIC, op("maximum_unsigned"), 10, 12, 11, 0, 32)),
        ("sh3add.uw a0, a1, a2", 0x20C5E53B, Decoded(Form.SHIFT_ADD, 1, 10, 11, 12, 3)),
        ("add.uw a0, a1, a2", 0x08C5853B, Decoded(Form.SHIFT_ADD, 1, 10, 11, 12, 0)),
        ("slli.uw a0, a1, 63", 0x0BF5951B, Decoded(Form.SHIFT_WORD, 0, 10, 11, 0, 63)),
        ("bexti a0, a1, 63", 0x4BF5D513, Decoded(Form.BIT, Bit.EXTRACT, 10, 11, -1, 63, 64)),
        ("bclr a0, a1, a2", 0x48C59533, Decoded(Form.BIT, Bit.CLEAR, 10, 11, 12, 0, 64)),
        ("czero.nez a0, a1, a2", 0x0EC5F533, Decoded(Form.ZERO_IF, 1, 10, 11, 12, 0)),
        ("th.mvnez a1, a2, a0", 0x42A6158B, Decoded(Form.MOVE_IF, 1, 11, 12, 10, 0)),
        ("fence", 0x0FF0000F, Decoded(Form.NOTHING, 0, 0, 0, 0, 0)),
        ("unimp", 0xC0001073, Decoded(Form.TRAP, 0, 0, 0, 0, 0)),
        ("c.unimp", 0x0000, Decoded(Form.TRAP, 0, 0, 0, 0, 0)),
        ("heap_base a0", 0x0000350B, Decoded(Form.HEAP_BASE, 0, 10, 0, 0, 0)),
    ],
)
def test_others(text: str, word: int, expected: Decoded) -> None:
    assert RV64.decode(word) == expected, text


def test_32_bit_registers() -> None:
    assert name(RV32.decode(0x00C58533)) == "add_32"
    assert RV32.decode(0x2001) == Decoded(Form.JAL, 0, 1, 0, 0, 0)  # c.jal, which is c.addiw of RV64
    for word in (0x00C5853B, 0x0205_9513, 0xFFC5E503, 0x1005_B52F, 0x7DE8):  # addw, slli 32, lwu, lr.d, c.ld
        with pytest.raises(UndecodableError):
            RV32.decode(word)


@given(st.integers(0, 2**32 - 1))
def test_anything(word: int) -> None:
    """Every word is an instruction or is none; what there is has an operation that exists, and registers."""
    word &= 0xFFFF_FFFF if word & 3 == 3 else 0xFFFF
    for decoder in (RV32, RV64):
        try:
            decoded = decoder.decode(word)
        except UndecodableError:
            continue
        assert {decoded.rd, decoded.rs1} <= set(range(32))
        if decoded.form in (Form.ALU, Form.ALU_IMM, Form.UNARY, Form.LOAD, Form.STORE, Form.BRANCH):
            opcode = OPERATIONS[decoded.op]
            assert opcode is not None
            assert decoder is RV64 or "64" not in opcode.name


MNEMONICS = {
    Form.TRAP: {"unimp", "c.unimp", "ebreak", "c.ebreak"},
    Form.LUI: {"lui", "c.lui"},
    Form.AUIPC: {"auipc"},
    Form.JAL: {"j", "jal", "c.j"},
    Form.JALR: {"jr", "jalr", "ret", "c.jr", "c.jalr"},
}


def test_against_another_decoder() -> None:
    """All 16-bit instructions, told apart from others as LLVM's disassembler does."""
    tool = shutil.which("llvm-mc-19") or shutil.which("llvm-mc")
    if tool is None:
        pytest.skip("no llvm-mc: apt install llvm-19")
    halves = [half for half in range(0x10000) if half & 3 != 3]
    text = "".join(f"{half & 255:#x} {half >> 8:#x}\n" for half in halves)
    command = [tool, "--disassemble", "--triple=riscv64", "--mattr=+m,+a,+c,+zba,+zbb,+zcb", "-M", "no-aliases"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    invalid = {int(line.split(":")[1]) for line in done.stderr.splitlines() if "invalid instruction" in line}
    if not done.stdout or not invalid:
        pytest.skip("this llvm-mc does not know RISC-V")
    printed = iter([line.split()[0] for line in done.stdout.splitlines() if line.strip() and ".text" not in line])
    differences: Counter[str] = Counter()
    for number, half in enumerate(halves, 1):
        mnemonic = None if number in invalid else next(printed)
        try:
            form = RV64.decode(half).form
        except UndecodableError:
            if mnemonic is not None:
                differences[f"{mnemonic} is unknown to us"] += 1
            continue
        if mnemonic is None:
            differences[f"{form.name} is none"] += 1
        elif form in MNEMONICS and mnemonic not in MNEMONICS[form]:
            differences[f"{mnemonic} is taken for {form.name}"] += 1
    del differences["c.lui is unknown to us"]  # without an immediate, which is reserved
    assert not differences, differences
