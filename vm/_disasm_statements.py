# SPDX-License-Identifier: MIT
"""Instructions as statements of the text assembly: the way back from `vm._asm_statements`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from vm._asm_statements import BRANCH, BRANCH_IMM, CALL_OPERATIONS, OPERATORS, STORE_IMM_LIMIT, UNARY_OPERATIONS
from vm.encoding import Instruction
from vm.isa import REGISTERS

# Takes the operands, and the text of the jump target for an instruction that has one.
_Formatter: TypeAlias = Callable[[tuple[int, ...], str], str]

_U32: Final = 0xFFFF_FFFF
_U64: Final = 0xFFFF_FFFF_FFFF_FFFF
_R: Final = REGISTERS

# --- Numbers and memory operands --------------------------------------------------------------------------------------

# Numbers up to here are counts and characters rather than addresses and masks.
_LARGEST_DECIMAL: Final = 1023


def _number(value: int) -> str:
    return str(value) if value <= _LARGEST_DECIMAL else hex(value)


def _mask(value: int) -> str:
    """An operand whose bits count."""
    return _number(value) if value >= -_LARGEST_DECIMAL else hex(value & _U64)


def _based(base: int, offset: int) -> str:
    return f"[{_R[base]} + {_number(offset)}]" if offset else f"[{_R[base]}]"


def _absolute(address: int) -> str:
    return f"[{address & _U32:#x}]"


# --- Every operation --------------------------------------------------------------------------------------------------


def _reg_reg(prefix: str, spelled: str) -> _Formatter:
    return lambda o, _: f"{prefix}{_R[o[0]]} = {_R[o[1]]} {spelled}{_R[o[2]]}"


def _reg_imm(prefix: str, symbol: str) -> _Formatter:
    text = _mask if symbol in ("&", "|", "^") else _number
    return lambda o, _: f"{prefix}{_R[o[0]]} = {_R[o[1]]} {symbol} {text(o[2])}"


def _imm_reg(prefix: str, symbol: str) -> _Formatter:
    return lambda o, _: f"{prefix}{_R[o[0]]} = {_number(o[2])} {symbol} {_R[o[1]]}"


def _add_imm(prefix: str) -> _Formatter:
    def format_(o: tuple[int, ...], _: str) -> str:
        # The text has no other way to add -2^31: 2^31 does not fit.
        value = f"- {_number(-o[2])}" if -0x8000_0000 < o[2] < 0 else f"+ {_number(o[2])}"
        return f"{prefix}{_R[o[0]]} = {_R[o[1]]} {value}"

    return format_


def _operators() -> dict[str, _Formatter]:
    """Binary operations; of two ways to write one the first in the table, and the immediate last where it can be."""
    found: dict[str, _Formatter] = {}
    for width, prefix in ((64, ""), (32, "i32 ")):
        found[f"add_imm_{width}"] = _add_imm(prefix)
        for symbol, operator in OPERATORS.items():
            spelled = f"{symbol[0]} ~" if symbol in ("&~", "|~") else f"{symbol} "
            # An operation without the width in its name is the same with both, and found without the prefix first.
            if not operator.swapped:
                found.setdefault(operator.reg_reg.format(width), _reg_reg(prefix, spelled))
            if operator.reg_imm is not None:
                found.setdefault(operator.reg_imm.format(width), _reg_imm(prefix, symbol))
        for symbol, operator in OPERATORS.items():
            if operator.imm_reg is not None:
                found.setdefault(operator.imm_reg.format(width), _imm_reg(prefix, symbol))
    return found


def _branch(comparison: str) -> _Formatter:
    return lambda o, target: f"jump {target} if {_R[o[0]]} {comparison} {_R[o[1]]}"


def _branch_imm(comparison: str) -> _Formatter:
    return lambda o, target: f"jump {target} if {_R[o[0]]} {comparison} {_number(o[1])}"


def _branches() -> dict[str, _Formatter]:
    found = {name: _branch(comparison) for comparison, (name, swapped) in BRANCH.items() if not swapped}
    return found | {name: _branch_imm(comparison) for comparison, name in BRANCH_IMM.items()}


def _unary(prefix: str, name: str) -> _Formatter:
    return lambda o, _: f"{prefix}{_R[o[0]]} = {name} {_R[o[1]]}"


def _call(name: str) -> _Formatter:
    return lambda o, _: f"{_R[o[0]]} = {name}({_R[o[1]]}, {_R[o[2]]})"


def _functions() -> dict[str, _Formatter]:
    found = {operation: _call(name) for name, operation in CALL_OPERATIONS.items()}
    for width, prefix in ((64, ""), (32, "i32 ")):
        for name, operation in UNARY_OPERATIONS.items():
            found.setdefault(operation.format(width), _unary(prefix, name))
    return found


def _load(kind: str) -> _Formatter:
    return lambda o, _: f"{_R[o[0]]} = {kind} {_absolute(o[1])}"


def _load_indirect(kind: str) -> _Formatter:
    return lambda o, _: f"{_R[o[0]]} = {kind} {_based(o[1], o[2])}"


def _store(kind: str) -> _Formatter:
    return lambda o, _: f"{kind} {_absolute(o[1])} = {_R[o[0]]}"


def _store_indirect(kind: str) -> _Formatter:
    return lambda o, _: f"{kind} {_based(o[1], o[2])} = {_R[o[0]]}"


def _store_imm(kind: str) -> _Formatter:
    return lambda o, _: f"{kind} {_absolute(o[0])} = {_number(o[1])}"


def _store_imm_indirect(kind: str) -> _Formatter:
    return lambda o, _: f"{kind} {_based(o[0], o[1])} = {_number(o[2])}"


def _memory_accesses() -> dict[str, _Formatter]:
    found: dict[str, _Formatter] = {}
    for kind in ("u8", "u16", "u32", "u64", "i8", "i16", "i32"):
        found[f"load_{kind}"] = _load(kind)
        found[f"load_indirect_{kind}"] = _load_indirect(kind)
    for kind in ("u8", "u16", "u32", "u64"):
        found[f"store_{kind}"] = _store(kind)
        found[f"store_indirect_{kind}"] = _store_indirect(kind)
        found[f"store_imm_{kind}"] = _store_imm(kind)
        found[f"store_imm_indirect_{kind}"] = _store_imm_indirect(kind)
    return found


def _load_imm64(o: tuple[int, ...], _: str) -> str:
    # What sign-extends from 32 bits would be a load_imm without the prefix.
    short = o[1] <= 0x7FFF_FFFF or o[1] >= 0xFFFF_FFFF_8000_0000
    return f"{_R[o[0]]} = {'i64 ' if short else ''}{o[1]:#x}"


def _jump_indirect(o: tuple[int, ...], _: str) -> str:
    return "ret" if o == (_R.index("ra"), 0) else f"jump {_based(*o)}"


def _load_imm_and_jump_indirect(o: tuple[int, ...], _: str) -> str:
    destination, base, value, offset = o
    if destination != base:
        return f"{_R[destination]} = {_number(value)}, jump {_based(base, offset)}"
    target = f"tmp + {_number(offset)}" if offset else "tmp"
    return f"tmp = {_R[base]}, {_R[destination]} = {_number(value)}, jump [{target}]"


def _move_reg(o: tuple[int, ...], _: str) -> str:
    return "nop" if o == (_R.index("ra"), _R.index("ra")) else f"{_R[o[0]]} = {_R[o[1]]}"


_FORMATTERS: Final[dict[str, _Formatter]] = {
    "trap": lambda o, _: "trap",
    "fallthrough": lambda o, _: "fallthrough",
    "unlikely": lambda o, _: "unlikely",
    "memset": lambda o, _: "[a0..a0 + a2] = u8 a1",
    "ecalli": lambda o, _: f"ecalli {o[0] & _U32}",
    "load_imm": lambda o, _: f"{_R[o[0]]} = {_number(o[1])}",
    "load_imm64": _load_imm64,
    "jump": lambda o, target: f"jump {target}",
    "jump_indirect": _jump_indirect,
    "load_imm_and_jump": lambda o, target: f"{_R[o[0]]} = {_number(o[1])}, jump {target}",
    "load_imm_and_jump_indirect": _load_imm_and_jump_indirect,
    "move_reg": _move_reg,
    "cmov_if_zero": lambda o, _: f"{_R[o[0]]} = {_R[o[1]]} if {_R[o[2]]} == 0",
    "cmov_if_not_zero": lambda o, _: f"{_R[o[0]]} = {_R[o[1]]} if {_R[o[2]]} != 0",
    "cmov_if_zero_imm": lambda o, _: f"{_R[o[0]]} = {_number(o[2])} if {_R[o[1]]} == 0",
    "cmov_if_not_zero_imm": lambda o, _: f"{_R[o[0]]} = {_number(o[2])} if {_R[o[1]]} != 0",
    "xnor": lambda o, _: f"{_R[o[0]]} = ~({_R[o[1]]} ^ {_R[o[2]]})",
    **_operators(),
    **_branches(),
    **_functions(),
    **_memory_accesses(),
}


def format_statement(instruction: Instruction, target: str = "") -> str:
    """The statement for `instruction`; `target` is the text of its jump target, such as ``@done``, if it has one.

    An invalid instruction is ``invalid``, which is no statement; neither is every other one, see `is_statement`.
    """
    if instruction.opcode is None:
        return "invalid"
    return _FORMATTERS[instruction.opcode.name](instruction.operands, target)


_STORE_LIMIT: Final = {
    f"store_imm_{middle}{kind}": limit for kind, limit in STORE_IMM_LIMIT.items() for middle in ("", "indirect_")
}


def is_statement(instruction: Instruction) -> bool:
    """Whether the assembler reads what `format_statement` writes as the same operation and operands."""
    limit = _STORE_LIMIT.get(instruction.name)
    return instruction.opcode is not None and (limit is None or 0 <= instruction.operands[-1] <= limit)
