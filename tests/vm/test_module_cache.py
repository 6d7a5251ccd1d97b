# SPDX-License-Identifier: MIT
"""Compiling the same thing again: which module comes back, what keeps it, and what goes when it goes."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from guests import basic, build
from processes import Census, free_descriptors, images, open_files, until, wait_for_death, watch

import vm
from vm._module_file import decode_config, encode_config, program_bytes

ONE_LOOP = pytest.mark.asyncio(loop_factories=["aioring"])

#: Another value for each setting of a module.
OTHER_SETTINGS: dict[str, Any] = {
    "page_size": 0x4000,
    "aux_data_size": 4096,
    "gas_metering": "sync",
    "cost_model": vm.CostModel.full(),
    "per_instruction_metering": True,
    "step_tracing": True,
    "dynamic_paging": True,
    "legacy_sbrk": True,
}


def numbered(number: int) -> bytes:
    """A program of its own for each number, which its `main` returns."""
    return build(f"pub @main:\na0 = {number}\nret").to_bytes()


@pytest.fixture
async def small(nothing_left: Census) -> AsyncIterator[vm.Engine]:
    """An engine that keeps two modules."""
    async with vm.Engine(vm.Config(module_cache_size=2)) as engine:
        yield engine


# --- the same, and not the same ---------------------------------------------------------------------------------------


async def test_the_same_content_is_the_same_module(engine: vm.Engine, tmp_path: Path) -> None:
    blob = basic()
    data = blob.to_bytes()
    path = tmp_path / "program.polkavm"
    path.write_bytes(data)
    module = await engine.compile(data)
    for source in (data, bytes(bytearray(data)), bytearray(data), memoryview(data), blob, basic(), path, str(path)):
        assert await engine.compile(source, vm.ModuleConfig()) is module
    path.write_bytes(numbered(1))
    assert await engine.compile(path) is not module


async def test_a_source_that_changes_later(engine: vm.Engine) -> None:
    data = bytearray(numbered(1))
    first = await engine.compile(data)
    data[:] = numbered(2)
    assert await engine.compile(data) is not first
    assert await engine.compile(numbered(1)) is first


def test_every_setting_has_another_value() -> None:
    assert set(OTHER_SETTINGS) == {field.name for field in dataclasses.fields(vm.ModuleConfig)}


@pytest.mark.parametrize("name", OTHER_SETTINGS)
async def test_other_settings_are_another_module(engine: vm.Engine, name: str) -> None:
    settings: dict[str, Any] = {"gas_metering": "async"} if name != "legacy_sbrk" else {}
    usual = vm.ModuleConfig(**settings)
    other = dataclasses.replace(usual, **{name: OTHER_SETTINGS[name]})
    assert decode_config(encode_config(other)) == other
    first, second = await engine.compile(basic(), usual), await engine.compile(basic(), other)
    assert first is not second
    assert (first.config, second.config) == (usual, other)
    assert await engine.compile(basic(), dataclasses.replace(other)) is second


def test_cost_models_are_told_apart() -> None:
    models = [vm.CostModel.full(latency) for latency in vm.MemoryLatency]
    models += [vm.CostModel.naive(), vm.CostModel.table({}, default=2), vm.CostModel.table({"invalid": 7})]
    configs = [vm.ModuleConfig(gas_metering=metering, cost_model=m) for metering in ("sync", "async") for m in models]
    encoded = [encode_config(config) for config in configs]
    assert len(set(encoded)) == len(encoded)
    assert [decode_config(data) for data in encoded] == configs
    assert encode_config(vm.ModuleConfig(cost_model=vm.CostModel.table({}))) == encode_config(vm.ModuleConfig())


@pytest.mark.parametrize("settings", [{"page_size": 5}, {"aux_data_size": -1}, {"aux_data_size": 1 << 40}], ids=repr)
async def test_settings_that_no_program_can_have(engine: vm.Engine, settings: dict[str, int]) -> None:
    with pytest.raises(vm.MemoryMapError):
        await engine.compile(basic(), vm.ModuleConfig(**settings))  # type: ignore[arg-type]


async def test_whatever_can_be_seen_of_a_program_makes_another_module(engine: vm.Engine) -> None:
    blob = dataclasses.replace(
        build("pub @main:\nra = @next\njump [ra]\n@next:\nret", imports=["one", "two"]),
        debug_strings=b"\0",
        debug_line_programs=b"\1",
        debug_line_program_ranges=b"\2",
        ro_data=b"ro",
        ro_data_size=8,
    )
    others = [
        dataclasses.replace(blob, debug_strings=b"\3"),
        dataclasses.replace(blob, debug_line_programs=b"\3"),
        dataclasses.replace(blob, debug_line_program_ranges=b"\3"),
        dataclasses.replace(blob, debug_strings=b"", debug_line_programs=b""),
        dataclasses.replace(blob, ro_data=b"RO"),
        dataclasses.replace(blob, ro_data=b"ro\0"),
        dataclasses.replace(blob, ro_data_size=9),
        dataclasses.replace(blob, rw_data_size=1),
        dataclasses.replace(blob, rw_data=b"r", rw_data_size=1),
        dataclasses.replace(blob, stack_size=1),
        dataclasses.replace(blob, import_symbols=b"onetwi"),
        dataclasses.replace(blob, import_offsets=(0, 2)),
        dataclasses.replace(blob, exports=(vm.Export(0, b"Main"),)),
        dataclasses.replace(blob, exports=(vm.Export(1, b"main"),)),
        dataclasses.replace(blob, exports=()),
        dataclasses.replace(blob, jump_table=bytes(len(blob.jump_table))),
        dataclasses.replace(blob, isa=vm.InstructionSet.JAM_V1),
    ]
    modules = [await engine.compile(each) for each in (blob, *others)]
    assert len(set(modules)) == len(modules)
    for each, module in zip((blob, *others), modules, strict=True):
        assert module.blob == each
        assert await engine.compile(each) is module


async def test_blobs_put_together_by_hand_are_nobody_elses(engine: vm.Engine) -> None:
    # different programs that would be the same bytes: the parts of the code section lie one behind the other
    blob = build("a0 = 1\nret")
    table = b"\0\0\0\0"
    first = dataclasses.replace(blob, jump_table=table + blob.code[:1], jump_table_entry_size=4, code=blob.code[1:])
    assert first.to_bytes() == dataclasses.replace(blob, jump_table=table, jump_table_entry_size=4).to_bytes().replace(
        bytes([1, 4, len(blob.code)]), bytes([1, 4, len(blob.code) - 1])
    )
    assert program_bytes(first) is None
    assert await engine.compile(first) is not await engine.compile(first)


# --- what is kept -----------------------------------------------------------------------------------------------------


async def test_the_last_ones_are_kept(small: vm.Engine) -> None:
    dead: list[int] = []
    for number in (1, 2, 1, 3):  # 2 is now the longest unused
        weakref.finalize(await small.compile(numbered(number)), dead.append, number).atexit = False
    assert dead == [2]
    assert images() == 2
    await small.compile(numbered(2))
    assert dead == [2, 1, 1]  # once for each time it was asked for
    assert images() == 2


async def test_what_is_in_use_stays_known(small: vm.Engine) -> None:
    module = await small.compile(numbered(1))
    async with await module.instantiate() as instance:
        for number in range(2, 6):
            await small.compile(numbered(number))
        assert await instance.call("main") == 1
        assert await small.compile(numbered(1)) is module
    assert images() == 3 - 1  # it is one of the two that are kept


async def test_without_a_cache(nothing_left: Census) -> None:
    async with vm.Engine(vm.Config(module_cache_size=0)) as engine:
        modules = [await engine.compile(numbered(1)) for _ in range(3)]
        modules += await asyncio.gather(*(engine.compile(numbered(1)) for _ in range(3)))
        assert len(set(modules)) == 6
        del modules
        await until(lambda: images() == 0)  # the loop's current turn refers to what was gathered


async def test_closing_empties_it(nothing_left: Census) -> None:
    async with vm.Engine() as engine:
        reference = weakref.ref(await engine.compile(basic()))
        assert reference() is not None
    assert reference() is None


async def test_two_engines_share_nothing(engine: vm.Engine) -> None:
    async with vm.Engine() as other:
        assert await engine.compile(basic()) is not await other.compile(basic())


@ONE_LOOP
async def test_processes_of_a_module_end_with_it(small: vm.Engine) -> None:
    module = await small.compile(numbered(1))
    instances = [await module.instantiate() for _ in range(3)]
    with watch(*(instance.pid for instance in instances)) as pidfds:
        for instance in instances:
            await instance.aclose()
        del module, instance, instances
        again = await (await small.compile(numbered(1))).instantiate()
        assert again.pid in pidfds  # they were kept
        await again.aclose()
        del again
        await small.compile(numbered(2))
        await small.compile(numbered(3))
        await until(lambda: images() == 2)  # the last reference to its file goes when the last process was seen dead
        wait_for_death(*pidfds.values())


_AUXILIARY = """
import asyncio, vm
from vm.assembler import assemble

