# SPDX-License-Identifier: MIT
"""One statement of the text assembly, turned into an operation and its operands.

The forms are those of the text assembly's specification, tried in its order; directives and labels are not
statements, see `vm.assembler`.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from vm.encoding import TARGET_FORMATS
from vm.isa import OPCODE_BY_NAME, OPCODES, REGISTERS, InstructionSet, Opcode


class StatementError(ValueError):
    """The text is no statement; the message says what is wrong, in the words of an `AssemblyError`'s `what`."""


class Statement(NamedTuple):
    """An operation whose operand that depends on `label` is still missing.

    That is the jump target, the last operand, or the code address that a `load_imm` loads.
    """

    opcode: Opcode
    operands: tuple[int, ...]
    label: str | None = None
    #: The fewest bytes of jump distance.
    width: int = 0

    @property
    def ends_block(self) -> bool:
        return self.opcode.ends_block


# Block terminators have the same number in every instruction set.
_BLOCK_ENDS: Final = frozenset(o.numbers[InstructionSet.JAM_V1] for o in OPCODES if o.ends_block)


class Raw(NamedTuple):
    """Code that is given as its bytes: one instruction, or (if not `starts`) what lies before the first one."""

    code: bytes
    starts: bool

    @property
    def ends_block(self) -> bool:
        return self.starts and self.code[0] in _BLOCK_ENDS


def _statement(name: str, *operands: int, label: str | None = None) -> Statement:
    return Statement(OPCODE_BY_NAME[name], operands, label)


# --- Registers and numbers --------------------------------------------------------------------------------------------

_REGISTER: Final = {name: i for i, name in enumerate(REGISTERS)} | {f"r{i}": i for i in range(len(REGISTERS))}
_RA: Final = _REGISTER["ra"]

_DECIMAL: Final = re.compile(r"-?[0-9]+")
_HEX: Final = re.compile(r"0x([0-9a-fA-F]+)")
_BINARY: Final = re.compile(r"0b([01]+)")

# Longer than any number in range, leading zeros included; keeps int() from meeting hostile lengths.
_LONGEST_NUMBER: Final = 128


def _number(text: str) -> int | None:
    """The value of a decimal, ``0x`` or ``0b`` number of any size; None if it is not one."""
    if len(text) > _LONGEST_NUMBER:
        return None
    if _DECIMAL.fullmatch(text):
        return int(text)
    if match := _HEX.fullmatch(text):
        return int(match[1], 16)
    if match := _BINARY.fullmatch(text):
        return int(match[1], 2)
    return None


def _find_imm32(text: str) -> int | None:
    value = _number(text)
    if value is None or not -0x8000_0000 <= value <= 0xFFFF_FFFF:
        return None
    return value - 0x1_0000_0000 if value > 0x7FFF_FFFF else value


def _imm32(text: str) -> int:
    value = _find_imm32(text)
    if value is None:
        raise StatementError(f"{_quote(text)} is not a 32-bit number")
    return value


class _Immediate(NamedTuple):
    """A signed 32-bit value, or (if `wide`) an unsigned 64-bit pattern."""

    value: int
    wide: bool


def _find_immediate(text: str) -> _Immediate | None:
    digits = text.removeprefix("i64 ").strip()
    value = _number(digits)
    if value is None or not -0x8000_0000 <= value <= 0xFFFF_FFFF_FFFF_FFFF:
        return None
    pattern = value & 0xFFFF_FFFF_FFFF_FFFF
    signed = pattern - (pattern >> 63 << 64)
    if text.startswith("i64 ") or not -0x8000_0000 <= signed <= 0x7FFF_FFFF:
        return _Immediate(pattern, wide=True)
    return _Immediate(signed, wide=False)


def _immediate(text: str) -> int:
    """An operand that must be of the 32-bit kind."""
    immediate = _find_immediate(text)
    if immediate is None:
        raise StatementError(f"{_quote(text)} is neither a register nor a number in range")
    if immediate.wide:
        raise StatementError(f"{_quote(text)} is a 64-bit immediate; only those that sign-extend from 32 bits fit here")
    return immediate.value


def _register(text: str) -> int:
    register = _REGISTER.get(text)
    if register is None:
        raise StatementError(f"{_quote(text)} is not a register")
    return register


