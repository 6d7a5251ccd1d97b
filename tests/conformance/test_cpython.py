# SPDX-License-Identifier: MIT
"""CPython's own asyncio tests on our loop: the modules about transports, servers, sockets and signals.

All of them: python tests/conformance/cpython.py
"""

import subprocess
import sys
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


@pytest.mark.timeout(180)
@pytest.mark.parametrize("module", MODULES)
def test_module(module: str) -> None:
    if module not in available():
        pytest.skip("this Python has no test package")
    command = [sys.executable, "-X", "faulthandler", Path(__file__).with_name("cpython.py"), module]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)
    assert result.returncode == 0, result.stderr[-10_000:]
