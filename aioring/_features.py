# SPDX-License-Identifier: MIT
"""What the running kernel can do: its io_uring, and its userfaultfd."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntFlag
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING

from aioring._errors import UserfaultfdUnavailableError, unavailable, userfaultfd_unavailable
from aioring._uring import ffi, lib

if TYPE_CHECKING:
    from aioring._uring import UserfaultfdFile


class Feature(IntFlag):
    """`Ring.features` (IORING_FEAT_*, io_uring_setup(2); bits from include/uapi/linux/io_uring.h)."""

    SINGLE_MMAP = 1 << 0
    NODROP = 1 << 1
    SUBMIT_STABLE = 1 << 2
    RW_CUR_POS = 1 << 3
    CUR_PERSONALITY = 1 << 4
    FAST_POLL = 1 << 5
    POLL_32BITS = 1 << 6
    SQPOLL_NONFIXED = 1 << 7
    EXT_ARG = 1 << 8
    NATIVE_WORKERS = 1 << 9
    RSRC_TAGS = 1 << 10
    CQE_SKIP = 1 << 11
    LINKED_FILE = 1 << 12
    REG_REG_RING = 1 << 13
    RECVSEND_BUNDLE = 1 << 14
    MIN_TIMEOUT = 1 << 15
    RW_ATTR = 1 << 16
    NO_IOWAIT = 1 << 17


class UserfaultfdFeature(IntFlag):
    """What a `Userfaultfd` can be asked for (UFFD_FEATURE_*, ioctl_userfaultfd(2); bits and versions from Linux)."""

    #: Write protection of private memory (Linux 5.7); need not be asked for.
    PAGEFAULT_FLAG_WP = 1 << 0
    #: Events other than faults (4.11), which a `Userfaultfd` does not take: `Features.userfaultfd` may have them.
    EVENT_FORK = 1 << 1
    EVENT_REMAP = 1 << 2
    EVENT_REMOVE = 1 << 3
    #: Absent huge pages (4.11) and pages of shared memory (4.11); need not be asked for.
    MISSING_HUGETLBFS = 1 << 4
    MISSING_SHMEM = 1 << 5
    #: See EVENT_FORK.
    EVENT_UNMAP = 1 << 6
    #: A thread gets SIGBUS in place of waiting (4.14): there is nothing to read.
    SIGBUS = 1 << 7
    #: `Fault.thread_id` (4.14).
    THREAD_ID = 1 << 8
    #: Minor faults, of huge pages (5.13) and shared memory (5.14).
    MINOR_HUGETLBFS = 1 << 9
    MINOR_SHMEM = 1 << 10
    #: `Fault.address` is what is accessed, not the page of it (5.18).
    EXACT_ADDRESS = 1 << 11
    #: Write protection of shared memory and huge pages (5.19); need not be asked for.
    WP_HUGETLBFS_SHMEM = 1 << 12
    #: Write protection of absent pages of private memory (6.4).
    WP_UNPOPULATED = 1 << 13
    #: Pages that raise SIGBUS (6.6).
    POISON = 1 << 14
    #: Writes to protected pages lift the protection and do not wait (6.7).
    WP_ASYNC = 1 << 15
    #: Pages can be moved (6.8).
    MOVE = 1 << 16


# Userfaultfd.since in `Features`: UFFD_USER_MODE_ONLY, as anybody may have it then (userfaultfd(2)).
_USERFAULTFD_SINCE = "5.11"


def open_userfaultfd(user_mode_only: bool, features: UserfaultfdFeature) -> tuple[UserfaultfdFile, UserfaultfdFeature]:
    """A userfaultfd that was asked for features, and those that the kernel has.

    Raises:
        UserfaultfdUnavailableError, or OSError (EMFILE, ENFILE).
    """
    file: UserfaultfdFile = ffi.new("struct userfaultfd *")
    error = lib.userfaultfd_open(file, user_mode_only)
    if error:
        raise userfaultfd_unavailable(-error, user_mode_only)
    available = ffi.new("uint64_t *")
    error = lib.userfaultfd_api(file, features, available)
    if error:
        lib.userfaultfd_close(file)
        if error == -errno.EINVAL and features:
            lacking = UserfaultfdFeature(int(features) & ~int(userfaultfd_features(user_mode_only)))
            raise UserfaultfdUnavailableError(-error, f"userfaultfd has no {lacking!r} in Linux {os.uname().release}")
        raise userfaultfd_unavailable(-error, user_mode_only)
    return file, UserfaultfdFeature(available[0])


def userfaultfd_features(user_mode_only: bool = True) -> UserfaultfdFeature:
    """Those that the kernel has. Raises what `open_userfaultfd` does."""
    file, features = open_userfaultfd(user_mode_only, UserfaultfdFeature(0))
    lib.userfaultfd_close(file)
    return features


def _operations() -> Iterator[tuple[str, tuple[int, str]]]:
    for index in count():
        operation = lib.uring_operation(index)
        if operation == ffi.NULL:
            return
        yield ffi.string(operation.name).decode(), (operation.opcode, ffi.string(operation.since).decode())


# Name -> opcode, and the version of Linux that brought it; declared in native/uring/uring.c.
OPERATIONS = dict(_operations())


@dataclass(frozen=True, slots=True)
class Features:
    """What the running kernel offers; see `features()`."""

    #: The kernel's release, as os.uname() has it.
    kernel: str
    #: Why there is no io_uring: what `Ring` would raise. None: there is.
    unavailable: OSError | None
    #: What it offers beyond operations; none without io_uring.
    ring: Feature
    #: Whether it has each operation that a `Ring` has a method for, by name; see `Ring.supports()`.
    operations: Mapping[str, bool]
    #: Why there is no `Userfaultfd`: what it would raise. None: there is.
    userfaultfd_unavailable: OSError | None
    #: What it can be asked for; none where there is no `Userfaultfd`.
    userfaultfd: UserfaultfdFeature
    #: The version of Linux that brought each operation, and "userfaultfd".
    since: Mapping[str, str]


def features() -> Features:
    """Ask the running kernel what it offers. Does not raise where something is missing or blocked: it says so.

    Makes a ring and a userfaultfd for that and closes them, as what is allowed can change; tens of microseconds.
    """
    info = ffi.new("struct uring_info *")
    operations = dict.fromkeys(OPERATIONS, False)
    no_ring = no_userfaultfd = None
    out = ffi.new("struct uring **")
    error = lib.uring_open(out, 1, 0, False)
    if error:
        no_ring = unavailable(-error)
    else:
        lib.uring_info(out[0], info)
        operations = {name: bool(lib.uring_supports(out[0], opcode)) for name, (opcode, _) in OPERATIONS.items()}
        lib.uring_close(out[0])
    userfaultfd = UserfaultfdFeature(0)
    try:
        userfaultfd = userfaultfd_features()
    except OSError as why:
        no_userfaultfd = why
    return Features(
        kernel=os.uname().release,
        unavailable=no_ring,
        ring=Feature(info.features),
        operations=MappingProxyType(operations),
        userfaultfd_unavailable=no_userfaultfd,
        userfaultfd=userfaultfd,
        since=MappingProxyType(
            {name: version for name, (_, version) in OPERATIONS.items()} | {"userfaultfd": _USERFAULTFD_SINCE}
        ),
    )
