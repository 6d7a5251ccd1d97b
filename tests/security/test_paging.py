# SPDX-License-Identifier: MIT
"""Dynamic paging against guests and circumstances that mean harm: storms of faults, deaths at a fault, leaks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest
from guests import build
from processes import Census, free_descriptors, open_files, wait_for_death, watch

import vm

PAGE = 0x1000
UFFD = "anon_inode:[userfaultfd]"

PROGRAM = """
%rw_data = 55
%rw_data_size = 8192
%stack_size = 0x4000
pub @load:
    a0 = u8 [a0]
    ret
pub @grow:
    a0 = sbrk a0
    ret
pub @touch:
    u8 [a0] = 1
    a0 = a0 + 4096
    a1 = a1 - 1
    jump @touch if a1 != 0
    ret
pub @spin:
    ecalli 0
@endless:
    a0 = a0 + 1
    jump @endless
pub @load_and_spin:
    ecalli 0
@again:
    a1 = u8 [a0]
    jump @again
""".replace("0x4000", str(0x4000))


async def compile_paged(engine: vm.Engine) -> vm.Module:
    config = vm.ModuleConfig(dynamic_paging=True, aux_data_size=PAGE)
    return await engine.compile(build(PROGRAM, imports=["entered"]), config)


def heap(module: vm.Module) -> int:
    return module.memory_map.rw_address + module.memory_map.rw_accessible


def a_linker() -> tuple[vm.Linker, asyncio.Event]:
    """One whose host call sets the event."""
    linker, entered = vm.Linker(), asyncio.Event()
    linker.define("entered", lambda caller: entered.set())
    return linker, entered


async def count_turns(call: asyncio.Task[int]) -> int:
    """How many turns the event loop gives others while `call` runs."""
    turns = 0
    while not call.done():
        turns += 1
        await asyncio.sleep(0)
    await call
    return turns


# --- storms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("served_by", ["zero pager", "def", "async def"])
async def test_a_storm_of_faults_leaves_the_loop_its_turns(engine: vm.Engine, served_by: str) -> None:
    """At least one in two milliseconds, also if no fault ever waits for anything."""
    module = await compile_paged(engine)
    linker, _ = a_linker()
    if served_by == "zero pager":
        linker.on_page_fault(vm.ZeroPager(read_ahead=0))
    elif served_by == "def":
        linker.on_page_fault(lambda caller, fault: caller.memory.zero(fault.address, fault.size))
    else:

        @linker.on_page_fault
        async def serve(caller: vm.Caller, fault: vm.PageFault) -> None:
            caller.memory.zero(fault.address, fault.size)

    pages = 8000
    async with await linker.instantiate(module) as instance:
        await instance.call("grow", pages * PAGE)
        loop = asyncio.get_running_loop()
        began = loop.time()
        turns = await count_turns(asyncio.create_task(instance.call("touch", heap(module), pages)))
        assert turns > (loop.time() - began) / 0.05
        assert turns > 8


async def test_a_storm_can_be_cancelled(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    linker, _ = a_linker()

    @linker.on_page_fault
    async def serve(caller: vm.Caller, fault: vm.PageFault) -> None:
        caller.memory.zero(fault.address, fault.size)
        caller.memory.free(fault.address - PAGE, PAGE)  # no memory is taken, however long it goes on

    async with await linker.instantiate(module) as instance:
        await instance.call("grow", 1 << 30)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await instance.call("touch", heap(module) + PAGE, 1 << 18)


async def test_closing_the_engine_in_a_storm(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    linker, _ = a_linker()
    linker.on_page_fault(vm.ZeroPager(read_ahead=0))
    instance = await linker.instantiate(module)
    await instance.call("grow", 1 << 30)
    call = asyncio.create_task(instance.call("touch", heap(module), 1 << 18))
    while "running" not in repr(instance):
        await asyncio.sleep(0)
    await engine.aclose()
    with pytest.raises(vm.VMError):
        await call
    await instance.aclose()


# --- deaths -----------------------------------------------------------------------------------------------------------


async def test_killed_while_its_fault_is_served(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    linker, _ = a_linker()
    pids: list[int] = []

    @linker.on_page_fault
    async def serve(caller: vm.Caller, fault: vm.PageFault) -> None:
        pid = caller.instance.pid
        with watch(pid) as pidfds:
            os.kill(pid, signal.SIGKILL)
            wait_for_death(*pidfds.values())
        pids.append(pid)
        memory = caller.memory  # works on, for nobody
        memory.write(fault.address, b"x" * PAGE)
        memory.zero(heap(module), PAGE)
        memory.protect(fault.address, PAGE)
        memory.unprotect(fault.address, PAGE)
        memory.free(heap(module), PAGE)
        assert memory.read(fault.address, 1) == b"x"

    for _ in range(3):
        async with await linker.instantiate(module) as instance:
            await instance.call("grow", 4 * PAGE)
            with pytest.raises(vm.SandboxDiedError) as caught:
                await instance.call("load", module.memory_map.stack_low)
            assert caught.value.pid == pids[-1]
    assert len(set(pids)) == 3


async def test_the_engine_closes_while_a_fault_is_served(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    linker, _ = a_linker()
    entered, leave = asyncio.Event(), asyncio.Event()

    @linker.on_page_fault
    async def serve(caller: vm.Caller, fault: vm.PageFault) -> None:
        entered.set()
        await leave.wait()
        caller.memory.zero(fault.address, PAGE)

    async with await linker.instantiate(module) as instance:
        call = asyncio.create_task(instance.call("load", module.memory_map.stack_low))
        await entered.wait()
        await engine.aclose()
        leave.set()
        with pytest.raises(vm.VMError):
            await call


# --- what the worker says is no address -------------------------------------------------------------------------------


@pytest.mark.parametrize("export", ["spin", "load_and_spin"])
async def test_a_signal_is_no_page_fault(engine: vm.Engine, export: str) -> None:
    """Faults are made of instruction, registers and what the host knows: all is there, so it is a trap."""
    module = await compile_paged(engine)
    linker, entered = a_linker()
    faults: list[vm.PageFault] = []
    linker.on_page_fault(lambda caller, fault: faults.append(fault))
    async with await linker.instantiate(module) as instance:
        call = asyncio.create_task(instance.call(export, module.memory_map.rw_address))
        await entered.wait()
        while "running" not in repr(instance):
            await asyncio.sleep(0)
        os.kill(instance.pid, signal.SIGBUS)
        with pytest.raises((vm.TrapError, vm.SandboxDiedError)) as caught:
            await call
        if isinstance(caught.value, vm.TrapError):
            assert "page fault" not in str(caught.value)
    assert not faults


# --- what is left -----------------------------------------------------------------------------------------------------


async def test_one_descriptor_per_guest_and_none_in_it(nothing_left: Census) -> None:
    engine = await vm.Engine(vm.Config(spare_workers=0)).__aenter__()
    module = await compile_paged(engine)
    before = open_files()[UFFD]
    instances = [await module.instantiate() for _ in range(5)]
    assert open_files()[UFFD] == before + 5
    for instance in instances:
        with contextlib.suppress(PermissionError):  # it is undumpable: only CAP_SYS_PTRACE may look
            assert os.listdir(f"/proc/{instance.pid}/fd") == []
        maps = Path(f"/proc/{instance.pid}/smaps")
        with contextlib.suppress(PermissionError):
            assert " um" in maps.read_text()  # VmFlags: tracked by userfaultfd (proc(5))
        await instance.aclose()
    await engine.aclose()
    assert open_files()[UFFD] == before


async def test_too_few_descriptors(nothing_left: Census) -> None:
    """At each place where one is missing there is an error that says so, and the next attempt succeeds."""
    async with vm.Engine(vm.Config(spare_workers=0)) as engine:
        await _run_out_of_descriptors(engine)


async def _run_out_of_descriptors(engine: vm.Engine) -> None:
    module = await compile_paged(engine)
    async with await module.instantiate():
        pass  # the nursery is there
    held = await module.instantiate()  # takes the idle process
    failed = 0
    for count in range(10):
        with free_descriptors(count):
            try:
                async with await module.instantiate():
                    break
            except vm.SandboxError as error:
                failed += "ulimit -n" in str(error)
    assert failed >= 4  # memory twice, two ends of a socket, pidfd, userfaultfd
    await held.aclose()
    async with await module.instantiate() as instance:
        instance.prepare_call("load", module.memory_map.stack_low)
        assert isinstance(await instance.run(), vm.PageFault)
