# SPDX-License-Identifier: MIT
"""``pvm asm``: assembles text to a program blob."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from vm._errors import AssemblyError
from vm.assembler import assemble
from vm.cli._errors import CommandError, Status
from vm.cli._text import shorten
from vm.cli._values import usage
from vm.isa import InstructionSet

_ISA = {isa.label: isa for isa in InstructionSet}

Source = Annotated[
    str, typer.Argument(metavar="SOURCE", help="A file of text assembly, or - for standard input.", show_default=False)
]
Output = Annotated[
    str, typer.Option("--output", "-o", metavar="PROGRAM", help="The blob (.polkavm) to write.", show_default=False)
]
Isa = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"The instruction set of a source without an %isa directive: {', '.join(_ISA)}.",
        show_default=False,
    ),
]


def asm(source: Source, output: Output, isa: Isa = None) -> Callable[[], int]:
    """Assemble SOURCE to a program. The output is written only if there is no error in it."""
    return partial(_asm, source, Path(output), isa)


def _asm(source: str, output: Path, isa: str | None) -> int:
    if isa is not None and isa not in _ISA:
        raise usage(f"--isa must be one of {', '.join(_ISA)}, not '{shorten(isa)}'")
    name = "standard input" if source == "-" else source
    try:
        program = assemble(_read(source, name), None if isa is None else _ISA[isa])
    except AssemblyError as error:
        raise CommandError(
            Status.PROGRAM, f"{name}: {error}", kind="assembly", details={"line": error.line, "text": error.text}
        ) from error
    try:
        output.write_bytes(program)
    except OSError as error:
        raise CommandError(Status.OUTPUT, f"cannot write {output}: {error.strerror}") from error
    return Status.DONE


def _read(source: str, name: str) -> str:
    if source == "-" and sys.stdin is None:
        raise CommandError(Status.PROGRAM, "cannot read standard input: it is closed", kind="file")
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise CommandError(Status.PROGRAM, f"cannot read {name}: {error.strerror}", kind="file") from error
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CommandError(
            Status.PROGRAM, f"{name}: line {line}: the text is not UTF-8", kind="assembly", details={"line": line}
        ) from error
