# SPDX-License-Identifier: MIT
"""Reads and writes in C: results, memory, cancellation, closing in the middle of it."""

import asyncio
import contextlib
import errno
import gc
import io
import mmap
import os
import random
import resource
import signal
import socket
import threading
import warnings
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import aioring
from aioring import fs

Pipe = tuple[fs.RawFile, fs.RawFile]


def loop_here() -> aioring.EventLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, aioring.EventLoop)
    return loop


@pytest.fixture
async def pipe() -> AsyncIterator[Pipe]:
    source, sink = os.pipe()
    async with fs.open(source, "rb", 0) as reader, fs.open(sink, "wb", 0) as writer:
        yield reader, writer


@pytest.fixture
async def raw(tmp_path: Path) -> AsyncIterator[fs.RawFile]:
    async with fs.open(tmp_path / "file", "w+b", 0) as file:
        yield file


def uncached(path: Path) -> None:
    """Has the kernel forget what it has of a file, as far as it will."""
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


@pytest.mark.parametrize("cached", [True, False])
async def test_offsets(tmp_path: Path, raw: fs.RawFile, cached: bool) -> None:
    data = os.urandom(3_000_000)
    assert await raw.pwrite(data, 0) == len(data)
    assert await raw.tell() == 0
    rng = random.Random(5)
    for _ in range(40):
        if not cached:
            uncached(tmp_path / "file")
        size, offset = rng.choice([0, 1, 4096, 70_000, 300_000, 2_000_000]), rng.randrange(len(data) + 5000)
        expected = data[offset : offset + size]
        assert await raw.pread(size, offset) == expected
        buffer = bytearray(size)
        assert await raw.pread_into(buffer, offset) == len(expected)
        assert buffer[: len(expected)] == expected
        parts = [bytearray(rng.randrange(100)), bytearray(), bytearray(size)]
        count = await raw.preadv(parts, offset)
        assert b"".join(parts)[:count] == data[offset : offset + count]
        assert count == min(sum(map(len, parts)), max(len(data) - offset, 0))
    assert await raw.tell() == 0


async def test_the_position(raw: fs.RawFile) -> None:
    assert await raw.write(b"0123456789") == 10
    assert await raw.tell() == 10
    assert await raw.read() == b""
    assert await raw.seek(-4, os.SEEK_CUR) == 6
    assert await raw.read(2) == b"67"
    buffer = bytearray(5)
    assert await raw.readinto(buffer) == 2
    assert buffer == b"89\0\0\0"
    assert await raw.seek(2) == 2
    assert await raw.truncate() == 2
    assert await raw.seek(0, os.SEEK_END) == 2
    assert await raw.pwritev([b"ab", bytearray(b"cd"), memoryview(b"ef")], 1) == 6
    await raw.seek(0)
    assert await raw.readall() == b"0abcdef"
    await raw.writelines([b"\n", b"x\n", b"y"])
    await raw.seek(0)
    assert [line async for line in raw] == [b"0abcdef\n", b"x\n", b"y"]
    await raw.seek(0)
    assert await raw.readlines(1) == [b"0abcdef\n"]
    assert await raw.readlines() == [b"x\n", b"y"]
    with pytest.raises(OSError, match="Invalid argument"):
        await raw.seek(-1)


async def test_tasks_share_a_position(raw: fs.RawFile) -> None:
    await raw.write(bytes(range(200)))
    await raw.seek(0)
    parts = await asyncio.gather(*(raw.read(2) for _ in range(100)))
    assert b"".join(parts) == bytes(range(200))
    await asyncio.gather(*(raw.write(bytes([byte])) for byte in range(50)))
    assert (await raw.pread(50, 200)) == bytes(range(50))


async def test_appending(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"start")
    async with fs.open(tmp_path / "file", "a+b", 0) as file:
        assert await file.tell() == 5
        await file.seek(0)
        await file.write(b"-end")
        assert await file.tell() == 9
        assert await file.pwrite(b"!", 0) == 1  # as pwrite(2) says of O_APPEND
        await file.seek(0)
        assert await file.read() == b"start-end!"


async def test_files_that_tell_no_size() -> None:
    assert await fs.Path("/proc/self/maps").read_bytes()
    assert await fs.Path("/proc/self/cmdline").read_bytes() == Path("/proc/self/cmdline").read_bytes()
    async with fs.open("/proc/cpuinfo") as file:
        assert (await file.read()).count("\n") == Path("/proc/cpuinfo").read_text().count("\n")
    async with fs.open("/dev/zero", "rb", 0) as zero:
        assert await zero.read(5000) == bytes(5000)
    async with fs.open("/dev/null", "r+b", 0) as null:
        assert await null.write(b"x") == 1
        assert await null.read() == b""


