# SPDX-License-Identifier: MIT
# ruff: noqa: T201 - a command
"""Mixed traffic on one `aioring.EventLoop`, for an hour: nothing lost, reordered or left.

    python -m tests.soak --seconds 3600 --seed 1

A visit is one short use of the loop: a connection to an echo server, a child process, a file, a storm of threads.
Many go on at once, and a quarter of them is cancelled at a random moment. What streams carry is compared with what was
sent. Every epoch ends with a count: no task, callback, timer, native operation, file, process or object of the loop's
may be there that was not after the first epoch, and memory may not grow.

The loop's ring is smaller than what happens in one iteration (`--completions`), so that the kernel has to keep
completions that overflow. There is no shortage of provided buffers (ENOBUFS) to force: the loop has none, it fetches
bytes with recv() when a poll tells of them.

The same seed makes the same choices; when what happens is up to the kernel. A failure names its visit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import hashlib
import itertools
import logging
import os
import random
import select
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))  # tests import what is beside them

from certificates import Contexts, contexts
from processes import Census, census, resident
from traffic import CLIENTS, PATTERN, Client, Servers, connect, reset

import aioring
from aioring import _loop_ring, fs

#: Seconds for a visit, and for what is open to end after an epoch.
DEADLINE: Final = 20.0
#: Seconds of an epoch, at most a quarter of all.
EPOCH: Final = 15.0
#: Visits at once.
AT_ONCE: Final = 24
#: Completions that the small ring holds; a burst makes several times as many in an iteration.
COMPLETIONS: Final = 16
BURST: Final = 100
#: Bytes that memory may grow after the first half: freed memory is in pieces, and which are free depends on luck.
GROWTH: Final = 24 << 20
#: Bytes that a stream carries.
SIZES: Final = (1, 100, 5000, 70_000, 300_000, 1_000_000)


class SoakError(AssertionError):
    """What must not happen, happened."""


def small_loop(completions: int) -> aioring.EventLoop:
    """A loop with so small a completion queue, and a submission queue of half of it."""
    sizes = _loop_ring._ENTRIES, _loop_ring._COMPLETIONS
    _loop_ring._ENTRIES, _loop_ring._COMPLETIONS = completions // 2, completions  # type: ignore[misc]
    try:
        return aioring.EventLoop()
    finally:
        _loop_ring._ENTRIES, _loop_ring._COMPLETIONS = sizes  # type: ignore[misc]


def objects() -> Counter[str]:
    """The collector's objects of asyncio, sockets and this package, by type."""
    gc.collect()
    modules = ("aioring", "_asyncio", "asyncio", "socket", "_socket", "ssl", "_ssl", "traffic")
    types = Counter(type(each) for each in gc.get_objects())
    return Counter(
        {
            f"{kind.__module__}.{kind.__qualname__}": count
            for kind, count in types.items()
            if str(kind.__module__).split(".")[0] in modules  # some types of Cython have a descriptor there
        }
    )


def overflowed(ring: int) -> int:
    """How many completions the kernel keeps for a full queue (io_uring's fdinfo)."""
    _, _, kept = Path(f"/proc/self/fdinfo/{ring}").read_text().partition("CqOverflowList:")
    return sum("user_data=" in line for line in kept.splitlines())


