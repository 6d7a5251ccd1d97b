# SPDX-License-Identifier: MIT
"""An engine that can be entered in a task of trio."""

from __future__ import annotations

from collections.abc import Coroutine, Hashable
from typing import TYPE_CHECKING, Any, TypeVar

import vm._engine
from vm._errors import InstanceStateError
from vm._execution import Execution
from vm._threads import under_trio

if TYPE_CHECKING:
    from vm._bridge import Bridge
    from vm._limits import Limits
    from vm._machine import Machine
    from vm._module import Module
    from vm._snapshot import Snapshot

T = TypeVar("T")


class Engine(vm._engine.Engine):
    """A `vm.Engine` for asyncio and trio, and so for anyio. Entered in asyncio it is nothing else.

    Entered in trio it lives in an event loop of its own, in a thread; its modules and instances are vm's, to be used in
    tasks of that trio run. A guest runs for the task that awaits `Instance.run` or `Instance.call`: host functions and
    page fault handlers, ``def`` and ``async def``, are called in that task, with its context variables and its
    cancellation. Cancelled, it waits until the guest has stopped, some milliseconds at most; a stop that the guest came
    to at the same moment is the result, and the cancellation is seen at the next checkpoint.
    """

    _bridge: Bridge | None = None

    async def __aenter__(self) -> Engine:
        if self._entered or not under_trio():
            await super().__aenter__()
            return self
        from vm._bridge import Bridge

        self._bridge = bridge = Bridge()
        try:
            await bridge.run(super().__aenter__())
        except BaseException:
            await bridge.aclose()
            raise
        return self

    async def aclose(self) -> None:
        bridge = self._bridge
        if bridge is None:
            if self._entered or not under_trio():
                await super().aclose()
        elif not under_trio():  # the engine closes itself
            await super().aclose()
        elif not bridge.closed:
            try:
                await bridge.finish(super().aclose())
            finally:
                await bridge.aclose()

    def _there(self) -> Bridge | None:
        """The bridge, if there is one to cross."""
        if self._bridge is not None and not under_trio():
            raise InstanceStateError("the engine was entered in trio: use it there")
        return self._bridge

    async def _finish(self, work: Coroutine[Any, Any, Module]) -> Module:
        bridge = self._there()
        return await (super()._finish(work) if bridge is None else bridge.run(super()._finish(work)))

    async def _acquire(self, module: Module, tenant: Hashable, snapshot: Snapshot | None) -> Machine:
        bridge = self._there()
        self._check_open()
        acquiring = super()._acquire(module, tenant, snapshot)
        return await (acquiring if bridge is None else bridge.run(acquiring))

    async def _release(self, module: Module, machine: Machine, *, reusable: bool) -> None:
        bridge = self._there()
        releasing = super()._release(module, machine, reusable=reusable)
        if bridge is None:
            await releasing
        elif bridge.closed:
            releasing.close()  # it is gone with the engine
        else:
            await bridge.finish(releasing)

    def _execution(self, machine: Machine, limits: Limits, *, paged: bool, held: int | None) -> Execution:
        if self._bridge is None:
            return super()._execution(machine, limits, paged=paged, held=held)
        from vm._bridge import BridgedExecution

        return BridgedExecution(self, machine, limits, self._bridge, paged=paged, held=held)
