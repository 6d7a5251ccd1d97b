# SPDX-License-Identifier: MIT
"""Gas, in every home: charging, running out, going on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from guests import build

import vm

pytestmark = pytest.mark.asyncio(loop_factories=["aioring"])

PROGRAM = build(
    """
    %rw_data_size = 4096
    pub @count:
        a0 = a0 - 1
        jump @count if a0 != 0
        ret
    pub @ask:
        s0 = 1
        ecalli 0
        s0 = 2
        ret
    pub @fill:
        [a0..a0 + a2] = u8 a1
        ret
    pub @stuck:
        a0 = 7
        trap
    """,
    imports=["ask"],
)
RW = 0x20000


CONFIGS = {
    "recompiler": vm.Config(),
    "generic": vm.Config(sandbox="generic"),
    "interpreter": vm.Config(backend="interpreter"),
    "crosscheck": vm.Config(crosscheck=True),
}


@pytest.fixture(params=CONFIGS)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[vm.Engine]:
    async with vm.Engine(CONFIGS[request.param]) as engine:
        yield engine


async def instance_of(engine: vm.Engine, gas: int, **settings: Any) -> vm.Instance:
    module = await engine.compile(PROGRAM, vm.ModuleConfig(**{"gas_metering": "sync", **settings}))
    instance = await module.instantiate()
    instance.gas = gas
    return instance


async def test_a_block_is_paid_when_it_is_entered(engine: vm.Engine) -> None:
    async with await instance_of(engine, 100) as instance:
        instance.prepare_call("count", 10)
        assert await instance.run() == vm.Finished()
        assert instance.gas == 100 - 10 * 2 - 1


async def test_running_out_and_going_on(engine: vm.Engine) -> None:
    async with await instance_of(engine, 5) as instance:
        instance.prepare_call("count", 10)
        assert await instance.run() == vm.OutOfGas(0)
        assert (instance.gas, instance.registers["a0"]) == (1, 8)
        assert (instance.program_counter, instance.next_program_counter) == (0, 0)
        assert await instance.run() == vm.OutOfGas(0)  # nothing changed
        assert instance.gas == 1
        instance.gas = 2
        assert await instance.run() == vm.OutOfGas(0)  # exactly enough for one block
        assert (instance.gas, instance.registers["a0"]) == (0, 7)
        instance.gas = 100
        assert await instance.run() == vm.Finished()
        assert instance.gas == 100 - 7 * 2 - 1


async def test_async_metering_ends_below_zero(engine: vm.Engine) -> None:
    async with await instance_of(engine, 5, gas_metering="async") as instance:
        instance.prepare_call("count", 10)
        assert await instance.run() == vm.OutOfGas(None)
        assert instance.gas == -1
        assert instance.program_counter is instance.next_program_counter is None
        with pytest.raises(vm.InstanceStateError, match="nothing to run"):
            await instance.run()
        for _ in range(2):  # less than nothing buys nothing, and costs nothing
            instance.prepare_call("count", 10)
            assert await instance.run() == vm.OutOfGas(None)
            assert (instance.gas, instance.next_program_counter) == (-1, 0)
        instance.gas = 100
        assert await instance.run() == vm.Finished()


async def test_call_raises(engine: vm.Engine) -> None:
    async with await instance_of(engine, 5) as instance:
        with pytest.raises(vm.OutOfGasError, match="ran out of gas in 'count' at pc 0") as caught:
            await instance.call("count", 10)
        assert (caught.value.pc, caught.value.export) == (0, "count")
        instance.gas = 1000
        assert await instance.call("count", 10) == 0


async def test_a_host_call_charges_nothing_again(engine: vm.Engine) -> None:
    async with await instance_of(engine, 4) as instance:
        instance.prepare_call("ask")
        assert await instance.run() == vm.HostCall(0)
        assert instance.gas == 0
        assert await instance.run() == vm.Finished()
        assert (instance.gas, instance.registers["s0"]) == (0, 2)


async def test_entering_the_middle_pays_the_whole_block(engine: vm.Engine) -> None:
    async with await instance_of(engine, 4) as instance:
        instance.prepare_call("ask")
        await instance.run()
        behind = instance.next_program_counter
        assert behind is not None
        assert instance.module.gas_cost(behind) == 4
        instance.gas = 3
        instance.next_program_counter = behind
        assert await instance.run() == vm.OutOfGas(behind)
        instance.gas = 4
        assert await instance.run() == vm.Finished()
        assert instance.gas == 0


async def test_a_trap_has_paid_its_block(engine: vm.Engine) -> None:
    async with await instance_of(engine, 10) as instance:
        instance.prepare_call("stuck")
        assert isinstance(await instance.run(), vm.Trap)
        assert (instance.gas, instance.registers["a0"]) == (8, 7)


async def test_memset_pays_for_bytes(engine: vm.Engine) -> None:
    async with await instance_of(engine, 2 + 10) as instance:
        instance.prepare_call("fill", RW, 0x55, 25)
        end = await instance.run()
        assert isinstance(end, vm.OutOfGas)
        assert instance.gas == 0
        assert (instance.registers["a0"], instance.registers["a2"]) == (RW + 10, 15)
        assert instance.memory.read(RW, 25) == b"\x55" * 10 + bytes(15)
        instance.gas = 20
        assert await instance.run() == vm.Finished()
        assert instance.gas == 5
        assert instance.memory.read(RW, 26) == b"\x55" * 25 + b"\0"


async def test_memset_that_faults_paid_for_what_it_stored(engine: vm.Engine) -> None:
    async with await instance_of(engine, 1000) as instance:
        instance.prepare_call("fill", RW + 4096 - 5, 0x55, 100)
        assert isinstance(await instance.run(), vm.Trap)
        assert (instance.registers["a0"], instance.registers["a2"]) == (RW + 4096, 95)
        assert instance.gas == 1000 - 2 - 5


async def test_per_instruction(engine: vm.Engine) -> None:
    async with await instance_of(engine, 3, per_instruction_metering=True) as instance:
        instance.prepare_call("ask")
        assert await instance.run() == vm.HostCall(0)
        assert instance.gas == 1
        end = await instance.run()
        assert isinstance(end, vm.OutOfGas)
        assert instance.registers["s0"] == 2
        assert instance.module.gas_cost(0) == 1
        instance.gas = 1
        assert await instance.run() == vm.Finished()


async def test_models(engine: vm.Engine) -> None:
    table = vm.CostModel.table({"ecalli": 100}, default=2)
    async with await instance_of(engine, 1000, cost_model=table) as instance:
        instance.prepare_call("ask")
        await instance.run()
        assert instance.gas == 1000 - 106
    costs = {}
    for latency in vm.MemoryLatency:
        module = await engine.compile(PROGRAM, vm.ModuleConfig(cost_model=vm.CostModel.full(latency)))
        costs[latency] = module.gas_cost(PROGRAM.exports[0].pc)
        assert module.gas_cost(len(PROGRAM.code) + 7) is None
        assert module.gas_cost(-1) is None
    assert all(cost is not None and cost > 0 for cost in costs.values())


@pytest.mark.parametrize("gas", [-1, 1 << 63])
async def test_gas_out_of_range(engine: vm.Engine, gas: int) -> None:
    async with await instance_of(engine, (1 << 63) - 1) as instance:
        with pytest.raises(ValueError, match="not from 0"):
            instance.gas = gas
        assert instance.gas == (1 << 63) - 1


@pytest.mark.parametrize("metering", [None, "sync"])
async def test_stepping(engine: vm.Engine, metering: Literal["sync"] | None) -> None:
    async with await instance_of(engine, 100, gas_metering=metering, step_tracing=True) as instance:
        instance.prepare_call("ask")
        seen: list[vm.Interrupt] = []
        while not seen or not isinstance(seen[-1], vm.Finished):
            seen.append(await instance.run())
            if isinstance(seen[-1], vm.Step):
                assert instance.program_counter == instance.next_program_counter == seen[-1].pc
        pcs = [i.pc for i in seen if isinstance(i, vm.Step)]
        assert pcs == sorted(pcs)
        assert len(pcs) == 4
        assert [type(i).__name__ for i in seen] == ["Step", "Step", "HostCall", "Step", "Step", "Finished"]
        assert await instance.call("count", 3) == 0  # steps are passed over


async def test_legacy_sbrk(engine: vm.Engine) -> None:
    sbrk = vm.ProgramBlob.build(
        isa=vm.InstructionSet.REVIVE_V1,
        code=bytes([101, 0x77, 50, 0]),  # a0 = sbrk a0; ret
        bitmask=bytes([0b0101]),
        exports=[(0, b"main")],
    )
    for legacy in (False, True):
        module = await engine.compile(sbrk, vm.ModuleConfig(legacy_sbrk=legacy))
        async with await module.instantiate() as instance:
            if legacy:
                assert await instance.call("main", 10) == module.memory_map.heap_base + 10
            else:
                with pytest.raises(vm.TrapError):
                    await instance.call("main", 10)
