# SPDX-License-Identifier: MIT
"""Which registers hold a value that may still be read, as masks: bit r for register r.

Nothing is assumed of functions: any register may be read behind a call, a return and a jump to who knows where, so that
code of any calling convention is safe. A host call reads what its metadata says, which is not looked at either.
"""

from __future__ import annotations

from typing import Final

from vm.toolchain._ir import (
    CALL,
    CALL_INDIRECT,
    ECALLI,
    FIRST_BRANCH,
    JUMP,
    JUMP_INDIRECT,
    LAST_BRANCH,
    MEMSET,
    NOWHERE,
    READS_X,
    READS_Y,
    READS_Z,
    REGISTER_COUNT,
    TRAP,
    WRITES_X,
    Block,
    Instruction,
)

ALL: Final = (1 << REGISTER_COUNT) - 1


def before(instruction: Instruction, live: int) -> int:
    """What is live before an instruction that leaves `live`."""
    number, x, y, z, _ = instruction
    if number in (ECALLI, MEMSET):
        return live | ALL
    if WRITES_X[number]:
        live &= ~(1 << x)
    if READS_X[number]:
        live |= 1 << x
    if READS_Y[number]:
        live |= 1 << y
    if READS_Z[number]:
        live |= 1 << z
    return live


def at_end(block: Block, live_in: list[int]) -> int:
    """What is live before the end of `block`, by what is live at the starts of all blocks."""
    number, x, y, target, following, _ = block.end
    if number == JUMP:
        return live_in[target]
    if number in (CALL, CALL_INDIRECT):
        return ALL & ~(1 << x) | (1 << y if number == CALL_INDIRECT else 0)
    if number == JUMP_INDIRECT:
        return ALL
    if number == TRAP:
        return 0
    live = live_in[target] | live_in[following] | 1 << x
    return live | 1 << y if FIRST_BRANCH <= number <= LAST_BRANCH else live


def live_at_starts(blocks: list[Block | None]) -> list[int]:
    """What is live at the start of each block (0 for those that are gone)."""
    used, kept = _summaries(blocks)
    live_in = list(used)
    predecessors: list[list[int]] = [[] for _ in blocks]
    for block in blocks:
        if block is not None:
            for successor in block.end[3:5]:
                if successor != NOWHERE:
                    predecessors[successor].append(block.number)
    pending = [block.number for block in blocks if block is not None]
    waiting = bytearray(b"\1" * len(blocks))
    while pending:
        number = pending.pop()
        waiting[number] = 0
        block = blocks[number]
        assert block is not None
        live = used[number] | (at_end(block, live_in) & kept[number])
        if live != live_in[number]:
            live_in[number] = live
            for predecessor in predecessors[number]:
                if not waiting[predecessor]:
                    waiting[predecessor] = 1
                    pending.append(predecessor)
    return live_in


def _summaries(blocks: list[Block | None]) -> tuple[list[int], list[int]]:
    """Of each block what it reads before writing it, and what it does not write."""
    used, kept = [0] * len(blocks), [0] * len(blocks)
    for block in blocks:
        if block is None:
            continue
        reads, writes = 0, 0
        for number, x, y, z, _ in block.body:
            if number in (ECALLI, MEMSET):
                reads |= ALL & ~writes
                continue
            read = 0
            if READS_X[number]:
                read = 1 << x
            if READS_Y[number]:
                read |= 1 << y
            if READS_Z[number]:
                read |= 1 << z
            reads |= read & ~writes
            if WRITES_X[number]:
                writes |= 1 << x
        used[block.number] = reads
        kept[block.number] = ~writes
    return used, kept
