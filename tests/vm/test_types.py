# SPDX-License-Identifier: MIT
"""Integers between Python and guest registers, through real calls on 64- and 32-bit programs."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from guests import LATEST32, LATEST64, build

import vm

#: The import gets what the export got; its result is the export's.
PASS_ON = "pub @main:\necalli 0\nret\npub @identity:\nret"

U32, U64 = 2**32, 2**64


async def pass_on(engine: vm.Engine, isa: vm.InstructionSet, function: Any, *args: int, returns: Any = int) -> int:
    linker = vm.Linker()
    linker.define("pass", function)
    async with await linker.instantiate(await engine.compile(build(PASS_ON, isa, imports=["pass"]))) as instance:
        return await instance.call("main", *args, returns=returns)


def typed(kind: Any) -> tuple[Any, list[int]]:
    seen: list[int] = []

    def function(caller: vm.Caller, value: int) -> int:
        seen.append(value)
        return value

    function.__annotations__.update({"value": kind, "return": kind})
    return function, seen


@pytest.mark.parametrize(
    ("isa", "kind", "argument", "value", "word"),
    [
        (LATEST64, vm.u32, 5, 5, 5),
        (LATEST64, vm.u32, 0xFFFF_FFFF, 0xFFFF_FFFF, U64 - 1),  # sign-extended, as RISC-V has it
        (LATEST64, vm.u32, 0x1_8000_0000, 0x8000_0000, 0xFFFF_FFFF_8000_0000),  # the low half is what counts
        (LATEST64, vm.i32, -1, -1, U64 - 1),
        (LATEST64, vm.i32, 0x7FFF_FFFF, 0x7FFF_FFFF, 0x7FFF_FFFF),
        (LATEST64, vm.i32, 0x8000_0000, -(2**31), 0xFFFF_FFFF_8000_0000),
        (LATEST64, vm.u64, -1, U64 - 1, U64 - 1),
        (LATEST64, vm.i64, -1, -1, U64 - 1),
        (LATEST64, vm.i64, 2**63, -(2**63), 2**63),
        (LATEST64, int, -1, U64 - 1, U64 - 1),
        (LATEST32, vm.u32, 0xFFFF_FFFF, 0xFFFF_FFFF, 0xFFFF_FFFF),
        (LATEST32, vm.i32, -1, -1, 0xFFFF_FFFF),
        (LATEST32, vm.i32, 0x8000_0000, -(2**31), 0x8000_0000),
        (LATEST32, int, -1, U32 - 1, U32 - 1),
    ],
)
async def test_one_register(
    engine: vm.Engine, isa: vm.InstructionSet, kind: Any, argument: int, value: int, word: int
) -> None:
    function, seen = typed(kind)
    assert await pass_on(engine, isa, function, argument) == word
    assert await pass_on(engine, isa, function, argument, returns=kind) == value
    assert seen == [value, value]


@pytest.mark.parametrize(("kind", "value"), [(vm.u64, 0x8765_4321_0000_0002), (vm.i64, -3), (vm.i64, 2**62 + 1)])
async def test_two_registers_of_a_32_bit_program(engine: vm.Engine, kind: Any, value: int) -> None:
    function, seen = typed(kind)
    low, high = value % U32, (value >> 32) % U32
    assert await pass_on(engine, LATEST32, function, low, high, returns=kind) == value
    assert await pass_on(engine, LATEST32, function, low, high, returns=vm.u32) == low
    assert seen == [value, value]


async def test_mixed_widths_take_registers_in_order(engine: vm.Engine) -> None:
    seen: list[tuple[int, ...]] = []

    def function(caller: vm.Caller, a: vm.u32, b: vm.u64, c: vm.i32, d: vm.i64, e: int) -> None:
        seen.append((a, b, c, d, e))

    await pass_on(engine, LATEST32, function, 1, 2, 3, -4, 5, 6, 7)
    await pass_on(engine, LATEST64, function, 1, 2, -4, 5, 7)
    assert seen == [(1, 3 << 32 | 2, -4, 6 << 32 | 5, 7), (1, 2, -4, 5, 7)]


async def test_all_nine_argument_registers(engine: vm.Engine) -> None:
    seen: list[tuple[int, ...]] = []

    def function(caller: vm.Caller, a: int, b: int, c: int, d: int, e: int, f: int, g: int, h: int, i: int) -> None:
        seen.append((a, b, c, d, e, f, g, h, i))

    for isa in (LATEST32, LATEST64):
        await pass_on(engine, isa, function, *range(1, 10))
    assert seen == [tuple(range(1, 10))] * 2


@pytest.mark.parametrize(
    ("isa", "kind", "result"),
    [
        (LATEST64, vm.u32, U32),
        (LATEST64, vm.u32, -(2**31) - 1),
        (LATEST64, vm.i32, 2**31),
        (LATEST64, vm.i32, -(2**31) - 1),
        (LATEST64, vm.u64, U64),
        (LATEST64, vm.i64, 2**63),
        (LATEST64, int, U64),
        (LATEST32, int, U32),
        (LATEST32, vm.u64, U64),
        (LATEST32, vm.i64, -(2**63) - 1),
    ],
)
async def test_results_that_do_not_fit(engine: vm.Engine, isa: vm.InstructionSet, kind: Any, result: int) -> None:
    def function(caller: vm.Caller) -> int:
        return result

    function.__annotations__["return"] = kind
    with pytest.raises(OverflowError, match="result of host function 'pass'"):
        await pass_on(engine, isa, function)


@pytest.mark.parametrize("result", ["1", 1.0, None, b"", [1]], ids=repr)
async def test_results_that_are_no_integers(engine: vm.Engine, result: object) -> None:
    def function(caller: vm.Caller) -> vm.u32:
        return result  # type: ignore[return-value]

    with pytest.raises(TypeError, match="result of host function 'pass'"):
        await pass_on(engine, LATEST64, function)


async def test_a_function_that_should_return_none(engine: vm.Engine) -> None:
    def nothing(caller: vm.Caller, value: int) -> None:
        return None

    def something(caller: vm.Caller, value: int) -> None:
        return 5  # type: ignore[return-value]

    assert await pass_on(engine, LATEST64, nothing, 77) == 77
    with pytest.raises(TypeError, match="annotated to return None"):
        await pass_on(engine, LATEST64, something, 77)


async def test_a_function_without_annotations(engine: vm.Engine) -> None:
    assert await pass_on(engine, LATEST64, lambda caller, value: value + 1, 4) == 5
    assert await pass_on(engine, LATEST64, lambda caller, value: None, 4) == 4
    with pytest.raises(TypeError, match="must be an int, not str"):
        await pass_on(engine, LATEST64, lambda caller, value: "x", 4)


async def test_other_annotated_types_pass_through(engine: vm.Engine) -> None:
    function, seen = typed(Annotated[vm.i32, "a handle"])
    assert await pass_on(engine, LATEST64, function, -2, returns=Annotated[vm.i32, "again"]) == -2
    assert seen == [-2]


@pytest.mark.parametrize("kind", [None, str, float, bool, "u32", 32, list[int]], ids=repr)
async def test_returns_must_be_a_guest_type(engine: vm.Engine, kind: Any) -> None:
    async with await (await engine.compile(build("pub @main:\nret"))).instantiate() as instance:
        with pytest.raises(TypeError):
            await instance.call("main", returns=kind)
        assert await instance.call("main", 3) == 3


@pytest.mark.parametrize(
    ("isa", "argument", "error"),
    [
        (LATEST64, U64, OverflowError),
        (LATEST64, -(2**63) - 1, OverflowError),
        (LATEST32, U32, OverflowError),
        (LATEST32, -(2**31) - 1, OverflowError),
        (LATEST64, 1.0, TypeError),
        (LATEST64, "1", TypeError),
        (LATEST64, None, TypeError),
    ],
)
async def test_arguments_that_do_not_fit(
    engine: vm.Engine, isa: vm.InstructionSet, argument: Any, error: type[Exception]
) -> None:
    async with await (await engine.compile(build("pub @main:\nret", isa))).instantiate() as instance:
        with pytest.raises(error, match="argument 2"):
            await instance.call("main", 1, argument)
        assert await instance.call("main", 3) == 3
