# SPDX-License-Identifier: MIT
"""The engine: owns the processes that guests run in."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import time
from collections.abc import Coroutine, Hashable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, Literal

import aioring
from vm._admission import Admission
from vm._compile import Source, load_module, make_module
from vm._config import Config, ModuleConfig
from vm._crosschecked import CrosscheckHome
from vm._errors import InstanceStateError
from vm._execution import Execution
from vm._generic import GenericHome
from vm._interpreted import InterpreterHome
from vm._limits import Limits
from vm._linux import LinuxHome
from vm._machine import Home, Machine
from vm._module import Module
from vm._module_cache import ModuleCache
from vm._module_file import prepare_directory
from vm._monitor import Monitor
from vm._snapshot import Snapshot
from vm._snapshot_file import parse_snapshot, read_snapshot
from vm._statistics import Counters, Statistics
from vm._threads import in_thread, in_thread_until
from vm._waiter import Waiter, open_waiter
from vm.program import BytesLike, ProgramBlob

#: Rounds (about 40 ns each) for which a worker polls after it stopped, while guests do not outnumber processors:
#: about as long as a host function that copies a megabyte, because waking a worker takes half as long again.
_WORKER_SPIN: Final = 4000

#: Bytes that take no longer to hash than to hand to a thread.
_HASH_INLINE: Final = 1 << 16


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
        self._entered = False
        self._waiter: Waiter | None = None
        self._compiling: set[asyncio.Task[Module]] = set()
        self._modules = ModuleCache(self.config.module_cache_size)
        self._directory: str | None = None
        self._home: Home | None = None
        self._processors = len(os.sched_getaffinity(0))
        self._admission = Admission(self._max_running())
        self._counters = Counters()
        self._monitor: Monitor | None = None
        self._closing: asyncio.Task[None] | None = None
        # of the instances that are open
        self._executions: set[Execution] = set()
        self._yielded = 0
        self._spin_ns = int(self.config.spin * 1e9)
        self._worker_spin = _WORKER_SPIN if self._spin_ns else 0
        self._most_polled = sys.maxsize if self.config.runs_in_process else self._processors - 1

    # --- life ---

    async def __aenter__(self) -> Engine:
        """Raises `SandboxError` with the remedy if this machine cannot do it, `aioring.RingUnavailableError` if
        `Config.waiting` insists on io_uring, `ModuleLoadError` if `Config.cache_directory` cannot be used, OSError if
        `Config.monitor` cannot.
        """
        if self._entered:
            raise InstanceStateError("the engine was entered already")
        self._entered = self._open = True
        try:
            if self.config.cache_directory is not None:
                self._directory = await asyncio.to_thread(prepare_directory, os.fspath(self.config.cache_directory))
            if self.config.backend == "interpreter":
                self._home = InterpreterHome(self._counters)
            elif self.config.crosscheck:
                self._home = CrosscheckHome(self.config, await self._open_waiter(), self._counters)
            elif self.config.sandbox == "generic":
                self._home = GenericHome(self._counters)
            else:
                self._home = LinuxHome(self.config, await self._open_waiter(), self._counters)
            await self._home.start()
            if self.config.monitor:
                self._monitor = Monitor(self)
                await self._monitor.start()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def _open_waiter(self) -> Waiter:
        self._waiter = await self._exit.enter_async_context(open_waiter(self.config.waiting))
        return self._waiter

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Kills every process, waits until all are dead and frees everything. May be called again."""
        self._open = False
        if self._closing is None or self._closing.done():
            self._closing = asyncio.create_task(self._close())
        closing = self._closing  # one for all who close it at once: each returns when everything is gone
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
        if self._monitor is not None:
            await self._monitor.aclose()
        await asyncio.gather(*self._compiling, return_exceptions=True)
        self._admission.close()
        self._modules.clear()
        if self._home is not None:
            await self._home.aclose()
        await self._exit.aclose()

    @property
    def waiting(self) -> Literal["io_uring", "threads"] | None:
        """What waits for guests (`Config.waiting`); None before it is entered, and if they run in this process."""
        if self._waiter is None:
            return None
        return "io_uring" if isinstance(self._waiter, aioring.Ring) else "threads"

    # --- compiling ---

    async def compile(
        self, source: BytesLike | ProgramBlob | str | os.PathLike[str], config: ModuleConfig | None = None
    ) -> Module:
        """Compiles a program, given as a blob's bytes, a parsed blob or the path of a file; off the loop's thread.

        What was compiled before with equal settings comes from the engine's cache (`Config.module_cache_size`) or
        from its directory (`Config.cache_directory`); a file there that is of no use is logged, to ``vm``, and written
        again. Of several who ask for the same at once, one compiles.

        Raises `ProgramParseError` if it is no program, `MemoryMapError` if its memory does not fit with `config`,
        `CompileError` if it cannot be compiled, OSError if the file cannot be read.
        """
        self._check_open()
        return await self._finish(self._compile(source, ModuleConfig() if config is None else config))

    async def load(self, path: str | os.PathLike[str], config: ModuleConfig | None = None) -> Module:
        """The module in a file that `Module.save` wrote; only read, checked and mapped.

        What a guest's native code does stays in its sandbox, but it must be the recompiler's own to do what the program
        says. So the file must belong to the effective user of this process (root's to root), be a regular file with one
        name that only this user may write, and no directory on the way to it may be one where somebody else could
        exchange it: each belongs to this user or root, and neither group nor others may write it, unless it is sticky
        as /tmp is. It must be whole, made by the same build of this package for the same backend and a processor with
        the same features; and with `config` compiled with equal settings.

        Raises `ModuleLoadError` if any of that is not so, OSError if the file cannot be read, `CompileError` if there
        is not enough memory or too many files are open.
        """
        self._check_open()
        return await self._finish(self._load(os.fspath(path), config))

    async def load_snapshot(self, source: BytesLike | str | os.PathLike[str], module: Module) -> Snapshot:
        """The snapshot of a guest of `module` in a file that `Snapshot.save` wrote, or in the bytes of one.

        The program and all settings (`ModuleConfig`) have to be the same; backend and sandbox do not matter. The file
        need not be trusted: it decides over registers and memory of the guests that start from it, as a guest itself
        can, and over nothing else.

        Raises `SnapshotLoadError` that names the place if it is damaged, no snapshot, or not one of `module`; OSError
        if the file cannot be read; `InstanceStateError` if the engine is closed or the module is another engine's;
        ValueError for a module whose program no blob can hold.
        """
        self._check_open()
        if module._engine is not self:
            raise InstanceStateError("the module belongs to another engine")
        if isinstance(source, str | os.PathLike):
            read = functools.partial(read_snapshot, os.fspath(source), module)
        else:
            read = functools.partial(parse_snapshot, source, module)
        handle, held = await in_thread_until(read)
        return Snapshot(module, handle, held)

    async def _finish(self, work: Coroutine[Any, Any, Module]) -> Module:
        """Awaits it; closing waits for it too, cancelled or not: a thread cannot be cancelled."""
        task = asyncio.create_task(work)
        self._compiling.add(task)
        task.add_done_callback(self._compiled)
        return await asyncio.shield(task)

    def _compiled(self, task: asyncio.Task[Module]) -> None:
        self._compiling.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also if nobody awaits it any more

    async def _compile(self, given: BytesLike | ProgramBlob | str | os.PathLike[str], config: ModuleConfig) -> Module:
        read = functools.partial(
            Source.of,
            given,
            config,
            self.config.backend,
            known=self.config.module_cache_size > 0 or self._directory is not None,
        )
        inline = isinstance(given, bytes) and len(given) <= _HASH_INLINE
        source = read() if inline else await in_thread(read)
        return await self._modules.get(
            source.key, lambda: in_thread(make_module, self, source, config, self._directory)
        )

    async def _load(self, path: str, config: ModuleConfig | None) -> Module:
        # all of it is looked at, also of a module that is known: an error does not depend on that
        key, module = await in_thread(load_module, self, path, config)
        return self._modules.add(key, module)

    # --- what it does ---

    def statistics(self) -> Statistics:
        """What the engine has to do now, and did since it was made; of a closed engine, too. From any thread."""
        counters, home, admission = self._counters, self._home, self._admission
        return Statistics(
            alive=len(self._executions),
            running=admission.running,
            waiting=admission.waiting,
            idle=0 if home is None else home.idle,
            processes=0 if home is None else home.processes,
            spawned=counters.spawned,
            reused=counters.reused,
            killed=counters.killed,
            offended=counters.offended,
            host_calls=counters.host_calls,
            page_faults=counters.page_faults + sum(execution.faults_served() for execution in list(self._executions)),
            spawn_time=counters.spawn_time.take(),
            queue_time=counters.queue_time.take(),
            run_time=counters.run_time.take(),
        )

    # --- guests ---

    def _check_open(self) -> None:
        if not self._open:
            raise InstanceStateError("the engine is not open: use 'async with vm.Engine() as engine'")

    async def _acquire(self, module: Module, tenant: Hashable, snapshot: Snapshot | None) -> Machine:
        self._check_open()
        assert self._home is not None
        if snapshot is not None:
            snapshot._open_handle()
        return await self._home.acquire(module, tenant, snapshot)

    async def _release(self, module: Module, machine: Machine, *, reusable: bool) -> None:
        assert self._home is not None
        await self._home.release(module, machine, reusable=reusable and self._open)

    def _execution(self, machine: Machine, limits: Limits, *, paged: bool, held: int | None) -> Execution:
        """For the guest of a new instance."""
        return Execution(self, machine, limits, paged=paged, held=held)

    def _max_running(self) -> int:
        if self.config.max_running is None:
            return 0 if self.config.crosscheck else self._processors
        return self.config.max_running

    # --- time ---

    async def _yield(self) -> None:
        """Gives the event loop its turn after a run of calls that never had to wait."""
        await asyncio.sleep(0)
        self._yielded = time.monotonic_ns()
