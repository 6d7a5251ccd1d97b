# SPDX-License-Identifier: MIT
"""Hints for the gas model: `unlikely` where a branch leads to nothing but a trap (blob specification, 10.2)."""

from __future__ import annotations

from vm.toolchain._ir import CALL, CALL_INDIRECT, JUMP_INDIRECT, NOWHERE, TRAP, UNLIKELY, Block, is_branch


def mark_unlikely(blocks: list[Block | None]) -> None:
    """Put the hint at the start of every block that a branch goes to and that always ends in a trap."""
    doomed = _doomed(blocks)
    marked: set[int] = set()
    for block in blocks:
        if block is None or not is_branch(block.end[0]):
            continue
        # If both ways are doomed, so is the block, and a hint says nothing.
        ways = [way for way in block.end[3:5] if doomed[way]]
        if len(ways) == 1:
            marked.update(ways)
    for number in sorted(marked):
        block = blocks[number]
        assert block is not None
        if block.body or block.end[0] != TRAP:  # a trap is its own hint
            block.body.insert(0, (UNLIKELY, 0, 0, 0, block.address))


def _doomed(blocks: list[Block | None]) -> bytearray:
    """Of each block whether all ways from it lead to a trap; a call is taken to return to where it says."""
    predecessors: list[list[int]] = [[] for _ in blocks]
    doomed = bytearray(len(blocks))
    pending: list[int] = []
    for block in blocks:
        if block is None:
            continue
        number, _, _, target, following, _ = block.end
        if number == TRAP:
            pending.append(block.number)
        elif number != JUMP_INDIRECT:
            ways = {following} if number in (CALL, CALL_INDIRECT) else {target, following}
            for way in ways - {NOWHERE}:
                predecessors[way].append(block.number)
    while pending:
        number = pending.pop()
        if doomed[number]:
            continue
        doomed[number] = 1
        for predecessor in predecessors[number]:
            block = blocks[predecessor]
            assert block is not None
            end, _, _, target, following, _ = block.end
            others = (following,) if end in (CALL, CALL_INDIRECT) else (target, following)
            if all(way == NOWHERE or doomed[way] for way in others):
                pending.append(predecessor)
    return doomed
