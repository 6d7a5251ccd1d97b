# SPDX-License-Identifier: MIT
"""The variable-length u32 of blob metadata (blob specification, section 2).

The number of leading one bits of the first byte is the number of bytes that follow it.
"""

from __future__ import annotations

from typing import Final

#: Largest value a varint can hold.
MAX_VARINT: Final = 0xFFFF_FFFF

# Number of bytes after the first one, by the first byte; None where no encoding starts so.  0xf1..0xf7 would shift
# bits out of the u32 (no writer emits them); from 0xf8 on there are five leading ones or more.
_FOLLOWING: Final = tuple(
    0 if b < 0x80 else 1 if b < 0xC0 else 2 if b < 0xE0 else 3 if b < 0xF0 else 4 if b == 0xF0 else None
    for b in range(256)
)


class VarintError(ValueError):
    """There is no varint at this offset; the message says why."""


def encode_varint(value: int) -> bytes:
    """The shortest encoding of `value`; ValueError unless it is a u32."""
    if not 0 <= value <= MAX_VARINT:
        raise ValueError(f"{value} does not fit a u32 varint")
    for following in range(4):
        if value < 1 << (7 + 7 * following):
            marker = 0xFF00 >> following & 0xFF
            return bytes([marker | value >> 8 * following]) + (value & (1 << 8 * following) - 1).to_bytes(
                following, "little"
            )
    return b"\xf0" + value.to_bytes(4, "little")


def decode_varint(data: bytes, offset: int, end: int) -> tuple[int, int]:
    """The varint at `offset` of `data` and the offset after it; longer encodings than needed are accepted.

    Nothing at or past `end` is read.  Raises `VarintError`.
    """
    if offset >= end:
        raise VarintError("unexpected end of data")
    first = data[offset]
    if first < 0x80:
        return first, offset + 1
    following = _FOLLOWING[first]
    if following is None:
        raise VarintError(f"invalid varint (first byte {first:#x})")
    stop = offset + 1 + following
    if stop > end:
        raise VarintError("truncated varint")
    high = first & (0xFF >> following)
    return high << 8 * following | int.from_bytes(data[offset + 1 : stop], "little"), stop
