# SPDX-License-Identifier: MIT
"""The reference implementation: builds and runs peers/polkavm."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

from benchmarks._harness import ROOT, SkipError, need_command, progress

_SOURCE: Final = ROOT / "benchmarks" / "peers" / "polkavm"
#: A run takes seconds; one that takes this long hangs.
_TIMEOUT: Final = 600.0


@functools.cache
def build() -> Path:
    """The program, built if it has to be. Raises `SkipError` if it cannot be."""
    cargo = need_command("cargo", "install Rust (https://rustup.rs)")
    target = Path(os.environ.get("CARGO_TARGET_DIR", _SOURCE / "target"))
    progress("building the peer")
    command = [cargo, "build", "--release", "--locked", "--quiet", "--target-dir", str(target)]
    built = subprocess.run(command, cwd=_SOURCE, capture_output=True, text=True)
    progress("")
    if built.returncode:
        raise SkipError(f"the peer does not build: {_last_line(built.stderr)}")
    return target / "release" / "polkavm-peer"


@functools.cache
def version() -> str:
    """The version of polkavm, as Cargo.lock has it."""
    lines = (_SOURCE / "Cargo.lock").read_text().splitlines()
    number = lines[lines.index('name = "polkavm"') + 1].split('"')[1]
    return f"polkavm {number}"


def run(command: str, *arguments: str | Path, **options: object) -> dict[str, Any]:
    """What the peer's `command` says. Options become ``key=value``, lists several of them; None leaves one out.

    Raises `SkipError` if it cannot run here.
    """
    words = [str(build()), command, *map(str, arguments)]
    for key, value in options.items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        words += [f"{key}={each}" for each in values]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise SkipError(f"{version()} {command} hung") from error
    if done.returncode:
        raise SkipError(f"{version()} {command}: {_last_line(done.stderr) or f'exit status {done.returncode}'}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
