# SPDX-License-Identifier: MIT
"""A short run of tests/soak.py; ``python -m tests.soak`` is the long one."""

from __future__ import annotations

import soak


def test_some_seconds_of_everything() -> None:
    counts = soak.run(5, seed=7)
    assert counts["visits"] > 100
    assert counts["bytes"] > 1_000_000
    assert counts["resets"] > 0
    assert counts["connection, cancelled"] > 0
    assert counts["completions that overflowed, at most"] > 0
