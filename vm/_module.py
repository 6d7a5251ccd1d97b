# SPDX-License-Identifier: MIT
"""A compiled program."""

from __future__ import annotations

import errno
import functools
from typing import TYPE_CHECKING

from vm._config import ModuleConfig
from vm._errors import CompileError
from vm._instance import Instance
from vm._sandbox import ffi, lib
from vm.debug_info import DebugInfo
from vm.isa import InstructionSet
from vm.memory_map import MemoryMap
from vm.program import ProgramBlob

if TYPE_CHECKING:
    from vm._engine import Engine
    from vm._sandbox import CData
    from vm._worker import Worker


_METERING = {None: 0, "sync": 1, "async": 2}


def compile_image(blob: ProgramBlob, config: ModuleConfig, memory_map: MemoryMap, *, interpreted: bool) -> CData:
    """Recompiles a program into a sealed image, or decodes it for the interpreter; takes milliseconds per megabyte,
    without the GIL.

    Raises `CompileError`. The result is freed with its last reference.
    """
    pointers = [ffi.from_buffer(b) for b in (blob.code, blob.bitmask, blob.jump_table, blob.ro_data, blob.rw_data)]
    source = ffi.new("struct sandbox_program *")
    source.isa = blob.isa
    if config.legacy_sbrk and blob.isa is InstructionSet.REVIVE_V1:
        source.isa = lib.SANDBOX_ISA_REVIVE_V1_SBRK
    source.interpreted = interpreted
    source.gas_metering = _METERING[config.gas_metering]
    source.per_instruction = config.per_instruction_metering
    source.step_tracing = config.step_tracing
    model = config.cost_model
    costs = ffi.new("uint32_t[]", model.native_costs())
    assert len(costs) == lib.sandbox_cost_count()
    source.costs = costs
    source.cost_kind = lib.SANDBOX_COST_TABLE if model.memory_latency is None else lib.SANDBOX_COST_FULL
    source.memory_latency = model.memory_latency or 0
    source.code, source.bitmask, source.jump_table, source.ro_data, source.rw_data = (
        ffi.cast("const uint8_t *", pointer) for pointer in pointers
    )
    source.code_size = len(blob.code)
    source.jump_table_entry_size = blob.jump_table_entry_size
    if blob.jump_table_entry_size:
        source.jump_table_count = len(blob.jump_table) // blob.jump_table_entry_size
    source.ro_data_size = len(blob.ro_data)
    source.rw_data_size = len(blob.rw_data)
    regions = source.map
    regions.page_size = memory_map.page_size
    regions.ro_address, regions.ro_size = memory_map.ro_address, memory_map.ro_accessible
    regions.rw_address, regions.rw_size = memory_map.rw_address, memory_map.rw_accessible
    regions.heap_base, regions.heap_size_max = memory_map.heap_base, memory_map.max_heap_size
    regions.stack_low, regions.stack_size = memory_map.stack_low, memory_map.stack_accessible
    regions.aux_address, regions.aux_size = memory_map.aux_address, memory_map.aux_accessible

    result = ffi.new("sandbox_image **")
    error = -lib.sandbox_image_create(source, result)
    if error:
        reasons = {
            errno.EFBIG: "its native code would be larger than 512 MiB",
            errno.ENOTSUP: "this processor lacks instructions that the recompiler uses ('pvm doctor' names them)",
            errno.EMFILE: "too many open files in this process (raise ulimit -n)",
            errno.ENFILE: "too many open files in the system",
            errno.ENOMEM: "out of memory",
        }
        name = ffi.string(lib.sandbox_errno_name(error)).decode()
        raise CompileError(f"cannot compile the program: {reasons.get(error, name)}")
    return ffi.gc(result[0], lib.sandbox_image_destroy)


class Module:
    """A compiled program, shared by any number of instances; made by `Engine.compile`.

    It is freed when the engine is closed and nothing refers to it any more.
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
        self._idle: list[Worker] = []
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

    async def instantiate(self) -> Instance:
        """A new instance, in a process of its own, whose host calls come back from `Instance.run`.

        `Linker.instantiate` makes one that serves them. Raises `SandboxError` if no process can be had and
        `InstanceStateError` if the engine is closed.
        """
        return Instance(self, await self._engine._acquire(self))

    def __repr__(self) -> str:
        return f"<Module {self.isa.label}, {len(self.blob.code)} bytes of code, {self.native_size} native>"
