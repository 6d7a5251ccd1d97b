# SPDX-License-Identifier: MIT
"""``pvm run``: calls one export of a program and prints what it returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

import vm
from vm._config import Sandbox as SandboxName
from vm._module_file import Backend as BackendName
from vm._module_file import StoredModule
from vm.cli._errors import Status
from vm.cli._guest import Call, execute, read_compiled
from vm.cli._host import make_linker, parse_imports
from vm.cli._output import write, write_json
from vm.cli._stdio import GRANTS, link_stdio, takes_arguments
from vm.cli._text import shorten
from vm.cli._values import choose_backend, choose_export, choose_sandbox, integer, module_config, parse_arguments, usage

#: How a result can be read, by the names of the types.
_RETURNS = {"int": int, "u32": vm.u32, "i32": vm.i32, "u64": vm.u64, "i64": vm.i64}
_MOST_GAS = (1 << 63) - 1

Program = Annotated[
    str,
    typer.Argument(
        metavar="PROGRAM", help="A program blob (.polkavm), or what 'pvm compile' made of one.", show_default=False
    ),
]
Export = Annotated[
    str | None,
    typer.Argument(
        metavar="EXPORT",
        help="The function to call. Can be left out if the program has only one, or one called main.",
        show_default=False,
    ),
]
Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ARGS",
        help="Up to 9 integers for it: decimal, 0x.., 0o.. or 0b.., also negative. For a C main: any words; put -- "
        "before them.",
        show_default=False,
    ),
]
Imports = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="NAME=VALUE",
        help="Serve the import NAME with a function that returns the integer VALUE. Can be given several times.",
        show_default=False,
    ),
]
Host = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.py",
        help="Serve imports from a Python file, which defines 'linker = vm.Linker()' at its top level. "
        "It runs in this process, trusted.",
        show_default=False,
    ),
]
Returns = Annotated[
    str,
    typer.Option(metavar="TYPE", help=f"How to read the result: {', '.join(_RETURNS)} (int: unsigned machine word)."),
]
Timeout = Annotated[
    str | None,
    typer.Option(metavar="SECONDS", help="Stop the guest if it has not returned by then.", show_default=False),
]
PageSize = Annotated[
    str | None,
    typer.Option(
        metavar="BYTES",
        help="The size of guest pages that the program was linked for, 4096 (unless it is compiled) to 65536.",
        show_default=False,
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="How to execute it: recompiler (unless it is compiled for the other), "
        "or interpreter, which is some ten times slower.",
        show_default=False,
    ),
]
Sandbox = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What keeps recompiled code in: linux (the default), a locked-down process, or generic, nothing but the "
        "code itself, in this process: a fault of the recompiler would be a hole.",
        show_default=False,
    ),
]
Crosscheck = Annotated[
    bool,
    typer.Option(
        "--crosscheck",
        help="Execute it in both at once and compare them at every stop, to find faults of the recompiler.",
    ),
]
StepTracing = Annotated[
    bool,
    typer.Option(
        "--step-tracing",
        help="With --crosscheck: stop before each instruction, which takes much longer and names the one that differs.",
    ),
]
Gas = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="Meter gas, and stop the guest when it has spent N: 1 for each instruction, charged block by block.",
        show_default=False,
    ),
]
DynamicPaging = Annotated[
    bool,
    typer.Option(
        "--dynamic-paging",
        help="Give the guest its memory by the page, where it touches it (zeros, with read-ahead).",
    ),
]
LegacySbrk = Annotated[
    bool, typer.Option("--legacy-sbrk", help="Let opcode 101 of a revive_v1 program be sbrk, as old tools meant it.")
]
Directories = Annotated[
    list[str] | None,
    typer.Option(
        "--dir",
        metavar="NAME=PATH[:rw]",
        help="Let the program read, or with :rw also change, the directory PATH as NAME. Can be given several times.",
        show_default=False,
    ),
]
Environment = Annotated[
    list[str] | None,
    typer.Option(
        "--env", metavar="NAME=VALUE", help="Add to the program's environment, which is empty.", show_default=False
    ),
]
Grants = Annotated[
    list[str] | None,
    typer.Option(
        "--grant",
        metavar="NAME",
        help=f"Let the program use {', '.join(GRANTS)}. Can be given several times.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object: the result, or what went wrong.")]
Traceback = Annotated[
    bool, typer.Option("--traceback", help="Print Python's traceback of a failure, too (or set PVM_TRACEBACK=1).")
]


def run(
    context: typer.Context,
    program: Program,
    export: Export = None,
    args: Arguments = None,
    imports: Imports = None,
    host: Host = None,
    returns: Returns = "int",
    timeout: Timeout = None,
    page_size: PageSize = None,
    backend: Backend = None,
    sandbox: Sandbox = None,
    crosscheck: Crosscheck = False,
    step_tracing: StepTracing = False,
    gas: Gas = None,
    legacy_sbrk: LegacySbrk = False,
    directories: Directories = None,
    environment: Environment = None,
    grants: Grants = None,
    dynamic_paging: DynamicPaging = False,
    as_json: Json = False,
    traceback: Traceback = False,  # `main` looks for it by itself
) -> Callable[[], int]:
    """Run PROGRAM in a sandbox: call EXPORT with ARGS and print what it returns.

    A program that was built with a C main runs it with the words behind -- as its arguments, and its exit status
    becomes that of the command. It can write to standard output and standard error.
    """
    words = [] if export is None else [export, *(args or [])]
    path = None if host is None else Path(host)
    options = partial(_options, backend, sandbox, crosscheck, step_tracing, gas, page_size, legacy_sbrk, dynamic_paging)
    stdio = _Stdio(grants or [], directories or [], environment or [])
    return partial(
        _run, Path(program), words, context.obj, imports or [], path, returns, timeout, options, stdio, as_json
    )


class _Stdio(NamedTuple):
    """What the options grant, as they were typed."""

    grants: Sequence[str]
    directories: Sequence[str]
    environment: Sequence[str]


def _run(
    program: Path,
    words: Sequence[str],
    behind: Sequence[str],
    imports: Sequence[str],
    host: Path | None,
    returns: str,
    timeout: str | None,
    options: Callable[[], _Options],
    stdio: _Stdio,
    as_json: bool,
) -> int:
    if returns not in _RETURNS:
        raise usage(f"--returns must be one of {', '.join(_RETURNS)}, not '{shorten(returns)}'")
    limit = None if timeout is None else _seconds(timeout)
    given = options()
    constants = parse_imports(imports)
    blob, stored = read_compiled(program)
    backend, config = given.fresh() if stored is None else given.of(program, stored)
    export, rest, args = _choose(blob, program, words, behind)
    linker = make_linker(blob, constants, host)
    link_stdio(linker, blob, args or [], *stdio)
    if given.dynamic_paging and not linker.serves_page_faults:
        linker.on_page_fault(vm.ZeroPager())
    call = Call(
        blob=blob,
        compiled=None if stored is None else program,
        engine=vm.Config(backend=backend, sandbox=given.sandbox, crosscheck=given.crosscheck),
        config=config,
        export=export,
        arguments=parse_arguments(rest, blob.isa.word_bits),
        linker=linker,
        returns=_RETURNS[returns] if args is None else vm.i32,
        timeout=limit,
        gas=given.gas,
        host=host,
        given=frozenset(constants),
    )
    outcome = execute(call)
    if as_json:
        seconds = {"compile": outcome.compile, "start": outcome.start, "run": outcome.run}
        gas = {} if outcome.gas is None else {"gas_used": outcome.gas}
        write_json(
            {
                "export": export,
                "args": call.arguments if args is None else args,
                "result": outcome.result,
                **gas,
                "isa": blob.isa.label,
                "seconds": {stage: round(spent, 6) for stage, spent in seconds.items()},
            }
        )
    elif args is None:
        write(f"{outcome.result}\n")
    return Status.DONE if args is None else outcome.result & 0xFF


def _choose(
    blob: vm.ProgramBlob, program: Path, words: Sequence[str], behind: Sequence[str]
) -> tuple[str, Sequence[str], list[str] | None]:
    """The export, the integers for it, and for a C main its arguments; `behind` is what stood behind ``--``."""
    if takes_arguments(blob) and (not words or words[0] == "main"):
        return "main", [], [str(program), *words[1:], *behind]
    export, rest = choose_export(blob, [*words, *behind])
    return export, rest, None


class _Options(NamedTuple):
    """What the options say about how to execute the program; None: nothing."""

    backend: BackendName | None
    sandbox: SandboxName
    gas: int | None
    page_size: int | None
    legacy_sbrk: bool
    crosscheck: bool
    step_tracing: bool
    dynamic_paging: bool

    def fresh(self) -> tuple[BackendName, vm.ModuleConfig]:
        """How to compile a program."""
        config = module_config(self.page_size, self.gas is not None, self.legacy_sbrk)
        return self.backend or "recompiler", replace(
            config, step_tracing=self.step_tracing, dynamic_paging=self.dynamic_paging
        )

    def of(self, path: Path, stored: StoredModule) -> tuple[BackendName, vm.ModuleConfig]:
        """How the program was compiled. Raises `CommandError` if the options say otherwise."""
        config = stored.config
        wrong = ""
        if self.backend not in (None, stored.backend):
            wrong = f"for the {stored.backend}: leave --backend out"
        elif self.sandbox != "linux" and stored.backend == "recompiler":
            wrong = "for sandbox linux: leave --sandbox out"
        elif self.page_size not in (None, config.page_size):
            wrong = f"for pages of {config.page_size} bytes: leave --page-size out"
        elif self.legacy_sbrk and not config.legacy_sbrk:
            wrong = "without --legacy-sbrk: leave it out"
        elif self.crosscheck and stored.backend != "recompiler":
            wrong = f"for the {stored.backend}: leave --crosscheck out"
        elif self.step_tracing != config.step_tracing:
            wrong = f"{'with' if config.step_tracing else 'without'} step tracing, which cannot be changed"
        elif self.dynamic_paging != config.dynamic_paging:
            wrong = f"{'with' if config.dynamic_paging else 'without'} dynamic paging, which cannot be changed"
        elif self.gas is not None and config.gas_metering is None:
            wrong = "without --gas: leave it out"
        elif self.gas is None and config.gas_metering is not None:
            wrong = "to meter gas: give it some, with --gas"
        if wrong:
            raise usage(f"{path} was compiled {wrong}")
        return stored.backend, config


def _options(
    backend: str | None,
    sandbox: str | None,
    crosscheck: bool,
    step_tracing: bool,
    gas: str | None,
    page_size: str | None,
    legacy_sbrk: bool,
    dynamic_paging: bool,
) -> _Options:
    name = choose_backend(backend)
    home = choose_sandbox(sandbox)
    if sandbox is not None and name == "interpreter":
        raise usage("--sandbox keeps recompiled code in: it does not go with --backend interpreter")
    if crosscheck and home != "linux":
        raise usage(f"--crosscheck compares a process with the interpreter: it does not go with --sandbox {home}")
    if crosscheck and name not in (None, "recompiler"):
        raise usage(f"--crosscheck compares both backends: it does not go with --backend {backend}")
    if step_tracing and not crosscheck:
        raise usage("--step-tracing goes with --crosscheck only")
    budget = None if gas is None else integer(gas, "--gas")
    if budget is not None and not 0 <= budget <= _MOST_GAS:
        raise usage(f"--gas must be from 0 to {_MOST_GAS}, not {budget}")
    size = None if page_size is None else integer(page_size, "--page-size")
    return _Options(name, home, budget, size, legacy_sbrk, crosscheck, step_tracing, dynamic_paging)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (seconds > 0 and math.isfinite(seconds)):
        raise usage(f"--timeout must be a positive number of seconds, not '{shorten(text)}'")
    return seconds
