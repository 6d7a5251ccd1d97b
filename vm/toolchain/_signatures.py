# SPDX-License-Identifier: MIT
"""The types of exports and imports that the SDK's macros record, for `vm.signatures`."""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from vm.signatures import MAX_SIZE, SignatureError, Signatures
from vm.toolchain._sections import Image

_SIGNATURES: Final = ".pvm_signatures"


#: Our own limit, on the records of all files together: those of a header come once for each file that includes it.
_MOST_BYTES: Final = 1 << 24


def read_signatures(image: Image, exports: Container[bytes], imports: Container[bytes]) -> bytes:
    """The blob's section, with what the file has of these exports and imports. Raises `ElfError` for what is none."""
    found = Signatures()
    total = 0
    for section in image.sections_named(_SIGNATURES):
        total += len(section.data)
        if total > _MOST_BYTES:
            raise image.error(f"more than {_MOST_BYTES} bytes of signatures", section=section)
        try:
            found.add(bytes(section.data), 64 if image.is64 else 32)
        except SignatureError as error:
            raise image.error(str(error), section=section, address=section.address + error.offset) from None
    records = found.resolved().only(exports, imports).to_bytes()
    if len(records) > MAX_SIZE:
        raise image.error(f"the signatures have {len(records)} bytes, more than the limit of {MAX_SIZE}")
    return records
