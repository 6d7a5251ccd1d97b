# SPDX-License-Identifier: MIT
"""What programs expect of an event loop, held against `aioring.EventLoop` and, as the measure, against the others."""

import asyncio
import concurrent.futures
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

import aioring

Pipe = tuple[int, int]


# ---- starting and ending -------------------------------------------------------------------------------------------


def test_run() -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, aioring.EventLoop)
        assert loop.get_debug()
        assert repr(loop.ring).startswith("<LoopRing fd=")
        return "result"

    assert aioring.run(main(), debug=True) == "result"


def test_runner() -> None:
    async def kind() -> type:
        return type(asyncio.get_running_loop())

    with asyncio.Runner(loop_factory=aioring.new_event_loop) as runner:
        assert runner.run(kind()) is aioring.EventLoop
        assert runner.run(kind()) is aioring.EventLoop


def test_run_inside_run() -> None:
    async def main() -> None:
        inner = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="from a running event loop"):
            aioring.run(inner)
        inner.close()
        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="already running"):
            loop.run_forever()
        with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
            loop.close()
        assert isinstance(loop, aioring.EventLoop)
        await loop.ring.nop()

    aioring.run(main())


def test_use_of_a_closed_loop() -> None:
    loop = aioring.EventLoop()
    loop.close()
    for use in (loop.run_forever, lambda: loop.call_soon(print), lambda: loop.add_reader(0, print)):
        with pytest.raises(RuntimeError, match="closed"):
            use()


# ---- time ----------------------------------------------------------------------------------------------------------


async def test_timers_run_in_order_and_not_early() -> None:
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    ran: list[int] = []
    late: list[float] = []

    def tick(index: int, when: float) -> None:
        ran.append(index)
        late.append(time.monotonic() - when)
        if len(ran) == 100:
            done.set_result(None)

    now = time.monotonic()
    for index in reversed(range(100)):
        when = now + 0.0005 * index
        loop.call_at(loop.time() + when - time.monotonic(), tick, index, when)
    await done
    # uvloop counts in milliseconds, so only the others keep the order of ones half a millisecond apart.
    if isinstance(loop, asyncio.SelectorEventLoop):
        assert ran == list(range(100))
        assert min(late) > -0.001


async def test_resolution_is_not_worse_than_asyncio() -> None:
    if not isinstance(asyncio.get_running_loop(), aioring.EventLoop):
        pytest.skip("about aioring.EventLoop")
    took = []
    for _ in range(50):
        start = time.perf_counter()
        await asyncio.sleep(0.0002)
        took.append(time.perf_counter() - start)
    assert min(took) >= 0.0002
    assert sorted(took)[5] < 0.001  # epoll rounds up to a millisecond


async def test_cancelled_timers() -> None:
    loop = asyncio.get_running_loop()
    last = loop.create_future()
    handles = [loop.call_later(0.01, last.set_exception, AssertionError(index)) for index in range(200)]
    loop.call_later(0.01, last.set_result, None)
    for handle in handles:
        handle.cancel()
    await last


# ---- readers and writers -------------------------------------------------------------------------------------------


async def test_a_reader_is_level_triggered(pipe: Pipe) -> None:
    loop = asyncio.get_running_loop()
    source, sink = pipe
    calls = 0
    done = loop.create_future()

    def read() -> None:
        nonlocal calls
        calls += 1
        if calls > 3:
            os.read(source, 1)
        if calls == 6:
            done.set_result(None)

    os.write(sink, b"abc")
    loop.add_reader(source, read)
    await done
    for _ in range(5):
        await asyncio.sleep(0)
    assert calls == 6  # three without reading, three that read
    loop.remove_reader(source)
    assert not loop.remove_reader(source)


async def test_reader_and_writer_of_one_file() -> None:
    loop = asyncio.get_running_loop()
    a, b = socket.socketpair()
    with a, b:
        a.setblocking(False)
        events: list[str] = []
        read, written = loop.create_future(), loop.create_future()

        def on_read() -> None:
            events.append("read")
            loop.remove_reader(a)
            read.set_result(a.recv(10))

        def on_write() -> None:
            events.append("write")
            loop.remove_writer(a)
            written.set_result(None)

        loop.add_reader(a, on_read)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        loop.add_writer(a, on_write)
        await written
        await asyncio.sleep(0)
        assert events == ["write"]
        b.send(b"x")
        assert await read == b"x"
        assert events == ["write", "read"]


