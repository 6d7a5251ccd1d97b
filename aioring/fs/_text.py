# SPDX-License-Identifier: MIT
"""`TextFile`: text through a codec, as `io.TextIOWrapper`."""

from __future__ import annotations

import asyncio
import codecs
import io
import locale
import os
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from aioring.fs._buffered import BufferedFile
from aioring.fs._raw import read_lines

_NEWLINES = (None, "", "\n", "\r", "\r\n")
_CHUNK = 8192

# A position in text: where in the file the decoder stood (64 bits), its flags (64), how many bytes to feed it (32) and
# how many of the characters that come of them to skip (32). Plain byte offsets wherever that says it all.
_FLAGS_SHIFT, _FEED_SHIFT, _SKIP_SHIFT = 64, 128, 160


def _codec(encoding: str) -> codecs.CodecInfo:
    """Raises LookupError: it is unknown, or not one of text."""
    info = codecs.lookup(encoding)
    if not info._is_text_encoding:
        raise LookupError(f"{encoding!r} is not a text encoding; use codecs.open() to handle arbitrary codecs")
    return info


class TextFile:
    """A text file; made by ``open(...)`` without a "b" in its mode.

    Encoding, errors and newlines are as for builtins.open(). Positions that `tell` gives are for `seek` only.
    """

    def __init__(
        self,
        buffer: BufferedFile,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        line_buffering: bool = False,
    ) -> None:
        if newline not in _NEWLINES:
            raise ValueError(f"illegal newline value: {newline}")
        encoding = io.text_encoding(encoding, 3)
        if encoding == "locale":
            encoding = locale.getencoding()
        info = _codec(encoding)
        self.buffer = buffer
        self._mode: str | None = None
        self._encoding = encoding
        self._errors = errors or "strict"
        self._line_buffering = line_buffering
        self._ends = newline  # None and "": any
        self._write_end = {None: os.linesep, "": "\n"}.get(newline, newline)
        decoder = info.incrementaldecoder(self._errors)
        self._decoder: codecs.IncrementalDecoder | io.IncrementalNewlineDecoder = decoder
        if newline in (None, ""):
            self._decoder = io.IncrementalNewlineDecoder(decoder, translate=newline is None)
        self._encoder = info.incrementalencoder(self._errors)
        self._turn = asyncio.Lock()
        self._text = ""  # decoded,
        self._used = 0  # and how much of it was given out
        # The decoder's state before it was given the bytes that `_text` is of, and these. None: there are none.
        self._fed: tuple[tuple[bytes, int], bytes] | None = None
        raw = buffer.raw
        if raw._writable and raw._seekable and raw._seek(0, os.SEEK_CUR) != 0:
            self._encoder.setstate(0)  # no byte order mark in the middle

    # ---- what it is --------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"name={self.name!r} mode={self.mode!r} encoding={self.encoding!r}"
        return f"<{type(self).__name__} {state}>"

    @property
    def name(self) -> Any:
        return self.buffer.name

    @property
    def mode(self) -> str:
        return self._mode or self.buffer.mode

    @property
    def encoding(self) -> str:
        return self._encoding

    @property
    def errors(self) -> str:
        return self._errors

    @property
    def newlines(self) -> str | tuple[str, ...] | None:
        """The ends of lines met so far."""
        found: str | tuple[str, ...] | None = getattr(self._decoder, "newlines", None)
        return found

    @property
    def line_buffering(self) -> bool:
        return self._line_buffering

    @property
    def closed(self) -> bool:
        return self.buffer.closed

    def fileno(self) -> int:
        return self.buffer.fileno()

    def isatty(self) -> bool:
        return self.buffer.isatty()

    def readable(self) -> bool:
        return self.buffer.readable()

    def writable(self) -> bool:
        return self.buffer.writable()

    def seekable(self) -> bool:
        return self.buffer.seekable()

    def _check_readable(self) -> None:
        self.buffer.raw._check_open()
        if not self.buffer.raw._readable:
            raise io.UnsupportedOperation("not readable")

    # ---- reading -----------------------------------------------------------------------------------------------

    async def _fill(self) -> bool:
        """Decode more; False at the end of the file."""
        data = await self.buffer.read1(_CHUNK)
        if self._fed is None or self._used == len(self._text):
            self._text, self._used = "", 0
            self._fed = (self._decoder.getstate(), b"")
        before, fed = self._fed
        self._text += self._decoder.decode(data, not data)
        self._fed = (before, fed + data)
        return bool(data)

    def _take(self, count: int) -> str:
        text = self._text[self._used : self._used + count]
        self._used += len(text)
        return text

    async def read(self, size: int | None = -1) -> str:
        """Read `size` characters, or with None or -1 all that is left; fewer only at the end."""
        self._check_readable()
        async with self._turn:
            if size is None or size < 0:
                data = await self.buffer.read()
                text = self._text[self._used :] + self._decoder.decode(data, True)
                self._forget()
                return text
            while len(self._text) - self._used < size:
                if not await self._fill():
                    break
            return self._take(size)

    async def readline(self, size: int | None = -1) -> str:
        """Read up to and with the next end of a line, and `size` characters at most."""
        self._check_readable()
        limit = -1 if size is None else size
        if limit < 0 and not self._turn.locked():
            length = self._line_length(0)
            if length >= 0:
                return self._take(length)
        async with self._turn:
            searched = 0
            while True:
                length = self._line_length(searched)
                left = len(self._text) - self._used
                if 0 <= limit <= (left if length < 0 else length):
                    return self._take(limit)
                if length >= 0:
                    return self._take(length)
                searched = max(left - 1, 0)  # half of an end may be there
                if not await self._fill():
                    return self._take(len(self._text))

    def _line_length(self, searched: int) -> int:
        """The length of the next line, of which so many characters were looked at before; -1: its end is not there."""
        start = self._used + searched
        if self._ends is None:
            return self._behind(self._text.find("\n", start), 1)
        if self._ends:
            return self._behind(self._text.find(self._ends, start), len(self._ends))
        line_feed, carriage = self._text.find("\n", start), self._text.find("\r", start)
        if carriage < 0 or 0 <= line_feed < carriage:
            return self._behind(line_feed, 1)
        return self._behind(carriage, 2 if line_feed == carriage + 1 else 1)

    def _behind(self, found: int, length: int) -> int:
        return -1 if found < 0 else found + length - self._used

    async def readlines(self, hint: int | None = -1) -> list[str]:
        """Read lines, until their lengths sum up to more than `hint`, if that is above 0."""
        return await read_lines(self, hint)

    # ---- writing -----------------------------------------------------------------------------------------------

    async def write(self, text: str) -> int:
        """Write text; how many characters that is."""
        self.buffer.raw._check_open()
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if not self.buffer.raw._writable:
            raise io.UnsupportedOperation("not writable")
        end_of_line = self._line_buffering and ("\n" in text or "\r" in text)
        translated = text if self._write_end == "\n" else text.replace("\n", self._write_end or "\n")
        before = self._encoder.getstate()
        data = self._encoder.encode(translated)
        self._forget()
        self._decoder.reset()
        try:
            await self.buffer.write(data)
        except BaseException as error:
            if not getattr(error, "characters_written", 0):
                self._encoder.setstate(before)  # the byte order mark is yet to come
            raise
        if end_of_line:
            await self.flush()
        return len(text)

    async def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            await self.write(line)

    async def flush(self) -> None:
        """Have everything written reach the file."""
        await self.buffer.flush()

    # ---- the position ------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        """What was decoded ahead is gone."""
        self._text = ""
        self._used = 0
        self._fed = None

    def _check_seekable(self) -> None:
        if not self.buffer.seekable():
            raise io.UnsupportedOperation("underlying stream is not seekable")

    async def tell(self) -> int:
        """Where `seek` gets back to this place. The number of bytes before it, unless the codec has a state there."""
        self._check_seekable()
        async with self._turn:
            return await self._tell()

    async def _tell(self) -> int:
        position = await self.buffer.tell()
        if self._fed is None:
            return position
        (kept, flags), data = self._fed
        position -= len(data)
        if self._used == 0:
            return position - len(kept) | flags << _FLAGS_SHIFT
        data = kept + data
        position -= len(kept)
        state = self._decoder.getstate()
        try:
            return self._locate(position, flags, data)
        finally:
            self._decoder.setstate(state)

    def _locate(self, position: int, flags: int, data: bytes) -> int:
        """The position of the character at `_used`, when `data` was decoded from `position` on."""
        low, high = 1, len(data)
        while low < high:  # the fewest bytes that give so many characters
            middle = (low + high) // 2
            if self._decode_from(flags, data[:middle]) >= self._used:
                high = middle
            else:
                low = middle + 1
        count = self._decode_from(flags, data[:low])
        kept, after = self._decoder.getstate()
        if count == self._used and not kept:
            return position + low | after << _FLAGS_SHIFT
        if count < self._used:
            low = len(data) + 1  # the rest came of the end of the file, where reading so many finds fewer
        return position | flags << _FLAGS_SHIFT | low << _FEED_SHIFT | self._used << _SKIP_SHIFT

    def _decode_from(self, flags: int, data: bytes) -> int:
        self._decoder.setstate((b"", flags))
        return len(self._decoder.decode(data))

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position to the start, to where `tell` was, or with a `whence` of os.SEEK_END to the end."""
        self.buffer.raw._check_open()
        self._check_seekable()
        async with self._turn:
            return await self._seek(offset, whence)

    async def _seek(self, offset: int, whence: int) -> int:
        if whence == os.SEEK_CUR:
            if offset != 0:
                raise io.UnsupportedOperation("can't do nonzero cur-relative seeks")
            return await self._tell()
        if whence == os.SEEK_END:
            if offset != 0:
                raise io.UnsupportedOperation("can't do nonzero end-relative seeks")
            position = await self.buffer.seek(0, os.SEEK_END)
            self._forget()
            self._decoder.reset()
            self._reset_encoder(position)
            return position
        if whence != os.SEEK_SET:
            raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
        if offset < 0:
            raise ValueError(f"negative seek position {offset!r}")
        position = offset & (1 << _FLAGS_SHIFT) - 1
        flags = offset >> _FLAGS_SHIFT & (1 << 64) - 1
        feed = offset >> _FEED_SHIFT & (1 << 32) - 1
        skip = offset >> _SKIP_SHIFT
        await self.buffer.seek(position)
        self._forget()
        self._decoder.setstate((b"", flags)) if offset else self._decoder.reset()
        if feed:
            before = self._decoder.getstate()
            data = await self.buffer.read(feed)
            self._text = self._decoder.decode(data, len(data) < feed)
            self._fed = (before, data)
            if len(self._text) < skip:
                raise OSError("can't restore logical file position")
            self._used = skip
        self._reset_encoder(position)
        return offset

    def _reset_encoder(self, position: int) -> None:
        if position:
            self._encoder.setstate(0)
        else:
            self._encoder.reset()

    async def truncate(self, size: int | None = None) -> int:
        """Make the file `size` bytes long, or end at the position."""
        await self.flush()
        if size is None:
            size = await self.tell()
        return await self.buffer.truncate(size)

    # ---- the file ----------------------------------------------------------------------------------------------

    async def fsync(self) -> None:
        """Have everything written reach the device."""
        await self.buffer.fsync()

    async def fdatasync(self) -> None:
        """As `fsync`, without what is not needed to read the data back, such as times."""
        await self.buffer.fdatasync()

    async def stat(self) -> os.stat_result:
        """As os.fstat(), with everything written."""
        return await self.buffer.stat()

    async def close(self) -> None:
        """Write what the buffer has, and close; the file is closed even if that fails."""
        await self.buffer.close()

    async def aclose(self) -> None:
        """As `close`, for anyio and `contextlib.aclosing`."""
        await self.close()

    async def __aenter__(self) -> Self:
        self.buffer.raw._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        self.buffer.raw._check_open()
        return self

    async def __anext__(self) -> str:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line
