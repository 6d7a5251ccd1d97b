# SPDX-License-Identifier: MIT
"""Files of compiled modules, taken apart and put together again by the format's description."""

from __future__ import annotations

import hashlib
import itertools
import struct
from pathlib import Path
from typing import Any

# The format as docs/modules.md has it, on purpose not the one in vm._module_file.
HEADER = struct.Struct("<8sII32sIIQQQ")
FIELDS = ("magic", "version", "backend", "build", "features", "settings", "program", "code", "tables")
PARTS = FIELDS[5:]
DIGEST = 32


class File:
    """The contents of a file, to be changed; `bytes` makes the checksum right again."""

    def __init__(self, data: bytes) -> None:
        self.header: dict[str, Any] = dict(zip(FIELDS, HEADER.unpack_from(data), strict=True))
        sizes = [self.header[name] for name in PARTS]
        ends = [HEADER.size, *itertools.accumulate(sizes, initial=HEADER.size)][1:]
        self.parts = {
            name: bytearray(data[start:end]) for name, (start, end) in zip(PARTS, itertools.pairwise(ends), strict=True)
        }

    def replace(self, part: str, data: bytes) -> None:
        self.parts[part] = bytearray(data)
        self.header[part] = len(data)

    def __bytes__(self) -> bytes:
        return sealed(HEADER.pack(*self.header.values()) + b"".join(self.parts.values()))


def sealed(data: bytes) -> bytes:
    return data + hashlib.sha256(data).digest()


def put(path: Path, data: bytes) -> Path:
    """A file that nobody else can write, whatever the umask."""
    path.unlink(missing_ok=True)  # to cut it off instead would wait for the disk
    path.write_bytes(data)
    path.chmod(0o600)
    return path
