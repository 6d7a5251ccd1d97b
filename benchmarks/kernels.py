# SPDX-License-Identifier: MIT
"""Compiled C: kernels as guests (-O2, recompiler, no gas metering), as machine code (gcc -O2) and as WebAssembly.

All are built from the same sources, in `guests/`, and compute the same checksum. Guests and WebAssembly are compiled by
the clang of the package ziglang. What is timed is one call, which takes a tenth of a second or so.
"""

from __future__ import annotations

import ctypes
import functools
import math
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import aioring
import vm
from benchmarks import _wasmtime
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
from vm import toolchain
from vm.toolchain._compiler import find_compiler

_SOURCES: Final = Path(__file__).with_name("guests")
#: What is run, and how often a call does it: as often as takes a tenth of a second.
_ROUNDS: Final = {
    "sieve": 100,
    "sha256": 500,
    "blake2": 1500,
    "matrix": 100,
    "quicksort": 10,
    "json": 300,
    "lz": 80,
}
_NATIVE: Final = "gcc -O2"


def guest(name: str, results: dict[str, int]) -> Contender:
    try:
        blob = toolchain.build([_SOURCES / f"{name}.c"])
    except toolchain.ToolchainError as error:
        raise SkipError(str(error)) from error
    rounds = _ROUNDS[name]

    async def main() -> Sample:
        async with vm.Engine() as engine:
            module = await engine.compile(blob)
            async with await vm.Linker().instantiate(module) as instance:
                await instance.call("run", 1)
                started = time.perf_counter()
                result = await instance.call("run", rounds, returns=vm.u64)
                seconds = time.perf_counter() - started
        results["ours"] = result
        return {"run": seconds}

    return lambda: aioring.run(main())


def native(name: str, results: dict[str, int], folder: Path) -> Contender:
    gcc = need_command("gcc", "apt install gcc")
    library = folder / f"{name}.so"
    subprocess.run([gcc, "-O2", "-shared", "-fPIC", "-o", library, _SOURCES / f"{name}.c"], check=True)
    function = ctypes.CDLL(str(library)).run
    function.argtypes, function.restype = [ctypes.c_uint32], ctypes.c_uint64
    rounds = _ROUNDS[name]

    def run() -> Sample:
        function(1)
        started = time.perf_counter()
        results["native"] = function(rounds)
        return {"run": time.perf_counter() - started}

    return run


def wasm(name: str, results: dict[str, int], folder: Path) -> Contender:
    _wasmtime.load()  # before anything is built
    try:
        zig = find_compiler("zig").zig
    except toolchain.ToolchainError as error:
        raise SkipError(str(error)) from error
    module = folder / f"{name}.wasm"
    options = ["-target", "wasm32-freestanding", "-O2", "-nostdlib", "-Wl,--no-entry", "-fno-sanitize=undefined"]
    subprocess.run([str(zig), "cc", *options, "-o", module, _SOURCES / f"{name}.c"], check=True)
    return _wasmtime.function(module.read_bytes(), "run", _ROUNDS[name], results)


def measure(options: Options) -> Report:
    report = Report("Compiled C: kernels, no gas metering")
    contenders: dict[str, Contender] = {}
    results: dict[str, dict[str, int]] = {name: {} for name in _ROUNDS}
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        for name in _ROUNDS:
            makers: dict[str, Callable[[], Contender]] = {
                f"ours {name}": functools.partial(guest, name, results[name]),
                f"native {name}": functools.partial(native, name, results[name], folder),
                f"wasmtime {name}": functools.partial(wasm, name, results[name], folder),
            }
            add_contenders(contenders, makers, report)
        samples = interleave(contenders, options)
    for name, seen in results.items():
        if len(set(seen.values())) > 1:
            raise RuntimeError(f"{name}: checksums differ: {seen}")
    times = {name: column(taken, "run") for name, taken in samples.items()}
    for peer in ("native", "wasmtime"):
        shared = [name for name in _ROUNDS if f"ours {name}" in times and f"{peer} {name}" in times]
        if not shared:
            continue
        against = _NATIVE if peer == "native" else _wasmtime.version()
        for name in shared:
            goal = None if peer == "native" else 1.0
            report.rows.append(Row(name, times[f"ours {name}"], times[f"{peer} {name}"], against, goal))
        first = _means([times[f"ours {name}"] for name in shared])
        second = _means([times[f"{peer} {name}"] for name in shared])
        report.rows.append(Row("geometric mean", first, second, against, 1.3 if peer == "native" else None))
    report.notes.append(disturbance(options))
    return report


def _means(columns: list[list[float]]) -> list[float]:
    """The geometric mean of each round."""
    return [math.exp(math.fsum(map(math.log, times)) / len(times)) for times in zip(*columns, strict=True)]


if __name__ == "__main__":
    program(measure, __doc__)
