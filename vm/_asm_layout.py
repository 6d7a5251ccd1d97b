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
#: Most bytes a distance takes.
WIDEST: Final = 4


class Jump(NamedTuple):
    """Instruction number `source` jumps to instruction number `target`, in no less than `width` bytes of distance."""

    source: int
    target: int
    width: int = 0


class Layout(NamedTuple):
    """Where every instruction goes."""

    #: The code offset of every instruction, and last the length of the code.
    positions: list[int]
    #: Bytes of distance of every jump, in the order the jumps were given.
    widths: list[int]


def lay_out(lengths: Sequence[int], jumps: Sequence[Jump]) -> Layout:
    """The shortest layout of instructions that take `lengths` bytes, jumps without their distances.

    Widths only ever grow: from the least ones allowed they reach the least ones that fit.
    """
    grown = list(lengths)
    widths = [jump.width for jump in jumps]
    for source, _, width in jumps:
        grown[source] += width
    for _ in range(_MOST_PASSES):
        positions = [0, *accumulate(grown)]
        settled = True
        for number, (source, target, _) in enumerate(jumps):
            width = immediate_size(positions[target] - positions[source])
            if width > widths[number]:
                grown[source] += width - widths[number]
                widths[number] = width
                settled = False
        if settled:
            return Layout(positions, widths)
    for number, (source, _, _) in enumerate(jumps):
        grown[source] += WIDEST - widths[number]
        widths[number] = WIDEST
    return Layout([0, *accumulate(grown)], widths)
