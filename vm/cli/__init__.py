# SPDX-License-Identifier: MIT
"""The command ``pvm``: what ``[project.scripts]`` and ``python -m vm.cli`` run.

`_app` takes the command line apart, each command has a file of its name, and every failure ends here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from vm.cli._errors import CommandError, describe
from vm.cli._output import report


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``pvm`` with `arguments` (default: those of the process); returns the exit status, a `Status`.

    A failure is one line on standard error, or with ``--json`` one object on standard output.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        from vm.cli._app import parse  # here, because it is slow: Ctrl-C meanwhile is no traceback either

        return parse(words)()
    except (Exception, KeyboardInterrupt) as error:
        failure = error if isinstance(error, CommandError) else describe(error)
        options = words[: words.index("--")] if "--" in words else words
        traced = "--traceback" in options or os.environ.get("PVM_TRACEBACK", "") not in ("", "0")
        return report(failure, as_json="--json" in options, with_traceback=traced)
