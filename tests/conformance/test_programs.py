# SPDX-License-Identifier: MIT
"""Real programs: hello-world whole and damaged, and DOOM frame by frame."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from doom_host import FRAMES, play
from guests import basic_32

import vm

pytestmark = pytest.mark.asyncio(loop_factories=["aioring"])

HOMES = (vm.Config(), vm.Config(sandbox="generic"), vm.Config(backend="interpreter"))
CROSSCHECK = vm.Config(crosscheck=True)

#: A damaged program may loop for ever; nothing undamaged here takes longer.
PATIENCE = 0.02


@pytest.fixture(scope="session")
def hello_world(shared: Path) -> Path:
    return shared / "programs/hello-world.polkavm"


# --- hello-world ------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio(loop_factories=["asyncio", "aioring"])
async def test_hello_world(engine: vm.Engine, hello_world: Path) -> None:
    linker = vm.Linker()

    @linker.function("get_third_number")
    async def get_third_number(caller: vm.Caller) -> vm.u32:
        return 100

    module = await engine.compile(hello_world, vm.ModuleConfig(page_size=0x4000))
    async with await linker.instantiate(module) as instance:
        assert await instance.call("add_numbers", 1, 10) == 111
        assert await instance.call("add_numbers", 2**32 - 1, 1) == 100


@pytest.fixture(params=["assembled", "hello-world"])
def program(request: pytest.FixtureRequest) -> bytes:
    if request.param == "assembled":
        return basic_32().to_bytes()
    path: Path = request.getfixturevalue("hello_world")
    return path.read_bytes()


def anything() -> vm.Linker:
    linker = vm.Linker()
    for name in ("get_third_number", "ask"):
        linker.define(name, lambda caller: 100)
    return linker


async def outcome(engine: vm.Engine, linker: vm.Linker, blob: bytes) -> str:
    """What becomes of a blob that may be damaged; anything but one of these ends is an error of the test."""
    try:
        module = await engine.compile(blob)
    except vm.ProgramParseError:
        return "no program"
    except vm.MemoryMapError:
        return "no memory map"
    if not module.exports:
        return "no export"
    try:
        instance = await linker.instantiate(module)
    except vm.LinkError:
        return "unresolved import"
    async with instance:
        try:
            async with asyncio.timeout(PATIENCE):
                await instance.call(next(iter(module.exports)), 1, 10)
        except vm.TrapError as error:
            return "trap" if error.pc is not None else "trap nowhere"
        except TimeoutError:
            return "endless"
    return "result"


async def test_truncated_programs(engine: vm.Engine, program: bytes) -> None:
    linker = anything()
    for length in range(len(program)):
        assert await outcome(engine, linker, program[:length]) == "no program"
        # with the length that the header then should have, more of it is looked at
        patched = program[:5] + length.to_bytes(8, "little") + program[13:length]
        assert await outcome(engine, linker, patched[:length])
    assert await outcome(engine, linker, program) == "result"


async def test_damaged_programs(engine: vm.Engine, program: bytes) -> None:
    linker = anything()
    ends: dict[str, int] = {}
    for bit in range(8 * len(program)):
        damaged = bytearray(program)
        damaged[bit >> 3] ^= 1 << (bit & 7)
        end = await outcome(engine, linker, bytes(damaged))
        ends[end] = ends.get(end, 0) + 1
    assert ends["no program"] > 100
    assert ends["result"] > 10
    assert ends["trap"] > 10
    assert await outcome(engine, linker, program) == "result"  # and the engine is fine


# --- DOOM -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("config", "ticks"), [*((config, max(FRAMES)) for config in HOMES), (CROSSCHECK, 10)])
async def test_doom(config: vm.Config, ticks: int, shared: Path) -> None:
    """Frames are those of the reference implementation (../shared/programs/README.md)."""
    async with vm.Engine(config) as engine:
        found = await play(engine, shared / "programs/doom.polkavm", ticks)
    assert found == {tick: digest for tick, digest in FRAMES.items() if tick <= ticks}


# --- Quake ------------------------------------------------------------------------------------------------------------

#: Linux system calls that it makes (the riscv64 table), through its import pvm_syscall(number, arguments...).
WRITEV = 66
ENOSYS = 2**64 - 38


async def quake(config: vm.Config, program: Path) -> tuple[list[tuple[int, ...]], bytes]:
    """Its host calls, with the gas left at each, and what it wrote, until it gives up for want of its data."""
    settings = vm.ModuleConfig(gas_metering="sync", legacy_sbrk=True)
    calls: list[tuple[int, ...]] = []
    written = b""
    async with vm.Engine(config) as engine:
        module = await engine.compile(program, settings)
        async with await module.instantiate() as instance:
            # what Linux puts on the stack of a new process: argc, argv, envp, auxiliary vector
            stack = module.memory_map.stack_high - 4096
            words = (1, stack + 2048, 0, 0, 6, 4096, 0, 0)
            instance.memory.write(stack, b"".join(word.to_bytes(8, "little") for word in words))
            instance.memory.write(stack + 2048, b"quake\0")
            instance.gas = 10**9
            instance.prepare_call("_pvm_start", stack)
            while b"couldn't load gfx.wad" not in written:
                end = await instance.run()
                assert isinstance(end, vm.HostCall)
                assert module.imports[end.index] == b"pvm_syscall"
                number, _, vector, count = (instance.registers[name] for name in ("a0", "a1", "a2", "a3"))
                calls.append((number, instance.gas, *instance.registers.values()))
                result = ENOSYS
                if number == WRITEV:
                    data = b""
                    for at in range(vector, vector + 16 * count, 16):
                        pair = instance.memory.read(at, 16)
                        data += instance.memory.read(*(int.from_bytes(pair[n : n + 8], "little") for n in (0, 8)))
                    written += data
                    result = len(data)
                instance.registers["a0"] = result
    return calls, written


async def test_quake(shared: Path) -> None:
    """All homes go the same way, to the point where the engine asks for data that is not free."""
    configs = (*HOMES, CROSSCHECK)
    first, *others = [await quake(config, shared / "programs/quake.polkavm") for config in configs]
    assert all(other == first for other in others)
    assert len(first[0]) > 5
    assert b"Host_Init" in first[1]
