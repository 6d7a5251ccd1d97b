# SPDX-License-Identifier: MIT
"""StreamReader.read() where it waits: for a turn of the others, for an event, and beside asyncio's own methods."""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator

import pytest

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter, socket.socket]

pytestmark = [
    pytest.mark.asyncio(loop_factories=["asyncio", "aioring"]),
    pytest.mark.usefixtures("others"),
]


@pytest.fixture
async def connection() -> AsyncIterator[Connection]:
    """A reader and a writer, with a small limit, and the socket at the other end."""
    left, right = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=left, limit=1000)
    with right:
        yield reader, writer, right
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_answers(connection: Connection) -> None:
    reader, writer, peer = connection
    for number in range(300):
        reading = asyncio.create_task(reader.read(100))
        await turns(number % 4)
        peer.send(b"%d" % number)
        assert await reading == b"%d" % number
        writer.write(b"answer")
        await writer.drain()
        assert peer.recv(100) == b"answer"


async def test_a_read_takes_what_it_asked_for(connection: Connection) -> None:
    reader, _, peer = connection
    for wait in range(5):
        reading = asyncio.create_task(reader.read(3))
        await turns(wait)
        peer.send(b"one\ntwo\nthree\nrest")
        assert await reading == b"one"
        assert await reader.readline() == b"\n"
        assert await reader.readexactly(4) == b"two\n"
        assert await reader.readuntil(b"\n") == b"three\n"
        assert await reader.read(100) == b"rest"


async def test_a_cancelled_read_takes_nothing(connection: Connection) -> None:
    reader, _, peer = connection
    for turn in range(200):
        reading = asyncio.create_task(reader.read(10))
        await turns(turn % 5)
        peer.send(b"x")
        await turns(turn // 5 % 5)
        reading.cancel()
        got = b""
        with contextlib.suppress(asyncio.CancelledError):
            got = await reading
        if not got:
            got = await (reader.read(10) if turn % 2 else reader.readexactly(1))
        assert got == b"x"


async def test_a_closed_read_takes_nothing(connection: Connection) -> None:
    reader, _, peer = connection
    for turn in range(20):
        reading = reader.read(10)
        with contextlib.suppress(StopIteration):
            reading.send(None)
        peer.send(b"x")
        await turns(turn % 5)
        reading.close()
        del reading
        assert await reader.read(10) == b"x"


async def test_one_read_at_a_time(connection: Connection) -> None:
    reader, _, peer = connection
    for wait in range(5):
        first = asyncio.create_task(reader.read(1))
        await turns(wait)
        second = asyncio.create_task(reader.read(1))
        with pytest.raises(RuntimeError, match="another coroutine is already waiting"):
            await second
        peer.send(b"x")
        assert await first == b"x"


async def test_all_of_much_data_comes(connection: Connection) -> None:
    """More than the limit, so that reading stops and goes on; by all methods in turn."""
    reader, _, peer = connection
    loop = asyncio.get_running_loop()
    data = os.urandom(3_000_000)
    peer.setblocking(False)
    sending = asyncio.create_task(loop.sock_sendall(peer, data))  # type: ignore[arg-type]
    got = bytearray()
    size = 1
    while len(got) < len(data):
        size = size * 7 % 300_007
        if size % 5:
            part = await reader.read(size)
        else:
            part = await reader.readexactly(min(size % 2000 + 1, len(data) - len(got)))
        assert part
        assert len(part) <= max(size, 2000)
        got += part
    assert got == data
    await sending


async def test_the_end_comes_after_the_data(connection: Connection) -> None:
    reader, _, peer = connection
    reading = asyncio.create_task(reader.read(2))
    await turns(2)
    peer.send(b"data")
    peer.shutdown(socket.SHUT_WR)
    assert await reading == b"da"
    assert await reader.read(100) == b"ta"
    assert await reader.read(100) == b""
    assert await reader.read(100) == b""
    assert reader.at_eof()


@pytest.mark.parametrize("wait", range(4))
async def test_an_end_that_is_waited_for(connection: Connection, wait: int) -> None:
    reader, _, peer = connection
    reading = asyncio.create_task(reader.read(2))
    await turns(wait)
    peer.close()
    assert await reading == b""


@pytest.mark.parametrize("wait", range(4))
@pytest.mark.parametrize("error", [None, LookupError("told")], ids=["end", "exception"])
async def test_what_the_program_tells_the_reader(connection: Connection, wait: int, error: Exception | None) -> None:
    reader, _, _ = connection
    reading = asyncio.create_task(reader.read(2))
    await turns(wait)
    if error is None:
        reader.feed_eof()
        assert await reading == b""
    else:
        reader.set_exception(error)
        with pytest.raises(LookupError, match="told"):
            await reading


@pytest.mark.parametrize("wait", range(5))
async def test_a_reset_is_raised_once_it_comes(wait: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        peer, _ = listener.accept()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reading = asyncio.create_task(reader.read(2))
    await turns(wait)
    peer.close()
    with pytest.raises(ConnectionResetError):
        await reading
    with pytest.raises(ConnectionResetError):
        await reader.read(2)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_an_aborted_connection_ends_its_read(connection: Connection) -> None:
    reader, writer, peer = connection
    reading = asyncio.create_task(reader.read(2))
    await turns(2)
    peer.send(b"x")
    writer.transport.abort()
    assert await reading in (b"", b"x")
    assert await reader.read(2) == b""


async def test_a_paused_transport_keeps_its_data(connection: Connection) -> None:
    reader, writer, peer = connection
    transport = writer.transport
    assert isinstance(transport, asyncio.ReadTransport)
    for wait in range(4):
        reading = asyncio.create_task(reader.read(10))
        await turns(wait)
        transport.pause_reading()
        peer.send(b"x")
        await turns(5)
        assert not reading.done()
        transport.resume_reading()
        assert await reading == b"x"


async def test_many_connections_at_once() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def ask(port: int, name: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(100):
            data = b"%d %d" % (name, number)
            writer.write(data)
            assert await reader.read(100) == data
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with asyncio.TaskGroup() as tasks:
            for name in range(20):
                tasks.create_task(ask(port, name))
