# SPDX-License-Identifier: MIT
"""What a guest may use before it is stopped."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TypeVar

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a guest may use; None: as much as it wants. docs/limits.md says how each is enforced.

    Raises ValueError for a value that is negative or not a number.
    """

    #: Bytes of memory that it can touch: stack, read-write data and heap together, whether it has touched them or not.
    memory: int | None = None
    #: Gas that an instance starts with. Only for modules that are metered (`ModuleConfig.gas_metering`).
    gas: int | None = None
    #: Seconds that one `Instance.run` or `Instance.call` may take, host functions that it awaits included.
    wall: float | None = None
    #: Seconds of processor time that an instance may take, all its runs together.
    cpu: float | None = None

    def __post_init__(self) -> None:
        for name in ("memory", "gas", "wall", "cpu"):
            value = getattr(self, name)
            if value is None:
                continue
            if not value >= 0 or (name in ("memory", "gas") and not isinstance(value, int)) or value == math.inf:
                raise ValueError(f"limit {name} is {value!r}: it must be a number from 0 up, or None")
        if self.gas is not None and self.gas >= 1 << 63:
            raise ValueError(f"limit gas is {self.gas}: it must be below 2^63")

    def __and__(self, other: Limits) -> Limits:
        """The stricter of both in everything."""
        return Limits(
            **{field.name: _less(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        )


def _less(first: Number | None, second: Number | None) -> Number | None:
    if first is None or second is None:
        return second if first is None else first
    return min(first, second)
