# SPDX-License-Identifier: MIT
"""`vm.Limits`: memory, gas, wall-clock and processor time, and where the guest is afterwards."""

from __future__ import annotations

import asyncio
import resource
import time

import pytest
from guests import basic, build, config_of, memory
from processes import Census

import vm

PAGE = 4096
#: Seconds after which a limit of milliseconds has certainly been missed, on a machine that does other things too.
LATE = 5.0


@pytest.fixture(params=["recompiler", "generic", "interpreter"])
async def either(request: pytest.FixtureRequest, nothing_left: Census) -> vm.Engine:  # type: ignore[misc]
    async with vm.Engine(config_of(request.param)) as engine:
        yield engine


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["memory", "gas", "wall", "cpu"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), 1 << 63])
def test_values_that_are_no_limits(name: str, value: float) -> None:
    if value == 1 << 63 and name != "gas":
        assert getattr(vm.Limits(**{name: int(value)}), name) == value  # type: ignore[arg-type]
        return
    with pytest.raises(ValueError, match=f"limit {name} is"):
        vm.Limits(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["memory", "gas"])
def test_bytes_and_gas_are_whole(name: str) -> None:
    with pytest.raises(ValueError, match=f"limit {name} is 1.5"):
        vm.Limits(**{name: 1.5})  # type: ignore[arg-type]


def test_the_stricter_of_two() -> None:
    first = vm.Limits(memory=10, wall=2.0)
    second = vm.Limits(memory=20, gas=5, wall=1.0)
    assert first & second == second & first == vm.Limits(memory=10, gas=5, wall=1.0)
    assert vm.Limits() & first == first


async def test_the_engine_and_the_instance_both_count(nothing_left: Census) -> None:
    config = vm.Config(limits=vm.Limits(gas=100))
    async with vm.Engine(config) as engine:
        module = await engine.compile(basic(), vm.ModuleConfig(gas_metering="sync"))
        for limits, gas in ((None, 100), (vm.Limits(gas=7), 7), (vm.Limits(gas=1000), 100), (vm.Limits(wall=9), 100)):
            async with await vm.Module.instantiate(module, limits=limits) as instance:
                assert instance.gas == gas


# --- gas --------------------------------------------------------------------------------------------------------------


async def test_gas_at_the_start(either: vm.Engine) -> None:
    module = await either.compile(basic(), vm.ModuleConfig(gas_metering="sync"))
    linker = vm.Linker()
    linker.define("ask", lambda caller: 0)
    for _ in range(2):  # the second time in the same process
        async with await linker.instantiate(module, limits=vm.Limits(gas=50)) as instance:
            assert instance.gas == 50
            with pytest.raises(vm.OutOfGasError):
                await instance.call("spin")
            instance.gas = 10  # it is the host's to give more
            assert await instance.call("add", 1, 2) == 3
    async with await module.instantiate() as instance:
        assert instance.gas == 0


async def test_gas_without_metering(either: vm.Engine) -> None:
    with pytest.raises(ValueError, match="not metered"):
        await (await either.compile(basic())).instantiate(limits=vm.Limits(gas=50))


# --- memory -----------------------------------------------------------------------------------------------------------


async def test_the_heap_ends_at_the_limit(either: vm.Engine) -> None:
    module = await either.compile(memory())
    layout = module.memory_map
    fixed = layout.stack_accessible + layout.rw_accessible
    for pages in (0, 1, 5):
        async with await module.instantiate(limits=vm.Limits(memory=fixed + pages * PAGE + PAGE - 1)) as instance:
            start = await instance.call("grow", 0)
            assert start == layout.heap_base
            room = layout.rw_address + layout.rw_accessible + pages * PAGE - layout.heap_base
            assert await instance.call("grow", room + 1) == 0
            assert await instance.call("grow", room) == start + room
            assert await instance.call("grow", 1) == 0
            assert await instance.call("grow", 0) == start + room
            assert instance.memory.heap_size == room
            await instance.call("store", start + room - 1, 0x55)
            assert await instance.call("load", start + room - 1) == 0x55
            with pytest.raises(vm.TrapError):  # that was never its own
                await instance.call("load", start + room)


