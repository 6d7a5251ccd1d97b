# SPDX-License-Identifier: MIT
"""Which process an instance gets: tenants, reuse, spare ones."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from typing import cast

import pytest
from guests import basic
from processes import Census, wait_for_death, watch

import vm
from vm._linux import LinuxHome


async def pid_of(module: vm.Module, tenant: object = None) -> int:
    """The process of an instance that is closed again."""
    async with await module.instantiate(tenant=tenant) as instance:  # type: ignore[arg-type]
        assert await instance.call("add", 1, 2) == 3
        return instance.pid


async def spares(engine: vm.Engine, module: vm.Module, count: int) -> None:
    """Waits until so many spare processes are ready, and no more are being started."""
    pool = cast(LinuxHome, engine._home)._pool
    while pool.spares(module) != count or module._spawning:
        await asyncio.sleep(0)


async def test_a_process_serves_one_tenant(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    tenants: list[object] = ["alice", "bob", None, 1, ("a", "tuple")]
    first = [await pid_of(module, tenant) for tenant in tenants]
    assert len(set(first)) == len(tenants)
    assert [await pid_of(module, tenant) for tenant in reversed(tenants)] == first[::-1]


async def test_any_tenant(nothing_left: Census) -> None:
    async with vm.Engine(vm.Config(reuse="always")) as engine:
        module = await engine.compile(basic())
        assert len({await pid_of(module, tenant) for tenant in ("alice", "bob", None)}) == 1


async def test_never_the_same(nothing_left: Census) -> None:
    async with vm.Engine(vm.Config(reuse="never")) as engine:
        module = await engine.compile(basic())
        assert len({await pid_of(module, "alice") for _ in range(5)}) == 5


async def test_a_tenant_must_be_hashable(engine: vm.Engine) -> None:
    with pytest.raises(TypeError, match="unhashable"):
        await pid_of(await engine.compile(basic()), [])


@pytest.mark.parametrize("name", ["max_idle_workers", "spare_workers", "max_running"])
def test_settings_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is -1"):
        vm.Config(**{name: -1})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown reuse"):
        vm.Config(reuse="sometimes")  # type: ignore[arg-type]


async def test_spare_processes(nothing_left: Census) -> None:
    async with vm.Engine(vm.Config(spare_workers=3, reuse="never")) as engine:
        home = cast(LinuxHome, engine._home)
        module = await engine.compile(basic())
        assert not home._workers  # nothing before it is instantiated
        async with await module.instantiate() as instance:
            await spares(engine, module, 3)
            ready = {worker.pid for worker in home._workers} - {instance.pid}
            assert len(ready) == 3
            async with await module.instantiate(tenant="alice") as another:
                assert another.pid in ready
            await spares(engine, module, 3)


async def test_a_tenants_own_process_comes_first(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    pid = await pid_of(module, "alice")
    await spares(engine, module, 1)
    assert await pid_of(module, "alice") == pid


async def test_spare_processes_count_among_the_idle_ones(nothing_left: Census) -> None:
    async with vm.Engine(vm.Config(spare_workers=8, max_idle_workers=2)) as engine:
        module = await engine.compile(basic())
        async with await module.instantiate():
            await spares(engine, module, 2)
    async with vm.Engine(vm.Config(spare_workers=8, max_idle_workers=0)) as engine:
        module = await engine.compile(basic())
        async with await module.instantiate():
            await spares(engine, module, 0)


async def test_a_spare_process_that_died_is_replaced(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    async with await module.instantiate() as instance:
        await spares(engine, module, 1)
        (spare,) = {worker.pid for worker in cast(LinuxHome, engine._home)._workers} - {instance.pid}
        with watch(spare) as pidfds:
            os.kill(spare, signal.SIGKILL)
            wait_for_death(*pidfds.values())
        async with await module.instantiate() as another:
            assert another.pid != spare
            assert await another.call("add", 1, 2) == 3
            await spares(engine, module, 1)


async def test_spare_processes_end_with_their_module(nothing_left: Census) -> None:
    async with vm.Engine(vm.Config(module_cache_size=0)) as engine:
        module = await engine.compile(basic())
        await pid_of(module)
        await spares(engine, module, 1)
        with watch(*(worker.pid for worker in cast(LinuxHome, engine._home)._workers)) as pidfds:
            del module
            gc.collect()  # instances and what belongs to them refer to each other
            while cast(LinuxHome, engine._home)._workers:
                await asyncio.sleep(0)
            wait_for_death(*pidfds.values())


async def test_closing_while_spare_processes_start(nothing_left: Census) -> None:
    for turns in range(5):
        async with vm.Engine(vm.Config(spare_workers=8)) as engine:
            instance = await (await engine.compile(basic())).instantiate()
            for _ in range(turns):
                await asyncio.sleep(0)
        await instance.aclose()
