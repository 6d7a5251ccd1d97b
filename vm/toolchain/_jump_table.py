# SPDX-License-Identifier: MIT
"""The jump table: a slot for every block that an indirect jump can go to, and with it a code address (blob
specification, section 7.4)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from vm.isa import CODE_ADDRESS_ALIGNMENT
from vm.program import MAX_JUMP_TABLE_ENTRIES
from vm.toolchain._errors import ElfError
from vm.toolchain._ir import CALL, CALL_INDIRECT, CODE_ADDRESS, Block

_CALLS: Final = frozenset({CALL, CALL_INDIRECT})


class JumpTable:
    """The slots, in the order of the code."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        ordered = list(blocks)
        wanted = {block.number for block in ordered if block.taken}
        for block in ordered:
            if block.end[0] in _CALLS:
                wanted.add(block.end[4])
            wanted.update(instruction[2] for instruction in block.body if instruction[0] == CODE_ADDRESS)
        #: The block of each slot.
        self.slots = [block.number for block in ordered if block.number in wanted]
        if len(self.slots) > MAX_JUMP_TABLE_ENTRIES:
            raise ElfError(f"{len(self.slots)} code addresses; there can be no more than {MAX_JUMP_TABLE_ENTRIES}")
        self._addresses = {number: (slot + 1) * CODE_ADDRESS_ALIGNMENT for slot, number in enumerate(self.slots)}

    def address(self, block: int) -> int:
        """The code address of a block."""
        return self._addresses[block]

    def __contains__(self, block: int) -> bool:
        return block in self._addresses
