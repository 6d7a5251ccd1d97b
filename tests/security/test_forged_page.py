# SPDX-License-Identifier: MIT
"""A worker that lies to its host: everything that the shared page can say, at any time, also while the host reads it.

`test_isolation` says some of it on a worker's behalf; here machine code in the worker does. The host must come to a
documented end of the call, whatever it was told, and believe of it only what concerns that guest.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from guests import build
from machine_code import (
    BACK,
    BUSY,
    CODE,
    ECALLI,
    FORGE,
    IDLE,
    SBRK,
    SIGNAL,
    SIGRETURN,
    STEP,
    TRAP,
    Hostile,
    frame,
    hostile,
)
from processes import Census, status

import vm

pytestmark = pytest.mark.asyncio(loop_factories=["aioring"])

PAGE = 0x1000
U64 = (1 << 64) - 1
INTERRUPT_SIGNAL = 10

CONFIGS = {
    "plain": vm.ModuleConfig(aux_data_size=PAGE),
    "sync gas": vm.ModuleConfig(aux_data_size=PAGE, gas_metering="sync"),
    "async gas": vm.ModuleConfig(aux_data_size=PAGE, gas_metering="async"),
    "stepping": vm.ModuleConfig(aux_data_size=PAGE, step_tracing=True),
    "paging": vm.ModuleConfig(aux_data_size=PAGE, dynamic_paging=True),
    "paging, gas": vm.ModuleConfig(aux_data_size=PAGE, dynamic_paging=True, gas_metering="sync"),
}

#: Writes to the page without end: fields at random, states at random, a wake now and then.
FLIP = """
    movabs $VMCTX, %rbx
    mov %rdi, %r14                # the seed
    or $1, %r14
1:  mov %r14, %rcx                # xorshift
    shl $13, %rcx
    xor %rcx, %r14
    mov %r14, %rcx
    shr $7, %rcx
    xor %rcx, %r14
    mov %r14, %rcx
    shl $17, %rcx
    xor %rcx, %r14
    mov %r14d, %ecx
    and $0xf8, %ecx               # a field: one of the first 256 bytes
    jz 2f
    mov %r14, %rdx
    shr $40, %rdx
    test $1, %r14b
    jz 3f
    movabs $CODE, %rax            # often an address in the code
    and $0xfff, %edx
    add %rax, %rdx
3:  mov %rdx, (%rbx,%rcx)
    jmp 1b
2:  mov %r14, %rcx
    shr $20, %rcx
    and $15, %ecx
    mov %ecx, STATE(%rbx)
    test $0x300, %r14
    jnz 1b
    wake
    movabs $VMCTX, %rbx
    jmp 1b
