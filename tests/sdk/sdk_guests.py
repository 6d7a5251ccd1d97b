# SPDX-License-Identifier: MIT
"""Programs built from C, and how they are run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import vm

PROGRAMS = Path(__file__).parent / "programs"
#: Programs that print the same wherever they run: a main, no input, no arguments.
TORTURE = Path(__file__).parent / "torture"
ISA = {isa.label: isa for isa in vm.InstructionSet}

#: What the fixture `build` is.
Build = Callable[..., vm.ProgramBlob]


class Output:
    """What a program with a main did."""

    def __init__(self, status: int, stdout: bytes, stderr: bytes) -> None:
        self.status = status
        self.stdout = stdout.decode()
        self.stderr = stderr.decode()


async def run_main(
    blob: vm.ProgramBlob, *, expect_trap: bool = False, config: vm.Config | None = None, **granted: Any
) -> Output:
    """Runs a program's main; a status of -1 stands for a trap."""
    out, err = bytearray(), bytearray()
    linker = vm.Linker()
    vm.Stdio(**{"stdout": out, "stderr": err, "args": ["program"], **granted}).link(linker)
    async with vm.Engine(config) as engine:
        module = await engine.compile(blob)
        async with await linker.instantiate(module) as instance:
            try:
                status = await instance.call("main", returns=vm.i32)
            except vm.TrapError:
                assert expect_trap, err.decode()
                status = -1
    return Output(status, bytes(out), bytes(err))
