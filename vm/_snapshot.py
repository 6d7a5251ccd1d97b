# SPDX-License-Identifier: MIT
"""The state of a guest, kept to start others from."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable
from types import TracebackType
from typing import TYPE_CHECKING

from vm._errors import InstanceStateError
from vm._module_file import write_file
from vm._restore import size_of
from vm._sandbox import ffi, lib
from vm._snapshot_file import pack_snapshot
from vm._threads import in_thread_until

if TYPE_CHECKING:
    from vm._instance import Instance
    from vm._limits import Limits
    from vm._module import Module
    from vm._sandbox import CData


class Snapshot:
    """Registers and memory of a stopped guest, from which any number of instances start.

    Made by `Instance.snapshot` and `Engine.load_snapshot`.

    It has memory of its own, with the pages that differ from what the program begins with, and no file. That is freed
    when nothing refers to it any more, or by `aclose`; instances that were made of it go on. An async context manager:
    leaving it closes it.
    """

    def __init__(self, module: Module, handle: CData, held: int | None) -> None:
        self._handle: CData | None = handle
        # what the guest stopped with and `Instance.run` has not told
        self._held = held
        #: Bytes of stack, read-write data and heap that an instance has to be allowed: `Limits.memory`.
        self.memory_size = int(lib.sandbox_snapshot_memory_needed(handle))
        #: Bytes of memory that it takes: its pages.
        self.resident_size = size_of(handle)
        #: The compiled program.
        self.module = module

    def _open_handle(self) -> CData:
        if self._handle is None:
            raise InstanceStateError("the snapshot is closed")
        return self._handle

    async def instantiate(self, *, limits: Limits | None = None, tenant: Hashable = None) -> Instance:
        """A new instance with registers, memory and program counter as they were: `Instance.run` goes on where the
        other guest stopped, `Instance.call` begins anew. Host calls come back from `run`; `Linker.instantiate` makes
        one that serves them.

        Arguments and errors are those of `Module.instantiate`. A limit of gas is what the instance starts with, instead
        of what was left; of memory it must not be less than `memory_size`. Processor time starts at 0. Raises
        `InstanceStateError` also if the snapshot is closed.
        """
        return await self.module._start(self, limits, tenant)

    async def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the snapshot to a file, which `Engine.load_snapshot` takes: all of it, or nothing at all, as
        `Module.save` does, also when the engine is closed.

        Raises OSError, ValueError for a program that was put together by hand and that no blob can hold, and
        `InstanceStateError` if the snapshot is closed.
        """
        target, stop, handle = os.fspath(path), threading.Event(), self._open_handle()

        def save() -> None:
            parts = pack_snapshot(self.module, handle, self._held, self.module._program_digest)
            write_file(target, parts, durable=True, stopped=stop.is_set)

        await in_thread_until(save, stop)

    def to_bytes(self) -> bytes:
        """What `save` writes. Raises ValueError and `InstanceStateError` as it does."""
        return b"".join(pack_snapshot(self.module, self._open_handle(), self._held, self.module._program_digest))

    async def aclose(self) -> None:
        """Frees its memory; may be called again. Instances that come from it go on."""
        self._handle = None  # whoever uses it in a thread, or gets pages from it, keeps it

    async def __aenter__(self) -> Snapshot:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        state = "closed" if self._handle is None else f"{self.resident_size} bytes of pages"
        return f"<Snapshot {state}>"


def take_snapshot(memory: CData, guest: CData) -> CData:
    """The C object for a stopped guest. Raises MemoryError and OSError."""
    result = ffi.new("sandbox_snapshot **")
    error = lib.sandbox_snapshot_take(memory, guest, result)
    if error < 0:
        raise OSError(-error, os.strerror(-error), "taking a snapshot")
    return ffi.gc(result[0], lib.sandbox_snapshot_release)
