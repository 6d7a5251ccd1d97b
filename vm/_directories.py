# SPDX-License-Identifier: MIT
"""Files beneath granted directories: how a guest's paths are followed, and what it holds open."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

#: Bytes of a path, as Linux has it (PATH_MAX, path_resolution(7)).
LONGEST_PATH = 4096
#: Names that a path may consist of.
_DEEPEST = 256

# pvm_open's flags (vm/sdk/include/pvm_host.h).
READ, WRITE, CREATE, EXCLUSIVE, TRUNCATE, APPEND = 1, 2, 4, 8, 16, 32
_CHANGES = WRITE | CREATE | TRUNCATE | APPEND
_FLAGS = {CREATE: os.O_CREAT, EXCLUSIVE: os.O_EXCL, TRUNCATE: os.O_TRUNC, APPEND: os.O_APPEND}
_ACCESS = {READ: os.O_RDONLY, WRITE: os.O_WRONLY, READ | WRITE: os.O_RDWR}

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory of the host that a guest may use."""

    path: str
    mode: Literal["r", "rw"]


class Directories:
    """The directories that a guest is granted, by name.

    A path is the name of one and a path in it. No symbolic link is ever followed, by whatever name in a path, so that
    nothing outside can be reached even if others change the directories meanwhile; ".." leads back within a granted
    directory and no further. The methods raise OSError, and block as files do.
    """

    def __init__(self, granted: Mapping[str, Directory]) -> None:
        self._granted = dict(granted)

    def open(self, path: bytes, flags: int) -> OpenFile:
        """A regular file. `flags` are those of pvm_open."""
        access = _ACCESS.get(flags & (READ | WRITE))
        exclusive_only = flags & EXCLUSIVE and not flags & CREATE
        if access is None or exclusive_only or flags & ~(READ | EXCLUSIVE | _CHANGES):
            raise _error(errno.EINVAL)
        with self._parent(path, change=bool(flags & _CHANGES)) as (folder, name):
            # Not to wait for the other end of a pipe, nor to wake a device: those are not opened at all.
            with suppress(FileNotFoundError):
                _check_regular(os.stat(name, dir_fd=folder, follow_symlinks=False))
            native = access | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
            for flag, value in _FLAGS.items():
                native |= value if flags & flag else 0
            descriptor = os.open(name, native, 0o666, dir_fd=folder)
        try:
            _check_regular(os.fstat(descriptor))
        except OSError:
            os.close(descriptor)
            raise
        return OpenFile(descriptor)

    def stat(self, path: bytes) -> os.stat_result:
        """The status of a file, a directory, or a symbolic link itself."""
        with self._parent(path, change=False) as (folder, name):
            return os.stat(name, dir_fd=folder, follow_symlinks=False)

    def remove(self, path: bytes) -> None:
        """Removes a file or an empty directory."""
        with self._parent(path, change=True) as (folder, name):
            _check_entry(name)
            try:
                os.unlink(name, dir_fd=folder)
            except IsADirectoryError:
                os.rmdir(name, dir_fd=folder)

    def rename(self, old: bytes, new: bytes) -> None:
        """Renames a file or directory; a file of the new name is replaced."""
        with self._parent(old, change=True) as (source, name), self._parent(new, change=True) as (target, other):
            _check_entry(name)
            _check_entry(other)
            os.rename(name, other, src_dir_fd=source, dst_dir_fd=target)

    def make_directory(self, path: bytes) -> None:
        """Makes a directory."""
        with self._parent(path, change=True) as (folder, name):
            os.mkdir(name, 0o777, dir_fd=folder)

    @contextmanager
    def _parent(self, path: bytes, *, change: bool) -> Iterator[tuple[int, bytes]]:
        """The directory that the last name of `path` is in, as a descriptor, and that name ("." for a whole grant)."""
        grant, names = _split(path)
        directory = self._granted.get(os.fsdecode(grant))
        if directory is None:
            raise _error(errno.ENOENT)
        if change and directory.mode != "rw":
            raise _error(errno.EROFS)
        # The host's own path may lead through links; what is beneath may not.
        folder = os.open(directory.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in names[:-1]:
                inner = os.open(name, _DIRECTORY, dir_fd=folder)
                os.close(folder)
                folder = inner
            yield folder, names[-1] if names else b"."
        finally:
            os.close(folder)


def _split(path: bytes) -> tuple[bytes, list[bytes]]:
    """The name of the grant, and the names that lead on from it. Without links, ".." can be taken out beforehand."""
    if not path:
        raise _error(errno.ENOENT)
    if len(path) >= LONGEST_PATH:
        raise _error(errno.ENAMETOOLONG)
    if b"\0" in path:
        raise _error(errno.EINVAL)
    grant, *rest = [name for name in path.split(b"/") if name not in (b"", b".")] or [b"."]
    names: list[bytes] = []
    for name in rest:
        if name != b"..":
            names.append(name)
        elif names:
            names.pop()
        else:
            raise _error(errno.EACCES)
    if len(names) > _DEEPEST:
        raise _error(errno.ENAMETOOLONG)
    if names and path.endswith((b"/", b"/.")):
        names.append(b".")  # as Linux has it: what is before the slash must be a directory
    return grant, names


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise _error(errno.EISDIR)
    if stat.S_ISLNK(status.st_mode):
        raise _error(errno.ELOOP)
    if not stat.S_ISREG(status.st_mode):
        raise _error(errno.EACCES)


def _check_entry(name: bytes) -> None:
    if name == b".":
        raise _error(errno.EBUSY)


class OpenFile:
    """An open file of the host's. It can be closed while a thread, which nothing can stop, still uses it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._users = 0
        self._closed = False

    @contextmanager
    def _using(self) -> Iterator[int]:
        with self._lock:
            if self._closed:
                raise _error(errno.EBADF)
            self._users += 1
        try:
            yield self._descriptor
        finally:
            with self._lock:
                self._users -= 1
                if self._closed and not self._users:
                    os.close(self._descriptor)

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end."""
        with self._using() as descriptor:
            return os.read(descriptor, size)

    def write(self, data: bytes) -> int:
        """How many bytes of `data` were written."""
        with self._using() as descriptor:
            return os.write(descriptor, data)

    def seek(self, offset: int, whence: int) -> int:
        """The new position."""
        with self._using() as descriptor:
            return os.lseek(descriptor, offset, whence)

    def stat(self) -> os.stat_result:
        """Its status."""
        with self._using() as descriptor:
            return os.fstat(descriptor)

    def close(self) -> None:
        """Closes it, once nobody uses it any more. May be called again."""
        with self._lock:
            if not self._closed:
                self._closed = True
                if not self._users:
                    os.close(self._descriptor)

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            self.close()
