# SPDX-License-Identifier: MIT
"""Text of strangers, such as the names in a program blob, made fit for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

#: Beyond these, names are cut short and lists end with a count: a blob may hold a million names of any length.
_LONGEST_NAME = 80
_LONGEST_LIST = 20


def printable(text: str) -> str:
    r"""`text` on one line, with nothing in it that a terminal would obey.

    Control characters, line ends and what reorders or hides text (all that `str.isprintable` refuses) become ``\xNN``,
    ``\uNNNN`` or ``\UNNNNNNNN``.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shorten(name: str) -> str:
    """`name`, printable and of bounded length."""
    name = printable(name[: _LONGEST_NAME + 1])
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 3] + "..."


def listing(names: Iterable[str]) -> str:
    """The names, each of bounded length, with commas between; ``and N more`` for those that are too many."""
    every = list(names)
    shown = ", ".join(shorten(name) for name in every[:_LONGEST_LIST])
    return shown if len(every) <= _LONGEST_LIST else f"{shown} and {len(every) - _LONGEST_LIST} more"
