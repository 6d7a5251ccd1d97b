# SPDX-License-Identifier: MIT
"""The interpreter as a backend: the same instances, no processes, and an event loop that stays free."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

import pytest
from guests import LATEST32, basic, build, memory
from processes import Census, children

import vm


@pytest.fixture
async def engine() -> AsyncIterator[vm.Engine]:
    async with vm.Engine(vm.Config(backend="interpreter")) as engine:
        yield engine


def linker() -> vm.Linker:
    made = vm.Linker()

    @made.function("ask")
    async def ask(caller: vm.Caller, value: int) -> int:
        await asyncio.sleep(0)
        return value

    return made


async def test_it_needs_no_process(engine: vm.Engine) -> None:
    before = children()
    module = await engine.compile(basic())
    async with await linker().instantiate(module) as instance:
        assert instance.pid == os.getpid()
        assert await instance.call("add", 1, 2) == 3
        assert await instance.call("ask", 21) == 42
        assert await instance.call("sum9", *range(1, 10)) == 45
    assert children() == before
    assert (module.native_size, module.native_code()) == (0, b"")


async def test_32_bits(engine: vm.Engine) -> None:
    module = await engine.compile(build("pub @main:\n i32 a0 = a0 - a1\n ret", LATEST32))
    async with await module.instantiate() as instance:
        assert await instance.call("main", 1, 2) == 2**32 - 1
        assert await instance.call("main", 1, 2, returns=vm.i32) == -1


async def test_traps_and_memory(engine: vm.Engine) -> None:
    module = await engine.compile(memory())
    async with await linker().instantiate(module) as instance:
        layout = instance.memory.map
        instance.memory.write(layout.rw_address, b"secret")
        assert instance.memory.read(layout.rw_address, 6) == b"secret"
        with pytest.raises(vm.MemoryAccessError):
            instance.memory.read(0, 1)
        with pytest.raises(vm.MemoryAccessError):
            instance.memory.write(layout.rw_address + layout.rw_accessible - 1, b"ab")
    async with await linker().instantiate(module) as instance:
        assert instance.memory.read(layout.rw_address, 6) != b"secret"
    module = await engine.compile(basic())
    async with await linker().instantiate(module) as instance:
        with pytest.raises(vm.TrapError) as caught:
            await instance.call("trap")
        assert caught.value.pc is not None
        assert await instance.call("add", 1, 2) == 3


async def test_a_long_run_leaves_the_loop_free(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    async with await linker().instantiate(module) as instance:
        turns, longest, last = 0, 0.0, time.monotonic()
        call = asyncio.create_task(instance.call("count_down", 20_000_000))
        while not call.done():
            await asyncio.sleep(0.001)
            now = time.monotonic()
            turns, longest, last = turns + 1, max(longest, now - last), now
        assert await call == 7
        assert turns > 3


async def test_cancelled_while_it_runs(engine: vm.Engine, nothing_left: Census) -> None:
    module = await engine.compile(basic())
    instance = await linker().instantiate(module)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await instance.call("spin")
    assert await instance.call("add", 1, 2) == 3
    await instance.aclose()
    async with await linker().instantiate(module) as another:
        assert await another.call("add", 1, 2) == 3


async def test_closed_while_it_runs(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    instance = await linker().instantiate(module)
    call = asyncio.create_task(instance.call("spin"))
    while "running" not in repr(instance):
        await asyncio.sleep(0)
    await instance.aclose()
    with pytest.raises(vm.InstanceStateError):
        await call


async def test_the_engine_closes_with_guests_running() -> None:
    async with vm.Engine(vm.Config(backend="interpreter")) as engine:
        instance = await linker().instantiate(await engine.compile(basic()))
        call = asyncio.create_task(instance.call("spin"))
        while "running" not in repr(instance):
            await asyncio.sleep(0)
    with pytest.raises(vm.InstanceStateError):
        await call
    await instance.aclose()


async def test_many_at_once(engine: vm.Engine) -> None:
    module = await engine.compile(basic())

    async def one(n: int) -> int:
        async with await linker().instantiate(module) as instance:
            await instance.call("count_down", 100_000)
            return await instance.call("ask", n)

    assert list(await asyncio.gather(*(one(n) for n in range(50)))) == [2 * n for n in range(50)]
