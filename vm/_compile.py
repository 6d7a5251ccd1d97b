# SPDX-License-Identifier: MIT
"""From a program, or a file with a compiled one, to a module. All of it blocks: it is called in threads."""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vm._config import ModuleConfig
from vm._errors import CompileError, MemoryMapError, ModuleLoadError, ProgramParseError
from vm._module import Module
from vm._module_file import (
    Backend,
    StoredModule,
    difference,
    encode_config,
    module_key,
    program_bytes,
    read_module,
    write_file,
)
from vm._sandbox import ffi, lib
from vm.isa import InstructionSet
from vm.memory_map import MemoryMap
from vm.program import BytesLike, ProgramBlob

if TYPE_CHECKING:
    from vm._engine import Engine
    from vm._sandbox import CData

_LOG = logging.getLogger("vm")

_METERING = {None: 0, "sync": 1, "async": 2}


@dataclass(frozen=True, slots=True)
class Source:
    """What `Engine.compile` was given, read."""

    #: The blob, if it was given parsed.
    blob: ProgramBlob | None
    #: The bytes of the blob; None if there are none that say all about `blob`, or nobody wants them.
    program: bytes | None
    #: By which the module is known; None: it is not to be.
    key: bytes | None

    @classmethod
    def of(
        cls,
        given: BytesLike | ProgramBlob | str | os.PathLike[str],
        config: ModuleConfig,
        backend: Backend,
        *,
        known: bool,
    ) -> Source:
        """Reads what was given, and makes its key if the module is to be `known`.

        Raises OSError and `MemoryMapError`.
        """
        blob = given if isinstance(given, ProgramBlob) else None
        program: bytes | None
        if isinstance(given, ProgramBlob):
            program = program_bytes(given) if known else None
        elif isinstance(given, str | os.PathLike):
            program = Path(given).read_bytes()
        else:
            program = given if isinstance(given, bytes) else bytes(memoryview(given))
        key = None if program is None or not known else module_key(backend, encode_config(config), program)
        return cls(blob, program, key)


def make_module(engine: Engine, source: Source, config: ModuleConfig, directory: str | None) -> Module:
    """Compiles, or takes what lies in the directory of compiled modules; that is never the reason of an error.

    Raises `ProgramParseError`, `MemoryMapError` and `CompileError`.
    """
    path = "" if directory is None or source.key is None else f"{directory}/{source.key.hex()}.pvmc"
    if path:
        try:
            return _restore(engine, _read_entry(path, source, config, engine.config.backend), path)
        except FileNotFoundError:
            pass
        except (ModuleLoadError, OSError) as error:
            _LOG.warning("compiling again: %s", str(error))
    if source.blob is not None:
        blob = source.blob
    else:
        assert source.program is not None
        blob = ProgramBlob.parse(source.program)
    memory_map = _memory_map(blob, config)
    image = _compile_image(
        blob,
        config,
        memory_map,
        interpreted=engine.config.backend == "interpreter",
        in_process=engine.config.runs_in_process,
    )
    module = _module(engine, blob, config, memory_map, image)
    if path:
        assert source.program is not None
        try:
            write_file(path, module._pack(source.program), durable=False)
        except (OSError, ValueError) as error:
            # the text alone: whoever keeps the record is not to keep the error's frames, which refer to the module
            _LOG.warning("cannot save a compiled module: %s", str(error))
    return module


def _read_entry(path: str, source: Source, config: ModuleConfig, backend: Backend) -> StoredModule:
    """Raises OSError, and `ModuleLoadError` also for a file under a name that is not its own."""
    stored = read_module(path)
    if (stored.backend, stored.program) != (backend, source.program) or stored.config != config:
        raise ModuleLoadError(path, "it is another program, or compiled with other settings, than its name says")
    return stored


def load_module(engine: Engine, path: str, config: ModuleConfig | None) -> tuple[bytes, Module]:
    """The module in a file, if that is for this backend and, unless it is None, this `config`; with its key.

    Raises OSError, `ModuleLoadError` and `CompileError`.
    """
    if engine.config.runs_in_process:
        raise ModuleLoadError(path, "native code from files is not run in this process (sandbox 'generic'): compile it")
    backend = engine.config.backend
    stored = read_module(path)
    if stored.backend != backend:
        raise ModuleLoadError(path, f"it is for the {stored.backend}, and this engine's backend is the {backend}")
    if config is not None and config != stored.config:
        raise ModuleLoadError(path, f"it was compiled with {difference(stored.config, config)}")
    module = _restore(engine, stored, path)
    return module_key(backend, encode_config(stored.config), stored.program), module


