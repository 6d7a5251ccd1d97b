# SPDX-License-Identifier: MIT
"""What guests need of this machine, and whether it is there: every row tries the real thing where it can.

`examine` gives the rows; they are plain data, to be shown by ``pvm doctor`` or logged by a service at its start.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import resource
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

import aioring
from aioring._features import OPERATIONS
from vm._cgroup import Cgroup, find_hierarchies
from vm._config import Config
from vm._engine import Engine
from vm._errors import SandboxError, VMError
from vm._homes import Matter, matrix, try_all
from vm._limits import CgroupLimits
from vm._loops import run
from vm._nursery import Nursery
from vm._sandbox import ffi, lib
from vm._waiter import NEEDED, VARIABLE, Waiter, waiting_from_environment
from vm.assembler import assemble
from vm.isa import InstructionSet

T = TypeVar("T")

#: ``missing``: no guest can run without it. ``optional``: not there either, but guests run.
Status: TypeAlias = Literal["ok", "missing", "optional"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that guests need, or that makes them better."""

    requirement: str
    #: What is there, in a few words.
    found: str
    #: What it is for.
    enables: str
    #: What to do about it; empty if all is well.
    fix: str
    status: Status


def examine() -> tuple[Check, ...]:
    """Looks at everything. Takes some milliseconds, for which it blocks, and leaves no trace.

    Not to be called from a running event loop.
    """
    return tuple(_checks())


def compare_homes(checks: tuple[Check, ...]) -> tuple[Matter, ...]:
    """What each home of guests (docs/sandboxes.md) does on this machine, of which `checks` is what `examine` found.

    Runs a guest in those homes that it did not try; otherwise as `examine`.
    """
    by_name = {check.requirement: check for check in checks}

    def attempt(config: Config) -> str:
        trial = _try_guest(config)
        return f"ran, in {trial.seconds * 1e3:.0f} ms" if isinstance(trial, Trial) else str(trial)

    trials = try_all(attempt, linux=by_name["guest"].found)
    return matrix(checks, trials)


def guests_can_run(checks: tuple[Check, ...]) -> bool:
    """Whether nothing is missing: one of the rows is a guest that ran."""
    return all(check.status != "missing" for check in checks)


def _checks() -> Iterator[Check]:
    supported, ring = _try_ring()
    threads = lib.sandbox_probe_futex_waitv()
    yield _kernel(supported, threads)
    yield _processor()
    yield ring
    yield from _operations(supported)
    waiting = _waiting(supported, threads)
    yield waiting
    yield _memfd()
    yield _seccomp()
    namespaces = _try_namespaces()
    yield namespaces
    started = namespaces.status == "ok"
    yield _namespace_limits()
    for name, wanted in _SYSCTLS.items():
        value = _sysctl(name)
        if value is not None:
            yield _namespace_sysctl(name, value, wanted, started)
    lacking = "user namespaces" if waiting.status == "ok" else "waiting"
    trial = _try_guest(Config()) if waiting.status == "ok" and started else None
    yield _guest(trial, lacking)
    yield _open_files(trial.files if isinstance(trial, Trial) else None)
    yield _userfaultfd()
    yield _cgroup()


# --- The kernel and the processor -------------------------------------------------------------------------------------

#: io_uring operations that vm and its event loop use: what for.
_OPERATIONS: Final = {
    "poll": "seeing guests die",
    "cancel": "cancelling what is awaited",
    "futex_wait": "waiting for guests",
    "futex_wake": "waking other processes",
    "timeout": "awaitable timeouts",
    "read": "awaitable reads",
    "write": "awaitable writes",
}
#: The kernel that has futex_waitv, which does where there is no io_uring.
_FUTEX_WAITV_SINCE: Final = "5.16"


