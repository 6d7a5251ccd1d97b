# SPDX-License-Identifier: MIT
"""From compiled RISC-V code to program blobs.

`link` takes an ELF file, as ``ld.lld --emit-relocs`` writes it, through passes that have a file each: sections,
relocations, metadata, decode, cfg and reachability find out what the program is; layout places its data; lowering makes
IR of its code, which is optimized; spills, jump table, emission, data and debug lines write it down.

`build` makes that ELF file of sources: compiler finds a compiler, libc makes the guests' C library with it (cache keeps
it), build runs both.
"""

from __future__ import annotations

from collections.abc import Sequence

from vm.isa import InstructionSet
from vm.program import ProgramBlob
from vm.toolchain._build import build
from vm.toolchain._compiler import BuildError, ToolchainError
from vm.toolchain._errors import ElfError
from vm.toolchain._link import link_image

__all__ = ["BuildError", "ElfError", "ToolchainError", "build", "link"]


def link(
    elf: bytes,
    *,
    isa: InstructionSet | None = None,
    optimize: bool = True,
    strip: bool = False,
    min_stack_size: int = 0,
    entry_points: Sequence[str] = (),
    dispatch_table: Sequence[str | bytes] = (),
) -> ProgramBlob:
    """The program blob of an ELF file.

    `elf` is an executable, shared object or relocatable object for RV32E or RV64E, with its relocations
    (``--emit-relocs``) and with PolkaVM's metadata, which says what it exports and imports. `isa` defaults to latest32
    or latest64. `optimize` makes the code shorter and faster; `strip` leaves out the debug information. The stack gets
    the most of `min_stack_size` bytes, what the guest asks for, and 8 KiB. `entry_points` are symbols of functions to
    export besides those that the guest's metadata names. `dispatch_table` names exports whose places are fixed: code at
    offset 5 * i jumps to the i-th of them.

    The same input gives the same bytes. Raises `ElfError` for what is no such file, and for all that a guest cannot
    do; ValueError for a stack size that is no u32.
    """
    if not 0 <= min_stack_size <= 0xFFFF_FFFF:
        raise ValueError(f"min_stack_size must be from 0 to {0xFFFF_FFFF}, not {min_stack_size}")
    names = [name.encode() if isinstance(name, str) else name for name in dispatch_table]
    return link_image(
        bytes(elf),
        isa=isa,
        optimize=optimize,
        strip=strip,
        min_stack_size=min_stack_size,
        entry_points=entry_points,
        dispatch_table=names,
    )
