# SPDX-License-Identifier: MIT
"""`BufferedFile`: bytes through a buffer, as `io.BufferedReader`, `BufferedWriter` and `BufferedRandom`."""

from __future__ import annotations

import asyncio
import io
import os
import weakref
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

from aioring.fs._raw import RawFile, read_lines

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


class BufferedFile:
    """A binary file with a buffer; made by ``open(..., "rb")`` and its like.

    The buffer holds either what was read ahead or what is yet to be written. Tasks that share the file take turns.
    Nothing is lost when one is cancelled: what was read stays in the buffer, and so does what was not written.

    `pread`, `pread_into`, `preadv`, `pwrite` and `pwritev` are those of `RawFile`, past the buffer; what it still has
    is written before.
    """

    def __init__(self, raw: RawFile, buffer_size: int = io.DEFAULT_BUFFER_SIZE) -> None:
        self.raw = raw
        self._size = buffer_size
        self._ahead = bytearray()  # what was read,
        self._used = 0  # and how much of it was given out
        self._pending = bytearray()  # what was written, and is not in the file
        self._turn = asyncio.Lock()
        raw._layer = weakref.WeakMethod(self._flush_now)
        if not raw._writable:  # nothing stands between
            self.pread, self.pread_into = raw.pread, raw.pread_into  # type: ignore[method-assign]

    # ---- what it is --------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'closed' if self.closed else f'name={self.name!r} mode={self.mode!r}'}>"

    @property
    def name(self) -> Any:
        return self.raw.name

    @property
    def mode(self) -> str:
        return self.raw.mode

    @property
    def closed(self) -> bool:
        return self.raw.closed

    def fileno(self) -> int:
        return self.raw.fileno()

    def isatty(self) -> bool:
        return self.raw.isatty()

    def readable(self) -> bool:
        return self.raw.readable()

    def writable(self) -> bool:
        return self.raw.writable()

    def seekable(self) -> bool:
        return self.raw.seekable()

    def _check_readable(self) -> None:
        self.raw._check_open()
        if not self.raw._readable:
            raise io.UnsupportedOperation("read")

    def _check_writable(self) -> None:
        self.raw._check_open()
        if not self.raw._writable:
            raise io.UnsupportedOperation("write")

    # ---- reading -----------------------------------------------------------------------------------------------

    def _take(self, size: int) -> bytes:
        """Give out up to `size` bytes of what was read ahead."""
        end = min(self._used + size, len(self._ahead))
        data = bytes(memoryview(self._ahead)[self._used : end])
        if end == len(self._ahead):
            self._ahead.clear()
            self._used = 0
        else:
            self._used = end
        return data

    def _left(self) -> int:
        return len(self._ahead) - self._used

    async def _fill(self, size: int) -> bool:
        """Read ahead once, up to `size` bytes; whether there was something."""
        data = await self.raw.read(size)
        if self._used:
            del self._ahead[: self._used]
            self._used = 0
        self._ahead += data
        return bool(data)

    async def read(self, size: int | None = -1) -> bytes:
        """Read `size` bytes, or with None or -1 all that is left; fewer only at the end."""
        self._check_readable()
        if size is not None and 0 <= size <= self._left() and not self._turn.locked():
            return self._take(size)
        async with self._turn:
            await self._flush_pending()
            if size is None or size < 0:
                rest = await self.raw.readall()
                return self._take(self._left()) + rest
            if not self._left() and size >= self._size and self.raw._regular:
                return await self.raw.read(size)
            while self._left() < size:
                if not await self._fill(max(size - self._left(), self._size)):
                    break
            return self._take(size)

    async def read1(self, size: int = -1) -> bytes:
        """Read up to `size` bytes (-1: as many as the buffer holds), with one read of the file at most."""
        self._check_readable()
        if size < 0:
            size = self._size
        async with self._turn:
            await self._flush_pending()
            if not self._left() and size:
                await self._fill(self._size)
            return self._take(size)

    async def peek(self, size: int = 0) -> bytes:
        """What the buffer has, after one read of the file if it had nothing; none of it is given out."""
        self._check_readable()
        async with self._turn:
            await self._flush_pending()
            if not self._left():
                await self._fill(self._size)
            return bytes(memoryview(self._ahead)[self._used :])

    async def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a writable, contiguous buffer; how many bytes, fewer than its size only at the end."""
        with memoryview(buffer) as view, view.cast("B") as target:
            if target.readonly:
                raise TypeError("readinto() argument must be read-write bytes-like object")
            data = await self.read(len(target))
            target[: len(data)] = data
        return len(data)

    async def readinto1(self, buffer: WriteableBuffer) -> int:
        """As `readinto`, with one read of the file at most."""
        with memoryview(buffer) as view, view.cast("B") as target:
            if target.readonly:
                raise TypeError("readinto1() argument must be read-write bytes-like object")
            data = await self.read1(len(target))
            target[: len(data)] = data
        return len(data)

    async def readline(self, size: int | None = -1) -> bytes:
        """Read up to and with the next b"\\n", and `size` bytes at most."""
        self._check_readable()
        limit = -1 if size is None else size
        async with self._turn:
            await self._flush_pending()
            searched = 0
            while True:
                end = self._ahead.find(b"\n", self._used + searched) + 1
                length = end - self._used if end else self._left()
                if 0 <= limit <= length:
                    return self._take(limit)
                if end:
                    return self._take(length)
                searched = length
                if not await self._fill(self._size):
                    return self._take(length)

    async def readlines(self, hint: int | None = -1) -> list[bytes]:
        """Read lines, until their sizes sum up to more than `hint`, if that is above 0."""
        return await read_lines(self, hint)

    # ---- writing -----------------------------------------------------------------------------------------------

    async def write(self, data: ReadableBuffer) -> int:
        """Write all of the data, to the buffer as far as it has room; how many bytes that is."""
        self._check_writable()
        if isinstance(data, str):
            raise TypeError("a bytes-like object is required, not 'str'")
        with memoryview(data) as view, view.cast("B") as source:
            size = len(source)
            if not self._ahead and len(self._pending) + size <= self._size and not self._turn.locked():
                self._pending += source
                return size
            async with self._turn:
                self._drop_ahead()
                if len(self._pending) + size > self._size:
                    try:
                        await self._flush_pending()
                    except (OSError, asyncio.CancelledError) as error:
                        error.characters_written = 0  # type: ignore[union-attr]  # of this data
                        raise
                if size <= self._size:
                    self._pending += source
                else:
                    await self._write_all(source)
        return size

    async def _write_all(self, data: memoryview) -> None:
        """Write what the file's own write() leaves, too: a pipe takes a part."""
        done = 0
        while done < len(data):
            try:
                done += await self.raw.write(data[done:])
            except (OSError, asyncio.CancelledError) as error:
                error.characters_written = done + getattr(error, "characters_written", 0)  # type: ignore[union-attr]
                raise

    async def _flush_pending(self) -> None:
        """Write what the buffer has. What could not be written stays in it."""
        if not self._pending:
            return
        data, self._pending = self._pending, bytearray()
        try:
            with memoryview(data) as view:
                await self._write_all(view)
        except BaseException as error:
            done = getattr(error, "characters_written", 0)
            self._pending = data[done:] + self._pending
            raise

    def _flush_now(self) -> None:
        """Write what the buffer has, without a loop: nobody closed the file."""
        with memoryview(self._pending) as view:
            rest = view
            while rest:
                rest = rest[os.write(self.raw._fd, rest) :]
        self._pending = bytearray()

    def _drop_ahead(self) -> None:
        """Forget what was read ahead: the position goes back to where the reader is."""
        left = self._left()
        if left and self.raw._seekable:
            self.raw._seek(-left, os.SEEK_CUR)
        if self.raw._seekable:
            self._ahead.clear()
            self._used = 0

    async def writelines(self, lines: Iterable[ReadableBuffer]) -> None:
        for line in lines:
            await self.write(line)

    async def flush(self) -> None:
        """Have everything written reach the file (the device: `fsync`)."""
        self.raw._check_open()
        async with self._turn:
            await self._flush_pending()

    # ---- past the buffer ---------------------------------------------------------------------------------------

    async def pread(self, size: SupportsIndex, offset: SupportsIndex, /) -> bytes:
        if self._pending:
            await self.flush()
        return await self.raw.pread(size, offset)

    async def pread_into(self, buffer: WriteableBuffer, offset: SupportsIndex, /) -> int:
        if self._pending:
            await self.flush()
        return await self.raw.pread_into(buffer, offset)

    async def preadv(self, buffers: Sequence[WriteableBuffer], offset: SupportsIndex, /) -> int:
        if self._pending:
            await self.flush()
        return await self.raw.preadv(buffers, offset)

    async def pwrite(self, data: ReadableBuffer, offset: SupportsIndex, /) -> int:
        self._check_writable()
        await self._give_up_buffer()
        return await self.raw.pwrite(data, offset)

    async def pwritev(self, buffers: Sequence[ReadableBuffer], offset: SupportsIndex, /) -> int:
        self._check_writable()
        await self._give_up_buffer()
        return await self.raw.pwritev(buffers, offset)

    async def _give_up_buffer(self) -> None:
        if self._pending or self._ahead:
            async with self._turn:
                await self._flush_pending()
                self._drop_ahead()

    # ---- the file ----------------------------------------------------------------------------------------------

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position; where it is then."""
        self.raw._check_open()
        async with self._turn:
            await self._flush_pending()
            if whence == os.SEEK_CUR:
                offset -= self._left()
            position = self.raw._seek(offset, whence)
            self._ahead.clear()
            self._used = 0
            return position

    async def tell(self) -> int:
        """The position, behind what was read and written."""
        async with self._turn:
            return self._tell()

    def _tell(self) -> int:
        if self._pending and self.raw._appending:
            return self.raw._seek(0, os.SEEK_END) + len(self._pending)
        return self.raw._seek(0, os.SEEK_CUR) - self._left() + len(self._pending)

    async def truncate(self, size: int | None = None) -> int:
        """Make the file `size` bytes long, or end at the position; its new size. The position stays."""
        self.raw._check_open()
        if not self.raw._writable:
            raise io.UnsupportedOperation("truncate")
        async with self._turn:
            await self._flush_pending()
            self._drop_ahead()
            return await self.raw.truncate(size)

    async def allocate(self, offset: int, length: int, mode: int = 0) -> None:
        """As `RawFile.allocate`."""
        await self.flush()
        await self.raw.allocate(offset, length, mode)

    async def fsync(self) -> None:
        """Have everything written reach the device."""
        await self.flush()
        await self.raw.fsync()

    async def fdatasync(self) -> None:
        """As `fsync`, without what is not needed to read the data back, such as times."""
        await self.flush()
        await self.raw.fdatasync()

    async def stat(self) -> os.stat_result:
        """As os.fstat(), with everything written."""
        await self.flush()
        return await self.raw.stat()

    async def close(self) -> None:
        """Write what the buffer has, and close; the file is closed even if that fails."""
        if self.raw.closed:
            await self.raw.close()
            return
        try:
            if self._pending:
                await self.flush()
        finally:
            self._pending.clear()
            await self.raw.close()

    async def aclose(self) -> None:
        """As `close`, for anyio and `contextlib.aclosing`."""
        await self.close()

    def __del__(self) -> None:
        if self._pending and self.raw._fd >= 0 and self.raw._regular:
            self._flush_now()

    async def __aenter__(self) -> Self:
        self.raw._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        self.raw._check_open()
        return self

    async def __anext__(self) -> bytes:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line
