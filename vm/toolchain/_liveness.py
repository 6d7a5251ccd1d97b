# SPDX-License-Identifier: MIT
"""Which registers hold a value that may still be read.

A mask has two opinions of each register r. Bit r takes no function for granted: any register may be read behind a call,
a return or a jump to who knows where, so that code of any calling convention is safe. Bit r + `KNOWN_SHIFT` counts only
the code that is there: a call reads what the function reads, a return goes where some call returns to. The first one
decides over computed values, the second one over constants, which nobody hands around in a register that the code on
the other side does not read.
"""

from __future__ import annotations

from typing import Final

from vm.toolchain._ir import (
    CALL,
    CALL_INDIRECT,
    CODE_ADDRESS,
    ECALLI,
    FIRST_BRANCH,
    JUMP,
    JUMP_INDIRECT,
    LAST_BRANCH,
    MEMSET,
    NOWHERE,
    RA,
    READS_X,
    READS_Y,
    READS_Z,
    REGISTER_COUNT,
    SCRATCH,
    TRAP,
    WRITES_X,
    Block,
    Instruction,
)

#: Above all registers, scratch ones included.
KNOWN_SHIFT: Final = 16
_ALL: Final = (1 << REGISTER_COUNT) - 1
#: Everything, in both opinions.
ALL: Final = _ALL | _ALL << KNOWN_SHIFT
#: The bits of each register.
BITS: Final = tuple(1 << register | 1 << register + KNOWN_SHIFT for register in range(max(SCRATCH) + 1))
_KNOWN: Final = _ALL << KNOWN_SHIFT
_A0, _A1, _SP = BITS[7], BITS[8], BITS[1]
_MEMSET_READS: Final = _A0 | _A1 | BITS[9]
#: By number of arguments: all in the first opinion, the argument registers in the second one.
_HOST_CALL_READS: Final = tuple(
    _ALL | sum(BITS[register] for register in (7, 8, 9, 10, 11, 12, 2, 3, 4)[:count]) for count in range(10)
)


def _effect_reads(number: int, inputs: int) -> int:
    return _MEMSET_READS if number == MEMSET else _HOST_CALL_READS[inputs]


def before(instruction: Instruction, live: int) -> int:
    """What is live before an instruction that leaves `live`."""
    number, x, y, z, _ = instruction
    if number in (ECALLI, MEMSET):
        return live | _effect_reads(number, y)
    if WRITES_X[number]:
        live &= ~BITS[x]
    if READS_X[number]:
        live |= BITS[x]
    if READS_Y[number]:
        live |= BITS[y]
    if READS_Z[number]:
        live |= BITS[z]
    return live


class Liveness:
    """What is live at the start of every block; `blocks` are by number, None where one is gone."""

    def __init__(self, blocks: list[Block | None]) -> None:
        self._blocks = blocks
        # Two entries more: wherever a return goes, and wherever a jump to a code address goes.
        self._return, self._anywhere = len(blocks), len(blocks) + 1
        self._used, self._kept = [0] * len(blocks), [0] * len(blocks)
        self._summarize()
        pair = any(block is not None and block.results > 1 for block in blocks)
        to_host = _SP | _A0 | (_A1 if pair else 0)
        self.starts = [*self._used, to_host, to_host]
        self._solve()

    def at_end(self, block: Block) -> int:
        """What is live before the end of `block`."""
        number, x, y, target, following, _ = block.end
        starts = self.starts
        if number == JUMP:
            return starts[target]
        if number == CALL:
            return (_ALL | (starts[target] | starts[following]) & _KNOWN) & ~BITS[x]
        if number == CALL_INDIRECT:
            return (_ALL | (starts[self._anywhere] | starts[following]) & _KNOWN) & ~BITS[x] | BITS[y]
        if number == JUMP_INDIRECT:
            return _ALL | starts[self._return if x == RA else self._anywhere] & _KNOWN | BITS[x]
        if number == TRAP:
            return 0
        live = starts[target] | starts[following] | BITS[x]
        return live | BITS[y] if FIRST_BRANCH <= number <= LAST_BRANCH else live

    def _summarize(self) -> None:
        """Of each block what it reads before writing it, and what it does not write."""
        for block in self._blocks:
            if block is None:
                continue
            reads, writes = 0, 0
            for number, x, y, z, _ in block.body:
                if number in (ECALLI, MEMSET):
                    reads |= _effect_reads(number, y) & ~writes
                    continue
                read = 0
                if READS_X[number]:
                    read = BITS[x]
                if READS_Y[number]:
                    read |= BITS[y]
                if READS_Z[number]:
                    read |= BITS[z]
                reads |= read & ~writes
                if WRITES_X[number]:
                    writes |= BITS[x]
            self._used[block.number] = reads
            self._kept[block.number] = ~writes

    def _solve(self) -> None:
        blocks, starts, used, kept = self._blocks, self.starts, self._used, self._kept
        predecessors: list[list[int]] = [[] for _ in starts]
        returned_to, addressed = bytearray(len(blocks)), bytearray(len(blocks))
        for block in blocks:
            if block is None:
                continue
            number, x, _, target, following, _ = block.end
            if target != NOWHERE:
                predecessors[target].append(block.number)
            if following != NOWHERE:
                predecessors[following].append(block.number)
            if number in (CALL, CALL_INDIRECT):
                returned_to[following] = addressed[following] = 1
            if number in (CALL_INDIRECT, JUMP_INDIRECT):
                returns = number == JUMP_INDIRECT and x == RA
                predecessors[self._return if returns else self._anywhere].append(block.number)
            if block.taken:
                addressed[block.number] = 1
            for instruction in block.body:
                if instruction[0] == CODE_ADDRESS:
                    addressed[instruction[2]] = 1
        pending = [block.number for block in blocks if block is not None]
        waiting = bytearray(b"\1" * len(blocks))
        while pending:
            number = pending.pop()
            waiting[number] = 0
            block = blocks[number]
            assert block is not None
            live = used[number] | (self.at_end(block) & kept[number])
            if live == starts[number]:
                continue
            starts[number] = live
            changed = predecessors[number]
            if returned_to[number] and live & ~starts[self._return]:
                starts[self._return] |= live
                changed = changed + predecessors[self._return]
            if addressed[number] and live & ~starts[self._anywhere]:
                starts[self._anywhere] |= live
                changed = changed + predecessors[self._anywhere]
            for predecessor in changed:
                if not waiting[predecessor]:
                    waiting[predecessor] = 1
                    pending.append(predecessor)
