# SPDX-License-Identifier: MIT
"""The Python side of interpreter_driver.c: compiles it with the interpreter into a library, and runs guests in it."""

from __future__ import annotations

import ctypes
import enum
import functools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

from driver import HERE, compile_c
from reference import REGISTER_COUNT, Exit, ExitKind, Program
from reference_gas import CostModel, Metering

from vm.isa import OPCODES

UNLIMITED: Final = 1 << 63
_NONE: Final = 0xFFFF_FFFF_FFFF_FFFF
_KINDS: Final = (
    *(ExitKind.STEPS, ExitKind.HALT, ExitKind.ECALLI, ExitKind.SBRK, ExitKind.TRAP, ExitKind.STEP),
    ExitKind.NOT_ENOUGH_GAS,
)


class _MeteringKind(enum.IntEnum):
    NONE = 0
    SYNC = 1
    ASYNC = 2


@functools.cache
def build(compiler: str) -> ctypes.CDLL:
    """Compile the library, once, and load it."""
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "interpreter.so"
        compile_c(compiler, HERE / "interpreter_driver.c", output, "-fPIC", "-no-pie", "-shared")
        library = ctypes.CDLL(str(output))
    pointer, u32, u64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    library.guest_new.restype = pointer
    library.guest_free.argtypes = [pointer]
    library.guest_free.restype = None
    library.guest_load.argtypes = [pointer] * 6
    library.guest_size.argtypes = [pointer]
    library.guest_size.restype = ctypes.c_size_t
    library.guest_block_cost.argtypes = [pointer, u32]
    library.guest_block_cost.restype = u32
    library.guest_block_start.argtypes = [pointer, u32]
    library.guest_block_start.restype = ctypes.c_int64
    library.guest_map.argtypes = [pointer, u32, u64, ctypes.c_int]
    library.guest_protect.argtypes = [pointer, u32]
    library.guest_protect.restype = None
    library.guest_unmap_all.argtypes = [pointer]
    library.guest_unmap_all.restype = None
    library.guest_memory.argtypes = [pointer, u32]
    library.guest_memory.restype = pointer
    library.guest_run.argtypes = [pointer, pointer, u64]
    return library


@dataclass
class State:
    """A machine between two runs; addresses that are not there are None. `pc` is where it stopped."""

    registers: list[int] = field(default_factory=lambda: [0] * REGISTER_COUNT)
    gas: int = 0
    pc: int | None = None
    next_pc: int | None = 0
    entering: bool = False
    progress: int = 0


class Guest:
    """An interpreter and its machine; a context manager."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._guest = library.guest_new()
        assert self._guest
        self.state = State()

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._library.guest_free(self._guest)

    def load(
        self,
        program: Program,
        metering: Metering | None = None,
        *,
        step_tracing: bool = False,
        legacy_sbrk: bool = False,
        jump_table_entry_size: int = 4,
    ) -> int:
        """Predecode a program; 0 or -errno. Takes the gas from `metering`."""
        model = CostModel() if metering is None else metering.model
        kind = _MeteringKind.NONE
        if metering is not None:
            kind = _MeteringKind.ASYNC if metering.asynchronous else _MeteringKind.SYNC
        size = jump_table_entry_size
        table = b"".join((pc & (1 << 8 * size) - 1).to_bytes(size, "little") for pc in program.jump_table)
        numbers = [
            *(program.isa, len(program.code), len(program.jump_table), size, kind),
            *(metering is not None and metering.per_instruction, step_tracing, legacy_sbrk),
            *(model.full_latency is not None, model.full_latency or 0),
        ]
        costs = [model.table.get(name, 1) for name in ("invalid", *(opcode.name for opcode in OPCODES))]
        self.state = State(gas=0 if metering is None else metering.gas)
        status: int = self._library.guest_load(
            self._guest,
            (ctypes.c_uint32 * len(numbers))(*numbers),
            program.code,
            program.bitmask,
            table,
            (ctypes.c_uint32 * len(costs))(*costs),
        )
        return status

    @property
    def size(self) -> int:
        """Bytes that the predecoded program takes."""
        size: int = self._library.guest_size(self._guest)
        return size

    def block_cost(self, pc: int) -> int:
        cost: int = self._library.guest_block_cost(self._guest, pc)
        return cost

    def block_start(self, pc: int) -> int | None:
        start: int = self._library.guest_block_start(self._guest, pc)
        return None if start < 0 else start

    def map(self, address: int, size: int, writable: bool = True, data: bytes = b"") -> None:
        """Map guest memory that starts with `data` and is otherwise zero."""
        assert self._library.guest_map(self._guest, address, size, writable) == 0
        self.write(address, data)

    def protect(self, address: int) -> None:
        """Make the region that holds `address` read-only."""
        self._library.guest_protect(self._guest, address)

    def unmap_all(self) -> None:
        self._library.guest_unmap_all(self._guest)

    def write(self, address: int, data: bytes) -> None:
        """Write as the host; must not leave a region."""
        ctypes.memmove(self._memory(address), data, len(data))

    def read(self, address: int, size: int) -> bytes:
        return ctypes.string_at(self._memory(address), size)

    def _memory(self, address: int) -> int:
        found: int | None = self._library.guest_memory(self._guest, address)
        assert found is not None, f"nothing is mapped at {address:#x}"
        return found

    def enter(self, pc: int) -> None:
        """Have the next run enter at `pc`."""
        self.state.next_pc, self.state.entering, self.state.progress = pc, True, 0

    def retry(self) -> None:
        """Have the next run try the instruction again that trapped."""
        self.state.next_pc = self.state.pc

    def run(self, budget: int = UNLIMITED) -> Exit:
        state = self.state
        addresses = [_NONE if pc is None else pc for pc in (state.pc, state.next_pc)]
        words = [
            *state.registers,
            *(state.gas & _NONE, *addresses, _NONE, state.entering, state.progress, 0),
        ]
        array = (ctypes.c_uint64 * len(words))(*words)
        kind = _KINDS[self._library.guest_run(self._guest, array, budget)]
        *state.registers, gas, pc, next_pc, fault, entering, state.progress, host_call = array
        state.gas = gas - (1 << 64) if gas >> 63 else gas
        state.pc, state.next_pc = (None if value == _NONE else value for value in (pc, next_pc))
        state.entering = bool(entering)
        return Exit(
            kind,
            None if kind is ExitKind.HALT else state.pc,
            host_call if kind is ExitKind.ECALLI else 0,
            fault if kind is ExitKind.TRAP and fault != _NONE else None,
        )
