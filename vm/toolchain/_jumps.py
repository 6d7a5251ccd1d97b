# SPDX-License-Identifier: MIT
"""Jumps: threaded through blocks that only jump on, decided when both ways are one, and gone when blocks are joined."""

from __future__ import annotations

from itertools import chain
from typing import Final

from vm.toolchain._ir import (
    CALL,
    CALL_INDIRECT,
    CODE_ADDRESS,
    JUMP,
    JUMP_INDIRECT,
    LOAD_IMM,
    MOVE,
    NOWHERE,
    TRAP,
    Block,
    Instruction,
    is_branch,
    op,
)

#: Most instructions of a block that is copied to where it is jumped to, so that the jump is saved.
_LONGEST_TAIL: Final = 2
_EXITS: Final = frozenset({JUMP_INDIRECT, TRAP})

#: The conditional moves, of a register and of an immediate, that do what a branch around a move does.
_AROUND: Final = {
    op("branch_eq_imm"): (op("cmov_if_not_zero"), op("cmov_if_not_zero_imm")),
    op("branch_not_eq_imm"): (op("cmov_if_zero"), op("cmov_if_zero_imm")),
}


def remove_unreachable(blocks: list[Block | None]) -> None:
    """Take out the blocks that nothing leads to any more."""
    reached = bytearray(len(blocks))
    pending = [block.number for block in blocks if block is not None and (block.taken or block.exported)]
    while pending:
        number = pending.pop()
        if number == NOWHERE or reached[number]:
            continue
        reached[number] = 1
        block = blocks[number]
        assert block is not None
        pending.extend(block.end[3:5])
        pending.extend(instruction[2] for instruction in block.body if instruction[0] == CODE_ADDRESS)
    for number, is_reached in enumerate(reached):
        if not is_reached:
            blocks[number] = None


class JumpSimplifier:
    """One round over all blocks."""

    def __init__(self, blocks: list[Block | None]) -> None:
        self._blocks = blocks
        #: What is known of where jumps end up.
        self._finals: dict[int, int] = {}

    def run(self) -> None:
        for block in self._blocks:
            if block is not None:
                self._simplify(block)
        remove_unreachable(self._blocks)
        self._move_conditionally()
        self._join()

    def _final(self, number: int) -> int:
        """Where a jump to a block ends up, through blocks that only jump on."""
        way: list[int] = []
        while number not in self._finals:
            block = self._blocks[number]
            assert block is not None
            self._finals[number] = number  # which it is if the way comes back to here
            if block.body or block.end[0] != JUMP:
                break
            way.append(number)
            number = block.end[3]
        number = self._finals[number]
        for passed in way:
            self._finals[passed] = number
        return number

    def _simplify(self, block: Block) -> None:
        number, x, y, target, following, position = block.end
        if number in (JUMP_INDIRECT, TRAP):
            return
        if number != CALL_INDIRECT:
            target = self._final(target)
        if number == JUMP:
            last = self._blocks[target]
            assert last is not None
            if last.end[0] in _EXITS and len(last.body) <= _LONGEST_TAIL and last is not block:
                block.body = block.body + last.body
                block.end = last.end
                return
        elif is_branch(number):
            following = self._final(following)
            if target == following:
                number, x, y, following = JUMP, 0, 0, NOWHERE
        block.end = (number, x, y, target, following, position)

    def _predecessors(self) -> list[int]:
        """The number of ways into each block; the host and jump tables count for more than one."""
        counts = [0] * len(self._blocks)
        for block in self._blocks:
            if block is None:
                continue
            if block.taken or block.exported:
                counts[block.number] += 2
            if block.end[0] in (CALL, CALL_INDIRECT):
                counts[block.end[4]] += 2
            elif block.end[4] != NOWHERE:
                counts[block.end[4]] += 1
            if block.end[3] != NOWHERE:
                counts[block.end[3]] += 2 if block.end[0] == CALL else 1
            for instruction in block.body:
                if instruction[0] == CODE_ADDRESS:
                    counts[instruction[2]] += 2
        return counts

    def _join(self) -> None:
        """Append to each block the one it jumps to, if nothing else does."""
        counts = self._predecessors()
        blocks = self._blocks
        for block in blocks:
            if block is None:
                continue
            bodies = [block.body]
            while block.end[0] == JUMP:
                after = blocks[block.end[3]]
                if after is None or after is block or counts[after.number] != 1:
                    break
                bodies.append(after.body)
                block.end = after.end
                blocks[after.number] = None
            if len(bodies) > 1:
                block.body = list(chain.from_iterable(bodies))

    def _move_conditionally(self) -> None:
        """Turn a branch on zero around one move into a conditional move."""
        counts = self._predecessors()
        for block in self._blocks:
            if block is None or block.end[0] not in _AROUND or block.end[2] != 0:
                continue
            number, condition, _, target, following, position = block.end
            if self._only_moves_to(following, target, counts):
                skipped, moves = following, _AROUND[number]
            elif self._only_moves_to(target, following, counts):
                other = next(branch for branch in _AROUND if branch != number)
                skipped, moves, target = target, _AROUND[other], following
            else:
                continue
            move = self._blocks[skipped]
            assert move is not None
            kind, x, y, _, place = move.body[0]
            if kind == MOVE:
                moved: Instruction = (moves[0], x, y, condition, place)
            else:
                moved = (moves[1], x, condition, y, place)
            block.body = [*block.body, moved]
            block.end = (JUMP, 0, 0, target, NOWHERE, position)
            self._blocks[skipped] = None

    def _only_moves_to(self, number: int, target: int, counts: list[int]) -> bool:
        block = self._blocks[number]
        if block is None or counts[number] != 1 or len(block.body) != 1 or number == target:
            return False
        return block.end[0] == JUMP and block.end[3] == target and block.body[0][0] in (MOVE, LOAD_IMM)
