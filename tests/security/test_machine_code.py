# SPDX-License-Identifier: MIT
"""Assume that the recompiler is broken: machine code of the tests' own in the place of a guest's.

Whatever it does, it is denied or ends that worker, and nobody else notices. What is denied shows as a trap where the
fault was in the code window, and as the worker's death where it was outside of it (native/zygote/worker.c).

Not denied, because nothing in it reaches anything: rdtsc, rdtscp, cpuid, rdrand, rdseed, xgetbv, rdpid, the processor's
flags that a program may set, and the segment bases (test_what_is_not_denied). Not tested: what processors leak by their
timing.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from guests import build
from machine_code import (
    BACK,
    CODE,
    EXIT,
    FUTEX,
    FUTEX_WAIT,
    FUTEX_WAKE,
    JUMP_TABLE,
    RETURN_PAGE,
    RT_SIGRETURN,
    SIGNAL_STACK,
    SIGNAL_STACK_SIZE,
    SIGRETURN,
    USER32_CS,
    VMCTX,
    WORKER_STACK,
    WORKER_STACK_SIZE,
    ZYGOTE,
    Hostile,
    frame,
    hostile,
)
from processes import Census, mappings, parent

import vm

pytestmark = pytest.mark.asyncio(loop_factories=["aioring"])

PAGE = 0x1000
U64 = (1 << 64) - 1
AT_ONCE = 8

Load = Callable[..., Awaitable[Hostile]]


@pytest.fixture
async def engine(nothing_left: Census) -> AsyncIterator[vm.Engine]:
    """An engine that takes a module from its file each time, and a process for each instance."""
    async with vm.Engine(vm.Config(module_cache_size=0, reuse="never", spare_workers=0)) as engine:
        yield engine


@pytest.fixture
async def load(engine: vm.Engine, tmp_path: Path) -> AsyncIterator[Load]:
    """Makes modules of machine code; checks that those around their guests go on as if nothing had happened.

    That is: another guest of the engine, the nursery, and memory of the host.
    """
    secret = random.Random(1).randbytes(PAGE)
    canary = bytearray(secret)
    text = "%rw_data_size = 8192\n%stack_size = 4096\npub @add:\n    a0 = a0 + a1\n    ret\n"
    async with await (await engine.compile(build(text))).instantiate() as sibling:
        pid, nursery = sibling.pid, parent(sibling.pid)
        address = sibling.module.memory_map.rw_address
        sibling.memory.write(address, secret)

        async def load(code: str | bytes | None = None, config: vm.ModuleConfig | None = None) -> Hostile:
            return await (
                hostile(engine, tmp_path, config=config) if code is None else hostile(engine, tmp_path, code, config)
            )

        yield load
        assert canary == secret
        assert sibling.memory.read(address, PAGE) == secret
        assert sibling.memory.read(address + PAGE, PAGE) == bytes(PAGE)
        assert await sibling.call("add", 1, 2) == 3
        assert (sibling.pid, parent(sibling.pid)) == (pid, nursery)
        async with await sibling.module.instantiate() as another:
            assert parent(another.pid) == nursery
            assert await another.call("add", 1, 2) == 3


async def outcome(code: Hostile, instance: vm.Instance, *arguments: int, patience: float = 5) -> int | str:
    """What came of it: what it returned, or how it ended."""
    try:
        async with asyncio.timeout(patience):
            return await code.run(instance, *arguments)
    except vm.TrapError:
        return "trap"
    except TimeoutError:
        return "endless"
    except vm.SandboxDiedError as error:
        return str(re.findall(r"SIG[A-Z]+|exit status \d+|broke the rules", str(error))[0])


async def outcomes(code: Hostile, cases: Sequence[tuple[int, ...]]) -> list[int | str]:
    """Each in a process of its own, several at once."""
    results: list[int | str] = [""] * len(cases)
    left = enumerate(cases)

    async def some() -> None:
        for number, case in left:
            async with await linked(code) as instance:
                results[number] = await outcome(code, instance, *case)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return results


async def linked(code: Hostile) -> vm.Instance:
    linker = vm.Linker()
    linker.define("ask", lambda caller, value: value)
    return await linker.instantiate(code.module)


# --- system calls -----------------------------------------------------------------------------------------------------

X32 = 1 << 30  # __X32_SYSCALL_BIT
#: The guest's three. The kernel takes the low 32 bits of a number.
ALLOWED = (FUTEX, RT_SIGRETURN, EXIT)
#: uretprobe and uprobe: no filter is asked (kernel/seccomp.c, since 6.14 and 6.18). They serve the trampolines of
#: probes that somebody put there; called from anywhere else they are refused, or SIGILL.
UNFILTERED = {335: "trap", 336: U64 - 5}  # -ENXIO


async def test_every_system_call(load: Load) -> None:
    """The policy as such: by number, with arguments that would do something."""
    code = await load()
    numbers = [
        *(number for number in range(1024) if number not in ALLOWED),
        *(X32 | number for number in range(700)),
        *((1 << bit) + offset for bit in range(10, 64) for offset in (-1, 0, 1)),
        *(1 << 31 | number for number in ALLOWED),
    ]
    numbers = [number for number in numbers if number & 0xFFFF_FFFF not in ALLOWED]
    found = await outcomes(code, [(number, code.symbols["RW"], 1, 7, 0x22, U64, 0) for number in numbers])
    others = {number: how for number, how in zip(numbers, found, strict=True) if how != "SIGSYS"}
    assert others.items() <= UNFILTERED.items()


async def test_system_calls_of_32_bit_programs(load: Load) -> None:
    """Through int 0x80 and sysenter, under whose numbers other calls are allowed: 60 is umask there, 202 getegid32.

    Where the kernel has none, the instruction itself is denied.
    """
    for instruction in ("int $0x80", "sysenter"):
        code = await load(f"mov $SIGNAL_STACK + 0x8000, %rsp\n{instruction}\nmov %rax, %rdi\nleave")
        numbers = [*range(0, 512, 1 if instruction == "int $0x80" else 16), *ALLOWED, X32 | 1, 1 << 31, U64]
        found = await outcomes(code, [(number, 1, 1, 1) for number in numbers])
        assert set(found) <= {"SIGSYS", "SIGSEGV", "trap", "exit status 1"}, instruction


async def test_futex_waits_and_wakes_and_nothing_else(load: Load) -> None:
    code = await load()
    commands = [*range(256), *(flag | command for flag in (0x80, 0x100, 0x180, 1 << 31) for command in range(16))]
    commands += [1 << bit for bit in range(8, 32)]
    forbidden = [command for command in dict.fromkeys(commands) if command not in (FUTEX_WAIT, FUTEX_WAKE)]
    found = await outcomes(code, [(FUTEX, VMCTX, command, 77, 0, VMCTX, 1) for command in forbidden])
    assert {hex(command): how for command, how in zip(forbidden, found, strict=True) if how != "SIGSYS"} == {}
    # the kernel reads an int: what is above it changes nothing
    allowed = [(FUTEX, VMCTX, high << 32 | command, 77) for command in (0, 1) for high in (0, 1, 0xFFFF_FFFF)]
    found = await outcomes(code, allowed)
    assert found[:3] == [U64 - 10] * 3  # EAGAIN: the word is not 77
    assert set(found[3:]) <= {0, 1}  # whether the host waited already


async def test_futex_is_the_state_word_alone(load: Load) -> None:
    """Not the image, which all workers of a module map: its pages would be a way from one to the other."""
    code = await load()
    others = [VMCTX + 4, VMCTX - 4, VMCTX + (1 << 32), VMCTX & 0xFFFF_FFFF, VMCTX | 1 << 63, 0, U64]
    others += [code.symbols[name] for name in ("CODE", "JUMP_TABLE", "RETURN_PAGE", "RO", "RW", "AUX", "STACK")]
    others += [ZYGOTE, WORKER_STACK, SIGNAL_STACK]
    cases = [(FUTEX, address, command, 77) for address in others for command in (FUTEX_WAIT, FUTEX_WAKE)]
    assert set(await outcomes(code, cases)) == {"SIGSYS"}


async def test_exit_and_a_signal_frame_that_is_none(load: Load) -> None:
    code = await load()
    assert await outcomes(code, [(EXIT, 0), (EXIT, 1 << 32 | 77), (EXIT, U64)]) == [
        "exit status 0",
        "exit status 77",
        "exit status 255",
    ]
    (found,) = await outcomes(code, [(RT_SIGRETURN,)])
    assert found in ("SIGSEGV", "exit status 1", "trap")


async def test_system_call_instructions_of_the_zygote(load: Load) -> None:
    """Every place in its text that is one, aligned or not, is a gadget: none does more than the guest's own."""
    reading = await load("mov $RW, %edi\nmov $ZYGOTE, %rsi\nmov $0x2000, %ecx\nrep movsb\nleave")
    async with await linked(reading) as instance:
        await reading.run(instance)
        text = instance.memory.read(reading.symbols["RW"], 0x2000)
    gadgets = [match.start() for match in re.finditer(b"(?=\x0f\x05)", text)]
    assert gadgets
    code = await load("mov $WORKER_STACK + 0x2000, %rsp\nmov %r8, %rcx\njmp *%rcx")
    calls = [(9, 0, PAGE, 7, 0x22), (10, CODE, PAGE, 7), (39,), (57,), (62, 1, 9), (323, 1), (435, 0, 88)]
    cases = [(*call, *[0] * (5 - len(call)), ZYGOTE + gadget) for gadget in gadgets for call in calls]
    assert set(await outcomes(code, cases)) == {"SIGSYS"}