def _quote(text: str, limit: int = 40) -> str:
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")


def _label(text: str) -> str:
    if not text:
        raise StatementError("the label has no name")
    return text


# --- Memory operands --------------------------------------------------------------------------------------------------

_MEMORY: Final = re.compile(r"\[\s*(-?\w+)\s*(?:\+\s*(-?\w+)\s*)?\]")


def _memory(text: str) -> tuple[int | None, int]:
    """Base register (None for an absolute address) and offset of ``[base]``, ``[base + offset]`` or ``[address]``."""
    match = _MEMORY.fullmatch(text)
    if match is None:
        raise StatementError(f"{_quote(text)} is not a memory operand")
    first, offset = match.groups()
    base = _REGISTER.get(first)
    if base is not None:
        return base, 0 if offset is None else _imm32(offset)
    if offset is not None:
        raise StatementError(f"{_quote(first)} is not a register")
    return None, _imm32(first)


def _based_memory(text: str) -> tuple[int, int]:
    base, offset = _memory(text)
    if base is None:
        raise StatementError("an indirect jump needs a register as its base")
    return base, offset


# --- Jumps and branches -----------------------------------------------------------------------------------------------

#: Branch on two registers: the operation, and whether it takes them in the opposite order.
BRANCH: Final = {
    "==": ("branch_eq", False),
    "!=": ("branch_not_eq", False),
    "<u": ("branch_less_unsigned", False),
    "<s": ("branch_less_signed", False),
    "<=u": ("branch_greater_or_equal_unsigned", True),
    "<=s": ("branch_greater_or_equal_signed", True),
    ">u": ("branch_less_unsigned", True),
    ">s": ("branch_less_signed", True),
    ">=u": ("branch_greater_or_equal_unsigned", False),
    ">=s": ("branch_greater_or_equal_signed", False),
}

#: Branch on a register and an immediate, in this order.
BRANCH_IMM: Final = {
    "==": "branch_eq_imm",
    "!=": "branch_not_eq_imm",
    "<u": "branch_less_unsigned_imm",
    "<s": "branch_less_signed_imm",
    "<=u": "branch_less_or_equal_unsigned_imm",
    "<=s": "branch_less_or_equal_signed_imm",
    ">u": "branch_greater_unsigned_imm",
    ">s": "branch_greater_signed_imm",
    ">=u": "branch_greater_or_equal_unsigned_imm",
    ">=s": "branch_greater_or_equal_signed_imm",
}

_MIRROR: Final = str.maketrans("<>", "><")


def _parse_jump(text: str) -> Statement:
    if not text.startswith("@"):
        return _statement("jump_indirect", *_based_memory(text))
    name, space, condition = text[1:].partition(" ")
    label = _label(name)
    if not space:
        return _statement("jump", label=label)
    words = condition.split()
    if not words or words[0] != "if":
        raise StatementError(f"expected 'if' after {_quote('@' + name)}")
    if len(words) != 4 or words[2] not in BRANCH:
        raise StatementError("invalid condition: expected two operands and a comparison, with spaces between")
    _, left, comparison, right = words
    a, b = _REGISTER.get(left), _REGISTER.get(right)
    if a is not None and b is not None:
        operation, swapped = BRANCH[comparison]
        return _statement(operation, *((b, a) if swapped else (a, b)), label=label)
    if a is not None:
        return _statement(BRANCH_IMM[comparison], a, _imm32(right), label=label)
    if b is not None:
        return _statement(BRANCH_IMM[comparison.translate(_MIRROR)], b, _imm32(left), label=label)
    _imm32(left)
    _imm32(right)
    raise StatementError("invalid condition: one of the operands must be a register")


_TMP_JUMP: Final = re.compile(
    r"tmp\s*=\s*(\w+)\s*,\s*(\w+)\s*=\s*(-?\w+)\s*,\s*jump\s*\[\s*tmp\s*(?:\+\s*(-?\w+)\s*)?\]"
)


def _find_tmp_jump(text: str) -> Statement | None:
    match = _TMP_JUMP.fullmatch(text)
    if match is None:
        return None
    base, destination, value, offset = match.groups()
    registers = _register(destination), _register(base)
    return _statement("load_imm_and_jump_indirect", *registers, _imm32(value), 0 if offset is None else _imm32(offset))


