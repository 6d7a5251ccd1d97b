# SPDX-License-Identifier: MIT
"""What each operation returns and raises, in every home."""

import asyncio
import errno
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import aioring


async def test_nop(ring: aioring.Ring) -> None:
    assert await ring.nop() is None  # type: ignore[func-returns-value]


async def test_read_and_write_a_file(ring: aioring.Ring, tmp_path: Path) -> None:
    path = tmp_path / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        assert await ring.write(fd, b"hello world") == 11
        assert await ring.write(fd, memoryview(b"HELLO"), 0) == 5
        assert path.read_bytes() == b"HELLO world"
        assert await ring.read(fd, 100, 6) == b"world"
        assert await ring.read(fd, 100) == b""  # the position is where the first write left it
        os.lseek(fd, 0, os.SEEK_SET)
        assert [await ring.read(fd, 4) for _ in range(4)] == [b"HELL", b"O wo", b"rld", b""]
        buffer = bytearray(b"........")
        assert await ring.readinto(fd, memoryview(buffer)[2:5], 6) == 3
        assert buffer == b"..wor..."
        assert await ring.read(fd, 0, 0) == b""
        assert await ring.write(fd, b"") == 0
    finally:
        os.close(fd)


async def test_a_huge_read_is_clamped(ring: aioring.Ring, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"short")
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        assert await ring.read(fd, 1 << 40) == b"short"
    finally:
        os.close(fd)


async def test_megabytes_through_a_pipe(ring: aioring.Ring, pipe: tuple[int, int]) -> None:
    source, sink = pipe
    sent = os.urandom(3_000_000)

    async def write_all() -> None:
        rest = memoryview(sent)
        while rest:
            rest = rest[await ring.write(sink, rest) :]
        os.close(sink)

    writer = asyncio.create_task(write_all())
    received = bytearray()
    while data := await ring.read(source, 65536):
        received += data
    await writer
    assert received == sent


async def test_socket_is_read_when_data_comes(ring: aioring.Ring) -> None:
    a, b = socket.socketpair()
    with a, b:
        reading = ring.read(a.fileno(), 10)
        await ring.nop()
        assert not reading.done()
        b.send(b"x")
        assert await reading == b"x"


async def test_errors_are_os_errors(ring: aioring.Ring, pipe: tuple[int, int]) -> None:
    source, sink = pipe
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        await ring.read(1 << 30, 1)
    assert caught.value.errno == errno.EBADF
    os.close(source)
    with pytest.raises(BrokenPipeError):
        await ring.write(sink, b"x")
    directory = os.open("/", os.O_RDONLY)
    with pytest.raises(IsADirectoryError):
        await ring.read(directory, 1)
    os.close(directory)


async def test_bad_arguments_start_nothing(ring: aioring.Ring, pipe: tuple[int, int]) -> None:
    source, sink = pipe
    with pytest.raises(ValueError, match="length"):
        ring.read(source, -1)
    with pytest.raises(ValueError, match="offset"):
        ring.read(source, 1, -2)
    with pytest.raises(ValueError, match="offset"):
        ring.write(sink, b"x", -2)
    with pytest.raises((TypeError, BufferError)):
        ring.readinto(source, b"read-only")
    with pytest.raises(TypeError):
        ring.write(sink, "text")  # type: ignore[arg-type]
    with pytest.raises((ValueError, BufferError)):
        ring.write(sink, memoryview(b"abcd")[::2])
    with pytest.raises(OverflowError):
        ring.read(1 << 40, 1)
    with pytest.raises(TypeError):
        ring.poll("0", select.POLLIN)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="NaN"):
        ring.timeout(float("nan"))
    with pytest.raises(OverflowError):
        ring.timeout(float("inf"))
    assert ring.in_flight == 0


async def test_timeout(ring: aioring.Ring) -> None:
    start = time.monotonic()
    await ring.timeout(0.02)
    assert 0.02 <= time.monotonic() - start < 5
    await ring.timeout(0)
    await ring.timeout(-1)


async def test_timeouts_end_in_order(ring: aioring.Ring) -> None:
    order: list[float] = []
    waiting = []
    for seconds in (0.03, 0.01, 0.02):
        operation = ring.timeout(seconds)
        operation.add_done_callback(lambda _, seconds=seconds: order.append(seconds))  # type: ignore[misc]
        waiting.append(operation)
    await asyncio.gather(*waiting)
    assert order == [0.01, 0.02, 0.03]


