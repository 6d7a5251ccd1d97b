# SPDX-License-Identifier: MIT
"""Stream transports and servers: their life and all their ends, held against asyncio's loop."""

import asyncio
import contextlib
import os
import random
import socket
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transports import Recorder, pair

# Not uvloop: it differs in what this looks at, the order of calls and what may be written after the end.
pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "aioring"])


def reset(sock: socket.socket) -> None:
    """Close with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def tcp_pair() -> tuple[Recorder, socket.socket]:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _, protocol = await loop.create_connection(Recorder, *listener.getsockname())
        there, _ = listener.accept()
    return protocol, there


# ---- ends ------------------------------------------------------------------------------------------------------------


async def test_end_of_file_closes() -> None:
    protocol, there = await pair()
    there.send(b"last words")
    there.close()
    assert await protocol.lost is None
    assert protocol.data == b"last words"
    assert protocol.told == ["made", "eof", "lost"]
    assert protocol.transport.is_closing()


async def test_half_close_in_both_directions() -> None:
    protocol, there = await pair(keep_open=True)
    there.send(b"question")
    there.shutdown(socket.SHUT_WR)
    while "eof" not in protocol.told:
        protocol.came.clear()
        await protocol.came.wait()
    assert not protocol.transport.is_closing()
    protocol.transport.write(b"answer")
    protocol.transport.write_eof()
    protocol.transport.write_eof()
    with pytest.raises(RuntimeError):
        protocol.transport.write(b"more")
    there.setblocking(True)
    assert there.makefile("rb").read() == b"answer"
    protocol.transport.close()
    assert await protocol.lost is None
    there.close()


async def test_reset_while_reading_and_while_writing() -> None:
    protocol, there = await tcp_pair()
    reset(there)
    assert isinstance(await protocol.lost, ConnectionResetError)
    protocol, there = await tcp_pair()
    protocol.transport.write(b"x" * 10_000_000)
    reset(there)
    assert isinstance(await protocol.lost, ConnectionError)
    assert protocol.transport.get_write_buffer_size() == 0
    protocol.transport.write(b"into the void")
    protocol.transport.close()
    protocol.transport.abort()


async def test_close_sends_what_waits_and_abort_drops_it() -> None:
    protocol, there = await pair()
    sent = os.urandom(3_000_000)
    protocol.transport.write(sent)
    protocol.transport.close()
    assert protocol.told[-1] != "lost"
    got = bytearray()
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(there, 100_000):
        got += data
    assert got == sent
    assert await protocol.lost is None
    there.close()
    protocol, there = await pair()
    protocol.transport.write(sent)
    protocol.transport.abort()
    assert await protocol.lost is None
    there.setblocking(True)
    assert len(there.makefile("rb").read()) < len(sent)
    there.close()


async def test_an_exception_in_data_received_ends_the_connection() -> None:
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))

    class Failing(Recorder):
        def data_received(self, data: bytes) -> None:
            raise LookupError("on purpose")

    protocol, there = await pair(kind=Failing)
    there.send(b"x")
    error = await protocol.lost
    assert isinstance(error, LookupError)
    assert [context["exception"] for context in errors] == [error]
    there.close()


async def test_bytes_that_come_with_the_end_are_not_lost() -> None:
    """Data and FIN at once, each in many sizes: one event may tell of both."""
    for size in (1, 1000, 65_536, 262_144, 262_145, 700_000):
        here, there = socket.socketpair()
        there.setblocking(True)
        sent = os.urandom(size)
        thread = threading.Thread(target=lambda there=there, sent=sent: (there.sendall(sent), there.close()))
        thread.start()
        _, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=here)
        assert await protocol.lost is None
        assert protocol.data == sent
        thread.join()


# ---- flow ------------------------------------------------------------------------------------------------------------


async def test_a_slow_reader_pauses_the_writer() -> None:
    protocol, there = await pair()
    transport = protocol.transport
    transport.set_write_buffer_limits(high=50_000, low=10_000)
    assert transport.get_write_buffer_limits() == (10_000, 50_000)
    sent = bytearray()
    for index in range(1000):
        piece = bytes([index % 256]) * 1000
        transport.write(piece)
        sent += piece
    assert protocol.told == ["made", "pause"]
    assert transport.get_write_buffer_size() > 50_000
    got = bytearray()
    loop = asyncio.get_running_loop()
    while len(got) < len(sent):
        got += await loop.sock_recv(there, 5000)
    assert got == sent
    while protocol.told[-1] != "resume":
        protocol.came.clear()
        await protocol.came.wait()
    assert protocol.told == ["made", "pause", "resume"]
    assert transport.get_write_buffer_size() == 0
    with pytest.raises(ValueError, match="must be >="):
        transport.set_write_buffer_limits(high=1, low=2)
    transport.close()
    await protocol.lost
    there.close()


@pytest.mark.asyncio(loop_factories=["aioring"])  # asyncio holds a bytearray from Python 3.12 on
async def test_what_is_written_does_not_change_afterwards() -> None:
    protocol, there = await pair()
    transport = protocol.transport
    first = bytearray(b"a" * 1_000_000)
    transport.write(first)
    first[:] = b"X" * len(first)
    first.clear()  # not exported either
    second = bytearray(b"b" * 1000)
    transport.write(memoryview(second)[10:])
    second[:] = b"Y" * 1000
    third = bytearray(b"c" * 1000)
    transport.writelines([b"", b"d" * 10, third, memoryview(b"e" * 10)])
    third.clear()
    transport.writelines([])
    transport.close()
    got = bytearray()
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(there, 100_000):
        got += data
    assert got == b"a" * 1_000_000 + b"b" * 990 + b"d" * 10 + b"c" * 1000 + b"e" * 10
    await protocol.lost
    there.close()


async def test_bad_writes() -> None:
    protocol, there = await pair()
    for bad in ("text", None, 5, [b"x"]):
        with pytest.raises(TypeError):
            protocol.transport.write(bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        protocol.transport.writelines([b"good", "text"])  # type: ignore[list-item]
    protocol.transport.write(b"")
    assert protocol.transport.can_write_eof()
    protocol.transport.abort()
    await protocol.lost
    there.close()


async def test_nothing_is_received_while_paused() -> None:
    protocol, there = await pair()
    transport = protocol.transport
    assert transport.is_reading()
    transport.pause_reading()
    transport.pause_reading()
    assert not transport.is_reading()
    there.send(b"early")
    for _ in range(5):
        await asyncio.sleep(0.001)
    assert protocol.data == b""
    transport.resume_reading()
    transport.resume_reading()
    await protocol.until(5)
    assert protocol.data == b"early"
    transport.pause_reading()
    there.send(b"end")
    there.close()
    for _ in range(5):
        await asyncio.sleep(0.001)
    assert protocol.told == ["made"]
    transport.resume_reading()
    assert await protocol.lost is None
    assert protocol.data == b"earlyend"


async def test_pause_inside_data_received() -> None:
    class Once(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.pause_reading()

    protocol, there = await pair(kind=Once)
    sent = os.urandom(600_000)
    sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(there, sent))
    while len(protocol.data) < len(sent):
        before = len(protocol.data)
        await asyncio.sleep(0)
        assert len(protocol.data) - before <= 262_144
        protocol.transport.resume_reading()
    await sending
    assert protocol.data == sent
    protocol.transport.close()
    await protocol.lost
    there.close()


async def test_buffered_protocol() -> None:
    class Buffered(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.buffer = bytearray(7)
            self.got = bytearray()
            self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.got += self.buffer[:nbytes]

        def connection_lost(self, exc: BaseException | None) -> None:
            self.lost.set_result(exc)

    here, there = socket.socketpair()
    _, protocol = await asyncio.get_running_loop().create_connection(Buffered, sock=here)
    sent = os.urandom(1000)
    there.sendall(sent)
    there.close()
    assert await protocol.lost is None
    assert protocol.got == sent


# ---- servers ---------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio(loop_factories=["aioring", "uvloop"])  # asyncio looks for a number that socket() leaves 0
async def test_answers_do_not_wait_for_more() -> None:
    loop = asyncio.get_running_loop()
    made: asyncio.Queue[asyncio.BaseTransport] = asyncio.Queue()

    class Made(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.put_nowait(transport)

    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        server = await loop.create_server(Made, sock=listener)
        client.setblocking(False)
        await loop.sock_connect(client, listener.getsockname())
        await loop.create_connection(Made, sock=client)
        for _ in range(2):
            transport = await made.get()
            assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            transport.close()
        server.close()
        await server.wait_closed()
    await asyncio.sleep(0)


@pytest.mark.asyncio(loop_factories=["aioring"])  # asyncio's leave a server that nobody has
async def test_a_server_that_is_cancelled_is_not_there(count_fds: Callable[[], int], tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    before = count_fds()
    for turns in range(4):
        creates = loop.create_server(Recorder, "127.0.0.1", 0), loop.create_unix_server(Recorder, tmp_path / "socket")
        for create in creates:
            making = asyncio.create_task(create)
            for _ in range(turns):
                await asyncio.sleep(0)
            making.cancel()
            try:
                server = await making
            except asyncio.CancelledError:
                pass
            else:
                server.close()
                await server.wait_closed()
    await asyncio.sleep(0)
    assert count_fds() == before


async def test_a_server_and_its_end(count_fds: Callable[[], int]) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0)
    before = count_fds()
    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(Recorder())
        return made[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    clients = []
    for _ in range(50):
        client = socket.create_connection(address)
        client.sendall(b"hello")
        clients.append(client)
    while len(made) < 50:
        await asyncio.sleep(0)
    for protocol in made:
        await protocol.until(5)
        assert protocol.transport.get_extra_info("peername")[0] == "127.0.0.1"
        assert protocol.transport.get_extra_info("sockname") == address
        assert protocol.transport.get_extra_info("socket").getsockname() == address
    server.close()
    for client in clients:
        client.close()
    for protocol in made:
        await protocol.lost
    await server.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    await asyncio.sleep(0)
    if isinstance(loop, asyncio.SelectorEventLoop):
        assert count_fds() == before


# ---- all together ----------------------------------------------------------------------------------------------------


async def test_storm_of_connections(count_fds: Callable[[], int]) -> None:
    """Echo under resets, half closes, aborts and cancelled tasks: nothing is lost, reordered or left."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.SelectorEventLoop):
        pytest.skip("uvloop keeps files for itself")
    await asyncio.sleep(0)
    before = count_fds()
    choose = random.Random(5)
    served: set[asyncio.Task[Any] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(choose.choice((1, 100, 70_000))):
                writer.write(data)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def talk(address: tuple[str, int], end: str) -> None:
        reader, writer = await asyncio.open_connection(*address)
        sent = os.urandom(choose.choice((1, 1000, 300_000)) if end != "cancel" else 3_000_000)
        writer.write(sent)
        if end == "reset":
            reset_later = writer.get_extra_info("socket")
            reset_later.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        elif end == "abort":
            writer.transport.abort()
        elif end == "half":
            writer.write_eof()
            assert await reader.read() == sent
        else:
            try:
                assert await reader.readexactly(len(sent)) == sent
            finally:
                writer.close()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=512)
    address = server.sockets[0].getsockname()
    ends = ["reset", "abort", "half", "whole", "cancel"] * 20
    tasks = [asyncio.create_task(talk(address, end)) for end in ends]
    for _ in range(20):
        await asyncio.sleep(0)
    for task, end in zip(tasks, ends, strict=True):
        if end == "cancel":
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for end, result in zip(ends, results, strict=True):
        assert result is None or (end == "cancel" and isinstance(result, asyncio.CancelledError)), (end, result)
    server.close()
    await server.wait_closed()
    await asyncio.gather(*(task for task in served if task is not None), return_exceptions=True)
    for _ in range(3):
        await asyncio.sleep(0)
    assert count_fds() == before


async def test_context_of_the_protocol() -> None:
    import contextvars

    variable = contextvars.ContextVar("variable", default="outside")
    seen: list[str] = []

    class Looks(Recorder):
        def data_received(self, data: bytes) -> None:
            seen.append(variable.get())
            super().data_received(data)

    token = variable.set("inside")
    protocol, there = await pair(kind=Looks)
    variable.reset(token)
    there.send(b"x")
    await protocol.until(1)
    assert seen == ["inside"]
    protocol.transport.close()
    await protocol.lost
    there.close()


if sys.version_info >= (3, 13):

    async def test_close_clients() -> None:
        made: list[Recorder] = []

        def factory() -> Recorder:
            made.append(Recorder())
            return made[-1]

        loop = asyncio.get_running_loop()
        server = await loop.create_server(factory, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()):
            while not made:
                await asyncio.sleep(0)
            server.close()
            server.close_clients()
            await made[0].lost
            await server.wait_closed()
