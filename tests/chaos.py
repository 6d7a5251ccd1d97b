# SPDX-License-Identifier: MIT
# ruff: noqa: T201 - a command
"""Random lives of guests under random harm: nothing hangs, no await is lost, nothing is left.

    python -m tests.chaos --runs 10000 --seed 1

A run is one guest: instantiated, used at random, closed. Several go on at once in one engine, while their workers and
nursery are killed, stopped and continued, their calls cancelled and interrupted, their limits reached, their instances
closed under them, and at last their engine. Every await has to end in time, with a result that is right or an
exception that the documentation has for what was done: a death that nobody caused is a failure. After each engine no
file, process, mapping or task may be left.

The same seed makes the same choices; when what happens is up to the kernel. A failure names its seed and engine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar, cast

sys.path.insert(0, str(Path(__file__).parent))  # tests import what is beside them

from guests import basic, build, memory
from processes import census, nurseries

import aioring
import vm
from vm._linux import LinuxHome
from vm._sandbox import lib
from vm._worker import Worker

T = TypeVar("T")

#: Seconds for one run, and for the end of an engine. A worker that is stopped takes a second to be given up on.
DEADLINE: Final = 20.0
#: Runs in one engine, and how many at once.
IN_ENGINE, AT_ONCE = 60, 8

#: Seconds after which the death of a nursery is no excuse any more.
RECOVERY: Final = 1.0

PAGE: Final = 0x1000

RUN: Final = """
pub @count:
    a0 = a0 + 1
    jump @count if a0 <u a1
    ret
pub @spin:
    jump @spin
