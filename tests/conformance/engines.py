# SPDX-License-Identifier: MIT
"""Recompiler against interpreter: random programs of all instruction sets, in both, stop by stop.

    python tests/conformance/engines.py --programs 200000 --seed 1

Compared after every stop: why it stopped, program counters, gas and all registers; at the end of a program also its
memory. Both backends share the decoder of the blob, nothing else. With --generic recompiled code runs in this process.
With --threads every stop is waited for by a thread instead of io_uring. With --crosscheck the engine compares by itself
(vm.Config.crosscheck), memory at every stop too.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "native")]

from programs import code_addresses, random_registers, single_steps, soup, structured  # noqa: E402
from reference import Program  # noqa: E402

import aioring  # noqa: E402
import vm  # noqa: E402
from vm.isa import OPCODE_BY_NUMBER, REGISTERS  # noqa: E402

#: The memory that the immediates of programs.py point at.
RW_SIZE, STACK_SIZE = 8192, 4096
STOPS = 12
GAS = (0, 1, 2, 5, 20, 100, 1000)


@dataclass
class Tally:
    """What was compared."""

    programs: int = 0
    stops: Counter[str] = field(default_factory=Counter)


class DifferenceError(AssertionError):
    """The engines do not agree."""


def random_program(rng: random.Random, isa: vm.InstructionSet) -> Program:
    kind = rng.random()
    if kind < 0.5:
        return structured(isa, rng, rng.randrange(1, 60))
    if kind < 0.75:
        opcodes = list(OPCODE_BY_NUMBER[isa].values())
        return single_steps(isa, rng, rng.sample(opcodes, 20), 1)
    return soup(isa, rng, rng.randrange(1, 200))


def random_config(rng: random.Random) -> vm.ModuleConfig:
    metering = rng.choice(("sync", "sync", "async"))
    per_instruction = rng.random() < 0.15
    model = vm.CostModel.naive()
    if not per_instruction and rng.random() < 0.5:
        latency = rng.choice(list(vm.MemoryLatency))
        names = rng.sample(sorted(OPCODE_NAMES), 10)
        table = {name: rng.choice((1, 2, 3, 100)) for name in names}
        model = rng.choice((vm.CostModel.full(latency), vm.CostModel.table(table)))
    return vm.ModuleConfig(
        gas_metering=metering,
        per_instruction_metering=per_instruction,
        cost_model=model,
        step_tracing=rng.random() < 0.1,
        legacy_sbrk=rng.random() < 0.2,
    )


OPCODE_NAMES = {opcode.name for table in OPCODE_BY_NUMBER.values() for opcode in table.values()}


def blob_of(program: Program, data: bytes) -> vm.ProgramBlob:
    return vm.ProgramBlob.build(
        isa=program.isa,
        code=program.code,
        bitmask=program.bitmask,
        jump_table=[pc & 0xFFFF_FFFF for pc in program.jump_table],
        rw_data=data,
        rw_data_size=RW_SIZE,
        stack_size=STACK_SIZE,
    )


def state(instance: vm.Instance) -> dict[str, object]:
    return {
        "pc": instance.program_counter,
        "next pc": instance.next_program_counter,
        "gas": instance.gas,
        "heap": instance.memory.heap_size,
        **{name: hex(value) for name, value in instance.registers.items()},
    }


class Comparison:
    """One program in both engines, or in one that compares by itself."""

    def __init__(self, rng: random.Random, program: Program, instances: Sequence[vm.Instance], what: str) -> None:
        self.rng = rng
        self.program = program
        self.instances = instances
        self.what = what

    def set(self, registers: Sequence[int] | None = None, pc: int | None = None, gas: int | None = None) -> None:
        for instance in self.instances:
            if registers is not None:
                instance.registers.update(zip(REGISTERS, registers, strict=True))
            if pc is not None:
                instance.next_program_counter = pc
            if gas is not None:
                instance.gas = gas

    async def run(self) -> vm.Interrupt:
        ends = [await instance.run() for instance in self.instances]
        states = [state(instance) for instance in self.instances]
        # signals are the processor's, not the machine's
        kinds = [vm.Trap(end.pc) if isinstance(end, vm.Trap) else end for end in ends]
        if kinds[0] != kinds[-1] or states[0] != states[-1]:
            different = [
                f"{key}: {states[0][key]} / {states[-1][key]}" for key in states[0] if states[0][key] != states[-1][key]
            ]
            raise DifferenceError(f"{self.what}: {kinds[0]} / {kinds[-1]}; {'; '.join(different)}\n{self.program!r}")
        return ends[0]

    def compare_memory(self) -> None:
        layout = self.instances[0].memory.map
        grown = self.instances[0].memory.heap_size
        for address, size in (
            (layout.rw_address, min(RW_SIZE + grown, 1 << 16)),
            (layout.stack_low, layout.stack_accessible),
        ):
            contents = [instance.memory.read(address, size) for instance in self.instances]
            first, second = contents[0], contents[-1]
            if first != second:
                at = next(n for n in range(size) if first[n] != second[n])
                raise DifferenceError(f"{self.what}: memory at {address + at:#x}: {first[at]} / {second[at]}")


async def compare(engines: Sequence[vm.Engine], seed: str, tally: Tally) -> None:
    """Makes one program from `seed` and runs it in one or two engines. Raises `DifferenceError`."""
    rng = random.Random(seed)
    isa = rng.choice(list(vm.InstructionSet))
    program, config = random_program(rng, isa), random_config(rng)
    blob = blob_of(program, rng.randbytes(RW_SIZE))
    modules = [await engine.compile(blob, config) for engine in engines]
    costs = [[module.gas_cost(pc) for pc in range(0, len(program.code) + 1, 7)] for module in modules]
    if costs[0] != costs[-1]:
        raise DifferenceError(f"seed {seed}: gas costs {costs[0]} / {costs[-1]}")
    starts = [pc for pc in range(len(program.code)) if program.has_bit(pc)]
    instances = [await module.instantiate() for module in modules]
    try:
        comparison = Comparison(rng, program, instances, f"seed {seed}, {isa.label}, {config}")
        again = False  # whether there is a place to go on
        for _ in range(STOPS):
            if not again or rng.random() < 0.1:
                registers = random_registers(rng, isa)
                if rng.random() < 0.7:
                    code_addresses(program, rng, registers)
                # a memset takes as many steps as it has bytes, a sbrk as many pages: keep most of them small
                if rng.random() < 0.8:
                    registers[9] = rng.randrange(300)
                pc = 0 if rng.random() < 0.3 or not starts else rng.choice(starts)
                if rng.random() < 0.03:
                    pc = rng.randrange(len(program.code) + 3)
                comparison.set(registers, pc)
            comparison.set(gas=rng.choice(GAS))
            end = await comparison.run()
            tally.stops[type(end).__name__] += 1
            again = instances[0].next_program_counter is not None
        comparison.compare_memory()
    finally:
        for instance in instances:
            await instance.aclose()
    tally.programs += 1


PAIR = (vm.Config(reuse="never"), vm.Config(backend="interpreter"))
GENERIC = (vm.Config(sandbox="generic"), vm.Config(backend="interpreter"))
#: Every stop is waited for, in a thread.
THREADS = (vm.Config(reuse="never", waiting="threads", spin=0), vm.Config(backend="interpreter"))
CROSSCHECK = (vm.Config(reuse="never", crosscheck=True),)


async def compare_many(
    first: int, count: int, seed: str, *, configs: Sequence[vm.Config] = PAIR, progress: bool = False
) -> Tally:
    """Compares `count` programs, numbered from `first`. Raises `DifferenceError` or `vm.CrosscheckError` at the first
    difference."""
    tally = Tally()
    numbers = iter(range(first, first + count))
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(vm.Engine(config)) for config in configs]

        async def worker() -> None:
            for number in numbers:
                await compare(engines, f"{seed}:{number}", tally)
                if progress and tally.programs % 5000 == 0:
                    print(f"{tally.programs} programs, {time.monotonic() - started:.0f} s", file=sys.stderr)  # noqa: T201

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(worker())
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=2000, help="how many (default: 2000)")
    parser.add_argument("--seed", default="1", help="what to make them from (default: 1)")
    parser.add_argument("--first", type=int, default=0, help="number of the first one (default: 0)")
    parser.add_argument("--generic", action="store_true", help="have recompiled code run in this process")
    parser.add_argument("--threads", action="store_true", help="wait without io_uring, for every stop")
    parser.add_argument("--crosscheck", action="store_true", help="have one engine compare instead of two compared")
    options = parser.parse_args()
    configs = CROSSCHECK if options.crosscheck else GENERIC if options.generic else THREADS if options.threads else PAIR
    run = asyncio.run if options.threads else aioring.run
    try:
        tally = run(compare_many(options.first, options.programs, options.seed, configs=configs, progress=True))
    except* (DifferenceError, vm.CrosscheckError) as group:
        sys.exit("\n".join(str(error) for error in group.exceptions))
    stops = ", ".join(f"{count} {name}" for name, count in tally.stops.most_common())
    print(f"{tally.programs} programs, no difference; stops: {stops}")  # noqa: T201


if __name__ == "__main__":
    main()