# --- Assignments to a register ----------------------------------------------------------------------------------------

_IMM_AND_JUMP: Final = re.compile(r"([^,]+),\s*jump\s*([@\[].*)")
_CMOV: Final = re.compile(r"(-?\w+)\s+if\s+(\w+) +(==|!=) +(-?\w+)")
_UNARY: Final = re.compile(r"(\w+)\s+(\w+)")
_XNOR: Final = re.compile(r"~\(\s*(\w+)\s*\^\s*(\w+)\s*\)")
_CALL: Final = re.compile(r"(\w+)\s*\(\s*(\w+)\s*,\s*(\w+)\s*\)")
_LOAD: Final = re.compile(r"(u8|u16|u32|u64|i8|i16|i32)\s*(\[.*)")
# A longer operator comes before those it starts with: `a0 <<r a1` is a rotation.
_OPERATION: Final = re.compile(
    r"(-?\w+)"
    r"\s*(\+|&\s*~|&|\|\s*~|\||\^|\*|/u|/s|%u|%s|>>a|>>r|<<r|<<|>>|<u|<s|>u|>s|-|\bmulhsu\b|\bmulhu\b|\bmulh\b)\s*"
    r"(-?\w+)"
)

#: Operation by its name in the text; {} is the width.
UNARY_OPERATIONS: Final = {
    "cpop": "count_set_bits_{}",
    "clz": "count_leading_zero_bits_{}",
    "ctz": "count_trailing_zero_bits_{}",
    "sext8": "sign_extend_8",
    "sext16": "sign_extend_16",
    "zext16": "zero_extend_16",
    "reverse": "reverse_byte",
    "sbrk": "sbrk",
}

#: Operation by the name of the function it looks like.
CALL_OPERATIONS: Final = {
    "maxs": "maximum",
    "maxu": "maximum_unsigned",
    "mins": "minimum",
    "minu": "minimum_unsigned",
}


class Operator(NamedTuple):
    """The operations of a binary operator, by the kinds of its operands; None where it takes no immediate.

    {} is the width, 32 with the `i32` prefix and otherwise 64; an operator without it has no `i32` form.
    """

    reg_reg: str
    reg_imm: str | None = None
    imm_reg: str | None = None
    #: reg_reg takes its operands in the opposite order.
    swapped: bool = False
    #: reg_imm takes the negated immediate.
    negated: bool = False


#: Binary operators by their symbols.
OPERATORS: Final = {
    "+": Operator("add_{}", "add_imm_{}", "add_imm_{}"),
    "-": Operator("sub_{}", "add_imm_{}", "negate_and_add_imm_{}", negated=True),
    "*": Operator("mul_{}", "mul_imm_{}", "mul_imm_{}"),
    "&": Operator("and", "and_imm", "and_imm"),
    "|": Operator("or", "or_imm", "or_imm"),
    "^": Operator("xor", "xor_imm", "xor_imm"),
    "&~": Operator("and_inverted"),
    "|~": Operator("or_inverted"),
    "/u": Operator("div_unsigned_{}"),
    "/s": Operator("div_signed_{}"),
    "%u": Operator("rem_unsigned_{}"),
    "%s": Operator("rem_signed_{}"),
    "<<": Operator("shift_logical_left_{}", "shift_logical_left_imm_{}", "shift_logical_left_imm_alt_{}"),
    ">>": Operator("shift_logical_right_{}", "shift_logical_right_imm_{}", "shift_logical_right_imm_alt_{}"),
    ">>a": Operator("shift_arithmetic_right_{}", "shift_arithmetic_right_imm_{}", "shift_arithmetic_right_imm_alt_{}"),
    "<<r": Operator("rotate_left_{}"),
    ">>r": Operator("rotate_right_{}", "rotate_right_imm_{}", "rotate_right_imm_alt_{}"),
    "<u": Operator("set_less_than_unsigned", "set_less_than_unsigned_imm", "set_greater_than_unsigned_imm"),
    "<s": Operator("set_less_than_signed", "set_less_than_signed_imm", "set_greater_than_signed_imm"),
    ">u": Operator(
        "set_less_than_unsigned", "set_greater_than_unsigned_imm", "set_less_than_unsigned_imm", swapped=True
    ),
    ">s": Operator("set_less_than_signed", "set_greater_than_signed_imm", "set_less_than_signed_imm", swapped=True),
    "mulh": Operator("mul_upper_signed_signed"),
    "mulhu": Operator("mul_upper_unsigned_unsigned"),
    "mulhsu": Operator("mul_upper_signed_unsigned"),
}


