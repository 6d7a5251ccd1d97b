# SPDX-License-Identifier: MIT
"""Where in the source a guest trapped or ran out of gas, in both backends."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from guests import build

import vm
from vm._varint import encode_varint
from vm.debug_info import Frame, FrameKind

pytestmark = pytest.mark.asyncio(loop_factories=["aioring"])

PLAIN = build(
    """
    pub @main:
        a0 = 7
        trap
    pub @ask:
        ecalli 5
        ret
    pub @spin:
        jump @spin
    """
)
MAIN, ASK, SPIN = (next(e.pc for e in PLAIN.exports if e.name == name) for name in ("main", "ask", "spin"))
TRAP = PLAIN.code.index(0, MAIN + 2)

# Operations of line programs (specification, section 9).
END, ENTER, CALL, LINE, NEXT_LINE = b"\0", b"\2", b"\3", b"\4", b"\x0b"
DEPTH, NAMESPACE, FUNCTION, PATH, LINE_NUMBER, COLUMN, STACK, MANY = 1, 5, 6, 7, 8, 9, 10, 15


def op(number: int, value: int) -> bytes:
    return bytes([number]) + encode_varint(value)


def with_debug(
    program: bytes, strings: tuple[str, ...] = (), *, begin: int = 0, blob: vm.ProgramBlob = PLAIN
) -> vm.ProgramBlob:
    """The guest with one line program, for all of its code from `begin` on; string n is at `at(strings, n)`."""
    section = b"\0" + b"".join(encode_varint(len(text.encode())) + text.encode() for text in strings)
    return dataclasses.replace(
        blob,
        debug_strings=section,
        debug_line_programs=b"\1" + program,
        debug_line_program_ranges=struct.pack("<III", begin, len(blob.code), 1),
    )


def at(strings: tuple[str, ...], index: int) -> int:
    """Where `with_debug` puts a string."""
    return 1 + sum(len(encode_varint(len(text.encode()))) + len(text.encode()) for text in strings[:index])


STRINGS = ("guest", "main", "/src/guest/main.c", "checked", "/src/guest/check.h")
#: All of it is `checked`, check.h:3, inlined into `guest::main` at main.c:12:5.
INLINED = (
    op(NAMESPACE, at(STRINGS, 0))
    + op(FUNCTION, at(STRINGS, 1))
    + op(PATH, at(STRINGS, 2))
    + op(LINE_NUMBER, 12)
    + op(COLUMN, 5)
    + LINE
    + op(DEPTH, 1)
    + op(FUNCTION, at(STRINGS, 3))
    + op(PATH, at(STRINGS, 4))
    + op(LINE_NUMBER, 3)
    + LINE
    + op(STACK, 2)
    + op(MANY, len(PLAIN.code))
    + END
)
FRAMES = (
    Frame(FrameKind.LINE, None, "checked", "/src/guest/check.h", 3, None),
    Frame(FrameKind.LINE, "guest", "main", "/src/guest/main.c", 12, 5),
)


@pytest.fixture(params=["recompiler", "interpreter"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[vm.Engine]:
    async with vm.Engine(vm.Config(backend=request.param)) as engine:
        yield engine


async def trap_of(engine: vm.Engine, blob: vm.ProgramBlob, export: str = "main") -> vm.TrapError:
    module = await engine.compile(blob)
    async with await module.instantiate() as instance:
        with pytest.raises(vm.TrapError) as caught:
            await instance.call(export)
        with pytest.raises(vm.TrapError) as again:
            await instance.call(export)
        assert (str(again.value), again.value.frames) == (str(caught.value), caught.value.frames)
    return caught.value


async def test_a_trap(engine: vm.Engine) -> None:
    error = await trap_of(engine, with_debug(INLINED, STRINGS))
    assert (error.pc, error.frames) == (TRAP, FRAMES)
    assert str(error) == f"the guest trapped in 'main' at pc {TRAP} (checked, check.h:3)"
    assert error.backtrace.splitlines() == [
        f"guest backtrace at pc {TRAP}, innermost first:",
        "  #0 checked",
        "       at /src/guest/check.h:3",
        "  #1 guest::main",
        "       at /src/guest/main.c:12:5",
    ]


async def test_a_host_call_that_nothing_serves(engine: vm.Engine) -> None:
    error = await trap_of(engine, with_debug(INLINED, STRINGS), "ask")
    assert error.frames == FRAMES
    where = f"the guest trapped in 'ask' at pc {ASK} (checked, check.h:3)"
    assert str(error) == f"{where}: host call 5, which no host function serves"


@pytest.mark.parametrize("metering", ["sync", "async"])
async def test_out_of_gas(engine: vm.Engine, metering: str) -> None:
    config = vm.ModuleConfig(gas_metering=metering)  # type: ignore[arg-type]
    module = await engine.compile(with_debug(INLINED, STRINGS), config)
    async with await module.instantiate() as instance:
        instance.gas = 10
        with pytest.raises(vm.OutOfGasError) as caught:
            await instance.call("spin")
    error = caught.value
    if metering == "async":  # the guest could be anywhere
        assert (error.pc, error.frames, error.backtrace) == (None, (), "")
        assert str(error) == "the guest ran out of gas in 'spin'"
    else:
        assert (error.pc, error.frames) == (SPIN, FRAMES)
        assert str(error) == f"the guest ran out of gas in 'spin' at pc {SPIN} (checked, check.h:3)"
        assert error.backtrace.startswith(f"guest backtrace at pc {SPIN}, innermost first:\n  #0 checked\n")


NOTHING = {
    "no sections": PLAIN,
    "another place": with_debug(op(STACK, 1) + op(MANY, 1) + END, begin=len(PLAIN.code) - 1),
    "no frames": with_debug(op(MANY, 100) + END),
    "no version": dataclasses.replace(with_debug(INLINED, STRINGS), debug_line_programs=b""),
    "unknown operation": with_debug(b"\xff" * 100),
    "cut off": with_debug(INLINED[:-4], STRINGS),
    "string outside": with_debug(op(STACK, 1) + op(FUNCTION, 1 << 31) + op(MANY, 100) + END),
    "string not UTF-8": dataclasses.replace(
        with_debug(op(STACK, 1) + op(PATH, 1) + op(MANY, 100) + END), debug_strings=b"\0\1\xff"
    ),
    "half a range": dataclasses.replace(with_debug(INLINED, STRINGS), debug_line_program_ranges=bytes(13)),
}


@pytest.mark.parametrize("blob", NOTHING.values(), ids=NOTHING)
async def test_where_the_program_does_not_say(engine: vm.Engine, blob: vm.ProgramBlob) -> None:
    error = await trap_of(engine, blob)
    assert (error.frames, error.backtrace) == ((), "")
    assert str(error) == f"the guest trapped in 'main' at pc {TRAP}"


async def test_finding_the_place_takes_no_time_that_others_miss(engine: vm.Engine) -> None:
    """What takes too long to find is found only by those who ask for it."""
    slow = op(STACK, 1) + (NEXT_LINE * 500 + op(MANY, 0)) * 100 + op(MANY, 100) + END
    blob = with_debug(slow)
    assert (await trap_of(engine, blob)).frames == ()
    module = await engine.compile(blob)
    assert [frame.line for frame in module.debug_info.locate(TRAP)] == [50_000]


async def test_nothing_of_the_program_reaches_a_terminal(engine: vm.Engine) -> None:
    strings = ("\x1b[2J\nroot\u202e" + "f" * 9000, "/src/" + "\x07p" * 4000)
    program = op(STACK, 1) + op(FUNCTION, at(strings, 0)) + op(PATH, at(strings, 1)) + op(MANY, 100) + END
    error = await trap_of(engine, with_debug(program, strings))
    assert error.frames[0].function == strings[0]
    assert str(error).isprintable()
    assert len(str(error)) < 250
    assert r" (\x1b[2J\x0aroot\u202efff" in str(error)
    assert all(line.isprintable() and len(line) < 220 for line in error.backtrace.split("\n"))


async def test_errors_survive_copies(engine: vm.Engine) -> None:
    error = await trap_of(engine, with_debug(INLINED, STRINGS))
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is vm.TrapError
        assert (str(twin), twin.frames, twin.backtrace) == (str(error), FRAMES, error.backtrace)


async def test_debug_information_is_made_once(engine: vm.Engine) -> None:
    module = await engine.compile(with_debug(INLINED, STRINGS))
    assert module.debug_info is module.debug_info
    assert module.debug_info.locate(TRAP) == FRAMES


async def test_quake(engine: vm.Engine, shared: Path) -> None:
    """Started as no operating system would: its start-up code reads what a0 points at."""
    program = shared / "programs" / "quake.polkavm"
    if not program.exists():
        pytest.skip("quake.polkavm is not at ../shared/programs")
    module = await engine.compile(program, vm.ModuleConfig(legacy_sbrk=True))
    async with await module.instantiate() as instance:
        with pytest.raises(vm.TrapError) as caught:
            await instance.call("_pvm_start", 0)
    error = caught.value
    assert str(error) == "the guest trapped in '_pvm_start' at pc 0 (_start_c, crt1.c:16:13)"
    assert error.frames[0].function == "_start_c"
    assert error.frames[0].line == 16
    assert "\n  #0 _start_c\n       at /" in error.backtrace
    assert error.backtrace.endswith("/musl/crt/crt1.c:16:13")
