# SPDX-License-Identifier: MIT
"""Nothing of a guest that started from a snapshot is left for the next one in its process, whatever that starts as."""

from __future__ import annotations

from typing import cast

import pytest
from guests import MEMORY, build
from processes import Census, until

import vm
from vm._linux import LinuxHome

PAGE = 0x1000
AUX = 3 * PAGE
SECRET = b"\xa5secret!"


async def compile_it(engine: vm.Engine, paged: bool) -> vm.Module:
    return await engine.compile(build(MEMORY), vm.ModuleConfig(aux_data_size=AUX, dynamic_paging=paged))


def linker() -> vm.Linker:
    made = vm.Linker()
    made.on_page_fault(vm.ZeroPager())
    return made


def spill(instance: vm.Instance) -> None:
    """Leaves secrets everywhere."""
    layout, memory = instance.module.memory_map, instance.memory
    for begin, size in (
        (layout.rw_address, (layout.heap_base + memory.heap_size - layout.rw_address) // 8 * 8),
        (layout.stack_low, layout.stack_accessible),
        (layout.aux_address, instance.accessible_aux_size),
    ):
        memory.write(begin, SECRET * (size // 8))
    for name in instance.registers:
        instance.registers[name] = 0xA5A5A5A5


async def contents(instance: vm.Instance, heap: int) -> dict[str, object]:
    """All that the guest can find, with the heap grown to `heap` bytes at least."""
    layout, memory = instance.module.memory_map, instance.memory
    found: dict[str, object] = {
        "registers": dict(instance.registers),
        "gas": instance.gas,
        "pc": (instance.program_counter, instance.next_program_counter),
        "heap": memory.heap_size,
    }
    await instance.call("grow", heap - memory.heap_size)
    for begin, size in (
        (layout.rw_address, layout.rw_accessible + heap & -PAGE),
        (layout.stack_low, layout.stack_accessible),
        (layout.aux_address, instance.accessible_aux_size),
    ):
        for page in range(begin, begin + size, PAGE):
            found[hex(page)] = memory.read(page, PAGE) if memory.is_accessible(page, PAGE) else None
    return found


async def snapshots_of(module: vm.Module) -> list[vm.Snapshot]:
    """Of guests that touched little, much, and auxiliary data."""
    layout, made = module.memory_map, []
    heap = layout.rw_address + layout.rw_accessible
    for number, pages in enumerate((0, 3, 200)):
        async with await linker().instantiate(module) as instance:
            await instance.call("grow", pages * PAGE)
            for page in range(0, pages, 2):
                instance.memory.write(heap + page * PAGE + 16, bytes([number + 1] * 1000))
            instance.memory.write(layout.stack_low + 8, b"warm")
            instance.accessible_aux_size = number * PAGE
            instance.prepare_call("store", heap)
            made.append(await instance.snapshot())
    return made


@pytest.mark.parametrize("heap", [10, 2000], ids="{} pages".format)
@pytest.mark.parametrize("paged", [False, True], ids=["all", "paged"])
async def test_nothing_is_left(nothing_left: Census, paged: bool, heap: int) -> None:
    async with vm.Engine(vm.Config(reuse="always", spare_workers=0)) as engine:
        module = await compile_it(engine, paged)
        snapshots = await snapshots_of(module)
        sources: list[vm.Module | vm.Snapshot] = [module, *snapshots]
        size = 2200 * PAGE
        clean = []
        async with vm.Engine(vm.Config(reuse="never")) as pristine:  # what each begins with, in a process of its own
            other = await compile_it(pristine, paged)
            for source in [other, *[await pristine.load_snapshot(one.to_bytes(), other) for one in snapshots]]:
                async with await source.instantiate() as instance:
                    clean.append(await contents(instance, size))
        pids = set()
        for before in sources:
            for number, after in enumerate(sources):
                async with await linker().instantiate(before, tenant="alice") as instance:
                    pids.add(instance.pid)
                    await instance.call("grow", heap * PAGE)
                    instance.accessible_aux_size = AUX
                    spill(instance)
                async with await after.instantiate(tenant="bob") as instance:
                    assert await contents(instance, size) == clean[number]
        assert len(pids) == 1


async def test_of_a_snapshot_that_is_gone(nothing_left: Census) -> None:
    async with vm.Engine(vm.Config(spare_workers=0)) as engine:
        module = await compile_it(engine, False)
        async with await module.instantiate() as instance:
            clean = await contents(instance, 10 * PAGE)
        for closed in (True, False):
            snapshot = (await snapshots_of(module))[2]
            async with await snapshot.instantiate() as instance:
                pid = instance.pid
                spill(instance)
                if closed:
                    await snapshot.aclose()
            del snapshot  # while a process is in its state, if it was not closed
            async with await module.instantiate() as instance:
                assert instance.pid == pid
                assert await contents(instance, 10 * PAGE) == clean


async def test_a_spare_process_that_was_prepared_for_somebody_else(nothing_left: Census) -> None:
    """It was in the state of Alice's snapshot, and nobody's guest was in it: Bob gets it as the program begins."""
    async with vm.Engine(vm.Config(spare_workers=1)) as engine:
        module = await compile_it(engine, False)
        async with await module.instantiate(tenant="alice") as instance:
            clean = await contents(instance, 300 * PAGE)
        pool = cast(LinuxHome, engine._home)._pool
        snapshot = (await snapshots_of(module))[2]
        prepared = False
        for number in range(4):
            async with await snapshot.instantiate(tenant=("alice", number)):
                await until(lambda: pool.spares(module) == 1 and not module._spawning)
            prepared = prepared or any(worker.holds(snapshot) for idle in module._idle.values() for worker in idle)
        assert prepared
        async with await module.instantiate(tenant="bob") as instance:
            assert await contents(instance, 300 * PAGE) == clean


async def test_tenants_share_no_process(engine: vm.Engine) -> None:
    module = await compile_it(engine, False)
    snapshot = (await snapshots_of(module))[1]
    used: dict[str, set[int]] = {"alice": set(), "bob": set()}
    for source in (module, snapshot, snapshot, module, snapshot):
        for tenant, pids in used.items():
            async with await source.instantiate(tenant=tenant) as instance:
                pids.add(instance.pid)
                await instance.call("load", module.memory_map.rw_address)
    assert not used["alice"] & used["bob"]
    assert len(used["alice"]) == 1


async def test_a_killed_fork_leaves_nobody_its_process(engine: vm.Engine) -> None:
    module = await compile_it(engine, False)
    snapshot = (await snapshots_of(module))[1]
    async with await snapshot.instantiate() as instance:
        pid = instance.pid
        assert instance._machine is not None
        instance._machine.kill()
        with pytest.raises(vm.SandboxDiedError):
            await instance.snapshot()
    async with await snapshot.instantiate() as instance:
        assert instance.pid != pid
        assert instance.memory.read(module.memory_map.stack_low + 8, 4) == b"warm"
