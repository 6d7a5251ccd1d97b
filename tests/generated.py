# SPDX-License-Identifier: MIT
"""Modules that `vm.bindings.module_source` writes, as tests use them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import vm
from vm.bindings import module_source

ROOT = Path(__file__).resolve().parents[1]


def load(blob: vm.ProgramBlob) -> Any:
    """The module for the program, imported."""
    module = ModuleType("generated")
    exec(compile(module_source(blob), "generated.py", "exec", dont_inherit=True), vars(module))
    return module


def check(modules: Sequence[Path], users: Sequence[Path], folder: Path) -> str:
    """What ruff, also without a configuration, has to say of modules in `folder`, and ``mypy --strict`` of those and of
    files that import them.
    """
    for tool in ("mypy", "ruff"):
        pytest.importorskip(tool, reason=f"the Python package {tool} is not installed")
    config = str(ROOT / "pyproject.toml")
    environment = {**os.environ, "MYPYPATH": f"{ROOT}{os.pathsep}{folder}"}
    output = ""
    for command in (
        ["ruff", "check", "--no-cache", "--quiet", "--config", config],
        ["ruff", "check", "--no-cache", "--quiet", "--isolated"],
        ["ruff", "format", "--no-cache", "--quiet", "--diff", "--config", config],
        ["mypy", "--strict", "--no-error-summary", "--cache-dir", str(folder / "cache"), "--config-file", config],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command, *map(str, [*modules, *(users if command[0] == "mypy" else [])])],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        output += done.stdout if done.returncode else ""
    return output
