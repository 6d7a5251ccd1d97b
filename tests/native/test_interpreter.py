# SPDX-License-Identifier: MIT
"""The interpreter: against the published cases with gas, the reference interpreter, and the native code."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from driver import Driver
from interpreter_driver import UNLIMITED, Guest, build
from programs import (
    REGIONS,
    Assembler,
    code_addresses,
    make_memory,
    opcodes_of,
    random_registers,
    single_steps,
    soup,
    structured,
)
from reference import A0, A1, A2, PAGE_SIZE, REGISTER_COUNT, Exit, ExitKind, Program
from reference_gas import NAIVE, CostModel, MeteredInterpreter, Metering
from test_vectors import cases, load, map_program

from vm.isa import OPCODE_BY_NAME, REGISTERS, RETURN_TO_HOST, InstructionSet

__all__ = ["cases"]  # a fixture

ISAS = pytest.mark.parametrize("isa", InstructionSet, ids=lambda isa: isa.label)
LATEST64 = InstructionSet.LATEST64
RW = 0x20000
TURNS = 12  # exits per program
GAS = (0, 1, 5, 40, 200)

Generator = Callable[[InstructionSet, random.Random, int], Program]
GENERATORS = pytest.mark.parametrize("generate", [structured, soup])


@pytest.fixture
def guest(compiler: str) -> Iterator[Guest]:
    with Guest(build(compiler)) as guest:
        yield guest


def number(name: str, isa: InstructionSet = LATEST64) -> int:
    found = OPCODE_BY_NAME[name].numbers[isa]
    assert found is not None
    return found


TRAP, FALLTHROUGH, MEMSET, UNLIKELY, ECALLI = map(number, ("trap", "fallthrough", "memset", "unlikely", "ecalli"))
SBRK, JUMP, LOAD_U64, STORE_U64 = map(number, ("sbrk", "jump", "load_u64", "store_u64"))


def program(
    code: bytes, starts: list[int] | None = None, isa: InstructionSet = LATEST64, table: tuple[int, ...] = ()
) -> Program:
    bitmask = bytearray((len(code) + 7) // 8)
    for pc in range(len(code)) if starts is None else starts:
        bitmask[pc >> 3] |= 1 << (pc & 7)
    return Program(isa, code, bytes(bitmask), table)


def map_regions(guest: Guest) -> None:
    guest.unmap_all()
    for region in REGIONS:
        guest.map(region.address, region.size, region.writable, region.data)


# --- The published cases ----------------------------------------------------------------------------------------------


def play_case(guest: Guest, case: dict[str, Any]) -> None:
    """As `test_vectors.play`, with gas and the pc that the case tells."""
    blob, case_program = load(case)
    name, expected = case["name"], case["expected"]
    guest.unmap_all()
    assert guest.load(case_program, Metering(case["initial"]["gas"], model=CostModel(25))) == 0
    map_program(Mapper(guest), blob)
    guest.state.registers = list(case["initial"]["registers"])
    guest.enter(case["entry"])
    for step in case["steps"]:
        ((action, value),) = step.items()
        match action:
            case "run":
                if guest.state.next_pc is None:  # it faulted: the page may be there now
                    guest.retry()
                guest.run()
            case "set":
                guest.state.registers[REGISTERS.index(value["register"])] = value["value"]
            case "map":
                guest.map(value["address"], value["length"])
            case "write":
                guest.write(value["address"], bytes.fromhex(value["bytes"]))
            case _:
                raise AssertionError(f"unknown step {action}")
    assert guest.state.pc == expected["pc"], name
    for register, content in expected["registers"].items():
        assert guest.state.registers[REGISTERS.index(register)] == content, (name, register)
    if "gas" in expected:
        assert guest.state.gas == expected["gas"], name


class Mapper:
    """What `map_program` wants, for a guest whose regions are made in one go."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def map(self, address: int, size: int) -> None:
        self._guest.map(address, size)

    def write(self, address: int, data: bytes) -> None:
        self._guest.write(address, data)

    def protect(self, address: int, size: int) -> None:
        self._guest.protect(address)

    def run(self, registers: object, pc: object) -> tuple[Exit, list[int]]:
        raise NotImplementedError


