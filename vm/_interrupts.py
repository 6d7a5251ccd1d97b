# SPDX-License-Identifier: MIT
"""Why a guest stopped: what `Instance.run` returns, made for ``match``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Finished:
    """The guest returned to its host; results are in a0 (and a1)."""


@dataclass(frozen=True, slots=True)
class HostCall:
    """The guest wants the host to do something and is ready to go on behind it."""

    #: Position among the program's imports; the guest chose it, so it can be anything up to 2^32-1.
    index: int


@dataclass(frozen=True, slots=True)
class Trap:
    """The guest did what it may not: touched memory that is not there, jumped to no block, or trapped on purpose."""

    #: Code offset of the instruction; its registers are as they were before it.
    pc: int
    #: The signal the processor's fault became (signal(7)), for people; 0 where there was none.
    signal: int = 0


@dataclass(frozen=True, slots=True)
class OutOfGas:
    """The guest cannot pay for its next block. With sync metering it goes on at `pc` once there is more."""

    #: Code offset of the block, or of the memset that was paid in part; None with async metering.
    pc: int | None


@dataclass(frozen=True, slots=True)
class Step:
    """With step tracing: the guest is about to execute the instruction at `pc`."""

    pc: int


@dataclass(frozen=True, slots=True)
class PageFault:
    """With dynamic paging: the guest touched a page that is not there, or wrote to a protected one.

    Nothing of the instruction at `Instance.program_counter` is done (of a memset: what lies before the page). It is
    executed again when the guest goes on, and charged no second time.
    """

    #: Of the page's first byte.
    address: int
    #: Bytes of a page: the module's `ModuleConfig.page_size`.
    size: int
    #: Whether the guest wants to write.
    is_write: bool


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The host stopped the guest before the instruction at `pc` (`Instance.interrupt`); it goes on there."""

    #: Code offset of an instruction: of a memset, maybe in its middle, with its registers saying how far it is.
    pc: int


Interrupt: TypeAlias = Finished | HostCall | Trap | OutOfGas | Step | PageFault | Interrupted
