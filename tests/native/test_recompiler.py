# SPDX-License-Identifier: MIT
"""The recompiler against the reference interpreter: same exits, same registers, same memory."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from driver import BMI2, Driver
from programs import (
    REGIONS,
    code_addresses,
    make_memory,
    opcodes_of,
    random_registers,
    single_steps,
    soup,
    structured,
)
from reference import Exit, ExitKind, Interpreter, Program

from vm.isa import InstructionSet

ISAS = pytest.mark.parametrize("isa", InstructionSet, ids=lambda isa: isa.label)
STEPS = 400  # a program that runs longer is not compared further
TURNS = 12  # host calls answered per program


def prepare(driver: Driver) -> None:
    for region in REGIONS:
        driver.map(region.address, region.size)
        driver.write(region.address, region.data)
        if not region.writable:
            driver.protect(region.address, region.size)


def clean_up(driver: Driver) -> None:
    for region in REGIONS:
        driver.unmap(region.address, region.size)


def compare_memory(driver: Driver, interpreter: Interpreter) -> None:
    for region in REGIONS:
        if region.writable:
            theirs = driver.read(region.address, region.size)
            assert theirs == interpreter.memory.load(region.address, region.size), f"memory at {region.address:#x}"


def run_both(driver: Driver, interpreter: Interpreter, pc: int | None) -> Exit | None:
    """Run until the next exit and compare; None if it is too far away."""
    before = list(interpreter.registers)
    expected = interpreter.run(pc, max_steps=STEPS)
    if expected.kind is ExitKind.STEPS:
        return None
    found, registers = driver.run(before, pc)
    program = interpreter.program
    where = f"{program!r} from {pc} with {[hex(r) for r in before]}"
    assert found == expected, where
    assert [hex(r) for r in registers] == [hex(r) for r in interpreter.registers], f"{where}, {expected}"
    return expected


def play(driver: Driver, program: Program, rng: random.Random, *, without: int = 0) -> int:
    """Run a program from a random start, answer its host calls; returns the number of exits compared."""
    assert driver.compile(program, without=without).status == 0
    starts = [i.pc for i in program.walk()]
    assert [pc for pc, _ in driver.instructions()] == starts
    interpreter = Interpreter(program, make_memory(), random_registers(rng, program.isa))
    prepare(driver)
    compared = 0
    pc: int | None = rng.choice(starts) if rng.random() < 0.3 else 0
    code_addresses(program, rng, interpreter.registers)
    for _ in range(TURNS):
        end = run_both(driver, interpreter, pc)
        if end is None:
            break
        compared += 1
        pc = None
        if end.kind in (ExitKind.TRAP, ExitKind.HALT):  # go on somewhere else
            pc = rng.choice(starts)
        for n in rng.sample(range(13), 4):
            interpreter.registers[n] = random_registers(rng, program.isa)[n]
        code_addresses(program, rng, interpreter.registers)
    if end is not None:
        compare_memory(driver, interpreter)
    clean_up(driver)
    return compared


@ISAS
@pytest.mark.parametrize("without", [0, BMI2], ids=["bmi2", "no-bmi2"])
def test_every_operation_alone(driver: Driver, isa: InstructionSet, without: int) -> None:
    rng = random.Random(f"single {isa.label}")
    opcodes = [opcode for opcode in opcodes_of(isa) if not opcode.ends_block and opcode.name != "memset"]
    program = single_steps(isa, rng, opcodes, copies=12)
    assert driver.compile(program, without=without).status == 0
    interpreter = Interpreter(program, make_memory(), [0] * 13)
    prepare(driver)
    operations = list(program.walk())[0:-1:2]
    assert len(operations) == 12 * len(opcodes)
    ended = dict.fromkeys(ExitKind, 0)
    for operation in operations:
        for _ in range(4):
            interpreter.registers = random_registers(rng, isa)
            end = run_both(driver, interpreter, operation.pc)
            assert end is not None
            ended[end.kind] += 1
    compare_memory(driver, interpreter)
    assert ended[ExitKind.ECALLI] > ended[ExitKind.TRAP] > 0


@ISAS
@pytest.mark.parametrize(("generate", "rounds"), [(structured, 250), (soup, 250)], ids=["structured", "soup"])
def test_random_programs(
    driver: Driver, isa: InstructionSet, generate: Callable[[InstructionSet, random.Random, int], Program], rounds: int
) -> None:
    rng = random.Random(f"{generate.__name__} {isa.label}")
    compared = 0
    for n in range(rounds):
        program = generate(isa, rng, rng.choice((1, 2, 5, 20, 60, 200)))
        compared += play(driver, program, rng, without=BMI2 if n % 4 == 0 else 0)
    assert compared > rounds
