# SPDX-License-Identifier: MIT
"""Guest programs for the tests, made with the project's own assembler so that the suite needs no files."""

from __future__ import annotations

from collections.abc import Sequence

import vm
from vm.assembler import assemble

LATEST32 = vm.InstructionSet.LATEST32
LATEST64 = vm.InstructionSet.LATEST64


def build(text: str, isa: vm.InstructionSet = LATEST64, *, imports: Sequence[str] = ()) -> vm.ProgramBlob:
    """Assembles `text`; `imports` are the names behind ``ecalli 0``, ``ecalli 1`` and so on."""
    return vm.ProgramBlob.parse(assemble(text, isa)).with_imports(*imports)


#: Imports ``ask``; every export says in its name what it does.
BASIC = """
%rw_data_size = 4096
%stack_size = 4096

pub @add:
    a0 = a0 + a1
    ret
pub @negate:
    a0 = 0 - a0
    ret
pub @identity:
    ret
pub @first_and_second:
    ret
pub @sum9:
    a0 = a0 + a1
    a0 = a0 + a2
    a0 = a0 + a3
    a0 = a0 + a4
    a0 = a0 + a5
    a0 = a0 + t0
    a0 = a0 + t1
    a0 = a0 + t2
    ret
pub @spin:
    jump @spin
pub @count_down:
    a0 = a0 - 1
    jump @count_down if a0 != 0
    a0 = 7
    ret
pub @trap:
    a5 = 0x77
    trap
pub @ask:
    s0 = a0
    ecalli 0
    a0 = a0 + s0
    ret
pub @ask_and_spin:
    ecalli 0
@endless:
    jump @endless
pub @ask_and_count_down:
    s0 = a0
    ecalli 0
    a0 = s0
    jump @count_down
pub @unknown_host_call:
    ecalli 1234567
    ret
"""

#: The same for 32-bit programs, as far as words matter.
BASIC_32 = """
%rw_data_size = 4096
pub @add:
    i32 a0 = a0 + a1
    ret
pub @identity:
    ret
pub @sum9:
    i32 a0 = a0 + a1
    i32 a0 = a0 + a2
    i32 a0 = a0 + a3
    i32 a0 = a0 + a4
    i32 a0 = a0 + a5
    i32 a0 = a0 + t0
    i32 a0 = a0 + t1
    i32 a0 = a0 + t2
    ret
pub @ask:
    ecalli 0
    ret
pub @trap:
    trap
"""

#: All regions of memory, a heap, and an export for every kind of access.
MEMORY = """
%ro_data = 11 22 33 44 55 66 77 88
%rw_data = 01 02 03 04 05 06 07 08
%rw_data_size = 5000
%stack_size = 4096

pub @load:
    a0 = u8 [a0]
    ret
pub @load_u64:
    a0 = u64 [a0]
    ret
pub @store:
    u8 [a0] = a1
    ret
pub @store_u64:
    u64 [a0] = a1
    ret
pub @grow:
    a0 = sbrk a0
    ret
pub @fill:
    [a0..a0 + a2] = u8 a1
    ret
pub @stack_pointer:
    a0 = sp
    ret
pub @recurse:
    sp = sp - 16
    u64 [sp] = ra
    u64 [sp + 8] = s0
    a0 = a0 + 1
    ra = @back
    jump @recurse
@back:
    trap
pub @jump_to:
    jump [a0]
@behind:
    a0 = @behind
    ret
"""


def basic() -> vm.ProgramBlob:
    return build(BASIC, imports=["ask"])


def basic_32() -> vm.ProgramBlob:
    return build(BASIC_32, LATEST32, imports=["ask"])


def memory() -> vm.ProgramBlob:
    return build(MEMORY)


def config_of(home: str) -> vm.Config:
    """For guests recompiled in a process each ("recompiler") or in this one ("generic"), or interpreted."""
    return vm.Config(sandbox="generic") if home == "generic" else vm.Config(backend=home)  # type: ignore[arg-type]
