# SPDX-License-Identifier: MIT
"""The engine: owns the processes that guests run in."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final

import aioring
from vm._config import Config, ModuleConfig
from vm._errors import InstanceStateError
from vm._module import Module, compile_image
from vm._nursery import Nursery
from vm._worker import Worker
from vm.memory_map import MemoryMap
from vm.program import BytesLike, ProgramBlob

#: Rounds (about 40 ns each) for which a worker polls after it stopped, while guests do not outnumber processors.
_WORKER_SPIN: Final = 1000


class Engine:
    """Compiles programs and runs them in sandboxed processes, from the event loop that it was entered in.

    An async context manager: entering starts the nursery, leaving kills every process, whatever happens.
    """

    #: No chain of short runs holds the event loop longer than this (nanoseconds).
    YIELD_NS: Final = 1_000_000

    def __init__(self, config: Config | None = None) -> None:
        self.config = Config() if config is None else config
        self._exit = AsyncExitStack()
        self._open = False
        self._ring: aioring.Ring | None = None
        self._nursery: asyncio.Task[Nursery] | None = None
        self._workers: set[Worker] = set()
        self._spawns: set[asyncio.Task[Worker]] = set()
        self._compiling: set[asyncio.Task[Module]] = set()
        # least recently used first
        self._idle: dict[Worker, Module] = {}
        self._processors = len(os.sched_getaffinity(0))
        self._running = 0
        self._yielded = 0
        self._spin_ns = int(self.config.spin * 1e9)
        self._worker_spin = _WORKER_SPIN

    # --- life ---

    async def __aenter__(self) -> Engine:
        """Raises `SandboxError` or `aioring.RingUnavailableError` with the remedy if this machine cannot do it."""
        if self._open or self._ring is not None:
            raise InstanceStateError("the engine was entered already")
        self._ring = await self._exit.enter_async_context(aioring.open_ring())
        self._open = True
        try:
            await self._ready_nursery()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Kills every process, waits until all are dead and frees everything. May be called again."""
        self._open = False
        closing = asyncio.create_task(self._close())
        cancelled: asyncio.CancelledError | None = None
        while not closing.done():
            # nothing may outlive this: it takes milliseconds, and every wait in it ends with a death
            try:
                await asyncio.wait([closing])
            except asyncio.CancelledError as error:
                cancelled = error
        closing.result()
        if cancelled is not None:
            raise cancelled

    async def _close(self) -> None:
        await asyncio.gather(*self._compiling, return_exceptions=True)
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
        await self._exit.aclose()

    # --- compiling ---

    async def compile(
        self, source: BytesLike | ProgramBlob | str | os.PathLike[str], config: ModuleConfig | None = None
    ) -> Module:
        """Compiles a program, given as a blob's bytes, a parsed blob or the path of a file; off the loop's thread.

        Raises `ProgramParseError` if it is no program, `MemoryMapError` if its memory does not fit with `config`,
        `CompileError` if it cannot be compiled, OSError if the file cannot be read.
        """
        self._check_open()
        settings = ModuleConfig() if config is None else config

        def work() -> Module:
            if isinstance(source, ProgramBlob):
                blob = source
            elif isinstance(source, str | os.PathLike):
                blob = ProgramBlob.parse(Path(source).read_bytes())
            else:
                blob = ProgramBlob.parse(source)
            memory_map = MemoryMap(
                ro_size=blob.ro_data_size,
                rw_size=blob.rw_data_size,
                stack_size=blob.stack_size,
                aux_size=settings.aux_data_size,
                page_size=settings.page_size,
            )
            return Module(self, blob, settings, memory_map, compile_image(blob, memory_map))

        task = asyncio.create_task(asyncio.to_thread(work))
        self._compiling.add(task)
        task.add_done_callback(self._compiled)
        # a thread cannot be cancelled: closing waits for it
        return await asyncio.shield(task)

    def _compiled(self, task: asyncio.Task[Module]) -> None:
        self._compiling.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also if nobody awaits it any more

    # --- processes ---

    def _check_open(self) -> aioring.Ring:
        if not self._open or self._ring is None:
            raise InstanceStateError("the engine is not open: use 'async with vm.Engine() as engine'")
        return self._ring

    async def _ready_nursery(self) -> Nursery:
        if self._nursery is None:
            self._nursery = asyncio.create_task(Nursery.start(self._check_open()))
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

    async def _acquire(self, module: Module) -> Worker:
        """A worker for `module`, reset, that nobody else has."""
        self._check_open()
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
            worker = Worker(module._image, self._check_open())
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
        module = self._idle.pop(worker, None)
        if module is not None:
            module._idle.remove(worker)

    async def _release(self, module: Module, worker: Worker, *, reusable: bool) -> None:
        """Takes a worker back: it is reset and kept, or killed."""
        if reusable and self._open and worker.usable and self.config.reuse_workers and self.config.max_idle_workers:
            try:
                await worker.reset()
            except BaseException:
                worker.kill()
                raise
            if self._open and worker.usable:
                module._idle.append(worker)
                self._idle[worker] = module
                while len(self._idle) > self.config.max_idle_workers:
                    oldest = next(iter(self._idle))
                    self._idle.pop(oldest)._idle.remove(oldest)
                    oldest.kill()
                return
        worker.kill()

    # --- time ---

    def _may_spin(self) -> bool:
        """Whether a processor is left for the event loop to poll on while another guest runs."""
        return self._running + 2 <= self._processors

    async def _yield(self) -> None:
        """Gives the event loop its turn after a run of calls that never had to wait."""
        await asyncio.sleep(0)
        self._yielded = time.monotonic_ns()


def _kill_spawned(task: asyncio.Task[Worker]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().kill()
