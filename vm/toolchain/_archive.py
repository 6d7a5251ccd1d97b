# SPDX-License-Identifier: MIT
"""Static archives, as ld.lld reads them: the common ar format (ar(5)), without a table of symbols."""

from __future__ import annotations

from collections.abc import Iterable

_MAGIC = b"!<arch>\n"


def write_archive(members: Iterable[tuple[str, bytes]]) -> bytes:
    """An archive with `members`, names and contents, in that order. The same members make the same bytes.

    There is no table of symbols: ld.lld looks into the members itself.
    """
    names = bytearray()
    body = bytearray()
    for name, data in members:
        # A long name is in a table of its own, in GNU's variant: "/" and the offset.
        body += _header(f"/{len(names)}", len(data)) + data + b"\n" * (len(data) % 2)
        names += f"{name}/\n".encode()
    names += b"\n" * (len(names) % 2)
    return _MAGIC + _header("//", len(names)) + bytes(names) + bytes(body)


def _header(name: str, size: int) -> bytes:
    # name, time of modification, owner, group, mode, size, end
    return f"{name:<16}{0:<12}{0:<6}{0:<6}{'644':<8}{size:<10}`\n".encode()
