# SPDX-License-Identifier: MIT
"""What the kernel says about a running worker and its nursery, and what becomes of a guest that broke out.

Some of /proc/PID is for those only who may trace the process (ptrace(2)); workers are undumpable, so that takes
CAP_SYS_PTRACE. Tests that look there skip without it, and test_undumpable shows that it is refused.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from guests import build
from processes import children, mappings, parent, status, wait_for_death, wake_futex, watch

import vm
from vm._sandbox import ffi, lib
from vm._worker import Worker

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")

#: Every region of memory, and an endless loop.
PROGRAM = """
%ro_data = 11 22 33 44
%rw_data = 55 66
%rw_data_size = 0x5000
%stack_size = 0x2000
pub @add:
    a0 = a0 + a1
    ret
pub @spin:
    ecalli 0
@endless:
    a0 = a0 + 1
    jump @endless
@after:
    a1 = sbrk a2
    a0 = @after
    ret
""".replace("0x5000", str(0x5000)).replace("0x2000", str(0x2000))

CAN_LOOK_INSIDE = int(status(os.getpid())["CapEff"], 16) >> 19 & 1  # CAP_SYS_PTRACE, capability.h
look_inside = pytest.mark.skipif(not CAN_LOOK_INSIDE, reason="only CAP_SYS_PTRACE can look into an undumpable process")


class Guest:
    """An instance that runs an endless loop."""

    def __init__(self, instance: vm.Instance, call: asyncio.Task[int]) -> None:
        self.instance = instance
        self.call = call
        self.pid = instance.pid
        self.nursery = parent(instance.pid)


async def run_forever(module: vm.Module) -> Guest:
    entered = asyncio.Event()
    linker = vm.Linker()
    linker.define("entered", lambda caller: entered.set())
    instance = await linker.instantiate(module)
    call = asyncio.create_task(instance.call("spin"))
    await entered.wait()
    while "running" not in repr(instance):
        assert not call.done()
        await asyncio.sleep(0)
    return Guest(instance, call)


@pytest.fixture
async def module(engine: vm.Engine) -> vm.Module:
    return await engine.compile(build(PROGRAM, imports=["entered"]), vm.ModuleConfig(aux_data_size=4096))


@pytest.fixture
async def guest(module: vm.Module) -> AsyncIterator[Guest]:
    guest = await run_forever(module)
    yield guest
    await guest.instance.aclose()
    with pytest.raises(vm.VMError):
        await guest.call


@pytest.fixture(params=["worker", "nursery"])
def pid(request: pytest.FixtureRequest, guest: Guest) -> int:
    """A running worker, and the process that it was cloned from."""
    return guest.pid if request.param == "worker" else guest.nursery


# --- what both are denied ---------------------------------------------------------------------------------------------


async def test_the_host_has_one_child_for_the_engine(guest: Guest) -> None:
    assert guest.nursery in children()
    assert parent(guest.nursery) == os.getpid()


async def test_seccomp_and_privileges(pid: int, guest: Guest) -> None:
    found = status(pid)
    assert found["Seccomp"] == "2"  # SECCOMP_MODE_FILTER
    assert found["Seccomp_filters"] == ("2" if pid == guest.pid else "1")
    assert found["NoNewPrivs"] == "1"
    assert {name: int(found[name], 16) for name in CAPABILITY_SETS} == dict.fromkeys(CAPABILITY_SETS, 0)
    assert found["Groups"] == "" or os.getuid() != 0
    assert found["Threads"] == "1"
    assert found["TracerPid"] == "0"


async def test_identity(pid: int) -> None:
    found = status(pid)
    (uid,), (gid,) = set(found["Uid"].split()), set(found["Gid"].split())
    if os.getuid() == 0:
        assert int(uid) not in (0, os.getuid(), 65534)
        assert int(gid) not in (0, os.getgid(), 65534)
        owners = {str(path.stat().st_uid) for path in Path("/etc").iterdir()}
        assert uid not in owners
    else:
        assert (int(uid), int(gid)) == (os.getuid(), os.getgid())


async def test_workers_are_nobody_in_a_namespace_of_their_own(guest: Guest) -> None:
    """No user of the worker's namespace stands for any outside: there is no set-uid and no file of its own."""
    assert Path(f"/proc/{guest.pid}/uid_map").read_text() == ""
    assert Path(f"/proc/{guest.pid}/gid_map").read_text() == ""
    assert Path(f"/proc/{guest.nursery}/setgroups").read_text().strip() == "deny"


