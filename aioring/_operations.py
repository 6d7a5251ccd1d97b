# SPDX-License-Identifier: MIT
"""Operations in flight: futures that are done when the kernel is, and own the memory it works on until then."""

from __future__ import annotations

import asyncio
import errno
import os
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from aioring._errors import RingClosedError
from aioring._uring import ffi

if TYPE_CHECKING:
    from aioring._ring import Ring

T = TypeVar("T")


class Stop(Enum):
    """Why an operation in flight was told to end."""

    CANCELLED = "its future was cancelled: CancelledError, whatever the result"
    STOPPED = "Ring.cancel(): a result that came first stands"
    CLOSED = "the ring closes: RingClosedError, unless a result came first"


class Operation(asyncio.Future[T]):
    """An operation of a `Ring`: a future, so it can be awaited, gathered, given callbacks, and cancelled.

    Not a coroutine: `asyncio.create_task()` does not take it, nor need it, since it runs already.

    It starts when it is made, awaited or not. `cancel()` asks the kernel to end it; it is done when the kernel
    answered, because until then the kernel may use its memory. So a task that is cancelled while it awaits an operation
    sees `CancelledError` only after the operation's end, and every further cancel meanwhile changes nothing.
    """

    __slots__ = ("_memory", "_message", "_number", "_ring", "_stop")

    # The negative result that is no error for this kind of operation.
    _expected = 0

    _memory: Any  # the cdata the kernel reads or writes, which holds the caller's buffer
    _message: Any
    _number: int  # under which the ring knows it; 0 before and after
    _ring: Ring
    _stop: Stop | None

    def _value(self, code: int) -> T:
        raise NotImplementedError

    def _error(self, code: int) -> OSError:
        return OSError(code, os.strerror(code))

    def _complete(self, code: int) -> None:
        """The kernel's last word: a result, or -errno. Delivered again if a signal's exception interrupted it."""
        self._number = 0
        try:
            if self.done() or (self._stop is not None and self._stopped(code)):
                return
            if code >= 0 or code == self._expected:
                self.set_result(self._value(code))
            else:
                self.set_exception(self._error(-code))
        except MemoryError as error:
            self.set_exception(error)
        finally:
            if self._memory is not None:
                memory, self._memory = self._memory, None
                ffi.release(memory)

    def _more(self, code: int) -> None:
        """A result, after which the kernel still has the memory: the last word is to come."""
        raise NotImplementedError

    def _stopped(self, code: int) -> bool:
        """End as the stop demands; False if the result stands."""
        # EINTR: a worker of the kernel was interrupted in the middle of the system call.
        ended = code in (-errno.ECANCELED, -errno.EINTR)
        if self._stop is Stop.CANCELLED:
            return super().cancel(self._message)
        if self._stop is Stop.STOPPED and ended:
            return super().cancel()
        if self._stop is Stop.CLOSED and ended:
            self.set_exception(RingClosedError("the ring was closed while this operation was in flight"))
            self.exception()  # retrieved: nobody may be left to await it, which is no news for a log
            return True
        return False

    def cancel(self, msg: Any | None = None) -> bool:
        """Ask the kernel to end the operation. False if it is done already.

        The future is cancelled when the kernel let go of the operation, not before. A result that arrives together
        with the cancellation is dropped.
        """
        if self.done():
            return False
        if self._number == 0:
            return super().cancel(msg)
        # Asked again each time: a worker of the kernel can miss a cancellation between two waits.
        self._ring._stop(self)
        if self._stop is not Stop.CANCELLED:
            self._stop = Stop.CANCELLED
            self._message = msg
        return True


class NoValue(Operation[None]):
    """nop: done."""

    __slots__ = ()

    def _value(self, code: int) -> None:
        return None


class Timeout(NoValue):
    """timeout: time has passed, which the kernel reports as ETIME."""

    __slots__ = ()
    _expected = -errno.ETIME


class Count(Operation[int]):
    """write, readinto, poll, futex_wake: the number the kernel returned."""

    __slots__ = ()

    def _value(self, code: int) -> int:
        return code


class Read(Operation[bytes]):
    """read: the bytes that arrived in the operation's own memory."""

    __slots__ = ()

    def _value(self, code: int) -> bytes:
        return ffi.buffer(self._memory, code)[:]  # type: ignore[return-value]  # a cffi buffer slices to bytes


class FutexWait(Operation[bool]):
    """futex_wait: True after a wake, False if the word did not have the expected value."""

    __slots__ = ()
    _expected = -errno.EAGAIN

    def _value(self, code: int) -> bool:
        return code == 0
