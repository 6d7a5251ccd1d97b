# SPDX-License-Identifier: MIT
"""`open()`: what builtins.open() opens, in a loop."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Generator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar, overload

from aioring._file_operations import Name
from aioring.fs._buffered import BufferedFile
from aioring.fs._raw import RawFile
from aioring.fs._running import running_loop
from aioring.fs._text import TextFile

FileT_co = TypeVar("FileT_co", bound="TextFile | BufferedFile | RawFile", covariant=True)
Opener = Callable[[str, int], int]


class Opening(Generic[FileT_co]):
    """What `open()` returns: awaited, it gives the file; as a context manager it closes it, too."""

    def __init__(self, start: Callable[[], Generator[Any, Any, FileT_co]]) -> None:
        self._start = start
        self._file: FileT_co | None = None

    def __await__(self) -> Generator[Any, Any, FileT_co]:
        return self._start()

    async def __aenter__(self) -> FileT_co:
        self._file = await self
        return self._file

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._file is not None
        await self._file.close()


@dataclass(frozen=True, slots=True)
class _Mode:
    """A mode, taken apart."""

    text: str  # as given
    flags: int  # of open(2)
    binary: bool

    @property
    def raw_name(self) -> str:
        """As `io.FileIO` shows it."""
        update = self.flags & os.O_ACCMODE == os.O_RDWR
        if "x" in self.text:
            return "xb+" if update else "xb"
        if "a" in self.text:
            return "ab+" if update else "ab"
        return "rb+" if update else "rb" if "r" in self.text else "wb"


def _parse(mode: str) -> _Mode:
    """Raises ValueError as builtins.open() does."""
    if not isinstance(mode, str):
        raise TypeError(f"open() argument 'mode' must be str, not {type(mode).__name__}")
    kinds = set(mode)
    if kinds - set("axrwb+t") or len(mode) > len(kinds):
        raise ValueError(f"invalid mode: {mode!r}")
    if {"t", "b"} <= kinds:
        raise ValueError("can't have text and binary mode at once")
    if not kinds & set("xrwa"):
        raise ValueError("Must have exactly one of create/read/write/append mode and at most one plus")
    if len(kinds & set("xrwa")) > 1:
        raise ValueError("must have exactly one of create/read/write/append mode")
    flags = {
        "r": os.O_RDONLY,
        "w": os.O_CREAT | os.O_TRUNC,
        "x": os.O_CREAT | os.O_EXCL,
        "a": os.O_CREAT | os.O_APPEND,
    }[next(iter(kinds & set("xrwa")))]
    if "+" in kinds:
        flags |= os.O_RDWR
    elif "r" not in kinds:
        flags |= os.O_WRONLY
    return _Mode(mode, flags | os.O_CLOEXEC, "b" in kinds)


def _check_arguments(
    mode: _Mode, buffering: int, encoding: str | None, errors: str | None, newline: str | None, direct: bool
) -> None:
    if mode.binary and encoding is not None:
        raise ValueError("binary mode doesn't take an encoding argument")
    if mode.binary and errors is not None:
        raise ValueError("binary mode doesn't take an errors argument")
    if mode.binary and newline is not None:
        raise ValueError("binary mode doesn't take a newline argument")
    if buffering == 0 and not mode.binary:
        raise ValueError("can't have unbuffered text I/O")
    if direct and buffering != 0:
        raise ValueError("direct I/O is unbuffered: buffering must be 0")


async def _open_raw(
    file: Name | int, mode: _Mode, closefd: bool, opener: Opener | None, direct: bool, fixed: bool
) -> RawFile:
    loop = running_loop()
    flags = mode.flags | (os.O_DIRECT if direct else 0)
    if isinstance(file, int):
        if file < 0:
            raise ValueError("negative file descriptor")
        fd, own = file, closefd
        name: Any = file
    else:
        name, own = os.fspath(file), True
        if not closefd:
            raise ValueError("Cannot use closefd=False with file name")
        if opener is not None:
            fd = opener(name, flags)
            if not isinstance(fd, int):
                raise TypeError("expected integer from opener")
            if fd < 0:
                raise ValueError(f"opener returned {fd}")
            os.set_inheritable(fd, False)
        else:
            opening = loop.ring._openat(name, flags, 0o666)
            try:
                fd = await opening
            except BaseException:
                opening.forsake()
                raise
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        if "a" in mode.text:
            try:
                os.lseek(fd, 0, os.SEEK_END)
            except OSError as error:
                if error.errno != errno.ESPIPE:
                    raise
        raw = RawFile(loop, fd, flags, name=name, mode=mode.raw_name, close_fd=own)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = name
        if own and not (isinstance(file, int)):
            os.close(fd)
        raise
    if fixed:
        try:
            raw._fix()
        except BaseException:
            raw._close_now()
            raise
    return raw


async def _open(
    file: Name | int,
    mode: _Mode,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    closefd: bool,
    opener: Opener | None,
    direct: bool,
    fixed: bool,
) -> TextFile | BufferedFile | RawFile:
    raw = await _open_raw(file, mode, closefd, opener, direct, fixed)
    try:
        line_buffering = not mode.binary and (buffering == 1 or (buffering < 0 and os.isatty(raw._fd)))
        if buffering == 0:
            return raw
        if buffering < 0 or buffering == 1:
            block: int = os.fstat(raw._fd).st_blksize
            buffering = block if block > 1 else io.DEFAULT_BUFFER_SIZE
        buffered = BufferedFile(raw, buffering)
        if mode.binary:
            return buffered
        text = TextFile(buffered, encoding, errors, newline, line_buffering)
        text._mode = mode.text
        return text
    except BaseException:
        raw._close_now()
        raise


@overload
def open(
    file: Name | int,
    mode: Literal["r", "w", "a", "x", "r+", "w+", "a+", "x+", "rt", "wt", "at", "xt", "r+t", "w+t", "a+t"] = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    fixed: bool = False,
) -> Opening[TextFile]: ...
@overload
def open(  # type: ignore[overload-overlap]  # 0 is an int, too
    file: Name | int,
    mode: Literal["rb", "wb", "ab", "xb", "r+b", "rb+", "w+b", "wb+", "a+b", "ab+", "x+b", "xb+"],
    buffering: Literal[0],
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    direct: bool = False,
    fixed: bool = False,
) -> Opening[RawFile]: ...
@overload
def open(
    file: Name | int,
    mode: Literal["rb", "wb", "ab", "xb", "r+b", "rb+", "w+b", "wb+", "a+b", "ab+", "x+b", "xb+"],
    buffering: int = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    fixed: bool = False,
) -> Opening[BufferedFile]: ...
@overload
def open(
    file: Name | int,
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    direct: bool = False,
    fixed: bool = False,
) -> Opening[Any]: ...
def open(
    file: Name | int,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    direct: bool = False,
    fixed: bool = False,
) -> Opening[Any]:
    """Open a file: arguments, result and errors are those of builtins.open().

    ::

        async with aioring.fs.open("log.txt") as file:
            async for line in file: ...

    The result is awaited, or entered. It is a `TextFile`, with a "b" in the mode a `BufferedFile`, and with
    ``buffering=0`` a `RawFile`. An `opener` is called in the loop's thread.

    Args:
        direct: past the page cache (O_DIRECT, open(2)); needs ``buffering=0``. Offsets, sizes and memory that a program
            gives must be multiples of the device's block; `Buffers` are. `pread` and `read` bring their own memory.
        fixed: register the descriptor with the ring (Linux 5.19), which saves the kernel a look-up per operation that
            goes there. 1024 files at a time, then OSError (ENFILE).

    Raises:
        OSError: as builtins.open(), with the name in `filename`.
        ValueError: arguments that do not go together, or a name with a NUL.
        RingStateError: no `EventLoop` runs.
    """
    if not isinstance(file, int):
        os.fspath(file)
    parsed = _parse(mode)
    _check_arguments(parsed, buffering, encoding, errors, newline, direct)

    def start() -> Generator[Any, Any, Any]:
        return _open(file, parsed, buffering, encoding, errors, newline, closefd, opener, direct, fixed).__await__()

    return Opening(start)
