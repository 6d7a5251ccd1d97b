# SPDX-License-Identifier: MIT
"""`Buffers`: memory that is registered with the loop's ring."""

from __future__ import annotations

import mmap
import os
from types import TracebackType
from typing import Self

from aioring.fs._running import running_loop


class Buffers:
    """Page-aligned memory in `count` buffers of `size` bytes, registered with the ring (Linux 5.19).

    ::

        async with aioring.fs.Buffers(32, 65536) as buffers:
            buffer = buffers[0]
            got = await file.pread_into(buffer, 0)

    The kernel then need not find and pin their pages for each operation. A transfer with one buffer that lies in here,
    as a whole or in part, uses that by itself; aligned as it is, the memory fits files opened with ``direct=True``.
    At most 16 are registered at a time, and their memory counts for RLIMIT_MEMLOCK.

    Raises:
        OSError: ENOMEM, there is not that much memory that may be locked; ENOBUFS, 16 are registered.
        ValueError: `count` or `size` is not above 0, or `size` no multiple of 512.
    """

    def __init__(self, count: int, size: int) -> None:
        if count < 1 or size < 1 or size % 512:
            raise ValueError(f"count must be above 0, and size a multiple of 512: {count}, {size}")
        self._loop = running_loop()
        self._size = size
        self._memory: mmap.mmap | None = mmap.mmap(-1, count * size)
        self._view = memoryview(self._memory)
        self._index, self._generation = self._loop._register_buffer(self._memory)
        if self._index < 0:
            self._free()
            raise OSError(-self._index, os.strerror(-self._index))
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> memoryview:
        """One of the buffers, writable."""
        if self._memory is None:
            raise ValueError("the buffers were given up")
        if not -self._count <= index < self._count:
            raise IndexError(f"there are {self._count} buffers, and no {index}")
        start = index % self._count * self._size
        return self._view[start : start + self._size]

    def close(self) -> None:
        """Give the memory up; again does nothing. It goes when the last memoryview of it is gone."""
        if self._memory is None:
            return
        if not self._loop.is_closed():
            self._loop._unregister_buffer(self._index, self._generation)
        self._free()

    def _free(self) -> None:
        self._memory = None
        self._view = memoryview(b"")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_index", -1) >= 0:
            self.close()
