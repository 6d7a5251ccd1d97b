# SPDX-License-Identifier: MIT
"""Echo servers and their clients of every kind that an event loop has, for tests/soak.py.

All of them let the other end wait when it does not read, so that memory is bounded, and close when it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import struct
from abc import abstractmethod
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from certificates import Contexts

#: What streams carry: no part of it repeats, so that a loss, a repetition or another order shows.
PATTERN: Final = random.Random(1).randbytes(2 << 20)

#: Bytes that a reader keeps before it lets the sender wait.
_LIMIT: Final = 64 * 1024
#: Seconds for the closing words of TLS, which the other end may not answer any more.
_TLS_PATIENCE: Final = 2.0


def reset(sock: Any) -> None:
    """Lets the next close() of a TCP socket be a reset (socket(7), SO_LINGER)."""
    if sock is not None:  # TLS has none any more when it is closed
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# --- servers ---


class _Served(asyncio.BaseProtocol):
    """A connection of a server, which counts in `open` while it is one."""

    transport: asyncio.Transport

    def __init__(self, open_: set[object]) -> None:
        self.open = open_

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.open.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        assert exc is None or isinstance(exc, OSError), exc
        self.open.remove(self)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


class Echo(_Served, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class BufferedEcho(_Served, asyncio.BufferedProtocol):
    def __init__(self, open_: set[object]) -> None:
        super().__init__(open_)
        self.buffer = memoryview(bytearray(5000))  # asyncio's TLS slices it, and a bytearray's slice is a copy

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(bytes(self.buffer[:nbytes]))


class Rude(_Served, asyncio.Protocol):
    """Answers once, and then resets the connection, its client still writing."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)
        reset(self.transport.get_extra_info("socket"))
        self.transport.abort()


class Servers:
    """Servers of every kind, on TCP and Unix sockets and with TLS."""

    KINDS: Final = ("protocol", "buffered", "streams", "sockets", "rude")

    def __init__(self, folder: Path, contexts: Contexts | None) -> None:
        self.folder = folder
        self.contexts = contexts
        #: Where each is: by "tcp", "unix" or "tls", and kind.
        self.addresses: dict[tuple[str, str], Any] = {}
        #: Their connections that are open.
        self.open: set[object] = set()
        self._servers: list[asyncio.Server] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        for kind in self.KINDS:
            for where in ("tcp", "unix", "tls"):
                tls = self.contexts.server if where == "tls" and self.contexts is not None else None
                if where != "tls" or (tls is not None and kind != "sockets"):
                    self.addresses[where, kind] = await self._start(where, kind, tls)

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
            await server.wait_closed()
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)

    async def _start(self, where: str, kind: str, tls: ssl.SSLContext | None) -> Any:
        loop = asyncio.get_running_loop()
        if where == "unix":
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(self.folder / kind))
        else:
            listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        address = listener.getsockname()
        options: dict[str, Any] = {"sock": listener, "backlog": 200}
        if tls is not None:
            options.update(ssl=tls, ssl_shutdown_timeout=_TLS_PATIENCE)
        create: Any = loop.create_unix_server if where == "unix" else loop.create_server
        start_streams: Any = asyncio.start_unix_server if where == "unix" else asyncio.start_server
        if kind == "sockets":
            listener.listen(200)
            self._accepting.append(asyncio.create_task(self._accept(listener)))
        elif kind == "streams":
            self._servers.append(await start_streams(self._stream, **options))
        else:
            protocol = {"protocol": Echo, "buffered": BufferedEcho, "rude": Rude}[kind]
            self._servers.append(await create(lambda: protocol(self.open), **options))
        return address

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.add(writer)
        try:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(20_000):
                    writer.write(data)
                    await writer.drain()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        finally:
            self.open.remove(writer)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                sock, _ = await loop.sock_accept(listener)
                task = asyncio.create_task(self._answer(sock))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _answer(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self.open.add(sock)
        try:
            with sock, contextlib.suppress(ConnectionError):
                while data := await loop.sock_recv(sock, 20_000):
                    await loop.sock_sendall(sock, data)
        finally:
            self.open.remove(sock)


# --- clients ---


class Client:
    """A connection to a server. Errors are those of sockets; `receive()` gives b"" at the end."""

    @abstractmethod
    async def send(self, data: bytes) -> None: ...
    @abstractmethod
    async def receive(self, size: int) -> bytes:
        """Up to `size` bytes."""

    @abstractmethod
    def end(self) -> None:
        """Half closes; not with TLS."""

    @abstractmethod
    async def close(self) -> None: ...
    @abstractmethod
    def abort(self, *, with_reset: bool) -> None: ...


class _Streams(Client):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self, size: int) -> bytes:
        return await self.reader.read(size)

    def end(self) -> None:
        self.writer.write_eof()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, TimeoutError):
            await self.writer.wait_closed()

    def abort(self, *, with_reset: bool) -> None:
        if with_reset:
            reset(self.writer.get_extra_info("socket"))
        self.writer.transport.abort()


