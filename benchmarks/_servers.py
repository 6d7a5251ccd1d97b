# SPDX-License-Identifier: MIT
"""Servers of benchmarks/_loop_server.py in processes of their own, pinned to a processor; clients have another."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator

from benchmarks._harness import ROOT, SkipError, need_command


def need_loop(name: str) -> str:
    """The package of an event loop, if it is there. Raises `SkipError`."""
    if importlib.util.find_spec(name) is None:
        raise SkipError(f"{name} is missing: pip install {name}")
    return name


def processors() -> tuple[int, int]:
    """The server's and the client's."""
    found = sorted(os.sched_getaffinity(0))
    if len(found) < 2:
        raise SkipError("two processors are needed, one for the server and one for its client")
    return found[0], found[1]


def on_processor(processor: int) -> list[str]:
    """What a command begins with to run there."""
    return [need_command("taskset", "apt install util-linux"), "-c", str(processor)]


@contextlib.contextmanager
def server(loop: str, kind: str, path: str, processor: int) -> Iterator[tuple[int, str]]:
    """A server of `_loop_server`: its pid, and where it listens."""
    command = [sys.executable, "-m", "benchmarks._loop_server", loop, kind, path]
    pin = functools.partial(os.sched_setaffinity, 0, {processor})
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, preexec_fn=pin) as process:
        assert process.stdout is not None
        try:
            where = process.stdout.readline().strip()
            if not where:
                raise RuntimeError(f"the {loop} server did not start")
            yield process.pid, where if where.startswith("/") else f"127.0.0.1:{where}"
        finally:
            process.kill()
