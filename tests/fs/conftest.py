# SPDX-License-Identifier: MIT
"""Tests of aioring.fs, which needs an aioring.EventLoop."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

import aioring


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"aioring": aioring.EventLoop}


@pytest.fixture
def count_fds() -> Callable[[], int]:
    return lambda: len(list(Path("/proc/self/fd").iterdir()))