async def test_a_pipe(pipe: Pipe) -> None:
    reader, writer = pipe
    reading = asyncio.create_task(reader.read(100))
    await loop_here().ring.nop()
    assert not reading.done()
    assert await writer.write(b"data") == 4
    assert await reading == b"data"
    with pytest.raises(OSError, match="Illegal seek"):
        await reader.pread(1, 0)
    with pytest.raises(OSError, match="Illegal seek"):
        await reader.tell()
    assert not reader.seekable()
    sent = os.urandom(1_000_000)
    async with fs.open(os.dup(writer.fileno()), "wb") as buffered:
        writing = asyncio.create_task(buffered.write(sent))
        got = bytearray()
        while len(got) < len(sent):
            got += await reader.read(50_000)
        assert await writing == len(sent)
    assert got == sent
    await writer.close()
    assert await reader.read(1) == b""


async def test_descriptors_that_do_not_block() -> None:
    source, sink = os.pipe2(os.O_NONBLOCK)
    async with fs.open(source, "rb", 0) as reader, fs.open(sink, "wb") as writer:
        reading = asyncio.create_task(reader.read(4))
        await loop_here().ring.nop()
        assert not reading.done()
        sent = os.urandom(300_000)
        writing = asyncio.create_task(writer.write(sent))
        got = bytearray(await reading)
        while len(got) < len(sent):
            got += await reader.read(70_000)
        await writing
        assert got == sent


async def test_reading_and_writing_do_not_wait_for_each_other() -> None:
    left, right = socket.socketpair()
    with right:
        async with fs.open(left.detach(), "r+b", 0) as file:
            reading = asyncio.create_task(file.read(10))
            await loop_here().ring.nop()
            assert await file.write(b"out") == 3
            assert right.recv(10) == b"out"
            right.send(b"in")
            assert await reading == b"in"


async def test_arguments(raw: fs.RawFile) -> None:
    for size, offset in ((-1, 0), (1, -1)):
        with pytest.raises(OSError, match="Invalid argument"):
            await raw.pread(size, offset)
    for call in (
        lambda: raw.pread(1.5, 0),  # type: ignore[arg-type]
        lambda: raw.pread("1", 0),  # type: ignore[arg-type]
        lambda: raw.pread(1),  # type: ignore[call-arg]
        lambda: raw.pwrite("text", 0),  # type: ignore[arg-type]
        lambda: raw.pwritev([b"ok", "text"], 0),  # type: ignore[list-item]
        lambda: raw.pwritev(5, 0),  # type: ignore[arg-type]
        lambda: raw.pread_into(5, 0),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError):
            await call()
    with pytest.raises((TypeError, BufferError)):
        await raw.pread_into(b"read-only", 0)
    with pytest.raises(BufferError):
        await raw.pwrite(memoryview(b"abcd")[::2], 0)
    with pytest.raises(OverflowError):
        await raw.pread(1, 1 << 70)
    with pytest.raises(MemoryError):
        await raw.pread(1 << 62, 0)
    assert await raw.pwritev([], 0) == 0
    assert await raw.preadv([], 0) == 0


async def test_as_a_coroutine(raw: fs.RawFile) -> None:
    await raw.write(b"data")
    coroutine = raw.pread(4, 0)
    assert asyncio.iscoroutine(coroutine)
    with pytest.raises(StopIteration) as stopped:  # it is cached
        coroutine.send(None)
    assert stopped.value.value == b"data"
    with pytest.raises(RuntimeError, match="cannot reuse"):
        await coroutine
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        raw.pread(1, 0)
        gc.collect()
    assert [str(one.message) for one in caught] == ["coroutine 'pread' was never awaited"]
    coroutine = raw.pread(1, 0)
    with pytest.raises(LookupError):
        coroutine.throw(LookupError("given"))
    coroutine = raw.pread(1, 0)
    coroutine.close()


async def test_cached_reads_leave_others_their_turn(raw: fs.RawFile) -> None:
    await raw.write(bytes(4096))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    for _ in range(1000):
        await raw.pread(4096, 0)
    other.cancel()
    assert turns > 50


