# SPDX-License-Identifier: MIT
"""The command line's grammar, by typer. It only parses: what a command does happens outside of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from vm.cli import asm, bindings, build, disasm, doctor, inspect, link, run, top
from vm.cli._errors import Status
from vm.cli._output import write
from vm.cli._values import usage
from vm.cli.compile import compile_program

# typer has a copy of click in itself, older ones use click: the UsageError of either.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


# Values stay the strings that were typed, to be checked where they are used, in our own words. typer would have
# pydantic look at each, whose import alone takes longer than most guests run.


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> Any:
        return _spare(super().get_params(ctx))


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> Any:
        return _spare(super().get_params(ctx))


class _Run(_Command):
    """Keeps apart what stands behind ``--``: those words are the guest's, whatever they look like."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        place = args.index("--") if "--" in args else len(args)
        ctx.obj = args[place + 1 :]
        return super().parse_args(ctx, args[:place])


def _spare(parameters: Any) -> Any:
    for parameter in parameters:
        if not isinstance(parameter.process_value, partial):
            parameter.process_value = partial(_process, parameter.required, parameter.process_value)
    return parameters


def _process(required: bool, process: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
    """Lets typer process what is no text: a flag that was set (such as --help), or a value that is missing."""
    text = bool(value) and isinstance(value, str | list | tuple)
    nothing = not required and (value is None or value is False or value == ())
    return value if text or nothing else process(context, value)


# An empty line is what typer takes for a line's end.
_STATUSES = "\n\n".join(["Exit status:", *(f"{status:d}: {status.meaning}" for status in Status)])

app = typer.Typer(name="pvm", cls=_Group, add_completion=False, rich_markup_mode="rich")


@app.callback(invoke_without_command=True)
def pvm(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Untrusted compiled programs, in sandboxes."""
    if version:
        write(f"pvm {_version()}\n")
        raise typer.Exit
    if context.invoked_subcommand is None:
        write(context.get_help() + "\n")
        raise typer.Exit


# A negative number looks like an option: what is neither, `run` refuses.
app.command("run", cls=_Run, epilog=_STATUSES, context_settings={"ignore_unknown_options": True})(run.run)
app.command("build", cls=_Command)(build.build)
app.command("compile", cls=_Command)(compile_program)
app.command("doctor", cls=_Command)(doctor.doctor)
app.command("inspect", cls=_Command)(inspect.inspect)
app.command("disasm", cls=_Command)(disasm.disasm)
app.command("asm", cls=_Command)(asm.asm)
app.command("link", cls=_Command)(link.link)
app.command("bindings", cls=_Command)(bindings.bindings)
app.command("top", cls=_Command)(top.top)


def _version() -> str:
    from importlib.metadata import version  # slow

    return version("aioring")


def parse(words: Sequence[str]) -> Callable[[], int]:
    """What the command line asks for, ready to be done; the result is the exit status. Raises `CommandError`."""
    try:
        parsed = get_command(app)(list(words), prog_name="pvm", standalone_mode=False)
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        hint = f" (see '{context.command_path} --help')" if context is not None else ""
        sentence = getattr(error, "format_message", error.__str__)().removesuffix(".")
        raise usage(f"{sentence}{hint}") from error
    if callable(parsed):
        return parsed  # type: ignore[no-any-return]
    return lambda: Status.DONE  # the help, or the version