def test_published_cases(guest: Guest, cases: list[dict[str, Any]]) -> None:
    for case in cases:
        play_case(guest, case)
    assert sum("gas" in case["expected"] for case in cases) == 229


# --- Random programs --------------------------------------------------------------------------------------------------


class Pair:
    """The interpreter and the reference, at the same place of the same program."""

    def __init__(
        self, guest: Guest, rng: random.Random, program: Program, metering: Metering | None, step: bool
    ) -> None:
        map_regions(guest)
        assert guest.load(program, metering, step_tracing=step) == 0
        self.guest, self.rng = guest, rng
        self.reference = MeteredInterpreter(program, make_memory(), [0] * 13, metering, step_tracing=step)

    def set_registers(self, registers: list[int]) -> None:
        self.reference.registers = list(registers)
        self.guest.state.registers = list(registers)

    def set_gas(self, gas: int) -> None:
        if self.reference.metering is not None:
            self.reference.metering.gas = self.guest.state.gas = gas

    def place(self, pc: int) -> None:
        """Have the next run go on at `pc`, without the host's entering there."""
        self.reference.next_pc = self.guest.state.next_pc = pc
        self.guest.state.progress = 0

    def run(self, entry: int | None, limit: int) -> Exit | None:
        """Run both, the interpreter with all kinds of budgets; None if the reference gets nowhere."""
        where = f"{self.reference.program!r} from {entry} at {self.guest.state}"
        expected = self.reference.enter(entry) if entry is not None else None
        if expected is None:
            expected = self.reference.run_on(limit)
        if expected.kind is ExitKind.STEPS:
            return None
        if entry is not None:
            self.guest.enter(entry)
        budget = self.rng.choice((UNLIMITED, 0, 1, 2, 7))
        found = self.guest.run(budget)
        while found.kind is ExitKind.STEPS:
            assert self.guest.state.next_pc == self.guest.state.pc, where
            found = self.guest.run(budget)
        assert found == expected, where
        assert self.guest.state.registers == self.reference.registers, where
        assert self.guest.state.next_pc == self._next_pc(expected), where
        if self.reference.metering is not None:
            assert self.guest.state.gas == self.reference.metering.gas, where
        return expected

    def _next_pc(self, end: Exit) -> int | None:
        if end.kind in (ExitKind.TRAP, ExitKind.HALT):
            return None
        if end.kind is ExitKind.NOT_ENOUGH_GAS and end.pc is None:
            return None
        return self.reference.next_pc

    def compare_memory(self) -> None:
        for region in REGIONS:
            expected = self.reference.memory.load(region.address, region.size)
            assert self.guest.read(region.address, region.size) == expected, f"memory at {region.address:#x}"


def play(pair: Pair, limit: int, ended: dict[ExitKind, int]) -> None:
    """Run from a random start; answer host calls, top up gas, try again what trapped, start anew."""
    rng, program = pair.rng, pair.reference.program
    starts = [i.pc for i in program.walk()]
    entry: int | None = rng.choice(starts) if rng.random() < 0.3 else 0
    for _ in range(TURNS):
        registers = [
            r if rng.random() < 0.6 else n
            for r, n in zip(pair.reference.registers, random_registers(rng, program.isa), strict=True)
        ]
        code_addresses(program, rng, registers)
        pair.set_registers(registers)
        end = pair.run(entry, limit)
        if end is None:
            return
        ended[end.kind] += 1
        if end.kind is ExitKind.NOT_ENOUGH_GAS:
            pair.set_gas(rng.choice(GAS) + 1)
        again = end.kind is ExitKind.NOT_ENOUGH_GAS and pair.guest.state.entering
        if again:
            continue  # it did not get in: the same entry once more
        entry = None
        if pair.guest.state.next_pc is None:
            if end.kind is ExitKind.TRAP and end.fault is not None and rng.random() < 0.5:
                pair.guest.retry()
            else:
                entry = rng.choice(starts)
    pair.compare_memory()


