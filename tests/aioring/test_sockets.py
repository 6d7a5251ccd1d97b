# SPDX-License-Identifier: MIT
"""The sock_*() methods: coroutines in C, held against asyncio's."""

import asyncio
import collections.abc
import contextlib
import gc
import os
import select
import socket
import warnings
from collections.abc import AsyncIterator, Callable

import pytest

import aioring

# Not uvloop: there a receive that is cancelled can take data with it.
pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "aioring"])

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    with left, right:
        yield left, right


async def test_receive_before_and_after_the_data(pair: Pair) -> None:
    loop = asyncio.get_running_loop()
    left, right = pair
    right.send(b"there already")
    assert await loop.sock_recv(left, 100) == b"there already"
    waiting = asyncio.create_task(loop.sock_recv(left, 3))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    right.send(b"later")
    assert await waiting == b"lat"
    buffer = bytearray(10)
    assert await loop.sock_recv_into(left, buffer) == 2
    assert buffer[:2] == b"er"
    buffer.append(0)  # not exported any more
    right.send(b"x" * 200)
    assert await loop.sock_recv(left, 1 << 20) == b"x" * 200
    right.shutdown(socket.SHUT_WR)
    assert await loop.sock_recv(left, 10) == b""


@pytest.mark.usefixtures("others")
async def test_receives_that_guess_wrong_lose_nothing(pair: Pair) -> None:
    """After one that found nothing the next ones wait first, whether there is something or not."""
    loop = asyncio.get_running_loop()
    left, right = pair
    buffer = bytearray(1)
    for number in range(60):
        sent = bytes([number])
        if number % 3 == 0:
            waiting = asyncio.create_task(loop.sock_recv(left, 1))  # type: ignore[arg-type]
            await asyncio.sleep(0)
            right.send(sent)
            assert await waiting == sent
        else:
            right.send(sent)
            if number % 3 == 1:
                assert await loop.sock_recv(left, 1) == sent
            else:
                assert await loop.sock_recv_into(left, buffer) == 1
                assert buffer == sent
    right.close()
    assert [await loop.sock_recv(left, 1) for _ in range(20)] == [b""] * 20


async def test_receives_of_all_sizes(pair: Pair) -> None:
    """What is small is copied, what follows something large is received in place, and all of it comes."""
    loop = asyncio.get_running_loop()
    left, right = pair
    for size in (1, 1000, 40_000, 1, 100_000, 100_000, 500_000, 1, 500_000, 500_000, 1):
        data = os.urandom(size)
        sending = asyncio.create_task(loop.sock_sendall(right, data))  # type: ignore[arg-type]
        got = b""
        while len(got) < size:
            part = await loop.sock_recv(left, 1 << 20)
            assert part
            got += part
        assert got == data
        await sending


async def test_a_receive_after_a_turn_of_others_is_not_of_another_socket(pair: Pair) -> None:
    loop = asyncio.get_running_loop()
    if not isinstance(loop, aioring.EventLoop):
        pytest.skip("asyncio's waits for ever")
    left, right = pair
    waiting = asyncio.create_task(loop.sock_recv(left, 1))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    right.send(b"1")
    assert await waiting == b"1"
    waiting = asyncio.create_task(loop.sock_recv(left, 1))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    assert not waiting.done()
    fd = left.fileno()
    left.close()
    other, its_other = socket.socketpair()
    with other, its_other:
        assert other.fileno() == fd
        its_other.send(b"2")
        with pytest.raises(OSError, match="Bad file descriptor"):
            await waiting
        assert other.recv(1) == b"2"


async def test_many_receives_at_once() -> None:
    """Echoes that keep each other busy, so that nobody has to wait for the kernel."""
    loop = asyncio.get_running_loop()

    async def echo(sock: socket.socket) -> None:
        while data := await loop.sock_recv(sock, 100):
            await loop.sock_sendall(sock, data)

    async def ask(sock: socket.socket, name: int) -> None:
        for number in range(200):
            data = b"%d %d" % (name, number)
            await loop.sock_sendall(sock, data)
            assert await loop.sock_recv(sock, 100) == data
        sock.shutdown(socket.SHUT_WR)

    with contextlib.ExitStack() as sockets:
        async with asyncio.TaskGroup() as tasks:
            for name in range(20):
                pair = socket.socketpair()
                for sock in pair:
                    sockets.enter_context(sock)
                    sock.setblocking(False)
                tasks.create_task(echo(pair[0]))
                tasks.create_task(ask(pair[1], name))


