# SPDX-License-Identifier: MIT
"""Guests that ping-pong: many of them in one event loop, each in a loop of host calls that are answered at once.

All guests share the processors with the loop's one thread: what is measured is how many round trips (guest to host
function and back) they get through together.
"""

from __future__ import annotations

import asyncio
import functools
import time
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
    need_open_files,
    program,
)
from vm.assembler import assemble

_GUESTS: Final = (1, 8, 64, 512)
#: Round trips of all guests together.
_TRIPS: Final = 40_000

_GUEST: Final = """
pub @ping:
    s0 = a0
@again:
    ecalli 0
    s0 = s0 - 1
    jump @again if s0 != 0
    ret
"""


def ping_pong(guests: int, trips: int, *, suspends: bool) -> Sample:
    """Round trips in a second, all guests together; whether the host function gives the loop its turn each time."""

    async def main() -> Sample:
        served = 0
        linker = vm.Linker()

        if suspends:

            @linker.function("pong")
            async def wait(caller: vm.Caller) -> None:
                nonlocal served
                served += 1
                await asyncio.sleep(0)

        else:

            @linker.function("pong")
            def answer(caller: vm.Caller) -> None:
                nonlocal served
                served += 1

        async with vm.Engine(vm.Config(spare_workers=0)) as engine:
            blob = vm.ProgramBlob.parse(assemble(_GUEST, vm.InstructionSet.LATEST64)).with_imports("pong")
            module = await engine.compile(blob)
            instances = [await linker.instantiate(module) for _ in range(guests)]
            await asyncio.gather(*(instance.call("ping", 10) for instance in instances))
            served = 0
            started = time.perf_counter()
            await asyncio.gather(*(instance.call("ping", trips // guests) for instance in instances))
            took = time.perf_counter() - started
            if served != trips // guests * guests:
                raise RuntimeError(f"{served} round trips")
            for instance in instances:
                await instance.aclose()
            return {"rate": served / took}

    return aioring.run(main())


def _contender(guests: int, trips: int, *, suspends: bool) -> Contender:
    need_open_files(4 * guests + 200)
    return functools.partial(ping_pong, guests, trips, suspends=suspends)


def measure(options: Options) -> Report:
    report = Report("Many guests in one loop")
    trips = _TRIPS // 10 if options.quick else _TRIPS
    contenders: dict[str, Contender] = {}
    for guests in _GUESTS:
        for kind in ("def", "async def"):
            make = functools.partial(_contender, guests, trips, suspends=kind == "async def")
            add_contenders(contenders, {f"{guests} {kind}": make}, report)
    samples = interleave(contenders, options)
    for kind in ("def", "async def"):
        what = "with an `async def` that suspends" if kind == "async def" else "with a `def`"
        for guests in _GUESTS:
            rates = column(samples.get(f"{guests} {kind}", ()), "rate")
            if rates:
                title = f"{guests} guest{'s' if guests > 1 else ''} {what}: round trips per second, all together"
                report.rows.append(Row(title, rates, [], "", unit=""))
    report.notes.append(disturbance(options))
    return report


if __name__ == "__main__":
    program(measure, __doc__)