def _parse_assignment(destination: int, text: str, width: int) -> Statement:
    if (register := _REGISTER.get(text)) is not None:
        return _statement("move_reg", destination, register)
    if immediate := _find_immediate(text):
        return _statement("load_imm64" if immediate.wide else "load_imm", destination, immediate.value)
    if text.startswith("i64 "):
        raise StatementError(f"{_quote(text)} is not a 64-bit number in range")
    if text.startswith("@"):
        return _statement("load_imm", destination, label=_label(text[1:]))
    if match := _OPERATION.fullmatch(text):
        left, operator, right = match.groups()
        return _parse_operation(destination, left, "".join(operator.split()), right, width)
    if match := _LOAD.fullmatch(text):
        base, offset = _memory(match[2])
        if base is None:
            return _statement(f"load_{match[1]}", destination, offset)
        return _statement(f"load_indirect_{match[1]}", destination, base, offset)
    if match := _CMOV.fullmatch(text):
        return _parse_cmov(destination, *match.groups())
    if match := _IMM_AND_JUMP.fullmatch(text):
        return _parse_imm_and_jump(destination, match[1].strip(), match[2])
    if (match := _UNARY.fullmatch(text)) and match[1] in UNARY_OPERATIONS:
        return _statement(UNARY_OPERATIONS[match[1]].format(width), destination, _register(match[2]))
    if match := _XNOR.fullmatch(text):
        return _statement("xnor", destination, _register(match[1]), _register(match[2]))
    if (match := _CALL.fullmatch(text)) and match[1] in CALL_OPERATIONS:
        return _statement(CALL_OPERATIONS[match[1]], destination, _register(match[2]), _register(match[3]))
    if _number(text) is not None:
        raise StatementError(f"{_quote(text)} is out of range")
    raise StatementError(f"{_quote(text)} is not a value")


def _parse_operation(destination: int, left: str, symbol: str, right: str, width: int) -> Statement:
    operator = OPERATORS[symbol]
    if width == 32 and "{}" not in operator.reg_reg:
        raise StatementError(f"the operator {symbol} has no i32 form")
    a, b = _REGISTER.get(left), _REGISTER.get(right)
    if a is not None and b is not None:
        sources = (b, a) if operator.swapped else (a, b)
        return _statement(operator.reg_reg.format(width), destination, *sources)
    if a is None and b is None:
        _immediate(left)
        _immediate(right)
        raise StatementError("one of the operands must be a register")
    register, name, value = (a, operator.reg_imm, right) if a is not None else (b, operator.imm_reg, left)
    immediate = _immediate(value)
    if name is None:
        raise StatementError(f"the operator {symbol} takes no immediate")
    assert register is not None
    if a is not None and operator.negated:
        # -(-2^31) does not fit and is itself again, as in any 32-bit arithmetic.
        immediate = -immediate if immediate != -0x8000_0000 else immediate
    return _statement(name.format(width), destination, register, immediate)


def _parse_cmov(destination: int, source: str, condition: str, comparison: str, zero: str) -> Statement:
    if _find_imm32(zero) != 0:
        raise StatementError("a conditional move compares with 0 only")
    name = "cmov_if_zero" if comparison == "==" else "cmov_if_not_zero"
    if (register := _REGISTER.get(source)) is not None:
        return _statement(name, destination, register, _register(condition))
    return _statement(f"{name}_imm", destination, _register(condition), _imm32(source))


