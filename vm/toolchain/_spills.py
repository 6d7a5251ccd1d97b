# SPDX-License-Identifier: MIT
"""Scratch registers become registers: ones that nobody reads afterwards, or ones that are saved to memory meanwhile.

A scratch register is used only by the operations of one instruction of the ELF file, so that all of them together can
be looked at as one.
"""

from __future__ import annotations

from vm.toolchain._ir import (
    READS_X,
    READS_Y,
    READS_Z,
    REGISTER_COUNT,
    SCRATCH,
    WRITES_X,
    Block,
    Instruction,
    op,
)
from vm.toolchain._liveness import Liveness, before

_SP = 1


def _registers(group: list[Instruction]) -> int:
    """The registers that appear in a group."""
    mask = 0
    for number, x, y, z, _ in group:
        if READS_X[number] or WRITES_X[number]:
            mask |= 1 << x
        if READS_Y[number]:
            mask |= 1 << y
        if READS_Z[number]:
            mask |= 1 << z
    return mask


_SCRATCH_MASK = sum(1 << register for register in SCRATCH)


def _uses_scratch(instruction: Instruction) -> bool:
    return bool(_registers([instruction]) & _SCRATCH_MASK)


def assign_scratch_registers(blocks: list[Block | None], spill_address: int, is64: bool) -> None:
    """Rewrite all blocks that use scratch registers; `spill_address` has a word for each of them."""
    touched = [block for block in blocks if block is not None and any(map(_uses_scratch, block.body))]
    if not touched:
        return
    liveness = Liveness(blocks)
    load, store = (op("load_u64"), op("store_u64")) if is64 else (op("load_i32"), op("store_u32"))
    word = 8 if is64 else 4
    for block in touched:
        live = liveness.at_end(block)
        body: list[Instruction] = []  # backwards
        index = len(block.body)
        while index:
            position = block.body[index - 1][4]
            start = index
            while start and block.body[start - 1][4] == position:
                start -= 1
            group = block.body[start:index]
            live_after, index = live, start
            for instruction in reversed(group):
                live = before(instruction, live)
            used = _registers(group)
            if not used & _SCRATCH_MASK:
                body.extend(reversed(group))
                continue
            names: dict[int, int] = {}
            saved: list[tuple[int, int]] = []
            # From the last register on: those come last in calling conventions, and sp is nobody's to borrow.
            free = [r for r in reversed(range(REGISTER_COUNT)) if not used >> r & 1 and r != _SP]
            dead = [r for r in free if not live_after >> r & 1]
            for slot, scratch in enumerate(SCRATCH):
                if not used >> scratch & 1:
                    continue
                if dead:
                    register = dead.pop(0)
                    free.remove(register)
                else:
                    register = free.pop(0)
                    saved.append((register, spill_address + slot * word))
                names[scratch] = register
            body.extend((load, register, address, 0, position) for register, address in saved)
            body.extend(_rename(instruction, names) for instruction in reversed(group))
            body.extend((store, register, address, 0, position) for register, address in saved)
        body.reverse()
        block.body = body


def _rename(instruction: Instruction, names: dict[int, int]) -> Instruction:
    number, x, y, z, position = instruction
    if READS_X[number] or WRITES_X[number]:
        x = names.get(x, x)
    if READS_Y[number]:
        y = names.get(y, y)
    if READS_Z[number]:
        z = names.get(z, z)
    return number, x, y, z, position
