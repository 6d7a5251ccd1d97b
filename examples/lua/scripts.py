# SPDX-License-Identifier: MIT
"""Lua scripts of strangers, all at once: Lua is started once, and copied for each.

python scripts.py build/warm.polkavm SCRIPT.lua...
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

import aioring
import vm

#: For one script.
LIMITS = vm.Limits(memory=64 << 20, cpu=1.0, wall=10.0)
LONGEST_OUTPUT = 1 << 20


@dataclass(frozen=True)
class Outcome:
    """What a script printed, and what went wrong: what Lua says, or why it was stopped; "" if nothing did."""

    output: str
    error: str


class Text:
    """What a guest writes, as far as anybody wants to read it."""

    def __init__(self) -> None:
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        self._data += data[: LONGEST_OUTPUT - len(self._data)]

    def __str__(self) -> str:
        return self._data.decode(errors="replace")


async def warm(module: vm.Module) -> vm.Snapshot:
    """Lua with its libraries open, before its first script."""
    linker = vm.Linker()
    vm.Stdio().link(linker)
    async with await linker.instantiate(module) as lua:
        if not await lua.call("prepare"):
            raise MemoryError("no memory for Lua")
        return await lua.snapshot()


async def run(snapshot: vm.Snapshot, script: bytes) -> Outcome:
    """Runs a script in a copy; it sees nothing but itself."""
    output, errors = Text(), Text()
    linker = vm.Linker()
    vm.Stdio(stdout=output.add, stderr=errors.add).link(linker)
    try:
        async with await linker.instantiate(snapshot, limits=LIMITS) as lua:
            room = await lua.call("script_room", len(script), returns=vm.u32)
            if not room:
                return Outcome("", "no memory for the script")
            lua.memory.write(room, script)
            await lua.call("run_script", len(script))
    except vm.VMError as error:
        return Outcome(str(output), str(error))
    return Outcome(str(output), str(errors).rstrip("\n"))


async def main(program: Path, scripts: list[Path]) -> int:
    """Runs scripts in files; the number of those that failed."""
    async with vm.Engine() as engine, await warm(await engine.compile(program)) as snapshot:
        outcomes = await asyncio.gather(*(run(snapshot, script.read_bytes()) for script in scripts))
    for script, outcome in zip(scripts, outcomes, strict=True):
        print(f"--- {script}\n{outcome.output}", end="")
        if outcome.error:
            print(outcome.error, file=sys.stderr)
    return sum(bool(outcome.error) for outcome in outcomes)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(min(1, aioring.run(main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]))))