async def test_a_cancelled_read_takes_effect_when_the_kernel_has_let_go(pipe: Pipe) -> None:
    reader, writer = pipe
    buffer = bytearray(8)
    reading = asyncio.create_task(reader.readinto(buffer))
    await loop_here().ring.nop()
    with pytest.raises(BufferError):
        buffer.append(0)  # the kernel has it
    assert reader._in_flight == 1
    reading.cancel()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert reader._in_flight == 0
    buffer.append(0)
    await writer.write(b"late")
    assert buffer == bytes(9)
    assert await reader.read(10) == b"late"


async def test_cancellation_at_every_step(tmp_path: Path, raw: fs.RawFile) -> None:
    data = os.urandom(400_000)
    await raw.write(data)
    for turn in range(60):
        uncached(tmp_path / "file")
        await raw.seek(1000)
        reading = asyncio.create_task(raw.read(350_000))
        for _ in range(turn % 6):
            await asyncio.sleep(0)
        reading.cancel()
        try:
            assert await reading == data[1000:351_000]
            assert await raw.tell() == 351_000
        except asyncio.CancelledError:
            assert await raw.tell() == 1000
    assert loop_here().ring.in_flight == 0


async def test_a_dropped_read_keeps_its_memory(pipe: Pipe) -> None:
    reader, writer = pipe
    buffer = bytearray(8)
    coroutine = reader.readinto(buffer)
    coroutine.send(None)
    await loop_here().ring.nop()
    coroutine.close()
    del coroutine
    await loop_here().ring.nop()
    await loop_here().ring.nop()
    assert reader._in_flight == 0
    buffer.append(0)
    await writer.write(b"x")
    assert await reader.read(1) == b"x"


async def test_a_cancelled_write_says_what_it_wrote(pipe: Pipe) -> None:
    reader, writer = pipe
    # A write that fills the pipe goes on in a worker of the kernel, which the cancellation interrupts.
    writing = asyncio.create_task(writer.write(b"x" * 1_000_000))
    await loop_here().ring.nop()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError) as cancelled:
        await writing
    written = cancelled.value.characters_written  # type: ignore[attr-defined]
    assert cancelled.value.__notes__ == [f"{written} of 1000000 bytes were written"]
    await writer.close()
    assert len(await reader.read()) == written


async def test_a_cancelled_buffered_write_loses_nothing(pipe: Pipe) -> None:
    reader, writer = pipe
    async with fs.open(os.dup(writer.fileno()), "wb") as file:
        await writer.close()
        await file.write(b"kept")
        filler = asyncio.create_task(file.write(b"y" * 200_000))
        await loop_here().ring.nop()
        await loop_here().ring.nop()
        filler.cancel()
        try:
            done = await filler
        except asyncio.CancelledError as error:
            done = error.characters_written  # type: ignore[attr-defined]
        everything = asyncio.create_task(reader.read())
        await file.write(b"end")
    assert await everything == b"kept" + b"y" * done + b"end"


async def test_errors_in_the_middle(raw: fs.RawFile) -> None:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            await raw.write(bytes(150_000))
        assert caught.value.errno == errno.EFBIG
        assert caught.value.characters_written == 100_000
        assert await raw.tell() == 100_000
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


async def test_a_full_device() -> None:
    async with fs.open("/dev/full", "wb", 0) as full:
        with pytest.raises(OSError, match="No space left") as caught:
            await full.write(b"x")
        assert caught.value.errno == errno.ENOSPC
    file = await fs.open("/dev/full", "w")
    await file.write("text")
    with pytest.raises(OSError, match="No space left"):
        await file.close()
    assert file.closed


async def test_closing_a_pipe_in_the_middle(pipe: Pipe, count_fds: Callable[[], int]) -> None:
    reader, _ = pipe
    before = count_fds()
    reading = [asyncio.create_task(reader.read(10)) for _ in range(3)]
    await loop_here().ring.nop()
    await asyncio.gather(reader.close(), reader.close())
    for task in reading:
        with pytest.raises(ValueError, match="I/O operation on closed file"):
            await task
    assert count_fds() == before - 1


async def test_closing_a_file_in_the_middle(tmp_path: Path, count_fds: Callable[[], int]) -> None:
    before = count_fds()
    data = os.urandom(4_000_000)
    file = await fs.open(tmp_path / "file", "w+b", 0)
    writing = asyncio.create_task(file.pwrite(data, 0))
    syncing = asyncio.create_task(file.fsync())
    await asyncio.sleep(0)
    closing = asyncio.create_task(file.close())
    await asyncio.sleep(0)
    closing.cancel()  # it is closed all the same
    with contextlib.suppress(asyncio.CancelledError):
        await closing
    assert await writing == len(data)
    await syncing
    await file.close()
    assert (tmp_path / "file").read_bytes() == data
    assert count_fds() == before


