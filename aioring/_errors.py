# SPDX-License-Identifier: MIT
"""The exceptions of aioring.

::

    Exception
    └── AioringError
        ├── RingUnavailableError (OSError)          io_uring is missing, blocked or too old
        ├── UserfaultfdUnavailableError (OSError)   userfaultfd is missing, forbidden or too old
        ├── UnsupportedOperationError               the kernel lacks this operation
        └── RingStateError (RuntimeError)           the ring cannot be used like this
            ├── RingClosedError                     it is closed, or was while the operation ran
            │   └── RingForkedError                 it stayed with the parent process
            └── RingOwnerError                      it belongs to another thread or event loop

An operation that the kernel refuses raises the `OSError` of its errno, as the system call of that name would.
"""

import errno
import os
from pathlib import Path


class AioringError(Exception):
    """Whatever aioring itself reports."""


class RingUnavailableError(AioringError, OSError):
    """io_uring cannot be used here. `errno` is what io_uring_setup(2) said; the message says why, and the remedy."""


class UserfaultfdUnavailableError(AioringError, OSError):
    """userfaultfd cannot be used here. `errno` is what userfaultfd(2) said; the message says why, and the remedy."""


class UnsupportedOperationError(AioringError):
    """The running kernel lacks an operation.

    Attributes:
        operation: the name, as in `Ring.supports()`.
        since: the version of Linux that brought it.
    """

    def __init__(self, operation: str, since: str) -> None:
        super().__init__(f"io_uring operation {operation} needs Linux {since}; this is Linux {os.uname().release}")
        self.operation = operation
        self.since = since


class RingStateError(AioringError, RuntimeError):
    """The ring is not in a state to do this."""


class RingClosedError(RingStateError):
    """The ring is closed, or was closed while the operation was in flight."""


class RingForkedError(RingClosedError):
    """The ring, or userfaultfd, was made before a fork() and belongs to the parent; a child makes its own."""


class RingOwnerError(RingStateError):
    """The ring belongs to another thread or another event loop."""


_DISABLED = Path("/proc/sys/kernel/io_uring_disabled")


def unavailable(code: int) -> OSError:
    """The exception for a failed io_uring_setup(2); `code` is a positive errno."""
    if code in (errno.EMFILE, errno.ENFILE):
        return OSError(code, os.strerror(code))
    return RingUnavailableError(code, f"io_uring is unavailable: {os.strerror(code)}; {_reason(code)}")


def _reason(code: int) -> str:
    match code:
        case errno.ENOSYS:
            return (
                "the kernel was built without it or a seccomp filter hides it: use another kernel, or open the filter"
            )
        case errno.EPERM | errno.EACCES:
            try:
                disabled = _DISABLED.read_text().strip()
            except OSError:  # the setting came with Linux 6.6
                disabled = "0"
            if disabled == "0":
                return (
                    "a seccomp filter or security module forbids it, as container engines do by default: "
                    "allow io_uring_setup, io_uring_enter and io_uring_register there"
                )
            return f"kernel.io_uring_disabled is {disabled}: set it to 0 (sysctl kernel.io_uring_disabled=0)" + (
                ", or join the group in kernel.io_uring_group" if disabled == "1" else ""
            )
        case errno.ENOMEM:
            return (
                "no memory for the queues: raise RLIMIT_MEMLOCK (counted before Linux 5.12), or ask for fewer entries"
            )
        case errno.EOPNOTSUPP | errno.EINVAL:
            return f"aioring needs Linux 5.11, this is {os.uname().release}"
        case _:
            return "see io_uring_setup(2)"


def userfaultfd_unavailable(code: int, user_mode_only: bool) -> OSError:
    """The exception for a failed userfaultfd(2); `code` is a positive errno."""
    if code in (errno.EMFILE, errno.ENFILE):
        return OSError(code, os.strerror(code))
    reason = _userfaultfd_reason(code, user_mode_only)
    return UserfaultfdUnavailableError(code, f"userfaultfd is unavailable: {os.strerror(code)}; {reason}")


def _userfaultfd_reason(code: int, user_mode_only: bool) -> str:
    match code:
        case errno.ENOSYS:
            return (
                "the kernel was built without it (CONFIG_USERFAULTFD) or a seccomp filter hides it: "
                "use another kernel, or open the filter"
            )
        case errno.EPERM if user_mode_only:
            return (
                "a seccomp filter or security module forbids it, as container engines do by default: "
                "allow userfaultfd there"
            )
        case errno.EPERM:
            return (
                "faults in the kernel need CAP_SYS_PTRACE, access to /dev/userfaultfd (Linux 6.1) or "
                "vm.unprivileged_userfaultfd=1 (sysctl), and no seccomp filter that forbids it: "
                "do with user_mode_only=True"
            )
        case errno.EINVAL if user_mode_only:
            return f"user_mode_only needs Linux 5.11, this is {os.uname().release}"
        case _:
            return "see userfaultfd(2)"
