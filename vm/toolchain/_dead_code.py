# SPDX-License-Identifier: MIT
"""Dead code: what makes values that nobody reads."""

from __future__ import annotations

from typing import Final

from vm.toolchain._ir import CALL, CODE_ADDRESS, HAS_EFFECT, JUMP, LOAD_IMM, LOAD_IMM64, NOWHERE, WRITES_X, Block
from vm.toolchain._liveness import KNOWN_SHIFT, Liveness, before

_CONSTANTS: Final = frozenset({LOAD_IMM, LOAD_IMM64, CODE_ADDRESS})


def remove_dead_code(blocks: list[Block | None]) -> None:
    """Take out the dead instructions of all blocks; a call whose return address nobody reads becomes a jump."""
    liveness = Liveness(blocks)
    for block in blocks:
        if block is None:
            continue
        number, x, _, target, _, position = block.end
        if number == CALL and not liveness.starts[target] >> x + KNOWN_SHIFT & 1:
            block.end = (JUMP, 0, 0, target, NOWHERE, position)
        live = liveness.at_end(block)
        kept = []
        for instruction in reversed(block.body):
            number, x = instruction[0], instruction[1]
            if WRITES_X[number] and not HAS_EFFECT[number]:
                bit = x + KNOWN_SHIFT if number in _CONSTANTS else x
                if not live >> bit & 1:
                    continue
            live = before(instruction, live)
            kept.append(instruction)
        if len(kept) != len(block.body):
            kept.reverse()
            block.body = kept
