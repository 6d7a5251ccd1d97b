# SPDX-License-Identifier: MIT
"""Deaths, of workers, nurseries and hosts, and what they leave behind; leaks over many lives."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import traceback
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from guests import basic, memory
from processes import Census, census, children, mappings, nurseries, parent, resident, status, wait_for_death, watch

import aioring
import vm
from vm._linux import LinuxHome
from vm._sandbox import ffi, lib
from vm._worker import Worker

VMCTX_STARTING = 9
ONE_LOOP = pytest.mark.asyncio(loop_factories=["aioring"])


@pytest.fixture
async def engine(nothing_left: Census) -> AsyncIterator[vm.Engine]:
    """An engine whose processes are only those asked for: spare ones come when they come, and here they are counted."""
    async with vm.Engine(vm.Config(spare_workers=0)) as engine:
        yield engine


class Gate:
    """The import ``ask`` of the basic program: counts who came, and lets them on when it is opened."""

    def __init__(self, expected: int = 1, *, is_open: bool = True) -> None:
        self.linker = vm.Linker()
        self.linker.define("ask", self._ask)
        self.everyone = asyncio.Event()
        self.opened = asyncio.Event()
        if is_open:
            self.opened.set()
        self._expected = expected

    async def _ask(self, caller: vm.Caller) -> int:
        self._expected -= 1
        if self._expected == 0:
            self.everyone.set()
        await self.opened.wait()
        return 1000


async def start(instance: vm.Instance, export: str) -> asyncio.Task[int]:
    """A call that runs guest code now."""
    call = asyncio.create_task(instance.call(export))
    while "running" not in repr(instance):
        assert not call.done()
        await asyncio.sleep(0)
    return call


# --- workers ----------------------------------------------------------------------------------------------------------


async def test_killing_one_of_fifty(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    gate = Gate(expected=50)
    instances = [await gate.linker.instantiate(module) for _ in range(50)]
    calls = [
        asyncio.create_task(instance.call(*(("ask_and_spin",) if n == 25 else ("ask_and_count_down", 2_000_000 + n))))
        for n, instance in enumerate(instances)
    ]
    await gate.everyone.wait()
    victim = instances[25].pid
    os.kill(victim, signal.SIGKILL)
    results = await asyncio.gather(*calls, return_exceptions=True)
    died = results.pop(25)
    assert results == [7] * 49
    assert isinstance(died, vm.SandboxDiedError)
    assert died.pid == victim
    assert died.exit_status == "killed by SIGKILL"
    assert len({instance.pid for instance in instances}) == 50
    for instance in instances:
        await instance.aclose()
    async with await gate.linker.instantiate(module) as instance:
        assert await instance.call("add", 1, 2) == 3


async def test_killed_in_a_host_call(engine: vm.Engine) -> None:
    gate = Gate(is_open=False)
    async with await gate.linker.instantiate(await engine.compile(basic())) as instance:
        call = asyncio.create_task(instance.call("ask", 1))
        await gate.everyone.wait()
        with watch(instance.pid) as pidfds:
            os.kill(instance.pid, signal.SIGKILL)
            wait_for_death(*pidfds.values())
        gate.opened.set()
        with pytest.raises(vm.SandboxDiedError):
            await call
        with pytest.raises(vm.SandboxDiedError):  # and again
            await instance.call("add", 1, 2)


async def test_killed_between_calls(engine: vm.Engine) -> None:
    async with await Gate().linker.instantiate(await engine.compile(basic())) as instance:
        assert await instance.call("add", 1, 2) == 3
        os.kill(instance.pid, signal.SIGKILL)
        with pytest.raises(vm.SandboxDiedError) as caught:
            await instance.call("add", 1, 2)
        assert caught.value.pid == instance.pid
        await until_dead(instance)
        assert repr(instance) == f"<Instance in process {instance.pid}, dead>"


async def until_dead(instance: vm.Instance) -> None:
    while "dead" not in repr(instance):
        await asyncio.sleep(0)


async def test_how_it_died_is_known(engine: vm.Engine) -> None:
    """Also when the engine is quicker than the kernel, which tells the death before the status."""
    module = await engine.compile(basic())
    for _ in range(50):
        async with await Gate().linker.instantiate(module) as instance:
            call = await start(instance, "spin")
            os.kill(instance.pid, signal.SIGKILL)
            with pytest.raises(vm.SandboxDiedError) as caught:
                await call
            assert caught.value.exit_status == "killed by SIGKILL"


async def test_killed_while_idle(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    for _ in range(10):
        async with await module.instantiate() as instance:
            pid = instance.pid
        with watch(pid) as pidfds:
            os.kill(pid, signal.SIGKILL)
            wait_for_death(*pidfds.values())
        async with await module.instantiate() as instance:  # at once: the loop had no turn to hear of the death
            assert instance.pid != pid
            assert await instance.call("add", 1, 2) == 3


async def test_the_process_of_a_cancelled_call_is_reused(engine: vm.Engine) -> None:
    """That is within the rules: its guest stopped when it was told to."""
    module = await engine.compile(basic())
    pids = set()
    for _ in range(10):
        async with await module.instantiate() as instance:
            pids.add(instance.pid)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.002):
                    await instance.call("spin")
        async with await module.instantiate() as another:
            pids.add(another.pid)
            assert await another.call("add", 1, 2) == 3
    assert len(pids) == 1


async def test_a_process_that_did_not_stop_is_not_reused(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    async with await module.instantiate() as instance:
        pid = instance.pid
        call = await start(instance, "spin")
        os.kill(pid, signal.SIGSTOP)
        while not status(pid)["State"].startswith("T"):
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        with pytest.raises(vm.SandboxDiedError, match="SIGKILL"):
            await instance.call("add", 1, 2)
    async with await module.instantiate() as another:
        assert another.pid != pid
        assert await another.call("add", 1, 2) == 3


async def test_a_stopped_worker(engine: vm.Engine) -> None:
    """SIGSTOP holds a guest up, nothing else; SIGCONT lets it go on."""
    module = await engine.compile(basic())
    async with await Gate().linker.instantiate(module) as instance:
        os.kill(instance.pid, signal.SIGSTOP)
        while not status(instance.pid)["State"].startswith("T"):
            await asyncio.sleep(0)
        call = asyncio.create_task(instance.call("count_down", 1000))
        async with await module.instantiate() as another:
            assert await another.call("add", 1, 2) == 3
        assert not call.done()
        os.kill(instance.pid, signal.SIGCONT)
        assert await call == 7


async def test_a_stopped_worker_can_be_cancelled_and_closed(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    instances = [await module.instantiate() for _ in range(2)]
    with watch(*(instance.pid for instance in instances)) as pidfds:
        for instance in instances:
            os.kill(instance.pid, signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await instances[0].call("add", 1, 2)
        await instances[0].aclose()
        await engine.aclose()
        wait_for_death(*pidfds.values())
    await instances[1].aclose()


# --- nurseries --------------------------------------------------------------------------------------------------------


async def test_killed_nursery(engine: vm.Engine) -> None:
    """Its workers die with it; the next instance comes from another one."""
    module = await engine.compile(basic())
    for _ in range(3):
        instances = [await module.instantiate() for _ in range(3)]
        running = await start(instances[0], "spin")
        nursery = parent(instances[0].pid)
        with watch(nursery, *(instance.pid for instance in instances)) as pidfds:
            os.kill(nursery, signal.SIGKILL)
            wait_for_death(*pidfds.values())
        with pytest.raises(vm.SandboxDiedError):
            await running
        for instance in instances[1:]:
            with pytest.raises(vm.SandboxDiedError):
                await instance.call("add", 1, 2)
        async with await module.instantiate() as instance:
            assert parent(instance.pid) != nursery
            assert await instance.call("add", 1, 2) == 3
        assert nursery not in children()  # reaped
        for instance in instances:
            await instance.aclose()


@pytest.mark.parametrize("turns", range(12))
async def test_nursery_killed_during_instantiate(engine: vm.Engine, turns: int) -> None:
    module = await engine.compile(basic())
    async with await module.instantiate() as first:
        nursery = parent(first.pid)
        tasks = [asyncio.create_task(module.instantiate()) for _ in range(20)]
        for _ in range(turns):
            await asyncio.sleep(0)
        with watch(nursery) as pidfds:
            os.kill(nursery, signal.SIGKILL)
            made = await asyncio.gather(*tasks, return_exceptions=True)
            wait_for_death(*pidfds.values())  # it dies last, as the first process of its pid namespace
        for instance in made:
            if isinstance(instance, vm.SandboxDiedError):
                continue  # it was being set up when the nursery died
            assert isinstance(instance, vm.Instance)
            async with instance:
                try:
                    assert await instance.call("add", 1, 2) == 3
                except vm.SandboxDiedError:
                    continue  # it was ready before the nursery died
    async with await module.instantiate() as instance:
        assert await instance.call("add", 1, 2) == 3


async def test_nurseries_that_are_killed_at_once(engine: vm.Engine) -> None:
    """After the second one it is an error, one of those that are documented."""
    module = await engine.compile(basic())
    home = cast(LinuxHome, engine._home)
    failed = 0
    for _ in range(20):
        task = asyncio.create_task(module.instantiate())
        while not task.done():
            started = home._nursery
            if started is not None and started.done():
                with watch(*nurseries()) as pidfds:
                    for pidfd in pidfds.values():
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    wait_for_death(*pidfds.values())
            await asyncio.sleep(0)
        failed += isinstance(task.exception(), vm.SandboxError)
        assert task.exception() is None or isinstance(task.exception(), vm.SandboxError)
        if task.exception() is None:
            await task.result().aclose()
    assert failed > 0
    async with await module.instantiate() as instance:
        assert await instance.call("add", 1, 2) == 3


async def test_killed_before_its_userfaultfd_is_used(nothing_left: Census) -> None:
    """That is a death, and not the errno that something fails with in a process that is dying."""
    async with vm.Engine(vm.Config(reuse="never", spare_workers=0)) as engine:
        module = await engine.compile(memory(), vm.ModuleConfig(dynamic_paging=True))
        while not await killed_when_ready(engine, module):
            continue  # it was quicker


async def killed_when_ready(engine: vm.Engine, module: vm.Module) -> bool:
    """Whether a new worker could be killed after it said that it is ready, before the engine had a look."""
    workers = cast(LinuxHome, engine._home)._workers
    task = asyncio.create_task(module.instantiate())
    while not any(worker.pid for worker in workers):
        await asyncio.sleep(0)
    (worker,) = workers
    word = lib.sandbox_worker_futex(worker.handle)
    if word[0] != VMCTX_STARTING:
        await (await task).aclose()
        await until_dead_ones_are_gone(engine, alive=0)
        return False
    with watch(worker.pid) as pidfds:
        while word[0] == VMCTX_STARTING:  # the engine gets no turn to see that
            continue
        os.kill(worker.pid, signal.SIGKILL)
        wait_for_death(*pidfds.values())
    with pytest.raises(vm.SandboxDiedError) as caught:
        await task
    assert caught.value.pid == worker.pid
    return True


async def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    while not status(pid)["State"].startswith("T"):
        await asyncio.sleep(0)


async def test_a_stopped_nursery(engine: vm.Engine) -> None:
    """SIGSTOP holds new instances up, nothing else, as a frozen container or a suspended machine does."""
    module = await engine.compile(basic())
    async with await module.instantiate() as instance:
        nursery = parent(instance.pid)
        await stop(nursery)
        assert await instance.call("add", 1, 2) == 3
        task = asyncio.create_task(module.instantiate())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done()
        os.kill(nursery, signal.SIGCONT)
        async with await task as another:
            assert parent(another.pid) == nursery
            assert await another.call("add", 3, 4) == 7
            for _ in range(3):
                await stop(nursery)
                os.kill(nursery, signal.SIGCONT)
            async with await module.instantiate() as third:
                assert parent(third.pid) == nursery
            assert await instance.call("add", 1, 2) == 3


async def test_closing_while_the_nursery_is_stopped(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    async with await module.instantiate() as instance:
        with watch(parent(instance.pid), instance.pid) as pidfds:
            await stop(parent(instance.pid))
            tasks = [asyncio.create_task(module.instantiate()) for _ in range(3)]
            await asyncio.sleep(0)
            await engine.aclose()
            wait_for_death(*pidfds.values())
        for task in tasks:
            with pytest.raises((vm.InstanceStateError, vm.SandboxDiedError)):
                await task


async def test_closing_after_the_nursery_died(nothing_left: Census) -> None:
    async with vm.Engine() as engine:
        instance = await (await engine.compile(basic())).instantiate()
        nursery = parent(instance.pid)
        with watch(nursery) as pidfds:
            os.kill(nursery, signal.SIGKILL)
            wait_for_death(*pidfds.values())
        await instance.aclose()


async def test_a_host_that_reaps_every_child(nothing_left: Census) -> None:
    """As a process that is pid 1 of its container does."""
    async with vm.Engine() as engine:
        async with await (await engine.compile(basic())).instantiate() as instance:
            nursery = parent(instance.pid)
            os.kill(nursery, signal.SIGKILL)
            assert os.waitpid(nursery, 0)[0] == nursery
        async with await (await engine.compile(basic())).instantiate() as instance:
            assert await instance.call("add", 1, 2) == 3


# --- hosts ------------------------------------------------------------------------------------------------------------


@contextmanager
def another_host(
    main: Callable[[int], Coroutine[Any, Any, None]], run: Callable[..., Any]
) -> Iterator[tuple[int, list[int]]]:
    """A process that runs `main` with the writing end of a pipe; gives its pid and the numbers it wrote first."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            run(main(writing))
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(1)
    os.close(writing)
    try:
        with open(reading) as pipe:
            yield pid, [int(number) for number in pipe.readline().split()]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