async def main():
    async with vm.Engine(vm.Config(module_cache_size=1)) as engine:
        for number in range(20):
            program = assemble(f"pub @main:\\na0 = {number}\\nret", vm.InstructionSet.LATEST64)
            module = await engine.compile(program, vm.ModuleConfig(aux_data_size=4096))
            async with await module.instantiate() as instance:
                assert await instance.call("main") == number

asyncio.run(main())
"""


def test_processes_that_outlive_their_module() -> None:
    # freed memory is overwritten (mallopt(3)): whoever reads sizes there unmaps gigabytes
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _AUXILIARY],
        env=os.environ | {"MALLOC_PERTURB_": "165"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


@ONE_LOOP
async def test_a_module_collected_as_garbage_takes_its_processes_along(nothing_left: Census) -> None:
    async with vm.Engine(vm.Config(module_cache_size=0)) as engine:
        module = await engine.compile(numbered(1))
        async with await module.instantiate() as instance:
            pid = instance.pid
        cycle: list[Any] = [module]
        cycle.append(cycle)
        with watch(pid) as pidfds:
            del module, instance, cycle
            await asyncio.to_thread(gc.collect)  # in another thread than the loop's
            await until(lambda: images() == 0)
            wait_for_death(pidfds[pid])


@ONE_LOOP
async def test_a_thousand_programs(nothing_left: Census) -> None:
    config = vm.Config(module_cache_size=8, max_idle_workers=16, spare_workers=0)
    async with vm.Engine(config) as engine:
        most = 0
        for number in range(1000):
            async with await (await engine.compile(numbered(number))).instantiate() as instance:
                assert await instance.call("main") == number
            most = max(most, len(os.listdir("/proc/self/fd")))
        # three for each module: its image, and its process's memory and pidfd. Meanwhile there were more of them, of
        # processes not yet seen dead and modules not yet collected; how many, the machine decides
        assert most < 1000
        del instance
        await until(lambda: images() == config.module_cache_size)
        added = Counter(open_files()) - nothing_left.files
        assert added["/memfd:pvm-image (deleted)"] == added["/memfd:pvm-ram (deleted)"] == config.module_cache_size
        assert len(engine._home._workers) == config.module_cache_size  # type: ignore[union-attr]


# --- at the same time -------------------------------------------------------------------------------------------------


def large(number: int) -> bytes:
    """A program that takes some milliseconds to compile."""
    unit, end = build(f"a0 = a0 + {number}\n" * 8), build("ret")
    return vm.ProgramBlob.build(
        isa=unit.isa,
        code=unit.code * 20_000 + end.code,
        bitmask=unit.bitmask * 20_000 + end.bitmask,
        exports=[(0, b"main")],
    ).to_bytes()


@pytest.mark.parametrize("data", [numbered(1), large(1)], ids=["small", "large"])
async def test_many_at_once_are_one(engine: vm.Engine, data: bytes) -> None:
    sources = [data, bytearray(data), vm.ProgramBlob.parse(data)] * 10
    modules = await asyncio.gather(*map(engine.compile, sources))
    assert len(set(modules)) == 1
    assert images() == 1


@pytest.mark.parametrize("which", [0, 1, 2])
async def test_cancelling_one_leaves_the_others(engine: vm.Engine, which: int) -> None:
    data = large(2)
    tasks = [asyncio.create_task(engine.compile(data)) for _ in range(3)]
    for _ in range(5):
        await asyncio.sleep(0)
    tasks[which].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results.pop(which), asyncio.CancelledError)
    assert results[0] is results[1]
    assert await engine.compile(data) is results[0]


async def test_cancelling_all_does_not_spoil_it(engine: vm.Engine) -> None:
    data = large(3)
    tasks = [asyncio.create_task(engine.compile(data)) for _ in range(3)]
    for _ in range(5):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with await (await engine.compile(data)).instantiate() as instance:
        assert await instance.call("main", 0) == 3 * 8 * 20_000


@pytest.mark.parametrize("make", [lambda: b"PVM\0nonsense", lambda: large(4)[:-1]], ids=["small", "large"])
async def test_errors_reach_everybody(engine: vm.Engine, make: Callable[[], bytes]) -> None:
    data = make()
    results = await asyncio.gather(*(engine.compile(data) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [vm.ProgramParseError] * 5
    with pytest.raises(vm.ProgramParseError):
        await engine.compile(data)


@ONE_LOOP
async def test_a_failure_is_not_remembered(engine: vm.Engine) -> None:
    data = large(5)
    with free_descriptors(0):
        results = await asyncio.gather(*(engine.compile(data) for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [vm.CompileError] * 3
    async with await (await engine.compile(data)).instantiate() as instance:
        assert await instance.call("main", 1) == 1 + 5 * 8 * 20_000


async def test_closing_while_compiling(nothing_left: Census) -> None:
    async with vm.Engine() as engine:
        tasks = [asyncio.create_task(engine.compile(large(number))) for number in (6, 6, 7)]
        await asyncio.sleep(0)
    first, second, third = await asyncio.gather(*tasks)
    assert first is second is not third
    del first, second, third, tasks
    await until(lambda: images() == 0)
