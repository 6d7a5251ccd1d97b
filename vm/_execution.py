# SPDX-License-Identifier: MIT
"""The runs of one guest: its turn on a processor, the wait for its stop, and what stops it before that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic_ns
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from vm._errors import InstanceStateError, LimitError
from vm._sandbox import lib

if TYPE_CHECKING:
    from vm._engine import Engine
    from vm._limits import Limits
    from vm._machine import Machine

_LOG = logging.getLogger("vm")

P = ParamSpec("P")
T = TypeVar("T")

#: Program counters of which it is remembered how long the guest ran from there.
_REMEMBERED: Final = 256

#: A guest that was told to stop is looked at every so many seconds. It is killed if it took more processor time since
#: than stopping can take (nanoseconds), or after so many looks: its process is stopped, or gets no processor.
_PATIENCE: Final = 0.1
_STOPPING_NS: Final = 20_000_000
_LOOKS: Final = 10

#: A guest's processor time is looked at no more often than this (seconds).
_CPU_RESOLUTION: Final = 0.001


class Execution:
    """Runs one machine's guest, one run at a time."""

    __slots__ = (
        "_awaited",
        "_cpu_before",
        "_cpu_used",
        "_durations",
        "_engine",
        "_interrupted",
        "_limits",
        "_machine",
        "_paged",
        "_patience",
        "_place",
        "_stopped",
        "held",
        "running",
    )

    def __init__(
        self, engine: Engine, machine: Machine, limits: Limits, *, paged: bool, held: int | None = None
    ) -> None:
        self._engine = engine
        self._paged = paged
        self._machine: Machine | None = machine  # None: closed
        self._limits = limits
        #: Whether the guest runs, or is about to.
        self.running = False
        #: What the guest stopped with when nobody waited for it any more; the next run gives it.
        self.held = held
        # of the present run: whether it was told to stop, its place in the queue, whether the machine is waited for
        self._interrupted = False
        self._place: asyncio.Future[bool] | None = None
        self._awaited = False
        self._patience: asyncio.TimerHandle | None = None
        # done at the end of the present run, for those who told it to stop
        self._stopped: asyncio.Future[bool] | None = None
        # nanoseconds that the guest ran when it last went on at a pc, for the few it goes on at
        self._durations: dict[int, int] = {}
        self._cpu_used = 0
        self._cpu_before = 0  # the present wait
        engine._executions.add(self)

    @property
    def machine(self) -> Machine | None:
        """What it runs; None once it is closed."""
        return self._machine

    @property
    def state(self) -> str:
        """For people."""
        return "running" if self._awaited else "waiting" if self.running else "stopped"

    def faults_served(self) -> int:
        """Page faults that pagers served, with no Python in between."""
        machine = self._machine
        if not self._paged or machine is None:
            return 0
        return lib.sandbox_memory_faults_served(machine.memories[0])

    async def within(self, wall: float, work: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs and awaits for at most `wall` seconds. The guest is stopped as it is when its task is cancelled.

        Raises `LimitError`.
        """
        scope = asyncio.timeout(wall)
        try:
            async with scope:
                return await work(*args, **kwargs)
        except TimeoutError:
            if not scope.expired():
                raise
            raise LimitError("wall", wall) from None

    def forget(self) -> None:
        """The guest is to go on somewhere else: what it stopped with unseen means nothing any more."""
        self.held = None

    async def run(self) -> int:
        """Lets the guest go on until it stops; the event.

        Cancelled, it stops the guest first, at most some milliseconds later, and kills it if that fails. Raises
        `InstanceStateError` if there is nothing to run, `LimitError` for processor time.
        """
        machine, engine = self._machine, self._engine
        if machine is None:
            raise InstanceStateError("the instance is closed")
        if self.held is not None:
            event, self.held = self.held, None
            return event
        if not machine.dead and not machine.guest.has_next_pc:
            raise InstanceStateError("there is nothing to run: call prepare_call or set next_program_counter")
        self.running = True
        event = lib.SANDBOX_BUSY
        try:
            started = monotonic_ns()
            if started - engine._yielded > engine.YIELD_NS:
                await engine._yield()
            while True:
                if self._limits.cpu is not None and self._cpu_used >= self._limits.cpu * 1e9:
                    raise LimitError("cpu", self._limits.cpu)
                admitted = not self._interrupted and (engine._admission.try_enter() or await self._queue())
                event = lib.SANDBOX_INTERRUPTED
                if admitted:
                    try:
                        if not self._interrupted:
                            pc = machine.guest.next_pc
                            if self._limits.cpu is None:
                                event = self._resume(machine, pc)
                                if event == lib.SANDBOX_BUSY:
                                    event = await self._wait(machine, pc)
                            else:
                                event = await self._run_within(machine, pc, self._limits.cpu)
                    except asyncio.CancelledError:
                        raise
                    except BaseException:
                        machine.kill()
                        raise
                    finally:
                        engine._admission.leave()
                # one that only had its turn goes on
                if event != lib.SANDBOX_INTERRUPTED or self._interrupted:
                    engine._counters.run_time.add(monotonic_ns() - started)
                    return event
        finally:
            self.running = False
            if self._interrupted:
                self._end_interruption(event)

    async def _queue(self) -> bool:
        self._place = place = self._engine._admission.queue()
        queued = monotonic_ns()
        try:
            return await self._engine._admission.wait(place)
        finally:
            self._place = None
            self._engine._counters.queue_time.add(monotonic_ns() - queued)

    def _resume(self, machine: Machine, pc: int) -> int:
        """Has the guest on a processor, which it was admitted to.

        It is polled, and then polls its host, if a processor is left for the event loop while all these guests run;
        those in this process need no other. What took long the last time is not worth that; what just missed the limit
        is.
        """
        engine = self._engine
        if engine._admission.running <= engine._most_polled and self._durations.get(pc, 0) < 2 * engine._spin_ns:
            return machine.resume(engine._spin_ns, engine._worker_spin)
        return machine.resume(0, 0)

    async def _run_within(self, machine: Machine, pc: int, cpu: float) -> int:
        """The same, for no longer than its processor time (seconds) lasts."""
        before = machine.cpu_ns()
        try:
            event = self._resume(machine, pc)
            if event == lib.SANDBOX_BUSY:
                left = max(cpu - self._cpu_used / 1e9, _CPU_RESOLUTION)
                # once it may have used all that is left: how much it was is known when it has stopped
                timer = asyncio.get_running_loop().call_later(left, self.preempt, 0)
                try:
                    event = await self._wait(machine, pc)
                finally:
                    timer.cancel()
        finally:
            self._cpu_used += machine.cpu_ns() - before
        return event

    async def _wait(self, machine: Machine, pc: int) -> int:
        engine = self._engine
        started = monotonic_ns()
        self._cpu_before = machine.cpu_ns()
        engine._admission.runs(self)
        self._awaited = True
        try:
            event = await machine.wait()
        except asyncio.CancelledError:
            self.held = await self._park(machine)
            raise
        finally:
            self._awaited = False
            engine._admission.stopped(self)
            engine._yielded = monotonic_ns()
        if event != lib.SANDBOX_INTERRUPTED:
            if len(self._durations) >= _REMEMBERED:
                self._durations.clear()
            self._durations[pc] = engine._yielded - started
        return event

    # --- stopping it ---

    async def _park(self, machine: Machine) -> int | None:
        """Has the guest stopped, or killed, whatever happens meanwhile; what it stopped with, if by itself."""
        self._stop(machine)
        waiting = asyncio.ensure_future(machine.wait())
        while not waiting.done():
            try:
                await asyncio.wait([waiting])
            except asyncio.CancelledError:  # the first one goes on in a moment
                continue
        self._end_patience()
        event = waiting.result()
        return None if event in (lib.SANDBOX_INTERRUPTED, lib.SANDBOX_DIED) else event

    def _stop(self, machine: Machine) -> None:
        """Tells a guest that runs to stop; kills it if it does not."""
        if not machine.interrupt():
            machine.kill()
        elif self._patience is None:
            self._look_later(machine, machine.cpu_ns() + _STOPPING_NS, _LOOKS)

    def _look_later(self, machine: Machine, most: int, looks: int) -> None:
        self._patience = asyncio.get_running_loop().call_later(_PATIENCE, self._look, machine, most, looks - 1)

    def _look(self, machine: Machine, most: int, looks: int) -> None:
        if looks and machine.cpu_ns() < most:
            self._look_later(machine, most, looks)
        else:
            _LOG.warning("the guest in process %d did not stop when it was told to, and is killed", machine.pid)
            self._engine._counters.offended += 1
            machine.kill()

    def _end_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    async def interrupt(self) -> bool:
        """Stops the present run and waits for that; whether it stopped because of this."""
        if not self.running:
            return False
        self._interrupted = True
        if self._stopped is None:
            self._stopped = asyncio.get_running_loop().create_future()
        if self._place is not None and not self._place.done():
            self._place.set_result(False)
        elif self._awaited and self._machine is not None:
            self._stop(self._machine)
        stopped = self._stopped
        await asyncio.wait([stopped])
        return stopped.result()

    def _end_interruption(self, event: int) -> None:
        self._interrupted = False
        self._end_patience()
        stopped, self._stopped = self._stopped, None
        if stopped is not None:
            stopped.set_result(event == lib.SANDBOX_INTERRUPTED)

    def close(self) -> None:
        """The machine is given back: the present run, if there is one, waits for its end and nothing else."""
        self._engine._counters.page_faults += self.faults_served()
        self._engine._executions.discard(self)
        self._machine = None
        if self._place is not None and not self._place.done():
            self._interrupted = True
            self._place.set_result(False)

    def preempt(self, least: int) -> None:
        """Has the guest stopped where it is, to go on later; not if it took less processor time than that."""
        machine = self._machine
        if self._awaited and machine is not None and machine.cpu_ns() - self._cpu_before >= least:
            machine.interrupt()
