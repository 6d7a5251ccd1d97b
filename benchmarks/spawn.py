# SPDX-License-Identifier: MIT
"""Processes and limits: fresh and reused processes, thousands alive at once, runaway guests stopped at their limit.

The peer of a fresh process is bubblewrap, which makes a sandbox of namespaces for one command (here: /bin/true).
"""

from __future__ import annotations

import asyncio
import functools
import os
import statistics
import subprocess
import time
from pathlib import Path
from typing import Final

import aioring
import vm
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
    need_open_files,
    program,
)
from vm.assembler import assemble

_FRESH: Final = 1000
#: Fresh instances that are under way at once, in the pipelined case.
_AT_ONCE: Final = 8
_REUSED: Final = 3000
_PEER: Final = 100
_ALIVE: Final = 5000
_RUNAWAYS: Final = 8
_WALL: Final = 0.05
_STOPS: Final = 25

_GUEST: Final = """
%rw_data_size = 4096
%stack_size = 4096
pub @add:
    a0 = a0 + a1
    ret
pub @spin:
    jump @spin
pub @recurse:
    a0 = a0 + 1
    ra = @back
    jump @recurse
@back:
    ret
pub @hog:
    a1 = sbrk a2
    jump @hog
pub @storm:
    s0 = sp - 8
@again:
    a1 = u8 [a0]
    a1 = u8 [s0]
    jump @again
"""


def _blob() -> vm.ProgramBlob:
    return vm.ProgramBlob.parse(assemble(_GUEST, vm.InstructionSet.LATEST64))


async def _use(module: vm.Module) -> float:
    """One instance from nothing to its result and the end; seconds."""
    started = time.perf_counter()
    async with await module.instantiate() as instance:
        if await instance.call("add", 1, 10) != 11:
            raise RuntimeError("the guest cannot add")
    return time.perf_counter() - started


