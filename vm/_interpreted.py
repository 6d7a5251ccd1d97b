# SPDX-License-Identifier: MIT
"""Guests in the interpreter: in this process, in slices, and off the event loop's thread when they take longer."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

from vm._errors import InstanceStateError, VMError
from vm._in_process import InProcessHome
from vm._nursery import sandbox_error
from vm._restore import restore
from vm._sandbox import ffi, lib
from vm._thread_cpu import ThreadCpu
from vm._threads import in_thread

if TYPE_CHECKING:
    from vm._module import Module
    from vm._sandbox import CData
    from vm._snapshot import Snapshot

#: Instructions that run on the event loop's thread first: some tens of microseconds.
_INLINE: Final = 10_000
#: Instructions of one turn in a thread, where a memset counts as many as it has bytes: some tens of milliseconds, so
#: that many guests share few threads.
TURN: Final = 10_000_000


class Interpreted:
    """One guest in the interpreter; with `in_files` its memory can be compared with a worker's."""

    __slots__ = ("__weakref__", "_cpu", "_handle", "_image", "_turn", "dead", "guest", "memories")

    def __init__(self, image: CData, *, in_files: bool = False) -> None:
        result = ffi.new("sandbox_interpreted **")
        error = lib.sandbox_interpreted_create(image, in_files, result)
        if error < 0:
            raise sandbox_error(error, "making guest memory (memfd_create, mmap)")
        self._image = image  # its tables are used until the handle is gone
        # freed with its last reference, which a thread may hold
        self._handle = ffi.gc(result[0], lib.sandbox_interpreted_destroy)
        self.guest = lib.sandbox_interpreted_guest(self._handle)
        self.memories = (lib.sandbox_interpreted_memory(self._handle),)
        self._turn: asyncio.Task[int] | None = None
        self._cpu = ThreadCpu()
        self.dead = False

    @property
    def pid(self) -> int:
        return os.getpid()

    @property
    def usable(self) -> bool:
        return not self.dead

    async def restore(self, snapshot: Snapshot, *, lazy: bool) -> None:
        """Makes memory and registers those of the snapshot, before the first run."""
        await restore(lib.sandbox_interpreted_restore, self._handle, snapshot._open_handle(), lazy)

    def resume(self, spin_ns: int, worker_spin: int) -> int:
        return lib.SANDBOX_DIED if self.dead else _run(self._cpu, self._handle, _INLINE, False)

    async def wait(self) -> int:
        while (event := await self.turn()) == lib.SANDBOX_BUSY:
            pass
        return event

    async def turn(self) -> int:
        """One turn in a thread; SANDBOX_BUSY if it needs another. A cancelled one goes on, and is waited for again."""
        if self._turn is None:
            self._turn = asyncio.create_task(in_thread(_run, self._cpu, self._handle, TURN, True))
        event = await asyncio.shield(self._turn)
        self._turn = None
        return lib.SANDBOX_DIED if self.dead else event

    def interrupt(self) -> bool:
        lib.sandbox_interpreted_interrupt(self._handle)  # the thread ends within a millisecond
        return True

    def cpu_ns(self) -> int:
        return self._cpu.ns()

    def kill(self) -> None:
        self.dead = True
        lib.sandbox_interpreted_interrupt(self._handle)

    async def gone(self) -> None:
        """Waits until no thread runs it any more, after a kill."""
        if self._turn is not None:
            await asyncio.wait([self._turn])

    def death(self) -> VMError:
        return InstanceStateError("the guest was stopped for good")


def _run(cpu: ThreadCpu, handle: CData, budget: int, may_block: bool) -> int:
    with cpu:
        return lib.sandbox_interpreted_run(handle, budget, may_block)


class InterpreterHome(InProcessHome):
    """All guests of an engine with ``backend="interpreter"``."""

    async def start(self) -> None:
        """There is nothing to prepare."""

    async def _make(self, module: Module, snapshot: Snapshot | None) -> Interpreted:
        machine = Interpreted(module._image)
        if snapshot is not None:
            await machine.restore(snapshot, lazy=True)
        return machine
