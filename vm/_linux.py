# SPDX-License-Identifier: MIT
"""The Linux sandbox's home: the nursery of an engine, its workers, and the pool of idle ones."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import weakref
from typing import TYPE_CHECKING, cast

import aioring
from vm._nursery import Nursery
from vm._worker import Worker

if TYPE_CHECKING:
    from vm._config import Config
    from vm._machine import Machine
    from vm._module import Module


class LinuxHome:
    """All guests of an engine with ``sandbox="linux"``: a process each."""

    def __init__(self, config: Config, ring: aioring.Ring) -> None:
        self._config = config
        self._ring = ring
        self._open = True
        self._nursery: asyncio.Task[Nursery] | None = None
        self._workers: set[Worker] = set()
        self._spawns: set[asyncio.Task[Worker]] = set()
        self._loop = asyncio.get_running_loop()
        # least recently used first; an idle worker does not keep its module, but ends with it
        self._idle: dict[Worker, weakref.ref[Module]] = {}

    async def start(self) -> None:
        """Starts the nursery. Raises `SandboxError` that names the step which failed, and the remedy."""
        await self._ready_nursery()

    async def aclose(self) -> None:
        """Kills every process, waits until all are dead and frees everything."""
        self._open = False
        for worker in self._workers:
            worker.kill()
        await asyncio.gather(*self._spawns, return_exceptions=True)
        for worker in self._workers:  # spawned meanwhile
            worker.kill()
        await asyncio.gather(*(worker.gone() for worker in self._workers), return_exceptions=True)
        self._idle.clear()
        nursery, self._nursery = self._nursery, None
        if nursery is not None:
            try:
                started = await nursery
            except Exception:  # its starter was told
                pass
            else:
                await started.aclose()

    async def _ready_nursery(self) -> Nursery:
        if self._nursery is None:
            self._nursery = asyncio.create_task(Nursery.start(self._ring))
        task = self._nursery
        try:
            return await asyncio.shield(task)
        except Exception:
            if self._nursery is task:
                self._nursery = None
            raise

    async def _lost_nursery(self, nursery: Nursery) -> None:
        """`nursery` died, by whatever hand: the next request starts another."""
        task = self._nursery
        if task is not None and task.done() and not task.exception() and task.result() is nursery:
            self._nursery = None
            await nursery.aclose()

    async def acquire(self, module: Module) -> Worker:
        """A worker for `module`, reset, that nobody else has."""
        while module._idle:
            worker = module._idle.pop()
            del self._idle[worker]
            if worker.usable:
                return worker
            worker.kill()
        task = asyncio.create_task(self._spawn(module))
        self._spawns.add(task)
        task.add_done_callback(self._spawns.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # the nursery's answer has to be taken all the same
            task.add_done_callback(_kill_spawned)
            raise

    async def _spawn(self, module: Module) -> Worker:
        for attempt in (1, 2):
            worker = Worker(module._image, self._ring)
            nursery = await self._ready_nursery()
            self._workers.add(worker)
            try:
                await worker.start(nursery, self._forget)
            except ConnectionError:
                self._workers.discard(worker)
                await self._lost_nursery(nursery)
                if attempt == 2:
                    raise
            except BaseException:
                if not worker.has_process:
                    self._workers.discard(worker)
                raise
            else:
                return worker
        raise AssertionError("unreachable")

    def _forget(self, worker: Worker) -> None:
        """Its process is dead."""
        self._workers.discard(worker)
        self._take_from_idle(worker)

    def _take_from_idle(self, worker: Worker) -> bool:
        """Whether it was idle."""
        reference = self._idle.pop(worker, None)
        module = None if reference is None else reference()
        if module is not None:
            module._idle.remove(worker)
        return reference is not None

    def _orphan(self, worker: Worker, reference: weakref.ref[Module]) -> None:
        """The module of an idle worker is gone. Comes on any thread, at any time that garbage is collected."""
        if self._open:
            with contextlib.suppress(RuntimeError):  # the loop was closed, and nobody closed the engine
                self._loop.call_soon_threadsafe(self._retire, worker)

    def _retire(self, worker: Worker) -> None:
        if self._take_from_idle(worker):
            worker.kill()

    async def release(self, module: Module, machine: Machine, *, reusable: bool) -> None:
        """Takes a worker back: it is reset and kept, or killed."""
        worker = cast(Worker, machine)
        if reusable and self._open and worker.usable and self._config.reuse_workers and self._config.max_idle_workers:
            try:
                await worker.reset()
            except BaseException:
                worker.kill()
                raise
            if self._open and worker.usable:
                module._idle.append(worker)
                self._idle[worker] = weakref.ref(module, functools.partial(self._orphan, worker))
                while len(self._idle) > self._config.max_idle_workers:
                    self._retire(next(iter(self._idle)))
                return
        worker.kill()


def _kill_spawned(task: asyncio.Task[Worker]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().kill()
