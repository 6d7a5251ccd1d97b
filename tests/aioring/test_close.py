# SPDX-License-Identifier: MIT
"""The end of a ring: closed, forgotten, forked, blocked; and use from where it does not belong."""

import asyncio
import concurrent.futures
import errno
import gc
import os
import resource
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest

import aioring

Pipe = tuple[int, int]


async def test_close_with_nothing_in_flight(count_fds: Callable[[], int]) -> None:
    before = count_fds()
    ring = aioring.Ring()
    ring.close()
    ring.close()
    assert ring.closed
    assert repr(ring) == "<Ring closed>"
    async with aioring.Ring() as other:
        await other.nop()
    other.close()
    assert count_fds() == before


async def test_close_with_operations_in_flight(pipe: Pipe, count_fds: Callable[[], int]) -> None:
    before = count_fds()
    ring = aioring.Ring(entries=4)
    buffers = [bytearray(4) for _ in range(50)]
    reading = [ring.readinto(pipe[0], buffer) for buffer in buffers]
    timeouts = [ring.timeout(1000) for _ in range(50)]
    await ring.nop()
    cancelled = ring.read(pipe[0], 1)
    cancelled.cancel()
    ring.close()
    assert ring.in_flight == 0
    for buffer in buffers:
        buffer.append(0)  # the kernel let go
    operations: list[aioring.Operation[Any]] = [*reading, *timeouts]
    for operation in operations:
        with pytest.raises(aioring.RingClosedError, match="closed while this operation was in flight"):
            await operation
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert count_fds() == before
    os.write(pipe[1], b"x")
    assert os.read(pipe[0], 1) == b"x"


async def test_close_without_submitting(pipe: Pipe) -> None:
    ring = aioring.Ring()
    reading = ring.read(pipe[0], 1)
    nop = ring.nop()
    ring.close()
    await nop  # its result came first
    with pytest.raises(aioring.RingClosedError):
        await reading


async def test_a_task_waiting_when_the_ring_closes(pipe: Pipe) -> None:
    async def read(ring: aioring.Ring) -> bytes:
        return await ring.read(pipe[0], 1)

    async with aioring.Ring() as ring:
        task = asyncio.create_task(read(ring))
        await ring.nop()
    with pytest.raises(aioring.RingClosedError):
        await task


async def test_use_after_close() -> None:
    async with aioring.Ring() as ring:
        await ring.nop()
    for use in (ring.nop, ring.fileno, lambda: ring.timeout(1), lambda: ring.read(0, 1)):
        with pytest.raises(aioring.RingClosedError, match="the ring is closed"):
            use()
    with pytest.raises(aioring.RingClosedError):
        async with ring:
            pass


async def test_the_ring_of_a_loop_is_closed_by_the_loop() -> None:
    loop = asyncio.get_running_loop()
    if isinstance(loop, aioring.EventLoop):
        with pytest.raises(RuntimeError, match="closed by the loop's close"):
            loop.ring.close()
        await loop.ring.nop()


def test_a_loop_closes_with_operations_in_flight(pipe: Pipe, count_fds: Callable[[], int]) -> None:
    before = count_fds()
    loop = aioring.EventLoop()
    ring = loop.ring
    buffer = bytearray(4)

    async def start() -> aioring.Operation[int]:
        reading = ring.readinto(pipe[0], buffer)
        await ring.nop()
        return reading

    reading = loop.run_until_complete(start())
    loop.close()
    loop.close()
    buffer.append(0)
    assert isinstance(reading.exception(), aioring.RingClosedError)
    with pytest.raises(aioring.RingClosedError):
        ring.nop()
    assert count_fds() == before


def test_a_loop_that_never_ran(pipe: Pipe, count_fds: Callable[[], int]) -> None:
    before = count_fds()
    loop = aioring.EventLoop()
    reading = loop.ring.read(pipe[0], 1)
    loop.close()
    assert isinstance(reading.exception(), aioring.RingClosedError)
    assert count_fds() == before


def test_operations_before_the_loop_runs(loop: asyncio.AbstractEventLoop) -> None:
    if not isinstance(loop, aioring.EventLoop):
        ring = aioring.Ring()
        with pytest.raises(RuntimeError, match="needs a running event loop"):
            ring.nop()
        ring.close()
        return
    loop.run_until_complete(loop.ring.nop())
    # More than the queue holds.
    nops = [loop.ring.nop() for _ in range(3000)]
    loop.run_until_complete(asyncio.wait(nops))
    fresh = aioring.EventLoop()
    nops = [fresh.ring.nop() for _ in range(3000)]
    fresh.run_until_complete(asyncio.wait(nops))
    fresh.close()


def test_a_guest_outlives_its_loop(pipe: Pipe) -> None:
    loop = asyncio.SelectorEventLoop()
    ring = aioring.Ring()
    results: list[BaseException | None] = []

    async def start() -> aioring.Operation[bytes]:
        reading = ring.read(pipe[0], 1)
        reading.add_done_callback(lambda _: results.append(None))
        await ring.nop()
        return reading

    reading = loop.run_until_complete(start())
    loop.close()
    ring.close()
    assert isinstance(reading.exception(), aioring.RingClosedError)
    assert results == []  # the loop calls nobody back any more


