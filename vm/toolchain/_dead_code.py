# SPDX-License-Identifier: MIT
"""Dead code: what makes values that nobody reads, or that the next instruction can make by itself."""

from __future__ import annotations

from typing import Final

from vm.toolchain._ir import (
    ABSOLUTE_FORM,
    CALL,
    CODE_ADDRESS,
    HAS_EFFECT,
    JUMP,
    LOAD_IMM,
    LOAD_IMM64,
    NOWHERE,
    WRITES_X,
    Block,
    Instruction,
    op,
)
from vm.toolchain._liveness import KNOWN_SHIFT, Liveness, before

_CONSTANTS: Final = frozenset({LOAD_IMM, LOAD_IMM64, CODE_ADDRESS})
_SUMS: Final = frozenset({op("add_imm_64"), op("add_imm_32")})


def _with_sum(addition: Instruction, access: Instruction) -> Instruction | None:
    """A load or store relative to x, behind x = x + constant, as it would be without that; None if it is no such."""
    _, x, _, constant, _ = addition
    number, value, base, offset, position = access
    if number in ABSOLUTE_FORM and base == x and (WRITES_X[number] or value != x):
        sum_ = offset + constant
        return (number, value, base, sum_, position) if -0x8000_0000 <= sum_ <= 0x7FFF_FFFF else None
    return None


def _overwrites(instruction: Instruction, register: int) -> bool:
    return bool(WRITES_X[instruction[0]]) and instruction[1] == register


def remove_dead_code(blocks: list[Block | None]) -> None:
    """Take out the dead instructions of all blocks; a call whose return address nobody reads becomes a jump."""
    liveness = Liveness(blocks)
    for block in blocks:
        if block is None:
            continue
        number, x, _, target, _, position = block.end
        if number == CALL and not liveness.starts[target] >> x + KNOWN_SHIFT & 1:
            block.end = (JUMP, 0, 0, target, NOWHERE, position)
        live = live_behind = liveness.at_end(block)
        kept: list[Instruction] = []
        for instruction in reversed(block.body):
            number, x = instruction[0], instruction[1]
            if WRITES_X[number] and not HAS_EFFECT[number]:
                bit = x + KNOWN_SHIFT if number in _CONSTANTS else x
                if not live >> bit & 1:
                    continue
                if number in _SUMS and kept and instruction[2] == x:
                    # What comes next takes the sum for its address, and is the last to read it.
                    access = _with_sum(instruction, kept[-1])
                    if access is not None and (_overwrites(access, x) or not live_behind >> x & 1):
                        kept[-1] = access
                        continue
            live_behind, live = live, before(instruction, live)
            kept.append(instruction)
        if len(kept) != len(block.body):
            kept.reverse()
            block.body = kept
