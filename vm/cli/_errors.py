# SPDX-License-Identifier: MIT
"""How ``pvm`` fails, and with which exit status."""

from __future__ import annotations

import enum
from collections.abc import Mapping


class Status(enum.IntEnum):
    """Exit statuses; `meaning` is what the help says of each."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Status:
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    DONE = 0, "the guest returned"
    TRAPPED = 1, "the guest trapped, ran out of gas, or its process died"
    USAGE = 2, "the command line is wrong"
    PROGRAM = 3, "the program cannot be read, parsed, compiled or linked"
    MACHINE = 4, "this machine cannot run sandboxes: see 'pvm doctor'"
    HOST = 5, "the host file cannot be loaded, or a host function raised"
    INTERNAL = 70, "a fault of pvm itself"
    OUTPUT = 74, "the output cannot be written"
    TIMEOUT = 124, "the guest ran for longer than --timeout"
    INTERRUPTED = 130, "Ctrl-C"
    # What a shell shows for a process that SIGPIPE killed.
    BROKEN_PIPE = 141, "nobody reads the output any more"


class CommandError(Exception):
    """The command failed in a way that is the user's to know: `message` says it in one line.

    `kind` is a word for programs to compare, `details` are further facts; both are for ``--json``. `note` is what
    people see below the message, on lines of its own that are safe to print.
    """

    def __init__(
        self,
        status: Status,
        message: str,
        *,
        kind: str = "",
        details: Mapping[str, object] | None = None,
        note: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind or status.name.lower()
        self.message = message
        self.details = dict(details or {})
        self.note = note


def describe(error: BaseException) -> CommandError:
    """The failure that Ctrl-C is, or an exception that nobody foresaw."""
    if isinstance(error, KeyboardInterrupt):
        failure = CommandError(Status.INTERRUPTED, "interrupted")
    else:
        kind = type(error).__name__
        message = f"internal error: {kind}: {error} (PVM_TRACEBACK=1 shows where)"
        failure = CommandError(Status.INTERNAL, message, details={"exception": kind})
    failure.__cause__ = error
    return failure
