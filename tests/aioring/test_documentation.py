# SPDX-License-Identifier: MIT
"""docs/event-loop.md names every method of the loop, and tests that exist."""

import asyncio
import re
from pathlib import Path

HERE = Path(__file__).parent
TEXT = (HERE.parents[1] / "docs" / "event-loop.md").read_text()


def test_every_method_is_in_the_table() -> None:
    table = TEXT[TEXT.index("| method |") : TEXT.index("| only here |")]
    named = {name for line in table.splitlines()[2:] if line for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    methods = {name for name in vars(asyncio.AbstractEventLoop) if not name.startswith("_")}
    assert named == methods


def test_every_test_exists() -> None:
    named = re.findall(r"`((?:\.\./fs/)?test_\w+\.py)::(test_\w+)`", TEXT)
    assert len(named) > 15
    for file, test in named:
        assert f"def {test}(" in (HERE / file).read_text(), (file, test)
