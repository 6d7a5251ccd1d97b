# SPDX-License-Identifier: MIT
"""From tasks of trio to an event loop of asyncio that runs in a thread beside them, and back."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import outcome
import trio

from vm._errors import InstanceStateError, LimitError
from vm._execution import Execution
from vm._loops import new_event_loop

if TYPE_CHECKING:
    import asyncio

    from vm._engine import Engine
    from vm._limits import Limits
    from vm._machine import Machine

P = ParamSpec("P")
T = TypeVar("T")


class Bridge:
    """The loop and its thread. Raises OSError if there are too many open files, RuntimeError if there is no thread."""

    def __init__(self) -> None:
        self._loop = new_event_loop()
        # a daemon: an engine that nobody closes must not keep the interpreter
        self._thread = threading.Thread(target=self._run, name="vm-loop", daemon=True)
        self._thread.start()
        #: Whether it was left.
        self.closed = False

    def _run(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def call(self, function: Callable[[], object]) -> None:
        """Has the loop call it, after what it was given before."""
        self._loop.call_soon_threadsafe(function)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work` as a task of the loop, for the task of trio that awaits this.

        If that is cancelled the other one is too, and it is waited for: a result or an error that came first stands.
        """
        if self.closed:
            work.close()
            raise InstanceStateError("the engine is closed")
        token, waiting = trio.lowlevel.current_trio_token(), trio.lowlevel.current_task()
        loop = self._loop
        tasks: list[asyncio.Task[T]] = []
        cancellations: list[Callable[[], Any]] = []

        def start() -> None:
            task = loop.create_task(work)
            tasks.append(task)
            task.add_done_callback(tell)

        def tell(task: asyncio.Task[T]) -> None:
            with contextlib.suppress(trio.RunFinishedError):  # trio crashed: nobody waits
                token.run_sync_soon(finish, task)

        def finish(task: asyncio.Task[T]) -> None:
            result: outcome.Outcome[T]
            if task.cancelled():
                result = outcome.capture(cancellations[0] if cancellations else _ended)
            else:
                error = task.exception()
                result = outcome.Value(task.result()) if error is None else outcome.Error(error)
            trio.lowlevel.reschedule(waiting, result)

        def abort(raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
            cancellations.append(raise_cancel)
            # after its first step: a task that is cancelled before does not even begin
            self.call(lambda: loop.call_soon(tasks[0].cancel))
            return trio.lowlevel.Abort.FAILED

        self.call(start)
        result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """The same, but cancelling the task of trio does not reach it."""
        with trio.CancelScope(shield=True):
            return await self.run(work)
        raise AssertionError("unreachable")  # a scope that nobody cancels

    async def aclose(self) -> None:
        """Ends loop and thread."""
        if self.closed:
            return
        await self.finish(self._end())
        self.closed = True
        self.call(self._loop.stop)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join)

    async def _end(self) -> None:
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()


def _ended() -> Any:
    raise InstanceStateError("the engine's event loop ended")


class BridgedExecution(Execution):
    """Runs a guest in the engine's loop for tasks of trio."""

    __slots__ = ("_bridge",)

    def __init__(
        self, engine: Engine, machine: Machine, limits: Limits, bridge: Bridge, *, paged: bool, held: int | None
    ) -> None:
        super().__init__(engine, machine, limits, paged=paged, held=held)
        self._bridge = bridge

    async def run(self) -> int:
        self.running = True  # from now on, not from when the loop gets to it
        try:
            return await self._bridge.run(super().run())
        finally:
            self.running = False

    async def interrupt(self) -> bool:
        return await self._bridge.run(super().interrupt())

    async def within(self, wall: float, work: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        with trio.move_on_after(wall):
            return await work(*args, **kwargs)
        raise LimitError("wall", wall)

    def close(self) -> None:
        if self._bridge.closed:
            super().close()
        else:
            self._bridge.call(super().close)
