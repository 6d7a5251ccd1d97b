# SPDX-License-Identifier: MIT
"""`Userfaultfd`: page faults of registered memory, awaited through a ring and resolved by the program."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import errno
import mmap
import os
import select
import warnings
import weakref
from asyncio import _get_running_loop
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aioring._errors import RingForkedError, RingStateError
from aioring._event_loop import EventLoop
from aioring._features import UserfaultfdFeature, open_userfaultfd
from aioring._operations import NoValue, Stop
from aioring._ring import Ring
from aioring._uring import ffi, lib

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

# What is told of a fault, besides where (UFFD_PAGEFAULT_FLAG_*, linux/userfaultfd.h).
_WRITE = 1 << 0
_WRITE_PROTECT = 1 << 1

# Events other than faults. While one is unread its cause waits, and all that changes the memory fails.
_EVENTS = (
    UserfaultfdFeature.EVENT_FORK
    | UserfaultfdFeature.EVENT_REMAP
    | UserfaultfdFeature.EVENT_REMOVE
    | UserfaultfdFeature.EVENT_UNMAP
)

# Behind every address.
_END = 1 << 64

_CLOSED = "I/O operation on closed userfaultfd"


@dataclass(frozen=True, slots=True)
class Fault:
    """A thread waits for a page."""

    #: Of the page; with `UserfaultfdFeature.EXACT_ADDRESS`, of what the thread accesses.
    address: int
    #: Whether it writes.
    is_write: bool
    #: Whether the page is there, and write-protected.
    is_write_protect: bool
    #: Its native id (threading.get_native_id()); None without `UserfaultfdFeature.THREAD_ID`.
    thread_id: int | None


@dataclass(slots=True)
class _Region:
    """Registered memory."""

    start: int
    end: int
    write_protect: bool
    export: Any  # the export of a buffer, which keeps it mapped; None: the caller does


class _Wait(NoValue):
    """Until there is a fault to read. Nothing is read by the kernel, so that a cancellation loses no fault."""

    __slots__ = ()

    def _stopped(self, code: int) -> bool:
        if self._stop is not Stop.STOPPED:
            return super()._stopped(code)
        self.set_exception(ValueError(_CLOSED))
        self.exception()  # retrieved: its reader may be gone
        return True


class Userfaultfd:
    """A userfaultfd(2): threads that touch absent pages of registered memory wait until the program provides them.

    ::

        with aioring.Userfaultfd() as uffd:
            address = uffd.register(memory)  # an mmap.mmap()
            working = asyncio.create_task(asyncio.to_thread(library.work_on, address))  # of ctypes.CDLL()
            working.add_done_callback(lambda _: uffd.close())
            async for fault in uffd:
                uffd.copy(fault.address, page)

    Warning:
        A thread that waits for a page keeps what it holds, **the GIL** with it. Python code that touches absent memory
        (``memory[0]``, a slice, ``bytes(memory)``, a debugger that shows it) holds it: the event loop never runs again
        to provide the page, and the process hangs, also with every signal handler of Python. Nor may the thread of the
        event loop touch it in any way. What may: C code that released the GIL (a function of `ctypes.CDLL`, of cffi, of
        an extension that does so) in another thread. System calls that are given absent memory, as by os.readv(), fail
        with EFAULT, and with ``user_mode_only=False`` wait.

    Any number of tasks may read: a fault goes to one of them, and stays if a reader is cancelled. It is no promise: a
    page can be there by the time one reads of it, when threads wait for the same one (`copy` then raises
    FileExistsError, and `wake` lets go whoever came late).

    `copy`, `zero`, `write_protect` and `wake` may be called in any thread; the other methods belong to one. After a
    fork() the child has the memory, without what was registered and without this, which raises `RingForkedError`.

    Args:
        ring: through which `read` waits; that of the running `EventLoop`, if not given. In other loops it has to be,
            as from `open_ring()`.
        user_mode_only: faults in the kernel, by system calls, fail (UFFD_USER_MODE_ONLY, Linux 5.11). All others need
            CAP_SYS_PTRACE, the sysctl vm.unprivileged_userfaultfd, or access to /dev/userfaultfd (Linux 6.1).
        features: what to ask the kernel for; not the EVENT_* of them.

    Raises:
        UserfaultfdUnavailableError: it is missing or forbidden, or a feature is; the message says why, and the remedy.
        ValueError: features for events, which `read` has none of.
    """

    __slots__ = ("__weakref__", "_closed", "_file", "_forked", "_regions", "_ring", "_threads_known", "_waiting")

    def __init__(
        self,
        ring: Ring | None = None,
        *,
        user_mode_only: bool = True,
        features: UserfaultfdFeature = UserfaultfdFeature.THREAD_ID,
    ) -> None:
        if features & _EVENTS:
            raise ValueError(f"{features & _EVENTS!r}: only faults are read here")
        self._ring = ring
        self._threads_known = UserfaultfdFeature.THREAD_ID in features
        self._closed = self._forked = False
        # Apart from each other, by address. Replaced, not changed, as other threads look there.
        self._regions: tuple[_Region, ...] = ()
        self._waiting: set[_Wait] = set()
        self._file, _ = open_userfaultfd(user_mode_only, features)
        _made.add(self)

    # ---- what it is --------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<Userfaultfd {'closed' if self._closed else f'fd={self._file.fd}'}>"

    @property
    def closed(self) -> bool:
        """Whether it can no longer be used: closed, or left with the parent by a fork()."""
        return self._closed

    def fileno(self) -> int:
        """The file descriptor; it is close-on-exec, and does not block."""
        self._check_open()
        fd: int = self._file.fd
        return fd

    def _check_open(self) -> None:
        if self._forked:
            raise RingForkedError("this userfaultfd was made before a fork() and belongs to the parent: make one here")
        if self._closed:
            raise ValueError(_CLOSED)

    # ---- faults ------------------------------------------------------------------------------------------------

    async def read(self) -> Fault:
        """The next fault, as soon as there is one. Others have their turn in between.

        Raises:
            ValueError: it is closed, or was meanwhile.
            RingStateError: as any operation of the ring.
        """
        out = ffi.new("struct userfaultfd_fault *")
        while True:
            self._check_open()
            # Not IORING_OP_READ: one that is cancelled can have read a fault, whose thread would wait for ever. And
            # kernels before 6.10 do not wait in one for a file that does not block.
            waiting = self._ring_here()._start(_Wait, None, lib.uring_poll, self._file.fd, select.POLLIN)
            self._waiting.add(waiting)
            waiting.add_done_callback(self._waiting.discard)
            await waiting
            self._check_open()
            error = lib.userfaultfd_read(self._file, out)
            if error == 0:
                thread = out.thread if self._threads_known else None
                return Fault(out.address, bool(out.flags & _WRITE), bool(out.flags & _WRITE_PROTECT), thread)
            if error != -errno.EAGAIN:  # else another reader had it
                raise self._error(error, "reading a fault")

    def _ring_here(self) -> Ring:
        if self._ring is not None:
            return self._ring
        loop = asyncio.get_running_loop()
        if not isinstance(loop, EventLoop):
            raise RingStateError(f"{loop!r} has no ring of its own: give Userfaultfd one, as of aioring.open_ring()")
        return loop.ring

    def __aiter__(self) -> Self:
        """The faults, until it is closed."""
        return self

    async def __anext__(self) -> Fault:
        try:
            return await self.read()
        except ValueError:
            if self._closed:
                raise StopAsyncIteration from None
            raise

    # ---- memory ------------------------------------------------------------------------------------------------

    def register(
        self,
        memory: int | WriteableBuffer,
        length: int | None = None,
        *,
        missing: bool = True,
        write_protect: bool = False,
    ) -> int:
        """Have threads wait that touch absent pages (`missing`), or that write to protected ones (`write_protect`).

        `memory` is a writable buffer of whole pages, as an mmap.mmap() or a memoryview of a part of one, or an address;
        `length` is in bytes, by default the buffer's. Private anonymous memory has any kernel with userfaultfd; shared
        memory and files in it (memfd_create(2), tmpfs) Linux 4.11; write protection 5.7, of shared memory 5.19.

        A buffer is exported, so that it cannot be unmapped, until it is unregistered or this is closed. At an address
        that is the caller's care: what is unmapped is not registered any more, and nothing tells. Pages that are given
        back, as by madvise(MADV_DONTNEED), are absent again.

        Returns:
            The address of the memory.

        Raises:
            ValueError: no whole pages, outside of the buffer, or registered here already.
            OSError: EBUSY, by another userfaultfd; EINVAL, of a kind that it cannot have, or nothing is mapped there.
        """
        self._check_open()
        if not missing and not write_protect:
            raise ValueError("missing or write_protect must be asked for")
        address, length, export = _place(memory, length, writable=True)
        at, behind = _overlap(self._regions, address, length)
        if at < behind:
            _release(export)
            raise ValueError(f"{self._regions[at].start:#x} is registered already")
        # Listed first: what is registered is kept, whatever a signal's handler raises.
        region = _Region(address, address + length, write_protect, export)
        self._regions = (*self._regions[:at], region, *self._regions[at:])
        error = lib.userfaultfd_register(self._file, address, length, missing, write_protect)
        if error:
            self._regions = (*self._regions[:at], *self._regions[at + 1 :])
            _release(export)
            raise self._error(error, f"registering {length:#x} bytes at {address:#x}")
        return address

    def unregister(self, memory: int | WriteableBuffer, length: int | None = None) -> None:
        """Forget registered memory, or a part of it, and wake who waits there: absent pages are zeroes from then on.

        Raises:
            ValueError: no whole pages, or not all of it is registered here.
            OSError: EINVAL, at an address where nothing is mapped any more.
        """
        self._check_open()
        address, length, export = _place(memory, length)
        _release(export)
        self._check(address, length)
        error = lib.userfaultfd_unregister(self._file, address, length)
        if error:
            raise self._error(error, f"unregistering {length:#x} bytes at {address:#x}")
        at, behind = _overlap(self._regions, address, length)
        rest = [
            _Region(start, end, region.write_protect, region.export)
            for region in self._regions[at:behind]
            for start, end in ((region.start, address), (address + length, region.end))
            if start < end
        ]
        self._regions = (*self._regions[:at], *rest, *self._regions[behind:])

    def copy(self, address: int, data: ReadableBuffer, *, wake: bool = True, write_protect: bool = False) -> None:
        """Provide absent pages with what is in `data`, contiguous and whole pages, and wake who waits for them.

        Without `wake` they wait on, for `wake`. `write_protect`: the pages come write-protected (Linux 5.7).

        Raises:
            ValueError: no whole pages, or not all of it is registered here.
            FileExistsError: there is a page, of which the message has the address; those before it are provided.
            OSError: ENOENT, not mapped as it was when it was registered; ENOMEM; EFAULT, `data` has absent pages.
        """
        self._check_open()
        done = ffi.new("uint64_t *")
        source = ffi.from_buffer("char[]", data)
        try:
            self._check(address, len(source), write_protect)
            error = lib.userfaultfd_copy(self._file, address, source, len(source), wake, write_protect, done)
        finally:
            _release(source)
        if error:
            raise self._error(error, f"a page for {address + done[0]:#x}")

    def zero(self, address: int, length: int) -> None:
        """Provide absent pages with zeroes and wake who waits for them; not for huge pages. Raises what `copy` does."""
        self._check_open()
        self._check(address, length)
        done = ffi.new("uint64_t *")
        error = lib.userfaultfd_zero(self._file, address, length, done)
        if error:
            raise self._error(error, f"a page of zeroes for {address + done[0]:#x}")

    def write_protect(self, address: int, length: int, on: bool) -> None:
        """Protect pages against writes, or let writes go on and wake who waits to (Linux 5.7).

        Of private memory only pages that are there are protected, unless `UserfaultfdFeature.WP_UNPOPULATED` was asked
        for (Linux 6.4).

        Raises:
            ValueError: no whole pages, or not all of it is registered here with `write_protect`.
            OSError: ENOENT, not mapped as it was when it was registered.
        """
        self._check_open()
        self._check(address, length, write_protect=True)
        error = lib.userfaultfd_write_protect(self._file, address, length, on)
        if error:
            raise self._error(error, f"write protection of {length:#x} bytes at {address:#x}")

    def wake(self, address: int, length: int) -> None:
        """Wake who waits for these pages. A thread whose page is still absent, or protected, faults again.

        Raises:
            ValueError: no whole pages, or not all of it is registered here.
        """
        self._check_open()
        self._check(address, length)
        error = lib.userfaultfd_wake(self._file, address, length)
        if error:
            raise self._error(error, f"waking who waits at {address:#x}")

    def _check(self, address: int, length: int, write_protect: bool = False) -> None:
        _check_pages(address, length)
        why = _refusal(self._regions, address, length, write_protect)
        if why:
            raise ValueError(why)

    def _error(self, error: int, what: str) -> Exception:
        if self._closed:  # by another thread
            return ValueError(_CLOSED)
        return OSError(-error, f"{os.strerror(-error)}: {what}")

    # ---- closing -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Unregister everything and wake who waits: absent pages are zeroes from then on. Again does nothing.

        Readers that wait raise ValueError, and iterations end.

        Raises:
            RingOwnerError: a reader waits in another thread, or another event loop.
        """
        if self._closed:
            return
        waiting: dict[Ring, list[_Wait]] = {}
        for operation in self._waiting:
            if not operation.done():
                waiting.setdefault(operation._ring, []).append(operation)
        for ring in waiting:
            if _get_running_loop() is not ring._loop:
                ring._admit()
        self._closed = True
        # A poll holds the file, and with it what is registered, until it has ended.
        for ring, operations in waiting.items():
            ring._end(operations)
        lib.userfaultfd_close(self._file)
        self._regions = ()

    def _abandon(self) -> None:
        """In the child of a fork(): the faults are the parent's, and so is the memory that would be changed."""
        if not self._closed:
            self._closed = self._forked = True
        lib.userfaultfd_abandon(self._file)
        self._regions = ()

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if not hasattr(self, "_file") or self._closed:
            return
        try:
            _warn(f"unclosed {self!r}", ResourceWarning, source=self)
        finally:  # a warning may be an error
            with contextlib.suppress(RingStateError):  # a reader was forgotten too, and this is not its thread
                self.close()
            lib.userfaultfd_close(self._file)

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _place(memory: int | WriteableBuffer, length: int | None, *, writable: bool = False) -> tuple[int, int, Any]:
    """Address and length of memory, in whole pages, and the export of the buffer that it is, if it is one."""
    if isinstance(memory, int):
        if length is None:
            raise TypeError("an address needs a length")
        _check_pages(memory, length)
        return memory, length, None
    export = ffi.from_buffer("char[]", memory, require_writable=writable)
    try:
        if length is None:
            length = len(export)
        elif length > len(export):
            raise ValueError(f"length is {length}, the buffer's {len(export)}")
        address = int(ffi.cast("uintptr_t", export))
        _check_pages(address, length)
    except BaseException:
        _release(export)
        raise
    return address, length, export