@ISAS
@GENERATORS
@pytest.mark.parametrize("step", [False, True], ids=["", "step"])
def test_random_programs(guest: Guest, isa: InstructionSet, generate: Generator, step: bool) -> None:
    """Without gas."""
    rng = random.Random(f"interpreter {isa.label} {generate.__name__} {step}")
    ended = dict.fromkeys(ExitKind, 0)
    for _ in range(40):
        random_program = generate(isa, rng, rng.choice((1, 2, 5, 20, 60, 200)))
        play(Pair(guest, rng, random_program, None, step), 400, ended)
    assert ended[ExitKind.TRAP] > 10
    assert (ended[ExitKind.STEP] > 150) is step


@ISAS
@GENERATORS
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("kind", ["naive", "table", "full", "instruction"])
def test_random_programs_with_gas(
    guest: Guest, isa: InstructionSet, generate: Generator, asynchronous: bool, kind: str
) -> None:
    rng = random.Random(f"gas {isa.label} {generate.__name__} {asynchronous} {kind}")
    table = CostModel(table={opcode.name: rng.choice((0, 1, 3)) for opcode in opcodes_of(isa)})
    ended = dict.fromkeys(ExitKind, 0)
    for _ in range(20):
        random_program = generate(isa, rng, rng.choice((1, 2, 5, 20, 60, 200)))
        model = {"table": table, "full": CostModel(rng.choice((4, 25, 37)))}.get(kind, NAIVE)
        metering = Metering(rng.choice(GAS), asynchronous, kind == "instruction", model)
        play(Pair(guest, rng, random_program, metering, rng.random() < 0.1), 2000, ended)
    assert ended[ExitKind.NOT_ENOUGH_GAS] > 5
    assert ended[ExitKind.TRAP] > 3


@ISAS
def test_every_operation_alone(guest: Guest, isa: InstructionSet) -> None:
    rng = random.Random(f"single {isa.label}")
    opcodes = [opcode for opcode in opcodes_of(isa) if not opcode.ends_block and opcode.name != "memset"]
    alone = single_steps(isa, rng, opcodes, copies=12)
    pair = Pair(guest, rng, alone, None, step=False)
    ended = dict.fromkeys(ExitKind, 0)
    for operation in list(alone.walk())[0:-1:2]:
        for _ in range(4):
            pair.set_registers(random_registers(rng, isa))
            pair.place(operation.pc)
            end = pair.run(None, 10)
            assert end is not None
            ended[end.kind] += 1
    pair.compare_memory()
    assert ended[ExitKind.ECALLI] > ended[ExitKind.TRAP] > 0


@ISAS
def test_every_sequence_of_two(guest: Guest, isa: InstructionSet) -> None:
    """Sequences are done by code of their own, and each of them can be entered in its middle."""
    rng = random.Random(f"two {isa.label}")
    wide = isa is not InstructionSet.LATEST32
    bits = 64 if wide else 32
    plain = [
        *(f"{name}_{bits}" for name in ("add_imm", "add", "shift_logical_right", "shift_logical_left")),
        *(f"shift_logical_{name}_imm_{bits}" for name in ("left", "right")),
        *("load_imm", "load_indirect_u8", "store_indirect_u8"),
        *(("load_indirect_u64", "store_indirect_u64") if wide else ("load_indirect_i32", "store_indirect_u32")),
    ]
    branches = [name for name in OPCODE_BY_NAME if name.startswith("branch")]
    for _ in range(40):
        names = [rng.choice(plain if rng.random() < 0.8 else branches) for _ in range(30)]
        leaders = [n + 1 for n, name in enumerate(names) if name in branches] + [len(names)]
        assembler = Assembler(isa, rng)
        for n, name in enumerate(names):
            operands = {key: rng.randrange(REGISTER_COUNT) for key in "abd"}
            x = rng.choice((0, 1, -1, 4, 8, RW, rng.randrange(-100, 100)))
            target = rng.choice([leader for leader in leaders if leader > n])  # onwards: it must come to an end
            assembler.add(OPCODE_BY_NAME[name], x=x, target=target, **operands)
        assembler.add(OPCODE_BY_NAME["trap"])
        pair = Pair(guest, rng, assembler.finish(), None, step=False)
        for i in pair.reference.program.walk():
            registers = random_registers(rng, isa)
            for n in rng.sample(range(REGISTER_COUNT), 7):
                registers[n] = RW + rng.randrange(PAGE_SIZE)
            pair.set_registers(registers)
            assert pair.run(i.pc, 100) is not None
        pair.compare_memory()


