# SPDX-License-Identifier: MIT
"""`RawFile`: a descriptor whose reads and writes go to the ring, without a buffer of its own."""

from __future__ import annotations

import asyncio
import io
import os
import warnings
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, AnyStr, Self, TypeVar

from aioring import _loop
from aioring._ring import Ring

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from aioring._event_loop import EventLoop

FutureT = TypeVar("FutureT", bound=asyncio.Future[Any])

# What is asked for where the size of the rest is not known.
_CHUNK = 64 * 1024
_BLOCK = 4096


async def read_lines(file: AsyncIterable[AnyStr], hint: int | None) -> list[AnyStr]:
    """For readlines(): lines, until their sizes sum up to more than `hint`, if that is above 0."""
    lines: list[AnyStr] = []
    total = 0
    async for line in file:
        lines.append(line)
        total += len(line)
        if hint is not None and 0 < hint < total:
            break
    return lines


class RawFile(_loop.File):
    """An open file without a buffer, as `io.FileIO`; made by ``open(..., buffering=0)``.

    `pread`, `pread_into`, `preadv`, `pwrite` and `pwritev` name their offset, and any number of them may be in flight.
    The others work at the file's position, one after the other. On a regular file they move everything they are asked
    to, or up to its end; on others (pipes, terminals, devices) what one system call does.

    A cancelled transfer is over when the kernel has let go of its memory. A cancelled read loses nothing: it leaves the
    position, or where there is none what it has to the next read. A cancelled write says in the CancelledError's
    `characters_written` how much was written.

    Belongs to the loop in which it was opened, and to its thread.
    """

    name: Any
    mode: str

    def __init__(self, loop: EventLoop, fd: int, flags: int, *, name: Any, mode: str, close_fd: bool = True) -> None:
        self.name = name
        self.mode = mode
        self._close_fd = close_fd
        self._at_position: asyncio.Lock | None = None
        self._closed: asyncio.Task[None] | None = None
        self._others: set[asyncio.Future[Any]] = set()  # operations on the descriptor that are no transfers
        self._layer: Callable[[], Callable[[], None] | None] | None = None  # a weak one: writes what a buffer still has
        self._attach(loop, fd, flags)
        loop._files.add(self)

    # ---- what it is --------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"name={self.name!r} mode={self.mode!r} fd={self._fd}"
        return f"<{type(self).__name__} {state}>"

    @property
    def closed(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._closing

    def fileno(self) -> int:
        self._check_open()
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self.fileno())

    def readable(self) -> bool:
        self._check_open()
        return self._readable

    def writable(self) -> bool:
        self._check_open()
        return self._writable

    def seekable(self) -> bool:
        self._check_open()
        return self._seekable

    def _check_open(self) -> None:
        if self._closing:
            raise ValueError("I/O operation on closed file")

    # ---- at the position ---------------------------------------------------------------------------------------

    async def _in_turn(self, transfer: Coroutine[Any, Any, Any]) -> Any:
        """One transfer at a time has the position. Where there is none a reader need not wait for a writer."""
        if not self._seekable:
            return await transfer
        lock = self._at_position
        if lock is None:
            lock = self._at_position = asyncio.Lock()
        try:
            async with lock:
                return await transfer
        finally:
            transfer.close()  # if it was cancelled before its turn

    async def read(self, size: int | None = -1) -> bytes:
        """Read up to `size` bytes, or with None or -1 all that is left; b"" at the end."""
        if size is None or size < 0:
            return await self.readall()
        data: bytes = await self._in_turn(self._read(size))
        return data

    async def readall(self) -> bytes:
        """Read until the end."""
        parts: list[bytes] = []
        size = (self._rest() // _BLOCK + 1) * _BLOCK  # more, to see the end; and whole blocks, for O_DIRECT
        while data := await self.read(size):
            if not parts and self._regular and len(data) < size:
                return data
            parts.append(data)
            if self._regular and len(data) < size:
                break
            size = max(size, _CHUNK)
        return b"".join(parts)

    def _rest(self) -> int:
        """How many bytes are likely left from the position on."""
        self._check_open()
        if not self._regular or not self._seekable:
            return _CHUNK - 1
        return max(os.fstat(self._fd).st_size - os.lseek(self._fd, 0, os.SEEK_CUR), 0) or _CHUNK - 1

    async def readinto(self, buffer: WriteableBuffer) -> int:
        """Read into a writable, contiguous buffer; how many bytes, 0 at the end."""
        count: int = await self._in_turn(self._read_into(buffer))
        return count

    async def readline(self, size: int | None = -1) -> bytes:
        """Read up to and with the next b"\\n", and `size` bytes at most; byte by byte, as nothing is kept."""
        line = bytearray()
        limit = -1 if size is None else size
        while limit < 0 or len(line) < limit:
            byte = await self.read(1)
            line += byte
            if byte in (b"", b"\n"):
                break
        return bytes(line)

    async def readlines(self, hint: int | None = -1) -> list[bytes]:
        """Read lines, until their sizes sum up to more than `hint`, if that is above 0."""
        return await read_lines(self, hint)

    async def write(self, data: ReadableBuffer) -> int:
        """Write; how many bytes. All of them, if the file is regular."""
        count: int = await self._in_turn(self._write(data))
        return count

    async def writelines(self, lines: Iterable[ReadableBuffer]) -> None:
        for line in lines:
            await self.write(line)

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position; where it is then."""
        return self._seek(offset, whence)

    async def tell(self) -> int:
        """The position."""
        return self._seek(0, os.SEEK_CUR)

    def _seek(self, offset: int, whence: int) -> int:
        self._check_open()
        return os.lseek(self._fd, offset, whence)

    # ---- the file ----------------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Nothing: there is no buffer."""
        self._check_open()

    async def truncate(self, size: int | None = None) -> int:
        """Make the file `size` bytes long, or end at the position; its new size."""
        self._check_writable()
        if size is None:
            size = self._seek(0, os.SEEK_CUR)
        if size < 0:
            raise OSError(22, os.strerror(22))
        if self._ring.supports("ftruncate"):
            await self._until_done(self._ring.ftruncate(self._fd, size))
        else:  # before Linux 6.9
            call = self._loop.run_in_executor(None, os.ftruncate, self._fd, size)
            await asyncio.shield(self._until_done(call))  # the thread has the descriptor whatever happens here
        return size

    async def allocate(self, offset: int, length: int, mode: int = 0) -> None:
        """Have the file system set space aside, so that writes there cannot find it full (fallocate(2)).

        The file grows if the range ends behind it. `mode` is of FALLOC_FL_*: to keep the size, punch a hole, ...
        """
        self._check_writable()
        await self._until_done(self._ring.fallocate(self._fd, mode, offset, length))

    async def fsync(self) -> None:
        """Have everything written reach the device."""
        self._check_open()
        await self._until_done(self._ring.fsync(self._fd))

    async def fdatasync(self) -> None:
        """As `fsync`, without what is not needed to read the data back, such as times."""
        self._check_open()
        await self._until_done(self._ring.fsync(self._fd, data_only=True))

    async def stat(self) -> os.stat_result:
        """As os.fstat()."""
        self._check_open()
        return await self._until_done(self._ring.stat(self._fd))

    @property
    def _ring(self) -> Ring:
        ring: Ring = self._loop.ring
        return ring

    def _until_done(self, operation: FutureT) -> FutureT:
        """Keep the descriptor open as long as this takes."""
        self._others.add(operation)
        operation.add_done_callback(self._others.discard)
        return operation

    def _check_writable(self) -> None:
        self._check_open()
        if not self._writable:
            raise io.UnsupportedOperation("File not open for writing")

    # ---- closing -----------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close it; again does nothing.

        What is in flight on a regular file is waited for; on others it is cancelled, and raises ValueError. Cancelling
        this does not keep the file open.
        """
        if self._closed is None:
            if self._fd < 0:
                return
            idle = self._stop()
            if idle is None and not self._others and not (self._writable and self._close_fd):
                self._close_now()
                return
            self._closed = self._loop.create_task(self._close(idle))
        await asyncio.shield(self._closed)

    async def aclose(self) -> None:
        """As `close`, for anyio and `contextlib.aclosing`."""
        await self.close()

    async def _close(self, idle: asyncio.Future[None] | None) -> None:
        try:
            if idle is not None:
                await idle
            if self._others:
                await asyncio.wait(list(self._others))
            self._loop._files.discard(self)
            fd = self._release()
            if fd >= 0 and self._close_fd:
                await self._ring.close_file(fd)  # which may have to write, over a network
        except asyncio.CancelledError:  # asyncio.run() ends
            if self._in_flight == 0 and not self._others:
                self._close_now()
            raise

    def _close_now(self) -> None:
        """Close it without waiting. Nothing must be in flight."""
        self._loop._files.discard(self)
        fd = self._release()
        if fd >= 0 and self._close_fd:
            os.close(fd)

    def _close_forgotten(self, why: str) -> None:
        """Nobody closed it. What a buffer still has is written, as the stdlib's files do."""
        if self._fd < 0:
            return
        try:
            warnings.warn(f"unclosed file {self!r}{why}", ResourceWarning, source=self, stacklevel=2)
        finally:  # a warning may be an error
            try:
                flush = self._layer() if self._layer is not None and self._regular else None
                if flush is not None:
                    flush()
            finally:
                self._close_now()

    def __del__(self) -> None:
        if self._fd >= 0 and self._loop is not None:
            self._close_forgotten("")

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        self._check_open()
        return self

    async def __anext__(self) -> bytes:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line