class _Protocol(Client, asyncio.Protocol):
    """Keeps what comes, and lets the transport wait when that is much."""

    def __init__(self) -> None:
        self.kept = bytearray()
        self.at_end = self.full = False
        self.transport: asyncio.Transport
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self.news = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.keep(data)

    def keep(self, data: bytes | bytearray | memoryview) -> None:
        self.kept += data
        self.news.set()
        if len(self.kept) > _LIMIT:
            self.transport.pause_reading()

    def eof_received(self) -> None:
        self.at_end = True
        self.news.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.at_end = True
        self.news.set()
        self.lost.set_result(exc)

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self.news.set()

    async def change(self) -> None:
        self.news.clear()
        await self.news.wait()

    async def send(self, data: bytes) -> None:
        self.transport.write(data)
        while self.full and not self.lost.done():
            await self.change()
        if self.lost.done():
            raise ConnectionResetError

    async def receive(self, size: int) -> bytes:
        while not self.kept and not self.at_end:
            await self.change()
        data = bytes(self.kept[:size])
        del self.kept[:size]
        if not self.kept and not self.at_end:
            self.transport.resume_reading()
        if not data and self.lost.done() and (error := self.lost.result()) is not None:
            raise error
        return data

    def end(self) -> None:
        self.transport.write_eof()

    async def close(self) -> None:
        self.transport.close()
        await asyncio.wait([self.lost])  # which a cancellation leaves alone

    def abort(self, *, with_reset: bool) -> None:
        if with_reset:
            reset(self.transport.get_extra_info("socket"))
        self.transport.abort()


class _Buffered(_Protocol, asyncio.BufferedProtocol):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.buffer = memoryview(bytearray(3000))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.keep(self.buffer[:nbytes])


class _Sockets(Client):
    """By the loop's sock_*() methods."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.loop = asyncio.get_running_loop()
        self.buffer = bytearray(10_000)
        self.turns = 0

    async def send(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.sock, data)

    async def receive(self, size: int) -> bytes:
        self.turns += 1
        if self.turns % 2:
            return await self.loop.sock_recv(self.sock, size)
        got = await self.loop.sock_recv_into(self.sock, memoryview(self.buffer)[:size])
        return bytes(self.buffer[:got])

    def end(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    async def close(self) -> None:
        self.sock.close()

    def abort(self, *, with_reset: bool) -> None:
        if with_reset:
            reset(self.sock)
        self.sock.close()


class _Watched(_Sockets):
    """By add_reader() and add_writer()."""

    async def ready(self, add: Callable[..., object], remove: Callable[[socket.socket], object]) -> None:
        ready = self.loop.create_future()
        add(self.sock, lambda: ready.done() or ready.set_result(None))
        try:
            await ready
        finally:
            remove(self.sock)

    async def send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[self.sock.send(left) :]
            except BlockingIOError:
                await self.ready(self.loop.add_writer, self.loop.remove_writer)

    async def receive(self, size: int) -> bytes:
        while True:
            try:
                return self.sock.recv(size)
            except BlockingIOError:
                await self.ready(self.loop.add_reader, self.loop.remove_reader)


async def _connect_socket(where: str, address: Any, make: Callable[[socket.socket], Client]) -> Client:
    sock = socket.socket(socket.AF_UNIX if where == "unix" else socket.AF_INET)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
        return make(sock)
    except BaseException:
        sock.close()
        raise


async def _connect_transport(
    where: str, address: Any, contexts: Contexts | None, make: Callable[[], Client] | None
) -> Client:
    loop = asyncio.get_running_loop()
    options: dict[str, Any] = {}
    if where == "tls" and contexts is not None:
        options = {"ssl": contexts.client, "server_hostname": "localhost", "ssl_shutdown_timeout": _TLS_PATIENCE}
    at = (address,) if where == "unix" else address
    if make is None:
        open_streams: Any = asyncio.open_unix_connection if where == "unix" else asyncio.open_connection
        return _Streams(*await open_streams(*at, **options, limit=_LIMIT))
    create: Any = loop.create_unix_connection if where == "unix" else loop.create_connection
    _, protocol = await create(make, *at, **options)
    assert isinstance(protocol, Client)
    return protocol


#: Kinds of clients. Those of sockets do not have TLS.
CLIENTS: Final = ("streams", "protocol", "buffered", "sockets", "watched")


def connect(kind: str, where: str, address: Any, contexts: Contexts | None) -> Coroutine[Any, Any, Client]:
    """A client of the server at `address`, which is `where`: "tcp", "unix" or "tls"."""
    if kind in ("sockets", "watched"):
        return _connect_socket(where, address, _Sockets if kind == "sockets" else _Watched)
    make = {"streams": None, "protocol": _Protocol, "buffered": _Buffered}[kind]
    return _connect_transport(where, address, contexts, make)