"""


#: Waits until the host has asked for an interrupt, whose signal is blocked, and answers with a lie.
LIE_WHEN_INTERRUPTED = SIGRETURN + "movabs $VMCTX, %rbx\n9: pause\ncmpl $1, INTERRUPT(%rbx)\njne 9b\n" + FORGE


@pytest.fixture
async def engine(nothing_left: Census) -> AsyncIterator[vm.Engine]:
    async with vm.Engine(vm.Config(module_cache_size=0, spare_workers=0)) as engine:
        yield engine


async def linked(code: Hostile, config: vm.ModuleConfig, limits: vm.Limits | None = None) -> vm.Instance:
    linker = vm.Linker()
    linker.define("ask", lambda caller, value: value)
    linker.on_page_fault(lambda caller, fault: caller.memory.zero(fault.address, fault.size))
    instance = await linker.instantiate(code.module, limits=limits)
    if config.gas_metering is not None:
        instance.gas = 1 << 62
    return instance


async def run(code: Hostile, instance: vm.Instance, *arguments: int) -> str:
    """Enters the machine code and goes on with what comes of it, for a while; the name of the end."""
    words = (arguments + (0,) * 7)[:7]
    number, first, second, third, fourth, fifth, sixth = (word & U64 for word in words)
    if instance.module.config.step_tracing or instance.module.config.gas_metering == "async":
        instance.prepare_call("hostile", first, number, second, third, fifth, sixth, fourth)
        for _ in range(4):
            try:
                interrupt = await instance.run()
            except vm.VMError as error:
                return type(error).__name__
            if instance.next_program_counter is None:
                return type(interrupt).__name__
        return type(interrupt).__name__
    try:
        await code.run(instance, number, first, second, third, fourth, fifth, sixth)
    except vm.VMError as error:
        return type(error).__name__
    return "Finished"


#: How a call may end that was lied about.
ENDS = {"Finished", "TrapError", "OutOfGasError", "LimitError", "SandboxDiedError"}
ENDS |= {"Trap", "OutOfGas", "Step", "HostCall", "PageFault"}


def places(code: Hostile) -> list[int]:
    """Native addresses of each kind of place, and such as are none."""
    module = code.module
    starts = [module.native_offset(pc) for pc in range(module.exports["hostile"] + 8)]
    end = len(module.native_code())
    offsets = [offset for offset in starts if offset is not None] + [end, end - 1, end - 2]
    near = [CODE + offset + by for offset in offsets for by in (-1, 0, 1, 2, 5, 6)]
    return [
        *near,
        0,
        1,
        CODE - 1,
        CODE + (1 << 32),
        CODE + (1 << 32) + 0x300,
        CODE | 1 << 63,
        U64,
        *range(CODE, CODE + 8),
    ]


@pytest.mark.parametrize("name", CONFIGS)
async def test_whatever_it_says(engine: vm.Engine, tmp_path: Path, name: str) -> None:
    rng = random.Random(name)
    code = await hostile(engine, tmp_path, FORGE, CONFIGS[name])
    layout = code.module.memory_map
    where = places(code)
    states = [BUSY, IDLE, ECALLI, TRAP, SIGNAL, STEP, SBRK, 6, 7, 9, 10, 11, 12, 255, 1 << 31, 0xFFFF_FFFF]
    signals = [0, 4, 5, 7, INTERRUPT_SIGNAL, 11, 31, 32, 33, 64, 65, 1 << 31, 0xFFFF_FFFF]
    faults = [0, layout.rw_address, layout.rw_address + 0x5000, layout.stack_low, 1 << 32, U64]
    gas = [0, 1, 1 << 62, (1 << 63) - 1, 1 << 63, U64]
    values = [*faults, 1, 0xFFFF_FFFF, 1 << 31, 0x8000_0000_0000_0000, layout.max_heap_size, layout.stack_high - 1]
    ends: Counter[str] = Counter()
    for round_ in range(200):
        state = states[round_ % len(states)] if round_ < 2 * len(states) else rng.choice(states[1:9])
        if state == BUSY:
            continue  # below: it says nothing at all
        arguments = [state, *map(rng.choice, (where, signals, faults, gas, values, values))]
        limits = vm.Limits(wall=1.0, memory=rng.choice([None, 1 << 20]))
        async with await linked(code, CONFIGS[name], limits) as instance:
            ends[await run(code, instance, *arguments)] += 1
            size = rng.choice([1, PAGE, 5 * PAGE])  # what it lied about is still to be used
            instance.memory.write(layout.rw_address, bytes(size))
            assert instance.memory.read(layout.rw_address, size) == bytes(size)
    assert set(ends) <= ENDS
    assert ends["SandboxDiedError"] > 10
    assert len(ends) > 2  # it also came through: some of it can be true


@pytest.mark.parametrize("name", CONFIGS)
async def test_while_the_host_reads(engine: vm.Engine, tmp_path: Path, name: str) -> None:
    """Words that change between two reads of them, at every stop, interrupt and resumption."""
    rng = random.Random(name)
    code = await hostile(engine, tmp_path, FLIP, CONFIGS[name])
    ends: Counter[str] = Counter()
    for _ in range(40):
        async with await linked(code, CONFIGS[name], vm.Limits(wall=0.02, memory=1 << 20)) as instance:
            task = asyncio.create_task(run(code, instance, 0, rng.getrandbits(64)))
            if rng.random() < 0.3:
                for _ in range(rng.randrange(10)):
                    await asyncio.sleep(0)
                task.cancel()
            try:
                ends[await task] += 1
            except asyncio.CancelledError:
                ends["cancelled"] += 1
    assert set(ends) <= ENDS | {"cancelled"}
    assert ends["SandboxDiedError"] > 5


async def test_a_page_fault_before_the_first_instruction(engine: vm.Engine, tmp_path: Path) -> None:
    """A memset is served from its beginning, which is five bytes before its rep stosb: not for one that says it faulted
    elsewhere. While it is told to stop, the host looks the place up that it would go on at."""
    config = CONFIGS["paging"]
    code = await hostile(engine, tmp_path, LIE_WHEN_INTERRUPTED, config)
    first = code.module.native_offset(0)
    assert first is not None
    layout = code.module.memory_map
    for offset in range(5):
        place = CODE + first + offset
        back = code.symbols["HERE"] + BACK
        signal_frame = frame(rip=back, mask=U64, rax=TRAP, rdi=place, rsi=7, r8=layout.stack_low)
        linker = vm.Linker()
        linker.define("ask", lambda caller, value: value)
        linker.on_page_fault(vm.ZeroPager())
        async with await linker.instantiate(code.module) as instance:
            instance.memory.write(code.symbols["RW"], signal_frame)
            call = asyncio.create_task(code.run(instance, 0, code.symbols["RW"]))
            while not int(status(instance.pid)["SigBlk"], 16) >> (INTERRUPT_SIGNAL - 1) & 1:
                await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            with pytest.raises(vm.SandboxDiedError):
                await instance.call("add", 1, 2)


async def test_lies_about_memory_concern_its_own(engine: vm.Engine, tmp_path: Path) -> None:
    """Heap sizes, gas and faults that are none: no limit is passed, and no other guest's memory is touched."""
    code = await hostile(engine, tmp_path, FORGE)
    grow = code.module.exports["grow"]
    after = code.module.native_offset(next(pc for pc in range(grow + 1, grow + 10) if code.module.native_offset(pc)))
    assert after is not None
    limits = vm.Limits(memory=1 << 20, wall=1.0)
    linker = vm.Linker()
    linker.define("ask", lambda caller, value: value)
    layout = code.module.memory_map
    heap, end = layout.heap_base, layout.rw_address + (1 << 20) - layout.stack_high + layout.stack_low
    async with await linker.instantiate(code.module) as sibling:
        for size in (1, 2 * PAGE, 1 << 20, 1 << 31, 0xFFFF_FFFF, 1 << 32, U64):
            async with await linker.instantiate(code.module, limits=limits) as instance:
                with pytest.raises((vm.TrapError, vm.LimitError)):  # it goes on behind the sbrk, and returns to nowhere
                    await code.run(instance, SBRK, CODE + after, 0, 0, 0, size)
                assert not instance.memory.is_accessible(end, 1)
                assert instance.memory.is_accessible(heap + PAGE, PAGE) == (size == 2 * PAGE)
        assert await sibling.call("grow", 0) == heap
        assert not sibling.memory.is_accessible(heap + PAGE, PAGE)


