# SPDX-License-Identifier: MIT
"""Recompiler and interpreter agree on random programs; engines.py compares any number of them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.asyncio(loop_factories=["aioring"])


def load_engines() -> ModuleType:
    spec = importlib.util.spec_from_file_location("engines", Path(__file__).with_name("engines.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["engines"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("pair", ["PAIR", "GENERIC", "THREADS"])
async def test_they_agree(pair: str, part: int) -> None:
    """2000 programs in all, always the same ones."""
    engines = load_engines()
    tally = await engines.compare_many(500 * part, 500, "ci", configs=getattr(engines, pair))
    assert tally.programs == 500
    # each way to stop was among them
    assert {"Trap", "HostCall", "OutOfGas", "Step"} <= set(tally.stops)


async def test_an_engine_that_checks_itself_finds_nothing() -> None:
    engines = load_engines()
    tally = await engines.compare_many(0, 300, "crosscheck", configs=engines.CROSSCHECK)
    assert tally.programs == 300
    assert {"Trap", "HostCall", "OutOfGas", "Step"} <= set(tally.stops)
