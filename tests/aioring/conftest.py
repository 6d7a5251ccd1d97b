# SPDX-License-Identifier: MIT
"""Every async test here runs in each home of a ring: as a guest of asyncio's loop or uvloop's, and driving its own."""

import asyncio
import concurrent.futures
import contextlib
import importlib.util
import mmap
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aioring

# Tests are imported by path, not as packages: this lets them import the modules beside them.
sys.path.insert(0, str(Path(__file__).parent))

HOMES: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "aioring": aioring.EventLoop,
}
if importlib.util.find_spec("uvloop") is not None:
    import uvloop

    HOMES["uvloop"] = uvloop.Loop


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return HOMES


@pytest.fixture(params=list(HOMES))
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that the test runs and stops by itself."""
    made = HOMES[request.param]()
    yield made
    made.close()


@pytest.fixture
async def ring() -> AsyncIterator[aioring.Ring]:
    async with aioring.open_ring() as opened:
        yield opened
        assert opened.in_flight == 0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        with contextlib.suppress(OSError):  # the test may have closed it
            os.close(fd)


@pytest.fixture
def count_fds() -> Callable[[], int]:
    return lambda: len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(params=[False, True], ids=["alone", "beside others"])
async def others(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Whether another task always has something to do: then what waits lets it have a turn, and looks again."""

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    spinning = asyncio.create_task(spin()) if request.param else None
    yield
    if spinning is not None:
        spinning.cancel()


# ---- page faults: see faults.py ------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[mmap.mmap]:
    """Private memory without a page. Its close() fails if something still has it."""
    from faults import private  # beside this, as the tests find it

    made = private()
    yield made
    made.close()


@pytest.fixture
def pool(memory: mmap.mmap) -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    """Threads that touch memory; they end after the userfaultfd, which lets go of those that wait."""
    with concurrent.futures.ThreadPoolExecutor(64) as made:
        yield made


@pytest.fixture
def uffd(ring: aioring.Ring, pool: concurrent.futures.ThreadPoolExecutor) -> Iterator[aioring.Userfaultfd]:
    with aioring.Userfaultfd(ring) as made:
        yield made


@pytest.fixture
def start(pool: concurrent.futures.ThreadPoolExecutor) -> Callable[..., asyncio.Future[Any]]:
    """Calls a function in a thread of its own."""
    return lambda call, *arguments: asyncio.wrap_future(pool.submit(call, *arguments))
