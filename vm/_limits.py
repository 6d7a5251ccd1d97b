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


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupLimits:
    """What all guests of an engine may use together, kept by the kernel (cgroups(7)); None: as much as they want.
    docs/limits.md says what of it counts, and what happens then.

    Raises ValueError for a value out of range.
    """

    #: Bytes of memory that their processes were the first to touch.
    memory: int | None = None
    #: Processes: each guest that is alive, idle or kept ready is one.
    processes: int | None = None
    #: Processors, from 0.01 up: 1.5 is 150 ms of processor time in every 100 ms.
    cpu: float | None = None
    #: The group in which one is made for the engine, as /proc/PID/cgroup has it ("/batch/guests"); None: that of this
    #: process. In version 2 it has to be one that has no processes of its own.
    parent: str | None = None
    #: Whether an engine is refused where they cannot be had; else it is a warning in the log of "vm".
    required: bool = True

    def __post_init__(self) -> None:
        for name, least in (("memory", 1 << 20), ("processes", 1), ("cpu", 0.01)):
            value = getattr(self, name)
            if value is None:
                continue
            if not least <= value < 1 << 63 or (name != "cpu" and not isinstance(value, int)):
                raise ValueError(f"cgroup limit {name} is {value!r}: it must be a number from {least} up, or None")


def _less(first: Number | None, second: Number | None) -> Number | None:
    if first is None or second is None:
        return second if first is None else first
    return min(first, second)