async def test_process_ids(guest: Guest) -> None:
    """Each is the first process of its own namespace: the nursery sees its workers, a worker only itself."""
    assert status(guest.nursery)["NSpid"].split() == [str(guest.nursery), "1"]
    outside, middle, inside = status(guest.pid)["NSpid"].split()
    assert (outside, inside) == (str(guest.pid), "1")
    assert int(middle) > 1


async def test_limits(pid: int, guest: Guest) -> None:
    expected = {
        "Max core file size": 0,
        "Max file size": 0,
        "Max file locks": 0,
        "Max locked memory": 0,
        "Max msgqueue size": 0,
        "Max stack size": 16 << 10,
        "Max data size": 8 << 30,
    }
    if pid == guest.pid:
        expected |= {"Max processes": 1, "Max open files": 0, "Max cpu time": 7 * 24 * 3600}
    found = {}
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]:
        name, soft, hard = line[:26].strip(), *line[26:].split()[:2]
        if name in expected:
            assert soft == hard, name
            found[name] = int(soft)
    assert found == expected


async def test_undumpable(pid: int) -> None:
    """No core, no tracer, no look at its memory: its files in /proc belong to root (prctl(2), PR_SET_DUMPABLE)."""
    assert Path(f"/proc/{pid}/maps").stat().st_uid == 0
    assert status(pid)["Uid"].split()[0] != "0"
    if not CAN_LOOK_INSIDE:
        for secret in ("fd", "maps", "mem", "environ", "root", "ns/user"):
            with pytest.raises(PermissionError):
                if secret in ("root", "ns/user"):
                    os.readlink(f"/proc/{pid}/{secret}")
                elif secret == "fd":
                    os.listdir(f"/proc/{pid}/fd")
                else:
                    Path(f"/proc/{pid}/{secret}").read_bytes()


@look_inside
async def test_namespaces(module: vm.Module, guest: Guest) -> None:
    def namespaces(pid: int) -> dict[str, str]:
        return {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in NAMESPACES}

    ours, nursery, worker = namespaces(os.getpid()), namespaces(guest.nursery), namespaces(guest.pid)
    other = await run_forever(module)
    for name in NAMESPACES:
        assert worker[name] != ours[name], name
        assert nursery[name] != ours[name], name
        own = name in ("user", "pid")
        assert (worker[name] != nursery[name]) == own, name
        assert (worker[name] != namespaces(other.pid)[name]) == own, name
    await other.instance.aclose()
    with pytest.raises(vm.VMError):
        await other.call


@look_inside
async def test_the_root_is_empty(pid: int) -> None:
    assert os.listdir(f"/proc/{pid}/root") == []
    assert os.listdir(f"/proc/{pid}/cwd") == []
    assert os.readlink(f"/proc/{pid}/root") == "/"
    found = os.stat(f"/proc/{pid}/root/")
    assert (found.st_dev, found.st_ino) != (os.stat("/").st_dev, os.stat("/").st_ino)
    mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    assert len(mounts) == 1
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(mounts[0].split()[5].split(","))
    with pytest.raises(OSError, match=r"Read-only|No space"):
        Path("/proc", str(pid), "root", "file").touch()


@look_inside
async def test_open_files(guest: Guest) -> None:
    assert os.listdir(f"/proc/{guest.pid}/fd") == []
    kinds = [
        os.readlink(f"/proc/{guest.nursery}/fd/{fd}").split(":")[0] for fd in os.listdir(f"/proc/{guest.nursery}/fd")
    ]
    assert sorted(kinds) == ["anon_inode", "socket"]  # a pidfd of the host, and the way to it


