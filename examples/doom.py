# SPDX-License-Identifier: MIT
"""DOOM as a guest: the engine runs in a sandbox, the WAD and the screen stay with the host.

    python examples/doom.py --program doom.polkavm --wad freedoom1.wad --ticks 350 --png frame.png

Without a key pressed it plays its attract demo, the same every time, so that the hash of a frame
(--hash TICK, any number of times) tells whether the machine computed right.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import struct
import sys
import time
import zlib
from pathlib import Path

import aioring
import vm


class Host:
    """What the engine asks of its host: the WAD, a screen, a terminal."""

    def __init__(self, wad: bytes) -> None:
        self.wad = wad
        self.width = 0
        self.height = 0
        #: The last frame, 4 bytes a pixel: blue, green, red, unused.
        self.frame = bytearray()

    def linker(self) -> vm.Linker:
        linker = vm.Linker()

        @linker.function("ext_output_video")
        def ext_output_video(caller: vm.Caller, address: vm.u32, width: vm.u32, height: vm.u32) -> None:
            if (self.width, self.height) != (width, height):
                self.width, self.height = width, height
                self.frame = bytearray(4 * width * height)
            caller.memory.read_into(address, self.frame)

        @linker.function("ext_output_audio")
        def ext_output_audio(caller: vm.Caller, address: vm.u32, samples: vm.u32) -> None:
            pass

        @linker.function("ext_rom_size")
        def ext_rom_size(caller: vm.Caller) -> vm.u32:
            return len(self.wad)

        @linker.function("ext_rom_read")
        def ext_rom_read(caller: vm.Caller, pointer: vm.u32, offset: vm.u32, length: vm.u32) -> None:
            caller.memory.write(pointer, self.wad[offset : offset + length])

        @linker.function("ext_stdout")
        def ext_stdout(caller: vm.Caller, buffer: vm.u32, length: vm.u32) -> vm.i32:
            sys.stderr.buffer.write(caller.memory.read(buffer, length))
            return length

        return linker

    def png(self) -> bytes:
        """The last frame as a PNG file (RGB, 8 bits; RFC 2083)."""
        rows = bytearray()
        for y in range(self.height):
            row = self.frame[4 * self.width * y : 4 * self.width * (y + 1)]
            rgb = bytearray(3 * self.width)
            rgb[0::3], rgb[1::3], rgb[2::3] = row[2::4], row[1::4], row[0::4]
            rows += b"\0" + rgb  # filter 0: none

        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        return (
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 6)) + chunk(b"IEND", b"")
        )


async def play(program: Path, host: Host, ticks: int, hashes: set[int]) -> None:
    # One guest and nothing else on this loop: polling for it, up to a millisecond at a time, beats sleeping.
    async with vm.Engine(vm.Config(spin=1e-3)) as engine:
        started = time.perf_counter()
        module = await engine.compile(program, vm.ModuleConfig(page_size=0x4000))
        compiled = time.perf_counter()
        async with await host.linker().instantiate(module) as doom:
            await doom.call("ext_initialize")
            ready = time.perf_counter()
            print(f"compile {1e3 * (compiled - started):.1f} ms ({module.native_size} bytes of native code)")
            print(f"initialize {1e3 * (ready - compiled):.1f} ms")
            for tick in range(ticks):
                await doom.call("ext_tick")
                if tick in hashes:
                    print(f"tick {tick} {host.width}x{host.height} {hashlib.sha256(host.frame).hexdigest()}")
            seconds = time.perf_counter() - ready
            print(f"{ticks} ticks in {seconds:.3f} s, {ticks / seconds:.0f} ticks per second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True, help="doom.polkavm")
    parser.add_argument("--wad", type=Path, required=True, help="a WAD, such as Freedoom's freedoom1.wad")
    parser.add_argument("--ticks", type=int, default=350, help="frames to compute")
    parser.add_argument("--hash", type=int, action="append", default=[], metavar="TICK", help="print a frame's SHA-256")
    parser.add_argument("--png", type=Path, metavar="OUT", help="write the last frame there")
    parser.add_argument("--loop", choices=("aioring", "asyncio"), default="aioring", help="which event loop")
    options = parser.parse_args()
    if options.ticks < 1:
        parser.error("--ticks must be at least 1")
    run = aioring.run if options.loop == "aioring" else asyncio.run
    try:
        host = Host(options.wad.read_bytes())
        run(play(options.program, host, options.ticks, set(options.hash)))
        if options.png is not None:
            options.png.write_bytes(host.png())
    except (vm.VMError, aioring.AioringError, OSError) as error:
        sys.exit(f"doom: {error}")


if __name__ == "__main__":
    main()
