# SPDX-License-Identifier: MIT
"""What the running kernel's io_uring can do."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntFlag
from itertools import count

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
