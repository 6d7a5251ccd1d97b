# SPDX-License-Identifier: MIT
"""The program between ELF and blob: basic blocks of PVM operations on registers.

An instruction is a plain tuple ``(op, x, y, z, position)``, because there are hundreds of thousands: `op` is the
operation's number in latest64, which has them all, or one of the pseudo operations below; x, y and z are its operands
in the order of its format, unused ones 0; `position` is the address in the ELF file that it comes from
(or one of `Positions`). Immediates
are signed 32-bit numbers, but `LOAD_IMM64` takes any signed 64-bit one. y of `ECALLI` is the number of its arguments.

A block's end is a tuple ``(op, x, y, target, following, position)``; target and following are block numbers:

==========================  ===============================================================================
jump                        to `target`
branch_*                    on x and y, to `target`, otherwise to `following`
load_imm_and_jump           a call: x is the return address of `following`; to `target`
load_imm_and_jump_indirect  a call: x is the return address of `following`; to the code address in y
jump_indirect               to the code address in x
trap
==========================  ===============================================================================
"""

from __future__ import annotations

from typing import Final, TypeAlias

from vm.isa import OPCODE_BY_NAME, OPCODES, Format, InstructionSet, Opcode

Instruction: TypeAlias = tuple[int, int, int, int, int]
End: TypeAlias = tuple[int, int, int, int, int, int]

#: No block.
NOWHERE: Final = -1


def op(name: str) -> int:
    """The number by which the IR knows an operation."""
    number = OPCODE_BY_NAME[name].numbers[InstructionSet.LATEST64]
    assert number is not None
    return number


#: The operation of each number; None for what is none.
OPERATIONS: Final[tuple[Opcode | None, ...]] = tuple(
    {opcode.numbers[InstructionSet.LATEST64]: opcode for opcode in OPCODES}.get(number) for number in range(256)
)

#: Pseudo operations: x = the code address of block y; x = where the heap starts.
CODE_ADDRESS: Final = 256

#: Registers 0 to 12 are the guest's. These two are free between two instructions of the ELF file; see `_spills`.
SCRATCH: Final = (13, 14)
REGISTER_COUNT: Final = 13
RA: Final = 0


class Positions:
    """Positions of instructions that were copied to where their function was called: two positions in one."""

    _FIRST: Final = 1 << 63

    def __init__(self) -> None:
        self._pairs: list[tuple[int, int]] = []
        self._numbers: dict[tuple[int, int], int] = {}

    def inlined(self, position: int, call: int) -> int:
        """The position of an instruction from `position`, in a function that was called at `call`."""
        pair = (position, call)
        number = self._numbers.get(pair)
        if number is None:
            number = self._numbers[pair] = len(self._pairs)
            self._pairs.append(pair)
        return self._FIRST + number

    def addresses(self, position: int) -> tuple[int, ...]:
        """The addresses in the ELF file that a position stands for: those of calls first, outermost first."""
        if position < self._FIRST:
            return (position,)
        inner, call = self._pairs[position - self._FIRST]
        return (*self.addresses(call), *self.addresses(inner))


class Block:
    """A basic block. `address` is that of its first instruction in the ELF file."""

    __slots__ = ("address", "body", "end", "exported", "number", "results", "taken")

    def __init__(self, number: int, address: int) -> None:
        self.number = number
        self.address = address
        self.body: list[Instruction] = []
        self.end: End = (TRAP, 0, 0, NOWHERE, NOWHERE, address)
        #: Its code address is in a register or in memory, so that it has a slot in the jump table.
        self.taken = False
        self.exported = False
        #: How many results the function returns to the host, if it is exported.
        self.results = 0


TRAP: Final = op("trap")
FALLTHROUGH: Final = op("fallthrough")
UNLIKELY: Final = op("unlikely")
ECALLI: Final = op("ecalli")
MEMSET: Final = op("memset")
SBRK: Final = op("sbrk")
JUMP: Final = op("jump")
JUMP_INDIRECT: Final = op("jump_indirect")
CALL: Final = op("load_imm_and_jump")
CALL_INDIRECT: Final = op("load_imm_and_jump_indirect")
LOAD_IMM: Final = op("load_imm")
LOAD_IMM64: Final = op("load_imm64")
MOVE: Final = op("move_reg")
FIRST_BRANCH_IMM: Final = op("branch_eq_imm")
LAST_BRANCH_IMM: Final = op("branch_greater_signed_imm")
FIRST_BRANCH: Final = op("branch_eq")
LAST_BRANCH: Final = op("branch_greater_or_equal_signed")


def is_branch(number: int) -> bool:
    return FIRST_BRANCH_IMM <= number <= LAST_BRANCH_IMM or FIRST_BRANCH <= number <= LAST_BRANCH


def _pairs(*names: tuple[str, str]) -> dict[int, int]:
    one_way = {op(a): op(b) for a, b in names}
    return one_way | {b: a for a, b in one_way.items()}


#: The branch on the opposite condition.
INVERTED: Final = _pairs(
    ("branch_eq", "branch_not_eq"),
    ("branch_less_unsigned", "branch_greater_or_equal_unsigned"),
    ("branch_less_signed", "branch_greater_or_equal_signed"),
    ("branch_eq_imm", "branch_not_eq_imm"),
    ("branch_less_unsigned_imm", "branch_greater_or_equal_unsigned_imm"),
    ("branch_less_signed_imm", "branch_greater_or_equal_signed_imm"),
    ("branch_less_or_equal_unsigned_imm", "branch_greater_unsigned_imm"),
    ("branch_less_or_equal_signed_imm", "branch_greater_signed_imm"),
)

