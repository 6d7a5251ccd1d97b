# SPDX-License-Identifier: MIT
"""The servers of benchmarks/loop.py and serving.py: python -m benchmarks._loop_server LOOP KIND PATH

KIND is an echo server, protocol, buffered, streams or sockets, or tls (the first of them with TLS), or http: uvicorn.
With a PATH it listens on a Unix socket, else on a TCP port, whose number it prints. For tls PATH is a file with a
certificate and its key.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Any, Final

_READ: Final = 256 * 1024


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """`new_event_loop` of aioring, uvloop, rloop or asyncio."""
    factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module(name).new_event_loop
    return factory


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.write = transport.write

    def data_received(self, data: bytes) -> None:
        self.write(data)


class BufferedEcho(asyncio.BufferedProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = memoryview(bytearray(_READ))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(self.buffer[:nbytes])  # type: ignore[attr-defined]


async def _stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_READ):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _connection(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    with sock, contextlib.suppress(ConnectionError):
        while data := await loop.sock_recv(sock, _READ):
            await loop.sock_sendall(sock, data)


async def _accept(loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
    tasks = set()
    while True:
        sock, _ = await loop.sock_accept(listener)
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = asyncio.create_task(_connection(loop, sock))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def _application(scope: Any, receive: Any, send: Any) -> None:
    """Hello world, as ASGI has it."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"Hello, world!"})


async def _serve_http(listener: socket.socket) -> None:
    import uvicorn  # for this kind only

    config = uvicorn.Config(_application, lifespan="off", access_log=False, log_level="warning")
    await uvicorn.Server(config).serve([listener])


def _tls(path: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    return context


async def _forever(server: object) -> None:
    # Not serve_forever(): rloop's starts a server that has started, which then listens no more.
    await asyncio.get_running_loop().create_future()


async def _serve(kind: str, path: str) -> None:
    loop = asyncio.get_running_loop()
    tls = _tls(path) if kind == "tls" else None
    if path and tls is None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
    else:
        listener = socket.socket(proto=socket.IPPROTO_TCP)  # else asyncio does not set TCP_NODELAY
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    listener.setblocking(False)
    name = listener.getsockname()
    print(name if isinstance(name, str) else name[1], flush=True)
    if kind == "http":
        await _serve_http(listener)
    elif kind == "sockets":
        await _accept(loop, listener)
    elif kind == "streams":
        start = asyncio.start_unix_server if isinstance(name, str) else asyncio.start_server
        server = await start(_stream, sock=listener, limit=_READ)  # type: ignore[operator]
        await _forever(server)
    else:
        factory = BufferedEcho if kind == "buffered" else Echo
        create: Any = loop.create_unix_server if isinstance(name, str) else loop.create_server
        server = await create(factory, sock=listener, **({} if tls is None else {"ssl": tls}))
        await _forever(server)


def main() -> None:
    name, kind, path = (*sys.argv[1:], "")[:3]
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=loop_factory(name)) as runner:
        runner.run(_serve(kind, path))


if __name__ == "__main__":
    main()
