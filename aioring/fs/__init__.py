# SPDX-License-Identifier: MIT
"""Files for asyncio, on io_uring: `open()`, what os does to files by name, and `Path`.

Needs an `aioring.EventLoop`, and says so elsewhere (RingStateError). Results and errors are the stdlib's.
"""

from aioring.fs._buffered import BufferedFile
from aioring.fs._buffers import Buffers
from aioring.fs._names import (
    copy,
    exists,
    link,
    listdir,
    lstat,
    makedirs,
    mkdir,
    readlink,
    remove,
    rename,
    replace,
    rmdir,
    stat,
    symlink,
    truncate,
    unlink,
    walk,
)
from aioring.fs._open import Opening, open
from aioring.fs._path import Path
from aioring.fs._raw import RawFile
from aioring.fs._text import TextFile

__all__ = [
    "BufferedFile",
    "Buffers",
    "Opening",
    "Path",
    "RawFile",
    "TextFile",
    "copy",
    "exists",
    "link",
    "listdir",
    "lstat",
    "makedirs",
    "mkdir",
    "open",
    "readlink",
    "remove",
    "rename",
    "replace",
    "rmdir",
    "stat",
    "symlink",
    "truncate",
    "unlink",
    "walk",
]