@look_inside
async def test_no_network(guest: Guest) -> None:
    interfaces = Path(f"/proc/{guest.pid}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] in ([], ["lo"])
    assert len(Path(f"/proc/{guest.pid}/net/route").read_text().splitlines()) <= 1  # headings


@look_inside
async def test_environment_and_arguments(pid: int) -> None:
    """Nothing of the host's: the pages that held them are unmapped."""
    assert Path(f"/proc/{pid}/environ").read_bytes() == b""
    assert Path(f"/proc/{pid}/cmdline").read_bytes() in (b"", b"zygote\0")


# --- memory -----------------------------------------------------------------------------------------------------------


@look_inside
async def test_mappings(guest: Guest) -> None:
    layout = guest.instance.module.memory_map
    found = [m for m in mappings(guest.pid) if m.name not in ("[vsyscall]", "[vdso]", "[vvar]", "[vvar_vclock]")]
    assert all("w" not in m.permissions or "x" not in m.permissions for m in found)

    below = [(m.begin, m.end, m.permissions) for m in found if m.begin < 1 << 32]
    assert below == [
        (layout.ro_address, layout.ro_address + layout.ro_accessible, "r--s"),
        # to where the heap can grow; what lies behind the end of the file raises SIGBUS
        (layout.rw_address, layout.heap_base + layout.max_heap_size, "rw-s"),
        (layout.stack_low, layout.stack_high, "rw-s"),
        (layout.aux_address, layout.aux_address + layout.aux_accessible, "r--s"),
    ]
    above = [m for m in found if m.begin >= 1 << 32]
    executable = [m for m in above if "x" in m.permissions]
    assert [(m.permissions, m.name.split()[0]) for m in executable] == [
        ("r-xp", "/memfd:pvm-zygote"),
        ("r-xs", "/memfd:pvm-image"),
    ]
    writable = [(m.permissions, m.end - m.begin, m.name.split(" ")[0]) for m in above if "w" in m.permissions]
    assert all(size <= 0x10000 for _, size, _ in writable)
    assert [(permissions, name) for permissions, _, name in writable if name] == [("rw-s", "/memfd:pvm-ram")]
    assert next(size for _, size, name in writable if name) == 0x1000  # the page shared with the host
    assert {m.permissions for m in above} == {"r-xp", "r--p", "rw-p", "rw-s", "r-xs", "r--s"}
    names = {m.name.removesuffix(" (deleted)") for m in found}
    assert names == {"", "/memfd:pvm-zygote", "/memfd:pvm-image", "/memfd:pvm-ram", "/memfd:pvm-aux"}
    private = sum(m.end - m.begin for m in found if not m.name)
    assert private <= 0x20000


@look_inside
async def test_the_nursery_maps_nothing_but_itself(guest: Guest) -> None:
    found = [m for m in mappings(guest.nursery) if m.name not in ("[vsyscall]", "[vdso]", "[vvar]", "[vvar_vclock]")]
    assert {m.name.removesuffix(" (deleted)") for m in found} == {"", "/memfd:pvm-zygote"}
    assert [m.permissions for m in found if "x" in m.permissions] == ["r-xp"]
    assert max(m.end for m in found) - min(m.begin for m in found) < 0x10000


async def test_code_is_sealed(module: vm.Module) -> None:
    """Against everybody: no process can map it writable, the host included."""
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    images = [fd for fd in os.listdir("/proc/self/fd") if "pvm-image" in _link(fd)]
    assert len(images) == 1
    assert fcntl.fcntl(int(images[0]), fcntl.F_GET_SEALS) & seals == seals
    with pytest.raises(PermissionError):
        os.pwrite(int(images[0]), b"\xcc", 0)
    for mapping in mappings("self"):
        assert "pvm-image" not in mapping.name or mapping.permissions == "r--s"


def _link(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return ""


async def test_host_files_are_closed_on_exec(module: vm.Module, guest: Guest) -> None:
    for fd in os.listdir("/proc/self/fd"):
        if any(kind in _link(fd) for kind in ("pvm-", "pidfd", "io_uring", "socket")):
            assert not os.get_inheritable(int(fd)), _link(fd)


# --- a guest that broke out: the shared page --------------------------------------------------------------------------


VMCTX_STATES = {
    "GUEST_SIGNAL": 4,
    "GUEST_STEP": 5,
    "STARTING": 9,
    "FAILED": 10,
    "DEAD": 11,
    "unknown": 12,
    "huge": 0xFFFF_FFFF,
}
#: With which a worker reports that the host's signal stopped it (protocol.h).
INTERRUPT_SIGNAL = signal.SIGUSR1.value
STOPS_WITH_PC = {"ECALLI": 2, "TRAP": 3, "SBRK": 8}


def forge(guest: Guest, state: int) -> None:
    """Does to the shared page what a guest could that can write anywhere, and wakes the host."""
    worker = cast(Worker, guest.instance._machine)
    word = lib.sandbox_worker_futex(worker.handle)
    word[0] = state
    wake_futex(int(ffi.cast("uintptr_t", word)))


@pytest.mark.parametrize("state", VMCTX_STATES.values(), ids=VMCTX_STATES)
async def test_forged_states(module: vm.Module, state: int) -> None:
    guest = await run_forever(module)
    with watch(guest.pid) as pidfds:
        forge(guest, state)
        with pytest.raises(vm.SandboxDiedError, match="broke the rules"):
            await guest.call
        wait_for_death(*pidfds.values())
    await guest.instance.aclose()
    async with await module.instantiate() as another:
        assert await another.call("add", 1, 2) == 3


@pytest.mark.parametrize("address", [0, 1, 0x10_0000_0000, 0x10_0000_0001, 0x10_0000_0FFF, 2**64 - 1], ids=hex)
@pytest.mark.parametrize("state", STOPS_WITH_PC.values(), ids=STOPS_WITH_PC)
async def test_forged_addresses(module: vm.Module, state: int, address: int) -> None:
    """The place it says it stopped at is no instruction, or not one that stops like that."""
    guest = await run_forever(module)
    vmctx = ffi.cast("uint64_t *", lib.sandbox_worker_futex(cast(Worker, guest.instance._machine).handle))
    words = 64 // 8 + 13 + 1 + 2
    vmctx[words + 1] = address  # registers, gas, tmp, next_native_pc, then native_pc (vmctx.h)
    with watch(guest.pid) as pidfds:
        forge(guest, state)
        with pytest.raises((vm.SandboxDiedError, vm.TrapError)) as caught:
            await guest.call
        if isinstance(caught.value, vm.SandboxDiedError):
            assert "broke the rules" in str(caught.value)
            wait_for_death(*pidfds.values())
        else:
            assert isinstance(caught.value, vm.TrapError)
            assert state == STOPS_WITH_PC["TRAP"]
            assert caught.value.pc is not None
            assert module.blob.is_instruction_start(caught.value.pc)
    await guest.instance.aclose()


@pytest.mark.parametrize("address", [0, 0x10_0000_0000, 0x10_0000_0FFF, 2**64 - 1], ids=hex)
async def test_interrupts_that_nobody_asked_for(module: vm.Module, address: int) -> None:
    """A stop by the host's signal, wherever that is said to have been."""
    guest = await run_forever(module)
    vmctx = ffi.cast("uint64_t *", lib.sandbox_worker_futex(cast(Worker, guest.instance._machine).handle))
    words = 64 // 8 + 13 + 1 + 2
    vmctx[words + 1] = address
    vmctx[words + 2] = INTERRUPT_SIGNAL << 32
    with watch(guest.pid) as pidfds:
        forge(guest, STOPS_WITH_PC["TRAP"])
        with pytest.raises(vm.SandboxDiedError, match="broke the rules"):
            await guest.call
        wait_for_death(*pidfds.values())
    await guest.instance.aclose()


@pytest.mark.parametrize("address", [0, 0x10_0000_0000, 0x10_0000_0FFF, 2**64 - 1], ids=hex)
@pytest.mark.parametrize("state", [3, 4], ids=["TRAP", "GUEST_SIGNAL"])
async def test_forged_answers_to_an_interrupt(module: vm.Module, state: int, address: int) -> None:
    guest = await run_forever(module)
    worker = cast(Worker, guest.instance._machine)
    vmctx = ffi.cast("uint64_t *", lib.sandbox_worker_futex(worker.handle))
    words = 64 // 8 + 13 + 1 + 2
    os.kill(guest.pid, signal.SIGSTOP)  # it says nothing of its own
    guest.call.cancel()
    await asyncio.sleep(0)
    while (vmctx[words + 3] >> 32) != 1:  # until the host has asked
        await asyncio.sleep(0)
    vmctx[words + 1] = address
    vmctx[words + 2] = INTERRUPT_SIGNAL << 32
    with watch(guest.pid) as pidfds:
        forge(guest, state)
        with pytest.raises(asyncio.CancelledError):
            await guest.call
        wait_for_death(*pidfds.values())
    with pytest.raises(vm.SandboxDiedError):
        await guest.instance.call("add", 1, 2)
    await guest.instance.aclose()


async def test_registers_of_a_forged_stop_are_what_they_are(module: vm.Module) -> None:
    """A guest that says it finished has finished; that it lies about its registers is its own business."""
    guest = await run_forever(module)
    forge(guest, 0)
    assert 0 <= await guest.call < 2**64
    await guest.instance.aclose()


# --- a guest that broke out: system calls -----------------------------------------------------------------------------

_PTRACE_CONT, _PTRACE_GETREGS, _PTRACE_SETREGS, _PTRACE_SEIZE, _PTRACE_INTERRUPT = 7, 12, 13, 0x4206, 0x4207
_REGISTERS = """
    r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs
"""
_WALL = 0x40000000
SYSCALL = b"\x0f\x05"
INT_80 = b"\xcd\x80"  # the way in for 32-bit programs


class _UserRegisters(ctypes.Structure):
    """struct user_regs_struct of sys/user.h."""

    _fields_ = [(name, ctypes.c_ulonglong) for name in _REGISTERS.split()]


def _ptrace(request: int, pid: int, address: int = 0, data: Any = None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    if libc.ptrace(request, pid, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def system_call_in(pid: int, number: int, *arguments: int, instruction: bytes = SYSCALL) -> int:
    """Makes a stopped-in-its-loop process do a system call; returns its wait status after that."""
    zygote = next(m for m in mappings(pid) if m.permissions == "r-xp" and "zygote" in m.name)
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        memory.seek(zygote.begin)
        at = memory.read(zygote.end - zygote.begin).index(SYSCALL)  # the zygote has its own
        if instruction != SYSCALL:
            memory.seek(zygote.begin + at)  # a tracer may write where the process itself cannot
            memory.write(instruction)
    _ptrace(_PTRACE_SEIZE, pid)
    _ptrace(_PTRACE_INTERRUPT, pid)
    _, state = os.waitpid(pid, _WALL)
    assert os.WIFSTOPPED(state)
    registers = _UserRegisters()
    _ptrace(_PTRACE_GETREGS, pid, 0, ctypes.addressof(registers))
    registers.rip = zygote.begin + at
    registers.rax = number
    registers.orig_rax = 2**64 - 1  # no interrupted system call to restart
    for name, value in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), arguments, strict=False):
        setattr(registers, name, value)
    _ptrace(_PTRACE_SETREGS, pid, 0, ctypes.addressof(registers))
    _ptrace(_PTRACE_CONT, pid)
    _, state = os.waitpid(pid, _WALL)
    return state


FORBIDDEN: dict[str, tuple[int, ...]] = {
    "read": (0, 0, 0x30000, 1),
    "write": (1, 1, 0x30000, 1),
    "open": (2, 0x30000, 0),
    "close": (3, 0),
    "mmap": (9, 0, 4096, 7, 0x22, 2**64 - 1, 0),
    "mprotect": (10, 0x30000, 4096, 7),
    "munmap": (11, 0x30000, 4096),
    "brk": (12, 0),
    "ioctl": (16, 0, 0, 0),
    "getpid": (39,),
    "socket": (41, 1, 1, 0),
    "sendmsg": (46, 0, 0x30000, 0),
    "recvmsg": (47, 0, 0x30000, 0),
    "clone": (56, 0, 0),
    "fork": (57,),
    "execve": (59, 0x30000, 0, 0),
    "kill": (62, 1, 9),
    "ptrace": (101, 0, 1, 0, 0),
    "prctl": (157, 4, 1),
    "exit_group": (231, 0),
    "openat": (257, 0, 0x30000, 0),
    "seccomp": (317, 1, 0, 0),
    "userfaultfd": (323, 1),
    "io_uring_setup": (425, 1, 0x30000),
    "clone3": (435, 0x30000, 88),
    "futex, private": (202, 0x30000, 0x80, 0),
    "futex, requeue": (202, 0x30000, 3, 0),
    "futex, wake in real time": (202, 0x30000, 0x101, 0),
    "x32 exit": (0x4000_0000 | 60, 0),
    "no such call": (100_000,),
}


@look_inside
@pytest.mark.asyncio(loop_factories=["aioring"])
@pytest.mark.parametrize("call", FORBIDDEN.values(), ids=FORBIDDEN)
async def test_system_calls_kill(module: vm.Module, guest: Guest, call: tuple[int, ...]) -> None:
    state = system_call_in(guest.pid, *call)
    assert os.WIFSIGNALED(state)
    assert os.WTERMSIG(state) == signal.SIGSYS
    with pytest.raises(vm.SandboxDiedError, match="SIGSYS"):
        await guest.call
    async with await module.instantiate() as another:  # nobody else was hurt
        assert await another.call("add", 1, 2) == 3


@look_inside
@pytest.mark.asyncio(loop_factories=["aioring"])
async def test_32_bit_system_calls_kill(guest: Guest) -> None:
    """Under their numbers other calls are allowed: 60 is umask there, 202 getegid32."""
    state = system_call_in(guest.pid, 60, 0, instruction=INT_80)
    assert os.WIFSIGNALED(state)
    assert os.WTERMSIG(state) in (signal.SIGSYS, signal.SIGSEGV)  # the latter where the kernel has no 32-bit calls
    with pytest.raises(vm.SandboxDiedError):
        await guest.call


@look_inside
@pytest.mark.asyncio(loop_factories=["aioring"])
async def test_leaving_is_allowed(guest: Guest) -> None:
    state = system_call_in(guest.pid, 60, 3)  # exit
    assert os.WIFEXITED(state)
    assert os.WEXITSTATUS(state) == 3
    with pytest.raises(vm.SandboxDiedError, match="exit status 3"):
        await guest.call


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGALRM, signal.SIGCHLD]
)
async def test_signals_meant_for_the_host_do_not_reach_its_sandboxes(
    engine: vm.Engine, module: vm.Module, number: signal.Signals
) -> None:
    """A terminal's Ctrl-C goes to the whole process group; the host decides what becomes of its guests."""
    async with await module.instantiate() as instance:
        nursery = parent(instance.pid)
        for pid in (instance.pid, nursery):
            _try_kill(pid, number)
        assert await instance.call("add", 1, 2) == 3
    async with await module.instantiate() as instance, await module.instantiate() as another:
        assert parent(another.pid) == nursery
        assert await instance.call("add", 1, 2) == 3


