# SPDX-License-Identifier: MIT
"""CPython's own asyncio tests on our loop: the modules about transports, servers, sockets and signals.

All of them: python tests/conformance/cpython.py
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cpython import available

MODULES = (
    "test_base_events",
    "test_buffered_proto",
    "test_events",
    "test_runners",
    "test_sendfile",
    "test_server",
    "test_sock_lowlevel",
    "test_sslproto",
    "test_streams",
    "test_unix_events",
)


def run(module: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "faulthandler", Path(__file__).with_name("cpython.py"), module]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """Of the modules that are to be run. They wait for timers most of the time: as many at once as processors."""
    wanted = [item.callspec.params["module"] for item in request.session.items if item.path == Path(__file__)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = {module: pool.submit(run, module) for module in wanted if module in available()}
        try:
            yield futures
        finally:
            for future in futures.values():
                future.cancel()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("module", MODULES)
def test_module(module: str, results: dict[str, Future[subprocess.CompletedProcess[str]]]) -> None:
    if module not in results:
        pytest.skip("this Python has no test package")
    result = results[module].result()
    assert result.returncode == 0, result.stderr[-10_000:]
