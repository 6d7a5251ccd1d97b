# SPDX-License-Identifier: MIT
"""Copies of snapshots: which processes they get, in what state those wait, and how many there may be."""

from __future__ import annotations

from typing import cast

import pytest
from guests import MEMORY, build
from processes import Census, census, resident, until

import vm
from vm._linux import LinuxHome

PAGE = 0x1000
ONE_LOOP = pytest.mark.asyncio(loop_factories=["aioring"])


async def pid_of(source: vm.Module | vm.Snapshot, tenant: object = None) -> int:
    async with await source.instantiate(tenant=tenant) as instance:  # type: ignore[arg-type]
        return instance.pid


async def test_processes_are_reused(engine: vm.Engine) -> None:
    """Each for its tenant; rather the one that is ready than another."""
    module = await engine.compile(build(MEMORY))
    async with await module.instantiate(tenant="alice") as one, await module.instantiate(tenant="alice") as other:
        one.memory.write(module.memory_map.rw_address, b"1")
        other.memory.write(module.memory_map.rw_address, b"2")
        first, second = await one.snapshot(), await other.snapshot()
        pids = {one.pid, other.pid}
    async with await first.instantiate(tenant="alice") as one, await second.instantiate(tenant="alice") as other:
        assert {one.pid, other.pid} == pids
        order = one.pid, other.pid
    for _ in range(3):
        assert (await pid_of(first, "alice"), await pid_of(second, "alice")) == order
        assert await pid_of(second, "bob") not in pids
    assert await pid_of(module, "alice") in pids


async def test_spare_processes_are_prepared(nothing_left: Census) -> None:
    async with vm.Engine(vm.Config(spare_workers=2, reuse="never")) as engine:
        module = await engine.compile(build(MEMORY))
        pool = cast(LinuxHome, engine._home)._pool
        async with await module.instantiate() as instance:
            instance.memory.write(module.memory_map.rw_address, b"!")
            snapshot = await instance.snapshot()
        for _ in range(4):
            async with await snapshot.instantiate() as fork:
                assert fork.memory.read(module.memory_map.rw_address, 2) == b"!\2"
            await until(lambda: pool.spares(module) == 2 and not module._spawning)
        assert any(worker.holds(snapshot) for worker in module._idle[next(iter(module._idle))])
        async with await module.instantiate() as instance:
            assert instance.memory.read(module.memory_map.rw_address, 2) == b"\1\2"


@ONE_LOOP
@pytest.mark.parametrize(("name", "dynamic"), [("recompiler", False), ("recompiler", True), ("interpreter", True)])
async def test_ten_thousand(nothing_left: Census, name: str, dynamic: bool) -> None:
    config = vm.Config(backend="interpreter") if name == "interpreter" else vm.Config(spare_workers=0)
    async with vm.Engine(config) as engine:
        module = await engine.compile(build(MEMORY), vm.ModuleConfig(dynamic_paging=dynamic))
        place = module.memory_map.stack_low
        async with await module.instantiate() as instance:
            instance.memory.write(place, b"warm")
            snapshot = await instance.snapshot()
        memory, before = 0, census()
        for n in range(10_000):
            async with await snapshot.instantiate() as fork:
                if n % 100 == 0:
                    assert await fork.call("load", place) == ord("w")
            if n == 2000:
                memory, before = resident(), census()
        assert resident() - memory < 4 << 20
        assert not census() - before
