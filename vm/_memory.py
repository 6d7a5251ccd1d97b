# SPDX-License-Identifier: MIT
"""Guest memory, seen from the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vm._errors import MemoryAccessError
from vm._sandbox import ffi

if TYPE_CHECKING:
    from vm._instance import Instance
    from vm._sandbox import CData
    from vm.memory_map import MemoryMap
    from vm.program import BytesLike


class Memory:
    """The memory of one instance.

    Addresses are the guest's; a range must lie in one region (`map` says where they are). The guest's read-only
    data cannot be written by the host either. Usable while the guest is stopped.
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

        Raises `MemoryAccessError` if the guest could not read all of them, `InstanceStateError` while it runs or
        after it is closed, ValueError for a negative length.
        """
        pointer = self._at(address, length, write=False)
        return bytes(ffi.buffer(pointer, length)) if length else b""

    def read_into(self, address: int, buffer: bytearray | memoryview) -> None:
        """Fills a writable, contiguous `buffer` from `address`. Raises as `read`."""
        view = ffi.from_buffer(buffer, require_writable=True)
        pointer = self._at(address, len(view), write=False)
        ffi.memmove(view, pointer, len(view))

    def write(self, address: int, data: BytesLike) -> None:
        """Copies `data` to `address`. Raises as `read`; read-only data counts as memory that is not there."""
        view = ffi.from_buffer(data)
        pointer = self._at(address, len(view), write=True)
        ffi.memmove(pointer, view, len(view))

    def _at(self, address: int, length: int, *, write: bool) -> CData:
        if length < 0:
            raise ValueError(f"length {length} is negative")
        machine = self._instance._stopped_machine()
        if length == 0 and 0 <= address < 1 << 32:
            return ffi.NULL  # nothing is touched: fine anywhere, as with an empty slice
        if 0 <= address < 1 << 32 and 0 < length <= 1 << 32:
            pointer = machine.memory(address, length, write)
            if pointer != ffi.NULL:
                return pointer
        raise MemoryAccessError(address, length, "not writable memory" if write else "not readable memory")
