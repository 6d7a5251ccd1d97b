# SPDX-License-Identifier: MIT
"""The host side of the guest SDK's libc: what ``vm/sdk/include/pvm_host.h`` declares, as far as it is granted.

docs/guests.md has the interface. Every function is there for every guest; what was not granted is an error that the
guest's program sees, such as -EBADF. Whatever the guest passes, the answer is a number: bad addresses are -EFAULT, and
no size makes the host allocate more than `LARGEST`.
"""

from __future__ import annotations

import errno
import inspect
import io
import os
import stat
import struct
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, BinaryIO, Literal, TypeVar

from vm._directories import LONGEST_PATH, Directories, Directory, OpenFile
from vm._errors import MemoryAccessError
from vm._instance import Instance
from vm._linker import Caller, Linker
from vm._threads import to_thread
from vm._types import i32, i64, u32

T = TypeVar("T")

#: Where output goes: a function (or coroutine function) that takes bytes, a bytearray, a binary stream, or nowhere.
Sink = Callable[[bytes], Any] | bytearray | BinaryIO | io.BufferedIOBase | io.RawIOBase | None
#: Where input comes from: bytes, a function (or coroutine function) from the most that is wanted to bytes, a stream.
Source = bytes | bytearray | Callable[[int], Any] | BinaryIO | io.BufferedIOBase | io.RawIOBase | None

#: Bytes that one call moves at most; it is then a short one.
LARGEST = 1 << 20
#: Files that one guest has open at most.
MOST_FILES = 64
#: Random bytes that one call gets at most: drawing them takes time on the event loop.
MOST_RANDOM = 1 << 16

# pvm_stat.kind, and the structure: size, modified_ns, kind, reserved.
_FILE, _DIRECTORY, _STREAM, _OTHER = 1, 2, 3, 4
_STAT = struct.Struct("<QqII")
_REALTIME, _MONOTONIC = 0, 1


