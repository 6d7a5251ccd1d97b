# SPDX-License-Identifier: MIT
"""Runs benchmarks and rewrites their tables in benchmarks/README.md from what they measured.

A program is a file of this folder, without ".py"; all of them are run if none is named. The tables of those that are
not named stay as they are, as does the table of one that cannot be measured here, or whose samples were too often taken
in company.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import benchmarks.calls
import benchmarks.children
import benchmarks.compile
import benchmarks.doom
import benchmarks.files
import benchmarks.fork
import benchmarks.kernels
import benchmarks.loop
import benchmarks.paging
import benchmarks.scale
import benchmarks.serving
import benchmarks.spawn
from benchmarks._harness import Options, Report, SkipError, facts, options_parser, read_options, table

_README: Final = Path(__file__).with_name("README.md")
#: A table with a larger share of disturbed samples is shown, but not published: a peer that polls looks slow in it.
_DISTURBED_MAX: Final = 1 / 3
_PROGRAMS: Final[dict[str, Callable[[Options], Report]]] = {
    "compile": benchmarks.compile.measure,
    "doom": benchmarks.doom.measure,
    "kernels": benchmarks.kernels.measure,
    "calls": benchmarks.calls.measure,
    "paging": benchmarks.paging.measure,
    "spawn": benchmarks.spawn.measure,
    "fork": benchmarks.fork.measure,
    "scale": benchmarks.scale.measure,
    "loop": benchmarks.loop.measure,
    "serving": benchmarks.serving.measure,
    "children": benchmarks.children.measure,
    "files": benchmarks.files.measure,
}


def _replace(text: str, name: str, lines: list[str]) -> str:
    """`text` with `lines` between the markers of `name`. Raises ValueError if it has no such markers."""
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    start = text.index(begin) + len(begin)
    return text[:start] + "\n".join(lines) + "\n" + text[text.index(end, start) :]


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=", ".join(_PROGRAMS))
    parser.add_argument("--dry-run", action="store_true", help="print the tables and leave README.md alone")
    options, arguments = read_options(parser)
    named = arguments.programs
    unknown = [name for name in named if name not in _PROGRAMS]
    if unknown:
        parser.error(f"no such program: {', '.join(unknown)}; there are {', '.join(_PROGRAMS)}")
    missed = False
    for name in named or _PROGRAMS:
        own = dataclasses.replace(options)
        conditions = facts()  # before: the load average is the others'
        try:
            report = _PROGRAMS[name](own)
        except SkipError as error:
            print(f"{name}: not measured: {error}", file=sys.stderr)
            missed = True
            continue
        lines = table(report)
        lines[1:1] = ["", "; ".join(conditions) + "."]
        print("\n".join(lines), flush=True)
        if arguments.dry_run:
            continue
        if own.disturbed > _DISTURBED_MAX * own.samples:
            print(f"{name}: README.md keeps its table, others used the machine; try again", file=sys.stderr)
            missed = True
        else:
            _README.write_text(_replace(_README.read_text(), name, lines))
    if missed:
        sys.exit(1)


if __name__ == "__main__":
    main()
