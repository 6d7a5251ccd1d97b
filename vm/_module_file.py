# SPDX-License-Identifier: MIT
"""Compiled modules as files: what is in one, how it is written, and what has to be true before it is read.

========  =====  =============================================================================
offset    bytes  field (integers are unsigned, little endian)
========  =====  =============================================================================
0         8      magic
8         4      version of this format
12        4      backend: 0 recompiler, 1 interpreter
16        32     build id: SHA-256 of the sources that decide what native code means
48        4      processor features that the code was emitted for (PVM_CPU_*)
52        4      size of the settings
56        8      size of the program
64        8      size of the native code
72        8      size of the tables
80               settings (`encode_config`), program (a blob), native code, tables (native/pvm/tables.h)
end - 32  32     SHA-256 of everything before it
========  =====  =============================================================================

For the interpreter features, native code and tables are 0 or empty: it decodes the program again. Native jump table
and read-only data follow from the program and the tables.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import secrets
import struct
from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias

from vm._config import ModuleConfig
from vm._errors import ModuleLoadError, ProgramParseError
from vm._ownership import check_directory, open_owned
from vm._sandbox import ffi, lib
from vm.gas import CostModel, MemoryLatency
from vm.memory_map import MemoryMap
from vm.program import ProgramBlob

Backend: TypeAlias = Literal["recompiler", "interpreter"]

#: Neither text nor a blob, and broken by whatever translates line ends.
MAGIC: Final = b"\x89PVM\r\n\x1a\n"
VERSION: Final = 1
BACKENDS: Final[tuple[Backend, ...]] = ("recompiler", "interpreter")

_HEADER: Final = struct.Struct("<8sII32sIIQQQ")
_DIGEST_SIZE: Final = hashlib.sha256().digest_size

#: Most bytes of each part. Code: the recompiler's limit. The others are our own: there is no need for more.
_LIMITS: Final = {"settings": 1 << 12, "program": 1 << 30, "native code": 512 << 20, "tables": 1 << 30}

#: Bytes written between two looks at whether to go on.
_CHUNK: Final = 1 << 20


def build_id() -> bytes:
    """What a file's native code must have been made by."""
    return bytes.fromhex(ffi.string(lib.sandbox_build_id()).decode())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredModule:
    """The contents of a file: intact, and for this build and processor; the parts themselves are still to be parsed."""

    backend: Backend
    config: ModuleConfig
    #: The bytes of the blob.
    program: bytes
    #: For the interpreter both are empty.
    code: bytes
    tables: bytes


# --- settings ---------------------------------------------------------------------------------------------------------

_METERING: Final = (None, "sync", "async")
# page size, auxiliary data size, metering, four flags, memory latency (0: a cost table follows)
_SETTINGS: Final = struct.Struct("<IIBBBBBI")


def encode_config(config: ModuleConfig) -> bytes:
    """The settings as bytes, equal for equal ones alone. Raises `MemoryMapError` for sizes that no program can have."""
    MemoryMap(aux_size=config.aux_data_size, page_size=config.page_size)  # whether they are u32, and more
    model = config.cost_model
    head = _SETTINGS.pack(
        config.page_size,
        config.aux_data_size,
        _METERING.index(config.gas_metering),
        bool(config.per_instruction_metering),
        bool(config.step_tracing),
        bool(config.legacy_sbrk),
        bool(config.dynamic_paging),
        model.memory_latency or 0,
    )
    return head if model.costs is None else head + model.to_bytes()


def decode_config(data: bytes) -> ModuleConfig:
    """The settings that `encode_config` gives these bytes for. Raises ValueError if there are none."""
    if len(data) < _SETTINGS.size:
        raise ValueError(f"settings have at least {_SETTINGS.size} bytes, not {len(data)}")
    page_size, aux_data_size, metering, *flags, latency = _SETTINGS.unpack_from(data)
    per_instruction, step_tracing, legacy_sbrk, dynamic_paging = map(bool, flags)
    if metering >= len(_METERING):
        raise ValueError(f"unknown gas metering {metering}")
    model = CostModel.full(MemoryLatency(latency)) if latency else CostModel.from_bytes(data[_SETTINGS.size :])
    config = ModuleConfig(
        page_size=page_size,
        aux_data_size=aux_data_size,
        gas_metering=_METERING[metering],
        cost_model=model,
        per_instruction_metering=per_instruction,
        step_tracing=step_tracing,
        legacy_sbrk=legacy_sbrk,
        dynamic_paging=dynamic_paging,
    )
    if encode_config(config) != data:
        raise ValueError("they are not written as they should be")
    return config


def difference(config: ModuleConfig, other: ModuleConfig) -> str:
    """What `config` says and `other` says otherwise, for people; empty if they are equal."""
    pairs = [(f.name, getattr(config, f.name), getattr(other, f.name)) for f in dataclasses.fields(ModuleConfig)]
    return ", ".join(f"{name}={mine!r} (not {theirs!r})" for name, mine, theirs in pairs if mine != theirs)


# --- what a module is made of -----------------------------------------------------------------------------------------


def program_bytes(blob: ProgramBlob) -> bytes | None:
    """The blob as bytes, if those say all about it; None for one whose fields no blob can have."""
    try:
        data = blob.to_bytes()
        return data if ProgramBlob.parse(data) == blob else None
    except (ProgramParseError, ValueError, ArithmeticError):
        return None


def module_key(backend: Backend, config: bytes, program: bytes) -> bytes:
    """A hash of all that a compiled module depends on; `config` is encoded."""
    digest = hashlib.sha256(struct.pack("<II", BACKENDS.index(backend), len(config)) + config)
    digest.update(program)
    return digest.digest()


# --- writing ----------------------------------------------------------------------------------------------------------