class Stdio:
    """Streams, files, clocks and the like for guests that are built with the SDK's libc.

    Nothing is there unless granted:

    * `stdout`, `stderr`: a function that takes bytes (``def`` or ``async def``), a bytearray, or a binary stream;
    * `stdin`: bytes, a function that takes the number of bytes wanted and returns no more of them, or a binary stream;
    * `args`: the program's arguments, with its name first; `env`: its environment;
    * `clock`: the time, and a clock that starts when the guest first asks for anything; `random`: random bytes;
    * `directories`: by the name that the guest has for it, a directory's path, to be read (``"r"``) or also changed
      (``"rw"``): ``{"data": ("/srv/data", "r")}``. Symbolic links in it are not followed. What fills a disk is the
      host's business: a quota, say.

    Streams are read and written in threads, other than bytes, bytearrays and io.BytesIO. One object can serve any
    number of instances: they share its streams, but have their own files, which close with them.

    Raises TypeError and ValueError for what is none of this.
    """

    def __init__(
        self,
        *,
        stdout: Sink = None,
        stderr: Sink = None,
        stdin: Source = None,
        args: Sequence[str | bytes] = (),
        env: Mapping[str, str] | None = None,
        clock: bool = False,
        random: bool = False,
        directories: Mapping[str, tuple[str | os.PathLike[str], Literal["r", "rw"]]] | None = None,
    ) -> None:
        if isinstance(args, str | bytes):
            raise TypeError("args must be a sequence of arguments, not one")
        self._streams = {0: _input(stdin), 1: _output(stdout, "stdout"), 2: _output(stderr, "stderr")}
        self._args = _strings([os.fsencode(word) for word in args])
        self._env = _strings([os.fsencode(f"{name}={value}") for name, value in (env or {}).items()])
        self._clock = clock
        self._random = random
        self._directories = Directories({name: _grant(name, *grant) for name, grant in (directories or {}).items()})
        self._guests: weakref.WeakKeyDictionary[Instance, _Guest] = weakref.WeakKeyDictionary()

    @property
    def names(self) -> frozenset[str]:
        """The names of the host functions that `link` defines."""
        return frozenset(self._functions())

    def link(self, linker: Linker) -> None:
        """Defines all host functions of the SDK's libc. Raises ValueError if one of them is defined already."""
        for name, function in self._functions().items():
            linker.define(name, function)

    def _functions(self) -> dict[str, Callable[..., Any]]:
        return {
            "pvm_write": self._write,
            "pvm_read": self._read,
            "pvm_open": self._open,
            "pvm_close": self._close,
            "pvm_seek": self._seek,
            "pvm_stat": self._stat,
            "pvm_fstat": self._fstat,
            "pvm_remove": self._remove,
            "pvm_rename": self._rename,
            "pvm_mkdir": self._mkdir,
            "pvm_clock_ns": self._clock_ns,
            "pvm_random": self._random_bytes,
            "pvm_args": self._arguments,
            "pvm_env": self._environment,
        }

    def _guest(self, caller: Caller) -> _Guest:
        guest = self._guests.get(caller.instance)
        if guest is None:
            guest = self._guests[caller.instance] = _Guest(self._streams)
            caller.instance._closing.append(guest.close)
        return guest

    # --- the functions ---

    async def _write(self, caller: Caller, fd: i32, address: u32, size: u32) -> i32:
        file = self._guest(caller).files.get(fd)
        if file is None or file.write is None:
            return -errno.EBADF
        try:
            data = caller.memory.read(address, min(size, LARGEST))
        except MemoryAccessError:
            return -errno.EFAULT
        return await _guarded(file.write(data)) if data else 0

    async def _read(self, caller: Caller, fd: i32, address: u32, size: u32) -> i32:
        file = self._guest(caller).files.get(fd)
        if file is None or file.read is None:
            return -errno.EBADF
        size = min(size, LARGEST)
        # Before anything is taken from where it comes from
        if not caller.memory.is_accessible(address, size, writable=True):
            return -errno.EFAULT
        if not size:
            return 0
        data = await _guarded(file.read(size))
        if isinstance(data, int):
            return data
        caller.memory.write(address, data)
        return len(data)

    async def _open(self, caller: Caller, path: u32, length: u32, flags: u32) -> i32:
        guest = self._guest(caller)
        if len(guest.files) >= MOST_FILES:
            return -errno.EMFILE
        name = _path(caller, path, length)
        if isinstance(name, int):
            return name
        # Should the call be cancelled, the file that the thread opens closes as nobody holds it.
        file = await _guarded(to_thread(self._directories.open, name, flags))
        return file if isinstance(file, int) else guest.add(file)

    async def _close(self, caller: Caller, fd: i32) -> i32:
        stream = self._guest(caller).files.pop(fd, None)
        if stream is None:
            return -errno.EBADF
        if stream.file is not None:
            await to_thread(stream.file.close)
        return 0

    def _seek(self, caller: Caller, fd: i32, offset: i64, whence: u32) -> i64:
        stream = self._guest(caller).files.get(fd)
        if stream is None:
            return -errno.EBADF
        if stream.file is None:
            return -errno.ESPIPE
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
            return -errno.EINVAL
        try:
            return stream.file.seek(offset, whence)
        except OSError as error:
            return -_number(error)

    async def _stat(self, caller: Caller, path: u32, length: u32, result: u32) -> i32:
        name = _path(caller, path, length)
        if isinstance(name, int):
            return name
        if not name.strip(b"/"):
            return -errno.ENOENT if not name else _put_stat(caller, result, 0, 0, _DIRECTORY)
        status = await _guarded(to_thread(self._directories.stat, name))
        return status if isinstance(status, int) else _put_status(caller, result, status)

    async def _fstat(self, caller: Caller, fd: i32, result: u32) -> i32:
        stream = self._guest(caller).files.get(fd)
        if stream is None:
            return -errno.EBADF
        if stream.file is None:
            return _put_stat(caller, result, 0, 0, _STREAM)
        status = await _guarded(to_thread(stream.file.stat))
        return status if isinstance(status, int) else _put_status(caller, result, status)

    async def _remove(self, caller: Caller, path: u32, length: u32) -> i32:
        return await _change(self._directories.remove, _path(caller, path, length))

    async def _rename(self, caller: Caller, old: u32, old_length: u32, new: u32, new_length: u32) -> i32:
        return await _change(self._directories.rename, _path(caller, old, old_length), _path(caller, new, new_length))

    async def _mkdir(self, caller: Caller, path: u32, length: u32) -> i32:
        return await _change(self._directories.make_directory, _path(caller, path, length))

    def _clock_ns(self, caller: Caller, clock: u32) -> i64:
        if not self._clock:
            return -errno.EPERM
        if clock == _REALTIME:
            return time.time_ns()
        started = self._guest(caller).started  # instead of how long the host has been up
        return time.monotonic_ns() - started if clock == _MONOTONIC else -errno.EINVAL

    def _random_bytes(self, caller: Caller, address: u32, size: u32) -> i32:
        if not self._random:
            return -errno.EPERM
        size = min(size, MOST_RANDOM)
        return _put(caller, address, os.urandom(size)) or size

    def _arguments(self, caller: Caller, address: u32, size: u32) -> i32:
        return _put(caller, address, self._args if size >= len(self._args) else b"") or len(self._args)

    def _environment(self, caller: Caller, address: u32, size: u32) -> i32:
        return _put(caller, address, self._env if size >= len(self._env) else b"") or len(self._env)


class _Stream:
    """What a descriptor stands for."""

    __slots__ = ("file", "read", "write")

    def __init__(
        self,
        read: Callable[[int], Awaitable[bytes]] | None = None,
        write: Callable[[bytes], Awaitable[int]] | None = None,
        file: OpenFile | None = None,
    ) -> None:
        self.read = read
        self.write = write
        self.file = file

    @classmethod
    def of_file(cls, file: OpenFile) -> _Stream:
        return cls(lambda size: to_thread(file.read, size), lambda data: to_thread(file.write, data), file)


