# SPDX-License-Identifier: MIT
"""What ``pvm top`` shows of an engine in another process, and how it gets there.

An engine with `Config.monitor` listens on a Unix socket in a directory that only its user can enter; whoever connects
gets one JSON object (`_Report`, as text), and the connection is closed. Nothing is read from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vm._errors import SandboxError
from vm._sandbox import lib
from vm._statistics import BUCKETS, Histogram, Statistics

if TYPE_CHECKING:
    from vm._engine import Engine

#: Guests that a report tells of, those with the most processor time, and how many are looked at without a pause.
MOST_GUESTS: Final = 256
_AT_ONCE: Final = 100

#: Seconds that a reader may take, and bytes that one believes a report to have.
_PATIENCE: Final = 2.0
_MOST_BYTES: Final = 1 << 20

_numbers = itertools.count(1)


class MonitorError(OSError):
    """The directory of the sockets is not this user's alone."""


@dataclass(frozen=True, slots=True)
class Guest:
    """One open instance."""

    #: Tells it from the others of its engine.
    number: int
    process: int
    #: "running", "waiting" for its turn, or "stopped": between runs, or in a host function.
    state: str
    #: Seconds of processor time that its process took, also for the instances before it; and bytes of its memory that
    #: are there.
    cpu: float
    memory: int


@dataclass(frozen=True, slots=True)
class Report:
    """What an engine tells."""

    process: int
    #: What runs the engine: the script, as on its command line.
    program: str
    #: "linux", "generic" or "interpreter".
    home: str
    #: Seconds of CLOCK_MONOTONIC.
    time: float
    statistics: Statistics
    guests: tuple[Guest, ...]


def directory() -> Path:
    """Where the sockets are; made if need be. Raises OSError."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    user = os.geteuid()
    path = Path(base, "aioring-vm") if base else Path(tempfile.gettempdir(), f"aioring-vm-{user}")
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    # a directory under /tmp may be somebody else's, made in advance
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o077:
        raise MonitorError(f"{path} must be a directory that only user {user} can enter: remove it")
    return path


# --- the engine's side ---


class Monitor:
    """Serves reports of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._path: Path | None = None
        self._server: asyncio.Server | None = None
        self._readers: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Raises OSError."""
        path = directory() / f"{os.getpid()}.{next(_numbers)}"
        path.unlink(missing_ok=True)  # of a process that had the same number
        self._server = await asyncio.start_unix_server(self._serve, path)
        self._path = path

    async def aclose(self) -> None:
        for task in self._readers:
            task.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._readers.add(task)
        try:
            async with asyncio.timeout(_PATIENCE):
                writer.write(json.dumps(asdict(await self._report())).encode())
                await writer.drain()
        except (TimeoutError, ConnectionError):
            writer.transport.abort()  # it did not want it
        finally:
            self._readers.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _report(self) -> Report:
        engine = self._engine
        guests = []
        for count, execution in enumerate(list(engine._executions), 1):
            machine = execution.machine
            if machine is not None and not machine.dead:
                try:
                    cpu = machine.cpu_ns() / 1e9
                except SandboxError:  # a kernel that does not tell its process id
                    cpu = 0.0
                resident = int(lib.sandbox_memory_resident(machine.memories[0]))
                guests.append(Guest(id(execution), machine.pid, execution.state, cpu, resident))
            if count % _AT_ONCE == 0:
                await asyncio.sleep(0)
        guests.sort(key=lambda guest: guest.cpu, reverse=True)
        return Report(
            process=os.getpid(),
            program=Path(sys.argv[0]).name if sys.argv else "",
            home="interpreter" if engine.config.backend == "interpreter" else engine.config.sandbox,
            time=time.monotonic(),
            statistics=engine.statistics(),
            guests=tuple(guests[:MOST_GUESTS]),
        )


# --- the reader's side ---


def reports() -> Iterator[Report]:
    """Of every engine of this user that has a monitor. Sockets that nobody listens on any more are removed; an engine
    that does not answer is left out. Raises OSError for the directory only."""
    for path in sorted(directory().iterdir()):
        try:
            yield _parse(_read(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except (OSError, ValueError):  # it went just now, is stuck, or is of another version
            continue


def _read(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PATIENCE)
        connection.connect(str(path))
        received = bytearray()
        while chunk := connection.recv(1 << 16):
            received += chunk
            if len(received) > _MOST_BYTES:
                raise ValueError("a report without end")
    return bytes(received)


def _parse(data: bytes) -> Report:
    """Raises ValueError."""
    try:
        found = json.loads(data)
        numbers = _fill(Statistics, found.pop("statistics"))
        for name, value in numbers.items():
            if isinstance(value, dict):
                counts = tuple(map(int, value["counts"]))
                if len(counts) != BUCKETS:
                    raise ValueError(f"{name} has other buckets")
                numbers[name] = Histogram(counts, float(value["sum"]))
            elif not isinstance(value, int):
                raise ValueError(f"{name} is no number")
        guests = tuple(
            Guest(
                int(each["number"]), int(each["process"]), str(each["state"]), float(each["cpu"]), int(each["memory"])
            )
            for each in found.pop("guests")
        )
        return Report(
            int(found["process"]),
            str(found["program"]),
            str(found["home"]),
            float(found["time"]),
            Statistics(**numbers),
            guests,
        )
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError("not a report") from error


def _fill(kind: type, found: dict[str, Any]) -> dict[str, Any]:
    return {field.name: found[field.name] for field in fields(kind)}