# --- memory -----------------------------------------------------------------------------------------------------------


def readable(code: Hostile) -> list[tuple[int, int]]:
    """Native addresses that a worker can read: its own windows and stacks, and the zygote."""
    layout = code.module.memory_map
    return [
        (layout.ro_address, layout.ro_address + layout.ro_accessible),
        (layout.rw_address, layout.rw_address + layout.rw_accessible),
        (layout.stack_low, layout.stack_high),
        (layout.aux_address, layout.aux_address + layout.aux_accessible),
        (ZYGOTE, ZYGOTE + 0x10000),
        (WORKER_STACK, WORKER_STACK + WORKER_STACK_SIZE),
        (SIGNAL_STACK, SIGNAL_STACK + SIGNAL_STACK_SIZE),
        (VMCTX, VMCTX + PAGE),
        (CODE, CODE + 0x10000),
        (JUMP_TABLE, JUMP_TABLE + PAGE),
        (RETURN_PAGE, RETURN_PAGE + PAGE),
    ]


def foreign_addresses(code: Hostile, canary: int) -> list[int]:
    """Where a worker has nothing: all that the host maps, the kernel's half, the pages around its own, others."""
    own = readable(code)
    host = [address for mapping in mappings("self") for address in (mapping.begin, mapping.end - 8)]
    around = [address for begin, end in own for address in (begin - 8, end)]
    powers = [(1 << bit) + offset for bit in range(3, 64) for offset in (-PAGE, 0, PAGE)]
    rng = random.Random(2)
    others = [rng.randrange(1 << 47) for _ in range(500)] + [rng.randrange(1 << 32) for _ in range(200)]
    kernel = [0xFFFF_FFFF_FF60_0000, 0xFFFF_8000_0000_0000, 0xFFFF_8880_0000_0000, 0xFFFF_FFFF_8000_0000, U64 - 7]
    every = dict.fromkeys([0, 8, canary, *host, *around, *powers, *others, *kernel])
    # code and zygote end somewhere in their ranges
    return [address for address in every if not any(begin - 8 < address < end for begin, end in own)]


