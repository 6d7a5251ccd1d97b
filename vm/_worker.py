# SPDX-License-Identifier: MIT
"""One sandbox process and its life: cloned, used by one instance after another, killed, seen dead, freed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import signal
import time
import weakref
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Final

from vm._errors import SandboxDiedError, SandboxError
from vm._nursery import Nursery, pid_of, sandbox_error, step_error
from vm._pool import NOBODY
from vm._restore import INLINE, restore
from vm._sandbox import ffi, lib
from vm._threads import in_thread

if TYPE_CHECKING:
    from vm._sandbox import CData
    from vm._snapshot import Snapshot
    from vm._waiter import Waiter

#: Resetting more memory than this (bytes) happens off the event loop's thread.
_RESET_INLINE: Final = 1 << 20
#: Seconds in which a process whose set-up failed is dead, if it was killed or ends itself.
_DYING: Final = 0.1


class Worker:
    """A sandbox process for the image it was made for.

    `handle`, `guest` and `memories` are C objects; they stay valid as long as the Worker does. A task watches for the
    death of the process from its birth on; after it every waiter is woken.
    """

    __slots__ = (
        "_cpu_ns",
        "_image",
        "_interrupting",
        "_paging",
        "_waiter",
        "_watch",
        "dead",
        "doomed",
        "guest",
        "handle",
        "memories",
        "out_of_memory",
        "pid",
        "snapshot",
        "tenant",
    )

    def __init__(self, image: CData, waiter: Waiter) -> None:
        result = ffi.new("sandbox_worker **")
        error = lib.sandbox_worker_create(image, result)
        if error < 0:
            raise sandbox_error(error, "making guest memory (memfd_create, mmap)")
        self._image = image  # its files and tables are used until the handle is gone
        self._waiter = waiter
        self._watch: asyncio.Task[None] | None = None
        self.handle = ffi.gc(result[0], lib.sandbox_worker_destroy)
        self.guest = lib.sandbox_worker_guest(self.handle)
        self.memories = (lib.sandbox_worker_memory(self.handle),)
        self._cpu_ns = 0
        # the thread that serves a page fault, and whether the guest is to stop
        self._paging: asyncio.Task[int] | None = None
        self._interrupting = False
        #: Whose guest it serves, or served last; at first nobody's.
        self.tenant: Hashable = NOBODY
        #: The snapshot that its guest started from and in whose state it is when it is idle; None: the initial state.
        self.snapshot: weakref.ref[Snapshot] | None = None
        #: Process id as this process sees it.
        self.pid = 0
        #: Whether its death was seen.
        self.dead = False
        #: Whether the kernel killed it because all guests together had too much memory.
        self.out_of_memory = False
        #: Whether it was killed: no instance may get it any more, dead yet or not.
        self.doomed = False

    async def start(self, nursery: Nursery, on_death: Callable[[Worker], None]) -> None:
        """Has the process cloned and waits until it is ready. Raises as `Nursery.clone`; not to be cancelled."""
        await nursery.clone(self.handle)
        pidfd = lib.sandbox_worker_pidfd(self.handle)
        self._watch = asyncio.create_task(self._see_death(pidfd, on_death))
        pid = lib.sandbox_worker_pid(self.handle)
        self.pid = pid if pid > 0 else pid_of(pidfd)  # kernels before 6.13 do not tell it otherwise
        event = await self.wait()
        if event == lib.SANDBOX_FINISHED:
            return
        killed = event == lib.SANDBOX_FAILED and await self._was_killed()
        self.kill()
        if event == lib.SANDBOX_FAILED and not killed:
            raise step_error(-self.guest.failed_errno, self.guest.failed_step, "a worker")
        raise self.death()

    async def _was_killed(self) -> bool:
        """Whether somebody killed it while it was set up, which fails with any errno then (UFFDIO_REGISTER: ENOMEM)."""
        assert self._watch is not None
        await asyncio.wait([self._watch], timeout=_DYING)  # one that failed by itself ends itself
        status: int = lib.sandbox_worker_wait_status(self.handle)
        return status >= 0 and os.WIFSIGNALED(status)

    @property
    def usable(self) -> bool:
        """Whether it can serve an instance; asks the kernel, as the loop may not have seen a death yet."""
        if self.dead or self.doomed:
            return False
        return not lib.sandbox_worker_is_gone(self.handle)

    @property
    def has_process(self) -> bool:
        """Whether it ever had one."""
        return self._watch is not None

    def resume(self, spin_ns: int, worker_spin: int) -> int:
        """Lets the guest go on; SANDBOX_BUSY if it did not stop again within `spin_ns` nanoseconds."""
        self._interrupting = False
        event = lib.sandbox_worker_resume(self.handle, spin_ns, worker_spin)
        return lib.SANDBOX_BUSY if event == lib.SANDBOX_PAGING else event

    async def wait(self) -> int:
        """Waits until it is busy no longer; returns the ``enum sandbox_event``. May be cancelled, and called again."""
        futex = int(ffi.cast("uintptr_t", lib.sandbox_worker_futex(self.handle)))
        while True:
            event: int = lib.SANDBOX_PAGING if self._paging is not None else lib.sandbox_worker_poll(self.handle)
            if event == lib.SANDBOX_PAGING:
                event = await self._wait_for_page()
            elif event == lib.SANDBOX_BUSY:
                await self._waiter.futex_wait(futex, lib.sandbox_worker_futex_value(self.handle))
            if event != lib.SANDBOX_BUSY:
                return event

    async def _wait_for_page(self) -> int:
        if self._paging is None:
            self._paging = asyncio.create_task(in_thread(self._page_in))  # a thread reads the page
        event = await asyncio.shield(self._paging)
        self._paging = None
        if event == lib.SANDBOX_BUSY and self._interrupting:
            lib.sandbox_worker_interrupt(self.handle)  # the worker was the thread's when it was to be interrupted
        return event

    def _page_in(self) -> int:
        return lib.sandbox_worker_page_in(self.handle)

    def holds(self, snapshot: Snapshot | None) -> bool:
        """Whether, idle, it is in the state of the snapshot; None: of no snapshot."""
        return self.snapshot is None if snapshot is None else self.snapshot is not None and self.snapshot() is snapshot

    async def restore(self, snapshot: Snapshot, *, pristine: bool, lazy: bool = False, inline: int = INLINE) -> None:
        """Makes memory and registers those of the snapshot; `pristine`: it is in its initial state.

        More than `inline` bytes are restored off the event loop's thread. Raises `SandboxError`.
        """
        handle = snapshot._open_handle()
        resident = 0 if pristine else lib.sandbox_memory_resident(self.memories[0])
        arguments = (self.handle, handle, pristine, lazy)
        await restore(lib.sandbox_worker_restore, *arguments, resident=resident, inline=inline)
        self.snapshot = weakref.ref(snapshot)

    async def reset(self) -> None:
        """Makes memory and registers as they were at the start. Raises `SandboxError`."""
        if lib.sandbox_memory_resident(self.memories[0]) > _RESET_INLINE:
            error = await asyncio.to_thread(lib.sandbox_worker_reset, self.handle)
        else:
            error = lib.sandbox_worker_reset(self.handle)
        if error < 0:
            raise sandbox_error(error, "resetting guest memory")
        self.snapshot = None

    def interrupt(self) -> bool:
        """Has the guest stop where it is; see `Machine.interrupt`."""
        self._interrupting = True
        return self._paging is not None or lib.sandbox_worker_interrupt(self.handle) == 0

    def cpu_ns(self) -> int:
        """Nanoseconds of processor time that the process took so far, its set-up included."""
        if not self.pid:
            raise SandboxError("reading the processor time of a process whose id neither its pidfd nor /proc tells")
        if not self.dead:
            with contextlib.suppress(OSError):  # it has just died
                # clock_getcpuclockid(3): the process's clock, of all time that it was scheduled
                self._cpu_ns = time.clock_gettime_ns(~self.pid << 3 | 2)
        return self._cpu_ns

    def kill(self) -> None:
        """Sends SIGKILL; `gone` waits for the effect."""
        self.doomed = True
        if not self.dead:
            lib.sandbox_worker_kill(self.handle)

    async def gone(self) -> None:
        """Waits until the process is dead and its memory is freed."""
        if self._watch is not None:
            await asyncio.shield(self._watch)

    def death(self) -> SandboxDiedError:
        """The exception that tells how the process died."""
        status = lib.sandbox_worker_wait_status(self.handle)
        return SandboxDiedError(self.pid, _describe(status, self.out_of_memory))

    async def _see_death(self, pidfd: int, on_death: Callable[[Worker], None]) -> None:
        await self._waiter.poll(pidfd, select.POLLIN)
        if lib.sandbox_worker_wait_status(self.handle) in (-errno.EAGAIN, -errno.ESRCH):
            await self._waiter.poll(pidfd, select.POLLHUP)  # reaped: only then does it tell how it ended
        self.dead = True
        lib.sandbox_worker_mark_dead(self.handle)
        on_death(self)


def _describe(status: int, out_of_memory: bool) -> str:
    if status < 0:
        return "killed, or ended by itself"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        why = " (a system call that it may not make)" if number == signal.SIGSYS else ""
        why = " (the memory limit of all guests, CgroupLimits.memory)" if out_of_memory else why
        return f"killed by {signal.Signals(number).name}{why}"
    return f"exit status {os.WEXITSTATUS(status)}"