def test_a_loop_closes_with_transfers_in_flight(tmp_path: Path, count_fds: Callable[[], int]) -> None:
    before = count_fds()
    source, sink = os.pipe()
    buffer = bytearray(100)
    loop = aioring.EventLoop()
    kept: list[Any] = []

    async def start() -> None:
        file = await fs.open(source, "rb", 0)
        for _ in range(2):
            kept.append(file._read_into(buffer))
            kept[-1].send(None)
        await loop.ring.nop()
        kept.append(file._read_into(buffer))  # one that is not submitted yet
        kept[-1].send(None)
        assert loop.ring.in_flight == 3

    loop.run_until_complete(start())
    with pytest.warns(ResourceWarning, match="unclosed file"):
        loop.close()
    assert loop.ring.in_flight == 0
    with pytest.raises(BrokenPipeError):
        os.write(sink, b"too late")
    os.close(sink)
    assert buffer == bytes(100)
    for coroutine in kept:
        coroutine.close()
    kept.clear()
    buffer.append(0)
    assert count_fds() == before


def test_a_loop_closes_where_its_thread_has_ended() -> None:
    """Nobody sees the end of what was in flight there: its memory is never freed."""
    source, sink = os.pipe()
    buffer = bytearray(10)
    loop = aioring.EventLoop()

    kept: list[Any] = []

    async def start() -> None:
        kept.append((await fs.open(source, "rb", 0))._read_into(buffer))
        kept[0].send(None)
        await loop.ring.nop()

    thread = threading.Thread(target=lambda: loop.run_until_complete(start()))
    thread.start()
    thread.join()
    with pytest.warns(ResourceWarning, match="unclosed file"):
        loop.close()
    kept.pop().close()
    gc.collect()
    with pytest.raises(BufferError):
        buffer.append(0)
    os.close(sink)


def test_a_loop_does_not_move_with_transfers_in_flight() -> None:
    source, sink = os.pipe()
    loop = aioring.EventLoop()
    kept: list[Any] = []

    async def start() -> None:
        kept.append(await fs.open(source, "rb", 0))
        kept.append(asyncio.create_task(kept[0].read(4)))
        await loop.ring.nop()

    loop.run_until_complete(start())

    def elsewhere() -> None:
        with pytest.raises(aioring.RingOwnerError, match="1 operations are in flight"):
            loop.run_until_complete(asyncio.sleep(0))

    async def finish() -> bytes:
        os.write(sink, b"here")
        data: bytes = await kept[1]
        await kept[0].close()
        return data

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of the sleep() that never ran
        with asyncio.Runner(loop_factory=aioring.EventLoop) as other:
            other.run(asyncio.to_thread(elsewhere))
        gc.collect()
    assert loop.run_until_complete(finish()) == b"here"
    os.close(sink)
    loop.close()


def test_files_follow_their_loop(tmp_path: Path) -> None:
    """Into another thread, with a new ring: what was registered is used without."""
    (tmp_path / "file").write_bytes(b"x" * 10_000)
    loop = aioring.EventLoop()
    kept: list[Any] = []

    async def start() -> None:
        kept.append(await fs.open(tmp_path / "file", "rb", 0, fixed=True))
        kept.append(fs.Buffers(1, 4096))

    async def go_on() -> None:
        file, buffers = kept
        uncached(tmp_path / "file")
        assert await file.pread_into(buffers[0], 0) == 4096
        assert bytes(buffers[0]) == b"x" * 4096
        buffers.close()
        await file.close()

    loop.run_until_complete(start())

    async def elsewhere() -> None:
        await asyncio.to_thread(lambda: loop.run_until_complete(go_on()))

    asyncio.run(elsewhere())
    loop.close()


async def test_fixed_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"fixed")
    for _ in range(3):
        async with fs.open(tmp_path / "file", "r+b", 0, fixed=True) as file:
            assert file._slot == 0
            uncached(tmp_path / "file")
            assert await file.pread(10, 0) == b"fixed"
            assert await file.pwrite(b"f", 0) == 1
        with pytest.raises(ValueError, match="closed file"):
            await file.pread(10, 0)
    files = [await fs.open(tmp_path / "file", "rb", fixed=True) for _ in range(20)]
    assert [file.raw._slot for file in files] == list(range(20))
    for each in files:
        await each.close()


