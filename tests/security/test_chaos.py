# SPDX-License-Identifier: MIT
"""A short run of tests/chaos.py; ``python -m tests.chaos`` is the long one."""

from __future__ import annotations

import chaos


def test_some_hundred_runs() -> None:
    ends, harm = chaos.run(300, seed=7)
    assert ends["done"] > 300
    assert ends["SandboxDiedError"] > 0
    assert harm["workers killed"] > 0
    assert harm["cancelled"] > 0