@pytest.mark.parametrize("access", ["mov (%rdi), %rdi", "mov %rax, (%rdi)", "lock xadd %rax, (%rdi)"])
async def test_foreign_memory(load: Load, access: str) -> None:
    code = await load(access + "\nleave")
    canary = bytearray(PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(canary))
    async with await linked(code) as instance:
        for place in foreign_addresses(code, address):
            assert await outcome(code, instance, 0x4141, place) == "trap", hex(place)
        assert await instance.call("add", 1, 2) == 3
    assert canary == bytes(PAGE)


async def test_what_is_only_read(load: Load) -> None:
    """Its own code, the tables, the zygote's text: neither it nor those that map the same pages see a change."""
    reading = await load("mov (%rdi), %rdi\nleave")
    writing = await load("mov %rax, (%rdi)\nleave")
    places = [CODE, writing.symbols["HERE"], JUMP_TABLE, JUMP_TABLE + 16, RETURN_PAGE, ZYGOTE, ZYGOTE + 0x100]
    places += [writing.symbols["RO"], writing.symbols["AUX"]]
    async with await linked(writing) as instance, await linked(reading) as another:
        before = [await reading.run(another, 0, place) for place in places]
        for place in places:
            assert await outcome(writing, instance, 0x4141_4141, place) == "trap"
        async with await linked(reading) as third:
            for each in (another, third):
                assert [await reading.run(each, 0, place) for place in places] == before