@ISAS
@GENERATORS
def test_against_native_code(guest: Guest, driver: Driver, isa: InstructionSet, generate: Generator) -> None:
    rng = random.Random(f"native {isa.label} {generate.__name__}")
    compared = 0
    for _ in range(40):
        random_program = generate(isa, rng, rng.choice((5, 20, 60, 200)))
        assert driver.compile(random_program).status == 0
        assert guest.load(random_program) == 0
        map_regions(guest)
        for region in REGIONS:
            driver.map(region.address, region.size)
            driver.write(region.address, region.data)
            if not region.writable:
                driver.protect(region.address, region.size)
        starts = [i.pc for i in random_program.walk()]
        pc: int | None = 0
        for _ in range(TURNS):
            registers = random_registers(rng, isa)
            code_addresses(random_program, rng, registers)
            if pc is not None:  # at any start, also where the host cannot enter
                guest.state.next_pc, guest.state.progress = pc, 0
            guest.state.registers = list(registers)
            found = guest.run(100_000)
            if found.kind is ExitKind.STEPS:
                break
            expected, after = driver.run(registers, pc)
            where = f"{random_program!r} from {pc} with {registers}"
            assert found == expected, where
            assert guest.state.registers == after, where
            compared += 1
            pc = rng.choice(starts) if found.kind in (ExitKind.TRAP, ExitKind.HALT) else None
        for region in REGIONS:
            if found.kind is not ExitKind.STEPS:
                assert guest.read(region.address, region.size) == driver.read(region.address, region.size)
            driver.unmap(region.address, region.size)
    assert compared > 80


# --- Gas, by hand -----------------------------------------------------------------------------------------------------


def test_gas_may_reach_zero(guest: Guest) -> None:
    assert guest.load(program(bytes([UNLIKELY, UNLIKELY, TRAP])), Metering(3)) == 0
    guest.enter(0)
    assert guest.run() == Exit(ExitKind.TRAP, 2)
    assert guest.state.gas == 0


def test_sync_leaves_gas_alone_and_goes_on_when_topped_up(guest: Guest) -> None:
    code = program(bytes([FALLTHROUGH, UNLIKELY, UNLIKELY, TRAP]))
    assert guest.load(code, Metering(3)) == 0
    guest.enter(0)
    for _ in range(3):
        assert guest.run() == Exit(ExitKind.NOT_ENOUGH_GAS, 1)
        assert (guest.state.gas, guest.state.next_pc) == (2, 1)
    guest.state.gas = 3
    assert guest.run() == Exit(ExitKind.TRAP, 3)
    assert guest.state.gas == 0


def test_async_overdraws(guest: Guest) -> None:
    assert guest.load(program(bytes([FALLTHROUGH, UNLIKELY, TRAP])), Metering(2, asynchronous=True)) == 0
    guest.enter(0)
    assert guest.run() == Exit(ExitKind.NOT_ENOUGH_GAS)
    assert (guest.state.gas, guest.state.next_pc) == (-1, None)
    assert guest.run() == Exit(ExitKind.TRAP)  # nowhere to go on
    guest.state.gas = -(1 << 63)
    guest.enter(0)
    assert guest.run() == Exit(ExitKind.NOT_ENOUGH_GAS)
    assert guest.state.gas == -(1 << 63)  # and no further


