# SPDX-License-Identifier: MIT
"""Text of strangers, such as the names in a program blob, made fit to be shown.

This module is pure data.
"""

from __future__ import annotations


def printable(text: str) -> str:
    r"""`text` on one line, with nothing in it that a terminal would obey.

    Control characters, line ends and what reorders or hides text (all that `str.isprintable` refuses) become ``\xNN``,
    ``\uNNNN`` or ``\UNNNNNNNN``.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def shorten(text: str, longest: int = 80) -> str:
    """`text`, printable and of at most `longest` characters."""
    text = printable(text[: longest + 1])
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
