# SPDX-License-Identifier: MIT
"""Copies of a guest that has touched a mebibyte, from `instantiate` to the first result: processes that are reused, new
ones, and pages that come when they are touched.

The peers are the same guest warmed up anew for each request, and fork(2) of a Python process that has touched as much.
"""

from __future__ import annotations

import asyncio
import functools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import aioring
import vm
from benchmarks._harness import Contender, Options, Report, Row, Sample, column, disturbance, interleave, program
from vm.assembler import assemble

_PAGE: Final = 4096
_WARM: Final = 1 << 20
_FORKS: Final = 1000
_FRESH: Final = 200

#: `warm` writes a word to each of a1 pages from a0 on; `look` reads one of them.
_GUEST: Final = """
%stack_size = 4096
pub @grow:
    a0 = sbrk a0
    ret
pub @warm:
    u64 [a0] = a1
    a0 = a0 + 4096
    a1 = a1 - 1
    jump @warm if a1 != 0
    ret
pub @look:
    a0 = u64 [a0]
    ret
"""

_FORKING: Final = f"""
import os, statistics, time
warm = bytearray({_WARM})
for page in range(0, {_WARM}, {_PAGE}):
    warm[page] = 1
read, write = os.pipe()
took, whole = [], []
for _ in range({_FORKS}):
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.write(write, warm[:1])
        os._exit(0)
    os.read(read, 1)
    took.append(time.perf_counter() - started)
    os.waitpid(child, 0)
    whole.append(time.perf_counter() - started)
print(statistics.median(took), statistics.median(whole))
"""


async def _warm(linker: vm.Linker, module: vm.Module) -> vm.Instance:
    instance = await linker.instantiate(module)
    base = await instance.call("grow", 0)
    base = (base + _PAGE - 1) & -_PAGE
    await instance.call("grow", _WARM)
    await instance.call("warm", base, _WARM // _PAGE)
    return instance


async def _use(make: Callable[[], Coroutine[Any, Any, vm.Instance]], base: int, pause: float) -> tuple[float, float]:
    """Seconds to the first result, and to the end."""
    await asyncio.sleep(pause)
    started = time.perf_counter()
    instance = await make()
    if await instance.call("look", base + 7 * _PAGE) != _WARM // _PAGE - 7:
        raise RuntimeError("the copy is not as the guest was")
    first = time.perf_counter()
    await instance.aclose()
    return first - started, time.perf_counter() - started


def _forks(config: vm.Config, count: int, *, pause: float = 0, paged: bool = False, anew: bool = False) -> Sample:
    async def main() -> Sample:
        async with vm.Engine(config) as engine:
            blob = vm.ProgramBlob.parse(assemble(_GUEST, vm.InstructionSet.LATEST64))
            module = await engine.compile(blob, vm.ModuleConfig(dynamic_paging=paged))
            base = (module.memory_map.heap_base + _PAGE - 1) & -_PAGE
            linker = vm.Linker()
            linker.on_page_fault(vm.ZeroPager())
            async with await _warm(linker, module) as instance, await instance.snapshot() as snapshot:
                source: Callable[[], Coroutine[Any, Any, vm.Instance]]
                source = functools.partial(_warm, linker, module) if anew else snapshot.instantiate
                for _ in range(count // 10):
                    await _use(source, base, pause)
                times = [await _use(source, base, pause) for _ in range(count)]
        first, whole = zip(*times, strict=True)
        return {"first": statistics.median(first), "whole": statistics.median(whole)}

    return aioring.run(main())


def python() -> Sample:
    first, whole = subprocess.run(
        [sys.executable, "-I", "-c", _FORKING], check=True, capture_output=True, text=True
    ).stdout.split()
    return {"first": float(first), "whole": float(whole)}


def measure(options: Options) -> Report:
    report = Report("Copies of a warm guest")
    forks, fresh = (_FORKS // 10, _FRESH // 10) if options.quick else (_FORKS, _FRESH)
    never = vm.Config(reuse="never", spare_workers=4)
    contenders: dict[str, Contender] = {
        "reused": functools.partial(_forks, vm.Config(), forks),
        "paged": functools.partial(_forks, vm.Config(), forks, paged=True),
        "ahead": functools.partial(_forks, never, fresh, pause=0.002),
        "fresh": functools.partial(_forks, vm.Config(reuse="never", spare_workers=0), fresh),
        "generic": functools.partial(_forks, vm.Config(sandbox="generic"), fresh),
        "anew": functools.partial(_forks, vm.Config(), fresh, anew=True),
        "python": python,
    }
    samples = interleave(contenders, options)

    def add(what: str, name: str, key: str, peer: str = "python", against: str = "fork(2) of Python") -> None:
        report.rows.append(Row(what, column(samples[name], key), column(samples[peer], key), against))

    add("1 MiB, reused process: to the first result", "reused", "first")
    add("the same", "reused", "first", "anew", "warmed anew")
    add("the same, to closed", "reused", "whole")
    add("with dynamic paging: to the first result", "paged", "first")
    add("the same, to closed", "paged", "whole")
    add("a new process, started ahead: to the first result", "ahead", "first")
    add("a new process, not started ahead", "fresh", "first")
    add('in this process (`sandbox="generic"`)', "generic", "first")
    median = statistics.median(column(samples["reused"], "first")) * 1e6
    report.notes.append(f"Promised for a copy of 1 MiB to its first result: at most 100 us. It takes {median:.0f} us.")
    report.notes.append(disturbance(options))
    return report


if __name__ == "__main__":
    program(measure, __doc__)
