# SPDX-License-Identifier: MIT
"""Names out of program blobs, made fit for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from vm._printable import printable, shorten

__all__ = ["listing", "printable", "shorten"]

#: Lists of names end with a count: a blob may hold a million names.
_LONGEST_LIST = 20


def listing(names: Iterable[str]) -> str:
    """The names, each of bounded length, with commas between; ``and N more`` for those that are too many."""
    every = list(names)
    shown = ", ".join(shorten(name) for name in every[:_LONGEST_LIST])
    return shown if len(every) <= _LONGEST_LIST else f"{shown} and {len(every) - _LONGEST_LIST} more"