def pack_module(
    backend: Backend,
    config: ModuleConfig,
    program: bytes,
    code: bytes | memoryview = b"",
    tables: bytes | memoryview = b"",
) -> list[bytes | memoryview]:
    """The parts of a file, to be written one behind the other. Raises ValueError for a part that is too large."""
    settings = encode_config(config)
    parts = dict(zip(_LIMITS, (settings, program, code, tables), strict=True))
    for name, limit in _LIMITS.items():
        if len(parts[name]) > limit:
            raise ValueError(f"a module with {len(parts[name])} bytes of {name} cannot be saved: {limit} at most")
    features = lib.sandbox_cpu_features() if backend == "recompiler" else 0
    sizes = (len(part) for part in parts.values())
    header = _HEADER.pack(MAGIC, VERSION, BACKENDS.index(backend), build_id(), features, *sizes)
    digest = hashlib.sha256(header)
    for part in parts.values():
        digest.update(part)
    return [header, *parts.values(), digest.digest()]


def write_file(
    path: str, parts: Sequence[bytes | memoryview], *, durable: bool, stopped: Callable[[], bool] = lambda: False
) -> None:
    """Makes or replaces the file `path`, readable by its user alone: all of it, or nothing at all. Raises OSError.

    `durable`: what is there afterwards survives a power failure (otherwise it may then be torn, which its checksum
    tells). `stopped` is asked now and then whether to give up; the file is then as it was before.
    """
    directory, name = os.path.split(path)
    if name in ("", ".", ".."):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    # both names are relative to this: the directory cannot be exchanged in between
    parent = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        temporary = f".pvm-{secrets.token_hex(8)}.tmp"
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=parent)
        try:
            try:
                os.fchmod(file, 0o600)  # whatever the umask
                complete = _write_parts(file, parts, stopped)
                if complete and durable:
                    os.fsync(file)
            finally:
                os.close(file)
            if complete and not stopped():
                os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
                temporary = ""
        finally:
            if temporary:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=parent)
        if durable:
            os.fsync(parent)
    finally:
        os.close(parent)


def _write_parts(file: int, parts: Sequence[bytes | memoryview], stopped: Callable[[], bool]) -> bool:
    """Whether it got to the end."""
    for part in parts:
        rest = memoryview(part)
        while rest:
            if stopped():
                return False
            rest = rest[os.write(file, rest[:_CHUNK]) :]
    return True


# --- reading ----------------------------------------------------------------------------------------------------------


def read_module(path: str) -> StoredModule:
    """The contents of the file `path`. Blocks while it reads.

    Raises OSError if it cannot be read and `ModuleLoadError` if it is no file to be trusted (`open_owned` says which
    are), not a compiled module, not whole, or one of another build or processor.
    """
    with open(open_owned(path), "rb") as file:  # noqa: PTH123 - a descriptor
        size = os.fstat(file.fileno()).st_size
        head = file.read(_HEADER.size)
        if not head.startswith(MAGIC):
            raise ModuleLoadError(path, "it is not a compiled module")
        if len(head) < _HEADER.size:
            raise ModuleLoadError(path, f"it ends in the header, after {len(head)} bytes")
        _, version, backend, build, features, *sizes = _HEADER.unpack(head)
        if version != VERSION:
            raise ModuleLoadError(path, f"its format has version {version}: only {VERSION} is known")
        for (name, limit), length in zip(_LIMITS.items(), sizes, strict=True):
            if length > limit:
                raise ModuleLoadError(path, f"its header asks for {length} bytes of {name}: {limit} at most")
        expected = _HEADER.size + sum(sizes) + _DIGEST_SIZE
        if size != expected:
            raise ModuleLoadError(path, f"it has {size} bytes, its header describes {expected}")
        parts = [file.read(length) for length in sizes]
        stated = file.read(_DIGEST_SIZE)
    digest = hashlib.sha256(head)
    for part in parts:
        digest.update(part)
    # there is less than there was if it shrank meanwhile
    if digest.digest() != stated or [len(part) for part in parts] != sizes:
        raise ModuleLoadError(path, "its checksum is wrong: it was damaged or cut off")

    # From here on it is what somebody wrote on purpose; whether we did is seen at each step.
    if build != build_id():
        raise ModuleLoadError(path, "another build of this package made it")
    if backend >= len(BACKENDS):
        raise ModuleLoadError(path, f"it is for an unknown backend, number {backend}")
    settings, program, code, tables = parts
    _check_native(path, BACKENDS[backend], features, code, tables)
    try:
        config = decode_config(settings)
    except ValueError as error:  # MemoryMapError is one
        raise ModuleLoadError(path, f"its settings are invalid: {error}") from error
    return StoredModule(backend=BACKENDS[backend], config=config, program=program, code=code, tables=tables)


def _check_native(path: str, backend: Backend, features: int, code: bytes, tables: bytes) -> None:
    if backend == "interpreter":
        if features or code or tables:
            raise ModuleLoadError(path, "it is for the interpreter and has native code all the same")
        return
    available = lib.sandbox_cpu_features()
    if features != available:
        raise ModuleLoadError(
            path, f"it is for another processor (features {features:#x}, this one has {available:#x})"
        )


# --- a directory of them ----------------------------------------------------------------------------------------------


def prepare_directory(path: str) -> str:
    """Makes the directory, for its user alone, if it is not there; its absolute path.

    Raises `ModuleLoadError` if it cannot be made, read or written, or if others could put files there (`open_owned`
    says what is checked).
    """
    path = os.path.abspath(path)  # noqa: PTH100 - of a str
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)  # noqa: PTH103
        check_directory(path)
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    except OSError as error:
        raise ModuleLoadError(path, f"the cache directory is of no use: {error.strerror}") from error
    return path