async def test_many_rings_leak_nothing(pipe: Pipe, count_fds: Callable[[], int]) -> None:
    before = count_fds()
    for _ in range(200):
        async with aioring.Ring(entries=2) as ring:
            ring.timeout(1000)
            ring.read(pipe[0], 1)
            await ring.nop()
    assert count_fds() == before


def test_many_loops_leak_nothing(count_fds: Callable[[], int]) -> None:
    async def main() -> None:
        async with aioring.open_ring() as ring:
            await ring.nop()

    before = count_fds()
    for _ in range(100):
        aioring.run(main())
    assert count_fds() == before


async def test_a_forgotten_ring_complains_and_leaves_nothing(count_fds: Callable[[], int]) -> None:
    before = count_fds()
    ring = aioring.Ring()
    await ring.nop()
    await asyncio.sleep(0)  # what the loop calls now does not know the ring
    holder = [ring]
    del ring
    with pytest.warns(ResourceWarning, match="unclosed ring <Ring fd="):
        holder.clear()
    assert count_fds() == before


async def test_a_ring_is_not_forgotten_while_it_works(pipe: Pipe) -> None:
    async def read() -> bytes:
        return await aioring.Ring().read(pipe[0], 1)

    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
    os.write(pipe[1], b"x")
    with pytest.warns(ResourceWarning, match="unclosed ring"):
        assert await task == b"x"


async def test_a_ring_collected_in_another_thread(count_fds: Callable[[], int]) -> None:
    loop = asyncio.get_running_loop()
    before = count_fds()
    ring = aioring.Ring()
    await ring.nop()
    await asyncio.sleep(0)
    holder = [ring]
    del ring
    with concurrent.futures.ThreadPoolExecutor(1) as threads, pytest.warns(ResourceWarning, match="unclosed ring"):
        threads.submit(holder.clear).result()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert count_fds() == before
    assert not loop.is_closed()


def test_a_forgotten_loop_complains_and_leaves_nothing(count_fds: Callable[[], int]) -> None:
    gc.collect()
    before = count_fds()
    loop = aioring.EventLoop()
    loop.run_until_complete(loop.ring.nop())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del loop
        gc.collect()
    assert "unclosed event loop" in str([str(one.message) for one in caught])
    assert count_fds() == before


# ---- other threads, other loops ------------------------------------------------------------------------------------


async def test_use_from_another_thread(ring: aioring.Ring) -> None:
    await ring.nop()

    def use() -> None:
        with pytest.raises(RuntimeError, match="belongs to the thread of its event loop"):
            ring.nop()
        with pytest.raises(RuntimeError, match=r"must be closed in the thread|closed by the loop's close"):
            ring.close()

    await asyncio.get_running_loop().run_in_executor(None, use)
    await ring.nop()


async def test_cancel_from_another_thread(ring: aioring.Ring, pipe: Pipe) -> None:
    reading = ring.read(pipe[0], 1)
    await ring.nop()

    def cancel() -> None:
        with pytest.raises(RuntimeError, match="belongs to"):
            reading.cancel()

    await asyncio.get_running_loop().run_in_executor(None, cancel)
    os.write(pipe[1], b"x")
    assert await reading == b"x"


async def test_use_from_another_loop(ring: aioring.Ring) -> None:
    await ring.nop()

    async def use() -> None:
        with pytest.raises(RuntimeError, match=r"belongs to .* not to"):
            ring.nop()

    await asyncio.get_running_loop().run_in_executor(None, lambda: asyncio.run(use()))


def test_a_loop_made_here_and_run_there() -> None:
    loop = aioring.EventLoop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def main() -> int:
        await loop.ring.nop()
        return threading.get_ident()

    assert asyncio.run_coroutine_threadsafe(main(), loop).result(10) == thread.ident
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_loop_run_here_and_there() -> None:
    """The loop's readers follow it into another thread, back and forth; operations in flight cannot."""
    loop = aioring.EventLoop()
    source, sink = os.pipe()
    got: list[bytes] = []
    arrived = asyncio.Event()

    def read() -> None:
        got.append(os.read(source, 1))
        arrived.set()

    loop.add_reader(source, read)

    async def main(byte: bytes) -> None:
        await loop.ring.nop()
        os.write(sink, byte)
        await arrived.wait()
        arrived.clear()

    loop.run_until_complete(main(b"a"))
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        threads.submit(loop.run_until_complete, main(b"b")).result()
        loop.run_until_complete(main(b"c"))
        waiting = loop.ring.timeout(1000)
        loop.run_until_complete(loop.ring.nop())
        with pytest.raises(RuntimeError, match="1 operations are in flight in thread"):
            threads.submit(loop.run_forever).result()
        waiting.cancel()
        loop.run_until_complete(asyncio.wait([waiting]))
        threads.submit(loop.run_until_complete, main(b"d")).result()
    assert got == [b"a", b"b", b"c", b"d"]
    loop.remove_reader(source)
    loop.close()
    os.close(source)
    os.close(sink)