async def test_a_callback_replaces_the_one_before(pipe: Pipe) -> None:
    loop = asyncio.get_running_loop()
    source, sink = pipe
    done = loop.create_future()
    loop.add_reader(source, done.set_exception, AssertionError("replaced"))
    await asyncio.sleep(0)
    loop.add_reader(source, done.set_result, "second")
    os.write(sink, b"x")
    assert await done == "second"
    loop.remove_reader(source)


async def test_a_removed_reader_is_not_called(pipe: Pipe) -> None:
    loop = asyncio.get_running_loop()
    source, sink = pipe
    calls: list[int] = []
    loop.add_reader(source, calls.append, 1)
    for _ in range(3):
        await asyncio.sleep(0)
    os.write(sink, b"x")
    loop.remove_reader(source)
    for _ in range(5):
        await asyncio.sleep(0.001)
    assert calls == []


async def test_a_reused_fd_gets_no_events_of_the_old_file() -> None:
    loop = asyncio.get_running_loop()
    for _ in range(50):
        old_source, old_sink = os.pipe()
        calls: list[str] = []
        loop.add_reader(old_source, calls.append, "old")
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # watched by now
        os.write(old_sink, b"x")
        loop.remove_reader(old_source)
        os.close(old_source)
        source, sink = os.pipe()
        assert source == old_source
        done = loop.create_future()
        loop.add_reader(source, done.set_result, "new")
        await asyncio.sleep(0)
        assert not done.done()
        os.write(sink, b"y")
        assert await done == "new"
        assert calls == []
        loop.remove_reader(source)
        for fd in (source, sink, old_sink):
            os.close(fd)


def test_a_reader_added_for_a_reused_fd_watches_the_new_file() -> None:
    """The old file was closed without remove_reader(), which nothing reports. epoll and uvloop fail here."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        old_source, old_sink = os.pipe()
        loop.add_reader(old_source, print)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        os.close(old_source)
        source, sink = os.pipe()
        assert source == old_source
        done = loop.create_future()
        loop.add_reader(source, done.set_result, None)
        os.write(sink, b"y")
        await done
        loop.remove_reader(source)
        for fd in (source, sink, old_sink):
            os.close(fd)

    aioring.run(main())


def test_a_closed_file_that_stays_registered_is_forgotten() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        source, sink = os.pipe()
        calls: list[int] = []
        loop.add_reader(source, calls.append, 1)
        os.close(source)
        for _ in range(5):
            await asyncio.sleep(0.001)
        assert calls == []
        assert loop.remove_reader(source)
        os.close(sink)

    aioring.run(main())


async def test_the_file_is_closed_when_its_reader_is_gone() -> None:
    """A poll in flight holds its file. A listener must be gone at once, or its address stays taken."""
    loop = asyncio.get_running_loop()
    for _ in range(20):
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
        loop.add_reader(listener.fileno(), print)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        loop.remove_reader(listener.fileno())
        listener.close()
        if isinstance(loop, asyncio.SelectorEventLoop):
            with socket.socket() as again:
                again.bind(address)
                again.listen()


async def test_bad_files() -> None:
    loop = asyncio.get_running_loop()
    source, sink = os.pipe()
    os.close(source)
    os.close(sink)
    with pytest.raises(OSError, match="Bad file descriptor"):
        loop.add_reader(source, print)
    if isinstance(loop, asyncio.SelectorEventLoop):
        with pytest.raises(ValueError, match="Invalid file"):
            loop.add_reader(-1, print) if sys.version_info < (3, 11) else loop.add_reader("x", print)  # type: ignore[arg-type]
    assert not loop.remove_reader(source)


def test_what_stands_for_the_selector(pipe: Pipe) -> None:
    """asyncio's pipe and datagram transports ask it for their repr."""
    loop = aioring.EventLoop()
    files = loop._selector  # type: ignore[attr-defined]
    with pytest.raises(KeyError, match="not registered"):
        files.get_key(pipe[0])
    loop.add_reader(pipe[0], print)
    assert (files.get_key(pipe[0]).fd, files.get_key(pipe[0]).events) == (pipe[0], selectors.EVENT_READ)
    loop.remove_reader(pipe[0])
    with os.fdopen(os.dup(pipe[1]), "wb") as file:
        loop.add_writer(file, print)
        assert files.get_key(file).events == selectors.EVENT_WRITE
        loop.remove_writer(file)
    loop.close()