def _restore(engine: Engine, stored: StoredModule, path: str) -> Module:
    """The module that was read from the file `path`. Raises `ModuleLoadError` and `CompileError`."""
    interpreted = stored.backend == "interpreter"
    try:
        blob = ProgramBlob.parse(stored.program)
        memory_map = _memory_map(blob, stored.config)
    except (ProgramParseError, MemoryMapError) as error:
        raise ModuleLoadError(path, f"its program is invalid: {error}") from error
    native = None if interpreted else stored
    image = _compile_image(blob, stored.config, memory_map, interpreted=interpreted, stored=native, path=path)
    return _module(engine, blob, stored.config, memory_map, image)


def _module(engine: Engine, blob: ProgramBlob, config: ModuleConfig, memory_map: MemoryMap, image: CData) -> Module:
    """The module, with the image of the interpreter that checks it if the engine has one do so."""
    crosscheck = engine.config.crosscheck
    reference = _compile_image(blob, config, memory_map, interpreted=True) if crosscheck else None
    return Module(engine, blob, config, memory_map, image, reference)


def _memory_map(blob: ProgramBlob, config: ModuleConfig) -> MemoryMap:
    """Where the regions of a program are. Raises `MemoryMapError`."""
    return MemoryMap(
        ro_size=blob.ro_data_size,
        rw_size=blob.rw_data_size,
        stack_size=blob.stack_size,
        aux_size=config.aux_data_size,
        page_size=config.page_size,
    )


def _compile_image(
    blob: ProgramBlob,
    config: ModuleConfig,
    memory_map: MemoryMap,
    *,
    interpreted: bool,
    in_process: bool = False,
    stored: StoredModule | None = None,
    path: str = "",
) -> CData:
    """Recompiles a program into a sealed image, or decodes it for the interpreter; takes milliseconds per megabyte,
    without the GIL. With `stored` the native code is what the file `path` has of it.

    Raises `CompileError`, and `ModuleLoadError` for what is stored. The result is freed with its last reference.
    """
    pointers = [ffi.from_buffer(b) for b in (blob.code, blob.bitmask, blob.jump_table, blob.ro_data, blob.rw_data)]
    source = ffi.new("struct sandbox_program *")
    source.isa = blob.isa
    if config.legacy_sbrk and blob.isa is InstructionSet.REVIVE_V1:
        source.isa = lib.SANDBOX_ISA_REVIVE_V1_SBRK
    source.interpreted = interpreted
    source.in_process = in_process
    source.gas_metering = _METERING[config.gas_metering]
    source.per_instruction = config.per_instruction_metering
    source.step_tracing = config.step_tracing
    source.dynamic_paging = config.dynamic_paging
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

    result, what = ffi.new("sandbox_image **"), ffi.new("const char **")
    if stored is None:
        error = -lib.sandbox_image_create(source, result)
    else:
        code, tables = (ffi.from_buffer("uint8_t[]", part) for part in (stored.code, stored.tables))
        error = -lib.sandbox_image_load(source, code, len(code), tables, len(tables), result, what)
    if error == errno.EBADMSG:
        raise ModuleLoadError(path, f"its tables are invalid: {ffi.string(what[0]).decode()}")
    if error:
        reasons = {
            errno.EFBIG: "its native code would be larger than 512 MiB",
            errno.ENOTSUP: "this processor lacks instructions that the recompiler uses ('pvm doctor' names them)",
            errno.EMFILE: "too many open files in this process (raise ulimit -n)",
            errno.ENFILE: "too many open files in the system",
            errno.ENOMEM: "out of memory, or of address space (ulimit -v)" if in_process else "out of memory",
        }
        name = ffi.string(lib.sandbox_errno_name(error)).decode()
        raise CompileError(f"cannot compile the program: {reasons.get(error, name)}")
    return ffi.gc(result[0], lib.sandbox_image_destroy)