async def host_of_many(pipe: int) -> None:
    """Guests in every state: in an endless loop, in a host call, stopped, idle in the pool."""
    gate = Gate(is_open=False)
    async with vm.Engine() as engine, asyncio.TaskGroup() as group:
        module = await engine.compile(basic())
        instances = [await gate.linker.instantiate(module) for _ in range(6)]
        spinning = [await start(instance, "spin") for instance in instances[:2]]
        group.create_task(instances[2].call("ask"))
        await gate.everyone.wait()
        pids = [instance.pid for instance in instances]
        await instances[5].aclose()
        os.write(pipe, (" ".join(map(str, [parent(pids[0]), *pids])) + "\n").encode())
        await asyncio.wait(spinning)


@pytest.mark.parametrize("run", [asyncio.run, aioring.run], ids=["asyncio", "aioring"])
def test_the_death_of_the_host_ends_every_sandbox(run: Callable[..., Any]) -> None:
    with another_host(host_of_many, run) as (host, pids):
        assert len(pids) == 7
        with watch(*pids) as pidfds:
            os.kill(host, signal.SIGKILL)
            wait_for_death(*pidfds.values())


async def host_that_forks(pipe: int) -> None:
    """Its own child holds everything open that was open."""
    async with vm.Engine() as engine:
        instance = await (await engine.compile(basic())).instantiate()
        call = await start(instance, "spin")
        child = os.fork()
        if child == 0:
            signal.pause()
        os.write(pipe, f"{parent(instance.pid)} {instance.pid} {child}\n".encode())
        await call


