# SPDX-License-Identifier: MIT
"""``pvm disasm``: shows the code of a program, for people or for the assembler."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

import aioring
import vm
from vm.cli._errors import CommandError, Status
from vm.cli._guest import read_program
from vm.cli._output import write
from vm.cli._values import usage
from vm.disassembler import assembly_lines, listing_lines

#: Lines that are written at once: a program may have a million.
_BATCH = 1000

Program = Annotated[str, typer.Argument(metavar="PROGRAM", help="A program blob (.polkavm).", show_default=False)]
Listing = Annotated[
    bool, typer.Option("--listing", help="Print offsets, bytes, functions and source lines, too (the default).")
]
Plain = Annotated[bool, typer.Option("--plain", help="Print text that 'pvm asm' makes the same program of.")]
Native = Annotated[
    bool,
    typer.Option("--native", help="Print the recompiled x86-64 code of the program, too; needs the package capstone."),
]


def disasm(
    program: Program, listing: Listing = False, plain: Plain = False, native: Native = False
) -> Callable[[], int]:
    """Show the code of PROGRAM as text assembly."""
    return partial(_disasm, Path(program), listing, plain, native)


def _disasm(program: Path, listing: bool, plain: bool, native: bool) -> int:
    if plain and (listing or native):
        raise usage(f"--plain and {'--listing' if listing else '--native'} cannot go together")
    disassembler = _capstone() if native else None
    blob = read_program(program)
    _write_lines(assembly_lines(blob) if plain else listing_lines(blob))
    if disassembler is not None:
        code = _compile(blob)
        _write_lines(("", f"// x86-64: {len(code)} bytes, offsets from the start of the native code"))
        _write_lines(_native_lines(disassembler, code))
    return Status.DONE


def _write_lines(lines: Iterable[str]) -> None:
    remaining = iter(lines)
    while batch := list(islice(remaining, _BATCH)):
        write("\n".join(batch) + "\n")


# --- Native code ------------------------------------------------------------------------------------------------------

#: Offset, length in bytes, mnemonic and operands of every native instruction.
_NativeDisassembler = Callable[[bytes, int], Iterable[tuple[int, int, str, str]]]


def _capstone() -> _NativeDisassembler:
    try:
        capstone = importlib.import_module("capstone")  # optional, and slow
    except ImportError as error:
        message = "--native needs the package capstone: pip install capstone"
        raise CommandError(Status.MACHINE, message, kind="capstone") from error
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    # Bytes that are no instruction are shown as data; the rest of the code still is.
    engine.skipdata = True
    disassemble: _NativeDisassembler = engine.disasm_lite
    return disassemble


def _native_lines(disassemble: _NativeDisassembler, code: bytes) -> Iterator[str]:
    digits = len(f"{len(code):x}")
    for offset, size, mnemonic, operands in disassemble(code, 0):
        yield f"{offset:{digits}x}: {code[offset : offset + size].hex(' '):44} {mnemonic} {operands}".rstrip()


def _compile(blob: vm.ProgramBlob) -> bytes:
    """The native code of a program. Raises `CommandError`."""

    async def main() -> bytes:
        async with vm.Engine() as engine:
            return (await engine.compile(blob)).native_code()

    compiling = main()
    try:
        return aioring.run(compiling)
    except (vm.CompileError, vm.MemoryMapError) as error:
        raise CommandError(Status.PROGRAM, str(error), kind="compile") from error
    except (vm.SandboxError, aioring.AioringError, OSError) as error:
        raise CommandError(Status.MACHINE, str(error)) from error
    finally:
        compiling.close()  # it was never started if there is no io_uring
