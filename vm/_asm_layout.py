# SPDX-License-Identifier: MIT
"""Positions of instructions whose lengths depend on how far they jump.

A jump target is encoded as the distance from the jump, in as few bytes as it takes; what the jump takes moves
everything behind it, and so other distances.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from vm.encoding import immediate_size

# Real programs settle in under ten passes.  Text can be made in which every pass lengthens but a single jump; this
# bounds the work, at the price of longer jumps there.
_MOST_PASSES: Final = 64
_WIDEST: Final = 4


class Jump(NamedTuple):
    """Instruction number `source` jumps to instruction number `target`."""

    source: int
    target: int


class Layout(NamedTuple):
    """Where every instruction goes."""

    #: The code offset of every instruction, and last the length of the code.
    positions: list[int]
    #: Bytes of distance of every jump, in the order the jumps were given.
    widths: list[int]


def lay_out(lengths: Sequence[int], jumps: Sequence[Jump]) -> Layout:
    """The shortest layout of instructions that take `lengths` bytes, jumps without their distances.

    Widths only ever grow: from zero bytes each they reach the least ones that fit, which are therefore exact.
    """
    grown = list(lengths)
    widths = [0] * len(jumps)
    for _ in range(_MOST_PASSES):
        positions = [0, *accumulate(grown)]
        settled = True
        for number, (source, target) in enumerate(jumps):
            width = immediate_size(positions[target] - positions[source])
            if width > widths[number]:
                grown[source] += width - widths[number]
                widths[number] = width
                settled = False
        if settled:
            return Layout(positions, widths)
    for number, (source, _) in enumerate(jumps):
        grown[source] += _WIDEST - widths[number]
        widths[number] = _WIDEST
    return Layout([0, *accumulate(grown)], widths)