# ---- threads and signals -------------------------------------------------------------------------------------------


async def test_call_soon_threadsafe() -> None:
    loop = asyncio.get_running_loop()
    got: list[int] = []
    done = loop.create_future()

    def receive(number: int) -> None:
        got.append(number)
        if len(got) == 4000:
            done.set_result(None)

    def send(start: int) -> None:
        for number in range(start, start + 1000):
            loop.call_soon_threadsafe(receive, number)

    threads = [threading.Thread(target=send, args=(1000 * index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    await done
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(4000))
    for index in range(4):  # in order within each thread
        mine = [number for number in got if number // 1000 == index]
        assert mine == sorted(mine)


async def test_executor() -> None:
    loop = asyncio.get_running_loop()
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        squares = await asyncio.gather(*(loop.run_in_executor(threads, pow, number, 2) for number in range(100)))
    assert squares == [number**2 for number in range(100)]
    assert await asyncio.to_thread(threading.get_ident) != threading.get_ident()


async def test_signal_handler() -> None:
    loop = asyncio.get_running_loop()
    for _ in range(20):
        came = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR1, came.set_result, None)
        threading.Timer(0.001, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        await came  # nothing else wakes the loop
    assert loop.remove_signal_handler(signal.SIGUSR1)


async def test_a_plain_signal_handler_interrupts_the_wait() -> None:
    """A handler that knows of no loop runs while the loop waits for nothing else, as Ctrl-C's does."""
    if not isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop):
        pytest.skip("uvloop takes over the signal handling")
    loop = asyncio.get_running_loop()
    came = loop.create_future()
    old = signal.signal(signal.SIGUSR1, lambda *_: loop.call_soon_threadsafe(came.set_result, None))
    try:
        timer = threading.Timer(0.01, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR1))
        timer.start()
        await came
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, old)


def test_keyboard_interrupt() -> None:
    program = """
import aioring, asyncio
async def main():
    async with aioring.open_ring() as ring:
        operation = ring.timeout(1000)
        print("ready", flush=True)
        try:
            await operation
        finally:
            print("in flight", ring.in_flight, flush=True)
aioring.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "in flight 0\n"
        assert "KeyboardInterrupt" in process.stderr.read()
    assert process.returncode == -signal.SIGINT


class _Interruption(BaseException):
    """What a signal handler may raise, between any two lines."""


def _interrupt_at(point: int, work: Callable[[], None]) -> bool:
    """Run `work`, and raise in it before the given line executed by the ring. False if there are not so many."""
    reached = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal reached
        if frame.f_code.co_name not in ("_start", "_poll", "_complete", "_value", "_stopped"):
            return None
        reached += event == "line"
        if reached == point:
            raise _Interruption
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except _Interruption:
        return True
    finally:
        sys.settrace(before)
    return False


def test_an_exception_from_a_signal_handler_loses_nothing(pipe: Pipe) -> None:
    """Wherever it comes, in preparing, waiting or dispatching: every operation started still ends."""
    for point in range(1, 1000):
        loop = aioring.EventLoop()
        buffer = bytearray(4)
        started: list[aioring.Operation[Any]] = []
        reads: list[int] = []

        def once(loop: aioring.EventLoop = loop) -> None:
            loop.call_soon(loop.stop)
            loop.run_forever()

        def work(
            loop: aioring.EventLoop = loop,
            started: list[aioring.Operation[Any]] = started,
            buffer: bytearray = buffer,
            once: Callable[[], None] = once,
        ) -> None:
            started.append(loop.ring.nop())
            started.append(loop.ring.write(pipe[1], buffer))
            started.append(loop.ring.timeout(0))
            once()

        loop.add_reader(pipe[0], lambda reads=reads: reads.append(len(os.read(pipe[0], 4))))  # type: ignore[misc]
        interrupted = _interrupt_at(point, work)
        once()  # with the stop() that may be left
        waiting = [operation for operation in started if not operation.done()]
        if waiting:
            loop.run_until_complete(asyncio.wait(waiting))
        while loop.ring.in_flight:
            once()
        buffer.append(0)
        os.write(pipe[1], b"end")
        while not reads or reads[-1] != 3:
            once()
        assert reads in ([3], [4, 3])
        loop.remove_reader(pipe[0])
        loop.close()
        if not interrupted:
            break
    assert 50 < point < 999