@pytest.mark.parametrize("asynchronous", [False, True])
def test_entry_in_the_middle_pays_for_the_whole_block(guest: Guest, asynchronous: bool) -> None:
    code = program(bytes([TRAP, UNLIKELY, UNLIKELY, UNLIKELY, TRAP]))
    for gas in 3, 4:
        assert guest.load(code, Metering(gas, asynchronous)) == 0
        guest.enter(3)
        end = guest.run()
        if gas == 4:
            assert (end, guest.state.gas) == (Exit(ExitKind.TRAP, 4), 0)
        elif asynchronous:
            assert (end, guest.state.gas) == (Exit(ExitKind.NOT_ENOUGH_GAS), -1)
        else:
            assert (end, guest.state.gas, guest.state.next_pc) == (Exit(ExitKind.NOT_ENOUGH_GAS, 3), 3, 3)
            guest.state.gas = 5
            assert (guest.run(), guest.state.gas) == (Exit(ExitKind.TRAP, 4), 1)


def test_entry_where_there_is_no_block(guest: Guest) -> None:
    code = program(bytes([UNLIKELY] * 40), [0, 30, 31])
    for pc in 30, 31, 1, 25, 40, 41, 0xFFFF_FFFF, 1 << 40:
        assert guest.load(code, Metering(100)) == 0
        guest.enter(pc)
        assert guest.run() == Exit(ExitKind.TRAP, pc)
        assert (guest.state.gas, guest.state.next_pc, guest.state.entering) == (100, None, False)


def test_host_calls_are_not_paid_for_twice(guest: Guest) -> None:
    assert guest.load(program(bytes([ECALLI, SBRK, ECALLI, TRAP])), Metering(4)) == 0
    guest.enter(0)
    ends = [guest.run() for _ in range(4)]
    kinds = (ExitKind.ECALLI, ExitKind.SBRK, ExitKind.ECALLI, ExitKind.TRAP)
    assert [(end.kind, end.pc) for end in ends] == list(zip(kinds, range(4), strict=True))
    assert guest.state.gas == 0


def test_steps_come_before_charges(guest: Guest) -> None:
    assert guest.load(program(bytes([UNLIKELY, TRAP, TRAP])), Metering(1), step_tracing=True) == 0
    guest.enter(0)
    assert (guest.run(), guest.state.gas) == (Exit(ExitKind.STEP, 0), 1)
    assert (guest.run(), guest.state.gas) == (Exit(ExitKind.NOT_ENOUGH_GAS, 0), 1)
    guest.state.gas = 2
    assert (guest.run(), guest.state.gas) == (Exit(ExitKind.STEP, 1), 0)
    assert (guest.run(), guest.state.gas) == (Exit(ExitKind.TRAP, 1), 0)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("gas", "stored"), [(2, 0), (3, 1), (7, 5), (12, 10), (13, 10)])
def test_memset_pays_by_the_byte(guest: Guest, gas: int, stored: int, asynchronous: bool) -> None:
    guest.map(RW, PAGE_SIZE)
    assert guest.load(program(bytes([MEMSET, TRAP])), Metering(gas, asynchronous)) == 0
    registers = guest.state.registers
    registers[A0], registers[A1], registers[A2] = RW, 0x1234, 0xABCD_0000_000A
    guest.enter(0)
    end = guest.run()
    assert (guest.state.registers[A0], guest.state.registers[A2]) == (RW + stored, 10 - stored)
    assert guest.read(RW, 11) == b"\x34" * stored + bytes(11 - stored)
    if stored == 10:
        assert (end, guest.state.gas) == (Exit(ExitKind.TRAP, 1), gas - 12)
    elif asynchronous:
        assert (end, guest.state.gas) == (Exit(ExitKind.NOT_ENOUGH_GAS), 0)
    else:
        assert (end, guest.state.gas) == (Exit(ExitKind.NOT_ENOUGH_GAS, 0), 0)
        guest.state.gas = 10 - stored
        assert (guest.run(), guest.state.gas) == (Exit(ExitKind.TRAP, 1), 0)