def _try_kill(pid: int, number: int) -> None:
    """Unlike root, a user may not signal what runs in another user's name; here the name is the same."""
    os.kill(pid, number)


async def test_the_hosts_signal_from_somebody_else(module: vm.Module) -> None:
    """Without a request in the shared page it does nothing to a guest that runs."""
    guest = await run_forever(module)
    before = guest.instance.pid
    for _ in range(100):
        os.kill(guest.pid, INTERRUPT_SIGNAL)
        await asyncio.sleep(0)
    assert not guest.call.done()
    guest.call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await guest.call
    assert await guest.instance.call("add", 1, 2) == 3
    assert guest.instance.pid == before
    await guest.instance.aclose()


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGILL, signal.SIGTRAP, signal.SIGFPE, signal.SIGBUS])
async def test_trap_signals_from_outside(module: vm.Module, number: signal.Signals) -> None:
    """They look like a trap of the guest or end the worker: never more."""
    guest = await run_forever(module)
    os.kill(guest.pid, number)
    with pytest.raises((vm.TrapError, vm.SandboxDiedError)) as caught:
        await guest.call
    if isinstance(caught.value, vm.TrapError):
        assert caught.value.pc is not None
        assert module.blob.is_instruction_start(caught.value.pc)
        assert await guest.instance.call("add", 1, 2) == 3
    await guest.instance.aclose()
