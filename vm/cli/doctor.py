# SPDX-License-Identifier: MIT
"""``pvm doctor``: shows what guests need of this machine, and what of it is there."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from vm._doctor import Check, compare_homes, examine, guests_can_run
from vm._homes import HOMES, Matter
from vm.cli._errors import Status
from vm.cli._output import write, write_json
from vm.cli._text import printable

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

_STYLES = {"ok": "green", "missing": "bold red", "optional": "yellow"}
#: Columns of text; a wider terminal makes the table no easier to read.
_WIDEST = 140


def doctor(as_json: Json = False) -> Callable[[], int]:
    """Show what this machine needs to run guests, what of it is there, and how to fix the rest; then what each home of
    guests (the sandboxes linux and generic, the interpreter) does here.

    The exit status is 0 if guests can run, and 1 otherwise.
    """
    return partial(_doctor, as_json)


def _doctor(as_json: bool) -> int:
    checks = examine()
    able = guests_can_run(checks)
    homes = compare_homes(checks)
    if as_json:
        write_json(
            {"ok": able, "checks": list(map(dataclasses.asdict, checks)), "homes": list(map(dataclasses.asdict, homes))}
        )
    else:
        write(_render(checks, able, homes))
    return Status.DONE if able else Status.TRAPPED


def _render(checks: tuple[Check, ...], able: bool, homes: tuple[Matter, ...]) -> str:
    """Tables as wide as the terminal, or 80 columns; coloured on a terminal only."""
    from rich import box  # slow
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), width=min(console.width, _WIDEST))
    for heading in ("requirement", "found", "enables"):
        table.add_column(heading, overflow="fold", ratio=3)
    # Sentences, if there are any.
    table.add_column("how to fix", overflow="fold", ratio=4 if any(check.fix for check in checks) else 2)
    table.add_column("status", no_wrap=True, min_width=max(map(len, _STYLES)))
    for check in checks:
        cells = [Text(printable(text)) for text in (check.requirement, check.found, check.enables, check.fix)]
        table.add_row(*cells, Text(check.status, style=_STYLES[check.status]))
    matrix = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), width=min(console.width, _WIDEST))
    matrix.add_column("home", overflow="fold", ratio=2)
    for name in HOMES:
        matrix.add_column(name, overflow="fold", ratio=3)
    for matter in homes:
        matrix.add_row(Text(matter.what), *(Text(printable(getattr(matter, name))) for name in HOMES))
    with console.capture() as capture:
        console.print(table)
        console.print(matrix)
        console.print("Guests can run." if able else "Guests cannot run: see what is missing.")
    lines = [line.rstrip() for line in capture.get().splitlines()]
    return "\n".join(lines).strip("\n") + "\n"
