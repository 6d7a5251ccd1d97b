# SPDX-License-Identifier: MIT
"""asyncio's streams over a native transport: the same classes with their hot methods in C.

asyncio makes its readers and writers itself. Those whose class is exactly asyncio's get one of these instead, in place;
a subclass, or a protocol of the program's own, is left as it is.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

from aioring import _loop


class StreamReader(asyncio.StreamReader):
    """An asyncio.StreamReader that its transport feeds without calling its protocol."""

    read = _loop.stream_read


class StreamWriter(asyncio.StreamWriter):
    """An asyncio.StreamWriter of a native transport."""

    write = _loop.stream_write
    drain = _loop.stream_drain


def adopt(protocol: Any) -> weakref.ref[asyncio.StreamReader] | None:
    """For a transport's new protocol: the reader to feed in its place, if that makes no difference to anybody."""
    if type(protocol) is not asyncio.StreamReaderProtocol:
        return None
    reader = protocol._stream_reader  # type: ignore[attr-defined]
    if type(reader) not in (asyncio.StreamReader, StreamReader) or "feed_data" in vars(reader):
        return None
    reader.__class__ = StreamReader
    connected = protocol._client_connected_cb  # type: ignore[attr-defined]
    if connected is not None and protocol._transport is None:  # type: ignore[attr-defined]

        def connected_natively(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Any:
            if type(writer) is asyncio.StreamWriter:
                writer.__class__ = StreamWriter
            return connected(reader, writer)

        protocol._client_connected_cb = connected_natively  # type: ignore[attr-defined]
    reference: weakref.ref[asyncio.StreamReader] = protocol._stream_reader_wr  # type: ignore[attr-defined]
    return reference
