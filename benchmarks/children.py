# SPDX-License-Identifier: MIT
"""Child processes: /bin/true spawned and waited for, beside asyncio, uvloop, and subprocess.Popen alone."""

from __future__ import annotations

import asyncio
import functools
import resource
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
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
    program,
)
from benchmarks._loop_server import loop_factory
from benchmarks._servers import need_loop

_COMMAND: Final = "/bin/true"
_COUNT: Final = 100
_AT_ONCE: Final = 10


def _spent() -> float:
    """Processor seconds of this process; its children's are the same, whoever starts them."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


async def _one() -> None:
    process = await asyncio.create_subprocess_exec(_COMMAND)
    if await process.wait():
        raise RuntimeError(f"{_COMMAND} failed")


async def _spawn() -> Sample:
    await _one()
    sample: Sample = {}
    for name, at_once in (("one", 1), ("many", _AT_ONCE)):
        started, spent = time.perf_counter(), _spent()
        for _ in range(_COUNT // at_once):
            await asyncio.gather(*(_one() for _ in range(at_once)))
        sample[name] = (time.perf_counter() - started) / _COUNT
        sample[f"{name}, processor"] = (_spent() - spent) / _COUNT
    return sample


def _loop(name: str) -> Contender:
    factory = loop_factory(need_loop(name))

    def run() -> Sample:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(_spawn())

    return run


def _popen() -> Contender:
    """The floor: no loop at all."""

    def run() -> Sample:
        sample: Sample = {}
        for name, at_once in (("one", 1), ("many", _AT_ONCE)):
            started, spent = time.perf_counter(), _spent()
            for _ in range(_COUNT // at_once):
                for process in [subprocess.Popen([_COMMAND]) for _ in range(at_once)]:
                    process.wait()
            sample[name] = (time.perf_counter() - started) / _COUNT
            sample[f"{name}, processor"] = (_spent() - spent) / _COUNT
        return sample

    return run


def measure(options: Options) -> Report:
    report = Report("Child processes")
    contenders: dict[str, Contender] = {}
    makers: dict[str, Callable[[], Contender]] = {
        loop: functools.partial(_loop, loop) for loop in ("aioring", "asyncio", "uvloop")
    }
    add_contenders(contenders, {**makers, "Popen": _popen}, report)
    samples = interleave(contenders, options)
    for column_name, shown in (
        ("one", f"{_COMMAND} spawned and waited for"),
        ("one, processor", "of that, processor time of this process"),
        ("many", f"{_AT_ONCE} at once"),
        ("many, processor", "of that, processor time of this process"),
    ):
        what = shown
        for peer in ("asyncio", "uvloop", "Popen"):
            theirs = column(samples.get(peer, ()), column_name)
            if theirs:
                against = {
                    "uvloop": lambda: f"uvloop {version('uvloop')}",
                    "Popen": lambda: "`Popen` and `wait()` alone",
                }
                name = against.get(peer, lambda: "asyncio")()
                goal = 0.8 if peer == "asyncio" and column_name == "one" else None
                report.rows.append(Row(what, column(samples["aioring"], column_name), theirs, name, goal))
                what = "the same"
    report.notes.append(f"A new loop for {_COUNT} of them; asyncio's has the child watcher of its default policy.")
    report.notes.append(disturbance(options))
    return report


if __name__ == "__main__":
    program(measure, __doc__)