def test_nothing_is_charged_without_metering(guest: Guest) -> None:
    assert guest.load(program(bytes([FALLTHROUGH, TRAP]))) == 0
    guest.state.gas = -5
    guest.enter(0)
    assert (guest.run(), guest.state.gas) == (Exit(ExitKind.TRAP, 1), -5)


# --- Memory and budget, by hand ---------------------------------------------------------------------------------------


def test_a_fault_tells_its_first_byte_and_can_be_cured(guest: Guest) -> None:
    """The instruction has had no effect, and is tried again for nothing."""
    guest.map(RW, PAGE_SIZE)
    edge = RW + PAGE_SIZE - 3
    code = bytes([STORE_U64, A1]) + struct.pack("<I", edge) + bytes([TRAP])
    assert guest.load(program(code, [0, 6]), Metering(2)) == 0
    guest.state.registers[A1] = 0x0807_0605_0403_0201
    guest.enter(0)
    assert guest.run() == Exit(ExitKind.TRAP, 0, fault=RW + PAGE_SIZE)
    assert guest.read(edge, 3) == bytes(3)
    guest.map(RW + PAGE_SIZE, PAGE_SIZE)  # a region of its own: the access spans two
    guest.retry()
    assert guest.run() == Exit(ExitKind.TRAP, 6)
    assert guest.read(edge, 3) + guest.read(RW + PAGE_SIZE, 5) == bytes(range(1, 9))
    assert guest.state.gas == 0


def test_nothing_is_written_to_read_only_memory(guest: Guest) -> None:
    guest.map(RW, PAGE_SIZE)
    guest.map(RW + PAGE_SIZE, PAGE_SIZE, writable=False)
    for address, fault in ((RW + PAGE_SIZE, RW + PAGE_SIZE), (RW + PAGE_SIZE - 7, RW + PAGE_SIZE)):
        code = bytes([STORE_U64, A1]) + struct.pack("<I", address) + bytes([TRAP])
        assert guest.load(program(code, [0, 6])) == 0
        guest.state.registers[A1] = 0xFFFF_FFFF_FFFF_FFFF
        guest.enter(0)
        assert guest.run() == Exit(ExitKind.TRAP, 0, fault=fault)
        assert guest.read(RW, PAGE_SIZE) + guest.read(RW + PAGE_SIZE, PAGE_SIZE) == bytes(2 * PAGE_SIZE)


@pytest.mark.parametrize("size", [PAGE_SIZE, PAGE_SIZE + 8, 1 << 24])
def test_access_across_the_end_of_the_address_space_fails(guest: Guest, size: int) -> None:
    """Even if the region says that it goes on there."""
    guest.map(0xFFFF_F000, size)
    guest.map(0, PAGE_SIZE)
    for offset, fault in ((0xF8, False), (0xF9, True), (0xFF, True)):
        assert guest.load(program(bytes([LOAD_U64, A0, offset, TRAP]), [0, 3])) == 0
        guest.enter(0)
        assert guest.run() == Exit(ExitKind.TRAP, 0 if fault else 3)


def test_budget_is_kept_to_within_a_block(guest: Guest) -> None:
    """An endless loop of 10 instructions."""
    code = bytes([UNLIKELY] * 9 + [JUMP, 0xF7])
    assert guest.load(program(code, list(range(10))), Metering(1 << 40)) == 0
    guest.enter(0)
    for budget in 1, 10, 11, 1000, 12345:
        before = guest.state.gas
        assert guest.run(budget) == Exit(ExitKind.STEPS, 0)
        assert budget <= before - guest.state.gas < budget + 10


