# SPDX-License-Identifier: MIT
"""anyio, which knows nothing of aioring, in its loop: what docs/event-loop.md and docs/files.md say of it."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.from_thread
import anyio.to_process
import pytest
from anyio.streams.tls import TLSListener, TLSStream
from certificates import contexts
from processes import children, until

import aioring
import aioring.fs

in_our_loop = pytest.mark.asyncio(loop_factories=["aioring"])
OPTIONS = {"loop_factory": aioring.new_event_loop}
LARGE = bytes(range(256)) * 8192  # more than any socket's buffers


async def waits(group: anyio.abc.TaskGroup, function: Callable[..., Any], *arguments: Any) -> None:
    """Starts what has to wait, and sees that it does."""
    group.start_soon(function, *arguments)
    await anyio.wait_all_tasks_blocked()


def test_anyio_run(tmp_path: Path) -> None:
    async def main() -> list[str]:
        assert isinstance(asyncio.get_running_loop(), aioring.EventLoop)
        async with await anyio.open_file(tmp_path / "file", "w+") as file:
            await file.write("text")
            await file.seek(0)
            found = [await file.read()]
        found.append(await anyio.Path(tmp_path / "file").read_text())
        found.append(await anyio.to_thread.run_sync(lambda: "from a thread"))
        found.append(await anyio.to_thread.run_sync(anyio.from_thread.run, word))
        send, receive = anyio.create_memory_object_stream[str](1)
        async with anyio.create_task_group() as group, send, receive:
            group.start_soon(send.send, "from a task")
            found.append(await receive.receive())
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        return found

    async def word() -> str:
        return "from the loop"

    found = anyio.run(main, backend="asyncio", backend_options=OPTIONS)
    assert found == ["text", "text", "from a thread", "from the loop", "from a task"]


def test_a_portal() -> None:
    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    with anyio.from_thread.start_blocking_portal(backend_options=OPTIONS) as portal:
        assert isinstance(portal.call(loop), aioring.EventLoop)
        assert [portal.call(os.path.basename, f"/a/{number}") for number in range(100)] == [*map(str, range(100))]
        forever = portal.start_task_soon(anyio.sleep_forever)
        forever.cancel()


@in_our_loop
async def test_signals() -> None:
    with anyio.open_signal_receiver(signal.SIGUSR1, signal.SIGUSR2) as received:
        for number in (signal.SIGUSR2, signal.SIGUSR1):
            os.kill(os.getpid(), number)
            assert await anext(received) == number


# --- processes ---


def pidfds() -> dict[int, int]:
    """What processes there are pidfds of (see proc(5)), and these."""
    found = {}
    for fd in map(int, os.listdir("/proc/self/fdinfo")):
        with contextlib.suppress(FileNotFoundError):  # the directory's own
            pid = re.search(r"^Pid:\s*(\d+)$", Path(f"/proc/self/fdinfo/{fd}").read_text(), re.MULTILINE)
            if pid is not None:
                found[int(pid[1])] = fd
    return found


@in_our_loop
async def test_processes_end_on_the_ring(count_fds: Callable[[], int]) -> None:
    """No thread waits for them and no child watcher: the ring polls the pidfd of each."""
    loop: Any = asyncio.get_running_loop()
    await anyio.run_process(["/bin/true"])
    before, watched_before, threads = count_fds(), pidfds(), threading.active_count()
    async with contextlib.AsyncExitStack() as stack:
        running = [await stack.enter_async_context(await anyio.open_process(["/bin/cat"])) for _ in range(10)]
        assert threading.active_count() == threads
        watched = pidfds()
        for process in running:
            assert loop._watched(watched[process.pid])
        for process in running:
            await process.stdin.send(b"hello")
            assert await process.stdout.receive() == b"hello"
            await process.stdin.aclose()
            assert await process.wait() == 0
    await until(lambda: count_fds() == before)
    assert threading.active_count() == threads
    assert pidfds() == watched_before


@in_our_loop
async def test_processes(tmp_path: Path, count_fds: Callable[[], int]) -> None:
    before, children_before = count_fds(), children()
    assert (await anyio.run_process(["/bin/cat"], input=LARGE)).stdout == LARGE
    both = await anyio.run_process("echo out; echo err >&2; pwd", cwd=tmp_path)
    assert (both.stdout, both.stderr) == (f"out\n{tmp_path}\n".encode(), b"err\n")
    with pytest.raises(subprocess.CalledProcessError, match="status 7"):
        await anyio.run_process("exit 7")
    with pytest.raises(FileNotFoundError, match="/no/such"):
        await anyio.run_process(["/no/such"])
    with anyio.move_on_after(0.01) as scope:
        await anyio.run_process(["/bin/sleep", "1000"])
    assert scope.cancelled_caught
    async with await anyio.open_process(["/bin/sleep", "1000"]) as process:
        async with anyio.create_task_group() as group:
            await waits(group, process.wait)
            process.terminate()
        assert process.returncode == -signal.SIGTERM
    await until(lambda: count_fds() == before)
    assert children() == children_before


def test_worker_processes() -> None:
    async def main() -> int:
        first = await anyio.to_process.run_sync(os.getpid)
        assert first == await anyio.to_process.run_sync(os.getpid)
        return first

    before = children()
    assert anyio.run(main, backend="asyncio", backend_options=OPTIONS) != os.getpid()
    assert children() == before


# --- readiness ---


@in_our_loop
@pytest.mark.skipif(not hasattr(anyio, "notify_closing"), reason="needs anyio 4.10")
async def test_readiness() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        async with anyio.create_task_group() as group:
            await waits(group, anyio.wait_readable, ours)
            with pytest.raises(anyio.BusyResourceError):
                await anyio.wait_readable(ours)
            theirs.send(b"x")
        assert ours.recv(10) == b"x"

        await anyio.wait_writable(ours)
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(LARGE)
        async with anyio.create_task_group() as group:
            await waits(group, anyio.wait_writable, ours.fileno())
            with contextlib.suppress(BlockingIOError):
                while theirs.recv(1 << 20, socket.MSG_DONTWAIT):
                    pass

        with anyio.move_on_after(0.01) as scope:
            await anyio.wait_readable(ours)
        assert scope.cancelled_caught

        async def closed() -> None:
            with pytest.raises(anyio.ClosedResourceError):
                await anyio.wait_readable(ours)

        async with anyio.create_task_group() as group:
            await waits(group, closed)
            anyio.notify_closing(ours)


# --- sockets ---


async def echo(stream: Any) -> None:
    async with stream:
        with contextlib.suppress(anyio.EndOfStream):
            while True:
                await stream.send(await stream.receive())


async def echoes(client: anyio.abc.ByteStream) -> None:
    """LARGE there and back, both at once."""
    async with anyio.create_task_group() as group:
        group.start_soon(client.send, LARGE)
        found = b""
        while len(found) < len(LARGE):
            found += await client.receive()
    assert found == LARGE


@in_our_loop
async def test_tcp(count_fds: Callable[[], int]) -> None:
    before = count_fds()
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listeners:
        (listener,) = listeners.listeners
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)
            for host in ("127.0.0.1", "localhost"):
                async with await anyio.connect_tcp(host, port) as client:
                    assert client.extra(anyio.abc.SocketAttribute.remote_port) == port
                    await echoes(client)
                    await client.send_eof()
                    with pytest.raises(anyio.EndOfStream):
                        await client.receive()
            group.cancel_scope.cancel()

        async with await anyio.connect_tcp("127.0.0.1", port) as client, await listener.accept() as served:
            with anyio.move_on_after(0.01) as scope:
                await client.receive()
            assert scope.cancelled_caught
            await served.send(b"x")
            assert await client.receive() == b"x"

            async def receive() -> None:
                with pytest.raises(anyio.ClosedResourceError):
                    await client.receive()

            async with anyio.create_task_group() as group:
                await waits(group, receive)
                with pytest.raises(anyio.BusyResourceError):
                    await client.receive()
                await client.aclose()
            with pytest.raises(anyio.BrokenResourceError):  # the kernel takes some before it knows
                while True:
                    await served.send(LARGE)
    with pytest.raises(OSError, match="connection attempts failed"):
        await anyio.connect_tcp("127.0.0.1", port)
    await until(lambda: count_fds() == before)


@in_our_loop
async def test_tls(tmp_path: Path, count_fds: Callable[[], int]) -> None:
    tls = contexts(tmp_path)
    if tls is None:
        pytest.skip("no openssl program to make a certificate with")
    before = count_fds()
    refused: list[Exception] = []

    async def refuse(error: BaseException, stream: anyio.abc.AnyByteStream) -> None:
        refused.append(error)
        await anyio.aclose_forcefully(stream)

    class Listener(TLSListener):
        handle_handshake_error = staticmethod(refuse)

    tcp = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = tcp.extra(anyio.abc.SocketAttribute.local_port)
    async with Listener(tcp, tls.server) as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, echo)
        trusting = {"ssl_context": tls.client, "tls_hostname": "localhost"}
        async with await anyio.connect_tcp("127.0.0.1", port, **trusting) as client:
            assert isinstance(client, TLSStream)
            await echoes(client)
        with pytest.raises(ssl.SSLCertVerificationError):
            await anyio.connect_tcp("127.0.0.1", port, ssl_context=tls.client)
        async with await anyio.connect_tcp("127.0.0.1", port) as plain:
            await plain.send(b"GET / HTTP/1.0\r\n\r\n")
            with contextlib.suppress(anyio.BrokenResourceError, anyio.EndOfStream):
                while True:
                    await plain.receive()
        await until(lambda: len(refused) == 2)
        group.cancel_scope.cancel()
    await until(lambda: count_fds() == before)


@contextlib.asynccontextmanager
async def unix_streams(path: Path) -> AsyncIterator[tuple[anyio.abc.UNIXSocketStream, anyio.abc.UNIXSocketStream]]:
    async with (
        await anyio.create_unix_listener(path) as listener,
        await anyio.connect_unix(path) as client,
        await listener.accept() as served,
    ):
        yield client, served


@in_our_loop
async def test_unix_streams(tmp_path: Path, count_fds: Callable[[], int]) -> None:
    before = count_fds()
    with pytest.raises(FileNotFoundError):
        await anyio.connect_unix(tmp_path / "none")
    async with unix_streams(tmp_path / "socket") as (client, served), anyio.create_task_group() as group:
        group.start_soon(echo, served)
        with anyio.move_on_after(0.01) as scope:
            await client.receive()
        assert scope.cancelled_caught
        await echoes(client)
        await client.send_eof()
        with pytest.raises(anyio.EndOfStream):
            await client.receive()
    await until(lambda: count_fds() == before)


@in_our_loop
async def test_descriptors_are_sent(tmp_path: Path, count_fds: Callable[[], int]) -> None:
    before = count_fds()
    files = []
    for number in range(3):
        (tmp_path / str(number)).write_text(f"file {number}")
        files.append((tmp_path / str(number)).open("rb"))
    received: list[int] = []

    async def receive() -> None:
        data, fds = await served.receive_fds(10, 3)
        assert data == b"three"
        received.extend(fds)

    async with unix_streams(tmp_path / "socket") as (client, served):
        async with anyio.create_task_group() as group:  # who receives waits
            await waits(group, receive)
            await client.send_fds(b"three", files)
        with anyio.move_on_after(0.01) as scope:
            await served.receive_fds(1, 1)
        assert scope.cancelled_caught

        async def fill() -> None:
            await client.send(LARGE)
            await client.send_fds(b"x", [files[0].fileno()])

        async with anyio.create_task_group() as group:  # who sends waits
            await waits(group, fill)
            left = len(LARGE)
            while left:
                left -= len(await served.receive(left))
            data, fds = await served.receive_fds(10, 3)
            assert data == b"x"
            received.extend(fds)
    for file in files:
        file.close()
    assert not {file.name for file in files} - {os.readlink(f"/proc/self/fd/{fd}") for fd in received}
    for fd, text in zip(received, ["file 0", "file 1", "file 2", "file 0"], strict=True):
        async with aioring.fs.open(fd) as ours:
            assert await ours.read() == text
            await ours.seek(0)  # 0 and the last are the same open file
    await until(lambda: count_fds() == before)


@in_our_loop
async def test_udp(count_fds: Callable[[], int]) -> None:
    before = count_fds()
    async with await anyio.create_udp_socket(local_host="127.0.0.1") as served:
        address = served.extra(anyio.abc.SocketAttribute.local_address)
        async with await anyio.create_connected_udp_socket(*address) as client:
            for number in range(50):
                await client.send(b"%d" % number)
                data, sender = await served.receive()
                assert data == b"%d" % number
                await served.sendto(data * 1000, *sender)
                assert await client.receive() == data * 1000
            with anyio.move_on_after(0.01) as scope:
                await client.receive()
            assert scope.cancelled_caught
    await until(lambda: count_fds() == before)


@in_our_loop
async def test_unix_datagrams(tmp_path: Path, count_fds: Callable[[], int]) -> None:
    before = count_fds()
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    async with (
        await anyio.create_unix_datagram_socket(local_path=theirs) as served,
        await anyio.create_connected_unix_datagram_socket(theirs, local_path=ours) as client,
    ):

        async def send() -> None:
            for number in range(200):  # more than the queue takes
                await client.send(b"%d" % number)

        async with anyio.create_task_group() as group:
            await waits(group, send)
            for number in range(200):
                assert await served.receive() == (b"%d" % number, ours)
        await served.sendto(b"answer", ours)
        assert await client.receive() == b"answer"
    await until(lambda: count_fds() == before)


# --- files ---

FILES = pytest.mark.parametrize(("mode", "buffering"), [("w+", -1), ("wb+", -1), ("wb+", 0)], ids=["text", "b", "raw"])


@in_our_loop
@FILES
async def test_files_have_the_methods_of_anyio(tmp_path: Path, mode: str, buffering: int) -> None:
    async def use(file: Any) -> list[Any]:
        def text(data: str) -> Any:
            return data.encode() if "b" in mode else data

        found = [file.name, file.readable(), file.writable(), file.closed]
        found.append(await file.write(text("one\ntwo\n")))
        await file.writelines([text("three\n"), text("four")])
        await file.flush()
        found += [await file.tell(), await file.seek(0), await file.readline(), await file.readlines()]
        found += [await file.seek(2), await file.read(3), await file.read()]
        await file.seek(4)
        found += [line async for line in file]
        if "b" in mode:
            buffer = bytearray(6)
            found += [await file.seek(0), await file.readinto(buffer), bytes(buffer), await file.readline()]
        if "b" in mode and buffering:
            found += [await file.seek(0), await file.readinto1(buffer), bytes(buffer), await file.read1(100)]
        found += [await file.truncate(5), await file.seek(0), await file.read()]
        await file.aclose()
        return [*found, file.closed]

    path = tmp_path / "file"
    theirs = await use(await anyio.open_file(path, mode, buffering))
    path.unlink()
    threads = threading.active_count()
    assert await use(await aioring.fs.open(path, mode, buffering)) == theirs
    assert threading.active_count() == threads


@in_our_loop
@FILES
async def test_nothing_of_an_anyio_file_is_missing(tmp_path: Path, mode: str, buffering: int) -> None:
    path = tmp_path / "file"
    async with await anyio.open_file(path, mode, buffering) as theirs, aioring.fs.open(path, mode, buffering) as ours:
        # the rest of AsyncFile's methods fail where the file below has none
        named = {name for name in dir(anyio.AsyncFile) if not name.startswith("_") and hasattr(theirs.wrapped, name)}
        assert named <= set(dir(ours))
        for name in ("aclose", "__aenter__", "__aexit__", "__aiter__"):
            assert hasattr(ours, name)


@in_our_loop
async def test_a_read_is_cancelled_where_a_thread_cannot_be() -> None:
    source, sink = os.pipe()
    async with aioring.fs.open(source, "rb", 0) as reader, aioring.fs.open(sink, "wb", 0) as writer:
        with anyio.move_on_after(0.01) as scope:
            await reader.read(1)
        assert scope.cancelled_caught
        await writer.write(b"x")
        assert await reader.read(1) == b"x"
