# SPDX-License-Identifier: MIT
"""The Linux sandbox's home: the nursery of an engine, its workers, and those that it keeps ready."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import resource
import weakref
from collections.abc import Hashable
from time import monotonic_ns
from typing import TYPE_CHECKING, cast

from vm._cgroup import Cgroup
from vm._errors import InstanceStateError, SandboxError
from vm._nursery import Nursery
from vm._pool import NOBODY, Pool
from vm._restore import INLINE
from vm._threads import in_thread_until
from vm._worker import Worker

if TYPE_CHECKING:
    from vm._config import Config
    from vm._limits import CgroupLimits
    from vm._machine import Machine
    from vm._module import Module
    from vm._sandbox import CData
    from vm._snapshot import Snapshot
    from vm._statistics import Counters
    from vm._waiter import Waiter

_LOG = logging.getLogger("vm")


class LinuxHome:
    """All guests of an engine with ``sandbox="linux"``: a process each."""

    def __init__(self, config: Config, waiter: Waiter, counters: Counters) -> None:
        self._config = config
        self._counters = counters
        self._waiter = waiter
        self._open = True
        self._cgroup: Cgroup | None = None
        self._nursery: asyncio.Task[Nursery] | None = None
        self._workers: set[Worker] = set()
        self._spawns: set[asyncio.Task[Worker]] = set()
        self._pool = Pool(config.max_idle_workers)
        self._spares = min(config.spare_workers, config.max_idle_workers)

    @property
    def processes(self) -> int:
        return len(self._workers)

    @property
    def idle(self) -> int:
        return len(self._pool)

    async def start(self) -> None:
        """Starts the nursery. Raises `SandboxError` that names the step which failed, and the remedy."""
        _allow_open_files()
        if self._config.cgroup is not None:
            await in_thread_until(functools.partial(self._make_cgroup, self._config.cgroup))
        await self._ready_nursery()

    def _make_cgroup(self, limits: CgroupLimits) -> None:
        try:
            self._cgroup = Cgroup(limits)
        except SandboxError as error:
            if limits.required:
                raise
            _LOG.warning("no limits for all guests together: %s", error)

    async def aclose(self) -> None:
        """Kills every process, waits until all are dead and frees everything."""
        self._open = False
        for worker in self._workers:
            worker.kill()
        task = self._nursery
        if self._spawns and task is not None and task.done() and not task.exception():
            task.result().kill()  # it may be stopped (SIGSTOP), and its answer never come
        await asyncio.gather(*self._spawns, return_exceptions=True)
        for worker in self._workers:  # spawned meanwhile
            worker.kill()
        await asyncio.gather(*(worker.gone() for worker in self._workers), return_exceptions=True)
        self._pool.close()
        nursery, self._nursery = self._nursery, None
        if nursery is not None:
            try:
                started = await nursery
            except Exception:  # its starter was told
                pass
            else:
                await started.aclose()
        cgroup, self._cgroup = self._cgroup, None
        if cgroup is not None:
            await asyncio.to_thread(cgroup.close)

    async def _ready_nursery(self) -> Nursery:
        if self._nursery is None:
            self._nursery = asyncio.create_task(Nursery.start(self._waiter, self._cgroup))
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

    async def acquire(
        self, module: Module, tenant: Hashable, snapshot: Snapshot | None, *, lazy: bool = True
    ) -> Worker:
        """A worker for `module`, reset or in the state of `snapshot`, that nobody else has and no other tenant had.
        `lazy`: it may get the snapshot's pages when they are touched."""
        if self._config.reuse == "always":
            tenant = None
        worker = self._pool.take(module, tenant, snapshot)
        if worker is None:
            worker = await self._new_worker(module)
        if worker.tenant is not NOBODY:
            self._counters.reused += 1
        elif self._spares:
            self._refill(module, snapshot)
        worker.tenant = tenant
        if not worker.holds(snapshot):
            try:
                if snapshot is None:
                    await worker.reset()
                else:
                    await worker.restore(snapshot, pristine=worker.snapshot is None, lazy=lazy)
            except BaseException:
                worker.kill()
                raise
        return worker

    async def _new_worker(self, module: Module) -> Worker:
        while True:
            try:
                return await self._spawn_for(module)
            except SandboxError as error:
                if error.errno != errno.EAGAIN or not await self._make_room():
                    raise

    async def _make_room(self) -> bool:
        """There are as many processes as there may be: waits until that may be another one; False if nothing helps."""
        ending = self._pool.evict()
        if ending is None:
            ending = next((worker for worker in self._workers if worker.doomed and worker.has_process), None)
        if ending is not None:
            await ending.gone()
        elif self._spawns:  # it may be a spare one
            await asyncio.wait(self._spawns, return_when=asyncio.FIRST_COMPLETED)
        else:
            return False
        return self._open

    async def _spawn_for(self, module: Module) -> Worker:
        task = self._start_spawning(module)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # the nursery's answer has to be taken all the same
            task.add_done_callback(_kill_spawned)
            raise

    def _start_spawning(self, module: Module, state: weakref.ref[Snapshot] | None = None) -> asyncio.Task[Worker]:
        task = asyncio.create_task(self._spawn_in(module._image, state))
        self._spawns.add(task)
        task.add_done_callback(self._spawns.discard)
        return task

    def _refill(self, module: Module, snapshot: Snapshot | None) -> None:
        """Starts spare workers until there are enough, in the state of `snapshot` if that is worthwhile. One that
        cannot be started is no error: the next instance tries again, and tells."""
        reference = weakref.ref(module)
        state = weakref.ref(snapshot) if snapshot is not None and _is_kept(snapshot) else None

        def spawned(task: asyncio.Task[Worker]) -> None:
            module = reference()
            if module is not None:
                module._spawning -= 1
            if task.cancelled() or task.exception() is not None:
                return
            if module is not None and self._open:
                self._pool.put(module, task.result())
            else:
                task.result().kill()

        while self._pool.spares(module) + module._spawning < self._spares:
            module._spawning += 1
            self._start_spawning(module, state).add_done_callback(spawned)

    async def _spawn_in(self, image: CData, state: weakref.ref[Snapshot] | None) -> Worker:
        """A new worker, in the state of a snapshot if that is still there."""
        worker = await self._spawn(image)
        snapshot = None if state is None else state()
        if snapshot is not None and _is_kept(snapshot):
            try:
                # in a thread, however short: the loop has other work, such as the instance that took the last spare one
                await worker.restore(snapshot, pristine=True, inline=0)
            except BaseException:
                worker.kill()
                raise
        return worker

    async def _spawn(self, image: CData) -> Worker:
        started = monotonic_ns()
        for attempt in (1, 2):
            worker = Worker(image, self._waiter)
            nursery = await self._ready_nursery()
            self._workers.add(worker)
            try:
                await worker.start(nursery, self._forget)
            except ConnectionError:
                self._workers.discard(worker)
                await self._lost_nursery(nursery)
                if not self._open:
                    raise InstanceStateError("the engine was closed") from None
                if attempt == 2:
                    raise SandboxError("a worker: its nursery was killed, and so was the next one") from None
                _LOG.warning("the process that starts workers died; starting another")
            except BaseException:
                if worker.has_process:
                    self._counters.spawned += 1
                else:
                    self._workers.discard(worker)
                raise
            else:
                self._counters.spawned += 1
                self._counters.spawn_time.add(monotonic_ns() - started)
                _LOG.debug("worker %d started", worker.pid)
                return worker
        raise AssertionError("unreachable")

    def _forget(self, worker: Worker) -> None:
        """Its process is dead."""
        self._counters.killed += 1
        if not worker.doomed and self._cgroup is not None:
            worker.out_of_memory = self._cgroup.out_of_memory()
        if worker.doomed:
            _LOG.debug("worker %d is gone", worker.pid)
        else:
            _LOG.info("%s", str(worker.death()))
        self._workers.discard(worker)
        self._pool.remove(worker)

    async def release(self, module: Module, machine: Machine, *, reusable: bool) -> None:
        """Takes a worker back: it is reset, maybe to the snapshot that it started from, and kept, or killed."""
        worker = cast(Worker, machine)
        if (
            reusable
            and self._open
            and worker.usable
            and self._config.reuse != "never"
            and self._config.max_idle_workers
        ):
            try:
                snapshot = None if worker.snapshot is None else worker.snapshot()
                if snapshot is not None and _is_kept(snapshot):
                    await worker.restore(snapshot, pristine=False)
                else:
                    await worker.reset()
            except BaseException:
                worker.kill()
                raise
            if self._open and worker.usable:
                self._pool.put(module, worker)
                return
        worker.kill()


def _is_kept(snapshot: Snapshot) -> bool:
    """Whether idle workers are to be in the state of the snapshot: it is open and small, and to restore it is more than
    to note where its pages are, as with dynamic paging."""
    paged = snapshot.module.config.dynamic_paging
    return snapshot._handle is not None and not paged and snapshot.resident_size <= INLINE


def _allow_open_files() -> None:
    """Raises this process's limit on open files as far as it may: every guest takes two or three."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # less has to do, too
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _kill_spawned(task: asyncio.Task[Worker]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().kill()