async def test_no_more_fixed_files_than_there_are_slots(count_fds: Callable[[], int]) -> None:
    before = count_fds()
    files = []
    with pytest.raises(OSError, match="Too many open files in system"):
        for _ in range(1100):
            files.append(await fs.open("/dev/null", "rb", 0, fixed=True))  # noqa: PERF401
    assert len(files) == 1024
    for file in files:
        await file.close()
    assert count_fds() == before


async def test_buffers(tmp_path: Path, raw: fs.RawFile) -> None:
    data = os.urandom(16_384)
    await raw.write(data)
    async with fs.Buffers(4, 4096) as buffers:
        assert len(buffers) == 4
        uncached(tmp_path / "file")
        got = await asyncio.gather(*(raw.pread_into(buffers[index], index * 4096) for index in range(4)))
        assert got == [4096] * 4
        assert b"".join(bytes(buffers[index]) for index in range(4)) == data
        assert buffers[-1] == buffers[3]
        buffers[0][:5] = b"hello"
        assert await raw.pwrite(buffers[0][:5], 100) == 5
        assert await raw.pread(5, 100) == b"hello"
        with pytest.raises(IndexError):
            buffers[4]
        last = buffers[0]
    with pytest.raises(ValueError, match="given up"):
        buffers[0]
    buffers.close()
    assert await raw.pread_into(last, 0) == 4096  # a view outlives them, as plain memory
    for count, size in ((0, 512), (1, 0), (1, 100), (-1, 512)):
        with pytest.raises(ValueError, match="multiple of 512"):
            fs.Buffers(count, size)


async def test_no_more_than_sixteen_buffers() -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(16):
            stack.callback(fs.Buffers(1, 4096).close)
        with pytest.raises(OSError, match="No buffer space") as caught:
            fs.Buffers(1, 4096)
        assert caught.value.errno == errno.ENOBUFS
    fs.Buffers(1, 4096).close()


async def test_direct(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(10_000))
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("this file system has no O_DIRECT")
    with pytest.raises(ValueError, match="buffering must be 0"):
        fs.open(path, "rb", direct=True)
    async with fs.open(path, "r+b", 0, direct=True) as file:
        assert await file.pread(8192, 4096) == path.read_bytes()[4096:]
        assert await file.read() == path.read_bytes()
        with mmap.mmap(-1, 4096) as memory:
            memory[:] = b"d" * 4096
            assert await file.pwrite(memory, 0) == 4096
        assert path.read_bytes()[:4097][4095:4096] == b"d"
        with pytest.raises(OSError, match="Invalid argument"):
            await file.pread(100, 1)


async def test_space(tmp_path: Path, raw: fs.RawFile) -> None:
    await raw.allocate(0, 100_000)
    assert (await raw.stat()).st_size == 100_000
    assert (await raw.stat()).st_blocks * 512 >= 100_000
    await raw.pwrite(b"x" * 8192, 0)
    await raw.allocate(0, 4096, 3)  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
    assert await raw.pread(4097, 0) == bytes(4096) + b"x"
    assert await raw.truncate(5) == 5
    await raw.fsync()
    await raw.fdatasync()
    assert os.stat(tmp_path / "file") == await raw.stat()
    with pytest.raises(OSError, match="Invalid argument"):
        await raw.truncate(-1)
    with pytest.raises(OSError, match="Invalid argument"):
        await raw.allocate(0, 0)
    async with fs.open(tmp_path / "file", "rb", 0) as reader:
        with pytest.raises(io.UnsupportedOperation):
            await reader.truncate(0)
        with pytest.raises(io.UnsupportedOperation):
            await reader.allocate(0, 1)


async def test_thousands_at_once(tmp_path: Path, raw: fs.RawFile) -> None:
    data = os.urandom(1 << 20)
    await raw.write(data)
    uncached(tmp_path / "file")
    offsets = [random.Random(7).randrange(len(data)) for _ in range(5000)]
    got = await asyncio.gather(*(raw.pread(100, offset) for offset in offsets))
    assert got == [data[offset : offset + 100] for offset in offsets]
    await asyncio.gather(*(raw.pwrite(bytes([index % 256]), index) for index in range(3000)))
    assert await raw.pread(3000, 0) == bytes(index % 256 for index in range(3000))
