# SPDX-License-Identifier: MIT
"""What fuzzing has found worth keeping, run once more: the inputs in `corpus`, see run.py.  It takes no fuzzer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from driver import compile_sanitized
from fuzz_blob import blob_of_input, check

from vm import ProgramBlob, ProgramParseError

HERE = Path(__file__).resolve().parent

# Inputs that are edge cases of their own.
EMPTY = (b"", b"\0", b"PVM\0", b"PVM", b"\xff" * 300, bytes(300))


def corpus(target: str) -> list[Path]:
    return sorted((HERE / "corpus" / target).iterdir())


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The target built to run files; skips where it cannot be."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) to build the fuzz target with")
    output = tmp_path_factory.mktemp("fuzz") / "replay"
    compile_sanitized(compiler, HERE / "fuzz_pvm.c", output, str(HERE / "replay.c"))
    return output


def test_programs(replay: Path, tmp_path: Path) -> None:
    for number, data in enumerate(EMPTY):
        (tmp_path / str(number)).write_bytes(data)
    files = [*corpus("pvm"), *sorted(tmp_path.iterdir())]
    done = subprocess.run([replay, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr.split() == [str(file) for file in files]


def test_blobs() -> None:
    parsed = 0
    for data in (*(file.read_bytes() for file in corpus("blob")), *EMPTY):
        check(data)
        try:
            ProgramBlob.parse(blob_of_input(data))
            parsed += 1
        except ProgramParseError:
            pass
    # an encoding that had moved on from under the inputs would test nothing but its errors
    assert parsed > 10
