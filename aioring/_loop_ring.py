# SPDX-License-Identifier: MIT
"""The ring that drives an `EventLoop`."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from threading import get_ident, get_native_id
from typing import TYPE_CHECKING

from aioring._errors import RingOwnerError, RingStateError, RingUnavailableError
from aioring._features import Feature
from aioring._operations import Stop
from aioring._ring import Ring, State
from aioring._uring import ffi, lib

if TYPE_CHECKING:
    from aioring._event_loop import EventLoop

# Sizes of the queues of a driving ring: an iteration's submissions and completions, beyond which it costs an extra
# system call.
_ENTRIES = 512
_COMPLETIONS = 4096
# How long a loop that is closed in another thread waits for its own thread, already joined, to be gone. Seconds.
_PARTING = 1.0


class LoopRing(Ring):
    """The ring that drives an `EventLoop`, by which it is opened and closed.

    The loop's native half (`aioring._loop.Core`) submits, waits and dispatches completions, to the operations of this
    ring and to its own. It belongs to the thread that runs the loop: no other can submit or reap (SINGLE_ISSUER |
    DEFER_TASKRUN, Linux 6.1; kept to on older kernels too).
    """

    __slots__ = ("_core",)

    _core: EventLoop

    def __init__(self, loop: EventLoop) -> None:
        self._prepare_fields()
        self._open(_ENTRIES, _COMPLETIONS, driving=True)
        if Feature.RSRC_TAGS not in self.features:  # came with multishot polls, which transports wait in
            super()._free()
            raise RingUnavailableError(
                errno.EOPNOTSUPP, f"aioring.EventLoop needs Linux 5.13, this is {os.uname().release}"
            )
        self._core = self._home = self._loop = loop
        self._flush_due = True  # always: every iteration of the loop submits
        self._attach()

    def _attach(self) -> None:
        self._core._attach(int(ffi.cast("uintptr_t", self._handle)), self._in_flight)

    @property
    def in_flight(self) -> int:
        """The number of operations that were made and are not done, reads and writes of `aioring.fs` among them."""
        return len(self._in_flight) + self._core._transfers()

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
        self._core._driven_by(get_ident())

    def _leave(self) -> None:
        """The loop stops running in this thread."""
        self._core._driven_by(0)
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
        self._attach()
        lib.uring_close(old)

    def _make_way(self, error: int) -> None:
        if error in (-errno.EBADFD, -errno.EEXIST):
            # More operations than fit, before the loop ever ran, or a file given up where it does not run any more.
            self._adopt()
            self._leave()
        else:
            super()._make_way(error)

    def _poll(self, timeout: int) -> int:
        """As every ring's, and for what else the loop waits for."""
        self._core._reap(timeout)
        return 0

    # ---- closing -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Refused while the loop is open: the ring is closed by it."""
        if self._state is State.OPEN:
            raise RingStateError("the ring of an aioring.EventLoop is closed by the loop's close()")

    def _close_with_loop(self) -> None:
        super().close()

    def _drain(self) -> None:
        if self._thread == get_native_id():
            self._core._quiesce()
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
                self._loop = self._core
                raise RingOwnerError(
                    f"{self.in_flight} operations are in flight in thread {thread}, which lives: close the loop there"
                )
            time.sleep(0.001)

    def _free(self) -> None:
        self._core._detach()
        super()._free()

    def _abandon(self) -> None:
        self._core._detach()
        super()._abandon()

    def __del__(self, _warn: Callable[..., None] | None = None) -> None:
        # The loop's own __del__ complains.
        if getattr(self, "_state", None) is State.OPEN:
            self._close_with_loop()