def _parse_imm_and_jump(destination: int, value: str, target: str) -> Statement:
    immediate = _immediate(value)
    if target.startswith("@"):
        return _statement("load_imm_and_jump", destination, immediate, label=_label(target[1:]))
    base, offset = _based_memory(target)
    if base == destination:
        name = REGISTERS[base]
        raise StatementError(
            f"{name} is overwritten before it is the base of the jump; "
            f"write 'tmp = {name}, {name} = {value}, jump [tmp + {offset}]'"
        )
    return _statement("load_imm_and_jump_indirect", destination, base, immediate, offset)


# --- Stores -----------------------------------------------------------------------------------------------------------

_STORE: Final = re.compile(r"(u8|u16|u32|u64)\s*(\[.*)")
#: Largest immediate that a store takes; larger ones, and negative ones, are not what is stored.
STORE_IMM_LIMIT: Final = {"u8": 0xFF, "u16": 0xFFFF}

_MEMSET_LEFT: Final = re.compile(r"\[\s*a0\s*\.\.\s*a0\s*\+\s*a2\s*\]")
_MEMSET_RIGHT: Final = re.compile(r"u8\s+a1")


def _parse_store(kind: str, memory: str, value: str) -> Statement:
    base, offset = _memory(memory)
    register = _REGISTER.get(value)
    if register is not None:
        if base is None:
            return _statement(f"store_{kind}", register, offset)
        return _statement(f"store_indirect_{kind}", register, base, offset)
    immediate = _immediate(value)
    limit = STORE_IMM_LIMIT.get(kind)
    if limit is not None and not 0 <= immediate <= limit:
        raise StatementError(f"{_quote(value)} is not a {kind}: it must be from 0 to {limit}")
    if base is None:
        return _statement(f"store_imm_{kind}", offset, immediate)
    return _statement(f"store_imm_indirect_{kind}", base, offset, immediate)


# --- Any statement ----------------------------------------------------------------------------------------------------

_FIXED: Final = {
    "trap": _statement("trap"),
    "fallthrough": _statement("fallthrough"),
    "unlikely": _statement("unlikely"),
    "ret": _statement("jump_indirect", _RA, 0),
    "nop": _statement("move_reg", _RA, _RA),
}


def parse_statement(text: str) -> Statement | Raw:
    """The statement `text`, which has no white space around it; raises `StatementError`."""
    if text.startswith("."):
        return _parse_raw(text)
    plain, modifier, width = text.rpartition("%width ")
    if not modifier:
        return _parse_statement(text)
    statement = _parse_statement(plain.rstrip())
    if statement.label is None or statement.opcode.format not in TARGET_FORMATS:
        raise StatementError("%width is for jumps to a label")
    if width.strip() not in ("1", "2", "3", "4"):
        raise StatementError("%width must be from 1 to 4 bytes")
    return statement._replace(width=int(width))


def _parse_raw(text: str) -> Raw:
    name, *digits = text.split(None, 1)
    if name not in (".bytes", ".gap"):
        raise StatementError("not a statement")
    try:
        code = bytes.fromhex("".join(digits))
    except ValueError:
        code = b""
    if not code:
        raise StatementError(f"{name} takes one or more pairs of hexadecimal digits")
    return Raw(code, starts=name == ".bytes")


def _parse_statement(text: str) -> Statement:
    if fixed := _FIXED.get(text):
        return fixed
    if text.startswith("ecalli "):
        number = text.removeprefix("ecalli ").strip()
        if not number.isdecimal() or not number.isascii() or (value := _find_imm32(number)) is None:
            raise StatementError(f"{_quote(number)} is not the decimal number of a host call")
        return _statement("ecalli", value)
    if text.startswith("jump "):
        return _parse_jump(text.removeprefix("jump ").strip())
    if jump := _find_tmp_jump(text):
        return jump
    left, equals, right = (part.strip() for part in text.partition("="))
    if equals:
        name = left.removeprefix("i32 ").strip()
        if (destination := _REGISTER.get(name)) is not None:
            return _parse_assignment(destination, right, 64 if name == left else 32)
        if match := _STORE.fullmatch(left):
            return _parse_store(match[1], match[2], right)
        if _MEMSET_LEFT.fullmatch(left) and _MEMSET_RIGHT.fullmatch(right):
            return _statement("memset")
        raise StatementError(f"{_quote(left)} is neither a register nor memory")
    raise StatementError("not a statement")
