# SPDX-License-Identifier: MIT
"""Built-in pagers: they serve page faults in C, without a stop of the guest that Python sees."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from vm._sandbox import ffi, lib

if TYPE_CHECKING:
    from vm._sandbox import CData

#: Bytes that are put into a guest at once where its faults come page after page: about 0.3 ms of the event loop.
READ_AHEAD: Final = 1 << 20

_MOST: Final = (1 << 63) - 1


class Pager:
    """What `ZeroPager` and `FilePager` have in common: given to `Linker.on_page_fault`, shared by any number of guests.

    A page that was not there is put there, and where a guest faults at one page after the other, the next ones with
    it: 16 the second time, then twice as many each time, up to `read_ahead` bytes. A guest that writes to a protected
    page is not served: that is the end of `Instance.call`, and a `PageFault` from `Instance.run`.
    """

    __slots__ = ("_handle", "read_ahead")

    def __init__(self, file: int, address: int, offset: int, length: int, read_ahead: int) -> None:
        if not 0 <= read_ahead <= 1 << 32:
            raise ValueError(f"read_ahead is {read_ahead}: it must be from 0 to 2^32 bytes")
        result = ffi.new("sandbox_pager **")
        error = -lib.sandbox_pager_create(file, address, offset, length, read_ahead, result)
        if error == errno.ENOMEM:
            raise MemoryError
        if error:
            raise OSError(error, os.strerror(error))
        #: Most bytes that are put into a guest at once.
        self.read_ahead = read_ahead
        self._handle: CData = ffi.gc(result[0], lib.sandbox_pager_release)


class ZeroPager(Pager):
    """Pages of zeros: memory as it is without dynamic paging, but only where the guest touches it."""

    __slots__ = ()

    def __init__(self, *, read_ahead: int = READ_AHEAD) -> None:
        """Raises ValueError for a `read_ahead` (bytes) out of range."""
        super().__init__(-1, 0, 0, 0, read_ahead)

    def __repr__(self) -> str:
        return f"ZeroPager(read_ahead={self.read_ahead})"


class FilePager(Pager):
    """Pages with the bytes of a file, as they are when the guest first touches them; all other pages are zeros.

    What the guest writes stays with the guest. The file may be larger than the guest's memory: what is not touched is
    not read. Where its bytes are not in the page cache, a thread reads them while the event loop goes on.
    """

    __slots__ = ("address", "length", "offset")

    def __init__(
        self,
        file: str | os.PathLike[str] | int,
        address: int,
        *,
        offset: int = 0,
        length: int | None = None,
        read_ahead: int = READ_AHEAD,
    ) -> None:
        """`length` bytes of `file` from `offset` on (None: to its end) appear at guest `address`, which need not be
        that of a page.

        `file` is a path, or the descriptor of a file open for reading, which may be closed again: the pager keeps its
        own until nothing refers to it any more. Raises OSError if it cannot be opened or is no regular file, ValueError
        for an address, offset, length or `read_ahead` out of range.
        """
        opened = -1
        if not isinstance(file, int):
            opened = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        descriptor = file if isinstance(file, int) else opened
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "guest memory comes from regular files only", str(file))
            if length is None:
                length = max(found.st_size - offset, 0)
            if not 0 <= address < 1 << 32:
                raise ValueError(f"address {address:#x} is not that of guest memory")
            if not (0 <= offset <= _MOST and 0 <= length <= _MOST - offset):
                raise ValueError(f"there are no {length} bytes at offset {offset} of a file")
            os.pread(descriptor, 0, offset)  # it can be read
            super().__init__(descriptor, address, offset, length, read_ahead)
        finally:
            if opened >= 0:
                os.close(opened)
        #: Where in guest memory the first byte is.
        self.address = address
        #: The file's first byte that is used.
        self.offset = offset
        #: Bytes of the file that are used.
        self.length = length

    def __repr__(self) -> str:
        return f"FilePager(address={self.address:#x}, offset={self.offset}, length={self.length})"
