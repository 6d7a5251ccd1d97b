# SPDX-License-Identifier: MIT
r"""Symbols, which are arbitrary bytes, as quoted text: printable ASCII as it is, everything else as ``\xNN``."""

from __future__ import annotations

import re
from typing import Final

# A quoted symbol is made of plain characters, escaped quotes and backslashes, and any bytes by their numbers.
_QUOTED: Final = re.compile(rb'"(?:[ !#-\[\]-~]|\\["\\]|\\x[0-9a-fA-F]{2})*"')
_ESCAPE: Final = re.compile(rb"\\(?:x(..)|(.))")

_CHARACTERS: Final = tuple(
    f"\\{chr(byte)}" if byte in b'"\\' else chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}"
    for byte in range(256)
)

#: Names that can be a label wherever the text names one, and that no terminal would obey.
PLAIN_NAME: Final = re.compile(r"[A-Za-z_.$][\w.$]*", re.ASCII)


def quote(symbol: bytes) -> str:
    """The text that `unquote` turns into `symbol`; it is ASCII without control characters."""
    return f'"{"".join(_CHARACTERS[byte] for byte in symbol)}"'


def unquote(text: str) -> bytes | None:
    """The symbol that the quoted `text` stands for; None if it is not one."""
    try:
        quoted = text.encode("ascii")
    except UnicodeEncodeError:
        return None
    if not _QUOTED.fullmatch(quoted):
        return None
    return _ESCAPE.sub(lambda match: match[2] or bytes([int(match[1], 16)]), quoted[1:-1])
