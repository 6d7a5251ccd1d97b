# SPDX-License-Identifier: MIT
"""Whose turn it is: so many guests run at once, the others wait in the order they came.

Nobody waits for ever, whatever the guests do: while others wait, one that has run for a time slice is stopped and goes
to the end of the queue. Short runs never come near that, and a guest in a host call does not count as running.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import Final, Protocol

#: Nanoseconds of processor time that a guest may take while others wait. Not of the clock on the wall: on a busy
#: machine the guest would be stopped before it got on.
TIME_SLICE: Final = 10_000_000


class Preemptible(Protocol):
    """One that runs."""

    def preempt(self, least: int) -> None:
        """If it had at least so many nanoseconds of processor time, it should stop soon, leave and enter again."""


class Admission:
    """At most `limit` run at once; 0: any number. Used on the event loop's thread only."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        #: How many run.
        self.running = 0
        self._queue: OrderedDict[asyncio.Future[bool], None] = OrderedDict()
        # those that run for longer, and since when (nanoseconds); the longest first
        self._since: dict[Preemptible, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

    def try_enter(self) -> bool:
        """Whether it may run now, which `leave` ends; otherwise it has to `queue`."""
        if self._limit and (self.running >= self._limit or self._queue):
            return False
        self.running += 1
        return True

    def queue(self) -> asyncio.Future[bool]:
        """To be awaited by `wait`; a result of False, set by anybody, calls it off."""
        place = asyncio.get_running_loop().create_future()
        self._queue[place] = None
        if self._timer is None:
            self._set_timer()
        return place

    async def wait(self, place: asyncio.Future[bool]) -> bool:
        """Waits in the queue: True when it is its turn, which `leave` ends; False if it was called off."""
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.result():
                self.leave()  # it was its turn at the same moment
            raise
        finally:
            self._queue.pop(place, None)

    def leave(self) -> None:
        """One that ran stopped: the next in the queue gets its place."""
        while self._queue:
            place, _ = self._queue.popitem(last=False)
            if not place.done():
                place.set_result(True)
                return
        self.running -= 1

    # --- time slices ---

    def runs(self, guest: Preemptible) -> None:
        """It did not stop at once: it is to be preempted when it has run for a time slice and others wait."""
        self._since[guest] = time.monotonic_ns()

    def stopped(self, guest: Preemptible) -> None:
        """The end of `runs`."""
        self._since.pop(guest, None)

    def _set_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TIME_SLICE / 1e9, self._preempt)

    def _preempt(self) -> None:
        self._timer = None
        if not self._queue:
            return
        self._set_timer()
        latest = time.monotonic_ns() - TIME_SLICE // 2
        for guest, since in list(self._since.items())[: len(self._queue)]:
            if since > latest:
                break
            guest.preempt(TIME_SLICE // 2)

    def close(self) -> None:
        """Nobody is preempted any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