async def test_data_beyond_the_limit(either: vm.Engine) -> None:
    """What the program has, and its limit keeps from it; read or written, by the guest or its host."""
    module = await either.compile(memory())
    layout = module.memory_map
    assert layout.rw_accessible == 2 * PAGE
    limit = layout.stack_accessible + PAGE
    async with await module.instantiate(limits=vm.Limits(memory=limit)) as instance:
        inside, beyond = layout.rw_address + PAGE - 1, layout.rw_address + PAGE
        await instance.call("store", inside, 1)
        for export, arguments in (("load", (beyond,)), ("store", (beyond, 1)), ("load_u64", (inside,))):
            with pytest.raises(vm.LimitError, match=f"{limit} bytes of memory") as caught:
                await instance.call(export, *arguments)
            assert (caught.value.which, caught.value.limit, caught.value.export) == ("memory", limit, export)
            assert caught.value.pc == module.exports[export]
        instance.prepare_call("load", beyond)
        with pytest.raises(vm.LimitError):
            await instance.run()
        with pytest.raises(vm.InstanceStateError):  # as after a trap
            await instance.run()
        with pytest.raises(vm.TrapError):
            await instance.call("load", beyond + PAGE)
        with pytest.raises(vm.MemoryAccessError):
            instance.memory.read(beyond, 1)
        assert await instance.call("grow", 0) == layout.heap_base
        assert await instance.call("grow", 1) == 0
    async with await module.instantiate() as instance:  # the same process, without a limit
        assert await instance.call("load", beyond) == 0
        assert await instance.call("grow", PAGE) == layout.heap_base + PAGE


async def test_a_hole_counts_as_what_it_may_become(engine: vm.Engine) -> None:
    """Reading what was never written takes memory too."""
    hog = build("%rw_data_size = 67108864\npub @hog:\na1 = u8 [a0]\na0 = a0 + 4096\njump @hog")
    module = await engine.compile(hog)
    limit = 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    async with await module.instantiate(limits=vm.Limits(memory=limit)) as instance:
        with pytest.raises(vm.LimitError):
            await instance.call("hog", module.memory_map.rw_address)
        assert instance.registers["a0"] == module.memory_map.rw_address + limit
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 10_000


async def test_less_than_the_program_brings_along(either: vm.Engine) -> None:
    module = await either.compile(memory())
    for limit in (0, module.memory_map.stack_accessible, module.memory_map.stack_accessible + PAGE - 1):
        with pytest.raises(vm.LimitError):
            await module.instantiate(limits=vm.Limits(memory=limit))


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["wall", "cpu"])
async def test_an_endless_loop(either: vm.Engine, which: str) -> None:
    module = await either.compile(basic())
    spin = module.exports["spin"]
    async with await module.instantiate(limits=vm.Limits(**{which: 0.02})) as instance:  # type: ignore[arg-type]
        started = time.monotonic()
        with pytest.raises(vm.LimitError) as caught:
            await instance.call("spin")
        assert 0.01 < time.monotonic() - started < LATE
        assert (caught.value.which, caught.value.limit) == (which, 0.02)
        assert (caught.value.pc, caught.value.export) == (spin, "spin")
        assert "stopped" in repr(instance)
        if which == "wall":  # which is anew for every call
            assert await instance.call("add", 1, 2) == 3
        else:
            with pytest.raises(vm.LimitError):
                await instance.call("add", 1, 2)
    async with await module.instantiate() as instance:  # the process was left as it should be
        assert await instance.call("add", 1, 2) == 3


async def test_run_goes_on_after_it(either: vm.Engine) -> None:
    module = await either.compile(basic())
    async with await module.instantiate(limits=vm.Limits(wall=0.005)) as instance:
        instance.prepare_call("count_down", (1 << 63) - 1)
        left = (1 << 63) - 1
        for _ in range(3):
            with pytest.raises(vm.LimitError):
                await instance.run()
            assert instance.registers["a0"] <= left
            left = instance.registers["a0"]
        instance.registers["a0"] = 1
        assert await instance.run() == vm.Finished()


