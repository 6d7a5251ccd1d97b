# SPDX-License-Identifier: MIT
"""Standard streams and the like for ``pvm run``, for programs that were built with the SDK's libc."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import BinaryIO, Literal

import vm
from vm.cli._errors import CommandError, Status
from vm.cli._text import shorten
from vm.cli._values import usage

#: What ``--grant`` can name.
GRANTS = ("stdin", "clock", "random")


def takes_arguments(blob: vm.ProgramBlob) -> bool:
    """Whether the program has a C main: an export of the name, which asks for its arguments."""
    return "pvm_args" in blob.import_names and any(export.name == "main" for export in blob.exports)


def link_stdio(
    linker: vm.Linker,
    blob: vm.ProgramBlob,
    args: Sequence[str],
    grants: Sequence[str],
    directories: Sequence[str],
    environment: Sequence[str],
) -> None:
    """Defines the SDK's host functions if the program imports one of them. Raises `CommandError`.

    Output goes to ours; the rest is as the command line grants it. A host file may define them all itself.
    """
    for grant in grants:
        if grant not in GRANTS:
            raise usage(f"--grant must be one of {', '.join(GRANTS)}, not '{shorten(grant)}'")
    try:
        stdio = vm.Stdio(
            stdout=lambda data: _put(sys.stdout, data),
            stderr=lambda data: _put(sys.stderr, data),
            stdin=_standard_input() if "stdin" in grants else None,
            args=args,
            env=dict(_pair(text, "--env", "NAME=VALUE") for text in environment),
            clock="clock" in grants,
            random="random" in grants,
            directories=dict(_directory(text) for text in directories),
        )
    except ValueError as error:
        raise usage(str(error)) from error
    if stdio.names.isdisjoint(linker.names) and not stdio.names.isdisjoint(blob.import_names):
        stdio.link(linker)


def _standard_input() -> BinaryIO | None:
    return None if sys.stdin is None else sys.stdin.buffer


def _put(stream: object, data: bytes) -> None:
    binary = getattr(stream, "buffer", None)
    if binary is None:  # closed before we started
        return
    try:
        binary.write(data)
        binary.flush()
    except BrokenPipeError as error:
        raise CommandError(Status.BROKEN_PIPE, "nobody reads the output any more") from error
    except OSError as error:
        raise CommandError(Status.OUTPUT, f"cannot write the output: {error.strerror}") from error


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise usage(f"{option} '{shorten(text)}' must look like {form}")
    return name, value


def _directory(text: str) -> tuple[str, tuple[str, Literal["r", "rw"]]]:
    name, path = _pair(text, "--dir", "NAME=PATH or NAME=PATH:rw")
    return name, (path.removesuffix(":rw"), "rw") if path.endswith(":rw") else (path.removesuffix(":r"), "r")
