# SPDX-License-Identifier: MIT
"""How many guests run at once, and whose turn it is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from guests import basic, build
from processes import Census

import vm
from vm._admission import Admission

SPIN = "pub @spin:\na0 = a0 + 1\njump @spin\npub @short:\na0 = 7\nret"


@pytest.fixture
async def one(nothing_left: Census) -> AsyncIterator[vm.Engine]:
    """An engine in which one guest runs at a time."""
    async with vm.Engine(vm.Config(max_running=1)) as engine:
        yield engine


class Guests:
    """Several instances of one module, closed together."""

    def __init__(self, stack: AsyncExitStack, instances: list[vm.Instance]) -> None:
        self._stack = stack
        self.instances = instances

    @classmethod
    async def of(cls, engine: vm.Engine, count: int, linker: vm.Linker | None = None) -> Guests:
        stack = AsyncExitStack()
        module = await engine.compile(build(SPIN) if linker is None else basic())
        make = module.instantiate if linker is None else lambda: linker.instantiate(module)
        return cls(stack, [await stack.enter_async_context(await make()) for _ in range(count)])

    async def __aenter__(self) -> list[vm.Instance]:
        return self.instances

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()


async def states(instances: list[vm.Instance]) -> list[str]:
    return [repr(instance).rstrip(">").split(", ")[-1] for instance in instances]


@pytest.mark.parametrize(("setting", "limit"), [(None, len(os.sched_getaffinity(0))), (0, 0), (3, 3)])
async def test_how_many(nothing_left: Census, setting: int | None, limit: int) -> None:
    async with vm.Engine(vm.Config(max_running=setting)) as engine, await Guests.of(engine, 6) as instances:
        for instance in instances:
            instance.prepare_call("spin")
        runs = [asyncio.create_task(instance.run()) for instance in instances]
        expected = ["running"] * (limit or 6) + ["waiting"] * (6 - (limit or 6))
        while sorted(await states(instances)) != sorted(expected):
            await asyncio.sleep(0)
        assert engine._admission.running == (limit or 6)
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)
        assert engine._admission.running == engine._admission.waiting == 0


async def test_in_the_order_they_came(one: vm.Engine) -> None:
    async with await Guests.of(one, 6) as instances:
        order: list[int] = []

        async def call(n: int) -> None:
            await instances[n].call("short")
            order.append(n)

        instances[0].prepare_call("spin")
        first = asyncio.create_task(instances[0].run())
        while "running" not in repr(instances[0]):
            await asyncio.sleep(0)
        others = []
        for n in (3, 1, 5, 2, 4):
            others.append(asyncio.create_task(call(n)))
            while "waiting" not in repr(instances[n]):
                await asyncio.sleep(0)
        assert await instances[0].interrupt()
        await first
        await asyncio.gather(*others)
        assert order == [3, 1, 5, 2, 4]


async def test_endless_loops_keep_nobody_out(one: vm.Engine) -> None:
    """They run in turns: each gets on, and so does whoever comes later."""
    async with await Guests.of(one, 4) as instances:
        for instance in instances[:3]:
            instance.prepare_call("spin")
        runs = [asyncio.create_task(instance.run()) for instance in instances[:3]]
        while one._admission.waiting < 2:
            await asyncio.sleep(0)
        for _ in range(3):  # each time, all three have had their turn
            assert await instances[3].call("short") == 7
        counts = []
        for instance, run in zip(instances, runs, strict=False):
            assert await instance.interrupt()
            assert await run == vm.Interrupted(instance.program_counter or 0)
            counts.append(instance.registers["a0"])
        assert all(counts)
        assert one._admission.running == 0


async def test_a_guest_in_a_host_call_does_not_count(one: vm.Engine) -> None:
    opened, asked = asyncio.Event(), asyncio.Event()

    async def ask(caller: vm.Caller) -> int:
        asked.set()
        await opened.wait()
        return 1

    linker = vm.Linker()
    linker.define("ask", ask)
    async with await Guests.of(one, 3, linker) as instances:
        calls = [asyncio.create_task(instance.call("ask", 1)) for instance in instances[:2]]
        await asked.wait()
        assert await instances[2].call("add", 1, 2) == 3
        opened.set()
        assert await asyncio.gather(*calls) == [2, 2]


async def test_those_who_give_up_leave_the_queue(one: vm.Engine) -> None:
    async with await Guests.of(one, 5) as instances:
        for instance in instances:
            instance.prepare_call("spin")
        first = asyncio.create_task(instances[0].run())
        while "running" not in repr(instances[0]):
            await asyncio.sleep(0)
        runs = [asyncio.create_task(instance.run()) for instance in instances[1:]]
        while one._admission.waiting < 4:
            await asyncio.sleep(0)
        runs[1].cancel()
        assert await instances[3].interrupt()
        assert isinstance(await runs[2], vm.Interrupted)
        with pytest.raises(asyncio.CancelledError):
            await runs[1]
        for n, (instance, run) in enumerate(zip(instances, [first, *runs], strict=True)):
            if n not in (2, 3):
                assert await instance.interrupt()
                assert isinstance(await run, vm.Interrupted)
        for instance in instances:
            assert await instance.call("short") == 7
        assert one._admission.running == one._admission.waiting == 0


async def test_closed_while_it_waits(one: vm.Engine) -> None:
    async with await Guests.of(one, 2) as instances:
        instances[0].prepare_call("spin")
        first = asyncio.create_task(instances[0].run())
        while "running" not in repr(instances[0]):
            await asyncio.sleep(0)
        second = asyncio.create_task(instances[1].call("short"))
        while not one._admission.waiting:
            await asyncio.sleep(0)
        await instances[1].aclose()
        with pytest.raises(vm.InstanceStateError, match="closed"):
            await second
        assert await instances[0].interrupt()
        await first


async def test_an_engine_that_closes_waits_for_nobody(nothing_left: Census) -> None:
    engine = vm.Engine(vm.Config(max_running=1))
    async with engine:
        instances = (await Guests.of(engine, 5)).instances
        calls = [asyncio.create_task(instance.call("spin")) for instance in instances]
        while engine._admission.waiting < 4:
            await asyncio.sleep(0)
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(end, vm.VMError) for end in ends)
    for instance in instances:
        await instance.aclose()


async def test_interpreted_guests_take_turns_too(nothing_left: Census) -> None:
    config = vm.Config(max_running=1, backend="interpreter")
    async with vm.Engine(config) as engine, await Guests.of(engine, 2) as instances:
        instances[0].prepare_call("spin")
        first = asyncio.create_task(instances[0].run())
        while "running" not in repr(instances[0]):
            await asyncio.sleep(0)
        assert await instances[1].call("short") == 7
        assert await instances[0].interrupt()
        await first


# --- the queue itself -------------------------------------------------------------------------------------------------


async def test_no_wake_up_is_lost() -> None:
    """Whoever is cancelled in the moment that it gets its turn passes it on."""
    for turns in range(4):
        admission = Admission(1)
        assert admission.try_enter()

        async def enter(admission: Admission = admission) -> bool:
            return admission.try_enter() or await admission.wait(admission.queue())

        tasks = [asyncio.create_task(enter()) for _ in range(3)]
        while admission.waiting < 3:
            await asyncio.sleep(0)
        admission.leave()
        tasks[0].cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        tasks[1].cancel()
        for ended in await asyncio.gather(*tasks[:2], return_exceptions=True):
            if ended is True:  # it had got its turn before the cancellation
                admission.leave()
        assert await tasks[2] is True
        assert admission.running == 1
        admission.leave()
        assert admission.running == 0
        assert admission.try_enter()
        admission.close()


async def test_nobody_overtakes_the_queue() -> None:
    admission = Admission(2)
    assert admission.try_enter()
    assert admission.try_enter()
    waiting = asyncio.create_task(admission.wait(admission.queue()))
    await asyncio.sleep(0)
    admission.leave()
    assert not admission.try_enter()
    assert await waiting
    admission.leave()
    assert admission.try_enter()
    admission.close()
