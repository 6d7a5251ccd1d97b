# SPDX-License-Identifier: MIT
"""The modules that an engine made and still knows: the latest ones, and those that somebody else keeps alive."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from vm._module import Module


class ModuleCache:
    """Modules by key: the `size` last used ones, and all others as long as something refers to them. 0: none at all.

    Used on the event loop's thread only.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        # longest unused first
        self._recent: OrderedDict[bytes, Module] = OrderedDict()
        self._alive: WeakValueDictionary[bytes, Module] = WeakValueDictionary()
        self._making: dict[bytes, asyncio.Task[Module]] = {}

    async def get(self, key: bytes | None, make: Callable[[], Awaitable[Module]]) -> Module:
        """The module with this key; made if it is not there, by the first who asks while the others wait for it.

        What is raised then reaches all of them, and the next one tries again. A key of None is nobody else's. To cancel
        one who waits leaves the others alone.
        """
        if key is None or self._size == 0:
            return await make()
        module = self._alive.get(key)
        if module is not None:
            self._use(key, module)
            return module
        task = self._making.get(key)
        if task is None:
            task = self._making[key] = asyncio.create_task(self._make(key, make))
            task.add_done_callback(lambda _: self._making.pop(key))
        return await asyncio.shield(task)

    async def _make(self, key: bytes, make: Callable[[], Awaitable[Module]]) -> Module:
        return self.add(key, await make())

    def add(self, key: bytes, module: Module) -> Module:
        """The module to use for this key from now on: the one that is known, if there is one."""
        if self._size == 0:
            return module
        module = self._alive.setdefault(key, module)
        self._use(key, module)
        return module

    def _use(self, key: bytes, module: Module) -> None:
        self._recent[key] = module
        self._recent.move_to_end(key)
        if len(self._recent) > self._size:
            self._recent.popitem(last=False)

    def clear(self) -> None:
        """Forgets all modules; those that somebody else refers to live on."""
        self._recent.clear()
        self._alive.clear()
