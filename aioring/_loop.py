# SPDX-License-Identifier: MIT
"""`EventLoop`: asyncio's event loop with a ring of its own, in which it waits."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from threading import get_ident, get_native_id
from typing import Any, TypeVar

from aioring._errors import RingOwnerError, RingStateError
from aioring._operations import Stop
from aioring._ring import COMPLETION, Ring, State, completions_in
from aioring._selector import EVENTS, RingSelector
from aioring._uring import lib

T = TypeVar("T")

# Sizes of the queues of a driving ring: an iteration's submissions and completions, beyond which it costs an extra
# system call.
_ENTRIES = 512
_COMPLETIONS = 4096
# How long a loop that is closed in another thread waits for its own thread, already joined, to be gone. Seconds.
_PARTING = 1.0


class LoopRing(Ring):
    """The ring that drives an `EventLoop`, by which it is opened and closed.

    It belongs to the thread that runs the loop: no other can submit or reap (SINGLE_ISSUER | DEFER_TASKRUN, Linux 6.1;
    kept to on older kernels too).
    """

    __slots__ = ("_running_in", "_selector")

    _running_in: int | None  # get_ident() of the thread that runs the loop now

    def __init__(self, loop: EventLoop) -> None:
        self._prepare_fields()
        self._open(_ENTRIES, _COMPLETIONS, driving=True)
        self._home = self._loop = loop
        self._running_in = None
        self._flush_due = True  # always: every iteration ends in the selector, which submits
        self._selector = RingSelector(self)

    # ---- driving -----------------------------------------------------------------------------------------------

    def _adopt(self) -> None:
        """The loop starts to run in this thread."""
        self._check_open()
        thread = get_native_id()
        if self._thread not in (None, thread):
            self._move()
        error = lib.uring_adopt(self._handle)
        if error:
            raise OSError(-error, os.strerror(-error))
        self._thread = thread
        self._running_in = get_ident()

    def _leave(self) -> None:
        """The loop stops running in this thread."""
        self._running_in = None
        if self._state is State.OPEN:
            lib.uring_leave(self._handle)

    def _move(self) -> None:
        """Follow the loop into another thread with a new ring, as the old one cannot."""
        if self.in_flight:
            raise RingOwnerError(
                f"{self.in_flight} operations are in flight in thread {self._thread}, where this loop ran before: "
                "await or cancel them there, or run the loop there"
            )
        old = self._handle
        self._open(_ENTRIES, _COMPLETIONS, driving=True)
        lib.uring_close(old)
        self._selector.watch_again()

    def _make_way(self, error: int) -> None:
        if error in (-errno.EBADFD, -errno.EEXIST):
            # More operations than fit, before the loop ever ran, or a file given up where it does not run any more.
            self._adopt()
            self._leave()
        else:
            super()._make_way(error)

    # ---- for the selector --------------------------------------------------------------------------------------

    def _poll(self, timeout: int) -> int:
        """As every ring's, and for watched files. The loop spends its time here: no call is made that can be spared."""
        handle = self._handle
        if handle is None:
            self._check_open()
        ended = lib.uring_wait(handle, timeout, self._completions, self._capacity)
        if ended > 0:
            in_flight = self._in_flight
            selector = self._selector
            for number, code, _ in completions_in(self._view[: ended * COMPLETION.size]):
                if number < 0:
                    key = selector.keys.get(~number)
                    if key is not None:
                        selector.ready.append((key, EVENTS[code]))
                elif number in in_flight:
                    in_flight[number]._complete(code)
                    del in_flight[number]
            lib.uring_advance(handle)
        elif ended < 0:
            raise OSError(-ended, os.strerror(-ended))
        return ended

    def _check_thread(self) -> None:
        if self._running_in is not None and self._running_in != get_ident():
            raise RingOwnerError("readers and writers are added and removed in the thread that runs the loop")

    def _watch(self, fd: int, mask: int) -> None:
        self._check_open()
        self._check_thread()
        self._prepare(lib.uring_watch, fd, mask)

    def _unwatch(self, fd: int) -> None:
        if self._state is State.OPEN:
            self._check_thread()
            self._prepare(lib.uring_unwatch, fd)

    # ---- closing -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Refused while the loop is open: the ring is closed by it."""
        if self._state is State.OPEN:
            raise RingStateError("the ring of an aioring.EventLoop is closed by the loop's close()")

    def _close_with_loop(self) -> None:
        super().close()

    def _drain(self) -> None:
        if self._thread == get_native_id():
            super()._drain()
            return
        # From here the kernel takes no cancellation. If the loop never ran nothing was submitted, and when its thread
        # has ended the kernel cancelled all that it had submitted.
        if self._thread is not None and self.in_flight:
            self._await_end_of(self._thread)
        for operation in self._in_flight.values():
            operation._stop = operation._stop or Stop.CLOSED
            operation._complete(-errno.ECANCELED)
        self._in_flight.clear()

    def _await_end_of(self, thread: int) -> None:
        # Thread.join() returns a little before the kernel's thread is gone.
        deadline = time.monotonic() + _PARTING
        while Path(f"/proc/self/task/{thread}").exists():
            if time.monotonic() > deadline:
                self._state = State.OPEN
                self._loop = self._home  # type: ignore[assignment]  # a LoopRing has one
                raise RingOwnerError(
                    f"{self.in_flight} operations are in flight in thread {thread}, which lives: close the loop there"
                )
            time.sleep(0.001)

    def __del__(self, _warn: Callable[..., None] | None = None) -> None:
        # The loop's own __del__ complains.
        if getattr(self, "_state", None) is State.OPEN:
            self._close_with_loop()


