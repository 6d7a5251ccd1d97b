# SPDX-License-Identifier: MIT
"""DOOM: frames of its attract demo, every frame copied to the host, with each kind of gas metering.

The peer is the reference implementation. Frames of both are compared: a machine that computes wrong is not fast.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import time
from collections.abc import Callable
from typing import Any, Final, Literal

import aioring
import vm
from benchmarks import _peer
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
    need_program,
    need_wad,
    per,
    program,
    schedule,
    sleeps,
)
from examples.doom import Host

_PAGE_SIZE: Final = 0x4000
#: An interpreter is some fifteen times slower.
_INTERPRETER_SHARE: Final = 20
#: Frames that differ from each other: the title, and the demo.
_CHECKED: Final = (20, 350)
_GAS: Final = 1 << 62

#: Seconds that the event loop polls for a running guest. The peer's host polls for as long as it takes, and so does
#: `examples/doom.py`, which has one guest and nothing else to do; a tick takes about a millisecond.
_POLL: Final = 1e-3

Metering = Literal["none", "sync", "async"]


def module_config(metering: Metering) -> vm.ModuleConfig:
    """Raises `SkipError` if this version meters no gas."""
    settings: dict[str, Any] = {"page_size": _PAGE_SIZE}
    if metering != "none":
        if "gas_metering" not in {field.name for field in dataclasses.fields(vm.ModuleConfig)}:
            raise SkipError(f"{metering} gas: this version of vm has no ModuleConfig.gas_metering")
        settings["gas_metering"] = metering
    return vm.ModuleConfig(**settings)


def engine_config(backend: str, spin: float | None) -> vm.Config:
    """`backend` may be "generic": recompiled code in this process. `spin` None: the default. Raises `SkipError` if this
    version has no such backend."""
    settings: dict[str, Any] = {"sandbox": backend} if backend == "generic" else {"backend": backend}
    if spin is not None:
        settings["spin"] = spin
    try:
        return vm.Config(**settings)
    except ValueError as error:
        raise SkipError(f"backend {backend}: {error}") from error


async def _play(config: vm.Config, settings: vm.ModuleConfig, ticks: int, frames: dict[int, str]) -> Sample:
    host = Host(need_wad().read_bytes())
    async with vm.Engine(config) as engine:
        module = await engine.compile(need_program("doom.polkavm"), settings)
        async with await host.linker().instantiate(module) as guest:
            if getattr(settings, "gas_metering", None) is not None:
                guest.gas = _GAS  # type: ignore[attr-defined, unused-ignore]
            started = time.perf_counter()
            await guest.call("ext_initialize")
            initialize = time.perf_counter() - started

            pid = guest.pid if guest.pid != os.getpid() else None
            this = os.getpid()
            before = (*schedule(pid), *schedule(this), sleeps(pid), sleeps(this))
            run = 0.0
            for tick in range(ticks):
                started = time.perf_counter()
                await guest.call("ext_tick")
                run += time.perf_counter() - started
                if tick in _CHECKED:
                    frames[tick] = hashlib.sha256(host.frame).hexdigest()
            after = (*schedule(pid), *schedule(this), sleeps(pid), sleeps(this))
    guest_cpu, guest_delay, host_cpu, _, guest_sleeps, host_sleeps = (b - a for a, b in zip(before, after, strict=True))
    return {
        "initialize": initialize,
        "run": run,
        "guest_cpu": guest_cpu,
        "guest_delay": guest_delay,
        "host_cpu": host_cpu,
        "guest_sleeps": guest_sleeps,
        "host_sleeps": host_sleeps,
    }


def ours(
    backend: str, metering: Metering, ticks: int, frames: dict[int, str], *, spin: float | None = _POLL
) -> Contender:
    """Raises `SkipError` if this version cannot do it."""
    config, settings = engine_config(backend, spin), module_config(metering)

    def run() -> Sample:
        with contextlib.redirect_stderr(io.TextIOWrapper(io.BytesIO())):  # what the engine prints
            return aioring.run(_play(config, settings, ticks, frames))

    return run


def peer(backend: str, metering: Metering, ticks: int, frames: dict[int, str]) -> Contender:
    paths = need_program("doom.polkavm"), need_wad()
    _peer.build()
    where = {"sandbox": backend} if backend == "generic" else {"backend": backend}
    if backend == "generic":  # which is experimental: if it cannot do a tick, this raises
        _peer.run("doom", *paths, page=_PAGE_SIZE, ticks=1, **where)

    def run() -> Sample:
        said = _peer.run("doom", *paths, gas=metering, page=_PAGE_SIZE, ticks=ticks, hash=list(_CHECKED), **where)
        frames.update((int(tick), digest) for tick, digest in said.pop("frames").items())
        return dict(said)

    return run


def measure(options: Options) -> Report:
    report = Report(f"DOOM, {options.ticks} ticks")
    need_program("doom.polkavm")
    need_wad()
    contenders: dict[str, Contender] = {}
    frames: dict[str, dict[int, str]] = {}
    slow_ticks = max(1, options.ticks // _INTERPRETER_SHARE)
    cases: list[tuple[str, Metering, int]] = [
        ("recompiler", "none", options.ticks),
        ("recompiler", "sync", options.ticks),
        ("recompiler", "async", options.ticks),
        ("generic", "none", options.ticks),
        ("generic", "sync", options.ticks),
        ("interpreter", "none", slow_ticks),
    ]
    for backend, metering, ticks in cases:
        makers: dict[str, Callable[[], Contender]] = {}
        for who, make in (("ours", ours), ("peer", peer)):
            name = f"{who} {backend} {metering}"
            makers[name] = functools.partial(make, backend, metering, ticks, frames.setdefault(name, {}))
        add_contenders(contenders, makers, report)
    sleeping = "ours recompiler none, default spin"
    maker = functools.partial(ours, "recompiler", "none", options.ticks, frames.setdefault(sleeping, {}), spin=None)
    add_contenders(contenders, {sleeping: maker}, report)
    samples = interleave(contenders, options)
    _compare_frames(frames)

    def get(name: str, what: str, divisor: int = 1) -> list[float]:
        return per(column(samples.get(name, ()), what), divisor)

    def add(what: str, first: list[float], second: list[float], against: str, goal: float | None = None) -> None:
        if first:
            report.rows.append(Row(what, first, second, against if second else "", goal))

    reference = _peer.version()
    plain, plain_peer = "ours recompiler none", "peer recompiler none"
    add("recompiler, no gas metering", get(plain, "run"), get(plain_peer, "run"), reference, 1.0)
    add("recompiler, no gas metering, `Config()`", get(sleeping, "run"), get(plain_peer, "run"), reference)
    for metering in ("sync", "async"):
        name = f"recompiler {metering}"
        goal = 1.0 if metering == "sync" else None
        add(f"recompiler, {metering} gas", get(f"ours {name}", "run"), get(f"peer {name}", "run"), reference, goal)
    for metering, what in (("none", "no gas metering"), ("sync", "sync gas")):
        ours_generic, peer_generic = get(f"ours generic {metering}", "run"), get(f"peer generic {metering}", "run")
        add(f"in this process (sandbox generic), {what}", ours_generic, peer_generic, reference)
    for metering, goal in (("sync", 1.15), ("async", 1.08)):
        name = f"ours recompiler {metering}"
        add(f"{metering} gas over no metering", get(name, "run"), get(plain, "run"), "ours without", goal)
    add(
        "interpreter, a tick",
        get("ours interpreter none", "run", slow_ticks),
        get("peer interpreter none", "run", slow_ticks),
        reference,
        0.6,
    )
    add("ext_initialize, no metering", get(plain, "initialize"), get(plain_peer, "initialize"), reference)
    ticks = options.ticks
    for what, key in (
        ("guest process, processor time a tick", "guest_cpu"),
        ("guest process, waiting for a processor a tick", "guest_delay"),
        ("host thread, processor time a tick", "host_cpu"),
    ):
        add(what, get(plain, key, ticks), get(plain_peer, key, ticks), reference)
    for what, key in (("guest sleeps a tick", "guest_sleeps"), ("host sleeps a tick", "host_sleeps")):
        first, second = get(plain, key, ticks), get(plain_peer, key, ticks)
        if first:
            report.rows.append(Row(what, first, second, reference if second else "", unit=""))
    report.notes.append(disturbance(options))
    report.notes.append(
        f"Both hosts poll while the guest runs: the peer always, ours for {_POLL * 1e3:g} ms at most (`spin`), and "
        f"with `Config()` for {vm.Config().spin * 1e6:g} us; both guests while the host works. Processor time "
        "includes it."
    )
    return report


def _compare_frames(frames: dict[str, dict[int, str]]) -> None:
    """Raises RuntimeError if two contenders saw different pictures in the same tick."""
    for tick in _CHECKED:
        seen = {name: digests[tick] for name, digests in frames.items() if tick in digests}
        if len(set(seen.values())) > 1:
            raise RuntimeError(f"frames of tick {tick} differ: {seen}")


if __name__ == "__main__":
    program(measure, __doc__)
