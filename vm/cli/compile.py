# SPDX-License-Identifier: MIT
"""``pvm compile``: compiles a program ahead of time, to a file that ``pvm run`` takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import vm
from vm._loops import run
from vm.cli._errors import CommandError, Status
from vm.cli._guest import compiling, read_program, starting
from vm.cli._values import choose_backend, integer, module_config
from vm.cli.run import LegacySbrk

Program = Annotated[str, typer.Argument(metavar="PROGRAM", help="A program blob (.polkavm).", show_default=False)]
Output = Annotated[
    str, typer.Option("--output", "-o", metavar="FILE", help="The compiled module to write.", show_default=False)
]
PageSize = Annotated[
    str | None,
    typer.Option(
        metavar="BYTES",
        help="The size of guest pages that the program was linked for, 4096 (the default) to 65536.",
        show_default=False,
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="What to compile it for: recompiler (the default) or interpreter."),
]
Gas = Annotated[bool, typer.Option("--gas", help="Meter gas: 'pvm run' then has to give it some.")]


def compile_program(
    program: Program,
    output: Output,
    page_size: PageSize = None,
    backend: Backend = None,
    gas: Gas = False,
    legacy_sbrk: LegacySbrk = False,
) -> Callable[[], int]:
    """Compile PROGRAM ahead of time. The file is for this build of pvm and this kind of processor alone."""
    return partial(_compile, Path(program), Path(output), page_size, backend, gas, legacy_sbrk)


def _compile(
    program: Path, output: Path, page_size: str | None, backend: str | None, gas: bool, legacy_sbrk: bool
) -> int:
    size = None if page_size is None else integer(page_size, "--page-size")
    engine = vm.Config(backend=choose_backend(backend) or "recompiler")
    main = _save(read_program(program), engine, module_config(size, gas, legacy_sbrk), output)
    try:
        with starting():
            run(main)
    finally:
        main.close()  # it was never started if there is no event loop
    return Status.DONE


async def _save(blob: vm.ProgramBlob, config: vm.Config, settings: vm.ModuleConfig, output: Path) -> None:
    async with vm.Engine(config) as engine:
        with compiling():
            module = await engine.compile(blob, settings)
        try:
            await module.save(output)
        except OSError as error:
            raise CommandError(Status.OUTPUT, f"cannot write {output}: {error.strerror}") from error
