# SPDX-License-Identifier: MIT
"""The tests of this folder, and those of what stops a guest, again as a user without any privilege.

A process of its own becomes that user, after it imported all that a test run needs: interpreter and packages may lie
where only root can read.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
UID = 12345
REWRITE = "Module already imported so cannot be rewritten"

RUN_TESTS_AS_USER = f"""
import contextlib, importlib, os, pytest, sys
modules, *arguments = sys.argv[1:]
for module in modules.split():
    with contextlib.suppress(Exception):
        importlib.import_module(module)
os.setgroups([])
os.setresgid({UID}, {UID}, {UID})
os.setresuid({UID}, {UID}, {UID})
sys.exit(pytest.main(arguments))
"""

#: Imported by the tests, by asyncio or by pytest when it is first needed.
LATER = ("concurrent.futures.thread", "ctypes", "asyncio.taskgroups", "encodings.unicode_escape")

SECURITY = [
    f"security/test_{name}.py" for name in ("isolation", "lifecycle", "paging", "machine_code", "forged_page", "chaos")
]
STOPS = [f"vm/test_{name}.py" for name in ("admission", "interrupt", "limits", "pool")]

#: Long ones add nothing here; the others want privileges and skip by themselves.
WITHOUT = "not thousand and not fresh_processes and not hundred_modules and not engines_come_and_go"


def _is_test(module: ModuleType) -> bool:
    return HERE.parent in Path(getattr(module, "__file__", None) or "/").parents


@pytest.mark.timeout(180)
@pytest.mark.skipif(os.geteuid() != 0, reason="this is an unprivileged user already")
def test_as_an_unprivileged_user() -> None:
    options = ["-v", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-W", f"ignore:{REWRITE}", "--capture=sys"]
    # what this run has imported by now, that one will want as well
    needed = [*LATER, *(name for name, module in sys.modules.items() if not _is_test(module))]
    files = [HERE.parent / name for name in (*SECURITY, *STOPS)]
    arguments = [*options, "-k", WITHOUT, "-c", str(HERE.parents[1] / "pyproject.toml"), *map(str, files)]
    # one process for all files: the imports take it a second
    command = [sys.executable, "-c", RUN_TESTS_AS_USER, " ".join(needed), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parents[1])
    if "PermissionError" in done.stderr and not done.stdout:
        pytest.skip(f"user {UID} cannot read this project: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stdout + done.stderr
    for file in files:
        assert re.search(rf"/{file.name}::\S.* PASSED ", done.stdout), file
    assert " FAILED " not in done.stdout