def _release(export: Any) -> None:
    """Let go of a buffer now, not when the traceback of an exception does."""
    if export is not None:
        ffi.release(export)


def _check_pages(address: int, length: int) -> None:
    if address < 0 or address % mmap.PAGESIZE:
        raise ValueError(f"no page begins at {address:#x}: pages have {mmap.PAGESIZE} bytes")
    if length <= 0 or length % mmap.PAGESIZE or address + length > _END:
        raise ValueError(f"no whole pages: {length} bytes at {address:#x}; pages have {mmap.PAGESIZE}")


# These raise nothing: a traceback would keep the regions, and they their memory.


def _overlap(regions: tuple[_Region, ...], address: int, length: int) -> tuple[int, int]:
    """The indices of the first region that has some of these bytes, and of the first one behind them."""
    return (
        bisect.bisect_right(regions, address, key=lambda region: region.end),
        bisect.bisect_left(regions, address + length, key=lambda region: region.start),
    )


def _refusal(regions: tuple[_Region, ...], address: int, length: int, write_protect: bool) -> str | None:
    """Why these bytes cannot be worked on: some are not registered, or not so."""
    at, behind = _overlap(regions, address, length)
    end = address + length
    for region in regions[at:behind]:
        if region.start > address:
            break
        if write_protect and not region.write_protect:
            return f"{address:#x} is registered without write_protect"
        address = region.end
    return None if address >= end else f"{address:#x} is not registered"


# Those of this process, for the child of a fork() to give up.
_made: weakref.WeakSet[Userfaultfd] = weakref.WeakSet()


def _after_fork() -> None:
    for uffd in _made:
        uffd._abandon()


os.register_at_fork(after_in_child=_after_fork)
