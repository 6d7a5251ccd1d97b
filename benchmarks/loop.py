# SPDX-License-Identifier: MIT
"""The event loop beside uvloop and rloop: processor time of an echo server per request, and of the loop's own calls.

Server and client have a processor each; the client is C and never sleeps. The server's time is what the kernel's
scheduler counted (schedstat), so that what others do on the machine disturbs little.
"""

from __future__ import annotations

import asyncio
import functools
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks._harness import (
    Contender,
    Options,
    Report,
    Row,
    Sample,
    add_contenders,
    column,
    disturbance,
    interleave,
    need_command,
    program,
    quantity,
    schedule,
)
from benchmarks._loop_server import loop_factory
from benchmarks._servers import need_loop, on_processor, processors, server

_CLIENT: Final = Path(__file__).parent / "peers" / "echo" / "client.c"
_BATCH: Final = 1000
#: Goals are of the first one's times.
_PEERS: Final = ("uvloop", "rloop")


@dataclass(frozen=True, slots=True)
class _Echo:
    """A kind of server under a load."""

    what: str
    kind: str
    connections: int
    size: int
    requests: int
    #: Of uvloop's time: what we promise.
    goal: float
    unix: bool = False


_ECHOES: Final = (
    _Echo("protocol, 1 KiB, 1 connection", "protocol", 1, 1024, 20_000, 0.90),
    _Echo("protocol, 1 KiB, 10 connections", "protocol", 10, 1024, 40_000, 0.90),
    _Echo("protocol, 1 KiB, 100 connections", "protocol", 100, 1024, 40_000, 0.90),
    _Echo("protocol, 64 KiB, 10 connections", "protocol", 10, 65536, 10_000, 0.95),
    _Echo("BufferedProtocol, 1 KiB, 10 connections", "buffered", 10, 1024, 40_000, 0.90),
    _Echo("streams, 1 KiB, 10 connections", "streams", 10, 1024, 30_000, 0.75),
    _Echo("streams, 1 KiB, 100 connections", "streams", 100, 1024, 30_000, 0.75),
    _Echo("`sock_recv` and `sock_sendall`, 1 KiB, 10 connections", "sockets", 10, 1024, 20_000, 0.45),
    _Echo("Unix socket, protocol, 1 KiB, 10 connections", "protocol", 10, 1024, 40_000, 0.90, unix=True),
)


# --- echo servers ---


def _client(folder: Path) -> Path:
    client = folder / "client"
    if not client.exists():
        compiler = need_command("cc", "apt install gcc")
        subprocess.run([compiler, "-O2", "-Wall", "-Werror", _CLIENT, "-o", client], check=True)
    return client


def _echo(loop: str, echo: _Echo, folder: Path) -> Contender:
    """Processor seconds per request, of a server that was just started (`cold`) and later (`warm`)."""
    client = _client(folder)
    ours, clients = processors()

    def run() -> Sample:
        path = str(folder / f"{loop}.socket") if echo.unix else ""
        if path:
            Path(path).unlink(missing_ok=True)
        with server(loop, echo.kind, path, ours) as (pid, where):
            sample: Sample = {}
            for name in ("cold", "warm"):
                before = schedule(pid)[0]
                command = [client, where, *map(str, (echo.connections, echo.size, echo.requests))]
                subprocess.run([*on_processor(clients), *command], check=True, timeout=60, stdout=subprocess.DEVNULL)
                sample[name] = (schedule(pid)[0] - before) / echo.requests
        return sample

    return run


# --- the loop's own calls ---


async def _call_soon() -> float:
    """Callbacks in batches: what one costs."""
    loop = asyncio.get_running_loop()
    start = time.thread_time()
    for _ in range(100):
        for _ in range(_BATCH):
            loop.call_soon(_nothing)
        await asyncio.sleep(0)
    return (time.thread_time() - start) / (100 * _BATCH)


async def _timers() -> float:
    """Timers that fire."""
    loop = asyncio.get_running_loop()
    start = time.thread_time()
    for _ in range(30):
        for _ in range(_BATCH):
            loop.call_later(0, _nothing)
        await asyncio.sleep(0)
        await asyncio.sleep(0.0001)
    return (time.thread_time() - start) / (30 * _BATCH)


