# SPDX-License-Identifier: MIT
"""The process in empty namespaces from which every worker of an engine is cloned."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import select
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vm._errors import SandboxError
from vm._sandbox import ffi, lib

if TYPE_CHECKING:
    from vm._cgroup import Cgroup
    from vm._sandbox import CData
    from vm._waiter import Waiter

#: What helps when a step of the set-up fails with an errno.
_REMEDIES: Final = {
    errno.EPERM: "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
    "kernel.apparmor_restrict_unprivileged_userns=0; in a container, a seccomp profile that permits clone3, mount "
    "and pivot_root)",
    errno.EACCES: "allow unprivileged user namespaces (sysctl kernel.apparmor_restrict_unprivileged_userns=0)",
    errno.ENOSPC: "raise the limits user.max_user_namespaces and user.max_pid_namespaces (sysctl)",
    errno.EUSERS: "raise the limit user.max_user_namespaces (sysctl)",
    errno.ENOSYS: "use Linux 6.7 or newer; 'pvm doctor' shows what is missing",
    errno.EMFILE: "raise the limit on open files (ulimit -n): it is {files}, and each guest takes two or three",
    errno.ENFILE: "raise the system's limit on open files (sysctl fs.file-max)",
    errno.EAGAIN: "raise the limit on processes (ulimit -u, sysctl kernel.pid_max, pids.max of the control group, "
    "CgroupLimits.processes)",
    errno.ENOMEM: "free some memory",
}


def sandbox_error(error: int, what: str) -> SandboxError:
    """The exception for a negative errno of the C side."""
    number = -error
    remedy = _REMEDIES.get(number, "'pvm doctor' shows what this machine lacks")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return SandboxError(what, errno=number, remedy=remedy.replace("{files}", str(soft)))


def step_error(error: int, step: int, who: str) -> SandboxError:
    """The same for a step that the zygote reports."""
    return sandbox_error(error, f"{who}: {ffi.string(lib.sandbox_step_text(step)).decode()}")


def pid_of(pidfd: int) -> int:
    """The process id as /proc tells it (proc(5)); 0 for a process that is gone, or if there is no telling."""
    try:
        text = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("Pid:"):
            return max(int(line.split()[1]), 0)
    return 0


def unused_id(table: str, wanted: int) -> int:
    """`wanted` if the id map in `table` (user_namespaces(7)) has it, else the last id of its largest range."""
    best_first, best_count = 0, 0
    for line in table.splitlines():
        first, _, count = (int(field) for field in line.split())
        if first <= wanted < first + count:
            return wanted
        if count > best_count:
            best_first, best_count = first, count
    return best_first + best_count - 1


# Far above what distributions and container engines give out; the process id keeps hosts apart from each other.
_FIRST_UNUSED_ID: Final = 0x6E00_0000


def _identity() -> tuple[bool, int, int]:
    """Whether the zygote has to give up root, and the user and group that it runs as."""
    uid, gid = os.geteuid(), os.getegid()
    if uid != 0:
        return False, uid, gid
    wanted = _FIRST_UNUSED_ID + os.getpid()
    user = unused_id(Path("/proc/self/uid_map").read_text(), wanted)
    group = unused_id(Path("/proc/self/gid_map").read_text(), wanted)
    return True, user, group


class Nursery:
    """A running nursery. Requests are answered in order, so they are made one at a time."""

    def __init__(self, handle: CData, waiter: Waiter) -> None:
        self._handle = handle
        self._waiter = waiter
        self._lock = asyncio.Lock()
        self._control: int = lib.sandbox_nursery_control(handle)

    @classmethod
    async def start(cls, waiter: Waiter, cgroup: Cgroup | None = None) -> Nursery:
        """Starts one, in a control group, off the event loop's thread. Raises `SandboxError` that names the step which
        failed."""

        def start() -> CData:
            drop, uid, gid = _identity()
            result = ffi.new("sandbox_nursery **")
            step = ffi.new("uint32_t *")
            error = lib.sandbox_nursery_start(drop, uid, gid, result, step)
            if error == -errno.EACCES and step[0] == 0:
                raise SandboxError(
                    "the nursery: executing the zygote (execveat)",
                    errno=errno.EACCES,
                    remedy="allow executable memfds (sysctl vm.memfd_noexec=0 or 1)",
                )
            if error < 0:
                raise step_error(error, step[0], "the nursery") if step[0] else sandbox_error(error, "the nursery")
            # a cancelled start has nobody to close it: the garbage collector does
            nursery = ffi.gc(result[0], lib.sandbox_nursery_destroy)
            if cgroup is not None:
                # before there is a worker: those are born where it is
                cgroup.add(pid_of(lib.sandbox_nursery_pidfd(nursery)))
            return nursery

        return cls(await asyncio.to_thread(start), waiter)

    async def clone(self, worker: CData) -> None:
        """Gives `worker` its process.

        Raises ConnectionError if the nursery is gone and `SandboxError` if it cannot. Not to be cancelled in the
        middle: the next request would take this one's answer.
        """
        async with self._lock:
            if not self._handle:
                raise ConnectionError("the nursery is gone")
            while (error := lib.sandbox_worker_request(worker, self._handle)) == -errno.EAGAIN:
                await self._waiter.poll(self._control, select.POLLOUT)
            step = ffi.new("uint32_t *")
            while error == 0:
                error = lib.sandbox_worker_receive(worker, self._handle, step)
                if error == 0:
                    return
                if error == -errno.ENOMSG:
                    await self._waiter.poll(self._control, select.POLLIN)
                    error = 0
        if error in (-errno.ECONNRESET, -errno.EPIPE):
            raise ConnectionError("the nursery is gone")
        raise step_error(error, step[0], "a worker")

    def kill(self) -> None:
        """Sends SIGKILL, also to one that is stopped. Who waits for a clone gets ConnectionError."""
        if self._handle:
            lib.sandbox_nursery_kill(self._handle)

    async def aclose(self) -> None:
        """Ends it, and with it every worker that is left."""
        async with self._lock:
            handle, self._handle = self._handle, ffi.NULL
        if handle:
            await asyncio.to_thread(ffi.release, handle)
