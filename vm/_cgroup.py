# SPDX-License-Identifier: MIT
"""The control group in which the kernel keeps all guests of an engine together (cgroups(7)), of either version."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vm._errors import SandboxError
from vm._limits import CgroupLimits

#: Microseconds in which the processor time of a group is measured: the kernel's default.
_PERIOD: Final = 100_000
#: Files that are there only if swap is accounted for.
_OPTIONAL: Final = frozenset(("memory.swap.max", "memory.memsw.limit_in_bytes"))
#: Directories that engines made. One whose engine was killed is removed by the next that is made beside it.
_OURS: Final = re.compile(r"pvm-\d+-\d+")
_NUMBERS: Final = itertools.count()

_V1_REMEDY: Final = "make it and allow this user to write there, or name another with CgroupLimits(parent=)"
_V2_REMEDY: Final = (
    "have a group delegated (systemd: Delegate=yes, DelegateSubgroup=main), name it with CgroupLimits(parent=), and "
    "keep processes out of it: only its children may have some"
)


@dataclass(frozen=True)
class Hierarchy:
    """Where a controller is to be had, as this process sees it."""

    version: int
    root: Path
    #: The group of this process, from `root`; None if it is outside of what is mounted.
    own: str | None


def find_hierarchies() -> dict[str, Hierarchy]:
    """Those of the controllers "cpu", "memory" and "pids". Raises OSError if /proc cannot be read."""
    found = parse_hierarchies(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    return {name: found[name] for name in ("cpu", "memory", "pids") if name in found}


def parse_hierarchies(groups: str, mounts: str) -> dict[str, Hierarchy]:
    """The same of all controllers, as /proc/PID/cgroup and /proc/PID/mountinfo (proc(5)) tell it."""
    memberships = dict(_memberships(groups))
    found: dict[str, Hierarchy] = {}
    for line in mounts.splitlines():
        fields, _, (kind, _, options, *_) = (part.split() for part in line.partition(" - "))
        if kind not in ("cgroup", "cgroup2"):
            continue
        top, mounted = (_unescape(field) for field in fields[3:5])
        root = Path(mounted)
        if kind == "cgroup2":
            with contextlib.suppress(OSError):
                for name in (root / "cgroup.controllers").read_text().split():
                    found.setdefault(name, Hierarchy(2, root, _below(memberships.get(""), top)))
        else:
            for name in options.split(","):
                found.setdefault(name, Hierarchy(1, root, _below(memberships.get(name), top)))
    return found


def _memberships(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):  # "" stands for version 2
            yield name, path


def _below(path: str | None, top: str) -> str | None:
    """`path` from the group that is mounted; None if it is not below that."""
    if path is None or path.startswith("/.."):
        return None
    if top == "/":
        return path.lstrip("/")
    return path.removeprefix(top).lstrip("/") if f"{path}/".startswith(f"{top}/") else None


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _settings(limits: CgroupLimits, version: int) -> dict[str, dict[str, str]]:
    """What is written for each controller, by file."""
    found: dict[str, dict[str, str]] = {}
    if limits.memory is not None:
        size = str(limits.memory)
        # memory that is swapped out is still theirs
        found["memory"] = (
            {"memory.max": size, "memory.swap.max": "0"}
            if version == 2
            else {"memory.limit_in_bytes": size, "memory.memsw.limit_in_bytes": size}
        )
    if limits.processes is not None:
        found["pids"] = {"pids.max": str(limits.processes + 1)}  # and the nursery
    if limits.cpu is not None:
        quota = str(round(limits.cpu * _PERIOD))
        found["cpu"] = (
            {"cpu.max": f"{quota} {_PERIOD}"}
            if version == 2
            else {"cpu.cfs_period_us": str(_PERIOD), "cpu.cfs_quota_us": quota}
        )
    return found


class _Group:
    """A directory in one hierarchy. It is locked (flock(2)) as long as it is in use."""

    def __init__(self, parent: Path) -> None:
        _remove_abandoned(parent)
        while True:
            self.path = parent / f"pvm-{os.getpid()}-{next(_NUMBERS)}"
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                self.path.mkdir()
                self.fd = _lock(self.path, fcntl.LOCK_EX)
                # another engine may have taken it for an abandoned one until it was locked
                if self.path.exists():
                    return
                os.close(self.fd)
            parent.stat()  # it is there, or this ends here

    def write(self, name: str, value: str) -> None:
        path = self.path / name
        if name not in _OPTIONAL or path.exists():
            path.write_text(value)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a process that got in from elsewhere keeps it
            self.path.rmdir()
        os.close(self.fd)


def _lock(directory: Path, how: int) -> int:
    """A file that holds its lock (flock(2)) until it is closed."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, how)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _remove_abandoned(parent: Path) -> None:
    for path in parent.iterdir():
        if _OURS.fullmatch(path.name):
            with contextlib.suppress(OSError):  # gone, in use, or somebody else's
                fd = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
                try:
                    path.rmdir()
                finally:
                    os.close(fd)