#: Branches on a register and an immediate, by the branch on two registers: with the immediate second, and first.
BRANCH_IMM: Final = {
    op("branch_eq"): (op("branch_eq_imm"), op("branch_eq_imm")),
    op("branch_not_eq"): (op("branch_not_eq_imm"), op("branch_not_eq_imm")),
    op("branch_less_unsigned"): (op("branch_less_unsigned_imm"), op("branch_greater_unsigned_imm")),
    op("branch_less_signed"): (op("branch_less_signed_imm"), op("branch_greater_signed_imm")),
    op("branch_greater_or_equal_unsigned"): (
        op("branch_greater_or_equal_unsigned_imm"),
        op("branch_less_or_equal_unsigned_imm"),
    ),
    op("branch_greater_or_equal_signed"): (
        op("branch_greater_or_equal_signed_imm"),
        op("branch_less_or_equal_signed_imm"),
    ),
}

_SHIFTS: Final = ("logical_left", "logical_right", "arithmetic_right")
#: Operations on a register and an immediate, by those on two registers: with the immediate second, and first.
IMM_RIGHT: Final = {
    op(name): op(imm)
    for name, imm in (
        *((f"{name}_{width}", f"{name}_imm_{width}") for name in ("add", "mul") for width in (32, 64)),
        *((f"shift_{name}_{width}", f"shift_{name}_imm_{width}") for name in _SHIFTS for width in (32, 64)),
        *((f"rotate_right_{width}", f"rotate_right_imm_{width}") for width in (32, 64)),
        *((name, f"{name}_imm") for name in ("and", "or", "xor", "set_less_than_signed", "set_less_than_unsigned")),
    )
}
IMM_LEFT: Final = {
    op(name): op(imm)
    for name, imm in (
        *((f"{name}_{width}", f"{name}_imm_{width}") for name in ("add", "mul") for width in (32, 64)),
        *((f"sub_{width}", f"negate_and_add_imm_{width}") for width in (32, 64)),
        *((f"shift_{name}_{width}", f"shift_{name}_imm_alt_{width}") for name in _SHIFTS for width in (32, 64)),
        *((f"rotate_right_{width}", f"rotate_right_imm_alt_{width}") for width in (32, 64)),
        *((name, f"{name}_imm") for name in ("and", "or", "xor")),
        ("set_less_than_signed", "set_greater_than_signed_imm"),
        ("set_less_than_unsigned", "set_greater_than_unsigned_imm"),
    )
}


def _memory_forms() -> dict[int, int]:
    names = [f"load_indirect_{k}" for k in ("u8", "i8", "u16", "i16", "u32", "i32", "u64")]
    names += [f"store_indirect_{k}" for k in ("u8", "u16", "u32", "u64")]
    return {op(name): op(name.replace("_indirect", "")) for name in names}


#: The load or store at an absolute address, by the one relative to a register.
ABSOLUTE_FORM: Final = _memory_forms()
#: The stores of an immediate, relative to a register and absolute, by the store of a register relative to a register.
STORE_IMM: Final = {
    op(f"store_indirect_{k}"): (op(f"store_imm_indirect_{k}"), op(f"store_imm_{k}"))
    for k in ("u8", "u16", "u32", "u64")
}
FIRST_LOAD_INDIRECT: Final = op("load_indirect_u8")
LAST_LOAD_INDIRECT: Final = op("load_indirect_u64")

# --- Which registers an operation reads and writes --------------------------------------------------------------------

#: By operation number, whether x is written, and whether x, y and z are registers that are read.
WRITES_X: Final = bytearray(257)
READS_X: Final = bytearray(257)
READS_Y: Final = bytearray(257)
READS_Z: Final = bytearray(257)
#: Whether the operation does something beyond writing x: it may trap, write memory or leave the guest.
HAS_EFFECT: Final = bytearray(257)


def _fill_tables() -> None:
    for number, opcode in enumerate(OPERATIONS):
        if opcode is None:
            continue
        name, form = opcode.name, opcode.format
        store = name.startswith("store")
        WRITES_X[number] = form in (Format.REG_REG, Format.REG_REG_REG, Format.REG_IMM64) or (
            form in (Format.REG_IMM, Format.REG_REG_IMM) and not store
        )
        READS_X[number] = (store and form is not Format.IMM_IMM) or name.startswith("cmov")
        READS_Y[number] = form in (Format.REG_REG, Format.REG_REG_REG, Format.REG_REG_IMM)
        READS_Z[number] = form is Format.REG_REG_REG
        HAS_EFFECT[number] = store or name.startswith("load_indirect") or name in ("ecalli", "memset", "sbrk")
        HAS_EFFECT[number] |= name in ABSOLUTE_LOADS
    WRITES_X[CODE_ADDRESS] = True


ABSOLUTE_LOADS: Final = frozenset(f"load_{k}" for k in ("u8", "i8", "u16", "i16", "u32", "i32", "u64"))
_fill_tables()
