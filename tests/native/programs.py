# SPDX-License-Identifier: MIT
"""Random guest programs, and the memory and registers to run them with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from reference import PAGE_SIZE, REGISTER_COUNT, Memory, Program

from vm.isa import OPCODE_BY_NAME, OPCODE_BY_NUMBER, RETURN_TO_HOST, Format, InstructionSet, Opcode


@dataclass(frozen=True)
class Region:
    """Mapped guest memory; address and size in bytes, multiples of PAGE_SIZE."""

    address: int
    size: int
    writable: bool
    data: bytes = b""


#: One read-only page, read-write pages below and above 2 GiB, and the last page of all.
REGIONS = (
    Region(0x10000, PAGE_SIZE, writable=False, data=bytes(range(256)) * 16),
    Region(0x20000, 2 * PAGE_SIZE, writable=True, data=bytes(255 - n % 251 for n in range(2 * PAGE_SIZE))),
    Region(0xFFFDF000, PAGE_SIZE, writable=True),
    Region(0xFFFFF000, PAGE_SIZE, writable=True),
)

_EDGES = (
    *(0, 1, 2, 7, 8, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000),
    *(0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x100000000, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000),
    *(0xFFFFFFFF80000000, 0xFFFFFFFF7FFFFFFF, 0x0123456789ABCDEF, 0x5555555555555555, 0xFF00FF00FF00FF00),
    *(-1, -2, -31, -32, -128, -129, -32768, -0x80000000, -0x80000001),
)
_IMMEDIATES = (0, 1, -1, 2, 7, 8, 31, 32, 63, 64, 127, -128, 128, -129, 255, 0xFFFF, 0x7FFFFFFF, -0x80000000)


def random_address(rng: random.Random) -> int:
    """Somewhere in mapped memory, often next to the end of a region."""
    region = rng.choice(REGIONS)
    if rng.random() < 0.3:
        return region.address + rng.choice((0, -1, -3, -7, region.size - 1, region.size - 4, region.size - 8))
    return region.address + rng.randrange(region.size)


def random_value(rng: random.Random) -> int:
    """A register value: an edge, an address or anything; unsigned, 64 bits."""
    kind = rng.random()
    if kind < 0.45:
        value = rng.choice(_EDGES)
    elif kind < 0.8:
        value = random_address(rng) + (rng.choice((0, 0, 1, -1, 0x1234)) << 32)
    elif kind < 0.85:
        value = 1 << rng.randrange(64)
    else:
        value = rng.getrandbits(64)
    return value & 0xFFFF_FFFF_FFFF_FFFF


def random_registers(rng: random.Random, isa: InstructionSet) -> list[int]:
    mask = (1 << isa.word_bits) - 1
    values = [random_value(rng) & mask for _ in range(REGISTER_COUNT)]
    if rng.random() < 0.5:  # equal operands
        values[rng.randrange(REGISTER_COUNT)] = values[rng.randrange(REGISTER_COUNT)]
    return values


def random_immediate(rng: random.Random) -> int:
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(_IMMEDIATES)
    if kind < 0.6:
        value = random_address(rng)
        return value - (1 << 32) if value >> 31 else value
    if kind < 0.8:
        return rng.randrange(-64, 64)
    return rng.randrange(-(1 << 31), 1 << 31)


def make_memory() -> Memory:
    """The regions, as the reference interpreter wants them."""
    memory = Memory()
    for region in REGIONS:
        memory.map(region.address, region.size)
        memory.poke(region.address, region.data)
        if not region.writable:
            memory.protect(region.address, region.size)
    return memory


# --- Encoding ---------------------------------------------------------------------------------------------------------


def _shortest(value: int) -> bytes:
    size = 0
    while value != (int.from_bytes(_low_bytes(value, size), "little", signed=True) if size else 0):
        size += 1
    return _low_bytes(value, size)


def _low_bytes(value: int, size: int) -> bytes:
    return (value & (1 << 8 * size) - 1).to_bytes(size, "little")


@dataclass
class Assembler:
    """Puts instructions one after the other; offsets of jumps are instruction numbers until `finish`.

    `rng` picks among equivalent encodings: longer immediates, and bytes that mean nothing.
    """

    isa: InstructionSet
    rng: random.Random
    code: bytearray = field(default_factory=bytearray)
    starts: list[int] = field(default_factory=list)
    _jumps: list[tuple[int, int, int]] = field(default_factory=list)  # pc, where the offset is, instruction number

    def _immediate(self, value: int) -> bytes:
        shortest = _shortest(value)
        return shortest if self.rng.random() < 0.7 else _low_bytes(value, self.rng.randint(len(shortest), 4))

    def _register(self, number: int) -> int:
        """A nibble; 13, 14 and 15 mean the last register."""
        return self.rng.randint(12, 15) if number == REGISTER_COUNT - 1 else number

    def add(self, opcode: Opcode, a: int = 0, b: int = 0, d: int = 0, x: int = 0, y: int = 0, target: int = 0) -> None:
        number = opcode.numbers[self.isa]
        assert number is not None
        pc = len(self.code)
        self.starts.append(pc)
        a, b, d = self._register(a), self._register(b), self._register(d)
        first = self._immediate(x)
        size = len(first) if len(first) < 4 else self.rng.randint(4, 7)  # 4 to 7 all mean 4
        offset = -1
        match opcode.format:
            case Format.NONE:
                args = b""
            case Format.IMM:
                args = first
            case Format.OFFSET:
                args, offset = bytes(4), 0
            case Format.IMM_IMM:
                args = bytes([size | self.rng.randrange(32) << 3]) + first + self._immediate(y)
            case Format.REG_IMM:
                args = bytes([a | self.rng.randrange(16) << 4]) + first
            case Format.REG_IMM_IMM:
                args = bytes([a | size << 4 | self.rng.randrange(2) << 7]) + first + self._immediate(y)
            case Format.REG_IMM_OFFSET:
                args, offset = bytes([a | size << 4]) + first + bytes(4), 1 + len(first)
            case Format.REG_REG_IMM:
                args = bytes([a | b << 4]) + first
            case Format.REG_REG_OFFSET:
                args, offset = bytes([a | b << 4]) + bytes(4), 1
            case Format.REG_REG_IMM_IMM:
                args = bytes([a | b << 4, size | self.rng.randrange(32) << 3]) + first + self._immediate(y)
            case Format.REG_IMM64:
                args = bytes([a]) + _low_bytes(random_value(self.rng), 8)
            case Format.REG_REG:
                args = bytes([d | a << 4])
            case Format.REG_REG_REG:
                args = bytes([a | b << 4, d | self.rng.randrange(16) << 4])
        complete = opcode.format in (Format.NONE, Format.OFFSET, Format.REG_IMM_OFFSET, Format.REG_REG_OFFSET)
        if self.rng.random() < 0.05 and (complete or opcode.format in (Format.REG_REG, Format.REG_REG_REG)):
            args += self.rng.randbytes(self.rng.randrange(24 - len(args)))
        if offset >= 0:
            self._jumps.append((pc, pc + 1 + offset, target))
        self.code.append(number)
        self.code += args

    def finish(self, jump_table: Sequence[int] = ()) -> Program:
        """`jump_table` holds instruction numbers."""
        bitmask = bytearray((len(self.code) + 7) // 8)
        for pc in self.starts:
            bitmask[pc >> 3] |= 1 << (pc & 7)
        for pc, at, target in self._jumps:
            self.code[at : at + 4] = _low_bytes(self.starts[target] - pc, 4)
        table = tuple(self.starts[n] for n in jump_table)
        return Program(self.isa, bytes(self.code), bytes(bitmask), table)


# --- Generators -------------------------------------------------------------------------------------------------------


def opcodes_of(isa: InstructionSet) -> list[Opcode]:
    return list(OPCODE_BY_NUMBER[isa].values())


def _random_operands(rng: random.Random) -> dict[str, int]:
    a, b, d = (rng.randrange(REGISTER_COUNT) for _ in range(3))
    if rng.random() < 0.4:  # destinations that are also sources
        a, b, d = rng.choice(((a, a, d), (a, b, a), (a, b, b), (a, a, a)))
    return {"a": a, "b": b, "d": d, "x": random_immediate(rng), "y": random_immediate(rng)}


def single_steps(isa: InstructionSet, rng: random.Random, opcodes: Sequence[Opcode], copies: int) -> Program:
    """Each operation `copies` times, an ecalli behind every one, so that each can be judged alone.

    No jumps: instruction 2n is the operation, 2n + 1 the ecalli.
    """
    assembler = Assembler(isa, rng)
    for opcode in opcodes:
        for _ in range(copies):
            assembler.add(opcode, **_random_operands(rng))
            assembler.add(OPCODE_BY_NAME["ecalli"], x=random_immediate(rng))
    return assembler.finish()


def structured(isa: InstructionSet, rng: random.Random, length: int) -> Program:
    """A program of `length` well-formed instructions, with jumps between its blocks and a jump table."""
    opcodes = opcodes_of(isa)
    enders = [opcode for opcode in opcodes if opcode.ends_block and opcode.name != "trap"]
    others = [opcode for opcode in opcodes if not opcode.ends_block]
    chosen = [rng.choice(enders if rng.random() < 0.2 else others) for _ in range(length)]
    leaders = [0, *(n + 1 for n, opcode in enumerate(chosen) if opcode.ends_block)]
    assembler = Assembler(isa, rng)
    for opcode in chosen:
        target = rng.choice(leaders) if rng.random() < 0.9 else rng.randrange(length + 1)
        operands = _random_operands(rng)
        if "indirect" in opcode.name and "jump" in opcode.name and rng.random() < 0.8:
            # a = b = r + 0: a register may well hold a code address (see code_addresses)
            operands["x" if opcode.name == "jump_indirect" else "y"] = 0
        assembler.add(opcode, target=target, **operands)
    assembler.add(OPCODE_BY_NAME["trap"])
    table = [rng.choice(leaders) if rng.random() < 0.8 else rng.randrange(length + 1) for _ in range(rng.randrange(9))]
    return assembler.finish(table)


def soup(isa: InstructionSet, rng: random.Random, size: int) -> Program:
    """`size` random bytes, mostly opcodes of the set, under a random bitmask with gaps short and long."""
    numbers = [number for opcode in opcodes_of(isa) if (number := opcode.numbers[isa]) is not None]
    code = bytearray(rng.randbytes(size))
    bitmask = bytearray((size + 7) // 8)
    pc = rng.choice((0, 0, 0, 0, 0, rng.randrange(40)))
    while pc < size:
        bitmask[pc >> 3] |= 1 << (pc & 7)
        if rng.random() < 0.95:
            code[pc] = rng.choice(numbers)
        if rng.random() < 0.5 and pc + 6 < size:
            code[pc + 1 : pc + 7] = bytes(rng.choice((0, 0, 1, 2, 4, 8, 16, 32, 255, code[pc + n])) for n in range(6))
        pc += rng.choice((1, 2, 2, 3, 3, 3, 4, 5, 6, 7, 9, 24, 25, 26, 27, rng.randrange(1, 60)))
    table = tuple(rng.choice((rng.randrange(size + 2), rng.getrandbits(32))) for _ in range(rng.randrange(5)))
    return Program(isa, bytes(code), bytes(bitmask), table)


def code_addresses(program: Program, rng: random.Random, registers: list[int]) -> None:
    """Put addresses that dynamic jumps may go to into some of the registers."""
    count = len(program.jump_table)
    for n in rng.sample(range(REGISTER_COUNT), 4):
        registers[n] = rng.choice((2, 2 * rng.randrange(count + 2), rng.randrange(2 * count + 6), RETURN_TO_HOST))