def test_the_death_of_a_host_that_has_forked() -> None:
    with another_host(host_that_forks, asyncio.run) as (host, (nursery, worker, child)):
        try:
            with watch(nursery, worker) as pidfds:
                os.kill(host, signal.SIGKILL)
                wait_for_death(*pidfds.values())
            assert status(child)["State"][0] in "RS"  # the child lives, and kept nothing of it alive
        finally:
            os.kill(child, signal.SIGKILL)


async def host_whose_child_forgets(pipe: int) -> None:
    """The child frees its copies of everything, as an interpreter does that shuts down."""
    async with vm.Engine() as engine, await (await engine.compile(basic())).instantiate() as instance:
        worker, nursery = cast(Worker, instance._machine), cast(LinuxHome, engine._home)._nursery
        assert worker is not None
        assert nursery is not None
        child = os.fork()
        if child == 0:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                instance.__del__()
            ffi.release(worker.handle)
            ffi.release(nursery.result()._handle)
            os._exit(0)
        os.waitpid(child, 0)
        first = await instance.call("add", 1, 2)
        async with await instance.module.instantiate() as another:
            os.write(pipe, f"{first} {await another.call('add', 3, 4)}\n".encode())


@pytest.mark.parametrize("run", [asyncio.run, aioring.run], ids=["asyncio", "aioring"])
def test_a_forked_child_leaves_the_sandboxes_alone(run: Callable[..., Any]) -> None:
    with another_host(host_whose_child_forgets, run) as (_, results):
        assert results == [3, 7]


