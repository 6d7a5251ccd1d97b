# SPDX-License-Identifier: MIT
"""Fixtures for every test: the event loops, an engine that must leave nothing behind, the data beside the project."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

import vm
from vm._loops import new_event_loop

# Tests are imported by path, not as packages: this lets them import the modules beside them.
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "native")]

from commands import Template
from processes import Census, census

# A shell starts what runs in the background with SIGINT ignored, and children inherit that: they would never see the
# SIGINT that a test sends them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    # aioring.EventLoop; where a test refused io_uring to this process, what vm uses there
    "aioring": new_event_loop,
}


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every async test runs on both loops, unless it is marked ``asyncio(loop_factories=[...])``."""
    return LOOPS


#: Folders where whichever test comes first builds something with a compiler, and the seconds that it gets for it.
BUILDING = {"fuzz": 120, "native": 120, "sdk": 120}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        seconds = BUILDING.get(item.path.parent.name)
        if seconds is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(seconds))


@pytest.fixture(scope="module", autouse=True)
def _forget_what_stays() -> None:
    # The imports and pytest's reports of earlier modules will never be garbage: collections of single tests need not
    # look at them. Nothing of a test is alive between modules.
    gc.collect()
    gc.freeze()


@pytest.fixture
async def nothing_left(request: pytest.FixtureRequest) -> AsyncIterator[Census]:
    """Checks that the test leaves no file, process or mapping behind; gives what there was before it."""
    before = census()
    yield before
    request.node.funcargs.clear()  # pytest would keep modules and instances until later
    await asyncio.get_running_loop().shutdown_default_executor()  # a thread holds its result for a moment
    assert not census() - before


@pytest.fixture
async def engine(nothing_left: Census) -> AsyncIterator[vm.Engine]:
    """An open engine, which leaves nothing behind."""
    async with vm.Engine() as engine:
        yield engine


@pytest.fixture(scope="module")
def template() -> Iterator[Template]:
    """What a `Command` starts from."""
    template = Template()
    yield template
    template.close()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of programs and vectors beside the project; skips where it is absent."""
    found = HERE.parents[1] / "shared"
    if not found.is_dir():
        pytest.skip(f"no {found.name} folder beside the project: its programs and vectors are needed here")
    return found
