# SPDX-License-Identifier: MIT
"""Real programs (../shared/programs): two game engines are recompiled, and a small one is run."""

from __future__ import annotations

from pathlib import Path

import pytest
from driver import ROOT, Driver
from reference import A0, Exit, ExitKind, Program

from vm.isa import REGISTERS, RETURN_TO_HOST
from vm.memory_map import MemoryMap
from vm.program import ProgramBlob

PROGRAMS = ROOT.parent / "shared/programs"


def load(path: Path) -> tuple[ProgramBlob, Program]:
    if not path.exists():
        pytest.skip(f"no {path.name}: the shared programs are not beside this project")
    blob = ProgramBlob.parse(path.read_bytes())
    table = tuple(blob.jump_table_entry(n) for n in range(blob.jump_table_entry_count))
    return blob, Program(blob.isa, blob.code, blob.bitmask, table)


@pytest.mark.parametrize(("name", "instructions"), [("doom", 163243), ("quake", 84355)])
def test_recompile(driver: Driver, name: str, instructions: int) -> None:
    _, program = load(PROGRAMS / f"{name}.polkavm")
    compiled = driver.compile(program)
    assert (compiled.status, compiled.instruction_count) == (0, instructions)
    assert [pc for pc, _ in driver.instructions()] == [i.pc for i in program.walk()]
    assert compiled.code_size < 2 * len(program.code)


def test_hello_world(driver: Driver) -> None:
    """add_numbers(1, 10) adds what the host call returns."""
    blob, program = load(PROGRAMS / "hello-world.polkavm")
    layout = MemoryMap(ro_size=blob.ro_data_size, rw_size=blob.rw_data_size, stack_size=blob.stack_size)
    assert driver.compile(program).status == 0
    assert layout.stack_accessible > 0
    driver.map(layout.stack_low, layout.stack_accessible)
    registers = [0] * len(REGISTERS)
    registers[REGISTERS.index("ra")] = RETURN_TO_HOST
    registers[REGISTERS.index("sp")] = layout.stack_high
    registers[A0], registers[A0 + 1] = 1, 10
    (entry,) = (export.pc for export in blob.exports if export.name == "add_numbers")

    end, registers = driver.run(registers, entry)
    assert (end.kind, blob.import_names[end.number]) == (ExitKind.ECALLI, "get_third_number")
    registers[A0] = 100
    end, registers = driver.run(registers, None)
    assert (end, registers[A0]) == (Exit(ExitKind.HALT), 111)