async def host_that_ends_without_closing(pipe: int) -> None:
    engine = await vm.Engine().__aenter__()
    instance = await (await engine.compile(basic())).instantiate()
    call = await start(instance, "spin")
    os.write(pipe, f"{parent(instance.pid)} {instance.pid}\n".encode())
    call.cancel()
    os._exit(0)


def test_a_host_that_exits_without_closing_anything() -> None:
    with another_host(host_that_ends_without_closing, aioring.run) as (_, pids), watch_if_alive(pids) as pidfds:
        wait_for_death(*pidfds)


@contextmanager
def watch_if_alive(pids: list[int]) -> Iterator[list[int]]:
    pidfds = []
    try:
        for pid in pids:
            try:
                pidfds.append(os.pidfd_open(pid))
            except ProcessLookupError:
                continue
        yield pidfds
    finally:
        for pidfd in pidfds:
            os.close(pidfd)


# --- leaks ------------------------------------------------------------------------------------------------------------


class Levels:
    """What may rise and must not."""

    def __init__(self) -> None:
        self.census = census()
        self.mappings = len(mappings("self"))
        self.objects = len(gc.get_objects())
        self.resident = resident()

    def assert_no_higher_than(self, before: Levels) -> None:
        assert not self.census - before.census
        assert self.mappings <= before.mappings + 5  # the allocator maps and unmaps as it likes
        assert self.objects < before.objects + 500
        assert self.resident < before.resident + (8 << 20)