async def test_a_worker_that_lied_is_not_used_again(engine: vm.Engine, tmp_path: Path) -> None:
    code = await hostile(engine, tmp_path, FORGE)
    async with await linked(code, CONFIGS["plain"]) as instance:
        pid = instance.pid
        with pytest.raises(vm.SandboxDiedError, match="broke the rules"):
            await code.run(instance, 12)
    async with await linked(code, CONFIGS["plain"]) as instance:
        assert instance.pid != pid
        assert await instance.call("add", 1, 2) == 3


async def test_a_worker_that_goes_on_unseen_serves_its_own_tenant_alone(engine: vm.Engine, tmp_path: Path) -> None:
    """It says that it has finished, and watches its memory: it finds what its tenant writes later, and nobody else."""
    text = """
    movabs $VMCTX, %rbx
    movl $0, STATE(%rbx)
    wake
    mov $RW, %ebx
1:  pause
    cmpl $0x41414141, (%rbx)
    jne 1b
    movl $0x42424242, (%rbx)
    jmp 1b
"""
    code = await hostile(engine, tmp_path, text)
    address = code.symbols["RW"]
    linker = vm.Linker()
    linker.define("ask", lambda caller, value: value)
    async with await linker.instantiate(code.module, tenant="mallory") as instance:
        pid = instance.pid
        await code.run(instance)
    async with await linker.instantiate(code.module, tenant="alice") as instance:
        assert instance.pid != pid
        instance.memory.write(address, b"AAAA")
        assert await instance.call("add", 1, 2) == 3
        assert instance.memory.read(address, 4) == b"AAAA"
    # its own tenant gets it, and that it does not go on; told to stop, it stops as any guest does
    async with await linker.instantiate(code.module, tenant="mallory", limits=vm.Limits(wall=0.02)) as instance:
        assert instance.pid == pid
        with pytest.raises(vm.LimitError):
            await instance.call("add", 1, 2)
        assert await instance.call("add", 1, 2) == 3


async def test_a_guest_of_one_engine_knows_nothing_of_another(engine: vm.Engine, tmp_path: Path) -> None:
    async with vm.Engine(vm.Config(spare_workers=0)) as other:
        bystander = await (await other.compile(build("pub @add:\n a0 = a0 + a1\n ret\n"))).instantiate()
        code = await hostile(engine, tmp_path, FORGE)
        for state in range(2, 13):
            async with await linked(code, CONFIGS["plain"], vm.Limits(wall=0.05)) as instance:
                assert await run(code, instance, state) in ENDS
        assert await bystander.call("add", 1, 2) == 3
        await bystander.aclose()