async def test_a_host_function_that_takes_too_long(either: vm.Engine) -> None:
    cancelled = []

    async def ask(caller: vm.Caller) -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(caller.instance)
            raise
        return 0

    linker = vm.Linker()
    linker.define("ask", ask)
    module = await either.compile(basic())
    async with await linker.instantiate(module, limits=vm.Limits(wall=0.01)) as instance:
        with pytest.raises(vm.LimitError, match=r"0\.01 seconds") as caught:
            await instance.call("ask", 1)
        assert caught.value.which == "wall"
        assert cancelled == [instance]
        assert await instance.call("add", 1, 2) == 3


async def test_timeouts_of_others_are_theirs(either: vm.Engine) -> None:
    """A host function's TimeoutError, and the cancellation of the caller, are no limit that was reached."""

    async def ask(caller: vm.Caller) -> int:
        raise TimeoutError("mine")

    linker = vm.Linker()
    linker.define("ask", ask)
    module = await either.compile(basic())
    async with await linker.instantiate(module, limits=vm.Limits(wall=1000)) as instance:
        with pytest.raises(TimeoutError, match="mine"):
            await instance.call("ask", 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.005):
                await instance.call("spin")


async def test_processor_time_adds_up(either: vm.Engine) -> None:
    """Over many runs that are short, and not while the guest waits for its host."""
    module = await either.compile(basic())
    linker = vm.Linker()
    linker.define("ask", lambda caller: asyncio.sleep(0.001, 0))
    async with await linker.instantiate(module, limits=vm.Limits(cpu=0.05)) as instance:
        for _ in range(20):
            await instance.call("ask", 1)
        rounds = 0
        with pytest.raises(vm.LimitError, match="processor time"):
            while True:
                await instance.call("count_down", 100_000)
                rounds += 1
        assert rounds > 0


async def test_no_time_at_all(either: vm.Engine) -> None:
    module = await either.compile(basic())
    async with await module.instantiate(limits=vm.Limits(cpu=0)) as instance:
        with pytest.raises(vm.LimitError, match="processor time"):
            await instance.call("add", 1, 2)
    async with await module.instantiate(limits=vm.Limits(wall=0)) as instance:
        with pytest.raises(vm.LimitError):
            await instance.call("spin")


async def test_runaway_guests_side_by_side(engine: vm.Engine) -> None:
    """Each is stopped at its own limit while all of them run."""
    module, hogs = await engine.compile(basic()), await engine.compile(memory())
    limits = vm.Limits(wall=0.1, memory=1 << 20)
    spinning = [await module.instantiate(limits=limits) for _ in range(4)]
    recursing = [await hogs.instantiate(limits=limits) for _ in range(4)]
    calls = [instance.call("spin") for instance in spinning] + [instance.call("recurse") for instance in recursing]
    started = time.monotonic()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert time.monotonic() - started < LATE
    assert [type(end) for end in ends[:4]] == [vm.LimitError] * 4
    assert {type(end) for end in ends[4:]} <= {vm.TrapError, vm.LimitError}  # whichever comes first
    for instance in spinning + recursing:
        await instance.aclose()


async def test_crosschecked_guests_have_limits(nothing_left: Census) -> None:
    async with vm.Engine(vm.Config(crosscheck=True)) as engine:
        module = await engine.compile(memory())
        layout = module.memory_map
        limits = vm.Limits(memory=layout.stack_accessible + PAGE, wall=10)
        async with await module.instantiate(limits=limits) as instance:
            with pytest.raises(vm.LimitError):
                await instance.call("load", layout.rw_address + PAGE)
            assert await instance.call("grow", 1) == 0
        module = await engine.compile(basic())
        async with await module.instantiate(limits=vm.Limits(wall=0.02)) as instance:
            with pytest.raises(vm.LimitError):
                await instance.call("spin")
            with pytest.raises(vm.VMError):  # it could not be stopped halfway
                await instance.call("add", 1, 2)
