# SPDX-License-Identifier: MIT
"""Calls and starts: a warm call, host functions (def, async def), new instances, and many guests that wait at once.

The peers are the reference implementation and wasmtime-py. The guest adds two numbers, one variant of it (hello-world)
also a third one that it asks its host for.
"""

from __future__ import annotations

import asyncio
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import aioring
import vm
from benchmarks import _peer, _wasmtime
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
    need_open_files,
    program,
)
from vm.assembler import assemble

Sandbox = Literal["linux", "generic"]

_CALLS: Final = 10_000
_WARM: Final = 1_000
_STARTS: Final = 300
_FRESH: Final = 30
#: The reference implementation takes 100 ms for most of its new processes.
_FRESH_PEER: Final = 8
_DELAY: Final = 0.1
#: Open files of a guest: its memory and its pidfd, with as many again while it starts and ends.
_FILES_EACH: Final = 4

#: latest32, because polkavm 0.37 encodes latest64 in another way than the versions before.
_ADD: Final = "pub @add:\n    i32 a0 = a0 + a1\n    ret\n"
#: As hello-world does.
_ADD_THREE: Final = """
%rw_data_size = 4096
%stack_size = 4096

pub @add_numbers:
    i32 s0 = a0 + a1
    ecalli 0
    i32 a0 = a0 + s0
    ret
"""


def _blob() -> vm.ProgramBlob:
    return vm.ProgramBlob.parse(assemble(_ADD, vm.InstructionSet.LATEST32))


def _blob_with_import() -> vm.ProgramBlob:
    return vm.ProgramBlob.parse(assemble(_ADD_THREE, vm.InstructionSet.LATEST32)).with_imports("get_third_number")


def _linker(kind: str, delay: float = 0.0) -> vm.Linker:
    linker = vm.Linker()
    if kind == "def":

        @linker.function("get_third_number")
        def answer(caller: vm.Caller) -> vm.u32:
            return 100

    else:

        @linker.function("get_third_number")
        async def answer_later(caller: vm.Caller) -> vm.u32:
            if kind == "suspends":
                await asyncio.sleep(delay)
            return 100

    return linker


def _check(result: int, export: str) -> None:
    expected = 111 if export == "add_numbers" else 11
    if result != expected:
        raise RuntimeError(f"{export} gave {result}, not {expected}")


def calls(blob: vm.ProgramBlob, export: str, kind: str, sandbox: Sandbox = "linux") -> Contender:
    """Calls in a row on one instance."""

    async def main() -> Sample:
        async with vm.Engine(vm.Config(sandbox=sandbox)) as engine:
            module = await engine.compile(blob)
            async with await _linker(kind).instantiate(module) as instance:
                for _ in range(_WARM):
                    _check(await instance.call(export, 1, 10), export)
                started = time.perf_counter()
                for _ in range(_CALLS):
                    await instance.call(export, 1, 10)
                return {"call": (time.perf_counter() - started) / _CALLS}

    return lambda: aioring.run(main())