async def _tasks() -> float:
    start = time.thread_time()
    for _ in range(30_000):
        await asyncio.create_task(_empty())
    return (time.thread_time() - start) / 30_000


async def _sleep() -> float:
    start = time.thread_time()
    for _ in range(50_000):
        await asyncio.sleep(0)
    return (time.thread_time() - start) / 50_000


async def _threadsafe() -> float:
    """call_soon_threadsafe() in another thread, while the loop is awake: what the caller pays."""
    loop = asyncio.get_running_loop()
    took = []

    def call() -> None:
        start = time.thread_time()
        for _ in range(_BATCH):
            loop.call_soon_threadsafe(_nothing)
        took.append((time.thread_time() - start) / _BATCH)

    for _ in range(50):
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()  # the loop is awake, and busy
        await asyncio.sleep(0)
    return sum(took) / len(took)


def _nothing() -> None:
    pass


async def _empty() -> None:
    pass


#: What is called, and the seconds promised on the machine of the first tables.
_CALLS: Final[dict[str, tuple[str, Callable[[], object], float | None]]] = {
    "call_soon": ("`call_soon` and the call, in batches of 1000", _call_soon, 170e-9),
    "timers": ("`call_later` and the call", _timers, 600e-9),
    "tasks": ("`create_task` and `await`", _tasks, 2.1e-6),
    "sleep": ("`sleep(0)`", _sleep, None),
    "threadsafe": ("`call_soon_threadsafe`, the loop awake", _threadsafe, 200e-9),
}


def _calls(loop: str) -> Contender:
    def run() -> Sample:
        sample: Sample = {}
        for name, (_, measure_one, _) in _CALLS.items():
            with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
                runner.run(measure_one())  # type: ignore[arg-type]
                sample[name] = runner.run(measure_one())  # type: ignore[arg-type, assignment]
        return sample

    return run


# --- the report ---


def _contender(loop: str, make: Callable[..., Contender], *arguments: object) -> Contender:
    return make(need_loop(loop), *arguments)


def measure(options: Options) -> Report:
    report = Report("The event loop")
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        return _measure(options, report, Path(folder))


def _measure(options: Options, report: Report, folder: Path) -> Report:
    contenders: dict[str, Contender] = {}
    for echo in _ECHOES:
        add_contenders(
            contenders,
            {
                f"{loop} {echo.what}": functools.partial(_contender, loop, _echo, echo, folder)
                for loop in ("aioring", *_PEERS)
                if loop != "rloop" or not echo.unix  # which it does not have
            },
            report,
        )
    add_contenders(
        contenders,
        {f"{loop} calls": functools.partial(_contender, loop, _calls) for loop in ("aioring", *_PEERS)},
        report,
    )
    samples = interleave(contenders, options)

    def compare(what: str, contender: str, name: str, goal: float | None) -> None:
        for peer in _PEERS:
            ours, theirs = samples.get(f"aioring {contender}", ()), samples.get(f"{peer} {contender}", ())
            if theirs:
                promised = goal if peer == "uvloop" else None
                report.rows.append(
                    Row(what, column(ours, name), column(theirs, name), f"{peer} {version(peer)}", promised)
                )
            elif peer == "uvloop":
                report.rows.append(Row(what, column(ours, name)))
            what = "the same"

    for echo in _ECHOES:
        compare(echo.what, echo.what, "warm", echo.goal)
    first = _ECHOES[1].what
    cold = samples[f"aioring {first}"]
    report.rows.append(
        Row(f"{first}: a server just started", column(cold, "cold"), column(cold, "warm"), "ours, warm", 1.2)
    )
    for name, (what, _, goal) in _CALLS.items():
        compare(what if goal is None else f"{what} (goal: {quantity(goal)})", "calls", name, None)
    report.notes.append("Processor time per request of the server, or per call of the loop's thread.")
    report.notes.append(disturbance(options))
    return report


if __name__ == "__main__":
    program(measure, __doc__)
