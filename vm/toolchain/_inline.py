# SPDX-License-Identifier: MIT
"""Tiny functions, such as the stubs of imports, are copied to where they are called."""

from __future__ import annotations

from typing import Final

from vm.toolchain._ir import (
    CALL,
    CODE_ADDRESS,
    ECALLI,
    JUMP,
    JUMP_INDIRECT,
    NOWHERE,
    READS_X,
    READS_Y,
    READS_Z,
    WRITES_X,
    Block,
    Positions,
)

#: Most instructions of a function that is copied. A call and a return cost about as much.
_LONGEST: Final = 5


def _keeps_register(block: Block, register: int) -> bool:
    """Whether a block neither reads nor writes `register`."""
    for number, x, y, z, _ in block.body:
        if number == ECALLI:
            continue
        if (READS_X[number] or WRITES_X[number]) and x == register:
            return False
        if (READS_Y[number] and y == register) or (READS_Z[number] and z == register):
            return False
    return True


def inline_tiny_functions(blocks: list[Block | None], positions: Positions) -> None:
    """Copy functions of one block without calls to their callers.

    The register of the return address still gets it, for whoever might look at it; mostly nobody does, which makes it
    dead code.
    """
    for block in blocks:
        if block is None or block.end[0] != CALL:
            continue
        _, link, _, target, following, position = block.end
        function = blocks[target]
        if (
            function is not None
            and function.end[0] == JUMP_INDIRECT
            and function.end[1] == link
            and len(function.body) <= _LONGEST
            and _keeps_register(function, link)
        ):
            body = [(number, x, y, z, positions.inlined(place, position)) for number, x, y, z, place in function.body]
            block.body = [*block.body, (CODE_ADDRESS, link, following, 0, position), *body]
            block.end = (JUMP, 0, 0, following, NOWHERE, position)
