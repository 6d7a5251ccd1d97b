# SPDX-License-Identifier: MIT
"""Guest memory, seen from the host."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from vm._errors import InstanceStateError, MemoryAccessError
from vm._nursery import sandbox_error
from vm._sandbox import ffi, lib
from vm.memory_map import align_up

if TYPE_CHECKING:
    from vm._instance import Instance
    from vm._sandbox import CData
    from vm.memory_map import MemoryMap
    from vm.program import BytesLike


class Memory:
    """The memory of one instance.

    Addresses are the guest's; a range must lie in one region (`map` says where they are). The guest's read-only
    data cannot be written by the host either, and auxiliary data ends at `Instance.accessible_aux_size` for both.
    Usable while the guest is stopped.

    With dynamic paging (`ModuleConfig.dynamic_paging`) a page is there once the host has written or zeroed some of it,
    with zeros around that; `read` needs all the pages of its range. Protection concerns the guest alone.
    """

    __slots__ = ("_instance",)

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    @property
    def map(self) -> MemoryMap:
        """Where the regions are."""
        return self._instance.module.memory_map

    @property
    def heap_size(self) -> int:
        """Bytes that the guest has taken with sbrk."""
        return int(self._instance._stopped_machine().guest.heap_size)

    def read(self, address: int, length: int) -> bytes:
        """A copy of `length` bytes from `address`.

        Raises `MemoryAccessError` if the guest could not read all of them (with dynamic paging: without a page fault),
        `InstanceStateError` while it runs or after it is closed, ValueError for a negative length.
        """
        pointer = self._at(address, length)
        return bytes(ffi.buffer(pointer, length)) if length else b""

    def read_into(self, address: int, buffer: bytearray | memoryview) -> None:
        """Fills a writable, contiguous `buffer` from `address`. Raises as `read`."""
        # released at once: an error's frame would keep it, and CPython 3.11 crashes when it collects a memoryview's
        with ffi.from_buffer(buffer, require_writable=True) as view:
            pointer = self._at(address, len(view))
            ffi.memmove(view, pointer, len(view))

    def write(self, address: int, data: BytesLike) -> None:
        """Copies `data` to `address`. Raises as `read`; read-only data counts as memory that is not there."""
        with ffi.from_buffer(data) as view:
            length = len(view)
            for memory in self._writable(address, length):
                _check(lib.sandbox_memory_write(memory, address, view, length), address, length)

    def zero(self, address: int, length: int) -> None:
        """Fills `length` bytes from `address` with zeros; those that the guest never touched cost nothing, but with
        dynamic paging, where their pages are there from then on.

        Raises as `write`, ValueError for a negative length.
        """
        for memory in self._writable(address, length):
            _check(lib.sandbox_memory_zero(memory, address, length), address, length)

    def free(self, address: int, length: int) -> None:
        """Gives pages back to the system: they stay accessible and read as zeros. With dynamic paging they are there no
        more, nor protected: the next touch is a `PageFault`.

        `address` must be a multiple of the module's page size, or a ValueError is raised; `length`, in bytes, is
        rounded up to one. Raises otherwise as `zero`, for the length that was asked for.
        """
        page = self.map.page_size
        if address % page:
            raise ValueError(f"address {address:#x} is not a multiple of the page size {page:#x}")
        for memory in self._writable(address, length):
            _check(lib.sandbox_memory_free(memory, address, align_up(length, page)), address, length)

    def protect(self, address: int, length: int) -> None:
        """With dynamic paging: makes writes of the guest to these pages a `PageFault`, until `unprotect` or `free`.

        `address` must be a multiple of the module's page size, or a ValueError is raised; `length`, in bytes, is
        rounded up to one. Reads go on, and so do writes of the host.

        Raises `MemoryAccessError` unless all pages are there and the guest may write to the region, and
        `InstanceStateError` while the guest runs, after it is closed, or without dynamic paging.
        """
        self._guard(address, length, True)

    def unprotect(self, address: int, length: int) -> None:
        """Takes `protect` back; pages that are not protected stay as they are. Raises as `protect`."""
        self._guard(address, length, False)

    def _guard(self, address: int, length: int, on: bool) -> None:
        page = self.map.page_size
        if not self._instance.module.config.dynamic_paging:
            raise InstanceStateError("memory can be protected with dynamic paging only: ModuleConfig.dynamic_paging")
        if address % page:
            raise ValueError(f"address {address:#x} is not a multiple of the page size {page:#x}")
        for memory in self._writable(address, length):
            error = lib.sandbox_memory_protect(memory, address, align_up(length, page), on)
            if error == -errno.EFAULT:
                raise self._denied(address, length, "not memory that the guest can write")
            if error < 0:
                raise sandbox_error(error, "protecting guest memory (userfaultfd)")

    def is_accessible(self, address: int, length: int, *, writable: bool = False) -> bool:
        """Whether the guest itself may read (`writable`: and write) all of `length` bytes from `address`; with dynamic
        paging: without a page fault.

        No bytes at all are accessible wherever an address can be. Raises `InstanceStateError` while the guest runs or
        after it is closed, ValueError for a negative length.
        """
        try:
            self._at(address, length, lib.SANDBOX_GUEST_WRITE if writable else lib.SANDBOX_READ)
        except MemoryAccessError:
            return False
        return True

    def _at(self, address: int, length: int, access: int = lib.SANDBOX_READ) -> CData:
        """Pointer to memory that is there for `access`, one of enum sandbox_access; NULL for an empty range."""
        if length < 0:
            raise ValueError(f"length {length} is negative")
        machine = self._instance._stopped_machine()
        if 0 <= address < 1 << 32 and length <= 1 << 32:
            if length == 0:
                return ffi.NULL  # nothing is touched: fine anywhere, as with an empty slice
            pointer = lib.sandbox_memory_at(machine.memories[0], address, length, access)
            if pointer:
                return pointer
        raise self._denied(address, length, "not readable memory")

    def _denied(self, address: int, length: int, what: str) -> MemoryAccessError:
        """The error for memory that is not there, or of which a page is not."""
        if self._instance.module.config.dynamic_paging and 0 <= address < 1 << 32 and 0 < length <= 1 << 32:
            memory = self._instance._stopped_machine().memories[0]
            absent = lib.sandbox_memory_fault(memory, address, length, False)
            if absent >= 0:
                what = f"the page at {absent:#x} is not there"
        return MemoryAccessError(address, length, what)

    def _writable(self, address: int, length: int) -> tuple[CData, ...]:
        """The ``sandbox_memory`` objects to write to, which check the rest; none if there is nothing to write."""
        if length < 0:
            raise ValueError(f"length {length} is negative")
        machine = self._instance._stopped_machine()
        if 0 <= address < 1 << 32 and length <= 1 << 32:
            return machine.memories if length else ()
        raise MemoryAccessError(address, length, "not writable memory")


def _check(error: int, address: int, length: int) -> None:
    """Raises for what a function of sandbox_api.h returned."""
    if error == -errno.EFAULT:
        raise MemoryAccessError(address, length, "not writable memory")
    if error < 0:
        raise sandbox_error(error, "changing guest memory (fallocate, madvise)")
