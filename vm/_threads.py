# SPDX-License-Identifier: MIT
"""Work in threads of whoever runs the present task: the executor of an asyncio loop, or trio."""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def under_trio() -> bool:
    """Whether the caller is a task of trio, which then has been imported."""
    lowlevel: Any = sys.modules.get("trio.lowlevel")
    return lowlevel is not None and bool(lowlevel.in_trio_task())


async def to_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `asyncio.to_thread`, in tasks of trio too. Cancelled, it leaves the thread alone."""
    if under_trio():
        return await _in_trio_thread(function, True, *args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)


async def in_trio_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """For tasks of trio alone. Once the thread has begun nothing cancels it."""
    return await _in_trio_thread(function, False, *args, **kwargs)


async def _in_trio_thread(function: Callable[P, T], abandon: bool, *args: P.args, **kwargs: P.kwargs) -> T:
    import trio

    return await trio.to_thread.run_sync(functools.partial(function, *args, **kwargs), abandon_on_cancel=abandon)


async def in_thread_until(function: Callable[[], T], stop: threading.Event | None = None) -> T:
    """Calls `function` in a thread and awaits its end, also when that is cancelled: then `stop` is set, and whoever
    cancelled gets their CancelledError afterwards. In trio nothing cancels it once it has begun."""
    if under_trio():
        return await in_trio_thread(function)
    task = asyncio.create_task(in_thread(function))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            if stop is not None:
                stop.set()
            cancelled = error
    if cancelled is not None:
        task.exception()  # seen
        raise cancelled
    return task.result()


def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
    """As `to_thread`, with a thread that keeps neither arguments nor result.

    A thread of the executor otherwise holds on to both until it gets its next turn, some time after its caller went on:
    what the caller lets go of then would not be freed.
    """
    held: list[Callable[[], T]] = [lambda: function(*args, **kwargs)]
    made: list[T] = []

    def call() -> None:
        made.append(held.pop()())

    async def wait() -> T:
        await to_thread(call)
        return made.pop()

    return wait()
