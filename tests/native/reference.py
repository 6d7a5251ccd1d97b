# SPDX-License-Identifier: MIT
"""A plain interpreter of guest programs, to judge the recompiler by.

Written from the PVM specification (sections 4 to 7) and sharing nothing with the C code but the opcode table
`vm.isa`. It is slow and simple: one function per operation, on Python integers. No gas.

Registers are a list of 13 unsigned integers (64 bits, or 32 on latest32), numbered as in section 1.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from vm.isa import CODE_ADDRESS_ALIGNMENT, MAX_SKIP, OPCODE_BY_NUMBER, RETURN_TO_HOST, Format, InstructionSet, Opcode

PAGE_SIZE: Final = 4096
REGISTER_COUNT: Final = 13
A0, A1, A2 = 7, 8, 9
M32: Final = 0xFFFF_FFFF


def signed(value: int, bits: int) -> int:
    """The low `bits` of `value`, read as two's complement."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


# --- Programs ---------------------------------------------------------------------------------------------------------


class Instruction(NamedTuple):
    """A decoded instruction; fields that its format does not have are 0."""

    pc: int
    next: int
    opcode: Opcode | None  # None: invalid
    d: int = 0
    a: int = 0
    b: int = 0
    x: int = 0
    y: int = 0
    target: int = 0


@dataclass(frozen=True)
class Program:
    isa: InstructionSet
    code: bytes
    bitmask: bytes
    jump_table: tuple[int, ...] = ()
    _decoded: dict[int, Instruction] = field(default_factory=dict, repr=False, compare=False)

    def has_bit(self, pc: int) -> bool:
        return pc < len(self.code) and bool(self.bitmask[pc >> 3] >> (pc & 7) & 1)

    def length(self, pc: int) -> int:
        """Bytes of the instruction at `pc`, opcode included."""
        limit = min(pc + 1 + MAX_SKIP, len(self.code))
        end = pc + 1
        while end < limit and not self.has_bit(end):
            end += 1
        return end - pc

    def is_jump_target(self, pc: int) -> bool:
        if not self.has_bit(pc):
            return False
        if pc == 0:
            return True
        for previous in range(pc - 1, max(pc - MAX_SKIP - 2, -1), -1):
            if self.has_bit(previous):
                opcode = OPCODE_BY_NUMBER[self.isa].get(self.code[previous])
                return opcode is not None and opcode.ends_block
        return False

    def decode(self, pc: int) -> Instruction:
        """The instruction at `pc`; an invalid one where none starts."""
        found = self._decoded.get(pc)
        if found is None:
            found = self._decoded[pc] = self._decode(pc)
        return found

    def _decode(self, pc: int) -> Instruction:
        if not self.has_bit(pc):
            return Instruction(pc, pc + 1, None)
        length = self.length(pc)
        skip, after = length - 1, pc + length
        opcode = OPCODE_BY_NUMBER[self.isa].get(self.code[pc])
        if opcode is None:
            return Instruction(pc, after, None)
        args = self.code[pc + 1 : pc + 20] + bytes(20)

        def imm(offset: int, size: int) -> int:
            size = min(max(size, 0), 4)
            return int.from_bytes(args[offset : offset + size], "little", signed=True)

        low, high = min(args[0] & 15, 12), min(args[0] >> 4, 12)
        match opcode.format:
            case Format.NONE:
                return Instruction(pc, after, opcode)
            case Format.IMM:
                return Instruction(pc, after, opcode, x=imm(0, skip))
            case Format.OFFSET:
                return Instruction(pc, after, opcode, target=pc + imm(0, skip) & M32)
            case Format.IMM_IMM:
                size = min(4, args[0] & 7)
                return Instruction(pc, after, opcode, x=imm(1, size), y=imm(1 + size, skip - size - 1))
            case Format.REG_IMM:
                return Instruction(pc, after, opcode, a=low, x=imm(1, skip - 1))
            case Format.REG_IMM_IMM | Format.REG_IMM_OFFSET:
                size = min(4, args[0] >> 4 & 7)
                y = imm(1 + size, skip - size - 1)
                return Instruction(pc, after, opcode, a=low, x=imm(1, size), y=y, target=pc + y & M32)
            case Format.REG_REG_IMM | Format.REG_REG_OFFSET:
                x = imm(1, skip - 1)
                return Instruction(pc, after, opcode, a=low, b=high, x=x, target=pc + x & M32)
            case Format.REG_REG_IMM_IMM:
                size = min(4, args[1] & 7)
                y = imm(2 + size, skip - size - 2)
                return Instruction(pc, after, opcode, a=low, b=high, x=imm(2, size), y=y)
            case Format.REG_IMM64:
                return Instruction(pc, after, opcode, a=low, x=int.from_bytes(args[1:9], "little", signed=True))
            case Format.REG_REG:
                return Instruction(pc, after, opcode, d=low, a=high)
            case Format.REG_REG_REG:
                return Instruction(pc, after, opcode, d=min(args[1] & 15, 12), a=low, b=high)

    def walk(self) -> Iterator[Instruction]:
        """Every instruction in order, implicit invalid ones included (section 4)."""
        no_fall_through = {"trap", "jump", "jump_indirect", "load_imm_and_jump", "load_imm_and_jump_indirect"}
        pc = 0
        while pc < len(self.code):
            instruction = self.decode(pc)
            yield instruction
            falls_through = instruction.opcode is not None and instruction.opcode.name not in no_fall_through
            pc = instruction.next
            if not self.has_bit(pc):
                if falls_through:
                    yield Instruction(pc, pc + 1, None)
                while pc < len(self.code) and not self.has_bit(pc):
                    pc += 1


