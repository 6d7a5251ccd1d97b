# SPDX-License-Identifier: MIT
"""Servers beside uvloop's and asyncio's: HTTP with uvicorn, TLS, and the memory of connections that do nothing."""

from __future__ import annotations

import functools
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks._harness import (
    ROOT,
    Contender,
    Options,
    Report,
    Row,
    Sample,
    SkipError,
    add_contenders,
    column,
    disturbance,
    interleave,
    need_command,
    need_open_files,
    program,
    schedule,
)
from benchmarks._servers import need_loop, on_processor, processors, server

_LOOPS: Final = ("aioring", "uvloop", "asyncio")
_HTTP_CONNECTIONS: Final = 50
_HTTP_SECONDS: Final = 2
_TLS_CONNECTIONS: Final = 10
_TLS_SIZE: Final = 1024
_TLS_REQUESTS: Final = 20_000
_IDLE: Final = 10_000
_IDLE_KINDS: Final = {"protocol": "an echo server's protocol", "streams": "asyncio's streams"}


# --- HTTP ---


def _http(loop: str) -> Contender:
    """Seconds per request, of the clock and of the server's processor; the first run is not counted."""
    wrk = need_command("wrk", "apt install wrk")
    need_loop("uvicorn")
    ours, clients = processors()

    def load(where: str, seconds: int) -> int:
        command = [wrk, "-t1", f"-c{_HTTP_CONNECTIONS}", f"-d{seconds}s", f"http://{where}/"]
        done = subprocess.run(
            [*on_processor(clients), *command], capture_output=True, text=True, check=True, timeout=60
        )
        found = re.search(r"(\d+) requests in", done.stdout)
        if found is None or "Socket errors" in done.stdout or "Non-2xx" in done.stdout:
            raise RuntimeError(f"wrk says: {done.stdout}")
        return int(found.group(1))

    def run() -> Sample:
        with server(loop, "http", "", ours) as (pid, where):
            load(where, 1)
            before = schedule(pid)[0]
            requests = load(where, _HTTP_SECONDS)
            return {"clock": _HTTP_SECONDS / requests, "processor": (schedule(pid)[0] - before) / requests}

    return run


# --- TLS ---


def _certificate(folder: Path) -> Path:
    """A file with a certificate of "localhost", and its key."""
    path = folder / "certificate"
    if not path.exists():
        openssl = need_command("openssl", "apt install openssl")
        command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        command += ["-keyout", str(path), "-out", str(folder / "public")]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        with path.open("a") as both:
            both.write((folder / "public").read_text())
    return path


def _tls(loop: str, folder: Path) -> Contender:
    """Processor seconds of the server per message that goes there and back."""
    certificate = _certificate(folder)
    ours, clients = processors()
    arguments = map(str, (certificate, _TLS_CONNECTIONS, _TLS_SIZE, _TLS_REQUESTS))
    command = [*on_processor(clients), sys.executable, "-m", "benchmarks._tls_client"]
    numbers = list(arguments)

    def run() -> Sample:
        with server(loop, "tls", str(certificate), ours) as (pid, where):
            sample: Sample = {}
            for _ in range(2):  # the first is not counted
                before = schedule(pid)[0]
                subprocess.run([*command, where, *numbers], check=True, timeout=60, cwd=ROOT)
                sample = {"processor": (schedule(pid)[0] - before) / _TLS_REQUESTS}
            return sample

    return run


# --- idle connections ---


def _fields(path: str) -> dict[str, int]:
    """Bytes by name, of a file of /proc with kB."""
    lines = (line.split() for line in Path(path).read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1] == "kB"}


def _idle(loop: str, kind: str) -> Contender:
    """Bytes per connection, of the server's resident memory and of the kernel's slabs."""
    need_open_files(_IDLE + 200)
    ours, _ = processors()

    def run() -> Sample:
        with server(loop, kind, "", ours) as (pid, where), ExitStack() as connections:
            host, _, port = where.partition(":")

            def connect() -> None:
                """One that the server has answered."""
                sock = connections.enter_context(socket.create_connection((host, int(port)), timeout=60))
                sock.sendall(b"x")
                if sock.recv(1) != b"x":
                    raise RuntimeError("the server has closed the connection")

            for _ in range(100):  # what the first of them take is not theirs
                connect()
            resident, slabs = _fields(f"/proc/{pid}/status")["VmRSS"], _fields("/proc/meminfo")["Slab"]
            for _ in range(_IDLE):
                connect()
            return {
                "resident": (_fields(f"/proc/{pid}/status")["VmRSS"] - resident) / _IDLE,
                "slabs": (_fields("/proc/meminfo")["Slab"] - slabs) / _IDLE,
            }

    return run


# --- the report ---


def _contender(loop: str, make: Callable[..., Contender], *arguments: object) -> Contender:
    return make(need_loop(loop), *arguments)


def measure(options: Options) -> Report:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        return _measure(options, Path(folder))


def _measure(options: Options, folder: Path) -> Report:
    report = Report("Servers")
    contenders: dict[str, Contender] = {}
    makers: dict[str, tuple[Callable[..., Contender], tuple[object, ...]]] = {
        "http": (_http, ()),
        "tls": (_tls, (folder,)),
        **{f"idle {kind}": (_idle, (kind,)) for kind in _IDLE_KINDS},
    }
    for name, (make, arguments) in makers.items():
        add_contenders(
            contenders,
            {f"{loop} {name}": functools.partial(_contender, loop, make, *arguments) for loop in _LOOPS},
            report,
        )
    if not contenders:
        raise SkipError("; ".join(report.skipped))
    samples = interleave(contenders, options)

    def compare(what: str, contender: str, name: str, unit: str = "s") -> None:
        ours = column(samples.get(f"aioring {contender}", ()), name)
        for peer in _LOOPS[1:]:
            theirs = column(samples.get(f"{peer} {contender}", ()), name)
            if theirs:
                shown = peer if peer == "asyncio" else f"{peer} {version(peer)}"
                report.rows.append(Row(what, ours, theirs, shown, unit=unit))
                what = "the same"

    http = f"HTTP, a request to uvicorn, {_HTTP_CONNECTIONS} connections"
    compare(f"{http}: time", "http", "clock")
    compare(f"{http}: processor time", "http", "processor")
    compare(f"TLS echo, {_TLS_SIZE} bytes, {_TLS_CONNECTIONS} connections: processor time", "tls", "processor")
    for kind, what in _IDLE_KINDS.items():
        compare(f"an idle connection of {what}: the server's resident memory", f"idle {kind}", "resident", " bytes")
        compare(f"an idle connection of {what}: the kernel's slabs, both ends", f"idle {kind}", "slabs", " bytes")
    report.notes.append(
        f"Requests a second are the inverse of a request's time; wrk asks. {_IDLE} connections are idle, after a byte "
        "to and fro. The kernel's slabs are of the whole machine."
    )
    report.notes.append(disturbance(options))
    return report


if __name__ == "__main__":
    program(measure, __doc__)
