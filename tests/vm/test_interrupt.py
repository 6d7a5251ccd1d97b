# SPDX-License-Identifier: MIT
"""Stopping a guest from outside: `Instance.interrupt`, and what a cancelled `run` or `call` leaves behind."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal

import pytest
from guests import basic, build, config_of
from processes import Census, status

import vm

ONE_LOOP = pytest.mark.asyncio(loop_factories=["aioring"])
BACKENDS = pytest.mark.parametrize("backend", ["recompiler", "generic", "interpreter"])

#: Every kind of native code that can be interrupted in its middle, in an endless loop; the registers hash all of it.
MIX = """
%rw_data_size = 65536
%stack_size = 4096
pub @mix:
    a2 = a0 * a1
    a3 = a0 /u a1
    a4 = a0 %s a1
    t0 = a2 mulh a3
    t1 = a3 ^ a4
    s0 = s0 + t1
    s1 = s0 - t0
    i32 a5 = a5 + 12345
    a0 = a0 + 7
    u64 [sp + -8] = s1
    t2 = u64 [sp + -8]
    s0 = s0 + t2
    jump @skip if a0 == 0
    t2 = t2 >> 3
@skip:
    s1 = mins(s0, t2)
    ecalli 0
    jump @mix
pub @fill:
    a0 = 0x20000
    a2 = 60000
    a3 = a3 + 1
    a1 = a3
    [a0..a0 + a2] = u8 a1
    jump @fill
pub @grow:
    a0 = sbrk a1
    a2 = a2 + 1
    jump @grow
pub @count:
    a0 = a0 - 1
    jump @count if a0 != 0
    a0 = 7
    ret
