# SPDX-License-Identifier: MIT
"""Guests in the interpreter: in this process, in slices, and off the event loop's thread when they take longer."""

from __future__ import annotations

import asyncio
import os
import weakref
from typing import TYPE_CHECKING, Final

from vm._errors import InstanceStateError, VMError
from vm._nursery import sandbox_error
from vm._sandbox import ffi, lib

if TYPE_CHECKING:
    from vm._machine import Machine
    from vm._module import Module
    from vm._sandbox import CData

#: Instructions that run on the event loop's thread first: some tens of microseconds.
_INLINE: Final = 10_000
#: Instructions of one turn in a thread: some tens of milliseconds, so that many guests share few threads.
_TURN: Final = 10_000_000


class Interpreted:
    """One guest in the interpreter."""

    __slots__ = ("__weakref__", "_handle", "_image", "dead", "guest", "memories")

    def __init__(self, image: CData) -> None:
        result = ffi.new("sandbox_interpreted **")
        error = lib.sandbox_interpreted_create(image, result)
        if error < 0:
            raise sandbox_error(error, "making guest memory (mmap)")
        self._image = image  # its tables are used until the handle is gone
        # freed with its last reference, which a thread may hold
        self._handle = ffi.gc(result[0], lib.sandbox_interpreted_destroy)
        self.guest = lib.sandbox_interpreted_guest(self._handle)
        self.memories = (lib.sandbox_interpreted_memory(self._handle),)
        self.dead = False

    @property
    def pid(self) -> int:
        return os.getpid()

    def resume(self, spin_ns: int, worker_spin: int) -> int:
        return lib.SANDBOX_DIED if self.dead else lib.sandbox_interpreted_run(self._handle, _INLINE)

    async def wait(self) -> int:
        while True:
            turn = asyncio.ensure_future(asyncio.to_thread(lib.sandbox_interpreted_run, self._handle, _TURN))
            try:
                event = await asyncio.shield(turn)
            except asyncio.CancelledError:
                lib.sandbox_interpreted_stop(self._handle)  # the thread ends within a millisecond
                raise
            if self.dead:
                return lib.SANDBOX_DIED
            if event != lib.SANDBOX_BUSY:
                return event

    def kill(self) -> None:
        self.dead = True
        lib.sandbox_interpreted_stop(self._handle)

    def death(self) -> VMError:
        return InstanceStateError("the guest was stopped for good")


class InterpreterHome:
    """All guests of an engine with ``backend="interpreter"``."""

    interpreted = True

    def __init__(self) -> None:
        self._machines: weakref.WeakSet[Interpreted] = weakref.WeakSet()

    async def start(self) -> None:
        """There is nothing to prepare."""

    async def acquire(self, module: Module) -> Interpreted:
        machine = Interpreted(module._image)
        self._machines.add(machine)
        return machine

    async def release(self, module: Module, machine: Machine, *, reusable: bool) -> None:
        machine.kill()

    async def aclose(self) -> None:
        for machine in self._machines:
            machine.kill()
