# SPDX-License-Identifier: MIT
"""What ``pvm`` writes: results to standard output, failures to standard error."""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import TextIO

from vm.cli._errors import CommandError, Status
from vm.cli._text import printable


def write(text: str) -> None:
    """Writes to standard output, all of it or not at all as far as the exit status tells. Raises `CommandError`."""
    if sys.stdout is None:  # it was closed before we started
        raise CommandError(Status.OUTPUT, "cannot write the output: standard output is closed")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError as error:
        _silence(sys.stdout)
        raise CommandError(Status.BROKEN_PIPE, "nobody reads the output any more") from error
    except OSError as error:
        _silence(sys.stdout)
        raise CommandError(Status.OUTPUT, f"cannot write the output: {error.strerror}") from error


def write_json(value: object) -> None:
    """Writes one JSON value, in ASCII, on one line. Raises `CommandError`."""
    write(json.dumps(value) + "\n")


def report(failure: CommandError, *, as_json: bool, with_traceback: bool) -> Status:
    """Tells of `failure`; returns the exit status."""
    if failure.status == Status.BROKEN_PIPE:
        return failure.status
    if with_traceback:
        lines = "".join(traceback.format_exception(failure.__cause__ or failure)).rstrip("\n").split("\n")
        _complain("\n".join(map(printable, lines)))
    if as_json and failure.status != Status.OUTPUT:
        error = {"kind": failure.kind, "message": failure.message, "status": failure.status, **failure.details}
        try:
            write_json({"error": error})
        except CommandError as second:
            return report(second, as_json=False, with_traceback=False)
    else:
        _complain(f"pvm: {printable(failure.message)}" + (f"\n{failure.note}" if failure.note else ""))
    return failure.status


def _complain(text: str) -> None:
    if sys.stderr is None:  # closed before we started; print() would take standard output instead
        return
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:  # the exit status has to do
        _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    """Lets `stream` lose what it still holds: the interpreter flushes it once more when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, stream.fileno())
    finally:
        os.close(null)
