# SPDX-License-Identifier: MIT
"""Snapshots as bytes: what is in them, and what has to be true before one is believed.

========  =====  =============================================================================
offset    bytes  field (integers are little endian, unsigned but for the gas)
========  =====  =============================================================================
0         8      magic
8         4      version of this format
12        4      size of the settings
16        32     SHA-256 of the program, the bytes of its blob
48        4      number of runs
52        4      0
56        8      size of the contents
64               settings (`vm._module_file.encode_config`), state, runs, contents
end - 32  32     SHA-256 of everything before it
========  =====  =============================================================================

The state is 13 registers of 8 bytes, 8 bytes of gas, then 4 bytes each: pc, next pc, host call, heap size, address and
errno of a page fault, signal, size of auxiliary data; then a byte each: has pc, has next pc, is entering, progress
(`enum pvm_progress`), the stop that `Instance.run` has not told yet (`_EVENTS`), fault is a write, and two of 0. A run
is 12 bytes: the guest address of its first page by the size of a page, the number of pages, `enum sandbox_run_kind`.

A file says nothing that a guest could not say: whoever made it decides what is in the guest's registers and memory, and
nothing else. So it need not be trusted.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import stat
import struct
from typing import TYPE_CHECKING, Final

from vm._errors import SnapshotLoadError
from vm._module_file import decode_config, difference, encode_config
from vm._sandbox import ffi, lib
from vm.isa import REGISTERS
from vm.memory_map import MIN_PAGE_SIZE

if TYPE_CHECKING:
    from vm._module import Module
    from vm._sandbox import CData
    from vm.program import BytesLike

MAGIC: Final = b"\x89PVS\r\n\x1a\n"
VERSION: Final = 1

_HEADER: Final = struct.Struct("<8sII32sIIQ")
_STATE: Final = struct.Struct("<13Qq8I8B")
_RUN_SIZE: Final = 12
_DIGEST_SIZE: Final = hashlib.sha256().digest_size
_SETTINGS_MOST: Final = 1 << 12

#: What the guest stopped with and nobody was told; which of those have a pc, and a next one.
_EVENTS: Final = (
    None,
    lib.SANDBOX_FINISHED,
    lib.SANDBOX_HOST_CALL,
    lib.SANDBOX_TRAP,
    lib.SANDBOX_STEP,
    lib.SANDBOX_OUT_OF_GAS,
    lib.SANDBOX_PAGE_FAULT,
)
_HAS_PC: Final = (lib.SANDBOX_HOST_CALL, lib.SANDBOX_TRAP, lib.SANDBOX_STEP, lib.SANDBOX_PAGE_FAULT)
_HAS_NEXT_PC: Final = (lib.SANDBOX_HOST_CALL, lib.SANDBOX_STEP, lib.SANDBOX_PAGE_FAULT)
_ERRNO_MOST: Final = 4095

# where each field of the state is, from the state's start
_NUMBERS: Final = ("pc", "next_pc", "host_call", "heap_size", "fault_address", "fault_errno", "signal", "aux_size")
_BYTES: Final = ("has_pc", "has_next_pc", "entering", "progress", "event", "fault_write", "zero", "zero_too")
_OFFSETS: Final[dict[str, int]] = {
    **{name: 8 * number for number, name in enumerate((*REGISTERS, "gas"))},
    **{name: 112 + 4 * number for number, name in enumerate(_NUMBERS)},
    **{name: 144 + number for number, name in enumerate(_BYTES)},
}


# --- writing ----------------------------------------------------------------------------------------------------------


def pack_snapshot(module: Module, handle: CData, held: int | None, program: bytes) -> list[bytes | memoryview]:
    """The parts of a file, to be written one behind the other; `program` is the digest of the module's blob."""
    guest = lib.sandbox_snapshot_guest(handle)
    count, size = ffi.new("uint32_t *"), ffi.new("uint64_t *")
    runs, data = lib.sandbox_snapshot_runs(handle, count), lib.sandbox_snapshot_data(handle, size)
    settings = encode_config(module.config)
    header = _HEADER.pack(MAGIC, VERSION, len(settings), program, count[0], 0, size[0])
    numbers = [getattr(guest, name) for name in _NUMBERS[:-1]]
    state = _STATE.pack(
        *guest.regs,
        guest.gas,
        *numbers,
        lib.sandbox_snapshot_aux_size(handle),
        bool(guest.has_pc),
        bool(guest.has_next_pc),
        guest.entering == lib.SANDBOX_ENTERS,
        guest.progress,
        _EVENTS.index(held),
        bool(guest.fault_write),
        0,
        0,
    )
    table = ffi.buffer(runs, count[0] * _RUN_SIZE) if count[0] else b""
    contents = ffi.buffer(data, size[0]) if size[0] else b""
    parts: list[bytes | memoryview] = [header, settings, state, table, contents]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return [*parts, digest.digest()]


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _File:
    """The bytes of a snapshot, and what to call them."""

    name: str
    data: memoryview

    def error(self, what: str, offset: int | None = None) -> SnapshotLoadError:
        return SnapshotLoadError(self.name, what, offset=offset)


