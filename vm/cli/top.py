# SPDX-License-Identifier: MIT
"""``pvm top``: a live view of the engines of this user that have a monitor."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from vm._monitor import Report, reports
from vm.cli._errors import CommandError, Status
from vm.cli._output import write, write_json
from vm.cli._text import printable
from vm.cli._values import usage

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

Interval = Annotated[str, typer.Option("--interval", metavar="SECONDS", help="Time between two looks, from 0.1 to 60.")]
Once = Annotated[bool, typer.Option("--once", help="Look twice, an interval apart, print that and end.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON array of what is found, and end.")]

_NOBODY = "No engine with a monitor runs: vm.Config(monitor=True).\n"


def top(interval: Interval = "1", once: Once = False, as_json: Json = False) -> Callable[[], int]:
    """Show what engines do that were made with vm.Config(monitor=True), and their guests that take most of the
    processors; until Ctrl-C. Where standard output is no terminal: once."""
    return partial(_top, interval, once, as_json)


def _top(interval: str, once: bool, as_json: bool) -> int:
    try:
        seconds = float(interval)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 60:
        raise usage("--interval must be a number from 0.1 to 60")
    try:
        if as_json:
            write_json([dataclasses.asdict(report) for report in reports()])
        elif once or not sys.stdout.isatty():
            before = _look()
            if before:
                time.sleep(seconds)
            write(_as_text(before, _look()))
        else:
            _watch(seconds)
    except OSError as error:
        raise CommandError(Status.PROGRAM, f"cannot look for engines: {error}", kind="monitor") from error
    return Status.DONE


#: By process and number of the engine in it.
Looks = dict[tuple[int, int], Report]


def _look() -> Looks:
    found: Looks = {}
    for report in reports():
        found[report.process, sum(process == report.process for process, _ in found)] = report
    return found


def _watch(seconds: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(markup=False, highlight=False, emoji=False)
    before = _look()
    first = _render(before, before, console.height)
    # Ctrl-C may come at any time, also while the terminal is taken over or given back
    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(first, console=console, screen=True, auto_refresh=False) as live,
    ):
        while True:
            time.sleep(seconds)
            now = _look()
            live.update(_render(before, now, console.height), refresh=True)
            before = now


def _as_text(before: Looks, now: Looks) -> str:
    if not now:
        return _NOBODY
    from rich.console import Console

    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False, width=120)
    with console.capture() as capture:
        console.print(_render(before, now, 1000))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n") + "\n"


def _render(before: Looks, now: Looks, height: int) -> Group:
    from rich.console import Group
    from rich.text import Text

    if not now:
        return Group(Text(_NOBODY))
    engines = _engines(before, now)
    return Group(engines, _guests(before, now, max(1, height - len(now) - 7)))


def _table(*headings: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        left = heading in ("program", "home", "state")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    return table


def _engines(before: Looks, now: Looks) -> Table:
    table = _table(
        "process", "program", "home", "alive", "running", "waiting", "idle",
        "runs/s", "host calls/s", "faults/s", "spawns/s", "run p50", "p99",
    )  # fmt: skip
    for key, report in now.items():
        new, old = report.statistics, before.get(key, report).statistics
        passed = report.time - before.get(key, report).time
        runs = new.run_time - old.run_time

        def rate(count: int, passed: float = passed) -> str:
            return f"{count / passed:.0f}" if passed > 0 else "-"

        table.add_row(
            str(report.process),
            printable(report.program),
            printable(report.home),
            *map(str, (new.alive, new.running, new.waiting, new.idle)),
            rate(runs.count),
            rate(new.host_calls - old.host_calls),
            rate(new.page_faults - old.page_faults),
            rate(new.spawned - old.spawned),
            _duration(runs.quantile(0.5)) if runs.count else "-",
            _duration(runs.quantile(0.99)) if runs.count else "-",
        )
    return table


def _guests(before: Looks, now: Looks, most: int) -> Table:
    rows = []
    for key, report in now.items():
        earlier = before.get(key, report)
        passed = report.time - earlier.time
        used = {guest.number: guest.cpu for guest in earlier.guests}
        for guest in report.guests:
            # what one that was not seen before took may have been long ago
            taken = guest.cpu - used.get(guest.number, guest.cpu)
            share = max(0.0, taken) / passed if passed > 0 else 0.0
            rows.append((share, guest, report.process))
    rows.sort(key=lambda row: (-row[0], row[1].process))
    table = _table("guest", "engine", "state", "CPU %", "CPU time", "memory")
    for share, guest, engine in rows[:most]:
        memory = f"{guest.memory / 1024:.0f} KiB" if guest.memory < 1 << 20 else f"{guest.memory / (1 << 20):.1f} MiB"
        table.add_row(
            str(guest.process), str(engine), printable(guest.state), f"{100 * share:.1f}", _duration(guest.cpu), memory
        )
    return table


def _duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.0f} ns"
