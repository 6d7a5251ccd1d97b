# SPDX-License-Identifier: MIT
"""The opcode table against the blob specification, where that is at hand, and against facts of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vm.isa import (
    ARGUMENT_REGISTERS,
    OPCODE_BY_NAME,
    OPCODE_BY_NUMBER,
    OPCODES,
    REGISTERS,
    Format,
    InstructionSet,
)

SPECIFICATION = Path(__file__).resolve().parents[3] / "shared" / "spec" / "pvm-format.md"

FORMATS = {
    "—": Format.NONE,
    "X": Format.IMM,
    "→T": Format.OFFSET,
    "X, Y": Format.IMM_IMM,
    "A, X": Format.REG_IMM,
    "A, X, Y": Format.REG_IMM_IMM,
    "A, X, →T": Format.REG_IMM_OFFSET,
    "A, B, X": Format.REG_REG_IMM,
    "A, B, →T": Format.REG_REG_OFFSET,
    "A, B, X, Y": Format.REG_REG_IMM_IMM,
    "A, X64": Format.REG_IMM64,
    "D, A": Format.REG_REG,
    "D, A, B": Format.REG_REG_REG,
}


def test_table_is_the_specification() -> None:
    if not SPECIFICATION.exists():
        pytest.skip("the blob specification is not at ../shared/spec")
    row = re.compile(r"\| (\w+) \| ([^|]+)" + r" \| (\d+|\u2013)" * len(InstructionSet) + r" \|")
    section = SPECIFICATION.read_text().split("\n## 6.")[1].split("\n## 7.")[0]
    specified = [
        (name, FORMATS[fmt], tuple(int(n) if n.isdecimal() else None for n in numbers))
        for name, fmt, *numbers in row.findall(section)
    ]
    assert specified == [(o.name, o.format, o.numbers) for o in OPCODES]


def test_names_and_numbers_are_unique() -> None:
    assert len(OPCODE_BY_NAME) == len(OPCODES)
    for isa in InstructionSet:
        numbered = [o for o in OPCODES if o.numbers[isa] is not None]
        assert len(OPCODE_BY_NUMBER[isa]) == len(numbered)
        assert all(0 <= number <= 0xFF for number in OPCODE_BY_NUMBER[isa])


@pytest.mark.parametrize("isa", InstructionSet)
def test_lookup_by_number_is_the_inverse(isa: InstructionSet) -> None:
    for number, opcode in OPCODE_BY_NUMBER[isa].items():
        assert opcode.numbers[isa] == number


def test_differences_between_the_sets() -> None:
    def names(isa: InstructionSet) -> set[str]:
        return {o.name for o in OPCODE_BY_NUMBER[isa].values()}

    everything = {o.name for o in OPCODES}
    assert names(InstructionSet.LATEST64) == everything
    assert everything - names(InstructionSet.REVIVE_V1) == {"sbrk", "memset", "unlikely"}
    assert everything - names(InstructionSet.JAM_V1) == {"sbrk", "memset"}
    wide_only = everything - names(InstructionSet.LATEST32)
    assert {"load_imm64", "load_u32", "load_u64", "store_u64", "store_imm_indirect_u64"} < wide_only
    assert all(name.endswith(("_64", "u32", "u64", "imm64")) for name in wide_only)


def test_numbers_that_moved() -> None:
    assert OPCODE_BY_NAME["unlikely"].numbers == (None, 3, 3, 2)
    assert OPCODE_BY_NAME["count_set_bits_64"].numbers == (102, None, 102, 101)
    assert OPCODE_BY_NAME["reverse_byte"].numbers == (111, 111, 111, 110)


def test_block_terminators() -> None:
    others = {o.name for o in OPCODES if o.ends_block and not o.name.startswith("branch_")}
    assert others == {
        "trap",
        "fallthrough",
        "jump",
        "jump_indirect",
        "load_imm_and_jump",
        "load_imm_and_jump_indirect",
    }
    assert all(o.ends_block for o in OPCODES if o.name.startswith("branch_"))


def test_registers() -> None:
    assert len(REGISTERS) == len(set(REGISTERS)) == 13
    assert set(ARGUMENT_REGISTERS) < set(REGISTERS)
    assert ARGUMENT_REGISTERS[:2] == ("a0", "a1")


def test_labels_and_word_sizes() -> None:
    assert [isa.label for isa in InstructionSet] == ["revive_v1", "latest32", "latest64", "jam_v1"]
    assert [isa.word_bits for isa in InstructionSet] == [64, 32, 64, 64]
