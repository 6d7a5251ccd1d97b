# SPDX-License-Identifier: MIT
"""What operations make of constants (blob specification, section 6). Registers hold signed numbers of W bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from vm.toolchain._ir import IMM_LEFT, IMM_RIGHT, op

Binary: TypeAlias = Callable[[int, int], int]
Unary: TypeAlias = Callable[[int], int]


def signed(value: int, bits: int) -> int:
    sign = 1 << (bits - 1)
    return ((value & ((1 << bits) - 1)) ^ sign) - sign


class Evaluator:
    """The operations of registers of `width` bits: `binary` on two registers, `with_imm` on one and an immediate.

    An operation that is not in there is not evaluated.
    """

    def __init__(self, width: int) -> None:
        self.binary: dict[int, Binary] = {}
        for bits in (32, 64) if width == 64 else (32,):
            self._add_sized(bits)
        self._add_unsized(width)
        #: By the operation on a register and an immediate, what to do with the register's value and the immediate.
        self.with_imm: dict[int, Binary] = {}
        for number, imm in IMM_RIGHT.items():
            if number in self.binary:
                self.with_imm[imm] = self.binary[number]
        for number, imm in IMM_LEFT.items():
            if number in self.binary and imm not in self.with_imm:
                self.with_imm[imm] = _swapped(self.binary[number])
        self.unary: dict[int, Unary] = {
            op("sign_extend_8"): lambda a: signed(a, 8),
            op("sign_extend_16"): lambda a: signed(a, 16),
            op("zero_extend_16"): lambda a: a & 0xFFFF,
        }

    def _add_sized(self, bits: int) -> None:
        mask, amount = (1 << bits) - 1, bits - 1
        operations: dict[str, Binary] = {
            "add": lambda a, b: signed(a + b, bits),
            "sub": lambda a, b: signed(a - b, bits),
            "mul": lambda a, b: signed(a * b, bits),
            "shift_logical_left": lambda a, b: signed(a << (b & amount), bits),
            "shift_logical_right": lambda a, b: signed((a & mask) >> (b & amount), bits),
            "shift_arithmetic_right": lambda a, b: signed(a, bits) >> (b & amount),
            "rotate_right": lambda a, b: _rotate_right(a & mask, b & amount, bits),
            "rotate_left": lambda a, b: _rotate_right(a & mask, -b & amount, bits),
        }
        for name, function in operations.items():
            self.binary[op(f"{name}_{bits}")] = function

    def _add_unsized(self, width: int) -> None:
        mask = (1 << width) - 1
        operations: dict[str, Binary] = {
            "and": lambda a, b: a & b,
            "or": lambda a, b: a | b,
            "xor": lambda a, b: a ^ b,
            "and_inverted": lambda a, b: a & ~b,
            "or_inverted": lambda a, b: a | ~b,
            "xnor": lambda a, b: ~(a ^ b),
            "set_less_than_signed": lambda a, b: int(a < b),
            "set_less_than_unsigned": lambda a, b: int(a & mask < b & mask),
            "minimum": min,
            "maximum": max,
            "minimum_unsigned": lambda a, b: a if a & mask < b & mask else b,
            "maximum_unsigned": lambda a, b: b if a & mask < b & mask else a,
        }
        for name, function in operations.items():
            self.binary[op(name)] = function


def _swapped(function: Binary) -> Binary:
    return lambda a, b: function(b, a)


def _rotate_right(value: int, amount: int, bits: int) -> int:
    return signed(value >> amount | value << (bits - amount), bits)


_CONDITIONS: Final[dict[str, Binary]] = {
    "eq": lambda a, b: a == b,
    "not_eq": lambda a, b: a != b,
    "less": lambda a, b: a < b,
    "less_or_equal": lambda a, b: a <= b,
    "greater_or_equal": lambda a, b: a >= b,
    "greater": lambda a, b: a > b,
}


def branch_conditions(width: int) -> dict[int, Binary]:
    """Whether a branch is taken, by its operation, on two values."""
    mask = (1 << width) - 1
    found: dict[int, Binary] = {}
    for suffix in ("", "_imm"):
        for name, function in _CONDITIONS.items():
            if name in ("eq", "not_eq"):
                found[op(f"branch_{name}{suffix}")] = function
            elif suffix or name in ("less", "greater_or_equal"):
                found[op(f"branch_{name}_signed{suffix}")] = function
                found[op(f"branch_{name}_unsigned{suffix}")] = _unsigned(function, mask)
    return found


def _unsigned(function: Binary, mask: int) -> Binary:
    return lambda a, b: function(a & mask, b & mask)
