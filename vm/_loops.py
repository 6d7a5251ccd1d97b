# SPDX-License-Identifier: MIT
"""Event loops for those who do not care which: aioring's, or asyncio's where there is no io_uring."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import aioring

T = TypeVar("T")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A new loop. Raises OSError if there are too many open files."""
    try:
        return aioring.new_event_loop()
    except aioring.RingUnavailableError:
        return asyncio.new_event_loop()


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in such a loop."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)
