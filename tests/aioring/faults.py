# SPDX-License-Identifier: MIT
"""Touching memory that a `Userfaultfd` has registered; the fixtures for it are in conftest.py.

It is done by functions of the C library in threads of a pool: ctypes releases the GIL around them, without which the
event loop could not run.
"""

import asyncio
import ctypes
import mmap
import select
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import aioring

PAGE = mmap.PAGESIZE
PAGES = 16
HAS = aioring.features()

needs_userfaultfd = pytest.mark.skipif(HAS.userfaultfd_unavailable is not None, reason=str(HAS.userfaultfd_unavailable))

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
LIBC.memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *3 * [ctypes.c_int], ctypes.c_long]
LIBC.mmap.restype = ctypes.c_void_p
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def write(address: int, length: int = 1) -> int:
    """Sets bytes to "w"; the native id of the thread that did."""
    LIBC.memset(address, ord("w"), length)
    return threading.get_native_id()


def read(address: int, length: int = 1) -> bytes:
    out = ctypes.create_string_buffer(length)
    LIBC.memcpy(out, address, length)
    return out.raw


def private(pages: int = PAGES) -> mmap.mmap:
    return mmap.mmap(-1, pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def page(content: bytes) -> bytes:
    return content.ljust(PAGE, b".")


def until_there_is_one(uffd: aioring.Userfaultfd) -> None:
    """Waits for a fault that nobody has read."""
    assert select.select([uffd], [], [], 10)[0]


Start = Callable[..., asyncio.Future[Any]]


async def waiting(ring: aioring.Ring, reader: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A task of a reader, which waits in the kernel by now."""
    task = asyncio.create_task(reader)
    before = ring.in_flight
    while ring.in_flight == before:
        await asyncio.sleep(0)
    await ring.nop()
    assert not task.done()
    return task