def _version(text: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _kernel(supported: frozenset[str] | None, threads: int) -> Check:
    release = os.uname().release
    best = max((OPERATIONS[name][1] for name in NEEDED), key=_version)
    # A distribution's kernel may have what its version does not tell.
    enough = _version(release) >= _version(_FUTEX_WAITV_SINCE) or _uring_waits(supported) or threads == 0
    fix = "" if enough else f"install Linux {best} or newer"
    return Check("Linux kernel", release, f"{best} lets io_uring wait for guests", fix, _ok(enough))


def _processor() -> Check:
    names = [
        (bit, ffi.string(lib.sandbox_cpu_feature_name(bit)).decode())
        for bit in (1 << number for number in range(32))
        if lib.sandbox_cpu_required() & bit
    ]
    missing = lib.sandbox_probe_cpu()
    lacking = ", ".join(name for bit, name in names if missing & bit)
    found = f"no {lacking}" if lacking else ", ".join(name for _, name in names)
    fix = "use a processor of x86-64-v3; in a virtual machine, hand the host's through" if lacking else ""
    return Check("processor", found, "bit counting in guest code", fix, _ok(not lacking))


# --- What waits for guests --------------------------------------------------------------------------------------------


def _try_ring() -> tuple[frozenset[str] | None, Check]:
    """The operations that the kernel has (None without io_uring), and the row."""
    enables = "waiting for guests, aioring's event loop"
    try:
        ring = aioring.Ring(1)
    except OSError as error:
        found = _name(error.errno) + _setting("kernel.io_uring_disabled")
        # The message is: what failed; the reason and the remedy.
        _, _, remedy = (error.strerror or "").partition("; ")
        # Threads do as well, but for a ring that there would be with more files.
        status: Status = "optional" if isinstance(error, aioring.RingUnavailableError) else "missing"
        return None, Check("io_uring", found, enables, remedy or _limit_fix(error.errno), status)
    supported = frozenset(name for name in _OPERATIONS if ring.supports(name))
    ring.close()
    return supported, Check("io_uring", "available", enables, "", "ok")


def _operations(supported: frozenset[str] | None) -> Iterator[Check]:
    for name, enables in _OPERATIONS.items():
        since = OPERATIONS[name][1]
        if supported is None:
            found, fix = "unknown", "see io_uring"
        elif name in supported:
            found, fix = f"Linux {since}", ""
        else:
            found, fix = "not available", f"use Linux {since} or newer"
        yield Check(f"io_uring {name}", found, enables, fix, "optional" if fix else "ok")


def _uring_waits(supported: frozenset[str] | None) -> bool:
    return supported is not None and supported.issuperset(NEEDED)


def _waiting(supported: frozenset[str] | None, threads: int) -> Check:
    """What an engine uses that is left to choose."""
    name, enables = "waiting", "everything that waits"
    try:
        wanted = waiting_from_environment()
    except ValueError as error:
        return Check(name, "unknown", enables, str(error), "missing")
    chosen = "" if wanted == "auto" else f", by {VARIABLE}"
    if wanted == "io_uring" or (wanted == "auto" and _uring_waits(supported)):
        fine = _uring_waits(supported)
        return Check(
            name, f"io_uring{chosen}", enables, "" if fine else f"see io_uring, or unset {VARIABLE}", _ok(fine)
        )
    if threads < 0:
        fix = f"see io_uring; or use Linux {_FUTEX_WAITV_SINCE}, or allow futex_waitv in the seccomp filter"
        return Check(name, f"futex_waitv: {_name(-threads)}{chosen}", enables, fix, "missing")
    return Check(name, f"threads in futex_waitv{chosen}", enables, "", "ok")


# --- What confines a guest --------------------------------------------------------------------------------------------


def _memfd() -> Check:
    name, enables = "sealed memfd", "guest memory, and code that nobody can change"
    error = lib.sandbox_probe_memfd_seal()
    if error < 0:
        fix = _limit_fix(-error) or "allow memfd_create and fcntl in the seccomp filter around this process"
        return Check(name, _name(-error), enables, fix, "missing")
    if _sysctl("vm.memfd_noexec") == "2":
        fix = "sysctl vm.memfd_noexec=1: the sandbox is a program in a memfd"
        return Check(name, f"not executable{_setting('vm.memfd_noexec')}", enables, fix, "missing")
    return Check(name, "available", enables, "", "ok")


def _seccomp() -> Check:
    error = lib.sandbox_probe_seccomp()
    enables = "a guest without system calls"
    if error == 0:
        return Check("seccomp", "available", enables, "", "ok")
    fix = "use a kernel with CONFIG_SECCOMP_FILTER, or allow seccomp in the filter around this process"
    return Check("seccomp", _name(-error), enables, fix, "missing")


#: Settings that can forbid user namespaces, where a distribution has them, and the value that does not.
_SYSCTLS: Final = {
    "kernel.unprivileged_userns_clone": "1",
    "kernel.apparmor_restrict_unprivileged_userns": "0",
}
#: How many of each namespace one engine with one guest takes; every further guest takes a user and a pid namespace.
_NAMESPACES: Final = {"user": 2, "pid": 2, "mnt": 1, "uts": 1, "ipc": 1, "net": 1, "cgroup": 1}


def _try_namespaces() -> Check:
    enables = "a place without files, network and others"
    try:
        _run(_start_nursery(), asyncio.run)
    except SandboxError as error:
        found = error.step if error.errno is None else f"{error.step}: {_name(error.errno)}"
        return Check("user namespaces", found, enables, error.remedy, "missing")
    except OSError as error:
        return Check("user namespaces", _name(error.errno), enables, _limit_fix(error.errno), "missing")
    return Check("user namespaces", f"{len(_NAMESPACES)} namespaces made", enables, "", "ok")


async def _start_nursery() -> None:
    # It waits for answers about workers, of which this one gets none.
    nursery = await Nursery.start(cast(Waiter, None))
    await nursery.aclose()


def _namespace_limits() -> Check:
    values = {kind: int(_sysctl(f"user.max_{kind}_namespaces") or 0) for kind in _NAMESPACES}
    low = {kind: value for kind, value in values.items() if value < _NAMESPACES[kind]}
    shown = low or {kind: value for kind, value in values.items() if _NAMESPACES[kind] > 1}
    # The engine's own is one of them.
    guests = max(0, min(value for kind, value in values.items() if _NAMESPACES[kind] > 1) - 1)
    fix = "" if not low else "sysctl " + " ".join(f"user.max_{kind}_namespaces=10000" for kind in low)
    found = ", ".join(f"{kind} {value}" for kind, value in shown.items())
    return Check("namespace limits", found, f"up to {guests} guests at once", fix, _ok(not low))


def _namespace_sysctl(name: str, value: str, wanted: str, started: bool) -> Check:
    """A setting that matters only if namespaces cannot be made: there are exceptions to each."""
    in_the_way = value != wanted and not started
    fix = f"sysctl {name}={wanted}" if in_the_way else ""
    return Check(name, value, "user namespaces without privileges", fix, _ok(not in_the_way))


# --- A guest ----------------------------------------------------------------------------------------------------------

_PROGRAM: Final = """
pub @add:
    a0 = a0 + a1
    ret
"""
#: Seconds after which a guest that has not answered never will.
_PATIENCE: Final = 10.0


@dataclass(frozen=True, slots=True)
class Trial:
    """A guest that ran."""

    #: From the engine's start to the guest's answer.
    seconds: float
    #: Files that it keeps open in this process.
    files: int


def _try_guest(config: Config) -> Trial | Exception:
    try:
        return _run(_run_guest(config), run)
    except (VMError, aioring.AioringError, OSError) as error:
        return error


async def _run_guest(config: Config) -> Trial:
    began = time.perf_counter()
    async with asyncio.timeout(_PATIENCE), Engine(config) as engine:
        module = await engine.compile(assemble(_PROGRAM, InstructionSet.LATEST64))
        before = _count_open_files()
        async with await module.instantiate() as instance:
            files = _count_open_files() - before
            answer = await instance.call("add", 2, 3)
            if answer != 2 + 3:
                raise VMError(f"the guest added 2 and 3 to {answer}")
            return Trial(time.perf_counter() - began, files)


def _guest(trial: Trial | Exception | None, lacking: str) -> Check:
    name, enables = "guest", "everything that vm does"
    match trial:
        case Trial():
            return Check(name, f"ran, in {trial.seconds * 1e3:.0f} ms", enables, "", "ok")
        case None:
            return Check(name, "not tried", enables, f"see {lacking}", "missing")
        case SandboxError(step=step, errno=number, remedy=remedy):
            found = step if number is None else f"{step}: {_name(number)}"
            return Check(name, found, enables, remedy, "missing")
        case TimeoutError():
            return Check(name, f"no answer in {_PATIENCE:g} s", enables, "free a processor, and try again", "missing")
        case _:
            number = getattr(trial, "errno", None)
            return Check(name, str(trial), enables, _limit_fix(number) or "see the rows above", "missing")


# --- What more guests need --------------------------------------------------------------------------------------------

#: As many guests as a service may well have.
_MANY: Final = 1000


def _open_files(per_guest: int | None) -> Check:
    name = "open file limit"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # the soft one is raised to it when an engine starts
    found = _limit(hard)
    if per_guest is None or hard == resource.RLIM_INFINITY:
        return Check(name, found, "many guests at once", "", "ok")
    guests = max(0, hard - _count_open_files()) // per_guest
    enables = f"about {guests} guests at once"
    if guests >= _MANY:
        return Check(name, found, enables, "", "ok")
    wanted = _MANY * (per_guest + 1)  # and as many for all else
    return Check(name, found, enables, f"ulimit -n {wanted} (as root)", "optional")


def _userfaultfd() -> Check:
    name, enables = "userfaultfd", "dynamic paging (ModuleConfig.dynamic_paging)"
    error = lib.sandbox_probe_userfaultfd()
    if error == 0:
        return Check(name, "available", enables, "", "ok")
    found = _name(-error) + _setting("vm.unprivileged_userfaultfd")
    fix = "use Linux 5.19 or newer with CONFIG_USERFAULTFD, or allow it in the seccomp filter around this process"
    return Check(name, found, enables, fix, "optional")


def _cgroup() -> Check:
    name, enables = "cgroup controllers", "limits for all guests together"
    try:
        there = ", ".join(f"{name} (v{hierarchy.version})" for name, hierarchy in find_hierarchies().items()) or "none"
        Cgroup(CgroupLimits(memory=1 << 30, processes=1000, cpu=1)).close()
    except SandboxError as error:
        found = f"{there}; {error.step.removeprefix('cgroup: ')}"
        found += "" if error.errno is None else f": {_name(error.errno)}"
        return Check(name, found, enables, error.remedy, "optional")
    except OSError as error:
        return Check(name, f"/proc: {_name(error.errno)}", enables, "mount /proc", "optional")
    return Check(name, there, enables, "", "ok")


# --- Small things -----------------------------------------------------------------------------------------------------


def _run(main: Coroutine[Any, Any, T], runner: Callable[[Coroutine[Any, Any, T]], T]) -> T:
    try:
        return runner(main)
    finally:
        main.close()  # it was never started if there is no event loop to be had


def _ok(condition: bool) -> Status:
    return "ok" if condition else "missing"


def _sysctl(name: str) -> str | None:
    """Its value; None where this kernel has no such setting."""
    try:
        return Path("/proc/sys", *name.split(".")).read_text().strip()
    except OSError:
        return None


def _setting(name: str) -> str:
    """What to add about a setting that may be the reason."""
    value = _sysctl(name)
    return "" if value is None else f", {name} = {value}"


def _name(number: int | None) -> str:
    return errno.errorcode.get(number or 0, f"errno {number}")


def _limit_fix(number: int | None) -> str:
    return {errno.EMFILE: "ulimit -n 1024 or more", errno.ENFILE: "raise sysctl fs.file-max"}.get(number or 0, "")


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


def _count_open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