async def test_nothing_else_is_executable(load: Load) -> None:
    """What it can write it cannot execute: the processor faults outside of the code window, which ends the worker."""
    copy = "mov $0xf4050fc3, %ebx\nmov %ebx, (%rdi)\njmp *%rdi"  # ret, syscall, hlt
    code = await load(copy)
    places = [code.symbols[name] for name in ("RW", "STACK")] + [WORKER_STACK, SIGNAL_STACK, VMCTX + 0x800]
    places += [ZYGOTE + offset for offset in (0x3000, 0x4000, 0x5000)]
    found = await outcomes(code, [(0, place) for place in places])
    assert set(found) <= {"exit status 1", "trap"}
    jumping = await load("jmp *%rdi")
    places = [0, JUMP_TABLE, RETURN_PAGE, code.symbols["RO"], code.symbols["AUX"], CODE - 1, CODE + 0x2000_0000]
    places += [0xFFFF_FFFF_FF60_0000, 0xFFFF_FFFF_FF60_0400, 0xFFFF_FFFF_FF60_0800, U64, 1 << 47, id(code), 0x1000]
    places += [mapping.begin for mapping in mappings("self") if "x" in mapping.permissions]
    found = await outcomes(jumping, [(0, place) for place in places])
    # the vsyscall page's calls, where there is one, are system calls like all others
    assert set(found) <= {"exit status 1", "trap", "SIGSYS", "SIGSEGV"}


async def test_its_own_memory_is_its_own_business(load: Load) -> None:
    """Stacks, the zygote's data and the shared page filled with whatever: the end of that worker at most."""
    code = await load("mov %r8, %rcx\nrep stosb\nud2")
    regions = [(WORKER_STACK, WORKER_STACK_SIZE), (SIGNAL_STACK, SIGNAL_STACK_SIZE), (VMCTX + 4, PAGE - 4)]
    zygote = range(ZYGOTE, ZYGOTE + 0x10000, PAGE)
    cases = [(value, begin, 0, 0, 0, size) for begin, size in regions for value in (0, 0x41, 0xFF)]
    cases += [(value, page, 0, 0, 0, PAGE) for page in zygote for value in (0, 0xFF)]
    found = await outcomes(code, cases)
    assert set(found) <= {"trap", "exit status 1", "SIGSEGV", "SIGSYS", "broke the rules"}


# --- the processor ----------------------------------------------------------------------------------------------------

PRIVILEGED = """
hlt; cli; sti; clts; invd; wbinvd; lgdt RW; lidt RW; lldt %ax; ltr %ax; lmsw %ax; swapgs; sysretq; iretq; rdmsr; wrmsr
mov %cr0, %rax; mov %rax, %cr0; mov %cr3, %rax; mov %rax, %cr4; mov %dr7, %rax; mov %rax, %dr7; invlpg RW; xsetbv
in $0x60, %al; out %al, $0x80; in %dx, %eax; insb; outsl; ud2; int3; int1; mov %ax, %ss; ljmp *RW; lcall *RW
monitor; mwait; rsm; vmlaunch; vmxoff; getsec; encls
"""


async def test_privileged_instructions(load: Load) -> None:
    instructions = [text.strip() for text in re.split(r"[;\n]", PRIVILEGED) if text.strip()]
    for instruction in instructions:
        code = await load(f"mov $0x10, %eax\n{instruction}\nmov $77, %edi\nleave")
        found = await outcomes(code, [()])
        assert set(found) <= {"trap", "exit status 1", "SIGSEGV", "SIGILL"}, instruction


async def test_software_interrupts(load: Load) -> None:
    stubs = b"".join(bytes([0xCD, number, 0xF4, 0x90]) for number in range(256))  # int number; hlt; nop
    table = ",".join(map(str, stubs))
    code = await load(f"movabs $HERE+0x20, %rcx\nlea (%rcx,%rdi,4), %rcx\njmp *%rcx\n.org 0x20\n.byte {table}")
    found = await outcomes(code, [(39, number) for number in range(256)])
    assert found.pop(0x80) in ("SIGSYS", "trap", "SIGSEGV")
    assert set(found) == {"trap"}


