# SPDX-License-Identifier: MIT
"""`Ring`: an io_uring whose operations are awaitable in any asyncio event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import struct
import time
import warnings
import weakref
from asyncio import _get_running_loop
from collections.abc import Callable, Collection, Iterator
from enum import Enum
from itertools import count
from threading import get_native_id
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from aioring._errors import (
    RingClosedError,
    RingForkedError,
    RingOwnerError,
    RingStateError,
    UnsupportedOperationError,
    unavailable,
)
from aioring._features import OPERATIONS, Feature
from aioring._file_operations import FileOperations
from aioring._operations import Count, FutexWait, NoValue, Operation, Read, Stop, Timeout
from aioring._uring import ffi, lib

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from aioring._uring import CData, Handle

OperationT = TypeVar("OperationT", bound=Operation[Any])

# The most one read or write moves; more is a short count (MAX_RW_COUNT, read(2)).
_LONGEST = 0x7FFFF000
# The largest submission queue (IORING_MAX_ENTRIES).
_MOST_ENTRIES = 32768
# A ring that closes asks again to cancel what is left after so long. Seconds.
_PATIENCE = 0.1

# IORING_CQE_F_MORE: the operation will complete again.
_MORE = 1 << 1

# struct uring_completion: number, result, flags.
COMPLETION = struct.Struct("=qiI")
completions_in = COMPLETION.iter_unpack
_allocate = ffi.new_allocator(should_clear_after_alloc=False)

# Stands where the loop of a usable ring stands, so that one comparison guards every operation.
_NO_LOOP: Any = object()
# After the ring is gone. cffi refuses None as a pointer, so nothing gets past it into C.
_NO_HANDLE: Any = None


class State(Enum):
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"
    FORKED = "left with the parent process"


class _Waker:
    """The callback on the ring's fd. It alone is known to the loop, so that a forgotten ring can be collected."""

    __slots__ = ("keep", "ring")

    def __init__(self, ring: Ring) -> None:
        self.ring = weakref.ref(ring)
        self.keep: Ring | None = None  # the ring itself, while operations are in flight

    def __call__(self) -> None:
        ring = self.ring()
        if ring is not None:
            ring._serve()


