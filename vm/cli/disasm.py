# SPDX-License-Identifier: MIT
"""``pvm disasm``: shows the code of a program, for people or for the assembler."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Annotated

import typer

import aioring
import vm
from vm._loops import run
from vm.cli._errors import CommandError, Status
from vm.cli._guest import read_program
from vm.cli._output import write
from vm.cli._values import usage
from vm.disassembler import assembly_lines, listing_lines
from vm.encoding import instruction_starts

#: Lines that are written at once: a program may have a million.
_BATCH = 1000

Program = Annotated[str, typer.Argument(metavar="PROGRAM", help="A program blob (.polkavm).", show_default=False)]
Listing = Annotated[
    bool, typer.Option("--listing", help="Print offsets, bytes, functions and source lines, too (the default).")
]
Plain = Annotated[bool, typer.Option("--plain", help="Print text that 'pvm asm' makes the same program of.")]
Native = Annotated[
    bool,
    typer.Option(
        "--native", help="Print the x86-64 code of each instruction below it, too; needs the package capstone."
    ),
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
    if disassembler is not None:
        _write_lines(_lines_with_native(disassembler, blob, _compile(blob)))
    else:
        _write_lines(assembly_lines(blob) if plain else listing_lines(blob))
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


def _lines_with_native(disassemble: _NativeDisassembler, blob: vm.ProgramBlob, module: vm.Module) -> Iterator[str]:
    """The listing, with the native code of each instruction below its line; before all the code that leads in and out.

    What follows the last instruction, and the trap where control would run into no instruction, stand with the one
    before.
    """
    code = module.native_code()
    offsets = [(pc, at) for pc in instruction_starts(blob.bitmask) if (at := module.native_offset(pc)) is not None]
    ends = {pc: end for (pc, _), (_, end) in pairwise([*offsets, (len(blob.code), len(code))])}
    native = _native_lines(disassemble, code)
    upcoming = next(native, None)

    def before(end: int) -> Iterator[str]:
        nonlocal upcoming
        while upcoming is not None and upcoming[0] < end:
            yield upcoming[1]
            upcoming = next(native, None)

    yield f"// x86-64: {len(code)} bytes, offsets from the start of the native code"
    yield from before(offsets[0][1] if offsets else len(code))
    for line in listing_lines(blob):
        yield line
        pc = line.partition(":")[0].strip()  # only an instruction's line starts with a number
        if pc.isdecimal():
            yield from before(ends.get(int(pc), 0))


def _native_lines(disassemble: _NativeDisassembler, code: bytes) -> Iterator[tuple[int, str]]:
    """Offset and text of every native instruction."""
    digits = len(f"{len(code):x}")
    for offset, size, mnemonic, operands in disassemble(code, 0):
        text = f"{offset:{digits}x}: {code[offset : offset + size].hex(' '):29} {mnemonic} {operands}"
        yield offset, f"        | {text}".rstrip()


def _compile(blob: vm.ProgramBlob) -> vm.Module:
    """The program, recompiled. Raises `CommandError`."""

    async def main() -> vm.Module:
        async with vm.Engine() as engine:
            return await engine.compile(blob)

    compiling = main()
    try:
        return run(compiling)
    except (vm.CompileError, vm.MemoryMapError) as error:
        raise CommandError(Status.PROGRAM, str(error), kind="compile") from error
    except (vm.SandboxError, aioring.AioringError, OSError) as error:
        raise CommandError(Status.MACHINE, str(error)) from error
    finally:
        compiling.close()  # it was never started if there is no event loop