# --- Memory -----------------------------------------------------------------------------------------------------------


class MemoryAccessError(Exception):
    """An access that is not allowed; `address` is its first byte that is not, None behind the last address."""

    def __init__(self, address: int) -> None:
        super().__init__(f"no access to {address:#x}")
        self.address = address if address <= M32 else None


class Memory:
    """Pages of a 32-bit address space; what is not mapped faults."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self._writable: set[int] = set()

    def map(self, address: int, size: int) -> None:
        """Map zeroed pages, readable and writable; both numbers are multiples of PAGE_SIZE."""
        for page in range(address // PAGE_SIZE, (address + size) // PAGE_SIZE):
            self._pages[page] = bytearray(PAGE_SIZE)
            self._writable.add(page)

    def protect(self, address: int, size: int) -> None:
        """Make mapped pages read-only."""
        self._writable -= set(range(address // PAGE_SIZE, (address + size) // PAGE_SIZE))

    def poke(self, address: int, data: bytes) -> None:
        """Write as the host: protection does not count."""
        for n, byte in enumerate(data):
            self._pages[(address + n) // PAGE_SIZE][(address + n) % PAGE_SIZE] = byte

    def load(self, address: int, size: int) -> bytes:
        page, offset = divmod(address, PAGE_SIZE)
        if page in self._pages and offset + size <= PAGE_SIZE:
            return bytes(self._pages[page][offset : offset + size])
        self._check(address, size, self._pages.keys())
        return bytes(self._pages[n // PAGE_SIZE][n % PAGE_SIZE] for n in range(address, address + size))

    def store(self, address: int, data: bytes) -> None:
        self._check(address, len(data), self._writable)
        self.poke(address, data)

    @staticmethod
    def _check(address: int, size: int, allowed: Container[int]) -> None:
        for page in range(address // PAGE_SIZE, (address + size - 1) // PAGE_SIZE + 1):
            if page not in allowed:
                raise MemoryAccessError(max(address, page * PAGE_SIZE))


# --- Running ----------------------------------------------------------------------------------------------------------


class ExitKind(enum.Enum):
    HALT = "halt"  # jumped to RETURN_TO_HOST
    TRAP = "trap"  # panic, or a memory fault
    ECALLI = "ecalli"
    SBRK = "sbrk"  # the host allocates, writes the destination and resumes
    STEPS = "steps"  # the limit of `run` is reached
    STEP = "step"  # before an instruction; with step tracing
    NOT_ENOUGH_GAS = "not enough gas"


@dataclass(frozen=True)
class Exit:
    """Why a run ended; `pc` is the instruction that ended it, None after a halt."""

    kind: ExitKind
    pc: int | None = None
    number: int = 0  # of the host call
    fault: int | None = None  # address of a memory fault


class _StopError(Exception):
    def __init__(self, kind: ExitKind, number: int = 0, fault: int | None = None) -> None:
        self.kind, self.number, self.fault = kind, number, fault


class Interpreter:
    """Runs a program; `registers` and `memory` are free to change between runs."""

    def __init__(self, program: Program, memory: Memory, registers: Sequence[int]) -> None:
        self.program = program
        self.memory = memory
        self.bits = program.isa.word_bits
        self.mask = (1 << self.bits) - 1
        self.registers = [value & self.mask for value in registers]
        self.next_pc = 0  # where `run` goes on

    def run(self, pc: int | None = None, max_steps: int = 1_000_000) -> Exit:
        """Run from `pc`, or from behind the last host call."""
        at = self.next_pc if pc is None else pc
        for _ in range(max_steps):
            instruction = self.program.decode(at)
            try:
                at = self._step(instruction)
            except _StopError as stop:
                self.next_pc = instruction.next
                halted = stop.kind is ExitKind.HALT
                return Exit(stop.kind, None if halted else instruction.pc, stop.number, stop.fault)
        self.next_pc = at
        return Exit(ExitKind.STEPS, at)

    def _step(self, i: Instruction) -> int:
        """Execute one instruction; returns the next pc."""
        if i.opcode is None:
            raise _StopError(ExitKind.TRAP)
        try:
            after = _OPERATIONS[i.opcode.name](self, i)
        except MemoryAccessError as fault:
            raise _StopError(ExitKind.TRAP, fault=fault.address) from None
        return i.next if after is None else after

    def get(self, register: int) -> int:
        return self.registers[register]

    def get_signed(self, register: int) -> int:
        return signed(self.registers[register], self.bits)

    def put(self, register: int, value: int) -> None:
        self.registers[register] = value & self.mask

    def put32(self, register: int, value: int) -> None:
        """Write the result of a 32-bit operation."""
        self.put(register, signed(value, 32))

    def jump(self, target: int) -> int:
        if not self.program.is_jump_target(target):
            raise _StopError(ExitKind.TRAP)
        return target

    def branch(self, taken: bool, i: Instruction) -> int:
        target, after = self.jump(i.target), self.jump(i.next)
        return target if taken else after

    def jump_dynamic(self, address: int) -> int:
        address &= M32
        if address == RETURN_TO_HOST:
            raise _StopError(ExitKind.HALT)
        index, rest = divmod(address, CODE_ADDRESS_ALIGNMENT)
        if rest or not 1 <= index <= len(self.program.jump_table):
            raise _StopError(ExitKind.TRAP)
        return self.jump(self.program.jump_table[index - 1])


_Operation = Callable[[Interpreter, Instruction], int | None]
_OPERATIONS: dict[str, _Operation] = {}


def _operation(name: str) -> Callable[[_Operation], _Operation]:
    def register(function: _Operation) -> _Operation:
        _OPERATIONS[name] = function
        return function

    return register


# --- Control flow and host calls --------------------------------------------------------------------------------------


@_operation("trap")
def _trap(m: Interpreter, i: Instruction) -> None:
    raise _StopError(ExitKind.TRAP)


@_operation("fallthrough")
@_operation("unlikely")
def _nothing(m: Interpreter, i: Instruction) -> None:
    pass


@_operation("jump")
def _jump(m: Interpreter, i: Instruction) -> int:
    return m.jump(i.target)


@_operation("jump_indirect")
def _jump_indirect(m: Interpreter, i: Instruction) -> int:
    return m.jump_dynamic(m.get(i.a) + i.x)


@_operation("load_imm_and_jump")
def _load_imm_and_jump(m: Interpreter, i: Instruction) -> int:
    m.put(i.a, i.x)
    return m.jump(i.target)


@_operation("load_imm_and_jump_indirect")
def _load_imm_and_jump_indirect(m: Interpreter, i: Instruction) -> int:
    address = m.get(i.b) + i.y
    m.put(i.a, i.x)
    return m.jump_dynamic(address)


@_operation("ecalli")
def _ecalli(m: Interpreter, i: Instruction) -> None:
    raise _StopError(ExitKind.ECALLI, i.x & M32)


@_operation("sbrk")
def _sbrk(m: Interpreter, i: Instruction) -> None:
    raise _StopError(ExitKind.SBRK)


@_operation("memset")
def _memset(m: Interpreter, i: Instruction) -> None:
    byte = bytes([m.get(A1) & 0xFF])
    m.put(A2, m.get(A2) & M32)
    while m.get(A2):
        m.memory.store(m.get(A0) & M32, byte)
        m.put(A0, m.get(A0) + 1)
        m.put(A2, m.get(A2) - 1)


_UNSIGNED_COMPARISONS: Final[dict[str, Callable[[int, int], bool]]] = {
    "eq": lambda a, b: a == b,
    "not_eq": lambda a, b: a != b,
    "less_unsigned": lambda a, b: a < b,
    "less_or_equal_unsigned": lambda a, b: a <= b,
    "greater_or_equal_unsigned": lambda a, b: a >= b,
    "greater_unsigned": lambda a, b: a > b,
}
_SIGNED_COMPARISONS: Final[dict[str, Callable[[int, int], bool]]] = {
    "less_signed": lambda a, b: a < b,
    "less_or_equal_signed": lambda a, b: a <= b,
    "greater_or_equal_signed": lambda a, b: a >= b,
    "greater_signed": lambda a, b: a > b,
}


def _define_branches() -> None:
    def define(name: str, compare: Callable[[int, int], bool], is_signed: bool) -> None:
        @_operation(f"branch_{name}")
        def branch(m: Interpreter, i: Instruction) -> int:
            if is_signed:
                return m.branch(compare(m.get_signed(i.a), m.get_signed(i.b)), i)
            return m.branch(compare(m.get(i.a), m.get(i.b)), i)

        @_operation(f"branch_{name}_imm")
        def branch_imm(m: Interpreter, i: Instruction) -> int:
            if is_signed:
                return m.branch(compare(m.get_signed(i.a), i.x), i)
            return m.branch(compare(m.get(i.a), i.x & m.mask), i)

    for name, compare in _UNSIGNED_COMPARISONS.items():
        define(name, compare, is_signed=False)
    for name, compare in _SIGNED_COMPARISONS.items():
        define(name, compare, is_signed=True)


# --- Memory access ----------------------------------------------------------------------------------------------------


def _define_memory_access() -> None:
    def define_loads(kind: str, size: int, is_signed: bool) -> None:
        def load(m: Interpreter, register: int, address: int) -> None:
            data = m.memory.load(address & M32, size)
            m.put(register, int.from_bytes(data, "little", signed=is_signed))

        _OPERATIONS[f"load_{kind}"] = lambda m, i: load(m, i.a, i.x)
        _OPERATIONS[f"load_indirect_{kind}"] = lambda m, i: load(m, i.a, m.get(i.b) + i.x)

    def define_stores(kind: str, size: int) -> None:
        def store(m: Interpreter, address: int, value: int) -> None:
            m.memory.store(address & M32, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))

        _OPERATIONS[f"store_{kind}"] = lambda m, i: store(m, i.x, m.get(i.a))
        _OPERATIONS[f"store_indirect_{kind}"] = lambda m, i: store(m, m.get(i.b) + i.x, m.get(i.a))
        _OPERATIONS[f"store_imm_{kind}"] = lambda m, i: store(m, i.x, i.y)
        _OPERATIONS[f"store_imm_indirect_{kind}"] = lambda m, i: store(m, m.get(i.a) + i.x, i.y)

    for bits in 8, 16, 32, 64:
        define_loads(f"u{bits}", bits // 8, is_signed=False)
        define_stores(f"u{bits}", bits // 8)
        if bits != 64:
            define_loads(f"i{bits}", bits // 8, is_signed=True)


# --- Arithmetic -------------------------------------------------------------------------------------------------------


def divide(a: int, b: int) -> tuple[int, int]:
    """Quotient toward zero and remainder with the sign of `a`; (-1, a) for b = 0."""
    if b == 0:
        return -1, a
    quotient = abs(a) // abs(b)
    if (a < 0) != (b < 0):
        quotient = -quotient
    return quotient, a - quotient * b


def rotate_right(value: int, count: int, bits: int) -> int:
    value &= (1 << bits) - 1
    count %= bits
    return value >> count | value << (bits - count)


def _unsigned(function: Callable[[int, int], int], bits: int) -> Callable[[int, int], int]:
    mask = (1 << bits) - 1
    return lambda a, b: function(a & mask, b & mask)


def _signed(function: Callable[[int, int], int], bits: int) -> Callable[[int, int], int]:
    return lambda a, b: function(signed(a, bits), signed(b, bits))


def _sized_operations(bits: int) -> dict[str, Callable[[int, int], int]]:
    """Operations that exist in a 32- and a 64-bit form, of two operands."""
    return {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div_unsigned": _unsigned(lambda a, b: divide(a, b)[0], bits),
        "div_signed": _signed(lambda a, b: divide(a, b)[0], bits),
        "rem_unsigned": _unsigned(lambda a, b: divide(a, b)[1], bits),
        "rem_signed": _signed(lambda a, b: divide(a, b)[1], bits),
        "shift_logical_left": lambda a, b: a << b % bits,
        "shift_logical_right": lambda a, b: (a & (1 << bits) - 1) >> b % bits,
        "shift_arithmetic_right": lambda a, b: signed(a, bits) >> b % bits,
        "rotate_left": lambda a, b: rotate_right(a, -b, bits),
        "rotate_right": lambda a, b: rotate_right(a, b, bits),
    }


#: Bitwise operations; those with an immediate form first.
_LOGIC: Final[dict[str, Callable[[int, int], int]]] = {
    "and": lambda a, b: a & b,
    "xor": lambda a, b: a ^ b,
    "or": lambda a, b: a | b,
    "and_inverted": lambda a, b: a & ~b,
    "or_inverted": lambda a, b: a | ~b,
    "xnor": lambda a, b: ~(a ^ b),
}


def _define_arithmetic() -> None:
    def define(name: str, put: Callable[[Interpreter, int, int], None], f: Callable[[int, int], int]) -> None:
        _OPERATIONS[name] = lambda m, i: put(m, i.d, f(m.get(i.a), m.get(i.b)))

    def define_imm(name: str, put: Callable[[Interpreter, int, int], None], f: Callable[[int, int], int]) -> None:
        _OPERATIONS[name] = lambda m, i: put(m, i.a, f(m.get(i.b), i.x))

    for bits, put in (32, Interpreter.put32), (64, Interpreter.put):
        for name, function in _sized_operations(bits).items():
            define(f"{name}_{bits}", put, function)
            if name.startswith(("add", "mul", "shift", "rotate_right")):
                define_imm(f"{name}_imm_{bits}", put, function)
            if name.startswith(("shift", "rotate_right")):
                define_imm(f"{name}_imm_alt_{bits}", put, lambda b, x, f=function: f(x, b))  # type: ignore[misc]
        define_imm(f"negate_and_add_imm_{bits}", put, lambda b, x: x - b)
    for name, function in _LOGIC.items():
        define(name, Interpreter.put, function)
        if name in ("and", "xor", "or"):
            define_imm(f"{name}_imm", Interpreter.put, function)


@_operation("load_imm")
@_operation("load_imm64")
def _load_imm(m: Interpreter, i: Instruction) -> None:
    m.put(i.a, i.x)


@_operation("move_reg")
def _move_reg(m: Interpreter, i: Instruction) -> None:
    m.put(i.d, m.get(i.a))


@_operation("cmov_if_zero")
def _cmov_if_zero(m: Interpreter, i: Instruction) -> None:
    if m.get(i.b) == 0:
        m.put(i.d, m.get(i.a))


@_operation("cmov_if_not_zero")
def _cmov_if_not_zero(m: Interpreter, i: Instruction) -> None:
    if m.get(i.b) != 0:
        m.put(i.d, m.get(i.a))


@_operation("cmov_if_zero_imm")
def _cmov_if_zero_imm(m: Interpreter, i: Instruction) -> None:
    if m.get(i.b) == 0:
        m.put(i.a, i.x)


@_operation("cmov_if_not_zero_imm")
def _cmov_if_not_zero_imm(m: Interpreter, i: Instruction) -> None:
    if m.get(i.b) != 0:
        m.put(i.a, i.x)


def _define_rest() -> None:
    def unary(name: str, function: Callable[[Interpreter, int], int]) -> None:
        _OPERATIONS[name] = lambda m, i: m.put(i.d, function(m, m.get(i.a)))

    def binary(name: str, function: Callable[[Interpreter, Instruction], int]) -> None:
        _OPERATIONS[name] = lambda m, i: m.put(i.d, function(m, i))

    def compare_imm(name: str, function: Callable[[Interpreter, Instruction], bool]) -> None:
        _OPERATIONS[name] = lambda m, i: m.put(i.a, int(function(m, i)))

    for bits in 32, 64:
        mask = (1 << bits) - 1
        unary(f"count_set_bits_{bits}", lambda m, a, k=mask: (a & k).bit_count())  # type: ignore[misc]
        unary(f"count_leading_zero_bits_{bits}", lambda m, a, k=mask, n=bits: n - (a & k).bit_length())  # type: ignore[misc]
        unary(
            f"count_trailing_zero_bits_{bits}",
            lambda m, a, k=mask, n=bits: ((a & k) & -(a & k)).bit_length() - 1 if a & k else n,  # type: ignore[misc]
        )
    unary("sign_extend_8", lambda m, a: signed(a, 8))
    unary("sign_extend_16", lambda m, a: signed(a, 16))
    unary("zero_extend_16", lambda m, a: a & 0xFFFF)
    unary("reverse_byte", lambda m, a: int.from_bytes(a.to_bytes(m.bits // 8, "little"), "big"))

    binary("mul_upper_signed_signed", lambda m, i: m.get_signed(i.a) * m.get_signed(i.b) >> m.bits)
    binary("mul_upper_unsigned_unsigned", lambda m, i: m.get(i.a) * m.get(i.b) >> m.bits)
    binary("mul_upper_signed_unsigned", lambda m, i: m.get_signed(i.a) * m.get(i.b) >> m.bits)
    binary("set_less_than_unsigned", lambda m, i: int(m.get(i.a) < m.get(i.b)))
    binary("set_less_than_signed", lambda m, i: int(m.get_signed(i.a) < m.get_signed(i.b)))
    binary("maximum", lambda m, i: max(m.get_signed(i.a), m.get_signed(i.b)))
    binary("maximum_unsigned", lambda m, i: max(m.get(i.a), m.get(i.b)))
    binary("minimum", lambda m, i: min(m.get_signed(i.a), m.get_signed(i.b)))
    binary("minimum_unsigned", lambda m, i: min(m.get(i.a), m.get(i.b)))
    compare_imm("set_less_than_unsigned_imm", lambda m, i: m.get(i.b) < i.x & m.mask)
    compare_imm("set_less_than_signed_imm", lambda m, i: m.get_signed(i.b) < i.x)
    compare_imm("set_greater_than_unsigned_imm", lambda m, i: m.get(i.b) > i.x & m.mask)
    compare_imm("set_greater_than_signed_imm", lambda m, i: m.get_signed(i.b) > i.x)


_define_branches()
_define_memory_access()
_define_arithmetic()
_define_rest()
