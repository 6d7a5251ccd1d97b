# SPDX-License-Identifier: MIT
"""Hostile input under AddressSanitizer and UndefinedBehaviorSanitizer: robustness.c."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from driver import HERE, compile_c

SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.fixture(scope="session")
def robustness(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("robustness")
    probe = directory / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    command: list[str | Path] = [compiler, *SANITIZERS, probe, "-o", directory / "probe"]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip(f"{compiler} cannot link the address and undefined behaviour sanitizers")
    output = directory / "robustness"
    compile_c(compiler, HERE / "robustness.c", output, *SANITIZERS)
    return output


@pytest.mark.parametrize("seed", range(4))
def test_hostile_programs(robustness: Path, seed: int) -> None:
    done = subprocess.run([robustness, str(seed), "20000"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