class Soak:
    """The traffic in one loop."""

    def __init__(self, seed: int, folder: Path, tls: Contexts | None) -> None:
        self.seed = seed
        self.folder = folder
        self.tls = tls
        self.loop = asyncio.get_running_loop()
        assert isinstance(self.loop, aioring.EventLoop)
        self.ring = self.loop.ring
        self.servers = Servers(folder, tls)
        self.counts: Counter[str] = Counter()
        self.complaints: list[str] = []
        self.numbers = itertools.count()
        self.signals = 0
        self.signalled = asyncio.Event()
        self.second_signal = asyncio.Lock()
        kinds: dict[Callable[[random.Random], Coroutine[Any, Any, None]], int] = {
            self.connection: 100,
            self.abandoned: 15,
            self.short_lived_server: 5,
            self.datagrams: 10,
            self.child: 4,
            self.file: 15,
            self.names: 5,
            self.sendfile: 5,
            self.threads: 5,
            self.executor: 10,
            self.signal: 5,
            self.timers: 15,
            self.operations: 15,
            self.pipes: 10,
            self.burst: 2,
        }
        self.kinds, self.weights = list(kinds), list(kinds.values())

    # --- epochs ---

    async def live(self, seconds: float, report: Callable[[str], None]) -> None:
        self.loop.set_exception_handler(self.complain)
        warnings.simplefilter("always", ResourceWarning)
        warnings.showwarning = lambda message, *_: self.complaints.append(str(message))
        self.loop.add_signal_handler(signal.SIGUSR1, self.on_signal)
        others = asyncio.all_tasks()
        empty = census()
        await self.servers.start()
        started = time.monotonic()
        length = min(EPOCH, seconds / 4)
        before: tuple[Census, Counter[str], tuple[int, int, int]] | None = None
        memory: list[int] = []
        try:
            while not memory or time.monotonic() < started + seconds:
                await self.epoch(min(time.monotonic() + length, started + seconds))
                if before is None:
                    before = census(), objects(), self.loop._pending()
                    memory.append(resident())
                    continue
                await self.until(lambda: not self.left(before), lambda: f"left behind: {self.left(before)}")  # noqa: B023
                memory.append(resident())
                took = time.monotonic() - started
                report(f"{took:.0f} s, {self.counts['visits']} visits, {memory[-1] >> 20} MiB resident")
        finally:
            await self.servers.stop()
            self.forget(signal.SIGUSR1)
        settled = memory[len(memory) // 2 :]
        self.counts["KiB of growth in the second half"] = (settled[-1] - settled[0]) >> 10
        if settled[-1] - settled[0] > GROWTH:
            raise SoakError(f"memory grows: {[each >> 20 for each in memory]} MiB after the epochs")
        await self.until(lambda: asyncio.all_tasks() == others, lambda: f"tasks left: {asyncio.all_tasks() - others}")
        if left := census() - empty:
            raise SoakError(f"left behind: {left}")

    async def epoch(self, end: float) -> None:
        self.loop.set_default_executor(ThreadPoolExecutor(4))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(self.visitor(end))
        except* SoakError as failures:
            raise failures.exceptions[0] from None
        waking = asyncio.create_task(asyncio.to_thread(time.sleep, 0.05))
        started = time.monotonic()
        await asyncio.wait([waking], timeout=DEADLINE)
        if time.monotonic() - started > DEADLINE - 1:
            raise SoakError("a call from a thread does not wake the loop")
        await self.loop.shutdown_default_executor()  # what was cancelled goes on in its threads
        self.loop._executor_shutdown_called = False  # type: ignore[attr-defined]  # the next epoch has another
        await self.until(
            lambda: not self.servers.open and self.loop._pending()[:2] == (0, 0),
            lambda: f"still open: {self.servers.open}, {self.loop._pending()}",
        )
        if self.complaints:
            raise SoakError(f"the loop complained: {self.complaints[:3]}")

    def complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # In debug mode asyncio tells of handshakes that fail; clients of `abandoned` do not even try.
        if not (isinstance(context.get("exception"), OSError) and "incoming connection" in context["message"]):
            self.complaints.append(str(context))

    async def until(self, condition: Callable[[], bool], failure: Callable[[], str]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not condition():
            if time.monotonic() > deadline:
                raise SoakError(failure())
            await asyncio.sleep(0.01)

    def left(self, before: tuple[Census, Counter[str], tuple[int, int, int]]) -> list[object]:
        """What there is now and was not before."""
        operations = self.loop._pending()
        found: list[object] = [census() - before[0], objects() - before[1]]
        more = any(now > then for now, then in zip(operations, before[2], strict=True))
        # equal, and not at most: an operation that the loop lost is a fault, too
        if more or operations[2] != before[2][2]:
            found.append(f"callbacks, timers, operations: {before[2]}, now {operations}")
        return [each for each in found if each]

    # --- visits ---

    async def visitor(self, end: float) -> None:
        while time.monotonic() < end:
            number = next(self.numbers)
            rng = random.Random(f"{self.seed}.{number}")
            (kind,) = rng.choices(self.kinds, self.weights)
            name = kind.__name__
            task = asyncio.create_task(kind(rng))
            cancelled = rng.random() < 0.25
            if cancelled:
                if rng.random() < 0.5:
                    for _ in range(rng.randrange(30)):
                        await asyncio.sleep(0)
                else:
                    await asyncio.wait([task], timeout=rng.random() ** 2 * 0.05)
                cancelled = task.cancel()
            await asyncio.wait([task], timeout=DEADLINE)
            where = f"visit {number} of seed {self.seed}, {name}"
            if not task.done():
                raise SoakError(f"{where} hangs: {task.get_coro()} {task.get_stack()}")
            self.counts["visits"] += 1
            if task.cancelled():
                if not cancelled:
                    raise SoakError(f"{where} was cancelled by nobody")
                self.counts[f"{name}, cancelled"] += 1
            elif (error := task.exception()) is not None:
                raise SoakError(f"{where}: {error!r}") from error
            else:
                self.counts[name] += 1

    async def connection(self, rng: random.Random) -> None:
        """To an echo server: what comes back is what was sent, until either end has enough."""
        kind, client_kind = rng.choice(Servers.KINDS), rng.choice(CLIENTS)
        where = rng.choices(["tcp", "unix", "tls"], [5, 3, 2])[0]
        if (where, kind) not in self.servers.addresses or (where == "tls" and client_kind in ("sockets", "watched")):
            where = "tcp"
        size = rng.choice(SIZES)
        start = rng.randrange(len(PATTERN) - size)
        ending = rng.choice(["close", "half close", "abort", "reset"])
        if where == "tls" and ending == "half close":
            ending = "close"
        stop = rng.randrange(size + 1) if ending in ("abort", "reset") else size
        slow = rng.random() < 0.15
        client = await connect(client_kind, where, self.servers.addresses[where, kind], self.tls)
        sending = asyncio.create_task(self.send(rng, client, start, size, ending, rude=kind == "rude"))
        position = 0
        done = False
        try:
            while position < stop or ending == "half close":
                data = await client.receive(1 + rng.randrange(2000 if slow else 100_000))
                if data != PATTERN[start + position : start + position + len(data)] or position + len(data) > size:
                    raise SoakError(f"{where} {kind} {client_kind}: other bytes than were sent, at {position}")
                position += len(data)
                if not data:
                    break
                if slow and rng.random() < 0.2:
                    await asyncio.sleep(rng.random() * 0.005)
            if kind != "rude":
                if position < stop:
                    raise SoakError(f"{where} {kind} {client_kind}: {position} bytes of {stop}")
                if ending in ("close", "half close"):
                    await sending
            done = True
        except (ConnectionError, OSError):
            if kind != "rude":
                raise
        finally:
            sending.cancel()
            try:
                await asyncio.wait([sending])
                if done and ending in ("close", "half close"):
                    await client.close()
            finally:
                client.abort(with_reset=done and ending == "reset" and where != "unix")
        self.counts["bytes"] += position
        self.counts[f"{where} connections"] += 1
        self.counts["resets"] += ending == "reset" or kind == "rude"

    async def send(self, rng: random.Random, client: Client, start: int, size: int, ending: str, *, rude: bool) -> None:
        position = 0
        with contextlib.suppress(*[OSError] * rude):
            while position < size:
                step = min(size - position, rng.choice([1, 1000, 30_000]) if position < 100_000 else 200_000)
                await client.send(PATTERN[start + position : start + position + step])
                position += step
            if ending == "half close":
                client.end()

    async def abandoned(self, rng: random.Random) -> None:
        """Plain sockets that connect and go, before the server knows them or after a word."""
        where, kind = rng.choice(sorted(self.servers.addresses))
        for _ in range(rng.randrange(1, 10)):
            with socket.socket(socket.AF_UNIX if where == "unix" else socket.AF_INET) as sock:
                sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):  # a Unix socket's queue is full
                    sock.connect(self.servers.addresses[where, kind])
                if rng.random() < 0.5:
                    await asyncio.sleep(0)
                    with contextlib.suppress(OSError):
                        sock.send(b"garbage")
                if where != "unix" and rng.random() < 0.5:
                    reset(sock)

    async def short_lived_server(self, rng: random.Random) -> None:
        """Closed while clients connect: they see an end, whether they were accepted or not."""
        made: list[asyncio.Transport] = []

        class Served(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                made.append(transport)  # type: ignore[arg-type]

        server = await self.loop.create_server(Served, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        clients = [socket.socket() for _ in range(rng.randrange(1, 8))]
        try:
            for client in clients:
                client.setblocking(False)
                client.connect_ex(address)
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            server.close()
            await asyncio.sleep(0)
            for transport in made:
                transport.close()
            for client in clients:
                with contextlib.suppress(ConnectionError):
                    while await self.loop.sock_recv(client, 100):
                        raise SoakError("bytes that nobody sent")
        finally:
            server.close()
            for client in clients:
                client.close()
            for transport in made:
                transport.abort()

    async def datagrams(self, rng: random.Random) -> None:
        """To oneself and back, few enough at a time for any buffer: none is lost, all are in order."""
        received: asyncio.Queue[bytes] = asyncio.Queue()

        class Receiver(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: Any) -> None:
                received.put_nowait(data)

        transport, _ = await self.loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0))
        try:
            with socket.socket(type=socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                for _ in range(rng.randrange(1, 20)):
                    sent = [rng.randbytes(rng.randrange(1, 1000)) for _ in range(8)]
                    for data in sent:
                        await self.loop.sock_sendto(sender, data, transport.get_extra_info("sockname"))
                    if [await received.get() for _ in sent] != sent:
                        raise SoakError("other datagrams than were sent")
        finally:
            transport.abort()

    async def child(self, rng: random.Random) -> None:
        pipe = asyncio.subprocess.PIPE
        match rng.randrange(3):
            case 0:
                command, sent, code = ["/bin/cat"], PATTERN[: rng.choice(SIZES)], 0
            case 1:
                code = rng.randrange(256)
                command, sent = ["/bin/sh", "-c", f"exit {code}"], b""
            case _:
                command, sent, code = ["/bin/sleep", "1000"], b"", -signal.SIGKILL
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        try:
            if code == -signal.SIGKILL:
                process.kill()
            received, _ = await process.communicate(sent)
            if received != sent or process.returncode != code:
                raise SoakError(f"{command} ended with {process.returncode}, {len(received)} bytes of {len(sent)}")
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            process._transport.close()  # type: ignore[attr-defined]  # wait() waits for the end of what nobody reads
            await process.wait()

    async def file(self, rng: random.Random) -> None:
        """Blocks written at once, read at once; and lines."""
        path = self.folder / f"file-{rng.getrandbits(64):x}"
        try:
            async with fs.open(path, "w+b", 0, fixed=rng.random() < 0.3) as file:
                size = rng.choice([1000, 4096, 100_000])
                blocks = list(range(0, size * 8, size))
                rng.shuffle(blocks)
                await asyncio.gather(*(file.pwrite(PATTERN[at : at + size], at) for at in blocks))
                rng.shuffle(blocks)
                for at, data in zip(
                    blocks, await asyncio.gather(*(file.pread(size, at) for at in blocks)), strict=True
                ):
                    if data != PATTERN[at : at + size]:
                        raise SoakError("a file has other bytes than were written")
            lines = [f"line {number}\n" for number in range(rng.randrange(300))]
            async with fs.open(path, "w") as text:
                await text.writelines(lines)
            async with fs.open(path) as text:
                if [line async for line in text] != lines:
                    raise SoakError("a file has other lines than were written")
        finally:
            path.unlink(missing_ok=True)

    async def names(self, rng: random.Random) -> None:
        folder = self.folder / f"names-{rng.getrandbits(64):x}"
        try:
            await fs.mkdir(folder)
            async with fs.open(folder / "a", "xb"):
                pass
            await fs.rename(folder / "a", folder / "b")
            await fs.symlink("b", folder / "c")
            if sorted(await fs.listdir(folder)) != ["b", "c"] or (await fs.stat(folder / "c")).st_size:
                raise SoakError("other names than were made")
        finally:
            # What was cancelled is done, or is not; a thread may be at it.
            while folder.exists():
                for path in folder.iterdir():
                    path.unlink()
                folder.rmdir()

    async def sendfile(self, rng: random.Random) -> None:
        size = rng.choice(SIZES)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            file.write(PATTERN[:size])
            file.flush()
            left, right = socket.socketpair()
            right.setblocking(False)
            with right:
                _, writer = await asyncio.open_connection(sock=left)
                got = bytearray()
                sending = asyncio.create_task(self.loop.sendfile(writer.transport, file))
                try:
                    while len(got) < size:
                        got += await self.loop.sock_recv(right, 100_000)
                    if await sending != size or got != PATTERN[:size]:
                        raise SoakError("sendfile() sends other bytes")
                finally:
                    sending.cancel()
                    try:
                        await asyncio.wait([sending])
                    finally:
                        writer.transport.abort()

    async def threads(self, rng: random.Random) -> None:
        """call_soon_threadsafe() from several threads at once: each one's calls in its order."""
        seen: dict[int, list[int]] = {thread: [] for thread in range(rng.randrange(1, 4))}
        calls = rng.choice([10, 300, 3000])

        def storm(thread: int) -> None:
            for number in range(calls):
                self.loop.call_soon_threadsafe(seen[thread].append, number)
                if number % 100 == 0:
                    time.sleep(0)  # lets go of the GIL, so that the threads' calls come by turns

        async def answer() -> int:
            await asyncio.sleep(0)
            return threading.get_ident()

        def ask() -> int:
            return asyncio.run_coroutine_threadsafe(answer(), self.loop).result(DEADLINE)

        found, *_ = await asyncio.gather(asyncio.to_thread(ask), *(asyncio.to_thread(storm, each) for each in seen))
        if found != threading.get_ident() or any(each != list(range(calls)) for each in seen.values()):
            raise SoakError("calls from threads are lost, or out of order")
        self.counts["calls from threads"] += calls * len(seen)

    async def executor(self, rng: random.Random) -> None:
        parts = [rng.randbytes(rng.choice([10, 10_000])) for _ in range(rng.randrange(1, 10))]
        found = await asyncio.gather(*(self.loop.run_in_executor(None, hashlib.sha256, part) for part in parts))
        if [each.digest() for each in found] != [hashlib.sha256(part).digest() for part in parts]:
            raise SoakError("an executor's result is another's")

    def on_signal(self) -> None:
        self.signals += 1
        self.signalled.set()
        self.signalled.clear()

    def forget(self, number: signal.Signals) -> None:
        signal.signal(number, signal.SIG_IGN)  # one that is still under way would end the process
        self.loop.remove_signal_handler(number)

    async def signal(self, rng: random.Random) -> None:
        before = self.signals
        os.kill(os.getpid(), signal.SIGUSR1)
        while self.signals == before:
            await self.signalled.wait()
        async with self.second_signal:
            came = asyncio.Event()
            self.loop.add_signal_handler(signal.SIGUSR2, came.set)
            try:
                os.kill(os.getpid(), signal.SIGUSR2)
                await came.wait()
            finally:
                self.forget(signal.SIGUSR2)

    async def timers(self, rng: random.Random) -> None:
        """In order and not early, cancelled ones not at all."""
        fired: list[tuple[float, float]] = []
        handles = []
        for _ in range(rng.randrange(1, 100)):
            when = self.loop.time() + rng.random() * 0.02
            handles.append(self.loop.call_at(when, lambda when=when: fired.append((when, self.loop.time()))))
        dropped = rng.sample(handles, len(handles) // 2)
        for handle in dropped:
            handle.cancel()
        due = sorted(handle.when() for handle in handles if not handle.cancelled())
        await asyncio.sleep(0.021)
        if [when for when, _ in fired] != due:
            raise SoakError("timers are lost, or out of order")
        if any(at < when - time.get_clock_info("monotonic").resolution for when, at in fired):
            raise SoakError("a timer is early")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(rng.random() * 0.01):
                await asyncio.sleep(rng.random() * 0.01)

    async def operations(self, rng: random.Random) -> None:
        """Of the ring, on a pipe."""
        source, sink = os.pipe()
        try:
            reading = self.ring.read(source, 1000)
            if rng.random() < 0.5:
                await self.ring.timeout(rng.random() * 0.005)
            sent = rng.randbytes(rng.randrange(1, 1000))
            await self.ring.write(sink, sent)
            if await reading != sent:
                raise SoakError("a pipe has other bytes than were written")
            polling = self.ring.poll(source, select.POLLIN)
            if rng.random() < 0.3:
                await asyncio.sleep(0)
                polling.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    raise SoakError(f"a poll saw {await polling}, and nothing was there")
            else:
                os.write(sink, b"-")
                if await polling != select.POLLIN:
                    raise SoakError("a poll does not see what is there")
        finally:
            os.close(source)
            os.close(sink)

    async def pipes(self, rng: random.Random) -> None:
        """As transports."""
        source, sink = os.pipe()
        size = rng.choice(SIZES)
        reader = asyncio.StreamReader()
        reading = writing = None
        ends = [os.fdopen(source, "rb", 0), os.fdopen(sink, "wb", 0)]
        try:
            reading, _ = await self.loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), ends[0])
            writing, _ = await self.loop.connect_write_pipe(asyncio.Protocol, ends[1])
            writing.write(PATTERN[:size])
            writing.write_eof()
            if await reader.read() != PATTERN[:size]:
                raise SoakError("a pipe has other bytes than were written")
        finally:
            for transport, end in ((reading, ends[0]), (writing, ends[1])):
                if transport is None:
                    end.close()
                elif transport is writing and writing.get_write_buffer_size():
                    writing.abort()  # only then: asyncio's fails once it is closed
                else:
                    transport.close()

    async def burst(self, rng: random.Random) -> None:
        """More completions in an iteration than the queue holds."""
        pairs = [socket.socketpair() for _ in range(BURST)]
        receiving = []
        most = 0

        async def receive(sock: socket.socket) -> bytes:
            nonlocal most
            data = await self.loop.sock_recv(sock, 10)
            most = max(most, overflowed(self.ring.fileno()))
            return data

        try:
            for left, right in pairs:
                left.setblocking(False)
                right.setblocking(False)
                receiving.append(asyncio.create_task(receive(left)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for number, (_, right) in enumerate(pairs):
                right.send(b"%d" % number)
            if await asyncio.gather(*receiving) != [b"%d" % number for number in range(BURST)]:
                raise SoakError("a burst has other bytes than were sent")
        finally:
            for task in receiving:
                task.cancel()
            try:
                await asyncio.gather(*receiving, return_exceptions=True)
            finally:
                for each in itertools.chain.from_iterable(pairs):
                    each.close()
            self.counts["completions that overflowed, at most"] = max(
                self.counts["completions that overflowed, at most"], most
            )


def run(
    seconds: float, seed: int, completions: int = COMPLETIONS, report: Callable[[str], None] = lambda text: None
) -> Counter[str]:
    """So much traffic; what there was of it. Raises `SoakError`."""
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        tls = contexts(folder)

        async def main() -> Counter[str]:
            soak = Soak(seed, folder, tls)
            await soak.live(seconds, report)
            return soak.counts

        with (
            warnings.catch_warnings(),
            asyncio.Runner(loop_factory=lambda: small_loop(completions)) as runner,
        ):
            return runner.run(main())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--completions", type=int, default=COMPLETIONS, help="of the ring's queue (%(default)s)")
    options = parser.parse_args()

    def report(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of those who write to what was reset
    started = time.monotonic()
    counts = run(options.seconds, options.seed, options.completions, report)
    print(f"\n{options.seconds:.0f} s asked, {time.monotonic() - started:.0f} s, seed {options.seed}")
    for name, count in sorted(counts.items()):
        print(f"{count:12} {name}")


if __name__ == "__main__":
    main()