class Cgroup:
    """A group with the limits, and in it the processes that were added and all that they start.

    Everything here is a few blocking calls: milliseconds. Raises `SandboxError` that says what cannot be had.
    """

    def __init__(self, limits: CgroupLimits) -> None:
        self._groups: dict[Path, _Group] = {}
        self._oom: Path | None = None
        self._told = 0
        try:
            hierarchies = find_hierarchies()
        except OSError as error:
            raise SandboxError(
                "cgroup: reading /proc/self/mountinfo", errno=error.errno, remedy="mount /proc"
            ) from None
        try:
            for controller in _settings(limits, 2):
                self._limit(controller, limits, hierarchies)
        except BaseException:
            self.close()
            raise

    def _limit(self, controller: str, limits: CgroupLimits, hierarchies: Mapping[str, Hierarchy]) -> None:
        hierarchy = hierarchies.get(controller)
        if hierarchy is None:
            remedy = "mount the cgroup hierarchy that has it; 'pvm doctor' shows what there is"
            raise SandboxError(f"cgroup: there is no controller {controller!r}", remedy=remedy)
        parent = hierarchy.own if limits.parent is None else limits.parent.strip("/")
        if parent is None:
            remedy = "name a group that is mounted with CgroupLimits(parent=)"
            raise SandboxError(f"cgroup: this process's own is not below {hierarchy.root}", remedy=remedy)
        directory = hierarchy.root / parent
        remedy = _V2_REMEDY if hierarchy.version == 2 else _V1_REMEDY
        step = f"making a group in {directory}"
        try:
            group = self._groups.get(directory)
            if group is None:
                group = self._groups[directory] = _Group(directory)
            if hierarchy.version == 2 and not (group.path / f"{controller}.max").exists():
                step = f"having the controller {controller!r} in the groups below {directory}"
                (directory / "cgroup.subtree_control").write_text(f"+{controller}")
            for name, value in _settings(limits, hierarchy.version)[controller].items():
                step = f"writing {value} to {group.path / name}"
                group.write(name, value)
        except OSError as error:
            raise SandboxError(f"cgroup: {step}", errno=error.errno, remedy=remedy) from None
        if controller == "memory":
            self._oom = group.path / ("memory.events" if hierarchy.version == 2 else "memory.oom_control")

    def add(self, pid: int) -> None:
        """Moves a process into the group."""
        for group in self._groups.values():
            try:
                group.write("cgroup.procs", str(pid))
            except OSError as error:
                remedy = "allow this user to write cgroup.procs there and in the groups above, up to the common one"
                gone = error.errno == errno.ESRCH
                step = f"cgroup: moving the nursery to {group.path}"
                raise SandboxError(step, errno=error.errno, remedy="" if gone else remedy) from None

    def out_of_memory(self) -> bool:
        """Whether the kernel killed a process for the memory limit. True once for each."""
        if self._oom is None:
            return False
        try:
            lines = self._oom.read_text().splitlines()
        except OSError:
            return False
        if int(dict(line.split() for line in lines).get("oom_kill", 0)) <= self._told:
            return False
        self._told += 1
        return True

    def close(self) -> None:
        """Removes the group, whose processes are dead. May be called again."""
        while self._groups:
            self._groups.popitem()[1].close()
