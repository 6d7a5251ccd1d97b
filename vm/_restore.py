# SPDX-License-Identifier: MIT
"""Copying a snapshot into a guest's memory, on the event loop's thread if that is short."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from vm._nursery import sandbox_error
from vm._sandbox import ffi, lib
from vm._threads import in_thread_until

if TYPE_CHECKING:
    from vm._sandbox import CData

#: Bytes that are copied and cleared without a thread: half a millisecond, in memory that was not touched yet.
INLINE: Final = 4 << 20


def size_of(snapshot: CData) -> int:
    """Bytes of the contents of a snapshot."""
    size = ffi.new("uint64_t *")
    lib.sandbox_snapshot_data(snapshot, size)
    return int(size[0])


async def restore(
    function: Callable[..., int],
    target: CData,
    snapshot: CData,
    *arguments: object,
    resident: int = 0,
    inline: int = INLINE,
) -> None:
    """Calls a ``sandbox_*_restore`` on a target of which so many bytes are `resident`; in a thread if there are more
    than `inline` to copy and to clear. Goes on to its end when it is cancelled.

    Raises `SandboxError`.
    """

    def work() -> int:
        return function(target, snapshot, *arguments)

    error = work() if size_of(snapshot) + resident <= inline else await in_thread_until(work)
    if error < 0:
        raise sandbox_error(error, "copying a snapshot into guest memory (ftruncate, pwrite, userfaultfd)")