def test_budget_is_kept_within_a_huge_block(guest: Guest) -> None:
    size = 100_000
    assert guest.load(program(bytes([UNLIKELY] * size))) == 0
    guest.enter(0)
    stops = []
    while (end := guest.run(1)).kind is ExitKind.STEPS:
        stops.append(end.pc)
    assert end == Exit(ExitKind.TRAP, size)
    assert stops == [0x8000, 0x10000, 0x18000]


def test_budget_counts_the_bytes_of_memset(guest: Guest) -> None:
    guest.map(RW, PAGE_SIZE)
    assert guest.load(program(bytes([MEMSET, TRAP])), Metering(1002)) == 0
    guest.state.registers[A0], guest.state.registers[A2] = RW, 1000
    guest.enter(0)
    left = []
    while (end := guest.run(300)).kind is ExitKind.STEPS:
        assert (end.pc, guest.state.next_pc) == (0, 0)
        left.append(guest.state.registers[A2])
    assert (end, left, guest.state.gas) == (Exit(ExitKind.TRAP, 1), [700, 400, 100], 0)


def test_legacy_sbrk(guest: Guest) -> None:
    for isa, legacy, kind in (
        (InstructionSet.REVIVE_V1, True, ExitKind.SBRK),
        (InstructionSet.REVIVE_V1, False, ExitKind.TRAP),
        (InstructionSet.JAM_V1, True, ExitKind.STEPS),  # another operation there
        (LATEST64, False, ExitKind.SBRK),
    ):
        code = program(bytes([SBRK, 0x87, FALLTHROUGH, JUMP, 0]), [0, 2, 3], isa)
        assert guest.load(code, legacy_sbrk=legacy) == 0
        guest.enter(0)
        assert guest.run(10).kind is kind
        assert guest.state.next_pc == {ExitKind.SBRK: 2, ExitKind.STEPS: 3}.get(kind)


def test_halt(guest: Guest) -> None:
    code = bytes([UNLIKELY, number("jump_indirect"), 0])
    assert guest.load(program(code, [0, 1])) == 0
    guest.state.registers[0] = 0xABCD << 32 | RETURN_TO_HOST
    guest.enter(0)
    assert guest.run() == Exit(ExitKind.HALT)
    assert (guest.state.pc, guest.state.next_pc) == (1, None)


@pytest.mark.parametrize("size", range(5))
def test_jump_table_entries_of_every_size(guest: Guest, size: int) -> None:
    code = bytes([TRAP, FALLTHROUGH, number("jump_indirect"), A0])
    assert guest.load(program(code, [0, 1, 2], table=(1, 0, 3)), jump_table_entry_size=size) == 0
    ends = []
    for address in range(9):
        guest.state.registers[A0] = address
        guest.enter(2)
        ends.append(guest.run(10))
    traps = [Exit(ExitKind.TRAP, 2)] * 9
    if size:
        traps[2], traps[4] = Exit(ExitKind.STEPS, 2), Exit(ExitKind.TRAP, 0)
    assert ends[:2] + ends[3:] == traps[:2] + traps[3:]
    assert (ends[2].kind is ExitKind.TRAP) is (size == 0)


# --- Hostile programs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [FALLTHROUGH, UNLIKELY, 0xFF], ids=["blocks", "block", "invalid"])
def test_memory_and_time_are_linear_in_the_code(guest: Guest, opcode: int) -> None:
    """Instructions of a byte each, the worst there is."""
    size = 4 << 20
    start = time.process_time()
    assert guest.load(Program(LATEST64, bytes([opcode]) * size, b"\xff" * (size // 8)), Metering(0)) == 0
    assert time.process_time() - start < 10
    assert guest.size < 25.1 * size
    guest.enter(size - 1)
    assert guest.run().kind is ExitKind.NOT_ENOUGH_GAS


def test_programs_that_cannot_be(guest: Guest) -> None:
    assert guest.load(program(b"")) < 0
    assert guest.load(program(bytes(1)), jump_table_entry_size=5) < 0
