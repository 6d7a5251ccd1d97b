# SPDX-License-Identifier: MIT
"""Hostile input under AddressSanitizer and UndefinedBehaviorSanitizer: robustness.c, interpreter_robustness.c."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from driver import HERE, compile_sanitized

#: Programs, and the seeds that each of them is run with.
SEEDS = {"robustness": 4, "interpreter_robustness": 3}
PAIRS = [(name, seed) for name, count in SEEDS.items() for seed in range(count)]

Results = dict[tuple[str, int], Future[subprocess.CompletedProcess[str]]]


@pytest.fixture(scope="module")
def results(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    """The runs, on all processors."""
    folder = tmp_path_factory.mktemp("robustness")
    for name in SEEDS:
        compile_sanitized(compiler, HERE / f"{name}.c", folder / name)

    def run(name: str, seed: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run([folder / name, str(seed), "20000"], capture_output=True, text=True)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = {pair: pool.submit(run, *pair) for pair in PAIRS}
        try:
            yield futures
        finally:
            for future in futures.values():
                future.cancel()


@pytest.mark.parametrize(("name", "seed"), PAIRS)
def test_hostile_programs(results: Results, name: str, seed: int) -> None:
    done = results[name, seed].result()
    assert done.returncode == 0, done.stderr
