# SPDX-License-Identifier: MIT
"""The order of the optimizations."""

from __future__ import annotations

from vm.isa import InstructionSet
from vm.toolchain._dead_code import remove_dead_code
from vm.toolchain._fold import Folder
from vm.toolchain._inline import inline_tiny_functions
from vm.toolchain._ir import OPERATIONS, UNLIKELY, Block, Positions
from vm.toolchain._jumps import JumpSimplifier
from vm.toolchain._unlikely import mark_unlikely

#: The first round decides branches and makes calls direct, the second one folds what that brought together.
_ROUNDS = 2


def optimize_blocks(blocks: list[Block | None], isa: InstructionSet, positions: Positions) -> None:
    """Make the program shorter and faster; blocks that are gone become None."""
    for _ in range(_ROUNDS):
        JumpSimplifier(blocks).run()
        inline_tiny_functions(blocks, positions)
        JumpSimplifier(blocks).run()
        folder = Folder(isa.word_bits)
        for block, known in zip(blocks, folder.constants_at_starts(blocks), strict=True):
            if block is not None and known is not None:
                folder.fold(block, known)
        remove_dead_code(blocks)
    JumpSimplifier(blocks).run()
    unlikely = OPERATIONS[UNLIKELY]
    if unlikely is not None and unlikely.numbers[isa] is not None:
        mark_unlikely(blocks)
