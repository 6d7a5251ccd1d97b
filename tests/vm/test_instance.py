# SPDX-License-Identifier: MIT
"""A running program: calls, the low-level loop, traps, program counters, misuse, cancellation."""

from __future__ import annotations

import asyncio
import re
import signal
from typing import Any

import pytest
from guests import LATEST32, basic, basic_32, build, memory
from processes import wait_for_death, watch

import vm
from vm.isa import ARGUMENT_REGISTERS, REGISTERS, RETURN_TO_HOST


class Gate:
    """The import ``ask`` of the basic program: tells that the guest is there, and waits to be opened."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.opened = asyncio.Event()
        self.cancelled = 0
        self.linker = vm.Linker()
        self.linker.define("ask", self._ask)

    async def _ask(self, caller: vm.Caller, value: int) -> int:
        self.entered.set()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return value


def pass_on() -> vm.Linker:
    linker = vm.Linker()
    linker.define("ask", lambda caller, value: value)
    return linker


async def basic_instance(engine: vm.Engine) -> vm.Instance:
    return await pass_on().instantiate(await engine.compile(basic()))


# --- calls ------------------------------------------------------------------------------------------------------------


async def test_calls(engine: vm.Engine) -> None:
    async with await basic_instance(engine) as instance:
        assert await instance.call("add", 1, 10) == 11
        assert await instance.call("add", 2**64 - 1, 2) == 1
        assert await instance.call("add") == 0  # registers without an argument are zero
        assert await instance.call("add", 5) == 5
        assert await instance.call("negate", 5) == 2**64 - 5
        assert await instance.call("negate", 5, returns=vm.i64) == -5
        assert await instance.call("negate", 5, returns=vm.i32) == -5
        assert await instance.call("negate", 5, returns=vm.u32) == 2**32 - 5
        assert await instance.call("identity", -1) == 2**64 - 1
        assert await instance.call("identity", -(2**63), returns=vm.i64) == -(2**63)
        assert await instance.call("ask", 21) == 42
        assert await instance.call("count_down", 100_000) == 7


async def test_calls_of_a_32_bit_program(engine: vm.Engine) -> None:
    async with await pass_on().instantiate(await engine.compile(basic_32())) as instance:
        assert await instance.call("add", 1, 10) == 11
        assert await instance.call("add", 2**32 - 1, 2) == 1
        assert await instance.call("identity", -1) == 2**32 - 1
        assert await instance.call("identity", -1, returns=vm.i32) == -1
        assert await instance.call("ask", 5) == 5


async def test_nine_arguments(engine: vm.Engine) -> None:
    for blob in (basic(), basic_32()):
        async with await pass_on().instantiate(await engine.compile(blob)) as instance:
            assert await instance.call("sum9", 1, 2, 4, 8, 16, 32, 64, 128, 256) == 511
            with pytest.raises(TypeError, match="10 arguments: there are 9"):
                await instance.call("sum9", *range(10))
            assert await instance.call("sum9", 1) == 1


async def test_exports_by_offset(engine: vm.Engine) -> None:
    async with await basic_instance(engine) as instance:
        assert await instance.call(instance.module.exports["add"], 1, 2) == 3


async def test_unknown_exports(engine: vm.Engine) -> None:
    async with await basic_instance(engine) as instance:
        with pytest.raises(KeyError, match=r"no export 'nope'.*add"):
            await instance.call("nope")
        with pytest.raises(KeyError):
            instance.prepare_call("")
        with pytest.raises(vm.TrapError):  # no instruction starts there
            await instance.call(2**32 - 1)
        for offset in (-1, 2**32):
            with pytest.raises((ValueError, OverflowError)):
                instance.prepare_call(offset)
        assert await instance.call("add", 1, 2) == 3


async def test_a_program_without_exports(engine: vm.Engine) -> None:
    async with await (await engine.compile(build("trap"))).instantiate() as instance:
        with pytest.raises(KeyError, match="none"):
            await instance.call("main")
        with pytest.raises(vm.TrapError, match="'0' at pc 0"):
            await instance.call(0)


async def test_registers_at_the_start_of_a_call(engine: vm.Engine) -> None:
    async with await basic_instance(engine) as instance:
        assert set(instance.registers.values()) == {0}
        for number, name in enumerate(REGISTERS):
            instance.registers[name] = 1000 + number
        instance.prepare_call("add", 7, 8)
        stack_high = instance.module.memory_map.stack_high
        expected = {**dict.fromkeys(REGISTERS, 0), "ra": RETURN_TO_HOST, "sp": stack_high, "a0": 7, "a1": 8}
        assert dict(instance.registers) == expected


async def test_arguments_go_into_the_argument_registers(engine: vm.Engine) -> None:
    async with await basic_instance(engine) as instance:
        instance.prepare_call("add", *range(1, 10))
        assert [instance.registers[name] for name in ARGUMENT_REGISTERS] == list(range(1, 10))


# --- low level --------------------------------------------------------------------------------------------------------


async def test_the_low_level_loop(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    async with await module.instantiate() as instance:
        instance.prepare_call("ask", 5)
        pcs: list[tuple[int | None, int | None]] = []
        while True:
            match await instance.run():
                case vm.HostCall(index):
                    assert index == 0
                    pcs.append((instance.program_counter, instance.next_program_counter))
                    instance.registers["a0"] += 100
                case vm.Finished():
                    break
                case vm.Trap() as trap:
                    raise AssertionError(trap)
        assert instance.registers["a0"] == 110
        ecalli = module.exports["ask"] + 2  # behind a move of two bytes
        assert pcs == [(ecalli, ecalli + 1)]
        assert (instance.program_counter, instance.next_program_counter) == (None, None)


async def test_nothing_to_run(engine: vm.Engine) -> None:
    async with await basic_instance(engine) as instance:
        assert (instance.program_counter, instance.next_program_counter) == (None, None)
        with pytest.raises(vm.InstanceStateError, match="nothing to run"):
            await instance.run()
        assert await instance.call("add", 1, 2) == 3
        with pytest.raises(vm.InstanceStateError, match="nothing to run"):
            await instance.run()


async def test_call_without_a_linker(engine: vm.Engine) -> None:
    async with await (await engine.compile(basic())).instantiate() as instance:
        assert await instance.call("add", 1, 2) == 3
        with pytest.raises(vm.TrapError, match="host call 0, which no host function serves"):
            await instance.call("ask", 1)


async def test_a_host_call_at_the_end_of_the_code(engine: vm.Engine) -> None:
    """Behind it stands an invalid instruction that is not in the code (specification, section 4)."""
    blob = build("pub @main:\necalli 4294967295")
    async with await (await engine.compile(blob)).instantiate() as instance:
        instance.prepare_call("main")
        assert await instance.run() == vm.HostCall(0xFFFF_FFFF)
        assert instance.next_program_counter == len(blob.code)
        assert await instance.run() == vm.Trap(len(blob.code), signal.SIGILL)
        assert instance.program_counter == len(blob.code)


async def test_entering_anywhere(engine: vm.Engine) -> None:
    blob = build("pub @main:\na0 = a0 + 1\na0 = a0 + 2\npub @middle: %no_fallthrough\na0 = a0 + 4\nret")
    async with await (await engine.compile(blob)).instantiate() as instance:
        starts = [pc for pc in range(len(blob.code)) if blob.is_instruction_start(pc)]
        for pc, total in zip(starts, (7, 6, 4, 0), strict=True):
            instance.registers["a0"] = 0
            instance.registers["ra"] = RETURN_TO_HOST
            instance.next_program_counter = pc
            assert instance.next_program_counter == pc
            assert await instance.run() == vm.Finished()
            assert instance.registers["a0"] == total
        assert await instance.call("middle", 1) == 5


async def test_entering_where_no_instruction_starts(engine: vm.Engine) -> None:
    blob = build("pub @main:\na0 = a0 + 1\nret")
    async with await (await engine.compile(blob)).instantiate() as instance:
        for pc in (1, 2, 1000, 2**32 - 1):
            instance.registers["a0"] = 77
            instance.next_program_counter = pc
            assert await instance.run() == vm.Trap(pc, 0)
            assert instance.program_counter == pc
            assert instance.next_program_counter is None
            assert instance.registers["a0"] == 77
        for bad in (-1, 2**32):
            with pytest.raises(ValueError, match="program counter"):
                instance.next_program_counter = bad
        assert await instance.call("main", 1) == 2


async def test_resuming_elsewhere_after_a_host_call(engine: vm.Engine) -> None:
    async with await (await engine.compile(basic())).instantiate() as instance:
        instance.prepare_call("ask_and_spin", 5)
        assert await instance.run() == vm.HostCall(0)
        instance.next_program_counter = instance.module.exports["add"]
        instance.registers["a1"] = 6
        assert await instance.run() == vm.Finished()
        assert instance.registers["a0"] == 11


# --- traps ------------------------------------------------------------------------------------------------------------


async def test_a_trap_leaves_registers_and_pc(engine: vm.Engine) -> None:
    async with await basic_instance(engine) as instance:
        pc = instance.module.exports["trap"] + 3  # behind a load of three bytes
        for _ in range(3):
            with pytest.raises(vm.TrapError) as caught:
                await instance.call("trap", 5)
            assert (caught.value.pc, caught.value.export) == (pc, "trap")
            assert (instance.program_counter, instance.next_program_counter) == (pc, None)
            assert (instance.registers["a0"], instance.registers["a5"]) == (5, 0x77)
            assert await instance.call("add", 1, 2) == 3
        instance.prepare_call("trap")
        assert await instance.run() == vm.Trap(pc, signal.SIGILL)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("jump [a0]", 0),  # a0 = 0: no code address
        ("a0 = 1\njump [a0]", 1),  # odd
        ("a0 = 4\njump [a0]", 1),  # behind the jump table
        ("a0 = 0x7fffffff\njump [a0]", 1),
        ("a0 = 0xffffffffffff0002\njump [a0]", 1),  # next to the address of the host
        ("a0 = 0xffffffff\njump [a0 + 3]", 1),  # 2^32 + 2 is 2, which is not in an empty table either
        ("a1 = 9, jump [a0 + 8]", 0),
        ("a0 = u64 [a0]", 0),
        ("a0 = 0xffffffffffffffff\na0 = u64 [a0]", 1),  # over the end of the address space
        ("u8 [0x10000] = 1", 0),
        ("u64 [a0 + 0xffffffff] = a1", 0),
        ("trap", 0),
    ],
)
async def test_where_it_traps(engine: vm.Engine, text: str, line: int) -> None:
    blob = build(f"pub @main:\n{text}\nret")
    starts = [pc for pc in range(len(blob.code)) if blob.is_instruction_start(pc)]
    async with await (await engine.compile(blob)).instantiate() as instance:
        for _ in range(2):
            instance.prepare_call("main")
            trap = await instance.run()
            assert isinstance(trap, vm.Trap)
            assert trap.pc == starts[line] == instance.program_counter
            assert trap.signal in (signal.SIGILL, signal.SIGBUS, signal.SIGSEGV)


async def test_load_imm_and_jump_writes_its_register_before_it_traps(engine: vm.Engine) -> None:
    blob = build("pub @main:\na1 = 9, jump [a0 + 8]")
    async with await (await engine.compile(blob)).instantiate() as instance:
        with pytest.raises(vm.TrapError):
            await instance.call("main")
        assert instance.registers["a1"] == 9


async def test_an_export_into_the_middle_of_an_instruction(engine: vm.Engine) -> None:
    plain = build("pub @main:\na0 = a0 + 1\nret")
    blob = vm.ProgramBlob.build(isa=plain.isa, code=plain.code, bitmask=plain.bitmask, exports=[(1, b"main")])
    async with await (await engine.compile(blob)).instantiate() as instance:
        with pytest.raises(vm.TrapError, match="'main' at pc 1"):
            await instance.call("main")


async def test_stack_overflow(engine: vm.Engine) -> None:
    async with await (await engine.compile(memory())).instantiate() as instance:
        for _ in range(2):
            with pytest.raises(vm.TrapError):
                await instance.call("recurse")
            assert instance.registers["a0"] == 4096 // 16
            assert instance.registers["sp"] == instance.memory.map.stack_low - 16


# --- misuse -----------------------------------------------------------------------------------------------------------


async def test_while_it_runs(engine: vm.Engine) -> None:
    gate = Gate()
    instance = await gate.linker.instantiate(await engine.compile(basic()))
    gate.opened.set()
    running = asyncio.create_task(instance.call("ask_and_spin"))
    await gate.entered.wait()
    while "running" not in repr(instance):
        assert not running.done()
        await asyncio.sleep(0)
    misuses: list[Any] = [
        lambda: instance.registers["a0"],
        lambda: instance.registers.update(a0=1),
        lambda: instance.memory.read(0x20000, 1),
        lambda: instance.memory.write(0x20000, b"x"),
        lambda: instance.memory.heap_size,
        lambda: instance.program_counter,
        lambda: instance.next_program_counter,
        lambda: setattr(instance, "next_program_counter", 0),
        lambda: instance.prepare_call("add"),
    ]
    for misuse in misuses:
        with pytest.raises(vm.InstanceStateError, match="running"):
            misuse()
    with pytest.raises(vm.InstanceStateError, match="running"):
        await instance.run()
    with pytest.raises(vm.InstanceStateError, match="called already"):
        await instance.call("add", 1, 2)
    assert not running.done()
    assert re.fullmatch(rf"<Instance in process {instance.pid}, running>", repr(instance))
    await instance.aclose()
    with pytest.raises(vm.InstanceStateError, match="closed while it ran"):
        await running


async def test_two_tasks_call_at_once(engine: vm.Engine) -> None:
    gate = Gate()
    async with await gate.linker.instantiate(await engine.compile(basic())) as instance:
        first = asyncio.create_task(instance.call("ask", 5))
        await gate.entered.wait()
        with pytest.raises(vm.InstanceStateError, match="called already"):
            await instance.call("add", 1, 2)
        gate.opened.set()
        assert await first == 10


async def test_two_tasks_run_at_once(engine: vm.Engine) -> None:
    async with await basic_instance(engine) as instance:
        instance.prepare_call("count_down", 50_000_000)
        first = asyncio.create_task(instance.run())
        second = asyncio.create_task(instance.run())
        done = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(result) for result in done] == [vm.Finished, vm.InstanceStateError]
        assert await instance.call("add", 1, 2) == 3


async def test_after_it_was_closed(engine: vm.Engine) -> None:
    instance = await basic_instance(engine)
    await instance.aclose()
    await instance.aclose()
    misuses: list[Any] = [
        lambda: instance.registers["a0"],
        lambda: instance.memory.read(0x20000, 0),
        lambda: instance.memory.write(0x20000, b""),
        lambda: instance.program_counter,
        lambda: instance.prepare_call("add"),
        lambda: instance.pid,
    ]
    for misuse in misuses:
        with pytest.raises(vm.InstanceStateError, match="closed"):
            misuse()
    for coroutine in (instance.run(), instance.call("add", 1, 2)):
        with pytest.raises(vm.InstanceStateError, match="closed"):
            await coroutine
    assert repr(instance) == "<Instance closed>"
    async with instance:  # entering and leaving change nothing
        pass


async def test_closed_while_a_host_function_is_awaited(engine: vm.Engine) -> None:
    gate = Gate()
    instance = await gate.linker.instantiate(await engine.compile(basic()))
    call = asyncio.create_task(instance.call("ask", 5))
    await gate.entered.wait()
    await instance.aclose()
    async with await basic_instance(engine) as other:  # may well get the same process
        gate.opened.set()
        with pytest.raises(vm.InstanceStateError, match="closed"):
            await call
        assert set(other.registers.values()) == {0}
        assert await other.call("add", 1, 2) == 3


async def test_repr_and_pid(engine: vm.Engine) -> None:
    async with await basic_instance(engine) as instance, await basic_instance(engine) as other:
        assert repr(instance) == f"<Instance in process {instance.pid}, stopped>"
        assert instance.pid != other.pid
        pid = instance.pid
        assert await instance.call("add", 1, 2) == 3
        assert instance.pid == pid


async def test_forgotten_instances_are_reported_and_ended(engine: vm.Engine) -> None:
    instance: vm.Instance | None = await basic_instance(engine)
    assert instance is not None
    with watch(instance.pid) as pidfds:
        with pytest.warns(ResourceWarning, match="unclosed <Instance"):
            instance.__del__()
        wait_for_death(*pidfds.values())
    instance = None


# --- cancellation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa32", [False, True])
async def test_cancelling_an_endless_loop(engine: vm.Engine, isa32: bool) -> None:
    blob = build("pub @spin:\njump @spin\npub @add:\na0 = 3\nret", *([LATEST32] if isa32 else []))
    module = await engine.compile(blob)
    async with await module.instantiate() as instance:
        pid = instance.pid
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await instance.call("spin")
        assert repr(instance) == f"<Instance in process {pid}, stopped>"
        assert instance.program_counter == module.exports["spin"]
        assert await instance.call("add", 1, 2) == 3  # the guest is as good as before
    async with await module.instantiate() as another:  # and its process
        assert another.pid == pid
        assert await another.call("add", 1, 2) == 3


async def test_cancelling_a_host_function(engine: vm.Engine) -> None:
    gate = Gate()
    async with await gate.linker.instantiate(await engine.compile(basic())) as instance:
        pid = instance.pid
        for count in (1, 2, 3):
            gate.entered.clear()
            call = asyncio.create_task(instance.call("ask", 5))
            await gate.entered.wait()
            call.cancel("enough")
            with pytest.raises(asyncio.CancelledError):
                await call
            assert gate.cancelled == count
            assert await instance.call("add", 1, 2) == 3  # usable again
        gate.opened.set()
        assert await instance.call("ask", 5) == 10
        assert instance.pid == pid


async def test_a_host_function_that_times_out_by_itself(engine: vm.Engine) -> None:
    linker = vm.Linker()

    @linker.function("ask")
    async def ask(caller: vm.Caller) -> int:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return 1
        raise AssertionError

    async with await linker.instantiate(await engine.compile(basic())) as instance:
        assert await instance.call("ask", 5) == 6


async def test_a_cancelled_task_that_never_had_to_wait(engine: vm.Engine) -> None:
    """Short calls do not suspend; the loop gets its turn, and the cancellation through, all the same."""
    async with await basic_instance(engine) as instance:
        calls = 0

        async def call_on_and_on() -> None:
            nonlocal calls
            while True:
                assert await instance.call("add", calls, 1) == calls + 1
                calls += 1

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await call_on_and_on()
        assert calls > 10


async def test_two_guests_share_the_loop(engine: vm.Engine) -> None:
    """One that is called without a pause does not starve another task."""
    turns = 0

    async def ticker() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with await basic_instance(engine) as instance:
        ticking = asyncio.create_task(ticker())
        for n in range(5000):
            assert await instance.call("add", n, 1) == n + 1
        ticking.cancel()
        assert turns > 5


async def test_a_taskgroup_ends_its_guests(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    instances = [await pass_on().instantiate(module) for _ in range(4)]

    async def fail() -> None:
        raise RuntimeError("one of many")

    with watch(*(instance.pid for instance in instances)) as pidfds:
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                for instance in instances:
                    group.create_task(instance.call("spin"))
                group.create_task(fail())
        assert await asyncio.gather(*(instance.call("add", 1, 2) for instance in instances), return_exceptions=True)
        for instance in instances:
            await instance.aclose()
        del pidfds
