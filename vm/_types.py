# SPDX-License-Identifier: MIT
"""How Python integers cross into guest registers and back.

`u32`, `i32`, `u64` and `i64` annotate the parameters and results of host functions, and tell `Instance.call`
how to read a result.  Plain ``int`` is the machine word, unsigned: 32 bits for latest32 programs, 64 for others.

A 32-bit value in a 64-bit register is sign-extended whatever its signedness, as the RISC-V calling convention has
it; reading takes the low 32 bits.  A 64-bit value takes two registers of a 32-bit program, the low word first
(specification, section 8).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, get_args, get_origin


@dataclass(frozen=True, slots=True)
class IntType:
    """An integer of `bits` bits; 0 stands for the machine word."""

    name: str
    bits: int
    signed: bool

    def for_word(self, word_bits: int) -> IntType:
        """This type on a machine with registers of `word_bits` bits."""
        return self if self.bits else _WORDS[word_bits]

    def check(self, value: object, what: str) -> int:
        """`value` as an unsigned number of `bits` bits.

        Raises TypeError if it is no integer and OverflowError if neither reading of the bits can hold it; `what`
        names it in the message.
        """
        if not isinstance(value, int):
            raise TypeError(f"{what} must be an int, not {type(value).__name__}")
        low = -(1 << (self.bits - 1))
        high = (1 << (self.bits - 1 if self.signed else self.bits)) - 1
        if not low <= value <= high:
            raise OverflowError(f"{what} is {value}, which does not fit {self.name} ({self.bits} bits)")
        return value & ((1 << self.bits) - 1)


WORD: Final = IntType("int", 0, False)
_WORDS: Final = {bits: IntType("int", bits, False) for bits in (32, 64)}

u32 = Annotated[int, IntType("u32", 32, False)]
i32 = Annotated[int, IntType("i32", 32, True)]
u64 = Annotated[int, IntType("u64", 64, False)]
i64 = Annotated[int, IntType("i64", 64, True)]


def resolve(annotation: Any) -> IntType | None:
    """The integer type that an annotation stands for; None for ``None``.

    Raises TypeError for anything else.
    """
    if annotation is None or annotation is type(None):
        return None
    if annotation is int:
        return WORD
    if get_origin(annotation) is Annotated:
        for extra in get_args(annotation)[1:]:
            if isinstance(extra, IntType):
                return extra
    raise TypeError(f"{annotation!r} is not a guest type: use int, vm.u32, vm.i32, vm.u64, vm.i64 or None")


def registers_of(kind: IntType, word_bits: int) -> int:
    """How many registers a value takes."""
    return 2 if kind.for_word(word_bits).bits > word_bits else 1


def to_registers(kind: IntType, word_bits: int, value: object, what: str) -> tuple[int, ...]:
    """The register values that carry `value`, low word first. Raises as `IntType.check`."""
    kind = kind.for_word(word_bits)
    bits = kind.check(value, what)
    if kind.bits > word_bits:
        return bits & 0xFFFF_FFFF, bits >> 32
    if kind.bits < word_bits and bits >> 31:
        bits |= 0xFFFF_FFFF_0000_0000
    return (bits,)


def from_registers(kind: IntType, word_bits: int, words: tuple[int, ...]) -> int:
    """The value that the registers carry."""
    kind = kind.for_word(word_bits)
    value = words[0] | words[1] << 32 if len(words) == 2 else words[0]
    value &= (1 << kind.bits) - 1
    return value - (1 << kind.bits) if kind.signed and value >> (kind.bits - 1) else value