async def test_send_more_than_fits(pair: Pair) -> None:
    loop = asyncio.get_running_loop()
    left, right = pair
    sent = os.urandom(5_000_000)
    sending = asyncio.create_task(loop.sock_sendall(left, memoryview(sent)))  # type: ignore[arg-type]
    got = bytearray()
    while len(got) < len(sent):
        got += await loop.sock_recv(right, 200_000)
    assert await sending is None
    assert got == sent


@pytest.mark.usefixtures("others")
async def test_a_cancelled_receive_takes_nothing(pair: Pair) -> None:
    loop = asyncio.get_running_loop()
    left, right = pair
    for turn in range(50):
        waiting = asyncio.create_task(loop.sock_recv(left, 10))  # type: ignore[arg-type]
        for _ in range(turn % 4):
            await asyncio.sleep(0)
        right.send(b"x")  # together with the cancellation, in half of the turns
        if turn % 2:
            await asyncio.sleep(0)
        waiting.cancel()
        got = b""
        with contextlib.suppress(asyncio.CancelledError):
            got = await waiting
        if not got:
            got = await loop.sock_recv(left, 10)
        assert got == b"x"


async def test_a_cancelled_send_stops(pair: Pair) -> None:
    loop = asyncio.get_running_loop()
    left, right = pair
    data = bytearray(5_000_000)
    sending = asyncio.create_task(loop.sock_sendall(left, data))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    if not isinstance(loop, asyncio.SelectorEventLoop):
        return
    data.append(0)  # let go
    right.setblocking(True)
    left.close()
    assert 0 < len(right.makefile("rb").read()) < len(data)


async def test_accept_cancelled_frees_the_address(count_fds: Callable[[], int]) -> None:
    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.SelectorEventLoop):
        pytest.skip("uvloop keeps files for itself")
    before = count_fds()
    for _ in range(10):
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        address = listener.getsockname()
        accepting = asyncio.create_task(loop.sock_accept(listener))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        accepting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await accepting
        listener.close()
        with socket.socket() as again:
            again.bind(address)
            again.listen()
    assert count_fds() == before


async def test_accepted_sockets_do_not_block() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        listener.setblocking(False)
        client.setblocking(False)
        accepting = asyncio.create_task(loop.sock_accept(listener))  # type: ignore[arg-type]
        await loop.sock_connect(client, listener.getsockname())
        served, address = await accepting
        with served:
            assert served.gettimeout() == 0
            assert address == client.getsockname()


async def test_datagrams() -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(type=socket.SOCK_DGRAM) as left, socket.socket(type=socket.SOCK_DGRAM) as right:
        for sock in (left, right):
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
        receiving = asyncio.create_task(loop.sock_recvfrom(right, 100))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        assert await loop.sock_sendto(left, b"hello", right.getsockname()) == 5
        assert await receiving == (b"hello", left.getsockname())
        buffer = bytearray(10)
        await loop.sock_sendto(left, b"again", right.getsockname())
        assert await loop.sock_recvfrom_into(right, buffer) == (5, left.getsockname())


async def test_errors(pair: Pair) -> None:
    loop = asyncio.get_running_loop()
    left, right = pair
    right.close()
    with pytest.raises(BrokenPipeError):
        await loop.sock_sendall(left, b"x")
    with pytest.raises(TypeError):
        await loop.sock_sendall(left, "text")  # type: ignore[arg-type]
    with pytest.raises((TypeError, BufferError)):
        await loop.sock_recv_into(left, b"read-only")  # type: ignore[arg-type]
    left.close()
    with pytest.raises((OSError, ValueError)):
        await loop.sock_recv(left, 1)


