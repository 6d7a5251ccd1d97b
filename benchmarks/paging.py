# SPDX-License-Identifier: MIT
"""Dynamic paging: what a page fault takes, served by Python and by the built-in pagers, and reading memory in sequence.

The guest touches a byte of every other page, so that there is nothing to read ahead, or reads all words of 64 MiB. The
peer is the same guest without dynamic paging, whose faults the kernel serves by itself.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import aioring
import vm
from benchmarks._harness import Contender, Options, Report, Row, Sample, column, disturbance, interleave, program
from vm.assembler import assemble

_PAGE: Final = 4096
_FAULTS: Final = 2000
#: Faults in one call, whose own time is then small.
_AT_ONCE: Final = 50
_SEQUENTIAL: Final = 64 << 20

_PROGRAM: Final = """
%stack_size = 4096

pub @grow:
    a0 = sbrk a0
    ret
pub @touch:
    a2 = u8 [a0]
    a0 = a0 + 8192
    a1 = a1 - 1
    jump @touch if a1 != 0
    ret
pub @read:
    a2 = u64 [a0]
    a2 = u64 [a0 + 8]
    a2 = u64 [a0 + 16]
    a2 = u64 [a0 + 24]
    a2 = u64 [a0 + 32]
    a2 = u64 [a0 + 40]
    a2 = u64 [a0 + 48]
    a2 = u64 [a0 + 56]
    a0 = a0 + 64
    a1 = a1 - 64
    jump @read if a1 != 0
    ret
"""


async def _measure(linker: vm.Linker, *, paged: bool) -> Sample:
    """A fault, and the time to read 64 MiB."""
    async with vm.Engine() as engine:
        program = assemble(_PROGRAM, vm.InstructionSet.LATEST64)
        module = await engine.compile(program, vm.ModuleConfig(dynamic_paging=paged))
        base = module.memory_map.heap_base
        async with await linker.instantiate(module) as instance:
            await instance.call("grow", 2 * _FAULTS * _PAGE)
            times = []
            for first in range(0, _FAULTS, _AT_ONCE):
                started = time.perf_counter()
                await instance.call("touch", base + 2 * first * _PAGE, _AT_ONCE)
                times.append((time.perf_counter() - started) / _AT_ONCE)
            fault = statistics.median(times)
        async with await linker.instantiate(module) as instance:
            await instance.call("grow", _SEQUENTIAL)
            started = time.perf_counter()
            await instance.call("read", base, _SEQUENTIAL)
            return {"fault": fault, "sequence": time.perf_counter() - started}


def _python(*, suspends: bool) -> Contender:
    """An async function: from one fault until the next one reaches Python."""

    def run() -> Sample:
        linker, page, times = vm.Linker(), bytes(_PAGE), []

        @linker.on_page_fault
        async def serve(caller: vm.Caller, fault: vm.PageFault) -> None:
            times.append(time.perf_counter())
            if suspends:
                await asyncio.sleep(0)
            caller.memory.write(fault.address, page)

        async def main() -> Sample:
            async with vm.Engine() as engine:
                blob = assemble(_PROGRAM, vm.InstructionSet.LATEST64)
                module = await engine.compile(blob, vm.ModuleConfig(dynamic_paging=True))
                async with await linker.instantiate(module) as instance:
                    await instance.call("grow", 2 * _FAULTS * _PAGE)
                    await instance.call("touch", module.memory_map.heap_base, _FAULTS)
            return {"fault": statistics.median(b - a for a, b in itertools.pairwise(times))}

        return aioring.run(main())

    return run


def _pager(make: Callable[[], vm.Pager] | None) -> Contender:
    def run() -> Sample:
        linker = vm.Linker()
        if make is not None:
            linker.on_page_fault(make())
        return aioring.run(_measure(linker, paged=make is not None))

    return run


def measure(options: Options) -> Report:
    report = Report("Page faults")
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        path = Path(folder) / "data"
        path.write_bytes(bytes(range(256)) * (_SEQUENTIAL // 256))
        base = vm.MemoryMap(stack_size=_PAGE).heap_base
        samples = interleave(
            {
                "kernel": _pager(None),
                "async": _python(suspends=False),
                "suspends": _python(suspends=True),
                "zero": _pager(vm.ZeroPager),
                "file": _pager(lambda: vm.FilePager(path, base)),
            },
            options,
        )

    def add(what: str, key: str, name: str) -> None:
        report.rows.append(Row(what, column(samples[name], key), column(samples["kernel"], key), "the kernel alone"))

    add("fault served by an `async def` handler that does not suspend", "fault", "async")
    add("by one that does (`asyncio.sleep(0)`)", "fault", "suspends")
    add("by `vm.ZeroPager`", "fault", "zero")
    add("by `vm.FilePager`", "fault", "file")
    add("64 MiB read in sequence, `vm.ZeroPager`", "sequence", "zero")
    add("the same, `vm.FilePager`", "sequence", "file")
    for name, pager in (("zero", "ZeroPager"), ("file", "FilePager")):
        rate = _SEQUENTIAL / statistics.median(column(samples[name], "sequence")) / (1 << 30)
        report.notes.append(f"In sequence, `{pager}`: {rate:.1f} GiB/s.")
    report.notes.append(disturbance(options))
    return report


if __name__ == "__main__":
    program(measure, __doc__)
