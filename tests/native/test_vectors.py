# SPDX-License-Identifier: MIT
"""The published instruction cases (../shared/vectors), but for what they say about gas.

They judge both the native code and the reference interpreter, by which the other tests judge the native code.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

import pytest
from driver import ROOT, Driver
from reference import Exit, ExitKind, Interpreter, Memory, Program

from vm.isa import REGISTERS
from vm.memory_map import MemoryMap
from vm.program import ProgramBlob

VECTORS = ROOT.parent / "shared/vectors/pvm-spec.json"
STEPS = 100_000

#: An endless loop, which only gas ends.
ENDLESS = {"gas_complex_2"}


class Machine(Protocol):
    def map(self, address: int, size: int) -> None: ...
    def write(self, address: int, data: bytes) -> None: ...
    def protect(self, address: int, size: int) -> None: ...
    def run(self, registers: Sequence[int], pc: int | None) -> tuple[Exit, list[int]]: ...


class ReferenceMachine:
    def __init__(self, program: Program) -> None:
        self._interpreter = Interpreter(program, Memory(), [0] * len(REGISTERS))

    def map(self, address: int, size: int) -> None:
        self._interpreter.memory.map(address, size)

    def write(self, address: int, data: bytes) -> None:
        self._interpreter.memory.poke(address, data)

    def protect(self, address: int, size: int) -> None:
        self._interpreter.memory.protect(address, size)

    def run(self, registers: Sequence[int], pc: int | None) -> tuple[Exit, list[int]]:
        self._interpreter.registers = list(registers)
        return self._interpreter.run(pc, max_steps=STEPS), self._interpreter.registers


@pytest.fixture(scope="module")
def cases() -> list[dict[str, Any]]:
    if not VECTORS.exists():
        pytest.skip(f"no {VECTORS.name}: the shared vectors are not beside this project")
    found: list[dict[str, Any]] = json.loads(VECTORS.read_text())
    assert len(found) == 257
    return found


def load(case: dict[str, Any]) -> tuple[ProgramBlob, Program]:
    blob = ProgramBlob.parse(bytes.fromhex(case["blob"]))
    table = tuple(blob.jump_table_entry(n) for n in range(blob.jump_table_entry_count))
    return blob, Program(blob.isa, blob.code, blob.bitmask, table)


def map_program(machine: Machine, blob: ProgramBlob) -> list[tuple[int, int]]:
    """Map what the program declares; returns the mapped (address, size)."""
    layout = MemoryMap(ro_size=blob.ro_data_size, rw_size=blob.rw_data_size, stack_size=blob.stack_size)
    regions = (
        (layout.ro_address, layout.ro_accessible, blob.ro_data),
        (layout.rw_address, layout.rw_accessible, blob.rw_data),
        (layout.stack_low, layout.stack_accessible, b""),
    )
    for address, size, data in regions:
        if size:
            machine.map(address, size)
            machine.write(address, data)
    if layout.ro_accessible:
        machine.protect(layout.ro_address, layout.ro_accessible)
    return [(address, size) for address, size, _ in regions if size]


def play(machine: Machine, case: dict[str, Any]) -> list[tuple[int, int]]:
    """Take the steps of a case and check its end; returns what is mapped then.

    A case with paging steps runs into memory that is not mapped, has it mapped and tries the same instruction
    again, as a host with dynamic paging does.
    """
    blob, program = load(case)
    name, expected = case["name"], case["expected"]
    mapped = map_program(machine, blob)
    registers: list[int] = case["initial"]["registers"]
    pc: int | None = case["entry"]
    end: Exit | None = None
    for step in case["steps"]:
        ((action, value),) = step.items()
        match action:
            case "run":
                end, registers = machine.run(registers, pc)
                pc = end.pc if end.kind is ExitKind.TRAP else None
            case "set":
                registers[REGISTERS.index(value["register"])] = value["value"]
            case "map":
                machine.map(value["address"], value["length"])
                mapped.append((value["address"], value["length"]))
            case "write":
                machine.write(value["address"], bytes.fromhex(value["bytes"]))
            case _:
                raise AssertionError(f"unknown step {action}")
    assert end is not None
    if end.kind is ExitKind.HALT:  # has no pc; the vectors name the jump that halted
        last = program.decode(expected["pc"]).opcode
        assert last is not None, name
        assert last.name in ("jump_indirect", "load_imm_and_jump_indirect"), name
    elif name in ENDLESS:
        assert end.kind is ExitKind.STEPS, name
    else:
        assert (end.kind in (ExitKind.TRAP, ExitKind.ECALLI), end.pc) == (True, expected["pc"]), (name, end)
    for register, number in expected["registers"].items():
        assert registers[REGISTERS.index(register)] == number, (name, register)
    return mapped


def test_reference(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        play(ReferenceMachine(load(case)[1]), case)


def test_native_code(driver: Driver, cases: list[dict[str, Any]]) -> None:
    for case in cases:
        if case["name"] not in ENDLESS:
            assert driver.compile(load(case)[1]).status == 0
            for address, size in play(driver, case):
                driver.unmap(address, size)
