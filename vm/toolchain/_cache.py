# SPDX-License-Identifier: MIT
"""Directories that are made once and kept in the user's cache, or where that cannot be, for as long as we run."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

#: Below the user's cache directory.
_FOLDER = "aioring"


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The directory `name` of the cache. If there is none, `make` fills an empty one, which then becomes it at once.

    Processes that do so at the same time do not disturb each other. Whatever `make` raises is passed on, and nothing
    stays behind.
    """
    root = _root()
    if root is not None and (root / name).is_dir():
        return root / name
    while True:
        place = root or _temporary()
        folder = place / name
        if folder.is_dir():
            return folder
        try:
            new = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=place))
        except OSError:
            if root is None:
                raise
            root = None  # read-only, or full
            continue
        try:
            make(new)
            new.rename(folder)
        except OSError:
            if folder.is_dir():
                return folder  # somebody else was faster
            if root is None:
                raise
            root = None  # full, most likely
        finally:
            shutil.rmtree(new, ignore_errors=True)
        if folder.is_dir():
            return folder


def _root() -> Path | None:
    """The cache, a directory that nobody else writes to; None if there cannot be one.

    ``$XDG_CACHE_HOME/aioring``, by default ``~/.cache/aioring`` (XDG Base Directory Specification 0.8). Objects in it
    end up in programs: one that belongs to somebody else, or that others may write to, is not used.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification: a relative path is to be ignored.
    home = Path(base) if Path(base).is_absolute() else Path("~/.cache").expanduser()
    root = home / _FOLDER
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = root.stat()
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    private = status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return root if private and stat.S_ISDIR(status.st_mode) else None


@functools.cache
def _temporary() -> Path:
    """Our own, until this process ends."""
    folder = tempfile.mkdtemp(prefix=f"{_FOLDER}-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
