# SPDX-License-Identifier: MIT
"""Files: blocks of 4 KiB at random places, beside asyncio with an executor and a C program with io_uring."""

from __future__ import annotations

import asyncio
import functools
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import aioring
from aioring import fs
from benchmarks._harness import (
    Contender,
    Options,
    Report,
    Row,
    Sample,
    SkipError,
    add_contenders,
    column,
    disturbance,
    interleave,
    need_command,
    program,
)

_PEER: Final = Path(__file__).parent / "peers" / "files" / "transfers.c"
_BLOCK: Final = 4096
_SIZE: Final = 64 << 20
_CONCURRENCIES: Final = (1, 32, 256)
#: Per kind: how many transfers of ours and the C program's, and of the executor's.
_COUNTS: Final = {"read": (100_000, 10_000), "direct": (5_000, 5_000), "write": (10_000, 5_000)}
_KINDS: Final = {
    "read": "4 KiB from the page cache",
    "direct": "4 KiB from the device (O_DIRECT)",
    "write": "4 KiB written to the page cache",
}
_OPENS: Final = 500

#: Makes one transfer at an offset.
Transfer = Callable[[int], Awaitable[object]]


async def _share(transfer: Transfer, offsets: list[int], concurrency: int) -> Sample:
    """Seconds per transfer, with so many tasks: of the clock, and of processors."""

    async def work(mine: list[int]) -> None:
        for offset in mine:
            await transfer(offset)

    clock, processors = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work(offsets[task::concurrency]) for task in range(concurrency)))
    return {
        "clock": (time.perf_counter() - clock) / len(offsets),
        "processors": (time.process_time() - processors) / len(offsets),
    }


def _offsets(count: int) -> list[int]:
    generator = random.Random(count)
    return [generator.randrange(_SIZE // _BLOCK) * _BLOCK for _ in range(count)]


# --- contenders ---


def _ours(path: Path, kind: str, number: int) -> Contender:
    offsets = _offsets(_COUNTS[kind][0])
    data = bytes(_BLOCK)

    async def measure_one(concurrency: int) -> Sample:
        async with fs.open(path, "r+b" if kind == "write" else "rb", 0, direct=kind == "direct") as file:
            transfer = (
                functools.partial(file.pwrite, data) if kind == "write" else functools.partial(file.pread, _BLOCK)
            )
            return await _share(transfer, offsets, concurrency)

    def run() -> Sample:
        return aioring.run(measure_one(number))

    return run


def _executor(path: Path, kind: str, number: int) -> Contender:
    offsets = _offsets(_COUNTS[kind][1])
    data = bytes(_BLOCK)

    async def measure_one(concurrency: int) -> Sample:
        loop = asyncio.get_running_loop()
        fd = os.open(path, os.O_RDWR)
        try:

            def transfer(offset: int) -> Awaitable[object]:
                if kind == "write":
                    return loop.run_in_executor(None, os.pwrite, fd, data, offset)
                return loop.run_in_executor(None, os.pread, fd, _BLOCK, offset)

            return await _share(transfer, offsets, concurrency)
        finally:
            os.close(fd)

    def run() -> Sample:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            return runner.run(measure_one(number))

    return run


def _c(folder: Path, path: Path, kind: str, number: int) -> Contender:
    peer = folder / "transfers"
    if not peer.exists():
        compiler = need_command("cc", "apt install gcc")
        command = [compiler, "-O2", "-Wall", "-Werror", _PEER, "-o", peer, "-luring"]
        built = subprocess.run(command, capture_output=True, text=True)
        if built.returncode:
            raise SkipError("the C program does not build: apt install liburing-dev")
    count = _COUNTS[kind][0]

    def run() -> Sample:
        command = [peer, path, kind, str(number), str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        clock, processors = map(int, done.stdout.split())
        return {"clock": clock / 1e9 / count, "processors": processors / 1e9 / count}

    return run


def _opens(path: Path) -> dict[str, Callable[[], Contender]]:
    """Open, read 1 KiB, close."""

    async def ours() -> Sample:
        async def one(_: int) -> None:
            async with fs.open(path, "rb", 0) as file:
                await file.pread(1024, 0)

        return await _share(one, list(range(_OPENS)), 32)

    async def theirs() -> Sample:
        def read() -> None:
            with path.open("rb", 0) as file:
                file.read(1024)

        return await _share(lambda _: asyncio.to_thread(read), list(range(_OPENS)), 32)

    def run_theirs() -> Sample:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            return runner.run(theirs())

    return {
        "aioring open": lambda: lambda: aioring.run(ours()),
        "executor open": lambda: run_theirs,
    }


# --- the report ---


def measure(options: Options) -> Report:
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=Path.cwd()) as folder:
        return _measure(options, Path(folder))


def _measure(options: Options, folder: Path) -> Report:
    report = Report("Files")
    path = folder / "file"
    path.write_bytes(random.Random(1).randbytes(_SIZE))
    path.read_bytes()
    contenders: dict[str, Contender] = {}
    for kind in _KINDS:
        for number in _CONCURRENCIES:
            makers: dict[str, Callable[[], Contender]] = {
                f"aioring {kind} {number}": functools.partial(_ours, path, kind, number),
                f"C {kind} {number}": functools.partial(_c, folder, path, kind, number),
            }
            if kind != "direct":
                makers[f"executor {kind} {number}"] = functools.partial(_executor, path, kind, number)
            add_contenders(contenders, makers, report)
    add_contenders(contenders, _opens(path), report)
    samples = interleave(contenders, options)

    def compare(what: str, name: str, *, promised: bool = False, time: str = "clock") -> None:
        ours = column(samples[f"aioring {name}"], time)
        for peer, shown, goal in (("C", "C, io_uring", 2.0), ("executor", "asyncio, executor", 0.1)):
            theirs = column(samples.get(f"{peer} {name}", ()), time)
            if theirs:
                report.rows.append(Row(what, ours, theirs, shown, goal if promised else None))

    for kind, what in _KINDS.items():
        for number in _CONCURRENCIES:
            compare(f"{what}, {number} at a time", f"{kind} {number}", promised=kind == "read" and number > 1)
    for number in _CONCURRENCIES:
        what = f"{_KINDS['read']}, {number} at a time, processor time"
        compare(what, f"read {number}", promised=number > 1, time="processors")
    compare("open, read 1 KiB and close, 32 at a time", "open")
    report.notes.append(
        "Time per transfer; a new loop, or process, per sample. Ours makes bytes of what it reads, and has a task per "
        "transfer in flight. It reads the page cache with preadv2(RWF_NOWAIT), and the rest through io_uring."
    )
    report.notes.append(disturbance(options))
    return report


if __name__ == "__main__":
    program(measure, __doc__)