STATES = {
    "direction flag": "std",
    "trap flag": "mov $RW + 0x1000, %esp\npushfq\norq $0x100, (%rsp)\npopfq\nnop",
    "alignment check": "mov $RW + 0x1000, %esp\npushfq\norq $0x40000, (%rsp)\npopfq\nmov 1(%rsp), %rax",
    "I/O privilege and nested task": "mov $RW + 0x1000, %esp\npushfq\norq $0x7000, (%rsp)\npopfq",
    "segment bases": "mov $-1, %rax\nshr $17, %rax\nwrfsbase %rax\nwrgsbase %rax",
    "null segments": "xor %eax, %eax\nmov %ax, %ds\nmov %ax, %es\nmov %ax, %fs\nmov %ax, %gs",
    "x87": "fninit\nfldpi\nfldpi\nfldpi\nfldpi\nfldpi\nfldpi\nfldpi\nfldpi\nfldpi",
    "x87 exceptions": "mov $RW, %eax\nmovl $0, (%rax)\nfninit\nfldcw (%rax)\nfld1\nfldz\nfdivrp\nfwait",
    "SSE exceptions": "mov $RW, %eax\nmovl $0, (%rax)\nldmxcsr (%rax)\nxorps %xmm0, %xmm0\ndivss %xmm0, %xmm0",
    "AVX": "vpcmpeqd %ymm0, %ymm0, %ymm0\nvpcmpeqd %ymm15, %ymm15, %ymm15",
    "scratch registers": "mov $-1, %rsp\nmov $-1, %r15\nmov $-1, %rcx",
}


@pytest.mark.parametrize("state", STATES)
async def test_processor_states_stay_in_the_process(load: Load, state: str) -> None:
    """Left behind at a return to the host, they harm neither it nor the next call; a fault of theirs is a trap."""
    code = await load(f"{STATES[state]}\nmov $77, %edi\nleave")
    async with await linked(code) as instance:
        found = await outcome(code, instance)
        assert found in (77, "trap", "exit status 1")
        if found != "exit status 1":
            assert await instance.call("ask", 5) == 5
            assert await instance.call("grow", 100_000) != 0
            assert await outcome(code, instance) == found


NOT_DENIED = "rdtsc; rdtscp; cpuid; rdrand %rax; rdseed %rax; xgetbv; rdpid %rax; rdfsbase %rax; smsw %rax; sgdt RW"


async def test_what_is_not_denied(load: Load) -> None:
    """Or is, by processors and kernels that have it so: neither way ends the worker."""
    for instruction in NOT_DENIED.split(";"):
        code = await load(f"xor %ecx, %ecx\n{instruction}\nmov $77, %edi\nleave")
        async with await linked(code) as instance:
            assert await outcome(code, instance) in (77, "trap"), instruction
            assert await instance.call("add", 1, 2) == 3


# --- signals ----------------------------------------------------------------------------------------------------------


async def return_to(code: Hostile, instance: vm.Instance, data: bytes, *, patience: float = 5) -> int | str:
    instance.memory.write(code.symbols["RW"], data)
    return await outcome(code, instance, RT_SIGRETURN, code.symbols["RW"], patience=patience)


async def test_forged_signal_frames(load: Load) -> None:
    """All registers at once from memory (SROP): system calls, other segments, flags, states that are none."""
    code = await load(SIGRETURN + "mov $77, %edi\nleave")
    back = code.symbols["HERE"] + BACK
    rw = code.symbols["RW"]
    goes_on = {"rip": back}
    frames: dict[str, dict[str, Any]] = {
        "as it was": goes_on,
        "no flags": goes_on | {"eflags": 0},
        "all flags": goes_on | {"eflags": U64},
        "virtual 8086": goes_on | {"eflags": 1 << 17 | 0x202},
        "trap flag": goes_on | {"eflags": 0x302},
        "kernel code": goes_on | {"cs": 0x10},
        "kernel stack": goes_on | {"ss": 0x18},
        "32-bit code": goes_on | {"cs": USER32_CS},
        "32-bit code in guest memory": {"rip": rw + 512, "cs": USER32_CS},
        "local descriptor table": goes_on | {"cs": 7, "ss": 15},
        "no segments": goes_on | {"cs": 0, "ss": 0},
        "kernel address": {"rip": 0xFFFF_FFFF_8100_0000},
        "no address": {"rip": 1 << 63},
        "kernel stack pointer": goes_on | {"rsp": 0xFFFF_8880_0000_0000},
        "processor state in the kernel": goes_on | {"fpstate": 0xFFFF_8880_0000_0000},
        "processor state nowhere": goes_on | {"fpstate": 0x1000},
        "processor state of zeros": goes_on | {"fpstate": rw + 1024, "flags": 7},
        "processor state, odd": goes_on | {"fpstate": rw + 1025, "flags": 1},
        "all signals blocked": goes_on | {"mask": U64},
    }
    found = {}
    for name, words in frames.items():
        async with await linked(code) as instance:
            found[name] = await return_to(code, instance, frame(**words), patience=0.05)
    # A code segment that is none faults wherever it is returned to, the trampoline of traps as well.
    assert set(found.values()) <= {77, "trap", "exit status 1", "SIGSEGV", "endless"}
    assert found["as it was"] == 77
    assert found["all flags"] == found["trap flag"] == "trap"
    assert found["32-bit code in guest memory"] == "exit status 1"
    assert found["kernel address"] == found["no address"] == "exit status 1"
    calls = [0, 9, 10, 39, 56, 57, 59, 62, 101, 202, 257, 317, 435, X32 | 1]
    syscall = code.symbols["HERE"] + 8
    for number in calls:
        async with await linked(code) as instance:
            data = frame(rip=syscall, rax=number, rdi=rw, rsi=PAGE, rdx=7, r10=0x22, r8=U64)
            assert await return_to(code, instance, data) == "SIGSYS", number


