# SPDX-License-Identifier: MIT
"""Work in threads of the event loop's executor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
    """As `asyncio.to_thread`, with a thread that keeps neither arguments nor result.

    A thread of the executor otherwise holds on to both until it gets its next turn, some time after its caller went on:
    what the caller lets go of then would not be freed.
    """
    held: list[Callable[[], T]] = [lambda: function(*args, **kwargs)]
    made: list[T] = []

    def call() -> None:
        made.append(held.pop()())

    async def wait() -> T:
        await asyncio.to_thread(call)
        return made.pop()

    return wait()
