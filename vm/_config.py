# SPDX-License-Identifier: MIT
"""Settings, frozen once made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How an `Engine` runs its guests. Raises ValueError for a value out of range."""

    #: How guest code is executed.
    backend: Literal["recompiler"] = "recompiler"
    #: What keeps it in: a locked-down process per guest.
    sandbox: Literal["linux"] = "linux"
    #: Seconds that a resumed guest is polled before its waiter is suspended on the event loop, at most 1 ms. Short
    #: calls are answered within it; it adapts to each instance and is off while guests outnumber processors.
    spin: float = 50e-6
    #: Whether a worker process serves further instances of its module, its memory reset in between. Otherwise
    #: every instance gets a new process.
    reuse_workers: bool = True
    #: Idle worker processes kept for reuse, over all modules; the longest idle ones go first.
    max_idle_workers: int = 64

    def __post_init__(self) -> None:
        if self.backend != "recompiler":
            raise ValueError(f"unknown backend {self.backend!r}: there is 'recompiler'")
        if self.sandbox != "linux":
            raise ValueError(f"unknown sandbox {self.sandbox!r}: there is 'linux'")
        if not 0 <= self.spin <= 1e-3:
            raise ValueError(f"spin is {self.spin} seconds: it must be from 0 to 0.001")
        if self.max_idle_workers < 0:
            raise ValueError(f"max_idle_workers is {self.max_idle_workers}: it must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleConfig:
    """How one program is compiled; checked when it is, because what fits depends on the program."""

    #: Bytes of a guest memory page: a power of two from 4 KiB to 64 KiB (specification, section 1).
    page_size: int = 0x1000
    #: Bytes of auxiliary data, which the host writes and the guest only reads.
    aux_data_size: int = 0
