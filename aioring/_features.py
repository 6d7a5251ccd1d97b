# SPDX-License-Identifier: MIT
"""What the running kernel's io_uring can do."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntFlag
from itertools import count
from types import MappingProxyType

from aioring._errors import unavailable
from aioring._uring import ffi, lib


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
    #: The version of Linux that brought each.
    since: Mapping[str, str]


def features() -> Features:
    """Ask the running kernel what it offers. Does not raise where io_uring is missing or blocked: it says so.

    Makes a ring for that and closes it, as what is allowed can change; tens of microseconds.
    """
    out = ffi.new("struct uring **")
    error = lib.uring_open(out, 1, 0, False)
    since = MappingProxyType({name: version for name, (_, version) in OPERATIONS.items()})
    if error:
        none = MappingProxyType(dict.fromkeys(OPERATIONS, False))
        return Features(os.uname().release, unavailable(-error), Feature(0), none, since)
    try:
        info = ffi.new("struct uring_info *")
        lib.uring_info(out[0], info)
        operations = {name: bool(lib.uring_supports(out[0], opcode)) for name, (opcode, _) in OPERATIONS.items()}
        return Features(os.uname().release, None, Feature(info.features), MappingProxyType(operations), since)
    finally:
        lib.uring_close(out[0])
