# SPDX-License-Identifier: MIT
"""Host functions: how they are defined, resolved and called, and how they fail."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from guests import basic, build

import vm


class Answer:
    """Host functions as methods."""

    def __init__(self, value: int) -> None:
        self.value = value

    def get(self, caller: vm.Caller) -> vm.u32:
        return self.value

    async def get_later(self, caller: vm.Caller) -> vm.u32:
        await asyncio.sleep(0)
        return self.value


def plain(caller: vm.Caller) -> vm.u32:
    return 100


async def asynchronous(caller: vm.Caller) -> vm.u32:
    await asyncio.sleep(0)
    return 100


async def asynchronous_at_once(caller: vm.Caller) -> vm.u32:
    return 100


def returning_a_future(caller: vm.Caller) -> vm.u32:
    future = asyncio.get_running_loop().create_future()
    future.get_loop().call_soon(future.set_result, 100)
    return future  # type: ignore[return-value]


@pytest.mark.parametrize(
    "function",
    [plain, asynchronous, asynchronous_at_once, returning_a_future, Answer(100).get, Answer(100).get_later],
    ids=lambda function: function.__qualname__,
)
async def test_kinds_of_functions(engine: vm.Engine, function: Callable[..., Any]) -> None:
    linker = vm.Linker()
    assert linker.function("ask")(function) is function
    async with await linker.instantiate(await engine.compile(basic())) as instance:
        assert [await instance.call("ask", n) for n in range(5)] == [100, 101, 102, 103, 104]


async def test_the_caller(engine: vm.Engine) -> None:
    linker = vm.Linker()
    seen: list[vm.Instance] = []

    @linker.function("ask")
    def ask(caller: vm.Caller, address: vm.u32) -> vm.u32:
        seen.append(caller.instance)
        assert caller.memory is caller.instance.memory
        caller.memory.write(address, b"\x2a\x00")
        caller.instance.registers["s0"] = 1
        return caller.memory.read(address, 1)[0]

    async with await linker.instantiate(await engine.compile(basic())) as instance:
        address = instance.memory.map.rw_address
        assert await instance.call("ask", address) == 43
        assert seen == [instance]
        assert instance.memory.read(address, 3) == b"\x2a\0\0"


async def test_every_missing_import_is_named(engine: vm.Engine) -> None:
    module = await engine.compile(build("pub @main:\nret", imports=["one", "two", "three", "vier-\u00e4"]))
    linker = vm.Linker()
    linker.define("two", plain)
    with pytest.raises(vm.LinkError) as caught:
        await linker.instantiate(module)
    assert caught.value.missing == ("one", "three", "vier-\u00e4")
    assert "one, three, vier-\u00e4" in str(caught.value)
    for name in ("one", "three", "vier-\u00e4"):
        linker.define(name, plain)
    async with await linker.instantiate(module) as instance:
        assert await instance.call("main") == 0


async def test_an_import_without_a_symbol_is_missing(engine: vm.Engine) -> None:
    blob = dataclasses.replace(build("pub @main:\nret", imports=["one", "two"]), import_offsets=(0, 100))
    linker = vm.Linker()
    linker.define("one", plain)
    with pytest.raises(vm.LinkError) as caught:
        await linker.instantiate(await engine.compile(blob))
    assert len(caught.value.missing) == 2
    assert all("invalid" in name for name in caught.value.missing)


async def test_one_linker_serves_many_modules(engine: vm.Engine) -> None:
    linker = vm.Linker()
    linker.define("ask", plain)
    linker.define("never asked for", plain)
    for blob in (basic(), build("pub @ask:\nret"), build("pub @ask:\necalli 1\nret", imports=["ask", "ask"])):
        async with await linker.instantiate(await engine.compile(blob)) as instance:
            await instance.call("ask")


def test_a_name_is_defined_once() -> None:
    linker = vm.Linker()
    linker.define("ask", plain)
    with pytest.raises(ValueError, match="'ask' is defined already"):
        linker.define("ask", plain)


def no_caller() -> None: ...
def keyword_only(caller: vm.Caller, *, value: int) -> None: ...
def variadic(caller: vm.Caller, *values: int) -> None: ...
def variadic_keywords(caller: vm.Caller, **values: int) -> None: ...
def only_variadic(*callers: vm.Caller) -> None: ...
def takes_text(caller: vm.Caller, value: str) -> None: ...
def takes_none(caller: vm.Caller, value: None) -> None: ...
def returns_text(caller: vm.Caller) -> str: ...  # type: ignore[empty-body]
def unknown_name(caller: vm.Caller, value: NoSuchName) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def unknown_attribute(caller: vm.Caller, value: vm.u33) -> None: ...  # type: ignore[name-defined]
def not_an_expression(caller: vm.Caller, value: "1 +") -> None: ...  # type: ignore[valid-type]  # noqa: F722


@pytest.mark.parametrize(
    "function",
    [
        no_caller,
        keyword_only,
        variadic,
        variadic_keywords,
        only_variadic,
        takes_text,
        takes_none,
        returns_text,
        unknown_name,
        unknown_attribute,
        not_an_expression,
        5,
    ],
    ids=lambda function: getattr(function, "__name__", repr(function)),
)
def test_signatures_that_no_guest_can_call(function: Any) -> None:
    linker = vm.Linker()
    with pytest.raises(TypeError):
        linker.define("ask", function)
    linker.define("ask", plain)  # the name is still free


async def test_too_many_parameters(engine: vm.Engine) -> None:
    def ten(caller: vm.Caller, a: int, b: int, c: int, d: int, e: int, f: int, g: int, h: int, i: int, j: int) -> None:
        raise AssertionError

    linker = vm.Linker()
    module = await engine.compile(basic())
    with pytest.raises(TypeError, match="'ask' takes 10 argument registers, and there are 9"):
        linker.define("ask", ten)
        await linker.instantiate(module)


class Refusal(Exception):
    pass


async def test_a_function_that_raises(engine: vm.Engine) -> None:
    linker = vm.Linker()
    refusal = Refusal("no")

    @linker.function("ask")
    def ask(caller: vm.Caller, value: int) -> int:
        if value == 13:
            raise refusal
        return value

    async with await linker.instantiate(await engine.compile(basic())) as instance:
        pid = instance.pid
        for _ in range(3):
            with pytest.raises(Refusal) as caught:
                await instance.call("ask", 13)
            assert caught.value is refusal  # unchanged
            assert await instance.call("ask", 4) == 8
        assert instance.pid == pid


async def test_an_async_function_that_raises(engine: vm.Engine) -> None:
    linker = vm.Linker()

    @linker.function("ask")
    async def ask(caller: vm.Caller, value: int) -> int:
        await asyncio.sleep(0)
        if value == 13:
            raise Refusal
        return value

    async with await linker.instantiate(await engine.compile(basic())) as instance:
        with pytest.raises(Refusal):
            await instance.call("ask", 13)
        assert await instance.call("ask", 4) == 8


async def test_an_exception_leaves_the_guest_in_its_host_call(engine: vm.Engine) -> None:
    """Low level, the same guest can be answered after all."""
    linker = vm.Linker()

    @linker.function("ask")
    def ask(caller: vm.Caller) -> int:
        raise Refusal

    async with await linker.instantiate(await engine.compile(basic())) as instance:
        with pytest.raises(Refusal):
            await instance.call("ask", 5)
        assert instance.next_program_counter is not None
        instance.registers["a0"] = 10
        assert await instance.run() == vm.Finished()
        assert instance.registers["a0"] == 15


async def test_the_wrong_type_leaves_the_guest_usable(engine: vm.Engine) -> None:
    linker = vm.Linker()
    results: list[Any] = ["text", 2**64, 1]
    linker.define("ask", lambda caller: results.pop(0))
    async with await linker.instantiate(await engine.compile(basic())) as instance:
        with pytest.raises(TypeError):
            await instance.call("ask")
        with pytest.raises(OverflowError):
            await instance.call("ask")
        assert await instance.call("ask") == 1


async def test_a_host_call_that_is_no_import(engine: vm.Engine) -> None:
    linker = vm.Linker()
    linker.define("ask", plain)
    async with await linker.instantiate(await engine.compile(basic())) as instance:
        with pytest.raises(vm.TrapError, match="host call 1234567") as caught:
            await instance.call("unknown_host_call")
        assert caught.value.export == "unknown_host_call"
        assert caught.value.pc == instance.module.exports["unknown_host_call"]
        assert await instance.call("add", 1, 2) == 3


async def test_calling_back_into_the_guest_is_refused(engine: vm.Engine) -> None:
    linker = vm.Linker()

    @linker.function("ask")
    async def ask(caller: vm.Caller, value: int) -> int:
        with pytest.raises(vm.InstanceStateError, match="called already"):
            await caller.instance.call("add", 1, 2)
        return value

    async with await linker.instantiate(await engine.compile(basic())) as instance:
        assert await instance.call("ask", 21) == 42  # the refused call has not touched the registers


async def test_a_function_may_call_other_instances(engine: vm.Engine) -> None:
    linker = vm.Linker()
    module = await engine.compile(basic())
    async with await module.instantiate() as helper:

        @linker.function("ask")
        async def ask(caller: vm.Caller, value: int) -> int:
            return await helper.call("add", value, 1000)

        async with await linker.instantiate(module) as instance:
            assert await instance.call("ask", 1) == 1002


async def test_a_function_may_close_its_caller(engine: vm.Engine) -> None:
    linker = vm.Linker()

    @linker.function("ask")
    async def ask(caller: vm.Caller) -> int:
        await caller.instance.aclose()
        return 1

    instance = await linker.instantiate(await engine.compile(basic()))
    with pytest.raises(vm.InstanceStateError, match="closed"):
        await instance.call("ask")


async def test_a_hundred_guests_await_at_once(engine: vm.Engine) -> None:
    linker = vm.Linker()
    everyone = asyncio.Event()
    waiting = 0

    @linker.function("ask")
    async def ask(caller: vm.Caller, value: int) -> int:
        nonlocal waiting
        waiting += 1
        if waiting == 100:
            everyone.set()
        await everyone.wait()
        return 1000 * value

    module = await engine.compile(basic())

    async def one(n: int) -> tuple[int, int]:
        async with await linker.instantiate(module) as instance:
            return await instance.call("ask", n), instance.pid

    results = await asyncio.gather(*(one(n) for n in range(100)))
    assert [value for value, _ in results] == [1001 * n for n in range(100)]
    assert len({pid for _, pid in results}) == 100
