# SPDX-License-Identifier: MIT
"""Instructions as bytes: finding, decoding and encoding them (blob specification, sections 4 and 5).

Operands are plain integers in the order of the format: registers are 0..12, immediates are signed 32-bit values,
jump targets are absolute code offsets (u32), and the immediate of `load_imm64` is an unsigned 64-bit pattern.

This module is pure data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

from vm.isa import MAX_SKIP, OPCODE_BY_NAME, OPCODE_BY_NUMBER, REGISTERS, Format, InstructionSet, Opcode

if TYPE_CHECKING:
    from vm.program import ProgramBlob

_U32: Final = 0xFFFF_FFFF
_U64: Final = 0xFFFF_FFFF_FFFF_FFFF

# --- Finding instructions in the bitmask ------------------------------------------------------------------------------

_SET_BITS: Final = tuple(tuple(bit for bit in range(8) if byte >> bit & 1) for byte in range(256))


def instruction_starts(bitmask: bytes) -> Iterator[int]:
    """Every code offset at which an instruction starts, ascending."""
    for index, byte in enumerate(bitmask):
        for bit in _SET_BITS[byte]:
            yield index * 8 + bit


def is_instruction_start(bitmask: bytes, pc: int) -> bool:
    """Whether the bit of code offset `pc` is set; False for any `pc` outside of the code."""
    return 0 <= pc < len(bitmask) * 8 and bool(bitmask[pc >> 3] >> (pc & 7) & 1)


def skip_at(bitmask: bytes, code_len: int, pc: int) -> int:
    """Number of argument bytes of the instruction at `pc`: up to the next start, the end of code or `MAX_SKIP`."""
    first = pc + 1
    window = int.from_bytes(bitmask[first >> 3 : (first + MAX_SKIP >> 3) + 1], "little") >> (first & 7)
    window |= 1 << MAX_SKIP
    return min((window & -window).bit_length() - 1, code_len - first)


def previous_start(bitmask: bytes, pc: int) -> int | None:
    """The nearest instruction start in the `MAX_SKIP` + 1 bytes before `pc`, None where there is none."""
    lowest = max(0, pc - MAX_SKIP - 1)
    window = int.from_bytes(bitmask[lowest >> 3 : (pc + 7) >> 3], "little") & ((1 << (pc - (lowest & -8))) - 1)
    found = (lowest & -8) + window.bit_length() - 1
    return found if window and found >= lowest else None


# --- Decoding ---------------------------------------------------------------------------------------------------------

# Falling out of any other instruction, invalid ones included, into nothing is an implicit trap.
_NO_FALLTHROUGH: Final = frozenset({"trap", "jump", "jump_indirect", "load_imm_and_jump", "load_imm_and_jump_indirect"})


@dataclass(frozen=True, slots=True)
class Instruction:
    """One decoded instruction.

    `opcode` is None for an invalid one, which acts as `trap`: an opcode byte the instruction set does not have,
    or (with `length` 0) a place that execution can reach but where no instruction starts.
    """

    pc: int
    opcode: Opcode | None
    operands: tuple[int, ...]
    #: Bytes of code, the opcode included; 1..25, or 0 where no instruction starts.
    length: int

    @property
    def name(self) -> str:
        """Name of the operation; ``invalid`` if it is none."""
        return "invalid" if self.opcode is None else self.opcode.name

    @property
    def next_pc(self) -> int:
        """Where execution goes on when the instruction falls through."""
        return self.pc + self.length

    @property
    def ends_block(self) -> bool:
        """Whether the instruction ends its basic block; an invalid one does."""
        return self.opcode is None or self.opcode.ends_block

    @property
    def falls_through(self) -> bool:
        """Whether what follows must exist: no unconditional jump and no `trap`; see section 4."""
        return self.name not in _NO_FALLTHROUGH


# Longest argument bytes any format reads: two register nibbles, a length, two immediates of four bytes.
_ARGUMENT_WINDOW: Final = 10

_IMMEDIATE_MASK: Final = (0, 0xFF, 0xFFFF, 0xFF_FFFF, 0xFFFF_FFFF)
_IMMEDIATE_SIGN: Final = (0, 0x80, 0x8000, 0x80_0000, 0x8000_0000)


def _immediate(window: int, size: int) -> int:
    sign = _IMMEDIATE_SIGN[size]
    return ((window & _IMMEDIATE_MASK[size]) ^ sign) - sign


def _clamp(size: int) -> int:
    return 0 if size < 0 else 4 if size > 4 else size


def _register(nibble: int) -> int:
    last = len(REGISTERS) - 1
    return min(nibble & 15, last)


def _immediate_pair(window: int, first_size: int, rest: int) -> tuple[int, int]:
    first_size = min(4, first_size & 7)
    return _immediate(window, first_size), _immediate(window >> 8 * first_size, _clamp(rest - first_size))


def _decode_none(window: int, skip: int, pc: int) -> tuple[int, ...]:
    return ()


def _decode_imm(window: int, skip: int, pc: int) -> tuple[int, ...]:
    return (_immediate(window, _clamp(skip)),)


def _decode_offset(window: int, skip: int, pc: int) -> tuple[int, ...]:
    return (pc + _immediate(window, _clamp(skip)) & _U32,)


def _decode_imm_imm(window: int, skip: int, pc: int) -> tuple[int, ...]:
    return _immediate_pair(window >> 8, window, skip - 1)


def _decode_reg_imm(window: int, skip: int, pc: int) -> tuple[int, ...]:
    return _register(window), _immediate(window >> 8, _clamp(skip - 1))


def _decode_reg_imm_imm(window: int, skip: int, pc: int) -> tuple[int, ...]:
    return _register(window), *_immediate_pair(window >> 8, window >> 4, skip - 1)


def _decode_reg_imm_offset(window: int, skip: int, pc: int) -> tuple[int, ...]:
    x, y = _immediate_pair(window >> 8, window >> 4, skip - 1)
    return _register(window), x, pc + y & _U32


def _decode_reg_reg_imm(window: int, skip: int, pc: int) -> tuple[int, ...]:
    return _register(window), _register(window >> 4), _immediate(window >> 8, _clamp(skip - 1))


def _decode_reg_reg_offset(window: int, skip: int, pc: int) -> tuple[int, ...]:
    return _register(window), _register(window >> 4), pc + _immediate(window >> 8, _clamp(skip - 1)) & _U32


def _decode_reg_reg_imm_imm(window: int, skip: int, pc: int) -> tuple[int, ...]:
    return _register(window), _register(window >> 4), *_immediate_pair(window >> 16, window >> 8, skip - 2)


def _decode_reg_imm64(window: int, skip: int, pc: int) -> tuple[int, ...]:
    return _register(window), window >> 8 & _U64


def _decode_reg_reg(window: int, skip: int, pc: int) -> tuple[int, ...]:
    return _register(window), _register(window >> 4)


def _decode_reg_reg_reg(window: int, skip: int, pc: int) -> tuple[int, ...]:
    return _register(window >> 8), _register(window), _register(window >> 4)


_DECODERS: Final[dict[Format, Callable[[int, int, int], tuple[int, ...]]]] = {
    Format.NONE: _decode_none,
    Format.IMM: _decode_imm,
    Format.OFFSET: _decode_offset,
    Format.IMM_IMM: _decode_imm_imm,
    Format.REG_IMM: _decode_reg_imm,
    Format.REG_IMM_IMM: _decode_reg_imm_imm,
    Format.REG_IMM_OFFSET: _decode_reg_imm_offset,
    Format.REG_REG_IMM: _decode_reg_reg_imm,
    Format.REG_REG_OFFSET: _decode_reg_reg_offset,
    Format.REG_REG_IMM_IMM: _decode_reg_reg_imm_imm,
    Format.REG_IMM64: _decode_reg_imm64,
    Format.REG_REG: _decode_reg_reg,
    Format.REG_REG_REG: _decode_reg_reg_reg,
}


def _decode(table: dict[int, Opcode], code: bytes, pc: int, skip: int) -> Instruction:
    opcode = table.get(code[pc])
    if opcode is None:
        return Instruction(pc, None, (), skip + 1)
    # An argument can reach past `skip` into what follows; past the end of code it reads zeros.
    window = int.from_bytes(code[pc + 1 : pc + 1 + _ARGUMENT_WINDOW], "little")
    return Instruction(pc, opcode, _DECODERS[opcode.format](window, skip, pc), skip + 1)


def decode_instruction(blob: ProgramBlob, pc: int) -> Instruction:
    """The instruction at code offset `pc`; invalid, with length 0, where none starts (the end of code, say)."""
    if not is_instruction_start(blob.bitmask, pc):
        return Instruction(pc, None, (), 0)
    return _decode(OPCODE_BY_NUMBER[blob.isa], blob.code, pc, skip_at(blob.bitmask, len(blob.code), pc))


def instructions(blob: ProgramBlob) -> Iterator[Instruction]:
    """Every instruction of the code, in order.

    The implicit invalid instructions of section 4 are among them, with length 0: at 0 if no instruction starts
    there, and after one that can fall through to where none starts (it is over-long, or the last one).
    """
    table, code = OPCODE_BY_NUMBER[blob.isa], blob.code
    starts = instruction_starts(blob.bitmask)
    pc = next(starts, len(code))
    if pc != 0:
        yield Instruction(0, None, (), 0)
    if pc == len(code):
        return
    for following in chain(starts, (len(code),)):
        instruction = _decode(table, code, pc, min(following - pc - 1, MAX_SKIP))
        yield instruction
        after = instruction.next_pc
        if instruction.falls_through and (after != following or after == len(code)):
            yield Instruction(after, None, (), 0)
        pc = following


# --- Encoding ---------------------------------------------------------------------------------------------------------

#: Formats whose last operand is a jump target, encoded relative to the instruction itself.
TARGET_FORMATS: Final = frozenset({Format.OFFSET, Format.REG_IMM_OFFSET, Format.REG_REG_OFFSET})


def immediate_size(value: int) -> int:
    """The fewest bytes, 0..4, whose sign extension is `value`, a signed 32-bit number."""
    if value == 0:
        return 0
    return ((value if value >= 0 else ~value).bit_length() >> 3) + 1


def encode_immediate(value: int) -> bytes:
    """`value`, a signed 32-bit number, in its canonical form; ValueError if it does not fit."""
    if not -0x8000_0000 <= value <= 0x7FFF_FFFF:
        raise ValueError(f"the immediate {value} does not fit 32 bits")
    return value.to_bytes(immediate_size(value), "little", signed=True)


def _nibble(register: int) -> int:
    if not 0 <= register < len(REGISTERS):
        raise ValueError(f"there is no register {register}")
    return register


def _relative(target: int, pc: int) -> bytes:
    if not 0 <= target <= _U32:
        raise ValueError(f"the jump target {target} does not fit 32 bits")
    distance = target - pc & _U32
    return encode_immediate(distance - ((distance & 0x8000_0000) << 1))


def _encode_none(pc: int) -> bytes:
    return b""


def _encode_imm(pc: int, x: int) -> bytes:
    return encode_immediate(x)


def _encode_offset(pc: int, target: int) -> bytes:
    return _relative(target, pc)


def _encode_imm_imm(pc: int, x: int, y: int) -> bytes:
    first = encode_immediate(x)
    return bytes([len(first)]) + first + encode_immediate(y)


def _encode_reg_imm(pc: int, a: int, x: int) -> bytes:
    return bytes([_nibble(a)]) + encode_immediate(x)


def _encode_reg_imm_imm(pc: int, a: int, x: int, y: int) -> bytes:
    first = encode_immediate(x)
    return bytes([_nibble(a) | len(first) << 4]) + first + encode_immediate(y)


def _encode_reg_imm_offset(pc: int, a: int, x: int, target: int) -> bytes:
    first = encode_immediate(x)
    return bytes([_nibble(a) | len(first) << 4]) + first + _relative(target, pc)


def _encode_reg_reg_imm(pc: int, a: int, b: int, x: int) -> bytes:
    return bytes([_nibble(a) | _nibble(b) << 4]) + encode_immediate(x)


def _encode_reg_reg_offset(pc: int, a: int, b: int, target: int) -> bytes:
    return bytes([_nibble(a) | _nibble(b) << 4]) + _relative(target, pc)


def _encode_reg_reg_imm_imm(pc: int, a: int, b: int, x: int, y: int) -> bytes:
    first = encode_immediate(x)
    return bytes([_nibble(a) | _nibble(b) << 4, len(first)]) + first + encode_immediate(y)


def _encode_reg_imm64(pc: int, a: int, x: int) -> bytes:
    if not 0 <= x <= _U64:
        raise ValueError(f"the immediate {x} does not fit 64 bits")
    return bytes([_nibble(a)]) + x.to_bytes(8, "little")


def _encode_reg_reg(pc: int, d: int, a: int) -> bytes:
    return bytes([_nibble(d) | _nibble(a) << 4])


def _encode_reg_reg_reg(pc: int, d: int, a: int, b: int) -> bytes:
    return bytes([_nibble(a) | _nibble(b) << 4, _nibble(d)])


_ENCODERS: Final[dict[Format, Callable[..., bytes]]] = {
    Format.NONE: _encode_none,
    Format.IMM: _encode_imm,
    Format.OFFSET: _encode_offset,
    Format.IMM_IMM: _encode_imm_imm,
    Format.REG_IMM: _encode_reg_imm,
    Format.REG_IMM_IMM: _encode_reg_imm_imm,
    Format.REG_IMM_OFFSET: _encode_reg_imm_offset,
    Format.REG_REG_IMM: _encode_reg_reg_imm,
    Format.REG_REG_OFFSET: _encode_reg_reg_offset,
    Format.REG_REG_IMM_IMM: _encode_reg_reg_imm_imm,
    Format.REG_IMM64: _encode_reg_imm64,
    Format.REG_REG: _encode_reg_reg,
    Format.REG_REG_REG: _encode_reg_reg_reg,
}

#: Number of operands of each format.
OPERAND_COUNT: Final = {fmt: encoder.__code__.co_argcount - 1 for fmt, encoder in _ENCODERS.items()}


def encode_instruction(isa: InstructionSet, opcode: Opcode | str, operands: tuple[int, ...], pc: int = 0) -> bytes:
    """The instruction in its canonical form, to be put at code offset `pc` (which only jump targets depend on).

    Raises ValueError if the operation is unknown or not in `isa`, or if the operands do not fit its format.
    """
    operation = OPCODE_BY_NAME.get(opcode) if isinstance(opcode, str) else opcode
    if operation is None:
        raise ValueError(f"there is no instruction {opcode!r}")
    number = operation.numbers[isa]
    if number is None:
        raise ValueError(f"the instruction set {isa.label} has no {operation.name}")
    if len(operands) != OPERAND_COUNT[operation.format]:
        raise ValueError(
            f"{operation.name} takes {OPERAND_COUNT[operation.format]} operands, {len(operands)} were given"
        )
    return bytes([number]) + _ENCODERS[operation.format](pc, *operands)
