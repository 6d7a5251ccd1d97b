# SPDX-License-Identifier: MIT
"""How `EventLoop` waits: readiness of files through watches on its ring, in the form of a selector."""

from __future__ import annotations

import math
import select
from collections.abc import Iterator, Mapping
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector, SelectorKey
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

    from aioring._loop import LoopRing

# A wait without a limit ends once a day, as asyncio's own waits do; see uring_wait() for why there is always a limit.
_FOREVER = 24 * 3600 * 10**9

_MASK = {
    EVENT_READ: select.POLLIN,
    EVENT_WRITE: select.POLLOUT,
    EVENT_READ | EVENT_WRITE: select.POLLIN | select.POLLOUT,
}
EVENTS = {mask: events for events, mask in _MASK.items()}


class _Map(Mapping["FileDescriptorLike", SelectorKey]):
    """`RingSelector.get_map()`: the keys by file object or fd."""

    def __init__(self, selector: RingSelector) -> None:
        self._selector = selector

    def __len__(self) -> int:
        return len(self._selector.keys)

    def __iter__(self) -> Iterator[int]:
        return iter(self._selector.keys)

    def __getitem__(self, fileobj: FileDescriptorLike) -> SelectorKey:
        return self._selector.get_key(fileobj)


class RingSelector(BaseSelector):
    """A selector on a driving ring.

    Unlike epoll it takes regular files, which are always ready, and it holds a registered file open: one that is closed
    without being unregistered lives on until it was ready once more.
    """

    def __init__(self, ring: LoopRing) -> None:
        self._ring = ring
        self.keys: dict[int, SelectorKey] = {}
        self._map = _Map(self)
        self.ready: list[tuple[SelectorKey, int]] = []  # filled by the ring in each wait

    def _fd_of(self, fileobj: FileDescriptorLike) -> int:
        if type(fileobj) is int:
            return fileobj
        try:
            fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        except (AttributeError, TypeError, ValueError):
            fd = -1
        if fd >= 0:
            return fd
        # A closed file object: known under the fd it had.
        for key in self.keys.values():
            if key.fileobj is fileobj:
                return key.fd
        raise ValueError(f"invalid file object: {fileobj!r}")

    def get_map(self) -> Mapping[FileDescriptorLike, SelectorKey]:
        return self._map

    def get_key(self, fileobj: FileDescriptorLike) -> SelectorKey:
        key = self.keys.get(self._fd_of(fileobj))
        if key is None:
            raise KeyError(f"{fileobj!r} is not registered")
        return key

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> SelectorKey:
        fd = self._fd_of(fileobj)
        if fd in self.keys:
            raise KeyError(f"{fileobj!r} (fd {fd}) is already registered")
        self._watch(fd, events)
        key = self.keys[fd] = SelectorKey(fileobj, fd, events, data)
        return key

    def modify(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> SelectorKey:
        key = self.get_key(fileobj)
        self._watch(key.fd, events)
        key = self.keys[key.fd] = SelectorKey(key.fileobj, key.fd, events, data)
        return key

    def unregister(self, fileobj: FileDescriptorLike) -> SelectorKey:
        """Forget a file. When this returns, the kernel does not hold it open any more."""
        key = self.get_key(fileobj)
        del self.keys[key.fd]
        self._ring._unwatch(key.fd)
        return key

    def _watch(self, fd: int, events: int) -> None:
        if events not in _MASK:
            raise ValueError(f"invalid events: {events!r}")
        self._ring._watch(fd, _MASK[events])

    def watch_again(self) -> None:
        """There is a new ring: watch in it what the old one watched."""
        for key in self.keys.values():
            self._ring._watch(key.fd, _MASK[key.events])

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """Submit, wait, and complete operations. Returns the ready files; none after a signal."""
        # Not left over from a wait that an exception interrupted: those files fire again.
        ready = self.ready = []
        if timeout is None:
            self._ring._poll(_FOREVER)
        elif timeout <= 0:
            self._ring._poll(0)
        else:
            # Rounded up: a wait that ends before a timer's time would cost a second one.
            self._ring._poll(min(math.ceil(timeout * 1e9), _FOREVER))
        return ready

    def close(self) -> None:
        """Forget all files. The ring is closed by its loop."""
        self.keys.clear()
        self.ready.clear()