def read_snapshot(path: str, module: Module) -> tuple[CData, int | None]:
    """As `parse_snapshot`, of a file. Blocks while it reads. Raises OSError if it cannot be read."""
    # without O_NONBLOCK to open a FIFO would wait for its writer
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "a snapshot comes from regular files only", path)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        head = file.read(_HEADER.size)
        whole = _check_header(_File(path, memoryview(head)), status.st_size, module)
        data = head + file.read(whole - len(head))
    return parse_snapshot(data, module, path)


def parse_snapshot(data: BytesLike, module: Module, name: str = "bytes") -> tuple[CData, int | None]:
    """The snapshot, which is freed with its last reference, and the stop that was not told.

    Raises `SnapshotLoadError` for whatever is not a snapshot of a guest of this module.
    """
    file = _File(name, memoryview(data).cast("B"))
    whole = _check_header(file, len(file.data), module)
    if len(file.data) != whole:  # it shrank meanwhile
        raise file.error(f"it has {len(file.data)} bytes instead of {whole}")
    body = file.data[:-_DIGEST_SIZE]
    if hashlib.sha256(body).digest() != file.data[-_DIGEST_SIZE:]:
        raise file.error("its checksum is wrong: it was damaged or cut off", len(body))

    # From here on it is what somebody wrote on purpose.
    _, _, settings_size, program, run_count, reserved, data_size = _HEADER.unpack_from(file.data)
    if reserved:
        raise file.error("a reserved field is not 0", 52)
    if program != module._program_digest:
        raise file.error("it is a snapshot of another program", 16)
    state_at = _HEADER.size + settings_size
    runs_at = state_at + _STATE.size
    contents_at = runs_at + run_count * _RUN_SIZE
    _check_settings(file, bytes(file.data[_HEADER.size : state_at]), module)
    guest, aux_size, held = _check_state(file, state_at, module)

    runs = ffi.cast("const struct sandbox_run *", ffi.from_buffer(file.data[runs_at:contents_at]))
    wanted, what = ffi.new("uint64_t *"), ffi.new("const char **")
    # the table may lie anywhere in the file: copied, it is aligned
    table = ffi.new("struct sandbox_run[]", max(run_count, 1))
    ffi.memmove(table, runs, run_count * _RUN_SIZE)
    bad = lib.sandbox_snapshot_check_runs(module._image, guest.heap_size, aux_size, table, run_count, wanted, what)
    if bad >= 0:
        text = ffi.string(what[0]).decode()
        raise file.error(f"its run number {bad} is invalid: {text}", runs_at + bad * _RUN_SIZE)
    if wanted[0] != data_size:
        raise file.error(f"its runs have {wanted[0]} bytes of contents, and there are {data_size}", 56)
    result = ffi.new("sandbox_snapshot **")
    with ffi.from_buffer("uint8_t[]", file.data[contents_at : contents_at + data_size]) as contents:
        error = lib.sandbox_snapshot_make(module._image, guest, aux_size, table, run_count, contents, data_size, result)
    if error < 0:
        raise MemoryError(f"no memory for a snapshot of {data_size} bytes")
    return ffi.gc(result[0], lib.sandbox_snapshot_release), held


