# SPDX-License-Identifier: MIT
"""``pvm build``: compiles C, C++, assembly and Zig to a program blob."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from vm.cli._errors import CommandError, Status
from vm.cli._text import shorten
from vm.cli._values import integer, usage
from vm.isa import InstructionSet

_ISA = {isa.label: isa for isa in (InstructionSet.LATEST64, InstructionSet.LATEST32)}
_COMPILERS: dict[str, Literal["zig", "clang"]] = {"zig": "zig", "clang": "clang"}

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...", help="C, C++, assembly or Zig, by suffix; objects and archives, too.", show_default=False
    ),
]
Output = Annotated[
    str, typer.Option("--output", "-o", metavar="PROGRAM", help="The blob (.polkavm) to write.", show_default=False)
]
Level = Annotated[str, typer.Option("-O", metavar="LEVEL", help="How to optimize: 0, 1, 2, 3, s or z (for size).")]
Debug = Annotated[bool, typer.Option("-g", "--debug", help="Keep line numbers for backtraces.")]
Isa = Annotated[str, typer.Option("--isa", metavar="NAME", help=f"The instruction set: {' or '.join(_ISA)}.")]
Include = Annotated[
    list[str] | None,
    typer.Option("-I", metavar="DIR", help="Look for headers in DIR, too. Can be repeated.", show_default=False),
]
Define = Annotated[
    list[str] | None,
    typer.Option("-D", metavar="NAME=V", help="Define a macro. Can be repeated.", show_default=False),
]
Flag = Annotated[
    list[str] | None,
    typer.Option(
        "--flag", metavar="FLAG", help="Give FLAG to the C and C++ compiler. Can be repeated.", show_default=False
    ),
]
StackSize = Annotated[
    str | None, typer.Option(metavar="BYTES", help="The guest's stack, 256 KiB by default.", show_default=False)
]
Compiler = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="zig (the Python package ziglang) or clang (the system's, without libc).",
        show_default=False,
    ),
]


def build(
    sources: Sources,
    output: Output,
    level: Level = "2",
    debug: Debug = False,
    isa: Isa = InstructionSet.LATEST64.label,
    include: Include = None,
    define: Define = None,
    flag: Flag = None,
    stack_size: StackSize = None,
    compiler: Compiler = None,
) -> Callable[[], int]:
    """Compile SOURCES and link them to a program. The first time, this also builds the guests' C library."""
    return partial(
        _build, sources, Path(output), level, debug, isa, include or [], define or [], flag or [], stack_size, compiler
    )


def _build(
    sources: Sequence[str],
    output: Path,
    level: str,
    debug: bool,
    isa: str,
    include: Sequence[str],
    define: Sequence[str],
    flags: Sequence[str],
    stack_size: str | None,
    compiler: str | None,
) -> int:
    from vm import toolchain  # here, because no other command needs it
    from vm.toolchain._build import STACK_SIZE

    if isa not in _ISA:
        raise usage(f"--isa must be {' or '.join(_ISA)}, not '{shorten(isa)}'")
    if compiler is not None and compiler not in _COMPILERS:
        raise usage(f"--compiler must be {' or '.join(_COMPILERS)}, not '{shorten(compiler)}'")
    stack = STACK_SIZE if stack_size is None else integer(stack_size, "--stack-size")
    defines = {name: value if equals else None for name, equals, value in (text.partition("=") for text in define)}
    try:
        blob = toolchain.build(
            sources,
            isa=_ISA[isa],
            opt_level=level,
            debug=debug,
            include_dirs=include,
            defines=defines,
            flags=flags,
            stack_size=stack,
            compiler=None if compiler is None else _COMPILERS[compiler],
            on_message=_say,
        )
    except toolchain.BuildError as error:
        _say(error.output)
        raise CommandError(
            Status.PROGRAM, "the program was not built", kind="build", details={"output": error.output}
        ) from error
    except toolchain.ToolchainError as error:
        raise CommandError(Status.MACHINE, str(error), kind="toolchain") from error
    except toolchain.ElfError as error:
        raise CommandError(Status.PROGRAM, str(error), kind="link") from error
    except FileNotFoundError as error:
        raise CommandError(Status.PROGRAM, f"cannot read {error.filename}: {error.strerror}", kind="file") from error
    except ValueError as error:
        raise usage(str(error)) from error
    except OSError as error:
        raise CommandError(Status.MACHINE, f"cannot build: {error}") from error
    try:
        output.write_bytes(blob.to_bytes())
    except OSError as error:
        raise CommandError(Status.OUTPUT, f"cannot write {output}: {error.strerror}") from error
    return Status.DONE


def _say(text: str) -> None:
    """Compilers' messages, as they print them."""
    if text and sys.stderr is not None:
        sys.stderr.write(text if text.endswith("\n") else text + "\n")
        sys.stderr.flush()
