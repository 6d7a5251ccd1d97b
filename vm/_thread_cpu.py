# SPDX-License-Identifier: MIT
"""The processor time of a guest that runs in this process, in one thread after another."""

from __future__ import annotations

import contextlib
import threading
import time


class ThreadCpu:
    """Adds up what passes in its ``with`` block, in one thread at a time; read by any."""

    __slots__ = ("_clock", "_used")

    def __init__(self) -> None:
        self._used = 0
        # of the thread that it runs in, and what it showed at the start (nanoseconds)
        self._clock: tuple[int, int] | None = None

    def __enter__(self) -> None:
        self._clock = time.pthread_getcpuclockid(threading.get_ident()), time.thread_time_ns()

    def __exit__(self, *error: object) -> None:
        assert self._clock is not None
        self._used += time.thread_time_ns() - self._clock[1]
        self._clock = None

    def ns(self) -> int:
        """Nanoseconds so far."""
        used, clock = self._used, self._clock
        if clock is not None:
            with contextlib.suppress(OSError):  # the thread has just ended
                return used + time.clock_gettime_ns(clock[0]) - clock[1]
        return used