async def test_poll(ring: aioring.Ring, pipe: tuple[int, int]) -> None:
    source, sink = pipe
    assert await ring.poll(sink, select.POLLOUT | select.POLLIN) == select.POLLOUT
    waiting = ring.poll(source, select.POLLIN)
    await ring.nop()
    assert not waiting.done()
    os.write(sink, b"x")
    assert await waiting == select.POLLIN
    os.close(sink)
    assert await ring.poll(source, select.POLLIN) == select.POLLIN | select.POLLHUP


async def test_poll_sees_a_process_end(ring: aioring.Ring) -> None:
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as child:
        fd = os.pidfd_open(child.pid)
        ended = ring.poll(fd, select.POLLIN)
        await ring.nop()
        assert not ended.done()
        assert child.stdin is not None
        child.stdin.close()
        assert await ended & select.POLLIN
        assert child.poll() == 0
        os.close(fd)


async def test_many_more_operations_than_entries() -> None:
    async with aioring.Ring(entries=8) as ring:
        await asyncio.gather(*(ring.nop() for _ in range(10_000)))
        await asyncio.gather(*(ring.timeout(0.01) for _ in range(10_000)))
        assert ring.in_flight == 0


async def test_ten_thousand_on_the_shared_ring(ring: aioring.Ring) -> None:
    await asyncio.gather(*(ring.timeout(0.01) for _ in range(10_000)))


async def test_an_operation_starts_without_being_awaited(ring: aioring.Ring, pipe: tuple[int, int]) -> None:
    source, sink = pipe
    writing = ring.write(sink, b"x")
    assert await ring.read(source, 1) == b"x"
    assert await writing == 1


async def test_operations_made_together_are_submitted_together(pipe: tuple[int, int]) -> None:
    # In order, too: io_uring starts them so.
    source, sink = pipe
    async with aioring.open_ring() as ring:
        writes = [ring.write(sink, bytes([byte])) for byte in range(100)]
        assert ring.in_flight == 100
        assert await asyncio.gather(*writes) == [1] * 100
        assert os.read(source, 200) == bytes(range(100))


async def test_an_operation_is_a_future(ring: aioring.Ring, pipe: tuple[int, int]) -> None:
    source, sink = pipe
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ring.read(source, 1), 0.01)
    done, pending = await asyncio.wait([ring.nop(), ring.timeout(0.001)])
    assert len(done) == 2
    assert not pending
    os.write(sink, b"x")
    assert await asyncio.shield(ring.read(source, 1)) == b"x"


async def test_supports_and_features(ring: aioring.Ring) -> None:
    assert ring.supports("nop")
    assert not aioring.Feature.NODROP & ~ring.features
    with pytest.raises(ValueError, match=r"no operation 'sleep': there are cancel, close, .*, futex_wait"):
        ring.supports("sleep")


async def test_an_operation_the_kernel_lacks() -> None:
    async with aioring.Ring() as old:
        # As the probe would have come out before Linux 6.7.
        old._supported = old._supported - {"futex_wait", "futex_wake"}
        assert not old.supports("futex_wait")
        with pytest.raises(aioring.UnsupportedOperationError, match=r"futex_wait needs Linux 6\.7; this is Linux") as e:
            old.futex_wait(0, 0)
        assert (e.value.operation, e.value.since) == ("futex_wait", "6.7")
        with pytest.raises(aioring.UnsupportedOperationError, match="futex_wake"):
            old.futex_wake(0, 1)


async def test_open_ring() -> None:
    async with aioring.open_ring() as ring, aioring.open_ring() as again:
        driven = isinstance(asyncio.get_running_loop(), aioring.EventLoop)
        assert (ring is again) == driven
    assert ring.closed != driven


async def test_a_guest_in_every_loop(pipe: tuple[int, int]) -> None:
    # Inside an aioring.EventLoop too: one ring waits for the other's fd.
    source, sink = pipe
    async with aioring.Ring(entries=1) as ring:
        reading = ring.read(source, 4)
        await asyncio.sleep(0)
        os.write(sink, b"data")
        assert await reading == b"data"
        start = asyncio.get_running_loop().time()
        await ring.timeout(0.01)
        assert asyncio.get_running_loop().time() - start < 5


