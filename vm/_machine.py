# SPDX-License-Identifier: MIT
"""What an instance needs of whatever executes its guest: one interface, a class per home.

* ``vm._linux``: recompiled code in a locked-down process per guest
* ``vm._generic``: recompiled code in this process
* ``vm._interpreted``: the interpreter, in this process
* ``vm._crosschecked``: both at once, compared at every stop
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from vm._errors import VMError
    from vm._module import Module
    from vm._sandbox import CData
    from vm._snapshot import Snapshot


class Machine(Protocol):
    """One guest's machine. Events are those of ``enum sandbox_event``."""

    @property
    def guest(self) -> CData:
        """``struct sandbox_guest``: the state of the stopped guest."""

    @property
    def memories(self) -> tuple[CData, ...]:
        """Its ``sandbox_memory``. Where there are more, they hold the same: one is read, all are written."""

    @property
    def pid(self) -> int:
        """The process that it runs in."""

    @property
    def dead(self) -> bool:
        """Whether it can never run again."""

    @property
    def usable(self) -> bool:
        """Whether it is not dead, nor was killed."""

    def resume(self, spin_ns: int, worker_spin: int) -> int:
        """Lets the guest go on; SANDBOX_BUSY if it did not stop again within `spin_ns` nanoseconds."""

    async def wait(self) -> int:
        """Waits until it stops. A cancelled wait changes nothing: wait again, or kill it."""

    def interrupt(self) -> bool:
        """Has a guest that is waited for stop where it is, soon: SANDBOX_INTERRUPTED, if it does not stop by itself.

        False if it cannot be done.
        """

    def cpu_ns(self) -> int:
        """Nanoseconds of processor time that it took so far; exact while it is stopped."""

    def kill(self) -> None:
        """Ends it, soon."""

    def death(self) -> VMError:
        """The exception that tells how it ended."""


class Home(Protocol):
    """Where an engine's guests live."""

    @property
    def processes(self) -> int:
        """How many processes it has."""

    @property
    def idle(self) -> int:
        """How many of them nobody has."""

    async def start(self) -> None:
        """Makes it ready. Raises with the remedy if this machine cannot."""

    async def acquire(self, module: Module, tenant: Hashable, snapshot: Snapshot | None) -> Machine:
        """A machine for `module` in its initial state, or that of a `snapshot` which is open, that nobody else has; no
        other tenant's guest was in it, unless `Config.reuse` allows that."""

    async def release(self, module: Module, machine: Machine, *, reusable: bool) -> None:
        """Takes one back; `reusable`: it is stopped and did nothing out of the rules."""

    async def aclose(self) -> None:
        """Ends all that are left and waits for it."""
