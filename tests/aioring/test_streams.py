# SPDX-License-Identifier: MIT
"""asyncio's processes, streams and sockets on `aioring.EventLoop` and, as the measure, on the other loops."""

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from certificates import contexts

import aioring

Pipe = tuple[int, int]


async def test_subprocesses() -> None:
    async def echo(text: bytes) -> bytes:
        process = await asyncio.create_subprocess_exec(
            "/bin/cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate(text)
        assert process.returncode == 0
        return out

    texts = [os.urandom(100_000) for _ in range(5)]
    assert await asyncio.gather(*map(echo, texts)) == texts
    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", "exit 7")
    assert await process.wait() == 7


async def test_many_streams(count_fds: Callable[[], int]) -> None:
    before = count_fds()
    served: list[asyncio.Task[Any] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.current_task())
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def talk(port: int, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for round_ in range(5):
            message = b"%d/%d;" % (number, round_) * 50
            writer.write(message)
            assert await reader.readexactly(len(message)) == message
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=512)
    port = server.sockets[0].getsockname()[1]
    await asyncio.gather(*(talk(port, number) for number in range(300)))
    server.close()
    await server.wait_closed()
    await asyncio.gather(*(task for task in served if task is not None))
    if isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop):  # uvloop opens some for itself
        assert count_fds() == before


async def test_flow_control_and_large_transfers() -> None:
    sent = os.urandom(5_000_000)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    assert await reader.read() == sent
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def test_datagrams_and_unix_sockets(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    got: asyncio.Queue[bytes] = asyncio.Queue()

    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, address: object) -> None:
            got.put_nowait(data)

    left, _ = await loop.create_datagram_endpoint(Receiver, ("127.0.0.1", 0))
    address = left.get_extra_info("sockname")
    right, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=address)
    for number in range(100):
        right.sendto(b"%d" % number)
    assert [await got.get() for _ in range(100)] == [b"%d" % number for number in range(100)]
    left.close()
    right.close()
    path = str(tmp_path / "socket")
    server = await loop.create_unix_server(asyncio.Protocol, path)
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        await loop.sock_connect(client, path)
    server.close()
    await server.wait_closed()


async def test_low_level_sockets() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        listener.setblocking(False)
        client.setblocking(False)
        accepting = asyncio.ensure_future(loop.sock_accept(listener))
        await loop.sock_connect(client, listener.getsockname())
        served, _ = await accepting
        with served:
            sending = asyncio.ensure_future(loop.sock_sendall(client, b"x" * 1_000_000))
            got = 0
            while got < 1_000_000:
                got += len(await loop.sock_recv(served, 65536))
            await sending
            receiving = asyncio.ensure_future(loop.sock_recv(client, 10))
            await asyncio.sleep(0)
            receiving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await receiving


async def test_tls(tmp_path: Path) -> None:
    tls = contexts(tmp_path)
    if tls is None:
        pytest.skip("no openssl program to make a certificate with")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(100_000))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls.server)
    reader, writer = await asyncio.open_connection(
        *server.sockets[0].getsockname()[:2],
        ssl=tls.client,
        server_hostname="localhost",
    )
    sent = os.urandom(100_000)
    writer.write(sent)
    assert await reader.readexactly(100_000) == sent
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def test_name_resolution() -> None:
    addresses = await asyncio.get_running_loop().getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
    assert {address[4][1] for address in addresses} == {80}


async def test_operations_and_streams_share_the_loop(ring: aioring.Ring, pipe: Pipe) -> None:
    a, b = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=a)
    other_reader, other_writer = await asyncio.open_connection(sock=b)
    for round_ in range(100):
        read = ring.read(pipe[0], 100)
        line = asyncio.ensure_future(other_reader.readline())
        os.write(pipe[1], b"%d" % round_)
        writer.write(b"%d\n" % round_)
        assert await read == b"%d" % round_
        assert await line == b"%d\n" % round_
        await ring.timeout(0)
    for end in (writer, other_writer):
        end.close()
        await end.wait_closed()
    assert await reader.read() == b""
