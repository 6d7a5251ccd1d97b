# SPDX-License-Identifier: MIT
"""DOOM's host, for the tests: a WAD in, frames out (../shared/programs/README.md)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import vm

WAD = Path("/usr/share/games/doom/freedoom1.wad")
WAD_SHA256 = "84c3a912f2973892a8025d09d65f5053b1ee2304968a5a172526d683a185b885"
#: SHA-256 of the frames of the reference implementation, by tick.
FRAMES = {
    0: "faf6aab69b8b20afb19eef9d4ceaf4030c8b43c10bfa24045440f6b4d0fe721f",
    120: "faf6aab69b8b20afb19eef9d4ceaf4030c8b43c10bfa24045440f6b4d0fe721f",
    350: "462c2021db56b5091fc824c6ad703dd59a3e94881f9c66cba091309595bdd63b",
}


def read_wad() -> bytes:
    """The WAD that the frames were made with; skips where it is not installed."""
    if not WAD.exists():
        pytest.skip(f"no {WAD}: apt install freedoom")
    wad = WAD.read_bytes()
    if hashlib.sha256(wad).hexdigest() != WAD_SHA256:
        pytest.skip(f"{WAD} is another version than the frames were made with")
    return wad


async def play(engine: vm.Engine, program: Path | vm.ProgramBlob, last_tick: int) -> dict[int, str]:
    """Runs DOOM; gives the SHA-256 of the frames of those ticks that are in `FRAMES`."""
    wad = read_wad()
    frame = b""
    linker = vm.Linker()

    @linker.function("ext_output_video")
    def output_video(caller: vm.Caller, address: vm.u32, width: vm.u32, height: vm.u32) -> None:
        nonlocal frame
        assert (width, height) == (640, 400)
        frame = caller.memory.read(address, 4 * width * height)

    @linker.function("ext_rom_read")
    def rom_read(caller: vm.Caller, pointer: vm.u32, offset: vm.u32, length: vm.u32) -> None:
        caller.memory.write(pointer, wad[offset : offset + length])

    linker.define("ext_output_audio", lambda caller, address, samples: None)
    linker.define("ext_rom_size", lambda caller: len(wad))
    linker.define("ext_stdout", lambda caller, buffer, length: length)

    module = await engine.compile(program, vm.ModuleConfig(page_size=0x4000))
    found = {}
    async with await linker.instantiate(module) as doom:
        await doom.call("ext_initialize")
        for tick in range(last_tick + 1):
            await doom.call("ext_tick")
            if tick in FRAMES:
                found[tick] = hashlib.sha256(frame).hexdigest()
    return found
