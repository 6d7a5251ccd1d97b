# SPDX-License-Identifier: MIT
"""What waits for guests: an io_uring, or threads in futex_waitv(2) where that is not to be had (docs/waiting.md)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
import select
from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, Final, Protocol

import aioring
from aioring._features import OPERATIONS
from vm._config import WAITING, Waiting
from vm._errors import InstanceStateError, SandboxError
from vm._nursery import sandbox_error
from vm._sandbox import ffi, lib

if TYPE_CHECKING:
    from vm._sandbox import CData

_LOG = logging.getLogger("vm")

#: The environment variable that says what "auto" is.
VARIABLE: Final = "PVM_WAITING"

#: What a ring has to do.
NEEDED: Final = ("poll", "cancel", "futex_wait")

#: Changes taken at once.
_BATCH: Final = 128


class Waiter(Protocol):
    """Used in the event loop that it was made in. A wait may be cancelled, and has then let go of everything."""

    def futex_wait(self, address: int, value: int) -> Awaitable[object]:
        """Waits while the 32-bit word at `address`, which processes share, holds `value`; it may also end for nothing.

        The word stays mapped until then.
        """

    def poll(self, fd: int, mask: int) -> Awaitable[object]:
        """Waits until a file is ready; `mask` is of select.POLLIN, POLLOUT, POLLHUP.

        The file stays open until then, and is polled once at a time.
        """


class ThreadWaiter:
    """Waits without io_uring: threads for futexes (native/sandbox/waits.c), and an epoll(7) for files.

    Raises `SandboxError` where there is no futex_waitv, or no thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        result = ffi.new("sandbox_waits **")
        error = lib.sandbox_waits_open(result)
        if error < 0:
            raise _unavailable(error)
        self._owner = os.getpid()
        self._loop = loop
        self._handle: CData = ffi.gc(result[0], lib.sandbox_waits_close)
        self._tickets = ffi.new("uint32_t[]", _BATCH)
        self._waits: dict[int, asyncio.Future[None]] = {}
        self._polls: dict[int, asyncio.Future[int]] = {}
        # An epoll and not the loop's own: that cannot wait for POLLHUP alone.
        self._epoll = select.epoll()
        self._event: int = lib.sandbox_waits_event(self._handle)
        loop.add_reader(self._event, self._changed)
        loop.add_reader(self._epoll.fileno(), self._ready)

    async def futex_wait(self, address: int, value: int) -> None:
        self._check_open()
        ticket = lib.sandbox_waits_add(self._handle, ffi.cast("uint32_t *", address), value)
        if ticket < 0:
            raise _unavailable(ticket)
        self._waits[ticket] = future = self._loop.create_future()
        try:
            await future
        finally:
            if self._waits.get(ticket) is future:  # else it changed, and the ticket is spent or somebody else's
                del self._waits[ticket]
                lib.sandbox_waits_remove(self._handle, ticket)

    def _check_open(self) -> None:
        if not self._handle:
            raise _closed()

    def _changed(self) -> None:
        count = lib.sandbox_waits_take(self._handle, self._tickets, _BATCH)
        for ticket in self._tickets[0 : max(count, 0)]:
            future = self._waits.pop(ticket)
            if not future.done():
                future.set_result(None)
        if count < 0:
            for future in self._waits.values():
                if not future.done():
                    future.set_exception(_unavailable(count))

    async def poll(self, fd: int, mask: int) -> int:
        self._check_open()
        if fd in self._polls:
            raise ValueError(f"file {fd} is being polled already")
        self._epoll.register(fd, mask | select.EPOLLONESHOT)
        future: asyncio.Future[int] = self._loop.create_future()
        self._polls[fd] = future
        try:
            return await future
        finally:
            del self._polls[fd]
            if not self._epoll.closed and self._owner == os.getpid():  # as in `close`
                self._epoll.unregister(fd)

    def _ready(self) -> None:
        for fd, events in self._epoll.poll(0):
            future = self._polls.get(fd)
            if future is not None and not future.done():
                future.set_result(events)

    @property
    def threads(self) -> int:
        """How many there are: one for up to 127 words."""
        return int(lib.sandbox_waits_threads(self._handle)) if self._handle else 0

    def close(self) -> None:
        """Ends the threads. May be called again.

        Waits for futexes end as if woken: what they wait for is dead by now, its wake may just not have come through.
        Polls raise `InstanceStateError`.
        """
        if not self._handle:
            return
        if self._owner == os.getpid():  # a forked child has the same files in its loop's epoll
            self._loop.remove_reader(self._event)
            self._loop.remove_reader(self._epoll.fileno())
        for wait in self._waits.values():
            if not wait.done():
                wait.set_result(None)
        self._waits.clear()
        for poll in self._polls.values():
            if not poll.done():
                poll.set_exception(_closed())
        handle, self._handle = self._handle, ffi.NULL
        ffi.release(handle)
        self._epoll.close()


def _closed() -> InstanceStateError:
    return InstanceStateError("the engine is closed")


def _unavailable(error: int) -> SandboxError:
    what = "waiting for guests in a thread (futex_waitv)"
    if error in (-errno.ENOSYS, -errno.EPERM):  # EPERM: a seccomp filter that is older than the call
        remedy = "use Linux 5.16 or newer, or allow futex_waitv in the seccomp filter around this process"
        return SandboxError(what, errno=-error, remedy=remedy)
    return sandbox_error(error, what)


@contextlib.asynccontextmanager
async def open_waiter(waiting: Waiting) -> AsyncIterator[Waiter]:
    """The waiter for the running loop, closed on leaving.

    "auto" is what the environment variable PVM_WAITING says, or else an io_uring where there is one that waits for
    futexes (Linux 6.7) and threads elsewhere, which is logged once. Guests are kept in as well with either.

    Raises `aioring.RingUnavailableError` or `aioring.UnsupportedOperationError` if it has to be an io_uring,
    `SandboxError` if there is none and no threads either, ValueError for a PVM_WAITING that says something else.
    """
    if waiting == "auto":
        waiting = waiting_from_environment()
    async with contextlib.AsyncExitStack() as stack:
        waiter: Waiter
        if waiting == "threads":
            waiter = stack.enter_context(contextlib.closing(ThreadWaiter(asyncio.get_running_loop())))
        else:
            try:
                waiter = await _enter_ring(stack)
            except (aioring.RingUnavailableError, aioring.UnsupportedOperationError) as error:
                if waiting == "io_uring":
                    raise
                waiter = stack.enter_context(contextlib.closing(ThreadWaiter(asyncio.get_running_loop())))
                _log_once(str(error))
        yield waiter


async def _enter_ring(stack: contextlib.AsyncExitStack) -> aioring.Ring:
    ring = await stack.enter_async_context(aioring.open_ring())
    for name in NEEDED:
        if not ring.supports(name):
            raise aioring.UnsupportedOperationError(name, OPERATIONS[name][1])
    return ring


def waiting_from_environment() -> Waiting:
    """What "auto" is to be, or "auto". Raises ValueError."""
    value = os.environ.get(VARIABLE) or "auto"
    for known in WAITING:
        if value == known:
            return known
    raise ValueError(f"{VARIABLE} is {value!r}: there are {', '.join(map(repr, WAITING))}")


@functools.cache
def _log_once(reason: str) -> None:
    _LOG.info("guests are waited for by threads in futex_waitv: %s", reason)