class Ring(FileOperations):
    """An io_uring of its own, as a guest of the event loop that runs (stock asyncio, uvloop, ...).

    ::

        async with aioring.Ring() as ring:
            data = await ring.read(fd, 4096)

    Operations start when they are called and return an `Operation`: a future, to be awaited or cancelled. Those made in
    one iteration of the loop are submitted together, in one io_uring_enter(2). Any number may be in flight.
    A result below zero raises the `OSError` of its errno.

    The ring belongs to the loop in which its first operation is made, and to that loop's thread.

    Args:
        entries: how many operations fit in one submission, 1 to 32768; the kernel rounds up to a power of two.

    Raises:
        RingUnavailableError: io_uring is missing or blocked; the message says why, and the remedy.
    """

    __slots__ = (
        "__weakref__",
        "_capacity",
        "_completions",
        "_flush_due",
        "_handle",
        "_home",
        "_in_flight",
        "_info",
        "_loop",
        "_numbers",
        "_state",
        "_supported",
        "_thread",
        "_view",
        "_waker",
    )

    _handle: Handle
    _home: asyncio.AbstractEventLoop | None  # the loop it belongs to
    _loop: asyncio.AbstractEventLoop  # the same while the ring is open, else _NO_LOOP
    _thread: int | None  # native id of the thread it belongs to
    _completions: CData

    def __init__(self, entries: int = 256) -> None:
        self._prepare_fields()
        self._open(entries, 0, driving=False)

    # ---- set-up ------------------------------------------------------------------------------------------------

    def _prepare_fields(self) -> None:
        self._state = State.CLOSED
        self._handle = _NO_HANDLE
        self._home = None
        self._loop = _NO_LOOP
        self._thread = None
        self._in_flight: dict[int, Operation[Any]] = {}
        self._numbers = count(1)
        self._flush_due = False
        self._waker: _Waker | None = None

    def _open(self, entries: int, completions: int, *, driving: bool) -> None:
        if not 1 <= entries <= _MOST_ENTRIES:
            raise ValueError(f"entries must be 1 to {_MOST_ENTRIES}, not {entries}")
        out = ffi.new("struct uring **")
        error = lib.uring_open(out, entries, completions, driving)
        if error:
            raise unavailable(-error)
        self._handle = out[0]
        self._state = State.OPEN
        self._info = ffi.new("struct uring_info *")
        lib.uring_info(self._handle, self._info)
        self._capacity: int = self._info.completions
        self._completions = ffi.new("struct uring_completion[]", self._capacity)
        self._view = memoryview(ffi.buffer(self._completions))
        self._supported = frozenset(
            name for name, (opcode, _) in OPERATIONS.items() if lib.uring_supports(self._handle, opcode)
        )
        _rings.add(self)

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Become a guest of `loop`."""
        waker = _Waker(self)
        loop.add_reader(self._info.fd, waker)
        self._waker = waker
        self._home = self._loop = loop
        self._thread = get_native_id()

    def _admit(self) -> None:
        """The running loop is not the ring's: make it so if it is the first, or say why the ring cannot be used."""
        self._check_open()
        running = _get_running_loop()
        if self._home is None:
            if running is None:
                raise RingStateError("a ring needs a running event loop: make its first operation in a coroutine")
            self._bind(running)
        elif running is not None:
            raise RingOwnerError(f"{self!r} belongs to {self._home!r}, not to {running!r}, which runs here")
        elif self._home.is_running() or self._thread not in (None, get_native_id()):
            raise RingOwnerError(
                f"{self!r} belongs to the thread of its event loop: from others, use loop.call_soon_threadsafe() or "
                "asyncio.run_coroutine_threadsafe()"
            )

    def _check_open(self) -> None:
        if self._state is State.FORKED:
            raise RingForkedError("this ring was made before a fork() and belongs to the parent: make one here")
        if self._state is not State.OPEN:
            raise RingClosedError(f"the ring is {self._state.value}")

    # ---- what it is --------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        kind = type(self).__name__
        if self._state is not State.OPEN:
            return f"<{kind} {self._state.value}>"
        return f"<{kind} fd={self._info.fd} in_flight={self.in_flight}>"

    @property
    def closed(self) -> bool:
        """Whether it can no longer be used: closed, or left with the parent by a fork()."""
        return self._state is not State.OPEN

    @property
    def features(self) -> Feature:
        """What the kernel offers beyond operations."""
        return Feature(self._info.features)

    @property
    def in_flight(self) -> int:
        """The number of operations that were made and are not done."""
        return len(self._in_flight)

    def fileno(self) -> int:
        """The ring's file descriptor; it is close-on-exec."""
        self._check_open()
        fd: int = self._info.fd
        return fd

    def supports(self, operation: str) -> bool:
        """Whether the kernel has an operation, by the name of its method here; readinto is "read", close_file "close".

        Raises:
            ValueError: aioring knows no such operation.
        """
        if operation not in OPERATIONS:
            raise ValueError(f"no operation {operation!r}: there are {', '.join(sorted(OPERATIONS))}")
        return operation in self._supported

    def _require(self, operation: str) -> None:
        if operation not in self._supported:
            raise UnsupportedOperationError(operation, OPERATIONS[operation][1])

    # ---- operations --------------------------------------------------------------------------------------------

    def nop(self) -> Operation[None]:
        """Do nothing, through the kernel."""
        return self._start(NoValue, None, lib.uring_nop)

    def read(self, fd: int, length: int, offset: int = -1) -> Operation[bytes]:
        """Read up to `length` bytes; b"" at the end of the file.

        `offset` is in bytes; -1 reads at the file's position and moves it, and is the only one for pipes and sockets.
        Bytes that arrive together with a cancellation are lost.
        """
        if length < 0:
            raise ValueError(f"length must not be negative: {length}")
        _check_offset(offset)
        length = min(length, _LONGEST)
        memory = _allocate("char[]", length)
        return self._start(Read, memory, lib.uring_read, fd, memory, length, offset)

    def readinto(self, fd: int, buffer: WriteableBuffer, offset: int = -1) -> Operation[int]:
        """Read into a writable, contiguous buffer; the number of bytes read, 0 at the end of the file.

        The buffer is exported (a bytearray cannot be resized) until the operation is done, even after a cancel.
        `offset` is as for `read`.
        """
        _check_offset(offset)
        memory = ffi.from_buffer("char[]", buffer, require_writable=True)
        return self._start(Count, memory, lib.uring_read, fd, memory, min(len(memory), _LONGEST), offset)

    def write(self, fd: int, data: ReadableBuffer, offset: int = -1) -> Operation[int]:
        """Write contiguous bytes; the number of bytes written, which may be less than given.

        The data must not change, and cannot be resized, until the operation is done. `offset` is as for `read`.
        """
        _check_offset(offset)
        memory = ffi.from_buffer("char[]", data)
        return self._start(Count, memory, lib.uring_write, fd, memory, min(len(memory), _LONGEST), offset)

    def timeout(self, seconds: float) -> Operation[None]:
        """Let time pass (CLOCK_MONOTONIC), with a resolution of nanoseconds; none if `seconds` is negative."""
        return self._start(Timeout, None, lib.uring_timeout, max(0, math.ceil(seconds * 1e9)))

    def poll(self, fd: int, mask: int) -> Operation[int]:
        """Wait once until a file is ready; `mask` and the result are of select.POLLIN, POLLOUT, ... (poll(2))."""
        return self._start(Count, None, lib.uring_poll, fd, mask)

    def futex_wait(self, address: int, value: int, *, private: bool = False) -> Operation[bool]:
        """Wait on the 32-bit futex word at `address` while it holds `value`, 0 to 2**32 - 1 (futex(2)).

        True after a wake, False at once if the word holds something else. `private`: no other process shares the word.
        The caller keeps the memory at `address` mapped until the operation is done, even after a cancel. A wake that
        arrives together with a cancellation is used up.

        Raises:
            UnsupportedOperationError: before Linux 6.7.
        """
        self._require("futex_wait")
        return self._start(FutexWait, None, lib.uring_futex_wait, address, value, not private)

    def futex_wake(self, address: int, count: int, *, private: bool = False) -> Operation[int]:
        """Wake up to `count` waiters of the 32-bit futex word at `address`; how many were woken.

        Raises:
            UnsupportedOperationError: before Linux 6.7.
        """
        self._require("futex_wake")
        return self._start(Count, None, lib.uring_futex_wake, address, count, not private)

    @contextlib.contextmanager
    def linked(self, count: int) -> Iterator[None]:
        """Link the operations made in this block, `count` at most: each starts when the one before is done (Linux 5.3).

        ::

            with ring.linked(2):
                writing, syncing = ring.write(fd, data, 0), ring.fsync(fd)
            await asyncio.gather(writing, syncing)

        If one fails, is cancelled, or moves fewer bytes than it was asked to, those behind it raise OSError
        (ECANCELED). Only operations of this ring are made in the block, and nothing is awaited.

        Raises:
            OSError: E2BIG, more than fit in one submission, or more than `count`.
        """
        if count < 1:
            raise ValueError(f"count must be above 0: {count}")
        if _get_running_loop() is not self._loop:
            self._admit()
        self._prepare(lib.uring_link_begin, count)
        handle = self._handle
        try:
            yield
        finally:
            lib.uring_link_end(handle)

    async def cancel(self, operation: Operation[Any]) -> bool:
        """Stop an operation of this ring and wait for its end; its future is then cancelled.

        False if the operation had a result first: that stands, unlike after `operation.cancel()`.
        """
        if operation._ring is not self:
            raise ValueError(f"{operation!r} is not of {self!r}")
        if not operation.done():
            self._stop(operation)
            operation._stop = operation._stop or Stop.STOPPED
            await asyncio.wait([operation])
        return operation.cancelled()

    # ---- submitting --------------------------------------------------------------------------------------------

    def _start(
        self, kind: Callable[..., OperationT], memory: CData | None, prepare: Callable[..., int], *arguments: Any
    ) -> OperationT:
        if _get_running_loop() is not self._loop:
            self._admit()
        operation = kind(loop=self._loop)
        operation._ring = self
        operation._memory = memory
        operation._stop = None
        operation._number = number = next(self._numbers)
        try:
            # From here the table keeps the operation, and that its memory, whatever becomes of the caller.
            self._in_flight[number] = operation
            error = prepare(self._handle, number, *arguments)
            if error:
                self._prepare_after(error, prepare, number, *arguments)
        except BaseException:
            # A bad argument prepared nothing. An exception from a signal handler may have come either side of it.
            if lib.uring_last(self._handle) != number:
                self._in_flight.pop(number, None)
            raise
        if not self._flush_due:
            self._flush()
        return operation

    def _stop(self, operation: Operation[Any]) -> None:
        """Ask the kernel to cancel an operation in flight."""
        if _get_running_loop() is not self._loop:
            self._admit()
        self._prepare(lib.uring_cancel, operation._number)
        if not self._flush_due:
            self._flush()

    def _prepare(self, prepare: Callable[..., int], *arguments: Any) -> None:
        error = prepare(self._handle, *arguments)
        if error:
            self._prepare_after(error, prepare, *arguments)

    def _prepare_after(self, error: int, prepare: Callable[..., int], *arguments: Any) -> None:
        """Prepare again after removing what was in the way."""
        while error:
            self._make_way(error)
            error = prepare(self._handle, *arguments)

    def _make_way(self, error: int) -> None:
        if error != -errno.EBUSY:
            raise OSError(-error, os.strerror(-error))
        self._poll(0)

    def _flush(self) -> None:
        """Submit at the end of this iteration of the loop."""
        assert self._home is not None
        self._home.call_soon(self._serve)
        self._flush_due = True

    # ---- completing --------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Submit what was made, complete what has ended."""
        self._flush_due = False
        if self._state is State.OPEN:
            self._poll(0)
            assert self._waker is not None
            self._waker.keep = self if self._in_flight else None

    def _poll(self, timeout: int) -> int:
        """Submit, wait up to `timeout` nanoseconds for completions and dispatch one batch of them; how many.

        They are consumed after the dispatch: if a signal handler's exception interrupts it they come again, which
        `Operation._complete` bears.
        """
        handle = self._handle
        ended = lib.uring_wait(handle, timeout, self._completions, self._capacity)
        if ended > 0:
            in_flight = self._in_flight
            for number, code, flags in completions_in(self._view[: ended * COMPLETION.size]):
                if number in in_flight:
                    if flags & _MORE:
                        in_flight[number]._more(code)
                        continue
                    in_flight[number]._complete(code)
                    del in_flight[number]
            lib.uring_advance(handle)
        elif ended < 0:
            raise OSError(-ended, os.strerror(-ended))
        return ended

    # ---- closing -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Cancel everything in flight, wait for its end and free the ring. Closing again does nothing.

        Operations that had no result first raise `RingClosedError`. Blocks until the kernel let go of all memory:
        microseconds, unless a device does not answer.

        Raises:
            RingOwnerError: its loop is running in another thread.
        """
        if self._state in (State.CLOSED, State.FORKED):
            return
        home = self._home
        if home is not None and home.is_running() and self._thread != get_native_id():
            raise RingOwnerError(f"{self!r} must be closed in the thread of its running event loop")
        self._state = State.CLOSING
        self._loop = _NO_LOOP
        if self._waker is not None and home is not None and not home.is_closed():
            home.remove_reader(self._info.fd)
        self._drain()
        self._free()

    def _drain(self) -> None:
        """Cancel everything in flight and see it end."""
        while self._in_flight:
            for number, operation in list(self._in_flight.items()):
                if operation._stop is not Stop.CANCELLED:
                    operation._stop = Stop.CLOSED
                self._prepare(lib.uring_cancel, number)
            again = time.monotonic() + _PATIENCE
            while self._in_flight and time.monotonic() < again:
                self._poll_last()

    def _end(self, operations: Collection[Operation[Any]]) -> None:
        """Cancel some operations and see them end, as they hold what else the kernel would let go of."""
        numbers = [operation._number for operation in operations]
        for operation in operations:
            operation._stop = operation._stop or Stop.STOPPED
            self._prepare(lib.uring_cancel, operation._number)
        while not self._in_flight.keys().isdisjoint(numbers):
            self._poll_last()

    def _poll_last(self) -> None:
        """Wait a little for completions, even if nobody is told of them any more."""
        try:
            self._poll(round(_PATIENCE * 1e9))
        except RuntimeError:
            # The loop is closed and takes no more callbacks. The future is done all the same.
            if self._home is None or not self._home.is_closed():
                raise

    def _free(self) -> None:
        handle, self._handle = self._handle, _NO_HANDLE
        self._state = State.CLOSED
        self._waker = None
        lib.uring_close(handle)

    def _abandon(self) -> None:
        """In the child of a fork(): the operations and the queues are the parent's."""
        if self._handle is _NO_HANDLE:
            return
        handle, self._handle = self._handle, _NO_HANDLE
        self._state = State.FORKED
        self._loop = _NO_LOOP
        for operation in self._in_flight.values():
            operation._number = 0
        self._in_flight.clear()
        lib.uring_abandon(handle)

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if getattr(self, "_state", None) not in (State.OPEN, State.CLOSING):
            return
        try:
            _warn(f"unclosed ring {self!r}", ResourceWarning, source=self)
        finally:  # a warning may be an error
            self._close_forgotten()

    def _close_forgotten(self) -> None:
        home = self._home
        if home is not None and home.is_running() and self._thread != get_native_id():
            # Collected in another thread. Nothing is in flight: _Waker.keep would have kept the ring.
            handle, self._handle = self._handle, _NO_HANDLE
            home.call_soon_threadsafe(_retire, home, self._info.fd, handle)
        else:
            self.close()

    async def __aenter__(self) -> Ring:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _check_offset(offset: int) -> None:
    if offset < -1:
        raise ValueError(f"offset must be -1 (the file's position) or more, not {offset}")


def _retire(loop: asyncio.AbstractEventLoop, fd: int, handle: Handle) -> None:
    """Free, in its loop's thread, a ring that was collected in another."""
    loop.remove_reader(fd)
    lib.uring_close(handle)


# The rings of this process, for the child of a fork() to give up.
_rings: weakref.WeakSet[Ring] = weakref.WeakSet()


def _after_fork() -> None:
    for ring in _rings:
        ring._abandon()


os.register_at_fork(after_in_child=_after_fork)
