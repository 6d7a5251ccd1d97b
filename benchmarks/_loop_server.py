# SPDX-License-Identifier: MIT
"""The echo servers of benchmarks/loop.py: python -m benchmarks._loop_server LOOP KIND PATH

KIND is protocol, buffered, streams or sockets. With a PATH it listens on a Unix socket, else on a TCP port, whose
number it prints.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
import sys
from collections.abc import Callable
from typing import Final

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


async def _serve(kind: str, path: str) -> None:
    loop = asyncio.get_running_loop()
    if path:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
    else:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    listener.setblocking(False)
    print(listener.getsockname() if path else listener.getsockname()[1], flush=True)
    if kind == "sockets":
        await _accept(loop, listener)
    elif kind == "streams":
        start = asyncio.start_unix_server if path else asyncio.start_server
        await (await start(_stream, sock=listener, limit=_READ)).serve_forever()  # type: ignore[operator]
    else:
        factory = Echo if kind == "protocol" else BufferedEcho
        create = loop.create_unix_server if path else loop.create_server
        await (await create(factory, sock=listener)).serve_forever()  # type: ignore[operator]


def main() -> None:
    name, kind, path = (*sys.argv[1:], "")[:3]
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=loop_factory(name)) as runner:
        runner.run(_serve(kind, path))


if __name__ == "__main__":
    main()