async def repeat(work: Callable[[], Coroutine[Any, Any, None]], times: int) -> None:
    """Nothing may leak in `times` repetitions, after some that fill caches, pools and free lists."""
    for _ in range(times // 10):
        await work()
    before = Levels()
    for _ in range(times):
        await work()
    Levels().assert_no_higher_than(before)


async def until_dead_ones_are_gone(engine: vm.Engine, alive: int | None = None) -> None:
    """Until the engine, too, has seen the deaths of those that it killed."""
    alive = engine.config.max_idle_workers if alive is None else alive
    while len(cast(LinuxHome, engine._home)._workers) > alive:
        await asyncio.sleep(0)


def pass_on() -> vm.Linker:
    linker = vm.Linker()
    linker.define("ask", lambda caller, value: value)
    return linker


async def test_a_thousand_runs(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    linker = pass_on()

    async def work() -> None:
        async with await linker.instantiate(module) as instance:
            assert await instance.call("ask", 21) == 42

    await repeat(work, 1000)


async def test_runs_in_fresh_processes(nothing_left: Census) -> None:
    async with vm.Engine(vm.Config(reuse="never", spare_workers=0)) as engine:
        module = await engine.compile(basic())
        linker = pass_on()

        async def work() -> None:
            async with await linker.instantiate(module) as instance:
                assert await instance.call("ask", 21) == 42
                with watch(instance.pid) as pidfds:
                    await instance.aclose()
                    wait_for_death(*pidfds.values())
            await until_dead_ones_are_gone(engine, alive=0)

        await repeat(work, 300)


async def test_a_hundred_modules(engine: vm.Engine) -> None:
    """Compiled, used and forgotten: at most the idle workers' images stay."""

    async def work() -> None:
        async with await (await engine.compile(memory())).instantiate() as instance:
            await instance.call("grow", 100_000)
        await until_dead_ones_are_gone(engine)

    for _ in range(engine.config.max_idle_workers):
        await work()
    await repeat(work, 100)


async def test_engines_come_and_go(nothing_left: Census) -> None:
    async def work() -> None:
        async with vm.Engine() as engine, await (await engine.compile(basic())).instantiate() as instance:
            assert await instance.call("add", 1, 2) == 3

    await repeat(work, 100)


async def test_failures(engine: vm.Engine) -> None:
    """Exceptions in host functions, traps, wrong types, missing imports and exports, and blobs that are none."""
    module = await engine.compile(basic())
    results: list[Any] = []

    def ask(caller: vm.Caller) -> int:
        raise ZeroDivisionError

    linker = vm.Linker()
    linker.define("ask", ask)
    wrong = vm.Linker()
    wrong.define("ask", lambda caller: "text")

    async def work() -> None:
        async with await linker.instantiate(module) as instance:
            with pytest.raises(ZeroDivisionError):
                await instance.call("ask", 1)
            with pytest.raises(vm.TrapError):
                await instance.call("trap")
            with pytest.raises(KeyError):
                await instance.call("nope")
            with pytest.raises(vm.MemoryAccessError):
                instance.memory.read(0, 1)
        async with await wrong.instantiate(module) as instance:
            with pytest.raises(TypeError):
                await instance.call("ask", 1)
        with pytest.raises(vm.LinkError):
            await vm.Linker().instantiate(module)
        with pytest.raises(vm.ProgramParseError):
            await engine.compile(b"PVM\0")
        with pytest.raises(vm.MemoryMapError):
            await engine.compile(basic(), vm.ModuleConfig(page_size=1))

    await repeat(work, 200)
    assert not results


async def test_cancelled_calls(engine: vm.Engine) -> None:
    module = await engine.compile(basic())

    async def work() -> None:
        gate = Gate(is_open=False)
        spinning, asking = [await gate.linker.instantiate(module) for _ in range(2)]
        tasks = [await start(spinning, "spin"), asyncio.create_task(asking.call("ask"))]
        await gate.everyone.wait()
        for task in tasks:
            task.cancel()
        assert all(isinstance(e, asyncio.CancelledError) for e in await asyncio.gather(*tasks, return_exceptions=True))
        await spinning.aclose()
        await asking.aclose()

    await repeat(work, 100)


async def test_killed_workers(engine: vm.Engine) -> None:
    module = await engine.compile(basic())

    async def work() -> None:
        async with await module.instantiate() as instance:
            os.kill(instance.pid, signal.SIGKILL)
            with pytest.raises(vm.SandboxDiedError):
                await instance.call("add", 1, 2)
            await until_dead(instance)

    await repeat(work, 100)


@ONE_LOOP
async def test_many_at_once(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    linker = pass_on()

    async def one(n: int) -> None:
        async with await linker.instantiate(module) as instance:
            assert await instance.call("ask", n) == 2 * n

    async def work() -> None:
        await asyncio.gather(*(one(n) for n in range(100)))
        await until_dead_ones_are_gone(engine)

    for _ in range(3):
        await work()
    before = Levels()
    for _ in range(5):
        await work()
    Levels().assert_no_higher_than(before)
