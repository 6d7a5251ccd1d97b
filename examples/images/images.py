# SPDX-License-Identifier: MIT
"""Pictures from strangers, decoded by a C library in a sandbox: what goes wrong in it stays in it.

python images.py build/image.polkavm picture.png [picture.ppm]
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import aioring
import vm

#: For one picture: a small file may claim to be a huge picture.
LIMITS = vm.Limits(memory=256 << 20, cpu=5.0)
LARGEST_FILE = 32 << 20
_ERROR_LENGTH = 64


class ImageError(Exception):
    """No picture; says why."""


@dataclass(frozen=True)
class Picture:
    """`pixels` are rows from the top, 4 bytes a pixel: red, green, blue, alpha."""

    width: int
    height: int
    pixels: bytes

    def ppm(self) -> bytes:
        """The same as a file, without alpha (ppm(5))."""
        rgb = bytearray(3 * self.width * self.height)
        for channel in range(3):
            rgb[channel::3] = self.pixels[channel::4]
        return b"P6\n%d %d\n255\n%b" % (self.width, self.height, bytes(rgb))


async def decode(module: vm.Module, data: bytes) -> Picture:
    """The picture in a file: PNG, JPEG, GIF, BMP, TGA, PSD, PIC or PNM.

    Each is decoded in an instance of its own. Raises `ImageError`. What the guest says is not believed: an address and
    a size are only used for reading its memory.
    """
    if not 0 < len(data) <= LARGEST_FILE:
        raise ImageError(f"a file of {len(data)} bytes")
    linker = vm.Linker()
    vm.Stdio().link(linker)  # for its assertions; they get nothing
    try:
        async with await linker.instantiate(module, limits=LIMITS) as instance:
            room = await instance.call("image_room", len(data), returns=vm.u32)
            if not room:
                raise ImageError("no memory for the file")
            instance.memory.write(room, data)
            found = await instance.call("image_decode", len(data), returns=vm.u32)
            if not found:
                text = await instance.call("image_error", returns=vm.u32)
                reason = instance.memory.read(text, _ERROR_LENGTH).partition(b"\0")[0]
                raise ImageError(reason.decode(errors="replace"))
            width, height, pixels = struct.unpack("<IIQ", instance.memory.read(found, 16))
            if width * height * 4 > (LIMITS.memory or 0):
                raise ImageError(f"{width} x {height} pixels")
            return Picture(width, height, instance.memory.read(pixels & 0xFFFF_FFFF, 4 * width * height))
    except (vm.TrapError, vm.LimitError, vm.MemoryAccessError) as error:
        raise ImageError(str(error)) from error


async def main(program: bytes, file: bytes) -> Picture:
    async with vm.Engine() as engine:
        return await decode(await engine.compile(program), file)


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    program, source, *target = map(Path, sys.argv[1:])
    try:
        picture = aioring.run(main(program.read_bytes(), source.read_bytes()))
        for path in target:
            path.write_bytes(picture.ppm())
    except (ImageError, vm.VMError, OSError) as error:
        sys.exit(f"{source}: {error}")
    print(f"{source}: {picture.width} x {picture.height}")
