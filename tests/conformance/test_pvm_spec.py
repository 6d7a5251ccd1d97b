# SPDX-License-Identifier: MIT
"""Instructions through the engine: the published cases in every home, and every opcode of latest64 recompiled.

The cases are ../shared/vectors/pvm-spec.json. Opcodes of latest64 are judged by the interpreter in tests/native, which
was written from the specification and shares no code with the recompiler.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from programs import single_steps, structured
from reference import PAGE_SIZE, Exit, ExitKind, Instruction, Interpreter, Memory, Program

import vm
from vm.isa import OPCODE_BY_NUMBER, REGISTERS, RETURN_TO_HOST

pytestmark = pytest.mark.asyncio(loop_factories=["aioring"])

LATEST64 = vm.InstructionSet.LATEST64
M64 = 2**64 - 1

# --- published cases --------------------------------------------------------------------------------------------------

CASES = 257
#: Of these say how much gas is left.
WITH_GAS = 229
#: Memory that appears while the guest waits, at a page fault.
PAGED = {"multistep_paging_at_the_start_of_block", "multistep_paging_in_the_middle_of_block"}


class Player:
    """Takes the steps of a case."""

    def __init__(self, engine: vm.Engine, blob: vm.ProgramBlob, *, paged: bool) -> None:
        self.engine = engine
        self.blob = blob
        self.paged = paged
        self.instance: vm.Instance | None = None
        self.pc: int | None = None
        self.end: vm.Interrupt | None = None

    async def start(self, registers: Sequence[int], pc: int, gas: int) -> None:
        config = vm.ModuleConfig(
            page_size=4096,
            gas_metering="sync",
            cost_model=vm.CostModel.full(vm.MemoryLatency.L2_HIT),
            dynamic_paging=self.paged,
        )
        module = await self.engine.compile(self.blob, config)
        self.instance = await module.instantiate()
        self.instance.gas = gas
        self.instance.registers.update(zip(REGISTERS, registers, strict=True))
        self.pc = pc

    async def take(self, action: str, value: Any) -> None:
        assert self.instance is not None
        match action:
            case "run":
                if self.pc is not None:
                    self.instance.next_program_counter = self.pc
                self.end = await self.instance.run()
                # a trap is tried again; after a host call and a page fault the guest goes on
                self.pc = self.end.pc if isinstance(self.end, vm.Trap) else None
            case "set":
                self.instance.registers[value["register"]] = value["value"]
            case "write":
                self.instance.memory.write(value["address"], bytes.fromhex(value["bytes"]))
            case "map":
                assert isinstance(self.end, vm.PageFault)
                assert self.end.address in range(value["address"], value["address"] + value["length"])
                self.instance.memory.zero(value["address"], value["length"])
            case _:
                raise AssertionError(f"unknown step {action}")

    async def close(self) -> None:
        if self.instance is not None:
            await self.instance.aclose()


def _with_room(case: dict[str, Any]) -> vm.ProgramBlob:
    """The program, with a region for the memory that appears."""
    blob = vm.ProgramBlob.parse(bytes.fromhex(case["blob"]))
    ends = [step["map"]["address"] + step["map"]["length"] for step in case["steps"] if "map" in step]
    if not ends:
        return blob
    layout = vm.MemoryMap(ro_size=blob.ro_data_size, rw_size=blob.rw_data_size)
    return replace(blob, rw_data_size=max(ends) - layout.rw_address)


async def play(engine: vm.Engine, case: dict[str, Any]) -> str:
    """What is wrong with how a case ends; empty if nothing is."""
    player = Player(engine, _with_room(case), paged=case["name"] in PAGED)
    expected = case["expected"]
    await player.start(case["initial"]["registers"], case["entry"], case["initial"]["gas"])
    try:
        for step in case["steps"]:
            ((action, value),) = step.items()
            await player.take(action, value)
        assert player.instance is not None
        found = {name: player.instance.registers[name] for name in expected["registers"]}
        if found != expected["registers"]:
            return f"registers {found} instead of {expected['registers']}"
        if player.instance.gas != expected.get("gas", player.instance.gas):
            return f"gas {player.instance.gas} instead of {expected['gas']}"
        if isinstance(player.end, vm.Finished):  # has no pc; the cases name the jump that ended it
            opcode = OPCODE_BY_NUMBER[player.blob.isa][player.blob.code[expected["pc"]]]
            right = opcode.name in ("jump_indirect", "load_imm_and_jump_indirect")
            return "" if right else f"finished instead of stopping at pc {expected['pc']}"
        if player.instance.program_counter != expected["pc"]:
            return f"{player.end} at {player.instance.program_counter} instead of pc {expected['pc']}"
        return ""
    finally:
        await player.close()


@pytest.fixture(scope="session")
def cases(shared: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((shared / "vectors/pvm-spec.json").read_text())
    assert len(found) == CASES
    assert sum("gas" in case["expected"] for case in found) == WITH_GAS
    return found


HOMES = {
    "linux": vm.Config(),
    "generic": vm.Config(sandbox="generic"),
    "interpreter": vm.Config(backend="interpreter"),
}


@pytest.mark.parametrize("home", HOMES)
async def test_published_cases(home: str, cases: list[dict[str, Any]]) -> None:
    wrong = {}
    async with vm.Engine(HOMES[home]) as engine:
        for case in cases:
            if {"map"} & {action for step in case["steps"] for action in step}:
                assert case["name"] in PAGED
            if complaint := await play(engine, case):
                wrong[case["name"]] = complaint
    assert not wrong


# --- every opcode of latest64 -----------------------------------------------------------------------------------------

STEPS = 400  # a program that runs longer is not compared further
#: Without read-only data the regions lie where the immediates of programs.py point.
RW_SIZE, STACK_SIZE = 8192, 4096
_EDGES = (
    *(0, 1, 2, 7, 8, 31, 32, 33, 63, 64, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFF_FFFF, 0x8000_0000),
    *(
        2**32 - 1,
        2**32,
        2**63 - 1,
        2**63,
        M64,
        M64 - 1,
        M64 - 127,
        M64 - 128,
        0xFFFF_FFFF_7FFF_FFFF,
        0x0123_4567_89AB_CDEF,
    ),
)


class Pair:
    """A program in a sandbox and the same one in the interpreter."""

    def __init__(self, instance: vm.Instance, program: Program, interpreter: Interpreter) -> None:
        self.instance = instance
        self.program = program
        self.interpreter = interpreter
        self.heap_size = 0

    @classmethod
    async def make(cls, engine: vm.Engine, program: Program, data: bytes) -> Pair:
        blob = vm.ProgramBlob.build(
            isa=program.isa,
            code=program.code,
            bitmask=program.bitmask,
            jump_table=program.jump_table,
            rw_data=data,
            stack_size=STACK_SIZE,
        )
        module = await engine.compile(blob)
        layout, memory = module.memory_map, Memory()
        for address, size in cls.regions(layout):
            memory.map(address, size)
        memory.poke(layout.rw_address, data)
        return cls(await module.instantiate(), program, Interpreter(program, memory, [0] * 13))

    @staticmethod
    def regions(layout: vm.MemoryMap) -> Iterable[tuple[int, int]]:
        yield layout.rw_address, layout.rw_accessible
        yield layout.stack_low, layout.stack_accessible

    async def run(self, registers: Sequence[int], pc: int) -> Exit | None:
        """Runs both until the next exit and compares; None if it is too far away."""
        self.interpreter.registers = list(registers)
        expected = self.interpreter.run(pc, max_steps=STEPS)
        while expected.kind is ExitKind.SBRK:  # which the interpreter leaves to us (specification, section 7.6)
            assert expected.pc is not None
            self._sbrk(self.program.decode(expected.pc))
            expected = self.interpreter.run(max_steps=STEPS)
        if expected.kind is ExitKind.STEPS:
            return None
        self.instance.registers.update(zip(REGISTERS, registers, strict=True))
        self.instance.next_program_counter = pc
        found = await self.instance.run()
        where = f"{self.program!r} from {pc} with {[hex(value) for value in registers]}"
        match expected.kind:
            case ExitKind.HALT:
                assert found == vm.Finished(), where
            case ExitKind.ECALLI:
                assert found == vm.HostCall(expected.number), where
                assert self.instance.program_counter == expected.pc, where
            case _:
                assert isinstance(found, vm.Trap), (where, found)
                assert found.pc == expected.pc, where
        theirs = [hex(value) for value in self.instance.registers.values()]
        assert theirs == [hex(value) for value in self.interpreter.registers], where
        return expected

    def _sbrk(self, instruction: Instruction) -> None:
        layout = self.instance.memory.map
        size = self.interpreter.get(instruction.a)
        if self.heap_size + size > layout.max_heap_size:
            self.interpreter.put(instruction.d, 0)
            return
        before, self.heap_size = layout.heap_base + self.heap_size, self.heap_size + size
        top = before + size
        first, last = -(-before // PAGE_SIZE) * PAGE_SIZE, -(-top // PAGE_SIZE) * PAGE_SIZE
        self.interpreter.memory.map(first, min(last - first, 1 << 20))  # no test goes further
        self.interpreter.put(instruction.d, top - (1 << 32) if top >> 31 else top)

    def compare_memory(self) -> None:
        for address, size in self.regions(self.instance.memory.map):
            assert self.instance.memory.read(address, size) == self.interpreter.memory.load(address, size), hex(address)


def random_registers(rng: random.Random, layout: vm.MemoryMap) -> list[int]:
    def one() -> int:
        kind = rng.random()
        if kind < 0.4:
            return rng.choice(_EDGES)
        if kind < 0.85:
            start, size = rng.choice(list(Pair.regions(layout)))
            return start + rng.choice((0, size - 1, size - 4, size - 8, rng.randrange(size), rng.randrange(size)))
        return rng.getrandbits(64)

    return [one() for _ in range(13)]


async def test_every_operation_alone(engine: vm.Engine) -> None:
    rng = random.Random(64)
    operations = [opcode for opcode in OPCODE_BY_NUMBER[LATEST64].values() if not opcode.ends_block]
    # those whose address is an immediate hit memory one time in ten
    direct = [o for o in operations if o.name.startswith(("load_", "store_")) and "indirect" not in o.name]
    program = single_steps(LATEST64, rng, [*operations, *direct * 9], copies=8)
    pair = await Pair.make(engine, program, rng.randbytes(RW_SIZE))
    ends = dict.fromkeys(ExitKind, 0)
    seen = set()
    instructions = list(program.walk())[0:-1:2]
    assert len(instructions) == 8 * (len(operations) + 9 * len(direct))
    async with pair.instance:
        for instruction in instructions:
            assert instruction.opcode is not None
            for _ in range(4):
                registers = random_registers(rng, pair.instance.memory.map)
                if instruction.opcode.name == "memset":
                    registers[9] = rng.choice((0, 1, 100, 5000))
                if instruction.opcode.name == "sbrk":
                    registers[instruction.a] = rng.choice((0, 1, 4096, 12345, 2**32 - 1, 2**32, M64))
                end = await pair.run(registers, instruction.pc)
                assert end is not None
                ends[end.kind] += 1
                if end.kind is ExitKind.ECALLI:
                    seen.add(instruction.opcode.name)
        pair.compare_memory()
    assert seen == {opcode.name for opcode in operations}  # each of them did something, not only trap
    assert ends[ExitKind.TRAP] > 100


async def test_control_flow(engine: vm.Engine) -> None:
    """Random programs, in which every opcode that ends a block is executed."""
    rng = random.Random(46)
    enders = {opcode.name for opcode in OPCODE_BY_NUMBER[LATEST64].values() if opcode.ends_block}
    executed: set[str] = set()
    compared = 0
    for _ in range(120):
        program = structured(LATEST64, rng, 60)
        data = rng.randbytes(RW_SIZE)
        pair = await Pair.make(engine, program, data)
        starts = [instruction.pc for instruction in program.walk() if program.has_bit(instruction.pc)]
        async with pair.instance:
            pc: int | None = 0
            for _ in range(12):
                registers = random_registers(rng, pair.instance.memory.map)
                for n in rng.sample(range(13), 5):  # addresses that dynamic jumps may go to
                    registers[n] = rng.choice((2, 2 * rng.randrange(1, len(program.jump_table) + 2), RETURN_TO_HOST))
                pc = rng.choice(starts)
                end = await pair.run(registers, pc)
                if end is None:
                    break
                compared += 1
                executed |= _executed(program, pc, end)
            else:
                pair.compare_memory()
    assert compared > 600
    assert executed >= enders


def _executed(program: Program, pc: int, end: Exit) -> set[str]:
    """Opcodes that were certainly executed: the first one and the last one."""
    opcodes = [program.decode(at).opcode for at in (pc, end.pc) if at is not None]
    return {opcode.name for opcode in opcodes if opcode is not None}
