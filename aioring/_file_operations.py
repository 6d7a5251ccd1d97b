# SPDX-License-Identifier: MIT
"""The operations of a `Ring` on files by descriptor and by name, on sockets and on processes."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from aioring._operations import Count, NoValue, Operation, Stop
from aioring._uring import ffi, lib

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from aioring._uring import CData

OperationT = TypeVar("OperationT", bound=Operation[Any])
T = TypeVar("T")
#: What os functions take as a name.
Name = str | bytes | os.PathLike[str] | os.PathLike[bytes]

# linux/fcntl.h, linux/stat.h
AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_REMOVEDIR = 0x200
_AT_SYMLINK_FOLLOW = 0x400
_AT_EMPTY_PATH = 0x1000
_STATX_BASIC_STATS = 0x7FF

# struct statx up to its devices (statx(2)): mask, blksize, attributes, nlink, uid, gid, mode, ino, size, blocks,
# attributes_mask; access, birth, change and modification time; device numbers.
_STATX = struct.Struct("=IIQIIIHxxQQQQ" + 4 * "qIxxxx" + "IIII")
_STATX_SIZE = 256
# siginfo_t of SIGCHLD: signo, errno, code, pid, uid, status (waitid(2)).
_SIGINFO = struct.Struct("=iiixxxxiIi")
_SIGINFO_SIZE = 128
# The most one send moves (MAX_RW_COUNT, read(2)).
_LONGEST = 0x7FFFF000

_allocate = ffi.new_allocator(should_clear_after_alloc=False)


def encode(path: Name) -> bytes:
    """The bytes of a name, with a NUL behind.

    Raises:
        TypeError: it is none.
        ValueError: there is a NUL in it, or what no name can be encoded to.
    """
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("embedded null byte")
    return name + b"\0"


def stat_result(memory: bytes) -> os.stat_result:
    """A struct statx as os.stat() gives it."""
    fields = _STATX.unpack_from(memory)
    _, blksize, _, nlink, uid, gid, mode, ino, size, blocks, _ = fields[:11]
    accessed, accessed_ns, _, _, changed, changed_ns, modified, modified_ns = fields[11:19]
    rdev_major, rdev_minor, dev_major, dev_minor = fields[19:]
    nanoseconds = (accessed_ns, modified_ns, changed_ns)
    times = (accessed, modified, changed)
    return os.stat_result(
        (
            *(mode, ino, os.makedev(dev_major, dev_minor), nlink, uid, gid, size),
            *times,
            *(seconds + 1e-9 * rest for seconds, rest in zip(times, nanoseconds, strict=True)),
            *(seconds * 1_000_000_000 + rest for seconds, rest in zip(times, nanoseconds, strict=True)),
            *(blksize, blocks, os.makedev(rdev_major, rdev_minor)),
        )
    )


class _Named(Operation[T]):
    """An operation whose error carries the names it was about, as those of the os module do."""

    __slots__ = ("_names",)
    _names: tuple[Any, ...]

    def _error(self, code: int) -> OSError:
        return OSError(code, os.strerror(code), *self._names)


class _Done(_Named[None]):
    __slots__ = ()

    def _value(self, code: int) -> None:
        return None


class _Statx(_Named[os.stat_result]):
    __slots__ = ()

    def _value(self, code: int) -> os.stat_result:
        return stat_result(ffi.buffer(self._memory, _STATX_SIZE)[:])  # type: ignore[arg-type]  # a cffi buffer: bytes


class OpenAt(_Named[int]):
    """openat: a descriptor, which is closed if nobody will get it."""

    __slots__ = ()

    def _value(self, code: int) -> int:
        return code

    def _complete(self, code: int) -> None:
        if code >= 0 and self._stop in (Stop.CANCELLED, Stop.CLOSED) and not self.done():
            os.close(code)
            code = -errno.ECANCELED
        super()._complete(code)

    def forsake(self) -> None:
        """Nobody will take the descriptor. For whoever awaited it, and was cancelled when it was there already."""
        if not self.done():
            self.cancel()
        elif not self.cancelled() and self.exception() is None:
            os.close(self.result())


class _CloseFile(NoValue):
    """close: done, in any case."""

    __slots__ = ("_fd",)
    _fd: int

    def _complete(self, code: int) -> None:
        if code == -errno.ECANCELED and not self.done():
            os.close(self._fd)  # it was cancelled before it began
        super()._complete(code)


class _SendZc(Count):
    """send_zc: the count comes first, and later that the kernel has let go of the memory."""

    __slots__ = ("_sent",)
    _sent: int | None

    def _more(self, code: int) -> None:
        self._sent = code

    def _complete(self, code: int) -> None:
        super()._complete(code if self._sent is None else self._sent)


class _WaitId(Operation["os.waitid_result | None"]):
    __slots__ = ()

    def _value(self, code: int) -> os.waitid_result | None:
        signal, _, reason, pid, uid, status = _SIGINFO.unpack_from(ffi.buffer(self._memory, _SIGINFO_SIZE)[:])
        return os.waitid_result((pid, uid, signal, status, reason)) if pid else None


class FileOperations:
    """Operations of a `Ring`; each is named after its system call, of which it takes and raises what that does."""

    __slots__ = ()

    if TYPE_CHECKING:

        def _require(self, operation: str) -> None: ...
        def _start(
            self, kind: Callable[..., OperationT], memory: CData | None, prepare: Callable[..., int], *arguments: Any
        ) -> OperationT: ...

    # ---- by descriptor -----------------------------------------------------------------------------------------

    def close_file(self, fd: int) -> Operation[None]:
        """Close a descriptor (Linux 5.6), even if the operation is cancelled: it is gone when this is done."""
        self._require("close")
        operation = self._start(_CloseFile, None, lib.uring_close_file, fd)
        operation._fd = fd
        return operation

    def fsync(self, fd: int, *, data_only: bool = False) -> Operation[None]:
        """Have a file's data on the device (Linux 5.1); `data_only`: without times and the like, as fdatasync(2)."""
        self._require("fsync")
        return self._start(NoValue, None, lib.uring_fsync, fd, data_only)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> Operation[None]:
        """Allocate space, or with a `mode` of FALLOC_FL_* give it back, ... (fallocate(2); Linux 5.6)."""
        self._require("fallocate")
        return self._start(NoValue, None, lib.uring_fallocate, fd, mode, offset, length)

    def ftruncate(self, fd: int, length: int) -> Operation[None]:
        """Make a file `length` bytes long (Linux 6.9)."""
        self._require("ftruncate")
        return self._start(NoValue, None, lib.uring_ftruncate, fd, length)

    def splice(
        self, source: int, target: int, length: int, *, source_offset: int = -1, target_offset: int = -1, flags: int = 0
    ) -> Operation[int]:
        """Move up to `length` bytes from or to a pipe without copying (splice(2); Linux 5.7); how many were moved.

        An offset of -1 is the file's position, and the only one for a pipe. `flags` are of os.SPLICE_F_*.
        """
        self._require("splice")
        return self._start(Count, None, lib.uring_splice, source, source_offset, target, target_offset, length, flags)

    # ---- by name -----------------------------------------------------------------------------------------------

    def _start_named(
        self, kind: Callable[..., OperationT], names: tuple[Any, ...], prepare: Callable[..., int], *arguments: Any
    ) -> OperationT:
        operation = self._start(kind, arguments[0], prepare, *arguments[1:])
        operation._names = names  # type: ignore[attr-defined]
        return operation

    def _start_path(
        self, kind: Callable[..., OperationT], path: Name, prepare: Callable[..., int], at: int, *arguments: Any
    ) -> OperationT:
        memory = ffi.new("char[]", encode(path)[:-1])
        return self._start_named(kind, (os.fspath(path),), prepare, memory, at, memory, *arguments)

    def _start_paths(
        self,
        path: Name,
        to: Name,
        prepare: Callable[..., int],
        before: tuple[int, ...],
        between: tuple[int, ...],
        *behind: int,
    ) -> Operation[None]:
        first, second = encode(path), encode(to)
        memory = ffi.new("char[]", first + second[:-1])
        names = (os.fspath(path), None, os.fspath(to))
        return self._start_named(_Done, names, prepare, memory, *before, memory, *between, memory + len(first), *behind)

    def openat(self, path: Name, flags: int, mode: int = 0o777, *, dir_fd: int = AT_FDCWD) -> Operation[int]:
        """Open a file (Linux 5.6); its descriptor, which is close-on-exec if `flags` have os.O_CLOEXEC.

        One that arrives together with a cancellation is closed.
        """
        return self._openat(path, flags, mode, dir_fd)

    def _openat(self, path: Name, flags: int, mode: int, dir_fd: int = AT_FDCWD) -> OpenAt:
        self._require("openat")
        return self._start_path(OpenAt, path, lib.uring_openat, dir_fd, flags, mode)

    def stat(
        self, path: Name | int, *, dir_fd: int = AT_FDCWD, follow_symlinks: bool = True
    ) -> Operation[os.stat_result]:
        """What os.stat() gives, of a name or a descriptor (statx(2); Linux 5.6)."""
        self._require("statx")
        at, name = (path, b"\0") if isinstance(path, int) else (dir_fd, encode(path))
        flags = 0 if follow_symlinks else _AT_SYMLINK_NOFOLLOW
        if isinstance(path, int):
            flags |= _AT_EMPTY_PATH
        memory = _allocate("char[]", _STATX_SIZE + len(name))
        ffi.buffer(memory)[_STATX_SIZE:] = name
        shown = path if isinstance(path, int) else os.fspath(path)
        return self._start_named(
            *(_Statx, (shown,), lib.uring_statx, memory),
            *(at, memory + _STATX_SIZE, flags, _STATX_BASIC_STATS, memory),
        )

    def mkdirat(self, path: Name, mode: int = 0o777, *, dir_fd: int = AT_FDCWD) -> Operation[None]:
        """Make a directory (Linux 5.15)."""
        self._require("mkdirat")
        return self._start_path(_Done, path, lib.uring_mkdirat, dir_fd, mode)

    def unlinkat(self, path: Name, *, dir_fd: int = AT_FDCWD, directory: bool = False) -> Operation[None]:
        """Remove a file, or a `directory` that is empty (Linux 5.11)."""
        self._require("unlinkat")
        return self._start_path(_Done, path, lib.uring_unlinkat, dir_fd, _AT_REMOVEDIR if directory else 0)

    def renameat(
        self, path: Name, to: Name, *, dir_fd: int = AT_FDCWD, to_dir_fd: int = AT_FDCWD, flags: int = 0
    ) -> Operation[None]:
        """Rename; `flags` are of RENAME_* (renameat2(2); Linux 5.11)."""
        self._require("renameat")
        return self._start_paths(path, to, lib.uring_renameat, (dir_fd,), (to_dir_fd,), flags)

    def linkat(
        self,
        path: Name,
        to: Name,
        *,
        dir_fd: int = AT_FDCWD,
        to_dir_fd: int = AT_FDCWD,
        follow_symlinks: bool = False,
    ) -> Operation[None]:
        """Make a hard link `to` a file (Linux 5.15)."""
        self._require("linkat")
        flags = _AT_SYMLINK_FOLLOW if follow_symlinks else 0
        return self._start_paths(path, to, lib.uring_linkat, (dir_fd,), (to_dir_fd,), flags)

    def symlinkat(self, target: Name, path: Name, *, dir_fd: int = AT_FDCWD) -> Operation[None]:
        """Make a symbolic link to `target` at `path` (Linux 5.15)."""
        self._require("symlinkat")
        return self._start_paths(target, path, lib.uring_symlinkat, (), (dir_fd,))

    # ---- sockets -----------------------------------------------------------------------------------------------

    def send_zc(self, fd: int, data: ReadableBuffer, flags: int = 0) -> Operation[int]:
        """Send on a socket without copying (Linux 6.0); how many bytes. `flags` are of socket.MSG_*.

        Done when the kernel has let go of the data, which for TCP means acknowledged: worth it from some 10 KiB on, and
        not on the loopback interface, where the kernel copies all the same.
        """
        self._require("send_zc")
        memory = ffi.from_buffer("char[]", data)
        operation = self._start(_SendZc, memory, lib.uring_send_zc, fd, memory, min(len(memory), _LONGEST), flags)
        operation._sent = None
        return operation

    # ---- processes ---------------------------------------------------------------------------------------------

    def waitid(self, kind: int, id_: int, options: int) -> Operation[os.waitid_result | None]:
        """Wait for a child: what os.waitid() takes and gives (Linux 6.7). `kind` may be os.P_PIDFD."""
        self._require("waitid")
        memory = ffi.new("char[]", _SIGINFO_SIZE)
        return self._start(_WaitId, memory, lib.uring_waitid, kind, id_, memory, options)
