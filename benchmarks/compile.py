# SPDX-License-Identifier: MIT
"""Compiling DOOM: 541450 bytes of guest code, from a blob in memory to native code that is ready to run.

The peer is the reference implementation. Ours is also split: parsing, and the recompiler's C function alone. Beside it
stand the ways not to compile: a module that the engine knows already, and one from a file.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import aioring
import vm
from benchmarks import _peer
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
    need_program,
    per,
    program,
)
from benchmarks.doom import module_config

#: Compilations a sample is the median of, after some that warm caches up.
_COUNT: Final = 15
_WARM: Final = 3


class _TimedLibrary:
    """The sandbox library, with a clock around the recompiler."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def sandbox_image_create(self, *arguments: Any) -> Any:
        started = time.perf_counter()
        result = self._library.sandbox_image_create(*arguments)
        self.seconds = time.perf_counter() - started
        return result


@contextlib.contextmanager
def _timed_library() -> Iterator[_TimedLibrary]:
    module: Any = importlib.import_module("vm._compile")
    library = module.lib
    module.lib = timed = _TimedLibrary(library)
    try:
        yield timed
    finally:
        module.lib = library


async def _compile(blob: bytes, config: vm.ModuleConfig) -> Sample:
    parse: list[float] = []
    recompile: list[float] = []
    whole: list[float] = []
    size = 0
    async with vm.Engine(vm.Config(module_cache_size=0)) as engine:
        with _timed_library() as library:
            for number in range(_WARM + _COUNT):
                started = time.perf_counter()
                vm.ProgramBlob.parse(blob)
                parsed = time.perf_counter()
                module = await engine.compile(blob, config)
                done = time.perf_counter()
                if number >= _WARM:
                    parse.append(parsed - started)
                    whole.append(done - parsed)
                    recompile.append(library.seconds)
                size = module.native_size
                del module
    return {
        "parse": statistics.median(parse),
        "recompile": statistics.median(recompile),
        "whole": statistics.median(whole),
        "native_size": size,
    }


async def _reuse(blob: bytes, config: vm.ModuleConfig) -> Sample:
    known: list[float] = []
    load: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "doom.pvmc"
        async with vm.Engine() as engine, vm.Engine(vm.Config(module_cache_size=0)) as other:
            module = await engine.compile(blob, config)
            await module.save(path)
            for number in range(_WARM + _COUNT):
                started = time.perf_counter()
                again = await engine.compile(blob, config)
                compiled = time.perf_counter()
                loaded = await other.load(path, config)
                done = time.perf_counter()
                if number >= _WARM:
                    known.append(compiled - started)
                    load.append(done - compiled)
                assert again is module
                assert loaded.native_size == module.native_size
                del loaded
        return {"known": statistics.median(known), "load": statistics.median(load), "file": path.stat().st_size}


def reuse(metering: Any) -> Contender:
    blob = need_program("doom.polkavm").read_bytes()
    config = module_config(metering)
    return lambda: aioring.run(_reuse(blob, config))


def ours(metering: Any) -> Contender:
    blob = need_program("doom.polkavm").read_bytes()
    config = module_config(metering)
    return lambda: aioring.run(_compile(blob, config))


def peer(metering: Any) -> Contender:
    path = need_program("doom.polkavm")
    page = module_config("none").page_size
    _peer.build()

    def run() -> Sample:
        said = _peer.run("compile", path, gas=metering, page=page, count=_COUNT, warm=_WARM)
        whole = [a + b for a, b in zip(said["parse"], said["recompile"], strict=True)]
        return {
            "parse": statistics.median(said["parse"]),
            "recompile": statistics.median(said["recompile"]),
            "whole": statistics.median(whole),
            "native_size": said["native_size"],
        }

    return run


def measure(options: Options) -> Report:
    report = Report("Compiling doom.polkavm")
    need_program("doom.polkavm")
    contenders: dict[str, Contender] = {}
    for metering in ("none", "sync"):
        pair = {f"ours {metering}": ours, f"peer {metering}": peer}
        pair[f"reuse {metering}"] = reuse
        add_contenders(contenders, {name: functools.partial(make, metering) for name, make in pair.items()}, report)
    samples = interleave(contenders, options)

    reference = _peer.version()
    for metering, suffix in (("none", ""), ("sync", ", sync gas")):
        first, second = samples.get(f"ours {metering}", []), samples.get(f"peer {metering}", [])
        if not first:
            continue
        against = reference if second else ""
        for key, what, goal in (
            ("whole", "blob to module (`await engine.compile`)", 1.0),
            ("recompile", "of that, the recompiler and its sealed image", None),
            ("parse", "of that, parsing", None),
        ):
            report.rows.append(Row(what + suffix, column(first, key), column(second, key), against, goal))
        size, peer_size = (per(column(taken, "native_size"), 1000) for taken in (first, second))
        report.rows.append(Row(f"native code{suffix}", size, peer_size, against, unit=" KB"))
        again = samples[f"reuse {metering}"]
        whole = column(first, "whole")
        report.rows.append(Row("compiling it again" + suffix, column(again, "known"), whole, "ours, compiling"))
        report.rows.append(
            Row("loading it (`await engine.load`)" + suffix, column(again, "load"), whole, "ours, compiling")
        )
        report.rows.append(Row(f"size of its file{suffix}", per(column(again, "file"), 1000), unit=" KB"))
    report.notes.append(f"A sample is the median of {_COUNT} compilations in a row. " + disturbance(options))
    return report


if __name__ == "__main__":
    program(measure, __doc__)
