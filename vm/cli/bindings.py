# SPDX-License-Identifier: MIT
"""``pvm bindings``: writes a Python module that calls a program, with types."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import vm
from vm.cli._errors import CommandError, Status
from vm.cli._guest import read_program
from vm.cli._output import write

Program = Annotated[str, typer.Argument(metavar="PROGRAM", help="A program blob (.polkavm).", show_default=False)]
Output = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", metavar="MODULE", help="The module (.py) to write; else it is printed.", show_default=False
    ),
]


def bindings(program: Program, output: Output = None) -> Callable[[], int]:
    """Write a typed Python module for PROGRAM.

    Its class Program has an async method for each export; Imports says what the host has to define.

    Structures that PVM_STRUCT describes are dataclasses. Without signatures, methods take integers.
    """
    return partial(_bindings, Path(program), None if output is None else Path(output))


def _bindings(program: Path, output: Path | None) -> int:
    from vm.bindings import BindingsError, module_source

    try:
        text = module_source(read_program(program))
    except BindingsError as error:
        raise CommandError(Status.PROGRAM, f"{program}: {error}", kind="bindings") from error
    except vm.ProgramParseError as error:
        details = {"offset": error.offset, "section": error.section}
        raise CommandError(Status.PROGRAM, f"{program}: {error}", kind="parse", details=details) from error
    if output is None:
        write(text)
        return Status.DONE
    try:
        output.write_text(text, encoding="ascii")
    except OSError as error:
        raise CommandError(Status.OUTPUT, f"cannot write {output}: {error.strerror}") from error
    return Status.DONE
