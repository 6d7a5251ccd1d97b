# SPDX-License-Identifier: MIT
"""Machine code of the tests' own in the place of the recompiler's: what a guest is whose recompiler is broken.

A compiled module is saved, the native code of one long function of it overwritten, and loaded again. Trampolines,
tables and the other functions stay as they were. `Hostile.run` enters the code with the arguments in the registers that
a system call wants them in; the code may do what it likes, and can come back:

    leave       returns to the host, with rdi as the result
    wake        wakes the host, should it wait for this worker

Addresses are symbols: HERE (the code itself), CODE, VMCTX, ZYGOTE, JUMP_TABLE, RETURN_PAGE, WORKER_STACK, SIGNAL_STACK,
RW (read-write data), STACK (its lowest address), RO, AUX, and the trampolines ENTER and HALT.
"""

from __future__ import annotations

import functools
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from guests import build
from module_files import File, put

import vm

#: Native addresses (layout.h).
CODE: Final = 0x10_0000_0000
JUMP_TABLE: Final = 0x10_4000_0000
RETURN_PAGE: Final = JUMP_TABLE + 0xFFFF_0000 * 8
ZYGOTE: Final = 0xF_F000_0000
WORKER_STACK, WORKER_STACK_SIZE = 0xF_FFE0_0000, 0x4000
SIGNAL_STACK, SIGNAL_STACK_SIZE = 0xF_FFE8_0000, 0x10000
VMCTX: Final = 0xF_FFF0_0000
#: Byte offsets in the page there (vmctx.h).
VMCTX_FIELDS: Final = {
    "STATE": 0,
    "REGS": 64,
    "GAS": 168,
    "TMP": 176,
    "NEXT_NATIVE_PC": 192,
    "NATIVE_PC": 200,
    "SIGNAL": 212,
    "INTERRUPT": 220,
    "FAULT": 248,
}
BUSY, IDLE, ECALLI, TRAP, SIGNAL, STEP, SBRK = 1, 0, 2, 3, 4, 5, 8
FUTEX, RT_SIGRETURN, EXIT = 202, 15, 60
FUTEX_WAIT, FUTEX_WAKE = 0, 1

#: Instructions that make room for `hostile`; each is at least three bytes of native code.
_ROOM: Final = 1000
_PROGRAM: Final = (
    f"""
%ro_data = 11 22 33 44
%rw_data = 55 66
%rw_data_size = {0x5000}
%stack_size = {0x2000}
pub @fill:
    [a0..a0 + a2] = u8 a1
    ret
pub @add:
    a0 = a0 + a1
    ret
pub @ask:
    ecalli 0
    ret
pub @grow:
    a0 = sbrk a0
    ret
pub @load:
    a0 = u64 [a0]
    ret
pub @spin:
    jump @spin
pub @hostile:
"""
    + "    a0 = a0 + 1000\n" * _ROOM
)

_MACROS: Final = """
.macro leave
    movabs $HALT, %rcx
    jmp *%rcx
.endm
.macro wake                       # the host, if it waits for this worker
    mov $202, %eax
    movabs $VMCTX, %rdi
    mov $1, %esi
    mov $0x7fffffff, %edx
    syscall
.endm
"""


@dataclass(frozen=True)
class Hostile:
    """A module whose export `hostile` is machine code of a test."""

    module: vm.Module
    #: Native addresses that the machine code may use by name.
    symbols: dict[str, int]

    async def run(
        self,
        instance: vm.Instance,
        number: int = 0,
        first: int = 0,
        second: int = 0,
        third: int = 0,
        fourth: int = 0,
        fifth: int = 0,
        sixth: int = 0,
    ) -> int:
        """Enters it with rax, rdi, rsi, rdx, r11 (`entry` moves it to r10), r8, r9; returns rdi."""
        words = (first, number, second, third, fifth, sixth, fourth)
        return await instance.call("hostile", *(word & 0xFFFF_FFFF_FFFF_FFFF for word in words))


#: Makes the system call that `Hostile.run` was given, and returns what it returned.
SYSTEM_CALL: Final = """
    mov %r11, %r10
    syscall
    mov %rax, %rdi
    leave
"""

#: Says what it was told to say in the shared page: rax is the state, rdi the native pc, rsi the signal, rdx the fault,
#: r11 the gas, r8 all registers and r9 the scratch registers. Then it does as a worker does when the host goes on.
FORGE: Final = """
    mov %eax, %r10d
    movabs $VMCTX, %rbx
    mov %rdi, NATIVE_PC(%rbx)
    mov %esi, SIGNAL(%rbx)
    mov %rdx, FAULT(%rbx)
    mov %r11, GAS(%rbx)
    mov %r9, TMP(%rbx)
    mov %r9, TMP+8(%rbx)
    xor %ecx, %ecx
1:  mov %r8, REGS(%rbx,%rcx,8)
    inc %ecx
    cmp $13, %ecx
    jne 1b
    mov %r10d, STATE(%rbx)
    wake
2:  pause
    cmpl $1, STATE(%rbx)
    jne 2b
    movabs $ENTER, %rcx
    jmp *%rcx
"""


