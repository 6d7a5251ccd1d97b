# SPDX-License-Identifier: MIT
"""``pvm link``: makes a program of an ELF file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from vm.cli._errors import CommandError, Status
from vm.cli._text import shorten
from vm.cli._values import usage
from vm.isa import InstructionSet

_ISA = {isa.label: isa for isa in InstructionSet}

Elf = Annotated[
    str,
    typer.Argument(
        metavar="ELF", help="A RV64E or RV32E file, linked with 'ld.lld --emit-relocs'.", show_default=False
    ),
]
Output = Annotated[
    str, typer.Option("--output", "-o", metavar="PROGRAM", help="The blob (.polkavm) to write.", show_default=False)
]
Isa = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"The instruction set: {', '.join(_ISA)}. By default latest64 for RV64E, latest32 for RV32E.",
        show_default=False,
    ),
]
NoOptimize = Annotated[bool, typer.Option("--no-optimize", help="Leave the code as the compiler made it.")]
Strip = Annotated[bool, typer.Option("--strip", help="Leave out the debug information.")]


def link(
    elf: Elf, output: Output, isa: Isa = None, no_optimize: NoOptimize = False, strip: Strip = False
) -> Callable[[], int]:
    """Make a program of ELF. The output is written only if there is no error in it."""
    return partial(_link, elf, Path(output), isa, not no_optimize, strip)


def _link(name: str, output: Path, isa: str | None, optimize: bool, strip: bool) -> int:
    from vm.toolchain import ElfError, link  # here, because it is slow

    if isa is not None and isa not in _ISA:
        raise usage(f"--isa must be one of {', '.join(_ISA)}, not '{shorten(isa)}'")
    try:
        elf = Path(name).read_bytes()
    except OSError as error:
        raise CommandError(Status.PROGRAM, f"cannot read {name}: {error.strerror}", kind="file") from error
    try:
        program = link(elf, isa=None if isa is None else _ISA[isa], optimize=optimize, strip=strip)
    except ElfError as error:
        details = {
            "what": error.what,
            "section": error.section,
            "symbol": error.symbol,
            "offset": error.offset,
            "source": error.source,
            "hint": error.hint,
        }
        raise CommandError(Status.PROGRAM, f"{name}: {error}", kind="link", details=details) from error
    try:
        output.write_bytes(program.to_bytes())
    except OSError as error:
        raise CommandError(Status.OUTPUT, f"cannot write {output}: {error.strerror}") from error
    return Status.DONE