async def test_a_socket_of_a_transport_is_refused(pair: Pair) -> None:
    loop = asyncio.get_running_loop()
    left, _ = pair
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=left)
    with pytest.raises(RuntimeError, match="is used by transport"):
        await loop.sock_recv(left, 1)
    transport.close()
    await asyncio.sleep(0)


@pytest.mark.asyncio(loop_factories=["aioring"])
async def test_as_a_coroutine(pair: Pair) -> None:
    loop = asyncio.get_running_loop()
    left, right = pair
    coroutine = loop.sock_recv(left, 1)
    assert asyncio.iscoroutine(coroutine)
    assert isinstance(coroutine, collections.abc.Coroutine)
    assert coroutine.__name__ == "sock_recv"
    coroutine.close()
    with pytest.raises(RuntimeError, match="cannot reuse"):
        await coroutine
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop.sock_recv(left, 1)
        gc.collect()
    assert [str(one.message) for one in caught] == ["coroutine 'sock_recv' was never awaited"]
    right.send(b"x")
    coroutine = loop.sock_recv(left, 1)
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    assert stopped.value.value == b"x"
    coroutine = loop.sock_recv(left, 1)
    with pytest.raises(LookupError):
        coroutine.throw(LookupError("given"))
    loop.set_debug(True)
    with socket.socket() as blocking, pytest.raises(ValueError, match="must be non-blocking"):
        await loop.sock_recv(blocking, 1)
    loop.set_debug(False)
    for arguments in ((), (left,), (left, -1), (left, "1")):
        with pytest.raises((TypeError, ValueError)):
            await loop.sock_recv(*arguments)


@pytest.mark.asyncio(loop_factories=["aioring"])
async def test_more_events_than_the_completion_queue_holds() -> None:
    """Five thousand readers at once, in a queue of 4096: the kernel keeps what overflows, and nothing is lost."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, aioring.EventLoop)
    pairs = [socket.socketpair() for _ in range(200)]
    for pair in pairs:
        for sock in pair:
            sock.setblocking(False)
    waiting = [asyncio.create_task(loop.sock_recv(pairs[index % 200][0], 1)) for index in range(5000)]  # type: ignore[arg-type]
    while loop._pending()[2] < 5000:
        await asyncio.sleep(0)
    for _, sink in pairs:
        sink.send(b"x" * 25)
    assert await asyncio.gather(*waiting) == [b"x"] * 5000
    for pair in pairs:
        for sock in pair:
            sock.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert loop._pending()[2] == 1  # its own, to be woken by


@pytest.mark.asyncio(loop_factories=["aioring"])
async def test_a_full_completion_queue_does_not_leave_the_loop_asleep() -> None:
    """The kernel ends a multishot poll that finds no room for its event: the one that calls from threads wake it by."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, aioring.EventLoop)
    await loop.run_in_executor(None, int)  # so that its thread is there
    [wake] = [int(fd) for fd in os.listdir("/proc/self/fd") if "eventfd]" in link(fd)]
    for _ in range(3):
        # Polls of the same file, which the kernel tells of an event before the one that was there first.
        polls = [loop.ring.poll(wake, select.POLLIN | select.EPOLLET) for _ in range(5000)]
        await asyncio.sleep(0)
        # The first of these calls is the event, and the others have to come through after it.
        for _ in range(3):
            await asyncio.wait_for(loop.run_in_executor(None, int), 10)
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)


def link(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:  # the directory's own
        return ""


@pytest.mark.asyncio(loop_factories=["aioring"])
async def test_one_stream_reader_read_at_a_time() -> None:
    left, right = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=left)
    first = asyncio.create_task(reader.read(10))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="another coroutine is already waiting"):
        await reader.read(10)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    right.send(b"kept")
    assert await reader.read(2) == b"ke"
    assert await reader.readexactly(2) == b"pt"
    assert await reader.read(0) == b""
    right.close()
    assert await reader.read() == b""
    assert await reader.read(5) == b""
    assert reader.at_eof()
    writer.close()
    await writer.wait_closed()