"""


async def start(instance: vm.Instance) -> asyncio.Task[vm.Interrupt]:
    """A run, once guest code executes, or has come to its end already."""
    run = asyncio.create_task(instance.run())
    while "running" not in repr(instance) and not run.done():
        await asyncio.sleep(0)
    return run


async def start_call(instance: vm.Instance) -> asyncio.Task[int]:
    call = asyncio.create_task(instance.call("spin"))
    while "running" not in repr(instance):
        await asyncio.sleep(0)
    return call


async def interrupted(instance: vm.Instance, turns: int = 0) -> vm.Interrupt:
    """Runs the guest and interrupts it after some turns of the loop."""
    run = await start(instance)
    for _ in range(turns):
        await asyncio.sleep(0)
    answer = await instance.interrupt()
    stop = await run
    assert answer == isinstance(stop, vm.Interrupted)
    return stop


# --- where it stops ---------------------------------------------------------------------------------------------------


@BACKENDS
async def test_a_run_goes_on_where_it_was(nothing_left: Census, backend: str) -> None:
    config = config_of(backend)
    async with vm.Engine(config) as engine, await (await engine.compile(build(MIX))).instantiate() as instance:
        loop = instance.module.exports["count"]
        left = (1 << 63) - 1
        instance.prepare_call("count", left)
        for _ in range(30):
            stop = await interrupted(instance)
            assert isinstance(stop, vm.Interrupted)
            assert instance.module.blob.is_instruction_start(stop.pc)
            assert stop.pc == instance.program_counter == instance.next_program_counter
            assert stop.pc >= loop
            assert 0 <= instance.registers["a0"] <= left
            left = instance.registers["a0"]
        instance.registers["a0"] = 3
        assert await instance.run() == vm.Finished()
        assert instance.registers["a0"] == 7


@ONE_LOOP
@pytest.mark.parametrize("export", ["mix", "fill"])
async def test_every_stop_is_exact(nothing_left: Census, export: str) -> None:
    """Wherever the recompiled guest is stopped, the interpreter comes to the same registers with the same gas.

    By the instruction, and in a memset by the byte: gas tells how far the guest is.
    """
    config = vm.ModuleConfig(gas_metering="sync", per_instruction_metering=True)
    blob = build(MIX.replace("    ecalli 0\n", ""))
    gas = 1 << 50
    async with vm.Engine() as engine, vm.Engine(vm.Config(backend="interpreter")) as reference:
        judge = await (await reference.compile(blob, config)).instantiate()
        judge.prepare_call(export, 1000, 3)
        judged = gas
        async with await (await engine.compile(blob, config)).instantiate() as instance:
            instance.prepare_call(export, 1000, 3)
            instance.gas = gas
            seen: set[int] = set()
            for stops in itertools.count():
                if stops >= 60 and (len(seen) > 1 or export == "fill"):
                    break
                # a limit of gas near by keeps the interpreter's part short; a worker that gets no processor needs more
                stop = await interrupted(instance, turns=random.randrange(3 + stops // 30))
                assert isinstance(stop, vm.Interrupted)
                seen.add(stop.pc)
                judge.gas = judged - instance.gas
                judged = instance.gas
                assert await judge.run() == vm.OutOfGas(stop.pc)
                assert dict(judge.registers) == dict(instance.registers)
                assert judge.gas == 0
                if export == "fill":
                    assert judge.memory.read(0x20000, 60000) == instance.memory.read(0x20000, 60000)
        await judge.aclose()


@BACKENDS
async def test_what_the_host_changes_counts(nothing_left: Census, backend: str) -> None:
    async with vm.Engine(config_of(backend)) as engine:
        module = await engine.compile(build(MIX), vm.ModuleConfig(gas_metering="sync"))
        async with await module.instantiate() as instance:
            instance.gas = (1 << 63) - 1
            instance.prepare_call("count", (1 << 63) - 1)
            while instance.gas == (1 << 63) - 1:  # stopped before it came to its first instruction
                assert isinstance(await interrupted(instance), vm.Interrupted)
            assert 0 < instance.gas < (1 << 63) - 1
            instance.registers["a0"] = 1
            instance.gas = 1000
            assert await instance.run() in (vm.Finished(), vm.OutOfGas(module.exports["count"]))
            instance.prepare_call("count", 3)
            instance.gas = 1000
            assert await instance.run() == vm.Finished()


async def test_growing_heaps_are_interrupted_too(engine: vm.Engine) -> None:
    """sbrk is served by the host, which stops the guest itself if the signal came too late."""
    async with await (await engine.compile(build(MIX))).instantiate() as instance:
        instance.prepare_call("grow")
        rounds = 0
        for _ in range(50):
            assert isinstance(await interrupted(instance), vm.Interrupted)
            assert instance.registers["a2"] >= rounds
            rounds = instance.registers["a2"]


# --- races ------------------------------------------------------------------------------------------------------------


async def test_when_there_is_nothing_to_interrupt(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    async with await module.instantiate() as instance:
        assert not await instance.interrupt()
        assert await instance.call("add", 1, 2) == 3
        assert not await instance.interrupt()
    with pytest.raises(vm.InstanceStateError, match="closed"):
        await instance.interrupt()


async def test_two_interrupt_at_once(engine: vm.Engine) -> None:
    async with await (await engine.compile(basic())).instantiate() as instance:
        instance.prepare_call("spin")
        run = await start(instance)
        assert await asyncio.gather(*(instance.interrupt() for _ in range(5))) == [True] * 5
        assert await run == vm.Interrupted(instance.module.exports["spin"])
        assert not await instance.interrupt()


async def test_an_interrupt_that_is_cancelled_stops_the_guest_all_the_same(engine: vm.Engine) -> None:
    async with await (await engine.compile(basic())).instantiate() as instance:
        instance.prepare_call("spin")
        run = await start(instance)
        interrupt = asyncio.create_task(instance.interrupt())
        await asyncio.sleep(0)
        interrupt.cancel()
        assert isinstance(await run, vm.Interrupted)


@ONE_LOOP
@pytest.mark.parametrize("backend", ["recompiler", "interpreter"])
async def test_a_guest_that_stops_by_itself_at_the_same_moment(nothing_left: Census, backend: str) -> None:
    """Whatever comes first: nothing is lost, and a signal that comes too late stops no later run."""
    config = vm.Config(backend=backend, spin=0)
    async with vm.Engine(config) as engine, await (await engine.compile(basic())).instantiate() as instance:
        kinds = set()
        for n in range(300):
            instance.prepare_call("count_down", 1 + 7 * n)
            run = asyncio.create_task(instance.run())
            await asyncio.sleep(0)
            stopped = await instance.interrupt()
            stop = await run
            assert stopped == isinstance(stop, vm.Interrupted)
            kinds.add(type(stop))
            while isinstance(stop, vm.Interrupted):
                stop = await instance.run()
            assert stop == vm.Finished()
            assert instance.registers["a0"] == 7
            assert await instance.call("add", n, 2) == n + 2
        assert kinds <= {vm.Finished, vm.Interrupted}


async def test_before_the_guest_was_resumed(engine: vm.Engine) -> None:
    """A run that waits for its turn is called off; it goes on later."""
    engine._yielded = 0  # the next run gives the loop its turn first
    async with await (await engine.compile(basic())).instantiate() as instance:
        instance.prepare_call("add", 1, 2)
        run = asyncio.create_task(instance.run())
        await asyncio.sleep(0)
        assert await instance.interrupt()
        assert await run == vm.Interrupted(instance.module.exports["add"])
        assert await instance.run() == vm.Finished()
        assert instance.registers["a0"] == 3


async def test_not_during_a_call(engine: vm.Engine) -> None:
    async with await (await engine.compile(basic())).instantiate() as instance:
        call = await start_call(instance)
        with pytest.raises(vm.InstanceStateError, match="being called"):
            await instance.interrupt()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await instance.call("add", 1, 2) == 3


@pytest.mark.parametrize("how", ["interrupt", "cancel"])
async def test_a_process_that_does_not_stop_is_killed(engine: vm.Engine, how: str) -> None:
    async with await (await engine.compile(basic())).instantiate() as instance:
        instance.prepare_call("spin")
        run = await start(instance)
        os.kill(instance.pid, signal.SIGSTOP)
        while not status(instance.pid)["State"].startswith("T"):
            await asyncio.sleep(0)
        if how == "interrupt":
            assert not await instance.interrupt()
            with pytest.raises(vm.SandboxDiedError, match="SIGKILL"):
                await run
        else:
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            with pytest.raises(vm.SandboxDiedError, match="SIGKILL"):
                await instance.run()


async def test_killed_while_it_is_interrupted(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    for _ in range(20):
        async with await module.instantiate() as instance:
            instance.prepare_call("spin")
            run = await start(instance)
            os.kill(instance.pid, signal.SIGKILL)
            stopped = await instance.interrupt()
            (end,) = await asyncio.gather(run, return_exceptions=True)
            assert isinstance(end, vm.Interrupted) if stopped else isinstance(end, vm.SandboxDiedError)


async def test_closed_while_it_is_interrupted(engine: vm.Engine) -> None:
    instance = await (await engine.compile(basic())).instantiate()
    instance.prepare_call("spin")
    run = await start(instance)
    interrupt = asyncio.create_task(instance.interrupt())
    await asyncio.sleep(0)
    await instance.aclose()
    await interrupt
    with pytest.raises(vm.InstanceStateError, match="closed"):
        await run


# --- cancellation -----------------------------------------------------------------------------------------------------


@BACKENDS
async def test_a_cancelled_run_goes_on(nothing_left: Census, backend: str) -> None:
    config = config_of(backend)
    async with vm.Engine(config) as engine, await (await engine.compile(basic())).instantiate() as instance:
        rounds = (1 << 63) - 1
        instance.prepare_call("count_down", rounds)
        for _ in range(3):
            run = await start(instance)
            run.cancel("enough")
            with pytest.raises(asyncio.CancelledError, match="enough"):
                await run
            assert "stopped" in repr(instance)
            assert 0 < instance.registers["a0"] <= rounds
            rounds = instance.registers["a0"]
        instance.registers["a0"] = 3
        assert await instance.run() == vm.Finished()
        assert instance.registers["a0"] == 7


@ONE_LOOP
async def test_what_a_cancelled_run_stopped_with_is_not_lost(engine: vm.Engine) -> None:
    """A host call that came at the moment of the cancellation comes back from the next run."""
    blob = build("pub @ask:\na0 = a0 - 1\njump @ask if a0 != 0\necalli 5\na0 = 9\nret")
    async with await (await engine.compile(blob)).instantiate() as instance:
        for n in range(200):
            instance.prepare_call("ask", 1 + 300 * n)
            run = asyncio.create_task(instance.run())
            await asyncio.sleep(0)
            run.cancel()
            (end,) = await asyncio.gather(run, return_exceptions=True)
            if isinstance(end, asyncio.CancelledError):
                end = await instance.run()
            assert end == vm.HostCall(5)
            assert await instance.run() == vm.Finished()
            assert instance.registers["a0"] == 9


async def test_preparing_another_call_forgets_it(engine: vm.Engine) -> None:
    async with await (await engine.compile(basic())).instantiate() as instance:
        for n in range(50):
            instance.prepare_call("count_down", 1 + 300 * n)
            run = asyncio.create_task(instance.run())
            await asyncio.sleep(0)
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
            assert await instance.call("add", n, 1) == n + 1


async def test_cancelled_again_while_it_stops(engine: vm.Engine) -> None:
    async with await (await engine.compile(basic())).instantiate() as instance:
        instance.prepare_call("spin")
        run = await start(instance)
        run.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
            run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert await instance.call("add", 1, 2) == 3


async def test_traced_guests_stop_before_a_step(engine: vm.Engine) -> None:
    """The interrupted instruction was executed whole: its step is not told twice."""
    module = await engine.compile(basic(), vm.ModuleConfig(step_tracing=True))
    async with await module.instantiate() as instance:
        instance.prepare_call("add", 1, 2)
        steps = []
        while (stop := await instance.run()) != vm.Finished():
            steps.append(stop)
            await instance.interrupt()
        assert len(steps) == 2


async def test_crosschecked_guests_end_when_they_are_cancelled(nothing_left: Census) -> None:
    """The interpreter cannot tell where the worker was stopped."""
    async with vm.Engine(vm.Config(crosscheck=True)) as engine:
        instance = await (await engine.compile(basic())).instantiate()
        call = await start_call(instance)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        with pytest.raises(vm.VMError):
            await instance.call("add", 1, 2)
        await instance.aclose()