class _Guest:
    """What one instance has open."""

    def __init__(self, streams: Mapping[int, _Stream | None]) -> None:
        self.files = {fd: stream for fd, stream in streams.items() if stream is not None}
        self.started = time.monotonic_ns()
        self._closed = False

    def add(self, file: OpenFile) -> int:
        """The descriptor that it got, the lowest that is free behind the standard ones."""
        if self._closed:  # meanwhile
            file.close()
            return -errno.EBADF
        fd = next(number for number in range(3, MOST_FILES + 4) if number not in self.files)
        self.files[fd] = _Stream.of_file(file)
        return fd

    def close(self) -> None:
        """The instance is closed."""
        self._closed = True
        while self.files:
            _, stream = self.files.popitem()
            if stream.file is not None:
                stream.file.close()


# --- streams ---


def _output(sink: Sink, name: str) -> _Stream | None:
    if sink is None:
        return None
    put: Callable[[bytes], Any]
    if isinstance(sink, bytearray):
        put = sink.extend
    elif isinstance(sink, io.BytesIO):
        put = sink.write
    elif hasattr(sink, "write"):
        stream = sink
        return _Stream(write=lambda data: to_thread(_write_all, stream, data))
    elif callable(sink):
        put = sink
    else:
        raise TypeError(f"{name} must be a function, a bytearray or a binary stream, not {type(sink).__name__}")

    async def write(data: bytes) -> int:
        result = put(data)
        if inspect.isawaitable(result):
            await result
        return len(data)

    return _Stream(write=write)


def _write_all(stream: Any, data: bytes) -> int:
    """What a raw stream cannot take at once remains the guest's to write."""
    written = stream.write(data)
    stream.flush()
    return len(data) if written is None else int(written)


def _input(source: Source) -> _Stream | None:
    if source is None:
        return None
    if isinstance(source, bytes | bytearray):
        source = io.BytesIO(source)
    get: Callable[[int], Any]
    if isinstance(source, io.BytesIO):
        get = source.read
    elif hasattr(source, "read"):
        # What is there, instead of all that was asked for
        get_some = getattr(source, "read1", source.read)
        return _Stream(read=lambda size: to_thread(_read_some, get_some, size))
    elif callable(source):
        get = source
    else:
        raise TypeError(f"stdin must be bytes, a function or a binary stream, not {type(source).__name__}")

    async def read(size: int) -> bytes:
        data = get(size)
        if inspect.isawaitable(data):
            data = await data
        return _checked(data, size)

    return _Stream(read=read)


def _read_some(get: Callable[[int], Any], size: int) -> bytes:
    return _checked(get(size), size)


def _checked(data: object, size: int) -> bytes:
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"stdin gave {type(data).__name__}, not bytes")
    if len(data) > size:
        raise ValueError(f"stdin gave {len(data)} bytes where at most {size} were wanted")
    return bytes(data)


# --- arguments and results ---


def _grant(name: str, path: str | os.PathLike[str], mode: str) -> Directory:
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise ValueError(f"{name!r} cannot be the name of a directory for guests: it is one name of a path")
    if mode not in ("r", "rw"):
        raise ValueError(f"directory {name!r} must be granted 'r' or 'rw', not {mode!r}")
    return Directory(os.fspath(path), "rw" if mode == "rw" else "r")


def _strings(words: Sequence[bytes]) -> bytes:
    if any(b"\0" in word for word in words):
        raise ValueError("arguments and environment must not contain NUL")
    return b"".join(word + b"\0" for word in words)


def _number(error: OSError) -> int:
    return error.errno or errno.EIO


async def _guarded(work: Awaitable[T]) -> T | int:
    """What `work` gives, or -errno."""
    try:
        return await work
    except OSError as error:
        return -_number(error)


async def _change(change: Callable[..., None], *paths: bytes | int) -> int:
    for path in paths:
        if isinstance(path, int):
            return path
    return await _guarded(to_thread(change, *paths)) or 0


def _path(caller: Caller, address: int, length: int) -> bytes | int:
    if length >= LONGEST_PATH:
        return -errno.ENAMETOOLONG
    try:
        return caller.memory.read(address, length)
    except MemoryAccessError:
        return -errno.EFAULT


def _put(caller: Caller, address: int, data: bytes) -> int:
    if not caller.memory.is_accessible(address, len(data), writable=True):
        return -errno.EFAULT
    caller.memory.write(address, data)
    return 0


def _put_status(caller: Caller, address: int, status: os.stat_result) -> int:
    kind = _FILE if stat.S_ISREG(status.st_mode) else _DIRECTORY if stat.S_ISDIR(status.st_mode) else _OTHER
    return _put_stat(caller, address, status.st_size, status.st_mtime_ns, kind)


def _put_stat(caller: Caller, address: int, size: int, modified_ns: int, kind: int) -> int:
    return _put(caller, address, _STAT.pack(size, modified_ns, kind, 0))
