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
from vm._crosschecked import CrosscheckHome
from vm._errors import InstanceStateError
from vm._interpreted import InterpreterHome
from vm._linux import LinuxHome
from vm._machine import Home, Machine
from vm._module import Module, compile_image
from vm.memory_map import MemoryMap
from vm.program import BytesLike, ProgramBlob

#: Rounds (about 40 ns each) for which a worker polls after it stopped, while guests do not outnumber processors:
#: about as long as a host function that copies a megabyte, because waking a worker takes half as long again.
_WORKER_SPIN: Final = 4000


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
        self._compiling: set[asyncio.Task[Module]] = set()
        self._home: Home | None = None
        self._processors = len(os.sched_getaffinity(0))
        self._running = 0
        self._yielded = 0
        self._spin_ns = int(self.config.spin * 1e9)

    # --- life ---

    async def __aenter__(self) -> Engine:
        """Raises `SandboxError` or `aioring.RingUnavailableError` with the remedy if this machine cannot do it."""
        if self._open or self._ring is not None:
            raise InstanceStateError("the engine was entered already")
        self._ring = await self._exit.enter_async_context(aioring.open_ring())
        self._open = True
        try:
            if self.config.backend == "interpreter":
                self._home = InterpreterHome()
            elif self.config.crosscheck:
                self._home = CrosscheckHome(self.config, self._ring)
            else:
                self._home = LinuxHome(self.config, self._ring)
            await self._home.start()
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
        if self._home is not None:
            await self._home.aclose()
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
        interpreted = self.config.backend == "interpreter"

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
            image = compile_image(blob, settings, memory_map, interpreted=interpreted)
            reference = None
            if self.config.crosscheck:
                reference = compile_image(blob, settings, memory_map, interpreted=True)
            return Module(self, blob, settings, memory_map, image, reference)

        task = asyncio.create_task(asyncio.to_thread(work))
        self._compiling.add(task)
        task.add_done_callback(self._compiled)
        # a thread cannot be cancelled: closing waits for it
        return await asyncio.shield(task)

    def _compiled(self, task: asyncio.Task[Module]) -> None:
        self._compiling.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also if nobody awaits it any more

    # --- guests ---

    def _check_open(self) -> aioring.Ring:
        if not self._open or self._ring is None:
            raise InstanceStateError("the engine is not open: use 'async with vm.Engine() as engine'")
        return self._ring

    async def _acquire(self, module: Module) -> Machine:
        self._check_open()
        assert self._home is not None
        return await self._home.acquire(module)

    async def _release(self, module: Module, machine: Machine, *, reusable: bool) -> None:
        assert self._home is not None
        await self._home.release(module, machine, reusable=reusable and self._open)

    # --- time ---

    def _may_spin(self) -> bool:
        """Whether a processor is left for the event loop to poll on while another guest runs."""
        return self._running + 2 <= self._processors

    def _worker_spin(self) -> int:
        """Rounds for which a worker polls for its host once it has stopped."""
        return _WORKER_SPIN if self._spin_ns and self._may_spin() else 0

    async def _yield(self) -> None:
        """Gives the event loop its turn after a run of calls that never had to wait."""
        await asyncio.sleep(0)
        self._yielded = time.monotonic_ns()
