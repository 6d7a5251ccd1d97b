# SPDX-License-Identifier: MIT
"""The loop that files live in, and the way around what its kernel lacks."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from aioring._errors import RingStateError
from aioring._event_loop import EventLoop

P = ParamSpec("P")
T = TypeVar("T")


def running_loop() -> EventLoop:
    """The `EventLoop` that runs here.

    Raises:
        RingStateError: another kind of loop does, or none.
    """
    loop: Any = asyncio._get_running_loop()
    if isinstance(loop, EventLoop):
        return loop
    what = "no event loop runs" if loop is None else f"{type(loop).__name__} runs"
    raise RingStateError(
        f"aioring.fs needs an aioring.EventLoop, and {what} here: use aioring.run(), or "
        "asyncio.Runner(loop_factory=aioring.new_event_loop)"
    )


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what io_uring has no operation for, in a thread of the loop's executor."""
    return await running_loop().run_in_executor(None, functools.partial(function, *args, **kwargs))