def test_a_loop_closed_after_its_thread(pipe: Pipe, count_fds: Callable[[], int]) -> None:
    before = count_fds()
    buffer = bytearray(4)
    loop = aioring.EventLoop()
    operations: list[aioring.Operation[int]] = []

    async def start() -> None:
        operations.append(loop.ring.readinto(pipe[0], buffer))
        await loop.ring.nop()

    thread = threading.Thread(target=lambda: loop.run_until_complete(start()))
    thread.start()
    thread.join()
    loop.close()
    buffer.append(0)
    assert isinstance(operations[0].exception(), aioring.RingClosedError)
    assert count_fds() == before
    os.write(pipe[1], b"x")
    assert os.read(pipe[0], 1) == b"x"


def test_a_loop_is_not_closed_under_a_thread_with_operations(pipe: Pipe) -> None:
    loop = aioring.EventLoop()

    async def start() -> aioring.Operation[bytes]:
        reading = loop.ring.read(pipe[0], 1)
        await loop.ring.nop()
        return reading

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        reading = threads.submit(loop.run_until_complete, start()).result()
        with pytest.raises(RuntimeError, match="close the loop there"):
            loop.close()
        assert not loop.is_closed()
        threads.submit(loop.close).result()
    assert isinstance(reading.exception(), aioring.RingClosedError)


# ---- fork and exec -------------------------------------------------------------------------------------------------


async def test_fork(ring: aioring.Ring, pipe: Pipe) -> None:
    await ring.nop()
    buffer = bytearray(1)
    reading = ring.readinto(pipe[0], buffer)
    await ring.nop()
    fd = ring.fileno()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of forks beside threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            for use in (ring.nop, ring.fileno):
                with pytest.raises(aioring.RingForkedError, match="belongs to the parent"):
                    use()
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)
            ring.close()
            assert reading.cancel()
            asyncio._set_running_loop(None)
            aioring.run(_use_a_new_ring())
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0  # nothing else is to run
    os.write(pipe[1], b"x")
    assert await reading == 1
    assert buffer == b"x"


async def _use_a_new_ring() -> None:
    async with aioring.Ring() as guest, aioring.open_ring() as ring:
        await guest.nop()
        await ring.nop()


def test_a_forked_loop_can_be_closed() -> None:
    loop = aioring.EventLoop()
    loop.run_until_complete(loop.ring.nop())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        status = 1
        try:
            try:
                loop.run_until_complete(asyncio.sleep(0))
            except aioring.RingForkedError:
                loop.close()
                status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    loop.run_until_complete(loop.ring.nop())
    loop.close()


async def test_the_ring_is_not_inherited_by_a_program(ring: aioring.Ring) -> None:
    assert not os.get_inheritable(ring.fileno())
    process = await asyncio.create_subprocess_exec(
        "/bin/ls", "-l", "/proc/self/fd", stdout=asyncio.subprocess.PIPE, close_fds=False
    )
    listing, _ = await process.communicate()
    assert b" 1 -> " in listing
    assert b"io_uring" not in listing


# ---- where there is no ring ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("entries", [0, -1, 32769])
def test_impossible_sizes(entries: int) -> None:
    with pytest.raises(ValueError, match="entries must be 1 to 32768"):
        aioring.Ring(entries)


@pytest.mark.parametrize("make", [aioring.Ring, aioring.EventLoop])
def test_no_fds_left(make: Callable[[], object], count_fds: Callable[[], int]) -> None:
    gc.collect()
    before = count_fds()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files") as caught:
            make()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not isinstance(caught.value, aioring.RingUnavailableError)
    assert count_fds() == before


# A seccomp filter that fails io_uring_setup with an errno, as container engines install it.
_BLOCKED = """
import ctypes, struct, sys, asyncio
code = int(sys.argv[1])
filter = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050000 | code), (0x06, 0, 0, 0x7FFF0000)]
)
program = struct.pack("HxxxxxxP", 4, ctypes.addressof(memory := ctypes.create_string_buffer(filter)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, program) == 0, ctypes.get_errno()
import aioring

async def guest():
    async with aioring.open_ring():
        pass

for use in (aioring.Ring, aioring.EventLoop, lambda: asyncio.run(guest())):
    try:
        use()
    except aioring.RingUnavailableError as error:
        assert error.errno == code
        print(error)
"""


@pytest.mark.parametrize(
    ("code", "reason"),
    [(errno.EPERM, "allow io_uring_setup"), (errno.ENOSYS, "the kernel was built without it")],
    ids=["EPERM", "ENOSYS"],
)
def test_blocked(code: int, reason: str) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", _BLOCKED, str(code)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert "io_uring is unavailable" in line
        assert reason in line or "kernel.io_uring_disabled is" in line
