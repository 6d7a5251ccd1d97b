# SPDX-License-Identifier: MIT
"""Guests in recompiled code in this process: no process to start or to wake, and nothing but the recompiler's own
correctness between a guest and its host."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from vm._errors import InstanceStateError, SandboxError, VMError
from vm._in_process import InProcessHome
from vm._nursery import sandbox_error
from vm._restore import restore
from vm._sandbox import ffi, lib
from vm._thread_cpu import ThreadCpu

if TYPE_CHECKING:
    from vm._module import Module
    from vm._sandbox import CData
    from vm._snapshot import Snapshot
    from vm._statistics import Counters

_LOG = logging.getLogger("vm")

#: Nanoseconds that a guest may run on the event loop's thread, at most, before it goes on in another. As much again may
#: pass before it is interrupted: that thread is held for a millisecond.
_INLINE_NS: Final = 500_000
#: Nanoseconds of one turn in a thread, so that many guests share few of them.
_TURN_NS: Final = 20_000_000

#: What helps, where it is not what helps a process.
_REMEDIES: Final = {
    errno.ENOMEM: "free some memory, or raise the limits on mappings (sysctl vm.max_map_count) and on address space "
    "(ulimit -v): a guest takes 4 GiB of that, a module 33",
    errno.EMLINK: "install handlers of SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP and SIGURG before the engine starts",
}


def _error(error: int, what: str) -> SandboxError:
    remedy = _REMEDIES.get(-error)
    return sandbox_error(error, what) if remedy is None else SandboxError(what, errno=-error, remedy=remedy)


class Generic:
    """One guest in this process; `home` is the C object of its engine, `threads` run it when it takes longer."""

    __slots__ = (
        "__weakref__",
        "_cpu",
        "_handle",
        "_home",
        "_image",
        "_interrupts",
        "_threads",
        "_turn",
        "dead",
        "guest",
        "memories",
        "pid",
    )

    def __init__(self, image: CData, home: CData, threads: ThreadPoolExecutor) -> None:
        result = ffi.new("sandbox_generic **")
        error = lib.sandbox_generic_create(image, result)
        if error < 0:
            raise _error(error, "making guest memory (memfd_create, mmap)")
        self._image = image  # its code and tables are used until the handle is gone
        self._home = home
        self._threads = threads
        # freed with its last reference, which a thread may hold
        self._handle = ffi.gc(result[0], lib.sandbox_generic_destroy)
        self.guest = lib.sandbox_generic_guest(self._handle)
        self.memories = (lib.sandbox_generic_memory(self._handle),)
        self._turn: asyncio.Future[int] | None = None
        # not empty: the guest is to stop at the end of its turn
        self._interrupts: list[bool] = []
        self._cpu = ThreadCpu()
        self.pid = os.getpid()
        self.dead = False

    @property
    def usable(self) -> bool:
        return not self.dead

    def resume(self, spin_ns: int, worker_spin: int) -> int:
        self._interrupts.clear()
        if self.dead:
            return lib.SANDBOX_DIED
        if spin_ns == 0:
            return lib.SANDBOX_BUSY  # `wait` begins
        with self._cpu:
            event = self._check(lib.sandbox_generic_run(self._home, self._handle, min(spin_ns, _INLINE_NS)))
        return lib.SANDBOX_BUSY if event == lib.SANDBOX_PAGING else event  # a thread may read the page

    async def wait(self) -> int:
        while (event := await self._take_turn()) in (lib.SANDBOX_BUSY, lib.SANDBOX_PAGING):
            if self._interrupts:
                return lib.SANDBOX_INTERRUPTED
        return event

    async def _take_turn(self) -> int:
        # a cancelled one goes on, and is waited for again
        if self._turn is None:
            self._turn = asyncio.get_running_loop().run_in_executor(self._threads, self._work())
        event = await asyncio.shield(self._turn)
        self._turn = None
        return lib.SANDBOX_DIED if self.dead else self._check(event)

    def _work(self) -> Callable[[], int]:
        # what the thread needs until the guest is out of its code, and lets go of with the result: what is left of its
        # work item lingers for a moment
        held = [(self._home, self._handle, self._image)]
        cpu, interrupts = self._cpu, self._interrupts

        def run() -> int:
            home, handle, _ = held.pop()
            if interrupts:
                return lib.SANDBOX_BUSY  # it was interrupted while it waited for a thread
            with cpu:
                return lib.sandbox_generic_run(home, handle, _TURN_NS)

        return run

    def interrupt(self) -> bool:
        self._interrupts.append(True)
        return lib.sandbox_generic_pause(self._handle) == 0

    def cpu_ns(self) -> int:
        return self._cpu.ns()

    def _check(self, event: int) -> int:
        if event < 0:
            raise _error(event, "taking over signal handlers (sigaction)")
        return event

    def kill(self) -> None:
        if not self.dead:
            self.dead = True
            error = lib.sandbox_generic_stop(self._handle)
            if error < 0:  # its thread runs on until its turn is over, and ends then
                _LOG.warning("cannot interrupt a guest: %s", ffi.string(lib.sandbox_errno_name(-error)).decode())

    async def gone(self) -> None:
        """Waits until no thread runs it any more, after a kill."""
        if self._turn is not None:
            await asyncio.wait([self._turn])

    def death(self) -> VMError:
        if self.pid != os.getpid():
            return InstanceStateError(f"the guest belongs to process {self.pid}, of which this one was forked")
        return InstanceStateError("the guest was stopped for good")


class GenericHome(InProcessHome):
    """All guests of an engine with ``sandbox="generic"``."""

    def __init__(self, counters: Counters) -> None:
        super().__init__(counters)
        self._handle: CData = ffi.NULL
        self._threads: ThreadPoolExecutor | None = None

    async def start(self) -> None:
        """Installs the signal handlers. Raises `SandboxError`."""
        _LOG.warning(
            "sandbox 'generic': guests run in this process, and a fault of the recompiler would let them do "
            "whatever it can; sandbox 'linux' keeps them in even then"
        )
        result = ffi.new("sandbox_generic_home **")
        error = lib.sandbox_generic_open(result)
        if error < 0:
            raise _error(error, "starting the generic sandbox (sigaction, pthread_create)")
        self._handle = ffi.gc(result[0], lib.sandbox_generic_close)
        self._threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="vm-generic")

    async def _make(self, module: Module, snapshot: Snapshot | None) -> Generic:
        assert self._threads is not None
        machine = Generic(module._image, self._handle, self._threads)
        if snapshot is not None:
            await restore(lib.sandbox_generic_restore, machine._handle, snapshot._open_handle())
        return machine

    async def aclose(self) -> None:
        await super().aclose()
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown()  # all are idle
        handle, self._handle = self._handle, ffi.NULL
        if handle:
            ffi.release(handle)