@functools.cache
def assemble(text: str, symbols: tuple[tuple[str, int], ...]) -> bytes:
    """`text`, in the assembler's own syntax, as it has to be at address HERE. Skips where there is no assembler."""
    for command in ("as", "ld"):
        if shutil.which(command) is None:
            pytest.skip(f"no {command} (binutils) to assemble machine code with")
    definitions = "".join(f".set {name}, {value:#x}\n" for name, value in symbols)
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "code.o"), Path(folder, "code")
        text = f"{definitions}{_MACROS}.globl _start\n_start:\n{text}\n"
        subprocess.run(["as", "-o", source, "-"], input=text.encode(), check=True)
        here = dict(symbols)["HERE"]
        subprocess.run(["ld", "--oformat=binary", f"-Ttext={here:#x}", "-o", output, source], check=True)
        return output.read_bytes()


class _Saved(NamedTuple):
    """A module to be overwritten: its file, where in the native code, and its memory."""

    data: bytes
    start: int
    layout: vm.MemoryMap


#: By settings.
_saved: dict[str, _Saved] = {}


async def _save(engine: vm.Engine, path: Path, config: vm.ModuleConfig) -> _Saved:
    if repr(config) not in _saved:
        module = await engine.compile(build(_PROGRAM, imports=["ask"]), config)
        await module.save(path)
        start = module.native_offset(module.exports["hostile"])
        assert start is not None
        _saved[repr(config)] = _Saved(path.read_bytes(), start, module.memory_map)
    return _saved[repr(config)]


async def hostile(
    engine: vm.Engine, folder: Path, code: str | bytes = SYSTEM_CALL, config: vm.ModuleConfig | None = None
) -> Hostile:
    """A module with that machine code; `engine` must not know modules it has seen (``module_cache_size=0``)."""
    path = folder / "hostile.pvmc"
    config = config or vm.ModuleConfig(aux_data_size=4096)
    data, start, layout = await _save(engine, path, config)
    file = File(data)
    trampolines = [int.from_bytes(file.parts["tables"][at : at + 4], "little") for at in (0, 4, 8)]
    symbols = VMCTX_FIELDS | {
        "HERE": CODE + start,
        "CODE": CODE,
        "ENTER": CODE + trampolines[0],
        "HALT": CODE + trampolines[2],
        "VMCTX": VMCTX,
        "ZYGOTE": ZYGOTE,
        "JUMP_TABLE": JUMP_TABLE,
        "RETURN_PAGE": RETURN_PAGE,
        "WORKER_STACK": WORKER_STACK,
        "SIGNAL_STACK": SIGNAL_STACK,
        "RW": layout.rw_address,
        "RO": layout.ro_address,
        "STACK": layout.stack_low,
        "AUX": layout.aux_address,
    }
    if isinstance(code, str):
        code = assemble(code, tuple(symbols.items()))
    end = start + len(code)
    assert end < len(file.parts["code"]) - 16, "more machine code than there is room for"
    file.parts["code"][start:end] = code
    put(path, bytes(file))
    return Hostile(await engine.load(path), symbols)


# --- signal frames ----------------------------------------------------------------------------------------------------

#: Takes all registers from the frame at rdi (rt_sigreturn). At HERE + 8 is a system call, and frames may lead to BACK
#: behind it.
SIGRETURN: Final = "mov $15, %eax\nmov %rdi, %rsp\nsyscall\nhlt\n.org 0x20\n"
BACK: Final = 0x20

# struct ucontext of arch/x86/include/uapi/asm/ucontext.h and sigcontext.h: byte offsets
_UC_STACK, _UC_REGISTERS, _UC_SEGMENTS, _UC_STATE, _UC_MASK, _UC_SIZE = 16, 40, 184, 224, 296, 304
_REGISTERS: Final = (
    *(f"r{number}" for number in range(8, 16)),
    *("rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx", "rsp", "rip", "eflags"),
)
USER_CS, USER32_CS, USER_SS = 0x33, 0x23, 0x2B


def frame(
    *,
    rip: int,
    cs: int = USER_CS,
    ss: int = USER_SS,
    stack: tuple[int, int, int] = (SIGNAL_STACK, 1 << 31, SIGNAL_STACK_SIZE),
    mask: int = 0,
    fpstate: int = 0,
    flags: int = 0,
    **registers: int,
) -> bytes:
    """A frame as the kernel leaves one for a handler: registers, where the processor's state is, blocked signals, and
    the alternate signal stack (address, flags, size)."""
    values = {"rip": rip, "eflags": 0x202} | registers
    data = bytearray(_UC_SIZE)
    struct.pack_into("<Q", data, 0, flags)
    struct.pack_into("<QIxxxxQ", data, _UC_STACK, *stack)
    struct.pack_into("<18Q", data, _UC_REGISTERS, *(values.get(name, 0) & (1 << 64) - 1 for name in _REGISTERS))
    struct.pack_into("<HHHH", data, _UC_SEGMENTS, cs, 0, 0, ss)
    struct.pack_into("<Q", data, _UC_STATE, fpstate)
    struct.pack_into("<Q", data, _UC_MASK, mask)
    return bytes(data)