def fresh(blob: vm.ProgramBlob, export: str, *, reuse: bool, sandbox: Sandbox = "linux") -> Contender:
    """Instantiate, call, close, again and again."""
    count = _STARTS if reuse or sandbox == "generic" else _FRESH

    async def main() -> Sample:
        linker = _linker("def")
        config = vm.Config(reuse="tenant" if reuse else "never", sandbox=sandbox)
        async with vm.Engine(config) as engine:
            module = await engine.compile(blob)

            async def once() -> None:
                async with await linker.instantiate(module) as instance:
                    await instance.call(export, 1, 10)

            for _ in range(count // 10):
                await once()
            started = time.perf_counter()
            for _ in range(count):
                await once()
            return {"fresh": (time.perf_counter() - started) / count}

    return lambda: aioring.run(main())


def waiting(blob: vm.ProgramBlob, count: int) -> Contender:
    """`count` guests at once, each awaiting an async host function; with new processes, then with reused ones."""

    async def main() -> Sample:
        linker = _linker("suspends", _DELAY)
        async with vm.Engine(vm.Config(max_idle_workers=count)) as engine:
            module = await engine.compile(blob)

            async def one() -> None:
                async with await linker.instantiate(module) as instance:
                    _check(await instance.call("add_numbers", 1, 10), "add_numbers")

            async def everyone() -> float:
                started = time.perf_counter()
                await asyncio.gather(*(one() for _ in range(count)))
                return time.perf_counter() - started

            return {"all": await everyone(), "again": await everyone()}

    return lambda: aioring.run(main())


def _peer_begin(path: Path, export: str, sandbox: Sandbox) -> None:
    """Builds it. Its generic sandbox is experimental: raises `SkipError` here if that cannot call `export`."""
    _peer.build()
    if sandbox == "generic":
        _peer.run("calls", path, export, count=1, sandbox=sandbox)


def _peer_calls(path: Path, export: str, sandbox: Sandbox = "linux") -> Contender:
    _peer_begin(path, export, sandbox)
    return lambda: _peer.run("calls", path, export, count=_CALLS, warm=_WARM, sandbox=sandbox)


def _peer_fresh(path: Path, export: str, *, reuse: bool, sandbox: Sandbox = "linux") -> Contender:
    _peer_begin(path, export, sandbox)
    many = reuse or sandbox == "generic"
    count, warm, workers = (_STARTS if many else _FRESH_PEER), (_STARTS // 10 if many else 1), (2 if reuse else 0)

    def run() -> Sample:
        samples = _peer.run("fresh", path, export, count=count, warm=warm, workers=workers, sandbox=sandbox)["fresh"]
        return {"fresh": sum(samples) / count}

    return run


def measure(options: Options) -> Report:
    report = Report("Calls, starts, waiting")
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        return _measure(options, report, Path(folder))


def _measure(options: Options, report: Report, folder: Path) -> Report:
    plain, asking = _blob(), _blob_with_import()
    plain_path, asking_path = folder / "add.polkavm", folder / "add_numbers.polkavm"
    plain_path.write_bytes(plain.to_bytes())
    asking_path.write_bytes(asking.to_bytes())
    crowds = (100,) if options.quick else (100, 1000)
    groups: list[dict[str, Callable[[], Contender]]] = [
        {
            "ours call": lambda: calls(plain, "add", "def"),
            "peer call": lambda: _peer_calls(plain_path, "add"),
            "wasmtime call": lambda: _wasmtime.calls("add", _CALLS, _WARM),
        },
        {
            "ours host call": lambda: calls(asking, "add_numbers", "def"),
            "peer host call": lambda: _peer_calls(asking_path, "add_numbers"),
            "wasmtime host call": lambda: _wasmtime.calls("add_numbers", _CALLS, _WARM),
            "ours async": lambda: calls(asking, "add_numbers", "async"),
            "ours suspends": lambda: calls(asking, "add_numbers", "suspends"),
        },
        {
            "ours reused": lambda: fresh(plain, "add", reuse=True),
            "peer reused": lambda: _peer_fresh(plain_path, "add", reuse=True),
            "wasmtime fresh": lambda: _wasmtime.fresh("add", _STARTS, _STARTS // 10),
        },
        {
            "ours fresh": lambda: fresh(plain, "add", reuse=False),
            "peer fresh": lambda: _peer_fresh(plain_path, "add", reuse=False),
        },
        {
            "ours generic call": lambda: calls(plain, "add", "def", "generic"),
            "peer generic call": lambda: _peer_calls(plain_path, "add", "generic"),
            "ours generic host call": lambda: calls(asking, "add_numbers", "def", "generic"),
            "peer generic host call": lambda: _peer_calls(asking_path, "add_numbers", "generic"),
            "ours generic fresh": lambda: fresh(plain, "add", reuse=False, sandbox="generic"),
            "peer generic fresh": lambda: _peer_fresh(plain_path, "add", reuse=False, sandbox="generic"),
        },
    ]
    groups += [
        {
            f"ours {count}": functools.partial(_crowd, asking, count),
            f"wasmtime {count}": functools.partial(_wasmtime.waiting, count, _DELAY),
        }
        for count in crowds
    ]
    contenders: dict[str, Contender] = {}
    for group in groups:
        add_contenders(contenders, group, report)
    samples = interleave(contenders, options)

    def get(name: str, key: str) -> list[float]:
        return column(samples.get(name, ()), key)

    def add(what: str, key: str, name: str, peer: str = "", against: str = "", key_peer: str = "") -> None:
        first, second = get(name, key), get(peer, key_peer or key)
        if first and (second or not against):
            report.rows.append(Row(what, first, second, against))

    reference = _peer.version()
    wasmtime = _wasmtime.version() if "wasmtime call" in contenders else "wasmtime-py"
    add("warm call, nothing but the crossing", "call", "ours call", "peer call", reference)
    add("the same", "call", "ours call", "wasmtime call", wasmtime)
    add("warm call with a `def` host call in it", "call", "ours host call", "peer host call", reference)
    add("the same", "call", "ours host call", "wasmtime host call", wasmtime)
    add("with an `async def` that does not suspend", "call", "ours async", "ours host call", "ours, `def`")
    add("with one that suspends (`asyncio.sleep(0)`)", "call", "ours suspends", "ours host call", "ours, `def`")
    add("new instance, call, close; process reused", "fresh", "ours reused", "peer reused", reference)
    add("the same", "fresh", "ours reused", "wasmtime fresh", wasmtime)
    add("the same in a new process", "fresh", "ours fresh", "peer fresh", reference)
    for what, key, name in (
        ("warm call", "call", "call"),
        ("with a `def` host call in it", "call", "host call"),
        ("new instance, call, close", "fresh", "fresh"),
    ):
        peer = f"peer generic {name}"
        against = reference if get(peer, key) else ""
        add(f"in this process (sandbox generic): {what}", key, f"ours generic {name}", peer, against)
    for count in crowds:
        name, peer, against = f"ours {count}", f"wasmtime {count}", f"{wasmtime}, {count} threads"
        add(f"{count} guests, each awaiting 100 ms once, in new processes", "all", name, peer, against)
        add("the same, processes reused", "again", name, peer, against, "all")
    report.notes.append(disturbance(options))
    return report


def _crowd(blob: vm.ProgramBlob, count: int) -> Contender:
    need_open_files(_FILES_EACH * count + 100)
    return waiting(blob, count)


if __name__ == "__main__":
    program(measure, __doc__)
