# SPDX-License-Identifier: MIT
"""What /proc says about processes, this one and its sandboxes; see proc(5)."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import re
import resource
import select
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

#: Seconds after which something that never takes long is given up on.
PATIENCE = 10


def status(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def parent(pid: int) -> int:
    return int(status(pid)["PPid"])


def children() -> set[int]:
    """Processes whose parent is this one, dead ones that nobody reaped included."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            found.update(int(pid) for pid in (task / "children").read_text().split())
    return found


def thread_names() -> list[str]:
    """Those of this process's threads."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # one that has just ended
            names.append((task / "comm").read_text().strip())
    return names


_LIBC = ctypes.CDLL(None, use_errno=True)
_FUTEX, _FUTEX_WAKE = 202, 1  # x86-64; linux/futex.h


def wake_futex(address: int) -> None:
    """Wakes one that waits on the word at `address`, which processes share (futex(2))."""
    if _LIBC.syscall(_FUTEX, ctypes.c_void_p(address), _FUTEX_WAKE, 1, None) < 0:
        raise OSError(ctypes.get_errno(), "futex")


def nurseries() -> set[int]:
    """Those of the children that are nurseries, and not their launchers: one that is killed between its clone and its
    word of that leaves a child whose number nobody has."""
    found = set()
    for pid in children():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = status(pid)
            if "zygot" in fields["Name"] and len(fields["NSpid"].split()) == 2:
                found.add(pid)
    return found


class Mapping(NamedTuple):
    begin: int
    end: int
    permissions: str
    name: str


def mappings(pid: int | str) -> list[Mapping]:
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        area, permissions, _, _, _, *name = line.split(maxsplit=5)
        begin, end = (int(address, 16) for address in area.split("-"))
        found.append(Mapping(begin, end, permissions, name[0] if name else ""))
    return found


def open_files() -> Counter[str]:
    """What this process has open, without the numbers that tell one pipe or socket from the next."""
    found: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the directory's own
            found[re.sub(r"\d+", "N", os.readlink(f"/proc/self/fd/{fd}"))] += 1
    return found


def images() -> int:
    """Open files of compiled programs that something refers to."""
    gc.collect()  # closed instances and gathered results are parts of cycles
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            found += "pvm-image" in os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # the directory's own
            continue
    return found


async def until(condition: Callable[[], bool]) -> None:
    """Gives the loop its turns until it is so."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)


@dataclass(frozen=True)
class Census:
    """What may leak."""

    files: Counter[str]
    children: set[int]
    #: Mappings of anonymous files, which is what guests, images and rings are made of.
    shared_mappings: Counter[str]

    def __sub__(self, before: Census) -> Census:
        """What there is now and was not before."""
        return Census(
            self.files - before.files,
            self.children - before.children,
            self.shared_mappings - before.shared_mappings,
        )

    def __bool__(self) -> bool:
        return bool(self.files or self.children or self.shared_mappings)


def census() -> Census:
    gc.collect()
    names = (mapping.name for mapping in mappings("self"))
    return Census(open_files(), children(), Counter(n for n in names if "memfd:" in n or "io_uring" in n))


def resident() -> int:
    """Bytes of this process's resident memory, shared pages included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@contextlib.contextmanager
def watch(*pids: int) -> Iterator[dict[int, int]]:
    """A pidfd for each process, which stays true to it whatever becomes of its number."""
    pidfds: dict[int, int] = {}
    try:
        for pid in pids:
            pidfds[pid] = os.pidfd_open(pid)
        yield pidfds
    finally:
        for pidfd in pidfds.values():
            os.close(pidfd)


def wait_for_death(*pidfds: int) -> None:
    """Blocks until all of them are dead. TimeoutError if they live on."""
    for pidfd in pidfds:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(PATIENCE * 1000):
            raise TimeoutError(f"a process lives on: {Path(f'/proc/self/fdinfo/{pidfd}').read_text()}")


@contextlib.contextmanager
def free_descriptors(count: int) -> Iterator[None]:
    """Leaves this process only so many file descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = 1 + max(int(fd) for fd in os.listdir("/proc/self/fd"))
    fillers: list[int] = []
    # Room for `count` above the highest in use: below it there may be no gap at all.
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + count, hard))
    try:
        with contextlib.suppress(OSError):  # too many open files
            while True:
                fillers.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(count):
            os.close(fillers.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fillers:
            os.close(fd)