async def test_signal_stacks_of_its_own_choice(load: Load) -> None:
    """A forged frame also sets the alternate signal stack, which the kernel writes to at the next fault."""
    code = await load(SIGRETURN + "ud2")
    back = code.symbols["HERE"] + BACK
    rw = code.symbols["RW"]
    places = [0, PAGE, rw, rw + 0x4000, CODE, JUMP_TABLE, VMCTX, ZYGOTE, WORKER_STACK, 1 << 47, 1 << 63, U64 - 0xFFFF]
    for place, flags, size in itertools.product(places, (0, 2, 1 << 31), (0x1000, 0x10000, U64)):
        async with await linked(code) as instance:
            data = frame(rip=back, stack=(place, flags, size), rsp=rw + 0x3000)
            found = await return_to(code, instance, data)
            assert found in ("trap", "SIGSEGV", "exit status 1", "broke the rules"), (hex(place), flags, size)


async def test_a_guest_that_blocks_the_hosts_signal(load: Load) -> None:
    """It cannot be stopped, so it is killed."""
    code = await load(SIGRETURN + "jmp .")
    back = code.symbols["HERE"] + BACK
    async with await linked(code) as instance:
        instance.memory.write(code.symbols["RW"], frame(rip=back, mask=U64))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await code.run(instance, RT_SIGRETURN, code.symbols["RW"])
        with pytest.raises(vm.SandboxDiedError, match="SIGKILL"):
            await instance.call("add", 1, 2)


# --- time -------------------------------------------------------------------------------------------------------------

ENDLESS = {
    "loop": "1: jmp 1b",
    "wakes": "1: wake\njmp 1b",
    "sleep": "1: mov $202, %eax\nmovabs $VMCTX, %rdi\nxor %esi, %esi\nmov $1, %edx\nxor %r10d, %r10d\nsyscall\njmp 1b",
    "other states": """
1:  movabs $VMCTX, %rbx
    incl %r14d
    and $7, %r14d
    mov $1, %eax
    xchg %eax, (%rbx)
    wake
    jmp 1b""",
}


@pytest.mark.parametrize("what", ENDLESS)
async def test_endless(load: Load, what: str) -> None:
    """The loop and other guests have their turns meanwhile; it is stopped when it has to be, or killed."""
    code = await load(ENDLESS[what])
    other = await load("leave")
    async with await linked(code) as instance, await linked(other) as sibling:
        call = asyncio.create_task(code.run(instance))
        for _ in range(200):
            assert await other.run(sibling, 0, 5) == 5
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_random_machine_code(load: Load, engine: vm.Engine) -> None:
    rng = random.Random(4)
    seen: dict[int | str, int] = {}
    for _ in range(100):
        code = await load(rng.randbytes(rng.choice([3, 20, 500])) + b"\x0f\x05\xf4")
        async with await linked(code) as instance:
            found = await outcome(code, instance, rng.randrange(512), code.symbols["RW"], patience=0.05)
            found = found if isinstance(found, str) else "returned"
            seen[found] = seen.get(found, 0) + 1
    assert seen.get("trap", 0) > 30
    assert set(seen) <= {
        *("trap", "exit status 1", "SIGSEGV", "SIGSYS", "endless", "returned", "broke the rules", "SIGKILL")
    }