"""


class ChaosError(AssertionError):
    """What must not happen, happened."""


class HostError(Exception):
    """Raised by a host function."""


class Guest:
    """A run, and what was done to it."""

    def __init__(self) -> None:
        self.instance: vm.Instance | None = None
        self.task: asyncio.Task[Any] | None = None
        #: A run that goes on when the task which asked for it does not.
        self.running: asyncio.Task[vm.Interrupt] | None = None
        #: Whether its death, its end, or a cancellation has a cause.
        self.may_die = self.may_close = self.may_be_cancelled = False


class Episode:
    """One engine from its start to its end."""

    def __init__(self, rng: random.Random, runs: int) -> None:
        self.rng = rng
        self.left = runs
        self.ends: Counter[str] = Counter()
        self.harm: Counter[str] = Counter()
        self.guests: set[Guest] = set()
        self.stopped: set[asyncio.Task[None]] = set()
        self.killed: set[int] = set()
        self.closing = False
        #: When a nursery was killed last: any worker may die that was there or is being made, and a start fail that
        #: many wait for.
        self.disaster = float("-inf")
        # most of them with processes: the others have less that can be harmed
        backend, sandbox = rng.choices(
            [("recompiler", "linux"), ("recompiler", "generic"), ("interpreter", "linux")], [8, 1, 1]
        )[0]
        processes = (backend, sandbox) == ("recompiler", "linux")
        self.engine = vm.Engine(
            vm.Config(
                backend=backend,  # type: ignore[arg-type]
                sandbox=sandbox,  # type: ignore[arg-type]
                waiting=rng.choice(["auto", "threads"]),
                spin=rng.choice([0, 50e-6]),
                reuse=rng.choice(["tenant", "tenant", "always", "never"]),
                spare_workers=rng.randrange(3),
                max_idle_workers=rng.choice([0, 4, 64]),
                max_running=rng.choice([None, 0, 1, 2]),
                cgroup=rng.choice([None, vm.CgroupLimits(processes=12, required=False)]) if processes else None,
            )
        )

    async def live(self) -> None:
        async with self.engine:
            self.modules = [
                await self.engine.compile(basic()),
                await self.engine.compile(memory(), vm.ModuleConfig(aux_data_size=PAGE)),
                await self.engine.compile(memory(), vm.ModuleConfig(dynamic_paging=True)),
                await self.engine.compile(basic(), vm.ModuleConfig(gas_metering=self.rng.choice(["sync", "async"]))),
                await self.engine.compile(build(RUN)),
            ]
            monkey = asyncio.create_task(self.monkey())
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(AT_ONCE):
                        group.create_task(self.actor())
            finally:
                monkey.cancel()
                await asyncio.gather(monkey, *self.stopped, return_exceptions=True)
            self.closing = True
            try:
                async with asyncio.timeout(DEADLINE):
                    await self.engine.aclose()
            except TimeoutError:
                raise ChaosError("the engine does not close") from None
        if not monkey.cancelled() and monkey.exception() is not None:
            raise cast(BaseException, monkey.exception())

    # --- harm ---

    async def monkey(self) -> None:
        """Does harm until it is cancelled."""
        kinds: list[tuple[Callable[[], None], int]] = [
            (self.kill_worker, 6),
            (self.stop_worker, 6),
            (self.kill_nursery, 1),
            (self.stop_nursery, 1),
            (self.cancel, 10),
            (self.interrupt, 6),
            (self.close_instance, 3),
            (self.close_engine, 1 if self.rng.random() < 0.3 else 0),
        ]
        while True:
            await asyncio.sleep(self.rng.choice([0, 0, 0.0005, 0.002, 0.005]))
            (harm,) = self.rng.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
            harm()

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.stopped.add(task)
        task.add_done_callback(self.stopped.discard)

    def workers(self) -> list[Worker]:
        """All that have a process, idle and spare ones too."""
        home = self.engine._home
        if not isinstance(home, LinuxHome):
            return []
        found = [worker for worker in home._workers if worker.pid and not worker.dead]
        return sorted(found, key=lambda worker: worker.pid)

    def send(self, worker: Worker, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(lib.sandbox_worker_pidfd(worker.handle), number)

    def kill_worker(self) -> None:
        workers = self.workers()
        if workers:
            worker = self.rng.choice(workers)
            self.killed.add(worker.pid)
            self.harm["workers killed"] += 1
            self.send(worker, signal.SIGKILL)

    def stop_worker(self) -> None:
        workers = self.workers()
        if workers:
            worker = self.rng.choice(workers)
            self.killed.add(worker.pid)  # if it is told to stop meanwhile
            self.harm["workers stopped"] += 1
            self.send(worker, signal.SIGSTOP)
            self.background(self.continue_worker(worker, self.rng.choice([0, 0.001, 0.01])))

    async def continue_worker(self, worker: Worker, after: float) -> None:
        try:
            await asyncio.sleep(after)
        finally:
            self.send(worker, signal.SIGCONT)

    def kill_nursery(self) -> None:
        if self.signal_nursery(signal.SIGKILL):
            self.disaster = time.monotonic()
            self.harm["nurseries killed"] += 1

    def stop_nursery(self) -> None:
        if self.signal_nursery(signal.SIGSTOP):
            self.harm["nurseries stopped"] += 1
            self.background(self.continue_nursery(self.rng.choice([0, 0.001, 0.01])))

    async def continue_nursery(self, after: float) -> None:
        try:
            await asyncio.sleep(after)
        finally:
            self.signal_nursery(signal.SIGCONT)

    def signal_nursery(self, number: signal.Signals) -> bool:
        found = False
        for pid in nurseries():
            with contextlib.suppress(ProcessLookupError):  # reaped meanwhile
                pidfd = os.pidfd_open(pid)
                try:
                    if pid in nurseries():  # it was not replaced by another process
                        signal.pidfd_send_signal(pidfd, number)
                        found = True
                finally:
                    os.close(pidfd)
        return found

    def victim(self, condition: Callable[[Guest], bool]) -> Guest | None:
        found = [guest for guest in self.guests if condition(guest)]
        found.sort(key=lambda guest: guest.instance.pid if guest.instance is not None and not guest.may_close else 0)
        return self.rng.choice(found) if found else None

    def cancel(self) -> None:
        guest = self.victim(lambda guest: guest.task is not None)
        if guest is not None and guest.task is not None:
            guest.may_be_cancelled = True
            self.harm["cancelled"] += 1
            guest.task.cancel()

    def interrupt(self) -> None:
        guest = self.victim(lambda guest: guest.instance is not None)
        if guest is not None and guest.instance is not None:
            self.harm["interrupted"] += 1
            self.background(self.ask_to_stop(guest.instance))

    async def ask_to_stop(self, instance: vm.Instance) -> None:
        with contextlib.suppress(vm.InstanceStateError):  # closed, or being called
            await instance.interrupt()

    def close_instance(self) -> None:
        guest = self.victim(lambda guest: guest.instance is not None)
        if guest is not None and guest.instance is not None:
            guest.may_close = True
            self.harm["closed"] += 1
            self.background(guest.instance.aclose())

    def close_engine(self) -> None:
        if not self.closing:
            self.closing = True
            self.harm["engines closed"] += 1
            self.background(self.engine.aclose())

    # --- runs ---

    async def actor(self) -> None:
        while self.left > 0 and not self.closing:
            self.left -= 1
            guest = Guest()
            self.guests.add(guest)
            try:
                async with asyncio.timeout(DEADLINE) as deadline:
                    await self.run(guest)
            except TimeoutError:
                raise ChaosError(f"hangs: {guest.instance!r} {guest.task!r}") from None
            finally:
                self.guests.discard(guest)
            if deadline.expired():
                raise ChaosError(f"hangs: {guest.instance!r}")

    async def run(self, guest: Guest) -> None:
        module = self.rng.choice(self.modules)
        if self.rng.random() < 0.1:
            found = await self.attempt(guest, self.compile())
            module = found if found is not None else module
        linker = self.linker(guest)
        limits = self.rng.choice(
            [None, None, vm.Limits(wall=0.005), vm.Limits(cpu=0.002), vm.Limits(memory=1 << 16, wall=1)]
        )
        instance = await self.attempt(
            guest, linker.instantiate(module, limits=limits, tenant=self.rng.choice([None, "a", "b"]))
        )
        if instance is None:
            return
        guest.instance = instance
        try:
            if module.config.gas_metering is not None and not guest.may_close:
                with contextlib.suppress(vm.InstanceStateError):
                    instance.gas = self.rng.choice([0, 10, 1 << 40])
            for _ in range(self.rng.randrange(1, 6)):
                await self.attempt(guest, self.use(guest, instance))
        finally:
            await instance.aclose()
            if self.rng.random() < 0.2:
                await instance.aclose()

    def linker(self, guest: Guest) -> vm.Linker:
        linker = vm.Linker()

        async def ask(caller: vm.Caller, value: int) -> int:
            match self.rng.randrange(5):
                case 0:
                    raise HostError
                case 1:
                    await asyncio.sleep(self.rng.choice([0, 0.001, 0.01]))
                case 2:
                    caller.memory.read(caller.instance.module.memory_map.rw_address, 16)
            return value

        linker.define("ask", ask)
        match self.rng.randrange(3):
            case 0:
                linker.on_page_fault(vm.ZeroPager())
            case 1:

                @linker.on_page_fault
                async def serve(caller: vm.Caller, fault: vm.PageFault) -> None:
                    await asyncio.sleep(0)
                    caller.memory.zero(fault.address, fault.size)

        return linker

    async def compile(self) -> vm.Module:
        text = f"pub @add:\n    a0 = a0 + a1\n    ret\npub @other:\n    a0 = {self.rng.getrandbits(31)}\n    ret\n"
        return await self.engine.compile(build(text))

    async def use(self, guest: Guest, instance: vm.Instance) -> None:
        exports = instance.module.exports
        if self.rng.random() < 0.3 and "spin" in exports:
            await self.run_and_interrupt(guest, instance)
            return
        export = self.rng.choice(sorted(exports))
        layout = instance.module.memory_map
        address = self.rng.choice([layout.rw_address, layout.stack_low, 0, layout.heap_base])
        arguments: tuple[int, ...] = (address, 7, self.rng.choice([0, 1, 5000]))
        if export in ("count_down", "ask_and_count_down", "count"):
            arguments = (self.rng.choice([1, 1000, 2_000_000]),) * 2
        elif export in ("add", "ask"):
            arguments = (self.rng.randrange(1000), self.rng.randrange(1000))
        async with asyncio.timeout(self.rng.choice([0.001, 0.005, 0.02])):
            result = await instance.call(export, *arguments)
        if export == "add" and result != sum(arguments):
            raise ChaosError(f"{arguments} added are {result}")

    async def run_and_interrupt(self, guest: Guest, instance: vm.Instance) -> None:
        instance.prepare_call("spin")
        for _ in range(self.rng.randrange(1, 4)):
            guest.running = running = asyncio.create_task(instance.run())
            try:
                await asyncio.sleep(self.rng.choice([0, 0.001]))
                if self.rng.random() < 0.3:
                    running.cancel()
                else:
                    await instance.interrupt()
            finally:
                running.cancel()
                await asyncio.wait([running])
            if running.cancelled() or isinstance(running.result(), vm.Interrupted):
                continue  # where it stopped
            return

    # --- ends ---

    async def attempt(self, guest: Guest, work: Coroutine[Any, Any, T]) -> T | None:
        """Awaits in a task, which may be cancelled; the result, or None after an exception that had a cause."""
        before = guest.may_be_cancelled
        guest.may_be_cancelled = False
        guest.task = task = asyncio.create_task(work)
        try:
            await asyncio.wait([task])
        finally:
            if not task.done():  # the deadline
                task.cancel()
            guest.task = None
        if guest.running is not None:
            await asyncio.wait([guest.running])
            if not guest.running.cancelled():
                guest.running.exception()  # seen
            guest.running = None
        if task.cancelled():
            self.must("cancelled", guest.may_be_cancelled)
            return None
        error = task.exception()
        if error is None:
            self.ends["done"] += 1
            return task.result()
        guest.may_be_cancelled |= before
        self.judge(guest, error)
        return None

    def judge(self, guest: Guest, error: BaseException) -> None:
        """Counts it, if it has a cause."""
        name = type(error).__name__
        nursery_died = time.monotonic() - self.disaster < RECOVERY
        if isinstance(error, HostError | TimeoutError | vm.TrapError | vm.LimitError | vm.OutOfGasError):
            self.must(name, True)
        elif isinstance(error, vm.SandboxDiedError):
            self.must(name, self.closing or error.pid in self.killed or nursery_died, error)
        elif isinstance(error, vm.SandboxError):
            self.must(name, self.closing or nursery_died, error)
        elif isinstance(error, vm.InstanceStateError):
            self.must(name, self.closing or guest.may_close, error)
        else:
            self.must(name, False, error)

    def must(self, name: str, has_cause: bool, error: BaseException | None = None) -> None:
        if not has_cause:
            raise ChaosError(f"{name} without a cause: {error!r}") from error
        self.ends[name] += 1


async def episode(seed: str, runs: int) -> Episode:
    """An engine with so many runs. Raises `ChaosError`, also for what it left behind."""
    complaints: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: complaints.append(str(context)))
    before = census()
    others = asyncio.all_tasks()
    found = Episode(random.Random(seed), runs)
    try:
        await found.live()
    except* ChaosError as group:
        raise ChaosError(f"engine {seed}: {group.exceptions[0]}") from group
    found.guests.clear()
    found.modules.clear()
    await loop.shutdown_default_executor()  # its threads hold what they did last
    left = asyncio.all_tasks() - others
    if left:
        raise ChaosError(f"engine {seed}: tasks left: {left}")
    leaked = census() - before
    if leaked:
        raise ChaosError(f"engine {seed}: left behind: {leaked}")
    if complaints:
        raise ChaosError(f"engine {seed}: the loop complained: {complaints}")
    return found


def run(runs: int, seed: int, report: Callable[[str], None] = lambda text: None) -> tuple[Counter[str], Counter[str]]:
    """So many runs, by turns on both event loops; how awaits ended, and what harm was done."""
    ends: Counter[str] = Counter()
    harm: Counter[str] = Counter()
    runners: list[Callable[[Awaitable[Episode]], Episode]] = [asyncio.run, aioring.run]  # type: ignore[list-item]
    done = engines = 0
    started = time.monotonic()
    while done < runs:
        count = min(IN_ENGINE, runs - done)
        found = runners[engines % 2](episode(f"{seed}.{engines}", count))
        done += count - max(found.left, 0)
        engines += 1
        ends += found.ends
        harm += found.harm
        report(f"{done} runs in {engines} engines, {time.monotonic() - started:.0f} s")
    return ends, harm


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    def report(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{text}", end="", file=sys.stderr, flush=True)

    logging.getLogger("vm").setLevel(logging.ERROR)  # engines without processes warn that they are
    started = time.monotonic()
    ends, harm = run(options.runs, options.seed, report)
    print(f"\n{options.runs} runs, seed {options.seed}, {time.monotonic() - started:.0f} s")
    for title, counts in (("harm", harm), ("ends of awaits", ends)):
        print(f"{title}: " + ", ".join(f"{count} {name}" for name, count in counts.most_common()))


if __name__ == "__main__":
    main()
