# SPDX-License-Identifier: MIT
"""Worker processes that no instance has: used ones, each for its tenant, and spare ones that nobody used yet."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import weakref
from collections.abc import Hashable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vm._module import Module
    from vm._snapshot import Snapshot
    from vm._worker import Worker


class _Nobody:
    """The tenant of a worker that was never used; not one that a caller can name."""


NOBODY: Final = _Nobody()


class Pool:
    """At most `size` idle workers, over all modules; the longest idle ones go first, and those whose module goes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._open = True
        self._loop = asyncio.get_running_loop()
        # longest idle first; an idle worker does not keep its module, but ends with it
        self._idle: dict[Worker, weakref.ref[Module]] = {}

    def __len__(self) -> int:
        return len(self._idle)

    def take(self, module: Module, tenant: Hashable, snapshot: Snapshot | None) -> Worker | None:
        """A worker that served `tenant` last, or nobody yet, preferably one that holds `snapshot`; None if there is
        none."""
        for whose in (tenant, NOBODY):
            idle = module._idle.get(whose)
            while idle:
                worker = next((worker for worker in reversed(idle) if worker.holds(snapshot)), idle[-1])
                idle.remove(worker)
                if not idle:
                    del module._idle[whose]
                del self._idle[worker]
                if worker.usable:
                    return worker
                worker.kill()
        return None

    def put(self, module: Module, worker: Worker) -> None:
        """Keeps it, for `worker.tenant`."""
        if not self._open or not self._size:
            worker.kill()
            return
        module._idle.setdefault(worker.tenant, []).append(worker)
        self._idle[worker] = weakref.ref(module, functools.partial(self._orphan, worker))
        if len(self._idle) > self._size:
            self._retire(next(iter(self._idle)))

    def spares(self, module: Module) -> int:
        """How many workers are there that nobody used yet."""
        return len(module._idle.get(NOBODY, ()))

    def remove(self, worker: Worker) -> bool:
        """Forgets it; whether it was idle."""
        reference = self._idle.pop(worker, None)
        module = None if reference is None else reference()
        if module is not None:
            idle = module._idle[worker.tenant]
            idle.remove(worker)
            if not idle:
                del module._idle[worker.tenant]
        return reference is not None

    def evict(self) -> Worker | None:
        """Kills the one that was idle for longest, if there is one."""
        worker = next(iter(self._idle), None)
        if worker is not None:
            self._retire(worker)
        return worker

    def close(self) -> None:
        """Forgets all, and keeps none any more."""
        self._open = False
        self._idle.clear()

    def _orphan(self, worker: Worker, reference: weakref.ref[Module]) -> None:
        """The module of an idle worker is gone. Comes on any thread, at any time that garbage is collected."""
        if self._open:
            with contextlib.suppress(RuntimeError):  # the loop was closed, and nobody closed the engine
                self._loop.call_soon_threadsafe(self._retire, worker)

    def _retire(self, worker: Worker) -> None:
        if self.remove(worker):
            worker.kill()