def _check_header(file: _File, size: int, module: Module) -> int:
    """How long the whole file has to be; `size` is how long it is."""
    if bytes(file.data[: len(MAGIC)]) != MAGIC:
        raise file.error("it is not a snapshot", 0)
    if len(file.data) < _HEADER.size:
        raise file.error(f"it ends in the header, after {len(file.data)} bytes", len(file.data))
    version: int
    _, version, settings_size, _, run_count, _, data_size = _HEADER.unpack_from(file.data)
    if version != VERSION:
        raise file.error(f"its format has version {version}: only {VERSION} is known", 8)
    layout = module.memory_map
    most = layout.stack_accessible + layout.aux_accessible + layout.heap_base + layout.max_heap_size - layout.rw_address
    for what, value, limit, offset in (
        ("bytes of settings", settings_size, _SETTINGS_MOST, 12),
        ("runs", run_count, most // MIN_PAGE_SIZE + 2, 48),
        ("bytes of contents", data_size, most + layout.page_size, 56),
    ):
        if value > limit:
            raise file.error(f"its header asks for {value} {what}: {limit} at most", offset)
    whole: int = _HEADER.size + settings_size + _STATE.size + run_count * _RUN_SIZE + data_size + _DIGEST_SIZE
    if size != whole:
        raise file.error(f"it has {size} bytes, its header describes {whole}", min(size, whole))
    return whole


def _check_settings(file: _File, settings: bytes, module: Module) -> None:
    try:
        config = decode_config(settings)
    except ValueError as error:  # MemoryMapError is one
        raise file.error(f"its settings are invalid: {error}", _HEADER.size) from error
    if config != module.config:
        raise file.error(f"it was taken with {difference(config, module.config)}", _HEADER.size)


def _check_state(file: _File, at: int, module: Module) -> tuple[CData, int, int | None]:
    """``struct sandbox_guest``, the size of auxiliary data, and the stop that was not told."""
    values = _STATE.unpack_from(file.data, at)
    registers, gas = values[: len(REGISTERS)], values[len(REGISTERS)]
    fields = dict(zip((*_NUMBERS, *_BYTES), values[len(REGISTERS) + 1 :], strict=True))
    layout, bits = module.memory_map, module.isa.word_bits

    def check(good: bool, name: str, what: str) -> None:
        if not good:
            raise file.error(what, at + _OFFSETS[name])

    for name, value in zip(REGISTERS, registers, strict=True):
        check(value >> bits == 0, name, f"register {name} is {value:#x}: the program's have {bits} bits")
    check(gas >= 0 or module.config.gas_metering == "async", "gas", f"its gas is {gas}, which is negative")
    for name in ("has_pc", "has_next_pc", "entering", "fault_write"):
        check(fields[name] <= 1, name, f"{name} is {fields[name]}: it must be 0 or 1")
    for name in ("zero", "zero_too"):
        check(fields[name] == 0, name, "a reserved byte is not 0")
    check(fields["event"] < len(_EVENTS), "event", f"unknown event {fields['event']}")
    heap, aux = fields["heap_size"], fields["aux_size"]
    check(heap <= layout.max_heap_size, "heap_size", f"its heap has {heap} bytes: {layout.max_heap_size} at most")
    check(
        aux <= layout.aux_accessible,
        "aux_size",
        f"it has {aux} bytes of auxiliary data: {layout.aux_accessible} at most",
    )
    check(aux % layout.page_size == 0, "aux_size", f"its {aux} bytes of auxiliary data are not whole pages")
    check(fields["fault_errno"] <= _ERRNO_MOST, "fault_errno", f"there is no errno {fields['fault_errno']}")

    held = _EVENTS[fields["event"]]
    check(held not in _HAS_PC or fields["has_pc"] == 1, "has_pc", "it has no pc, and its event needs one")
    returns = fields["has_next_pc"] == 1 and fields["entering"] == 0
    check(held not in _HAS_NEXT_PC or returns, "has_next_pc", "it does not go on, and its event needs that")
    check(fields["entering"] == 0 or fields["has_next_pc"] == 1, "entering", "it enters, but there is no next pc")
    pc, progress = fields["next_pc"], fields["progress"]
    if returns:
        for reached in sorted({0, progress}):
            name, what = ("progress", f"at progress {progress}") if reached else ("next_pc", "")
            good = bool(lib.sandbox_image_has_place(module._image, pc, reached))
            check(good, name, f"no guest of this program goes on at pc {pc} {what}".rstrip())
    else:
        check(progress == 0, "progress", f"progress is {progress}, and there is nothing to go on with")

    guest = ffi.new("struct sandbox_guest *")
    guest.regs = list(registers)
    guest.gas = gas
    for name in (*_NUMBERS[:-1], "has_pc", "has_next_pc", "progress", "fault_write"):
        setattr(guest, name, fields[name])
    guest.entering = lib.SANDBOX_RETURNS if returns else lib.SANDBOX_ENTERS if fields["entering"] else 0
    return guest, aux, held
