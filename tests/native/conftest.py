# SPDX-License-Identifier: MIT
"""Fixtures of the recompiler's tests: the driver of driver.c, compiled once per session with the host's cc."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tests are imported by path, not as packages: this lets them import the modules beside them.
sys.path.insert(0, str(Path(__file__).parent))

from driver import Driver, compile_c


@pytest.fixture(scope="session")
def compiler() -> str:
    """The C compiler; skips where there is none."""
    found = shutil.which("cc")
    if found is None:
        pytest.skip("no C compiler (cc) to build the test driver with")
    return found


@pytest.fixture(scope="session")
def driver_executable(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("driver") / "driver"
    compile_c(compiler, Path(__file__).parent / "driver.c", output)
    return output


@pytest.fixture
def driver(driver_executable: Path) -> Iterator[Driver]:
    with Driver(driver_executable) as running:
        yield running