class EventLoop(asyncio.SelectorEventLoop):
    """asyncio's event loop, waiting in io_uring: submitting operations, waiting and reaping are one system call.

    Everything of `asyncio.SelectorEventLoop` works, with the `Operation`s of `loop.ring` beside it. The loop may be
    made in one thread and run in another.

    Raises:
        RingUnavailableError: io_uring is missing or blocked; the message says why, and the remedy.
    """

    # BaseEventLoop.__del__ asks, also if there was no ring and its __init__ was never reached.
    _closed = True

    def __init__(self) -> None:
        self._ring = LoopRing(self)
        try:
            super().__init__(self._ring._selector)
        except BaseException:
            self._ring._close_with_loop()
            self._closed = True  # half made: nothing is left for __del__ to warn of
            raise

    @property
    def ring(self) -> Ring:
        """The ring that drives this loop; usable while the loop is open, in its thread."""
        return self._ring

    def run_forever(self) -> None:
        """Run until `stop()`. The ring follows into the calling thread."""
        # As BaseEventLoop does, but before the ring is touched (and in Python 3.13.0 a second run breaks the first).
        self._check_closed()  # type: ignore[attr-defined]
        self._check_running()  # type: ignore[attr-defined]
        self._ring._adopt()
        try:
            super().run_forever()
        finally:
            self._ring._leave()

    def close(self) -> None:
        """Close the loop and its ring. What is in flight is cancelled; its end is waited for.

        Raises:
            RingOwnerError: operations are in flight in another thread, which is alive.
        """
        if not self.is_closed() and not self.is_running():
            self._ring._close_with_loop()
        super().close()


def new_event_loop() -> EventLoop:
    """A new `EventLoop`; the `loop_factory` of `asyncio.Runner`."""
    return EventLoop()


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """`asyncio.run()` in an `EventLoop`."""
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("aioring.run() cannot be called from a running event loop")
    with asyncio.Runner(debug=debug, loop_factory=new_event_loop) as runner:
        return runner.run(main)


@contextlib.asynccontextmanager
async def open_ring() -> AsyncIterator[Ring]:
    """The ring for the running loop: an `EventLoop`'s own, or else a new guest `Ring`, closed on leaving.

    Raises:
        RingUnavailableError: io_uring is missing or blocked; the message says why, and the remedy.
    """
    loop = asyncio.get_running_loop()
    if isinstance(loop, EventLoop):
        yield loop.ring
    else:
        async with Ring() as ring:
            yield ring
