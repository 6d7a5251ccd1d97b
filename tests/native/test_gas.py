# SPDX-License-Identifier: MIT
"""What blocks cost: the C models against the slow ones of `reference_gas`, and at the edges of code."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import pytest
from interpreter_driver import Guest, build
from programs import soup, structured
from reference import Program
from reference_gas import INT32_MAX, NAIVE, CostModel, Metering, block_start

from vm.isa import OPCODE_BY_NAME, OPCODES, InstructionSet

ISAS = pytest.mark.parametrize("isa", InstructionSet, ids=lambda isa: isa.label)
LATEST64 = InstructionSet.LATEST64
GENERATORS = pytest.mark.parametrize("generate", [structured, soup])
LATENCIES = (4, 25, 37)


@pytest.fixture
def guest(compiler: str) -> Iterator[Guest]:
    with Guest(build(compiler)) as guest:
        yield guest


def number(name: str, isa: InstructionSet = LATEST64) -> int:
    found = OPCODE_BY_NAME[name].numbers[isa]
    assert found is not None
    return found


def program(code: bytes, starts: list[int] | None = None, isa: InstructionSet = LATEST64) -> Program:
    bitmask = bytearray((len(code) + 7) // 8)
    for pc in range(len(code)) if starts is None else starts:
        bitmask[pc >> 3] |= 1 << (pc & 7)
    return Program(isa, code, bytes(bitmask))


@ISAS
@GENERATORS
def test_random_programs(
    guest: Guest, isa: InstructionSet, generate: Callable[[InstructionSet, random.Random, int], Program]
) -> None:
    """Costs of every block, and of every other place, under all models."""
    rng = random.Random(f"gas {isa.label} {generate.__name__}")
    table = CostModel(table={name: rng.randrange(1000) for name in ("invalid", *(o.name for o in OPCODES))})
    compared = 0
    for _ in range(100):
        random_program = generate(isa, rng, rng.choice((1, 5, 30, 120)))
        for model in (NAIVE, table, *(CostModel(latency) for latency in LATENCIES)):
            assert guest.load(random_program, Metering(0, model=model)) == 0
            size = len(random_program.code)
            for pc in range(size + 2) if size < 60 else rng.sample(range(size), 20):
                assert guest.block_cost(pc) == model.cost(random_program, pc), (random_program, model, pc)
                compared += 1
    assert compared > 5000


@ISAS
def test_long_dependent_blocks(guest: Guest, isa: InstructionSet) -> None:
    """Blocks that fill the reorder buffer, whatever fills it: few registers, few kinds of instruction."""
    rng = random.Random(f"long {isa.label}")
    names = [o.name for o in OPCODES if not o.ends_block and o.numbers[isa] is not None]
    for _ in range(60):
        numbers = [number(name, isa) for name in rng.sample(names, rng.choice((1, 2, 3, 6)))]
        code, starts = bytearray(), []
        for _ in range(rng.choice((10, 100, 250))):
            starts.append(len(code))
            registers = rng.choice((0x00, 0x11, 0x01, 0x10, rng.randrange(256)))
            code += bytes([rng.choice(numbers), registers, rng.choice((0, 1, registers & 15))])
        starts.append(len(code))
        code += bytes([rng.choice((number("trap", isa), number("jump_indirect", isa), 0xFF))])
        dense = program(bytes(code), starts, isa)
        for latency in LATENCIES:
            model = CostModel(latency)
            assert guest.load(dense, Metering(0, model=model)) == 0
            assert guest.block_cost(0) == model.cost(dense, 0), (dense, latency)


@ISAS
@GENERATORS
def test_block_starts(
    guest: Guest, isa: InstructionSet, generate: Callable[[InstructionSet, random.Random, int], Program]
) -> None:
    rng = random.Random(f"starts {isa.label}")
    for _ in range(60):
        random_program = generate(isa, rng, rng.choice((1, 30, 300)))
        assert guest.load(random_program) == 0
        pcs = [*range(len(random_program.code) + 3), 0xFFFF_FFFF]
        assert [guest.block_start(pc) for pc in pcs] == [block_start(random_program, pc) for pc in pcs]


@pytest.mark.parametrize(
    ("gap", "expected"),
    [(24, 0), (25, 0), (26, None)],  # bytes from the instruction at 0 to the next one
)
def test_no_block_behind_a_gap(guest: Guest, gap: int, expected: int | None) -> None:
    code = bytes([number("unlikely")]) * (gap + 2)
    assert guest.load(program(code, [0, gap, gap + 1])) == 0
    assert guest.block_start(gap) == guest.block_start(gap + 1) == expected
    assert guest.block_cost(0) == (2 if expected is None else 4)  # with the implicit instruction that ends it


def test_no_block_before_the_first_instruction(guest: Guest) -> None:
    assert guest.load(program(bytes(10), [3])) == 0
    assert [guest.block_start(pc) for pc in (0, 3, 10)] == [None, None, None]


@pytest.mark.parametrize("model", [NAIVE, CostModel(25)], ids=["naive", "full"])
def test_nothing_there_costs_an_invalid_instruction(guest: Guest, model: CostModel) -> None:
    assert guest.load(program(bytes(3), [0]), Metering(0, model=model)) == 0
    trap = guest.block_cost(0)
    assert [guest.block_cost(pc) for pc in (1, 3, 1000, 0xFFFF_FFFF)] == [trap] * 4


def test_saturation(guest: Guest) -> None:
    table = CostModel(table={"unlikely": 0xFFFF_FFFF, "trap": INT32_MAX})
    code = program(bytes([number("unlikely")] * 8 + [number("trap"), number("fallthrough")]))
    assert guest.load(code, Metering(0, model=table)) == 0
    assert [guest.block_cost(pc) for pc in (0, 8, 9)] == [INT32_MAX, INT32_MAX, 1]


def test_legacy_sbrk_ends_no_block(guest: Guest) -> None:
    sbrk = number("sbrk")
    old = program(bytes([sbrk, 0x78, sbrk, 0x78, number("trap")]), [0, 2, 4], InstructionSet.REVIVE_V1)
    for legacy, naive in ((False, 1), (True, 3)):
        assert guest.load(old, Metering(0), legacy_sbrk=legacy) == 0
        assert guest.block_cost(0) == naive
    new = Program(LATEST64, old.code, old.bitmask)
    model = CostModel(25)
    assert guest.load(old, Metering(0, model=model), legacy_sbrk=True) == 0
    assert guest.block_cost(0) == model.cost(new, 0)


@pytest.mark.parametrize("name", ["div_unsigned_64", "mul_64", "load_indirect_u64", "unlikely", "ecalli", "add_imm_64"])
def test_a_huge_block_is_simulated_in_linear_time(guest: Guest, name: str) -> None:
    """Twenty times the code takes twenty times the time, with room for the noise of the machine."""
    model = CostModel(37)
    costs, seconds = [], []
    for size in (50_000, 1_000_000):
        assert guest.load(program(bytes([number(name)]) * size), Metering(0, model=model)) == 0
        start = time.process_time()
        costs.append(guest.block_cost(0))
        seconds.append(time.process_time() - start)
    assert costs[0] < costs[1] < 25 * costs[0]
    assert seconds[1] < 60 * seconds[0]