async def test_named_operations(ring: aioring.Ring, tmp_path: Path, count_fds: Callable[[], int]) -> None:
    before = count_fds()
    path = tmp_path / "file"
    fd = await ring.openat(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    assert await ring.write(fd, b"text", 0) == 4
    assert await ring.stat(fd) == await ring.stat(path) == os.stat(path)
    await ring.close_file(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        await ring.close_file(fd)
    await ring.mkdirat(tmp_path / "directory")
    directory = os.open(tmp_path / "directory", os.O_RDONLY)
    await ring.renameat(path, "moved", to_dir_fd=directory)
    await ring.unlinkat("moved", dir_fd=directory)
    os.close(directory)
    await ring.unlinkat(tmp_path / "directory", directory=True)
    with pytest.raises(FileNotFoundError) as caught:
        await ring.renameat(path, b"other")
    assert (caught.value.filename, caught.value.filename2) == (str(path), b"other")
    with pytest.raises(ValueError, match="embedded null byte"):
        ring.stat("nul\0")
    for _ in range(20):
        opening = ring.openat("/dev/null", os.O_RDONLY)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        closing = ring.close_file(os.dup(1))
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
    assert count_fds() == before


async def test_linked_operations(ring: aioring.Ring, tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    with ring.linked(3):
        operations = (ring.write(fd, b"one", 0), ring.fsync(fd), ring.read(fd, 3, 0))
    assert await asyncio.gather(*operations) == [3, None, b"one"]
    os.close(fd)
    with ring.linked(3):
        linked = (ring.nop(), ring.read(fd, 1), ring.nop())
    results = await asyncio.gather(*linked, return_exceptions=True)
    assert [getattr(result, "errno", result) for result in results] == [None, errno.EBADF, errno.ECANCELED]
    order: list[str] = []
    with ring.linked(2):
        first, second = ring.timeout(0.01), ring.nop()
    free = ring.nop()
    for name, operation in (("first", first), ("second", second), ("free", free)):
        operation.add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]
    # A timeout that has passed is a failure to the kernel: what follows it is cancelled.
    results = await asyncio.gather(first, second, free, return_exceptions=True)
    assert order[0] == "free"
    assert getattr(results[1], "errno", None) == errno.ECANCELED
    with pytest.raises(OSError, match="Argument list too long"), ring.linked(100_000):
        pass
    with pytest.raises(ValueError, match="above 0"), ring.linked(0):
        pass
    await ring.nop()


async def test_a_chain_is_submitted_in_one_piece(tmp_path: Path) -> None:
    async with aioring.Ring(entries=8) as ring:
        others = [ring.nop() for _ in range(5)]
        with ring.linked(8):
            chain = [ring.nop() for _ in range(8)]
        with ring.linked(2):
            chain += [ring.nop(), ring.nop()]
        more = [ring.nop() for _ in range(20)]
        await asyncio.gather(*others, *chain, *more)
        with ring.linked(1):
            taken = [ring.nop() for _ in range(8)]
            with pytest.raises(OSError, match="Argument list too long"):
                ring.nop()
        await asyncio.gather(*taken)
        assert ring.in_flight == 0


async def test_sending_without_copying(ring: aioring.Ring) -> None:
    if not ring.supports("send_zc"):
        pytest.skip("send_zc needs Linux 6.0")
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        server, _ = listener.accept()
        with server:
            sent = os.urandom(2_000_000)

            async def send_all() -> None:
                rest = memoryview(sent)
                while rest:
                    rest = rest[await ring.send_zc(client.fileno(), rest) :]

            sending = asyncio.create_task(send_all())
            got = bytearray()
            while len(got) < len(sent):
                got += await ring.read(server.fileno(), 100_000)
            await sending
            assert got == sent
            data = bytearray(5_000_000)
            blocked = [ring.send_zc(client.fileno(), data, socket.MSG_WAITALL) for _ in range(2)]
            await ring.nop()
            for each in blocked:
                each.cancel()
            server.close()  # the kernel keeps what it sent until it is received, or lost
            await asyncio.wait(blocked)
            assert all(each.cancelled() for each in blocked)
            data.append(0)
    left, right = socket.socketpair()
    right.close()
    with left, pytest.raises(OSError, match=r"not supported|Broken pipe"):
        await ring.send_zc(left.fileno(), b"x")
    with pytest.raises(OSError, match="Bad file descriptor"):
        await ring.send_zc(1 << 30, b"x")