def fresh() -> Sample:
    """Every instance in a process of its own, several of them under way."""

    async def main() -> Sample:
        config = vm.Config(reuse="never", spare_workers=2 * _AT_ONCE)
        async with vm.Engine(config) as engine:
            module = await engine.compile(_blob())
            took: list[float] = []

            async def some() -> None:
                took.extend([await _use(module) for _ in range(_FRESH // _AT_ONCE)])

            await _use(module)
            started = time.perf_counter()
            await asyncio.gather(*(some() for _ in range(_AT_ONCE)))
            return {"latency": statistics.median(took), "each": (time.perf_counter() - started) / len(took)}

    return aioring.run(main())


def ready() -> Sample:
    """One fresh process after another, each started ahead."""

    async def main() -> Sample:
        async with vm.Engine(vm.Config(reuse="never", spare_workers=4)) as engine:
            module = await engine.compile(_blob())
            await _use(module)
            took = []
            for _ in range(_FRESH // 10):
                await asyncio.sleep(0.002)
                took.append(await _use(module))
            return {"latency": statistics.median(took)}

    return aioring.run(main())


def reused() -> Sample:
    async def main() -> Sample:
        async with vm.Engine() as engine:
            module = await engine.compile(_blob())
            for _ in range(_REUSED // 10):
                await _use(module)
            return {"latency": statistics.median([await _use(module) for _ in range(_REUSED)])}

    return aioring.run(main())


def alive(count: int) -> Sample:
    """`count` guests that did something and wait: memory of the whole system for each, and how long their end takes."""

    async def main() -> Sample:
        async with vm.Engine(vm.Config(spare_workers=0)) as engine:
            module = await engine.compile(_blob())
            await _use(module)
            before = _free_memory()
            instances = []
            for _ in range(count // 100):
                instances += await asyncio.gather(*(module.instantiate() for _ in range(100)))
            for instance in instances:
                await instance.call("add", 1, 10)
            each = (before - _free_memory()) / count
            started = time.perf_counter()
            await engine.aclose()
            gone = time.perf_counter() - started
            for instance in instances:
                await instance.aclose()
            return {"memory": each, "gone": gone}

    return aioring.run(main())


def _free_memory() -> int:
    """Bytes (proc(5), meminfo)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("no MemAvailable in /proc/meminfo")


def runaways() -> Sample:
    """Endless loops, recursions, memory hogs and storms of page faults at once, each stopped at its limit of time: how
    late they are."""

    async def main() -> Sample:
        limits = vm.Limits(wall=_WALL, memory=1 << 20)
        exports = ("spin", "recurse", "hog", "storm")
        linker = vm.Linker()

        @linker.on_page_fault
        def serve_one(caller: vm.Caller, fault: vm.PageFault) -> None:
            """There is never more than one of the two pages that the guest wants by turns."""
            layout = caller.instance.module.memory_map
            caller.memory.free(layout.rw_address, layout.page_size)
            caller.memory.free(layout.stack_high - layout.page_size, layout.page_size)
            caller.memory.zero(fault.address, fault.size)

        async with vm.Engine(vm.Config(limits=limits)) as engine:
            paged = await engine.compile(_blob(), vm.ModuleConfig(dynamic_paging=True))
            module = await engine.compile(_blob())
            late: list[float] = []

            async def one(export: str) -> None:
                async with await linker.instantiate(paged if export == "storm" else module) as instance:
                    for _ in range(_STOPS):
                        started = time.perf_counter()
                        try:
                            await instance.call(export, module.memory_map.rw_address)
                        except vm.LimitError:
                            late.append(time.perf_counter() - started - _WALL)

            await asyncio.gather(*(one(exports[n % len(exports)]) for n in range(_RUNAWAYS)))
            late.sort()
            return {"p50": late[len(late) // 2], "p99": late[int(len(late) * 0.99)]}

    return aioring.run(main())


def _bubblewrap() -> Contender:
    command = [
        need_command("bwrap", "apt install bubblewrap"),
        *("--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "/bin/true"),
    ]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        raise RuntimeError(f"{' '.join(command)} fails")

    def run() -> Sample:
        took = []
        started = time.perf_counter()
        for _ in range(_PEER):
            before = time.perf_counter()
            # not subprocess, which takes long itself
            os.waitpid(os.posix_spawn(command[0], command, os.environ), 0)
            took.append(time.perf_counter() - before)
        return {"latency": statistics.median(took), "each": (time.perf_counter() - started) / _PEER}

    return run


def _crowd(count: int) -> Contender:
    need_open_files(2 * count + 200)
    return functools.partial(alive, count)


def measure(options: Options) -> Report:
    report = Report("Processes and limits")
    count = 500 if options.quick else _ALIVE
    contenders: dict[str, Contender] = {}
    add_contenders(contenders, {"fresh": lambda: fresh, "bubblewrap": _bubblewrap}, report)
    add_contenders(contenders, {"ready": lambda: ready}, report)
    add_contenders(contenders, {"reused": lambda: reused}, report)
    add_contenders(contenders, {"runaways": lambda: runaways}, report)
    add_contenders(contenders, {"alive": lambda: _crowd(count)}, report)
    samples = interleave(contenders, options)

    def get(name: str, key: str) -> list[float]:
        return column(samples.get(name, ()), key)

    def add(what: str, name: str, key: str, peer: str = "", unit: str = "s") -> None:
        if get(name, key):
            report.rows.append(Row(what, get(name, key), get(peer, key), peer, unit=unit))

    add(f"fresh process to result, {_AT_ONCE} under way: each takes", "fresh", "latency")
    add("the same: one is done every", "fresh", "each", "bubblewrap")
    add("fresh process to result, started ahead", "ready", "latency", "bubblewrap")
    add("reused process, from instantiate to closed", "reused", "latency")
    add(f"{_RUNAWAYS} runaway guests: past their limit, median", "runaways", "p50")
    add("the same, 99th percentile", "runaways", "p99")
    add(f"{count} alive at once: bytes of the system's memory for each", "alive", "memory", unit="")
    add("the same: all dead after close()", "alive", "gone")
    report.notes.append(disturbance(options))
    return report


if __name__ == "__main__":
    program(measure, __doc__)
