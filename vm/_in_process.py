# SPDX-License-Identifier: MIT
"""What the homes of guests in this process have in common: nothing is kept ready, and none is used again."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import TYPE_CHECKING, Protocol, cast

from vm._machine import Machine

if TYPE_CHECKING:
    from vm._module import Module
    from vm._snapshot import Snapshot
    from vm._statistics import Counters


class InProcessMachine(Machine, Protocol):
    """A machine that threads of this process run."""

    async def gone(self) -> None:
        """Waits until no thread runs it any more, after a kill."""


class InProcessHome(ABC):
    """A `Home` whose machines are made when they are needed, and killed when they are given back."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._machines: weakref.WeakSet[InProcessMachine] = weakref.WeakSet()

    @property
    def processes(self) -> int:
        return 0

    @property
    def idle(self) -> int:
        return 0

    @abstractmethod
    async def start(self) -> None:
        """Makes it ready. Raises with the remedy if this machine cannot."""

    @abstractmethod
    async def _make(self, module: Module, snapshot: Snapshot | None) -> InProcessMachine:
        """A machine in its initial state, or that of the snapshot."""

    async def acquire(self, module: Module, tenant: Hashable, snapshot: Snapshot | None) -> InProcessMachine:
        machine = await self._make(module, snapshot)
        self._machines.add(machine)
        self._counters.spawned += 1
        return machine

    async def release(self, module: Module, machine: Machine, *, reusable: bool) -> None:
        machine.kill()
        await cast(InProcessMachine, machine).gone()

    async def aclose(self) -> None:
        machines = list(self._machines)
        for machine in machines:
            machine.kill()
        for machine in machines:
            await machine.gone()
