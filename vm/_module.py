# SPDX-License-Identifier: MIT
"""A compiled program."""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from collections.abc import Hashable
from typing import TYPE_CHECKING

from vm._config import ModuleConfig
from vm._errors import InstanceStateError
from vm._instance import Instance
from vm._module_file import pack_module, program_bytes, write_file
from vm._sandbox import ffi, lib
from vm._threads import in_thread_until
from vm.debug_info import DebugInfo
from vm.isa import InstructionSet
from vm.memory_map import MemoryMap
from vm.program import ProgramBlob

if TYPE_CHECKING:
    from vm._engine import Engine
    from vm._limits import Limits
    from vm._sandbox import CData
    from vm._snapshot import Snapshot
    from vm._worker import Worker


class Module:
    """A compiled program, shared by any number of instances; made by `Engine.compile` and `Engine.load`.

    It is freed when nothing refers to it any more, which the engine's cache does for a while; the idle processes of its
    instances end then.
    """

    def __init__(
        self,
        engine: Engine,
        blob: ProgramBlob,
        config: ModuleConfig,
        memory_map: MemoryMap,
        image: CData,
        reference: CData | None = None,
    ) -> None:
        self._engine = engine
        self._image = image
        # for the interpreter that checks it, if the engine has one do so
        self._reference = reference
        # idle workers by tenant, and how many spare ones are being started (vm._pool)
        self._idle: dict[Hashable, list[Worker]] = {}
        self._spawning = 0
        #: The program.
        self.blob = blob
        self.config = config
        #: Where the guest's memory regions are.
        self.memory_map = memory_map
        #: Code offset by name; of exports with the same name the first counts.
        self.exports: dict[str, int] = {}
        for export in blob.exports:
            self.exports.setdefault(export.name, export.pc)

    @property
    def isa(self) -> InstructionSet:
        """The instruction set that the program is written in."""
        return self.blob.isa

    @property
    def imports(self) -> tuple[bytes | None, ...]:
        """Symbols of the imports by host call number; None for one that the blob leaves without."""
        return self.blob.imports

    @functools.cached_property
    def debug_info(self) -> DebugInfo:
        """The debug information of the program: from a code offset to functions and source lines."""
        return DebugInfo(self.blob)

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the program as a blob (`ProgramBlob.to_bytes`), in hexadecimal."""
        return hashlib.sha256(self.blob.to_bytes()).hexdigest()

    @functools.cached_property
    def _program_digest(self) -> bytes:
        """SHA-256 of the blob's bytes. Raises ValueError if it has none."""
        program = program_bytes(self.blob)
        if program is None:
            raise ValueError("the program cannot be saved: no blob has fields like these")
        return hashlib.sha256(program).digest()

    @property
    def native_size(self) -> int:
        """Bytes of native code; 0 for the interpreter."""
        return int(lib.sandbox_image_code_size(self._image))

    def native_code(self) -> bytes:
        """A copy of the native code."""
        size = self.native_size
        buffer = ffi.new("uint8_t[]", size)
        return bytes(ffi.buffer(buffer, lib.sandbox_image_read_code(self._image, 0, buffer, size)))

    def native_offset(self, pc: int) -> int | None:
        """Where in the native code the instruction at code offset `pc` begins, in bytes from the start.

        An instruction that needs no native code has the offset of the next one; the trap where control would run into
        no instruction has one, too. None elsewhere, and always for the interpreter.
        """
        offset = int(lib.sandbox_image_native_offset(self._image, pc)) if 0 <= pc < 1 << 32 else -1
        return None if offset < 0 else offset

    def gas_cost(self, pc: int) -> int | None:
        """Gas of the whole block that holds the instruction at code offset `pc`, by the module's cost model.

        None if no block holds it; 1 for any instruction with per-instruction metering.
        """
        cost = int(lib.sandbox_image_gas_cost(self._image, pc)) if 0 <= pc < 1 << 32 else -1
        if cost < 0:
            return None
        return 1 if self.config.per_instruction_metering else cost

    async def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the compiled module to a file, which `Engine.load` takes: program, settings and native code.

        The file is made or replaced as a whole: it is written beside its place under another name, readable by its user
        alone, brought to the disk and renamed. An error or a cancellation leaves what was there before, and nothing
        else. Works after the engine was closed, too.

        Raises OSError, ValueError for a program that was put together by hand and that no blob can hold, and
        `InstanceStateError` for native code that is for this process (`Config.sandbox`).
        """
        if self._engine.config.runs_in_process:
            raise InstanceStateError("native code for this process (sandbox 'generic') is not saved")
        stop = threading.Event()  # the thread gives up soon, and takes away what it wrote
        await in_thread_until(functools.partial(_save, self, os.fspath(path), stop), stop)

    def _pack(self, program: bytes) -> list[bytes | memoryview]:
        """The parts of a file that holds this module, with the bytes of its blob."""
        if self._engine.config.backend == "interpreter":
            return pack_module("interpreter", self.config, program)
        tables = bytearray(lib.sandbox_image_tables_size(self._image))
        lib.sandbox_image_write_tables(self._image, ffi.from_buffer("uint8_t[]", tables))
        return pack_module("recompiler", self.config, program, self.native_code(), memoryview(tables))

    async def instantiate(self, *, limits: Limits | None = None, tenant: Hashable = None) -> Instance:
        """A new instance, in a process of its own, whose host calls come back from `Instance.run`.

        `limits` go with `Config.limits`: of each the stricter counts. `tenant` is on whose behalf it runs: a process
        that served one tenant serves no other (`Config.reuse`).

        `Linker.instantiate` makes one that serves host calls. Raises `SandboxError` if no process can be had,
        `InstanceStateError` if the engine is closed, `LimitError` if the program's stack and initial data take more
        than the limit of memory, ValueError for a limit of gas if the module is not metered.
        """
        return await self._start(None, limits, tenant)

    async def _start(self, snapshot: Snapshot | None, limits: Limits | None, tenant: Hashable) -> Instance:
        """A new instance, as the program begins or as `snapshot` has it."""
        engine = self._engine
        strictest = engine.config.limits if limits is None else engine.config.limits & limits
        if strictest.gas is not None and self.config.gas_metering is None:
            raise ValueError("a limit of gas: the module is not metered (ModuleConfig.gas_metering)")
        machine = await engine._acquire(self, tenant, snapshot)
        try:
            return Instance(self, machine, strictest, None if snapshot is None else snapshot._held)
        except BaseException:
            await engine._release(self, machine, reusable=False)
            raise

    def __repr__(self) -> str:
        return f"<Module {self.isa.label}, {len(self.blob.code)} bytes of code, {self.native_size} native>"


def _save(module: Module, path: str, stop: threading.Event) -> None:
    program = program_bytes(module.blob)
    if program is None:
        raise ValueError("the program cannot be saved: no blob has fields like these")
    write_file(path, module._pack(program), durable=True, stopped=stop.is_set)
