# SPDX-License-Identifier: MIT
"""Whole guests, made by hand, linked and run: what comes out is what RISC-V says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from elf_writer import (
    A0,
    A1,
    A2,
    A3,
    ALLOC,
    DYN_FILE,
    NOBITS,
    OBJECT,
    RA,
    REL_FILE,
    RET,
    S0,
    SP,
    T0,
    T1,
    WRITE,
    ZERO,
    Guest,
    add,
    addi,
    addiw,
    atomic,
    auipc,
    beq,
    jal,
    jalr,
    ld,
    lui,
    lw,
    main,
    mul,
    r_type,
    sd,
    slli,
    store,
    sw,
)

import vm
from vm.debug_info import DebugInfo
from vm.disassembler import disassemble
from vm.isa import InstructionSet
from vm.toolchain import ElfError, link
from vm.toolchain._relocations import Type

M64 = 2**64 - 1
BOTH = pytest.mark.parametrize("optimize", [False, True], ids=["plain", "optimized"])


def run(
    guest: Guest, *arguments: int, optimize: bool, name: str = "main", isa: InstructionSet | None = None, **host: object
) -> int:
    """The result of an export, as an unsigned number."""

    async def call() -> int:
        program = link(guest.to_bytes(), optimize=optimize, isa=isa)
        assert vm.ProgramBlob.parse(program.to_bytes()) == program
        DebugInfo(program).check()
        assert disassemble(program)
        linker = vm.Linker()
        for symbol, function in host.items():
            linker.define(symbol, function)
        async with vm.Engine(vm.Config(backend="interpreter")) as engine:
            module = await engine.compile(program, vm.ModuleConfig(gas_metering="sync"))
            async with await linker.instantiate(module) as instance:
                instance.gas = 10_000
                return int(await instance.call(name, *arguments) or 0) & M64

    return asyncio.run(call())


@BOTH
def test_a_sum(optimize: bool) -> None:
    assert run(main(add(A0, A0, A1), RET), 2, 40, optimize=optimize) == 42


@BOTH
@pytest.mark.parametrize("isa", [InstructionSet.LATEST64, InstructionSet.REVIVE_V1, InstructionSet.JAM_V1])
def test_instruction_sets(optimize: bool, isa: InstructionSet) -> None:
    guest = main(mul(A0, A0, A1), RET)
    assert link(guest.to_bytes(), optimize=optimize, isa=isa).isa is isa
    assert run(guest, 6, 7, optimize=optimize, isa=isa) == 42


@BOTH
def test_32_bits(optimize: bool) -> None:
    guest = main(addi(A0, A0, -1), RET, bits=32)
    assert link(guest.to_bytes(), optimize=optimize).isa is InstructionSet.LATEST32
    assert run(guest, 0, optimize=optimize) & 0xFFFF_FFFF == 0xFFFF_FFFF


@BOTH
def test_word_operations_sign_extend(optimize: bool) -> None:
    guest = main(lui(A1, 0x80000), addiw(A0, A1, -1), RET)
    assert run(guest, optimize=optimize) == 0x7FFF_FFFF
    assert run(main(lui(A0, 0x80000), RET), optimize=optimize) == M64 - 0x7FFF_FFFF


def with_data(high: int, low: int, first: int, *rest: int) -> Guest:
    """Loads the second word of ``.rodata``, which holds 11 22 33, by the relocations `high` and `low`."""
    guest = Guest()
    data = guest.add(".rodata", b"".join(n.to_bytes(4, "little") for n in (11, 22, 33)), align=4)
    table = guest.symbol("table", data, info=OBJECT)
    start = guest.emit(first, *rest)
    label = guest.symbol(".L0", guest.text, start)
    guest.relocate(guest.text, start, high, table, 4)
    if low == Type.PCREL_LO12_I:
        guest.relocate(guest.text, start + 4, low, label)
    else:
        guest.relocate(guest.text, start + 4, low, table, 4)
    guest.export("main", guest.symbol("main", guest.text, start))
    return guest


@BOTH
@pytest.mark.parametrize(
    "guest",
    [
        lambda: with_data(Type.PCREL_HI20, Type.PCREL_LO12_I, auipc(A0), lw(A0, A0), RET),
        lambda: with_data(Type.PCREL_HI20, Type.PCREL_LO12_I, auipc(A0), addi(A1, A0, 0), lw(A0, A1), RET),
        lambda: with_data(Type.HI20, Type.LO12_I, lui(A0, 0), lw(A0, A0), RET),
        lambda: with_data(Type.HI20, Type.LO12_I, lui(A0, 0), addi(A0, A0, 0), lw(A0, A0), RET),
        lambda: with_data(Type.GOT_HI20, Type.PCREL_LO12_I, auipc(A0), ld(A0, A0), lw(A0, A0), RET),
    ],
    ids=["pcrel load", "pcrel address", "absolute load", "absolute address", "got"],
)
def test_addresses_of_data(guest: Callable[[], Guest], optimize: bool) -> None:
    assert run(guest(), optimize=optimize) == 22


@BOTH
def test_an_index_between_the_parts_of_an_address(optimize: bool) -> None:
    """``lui; add index; lw %lo`` is what some compilers make of array[index]."""
    guest = Guest()
    data = guest.add(".rodata", bytes(range(1, 41)), align=8)
    table = guest.symbol("table", data, info=OBJECT)
    start = guest.emit(lui(A1, 0), add(A1, A1, A0), i_load(4, A0, A1), RET)
    guest.relocate(guest.text, start, Type.HI20, table)
    guest.relocate(guest.text, start + 8, Type.LO12_I, table)
    guest.export("main", guest.symbol("main", guest.text, start))
    assert [run(guest, index, optimize=optimize) for index in (0, 7, 39)] == [1, 8, 40]


def i_load(funct3: int, rd: int, rs1: int) -> int:
    return funct3 << 12 | rs1 << 15 | rd << 7 | 0x03


@BOTH
def test_pointers_in_data(optimize: bool) -> None:
    guest = Guest()
    value = guest.add(".data", (77).to_bytes(8, "little"), flags=ALLOC | WRITE)
    constants = guest.add(".data.rel.ro", flags=ALLOC | WRITE)
    guest.pointer(constants, guest.symbol("value", value, info=OBJECT))
    start = guest.emit(auipc(A0), ld(A0, A0), ld(A1, A0), addi(A1, A1, 1), sd(A1, A0), ld(A0, A0), RET)
    guest.relocate(guest.text, start, Type.PCREL_HI20, guest.symbol("constants", constants, info=OBJECT))
    guest.relocate(guest.text, start + 4, Type.PCREL_LO12_I, guest.symbol(".L0", guest.text, start))
    guest.export("main", guest.symbol("main", guest.text, start))
    assert run(guest, optimize=optimize) == 78
    program = link(guest.to_bytes(), optimize=optimize)
    assert int.from_bytes(program.ro_data, "little") == vm.MemoryMap(ro_size=8, rw_size=8).rw_address
    assert program.rw_data == b"\x4d"


@BOTH
def test_zeroed_data_takes_no_bytes(optimize: bool) -> None:
    guest = Guest()
    bss = guest.add(".bss", flags=ALLOC | WRITE, type=NOBITS, size=5000)
    symbol = guest.symbol("zeros", bss, 4992, info=OBJECT)
    start = guest.emit(auipc(A1), sd(A0, A1), ld(A0, A1), RET)
    guest.relocate(guest.text, start, Type.PCREL_HI20, symbol)
    guest.relocate(guest.text, start + 4, Type.PCREL_LO12_S, guest.symbol(".L0", guest.text, start))
    guest.relocate(guest.text, start + 8, Type.PCREL_LO12_I, guest.symbol(".L0", guest.text, start))
    guest.export("main", guest.symbol("main", guest.text, start))
    assert run(guest, 12345, optimize=optimize) == 12345
    program = link(guest.to_bytes(), optimize=optimize)
    assert (program.rw_data, program.rw_data_size) == (b"", 5000)


def with_calls(guest: Guest) -> None:
    """``main(a, b)`` is twice(a) + twice(b)."""
    twice = guest.function("twice", add(A0, A0, A0), RET)
    start = guest.emit(addi(SP, SP, -16), sd(RA, SP, 8), sd(S0, SP), addi(S0, A1, 0))
    for move in (addi(T0, A0, 0), add(A0, A0, S0)):
        guest.relocate(guest.text, guest.here, Type.CALL_PLT, twice)
        guest.emit(auipc(RA), jalr(RA, RA))
        guest.emit(move)
        if move == addi(T0, A0, 0):
            guest.emit(addi(A0, S0, 0), addi(S0, T0, 0))
    guest.emit(ld(RA, SP, 8), ld(S0, SP), addi(SP, SP, 16), RET)
    guest.export("main", guest.symbol("main", guest.text, start))


@BOTH
@pytest.mark.parametrize("file_type", [REL_FILE, DYN_FILE], ids=["relocatable", "shared"])
def test_calls(optimize: bool, file_type: int) -> None:
    guest = Guest(file_type=file_type)
    with_calls(guest)
    assert run(guest, 3, 18, optimize=optimize) == 42


@BOTH
def test_host_functions(optimize: bool) -> None:
    guest = Guest()
    names = [guest.host_function(name) for name in ("second", "first")]
    start = guest.emit(addi(SP, SP, -8), sd(RA, SP))
    for name in (*names, names[0]):
        guest.relocate(guest.text, guest.here, Type.CALL_PLT, name)
        guest.emit(auipc(RA), jalr(RA, RA))
    guest.emit(ld(RA, SP), addi(SP, SP, 8), RET)
    guest.export("main", guest.symbol("main", guest.text, start))
    assert link(guest.to_bytes(), optimize=optimize).imports == (b"first", b"second")

    def first(caller: vm.Caller, a: vm.u64, b: vm.u64) -> vm.u64:
        return 10 * a

    def second(caller: vm.Caller, a: vm.u64, b: vm.u64) -> vm.u64:
        return a + 1

    assert run(guest, 3, optimize=optimize, first=first, second=second) == 41


def test_imports_with_numbers_leave_holes() -> None:
    guest = Guest()
    calls = [guest.host_function(name, index=index) for name, index in (("a", 3), ("b", 1))]
    start = guest.here
    for name in calls:
        guest.relocate(guest.text, guest.here, Type.CALL_PLT, name)
        guest.emit(auipc(RA), jalr(RA, RA))
    guest.emit(RET)
    guest.export("main", guest.symbol("main", guest.text, start))
    assert link(guest.to_bytes()).imports == (b"", b"b", b"", b"a")


@BOTH
@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_jump_tables(optimize: bool, relative: bool) -> None:
    guest = Guest()
    rodata = guest.add(".rodata", align=4)
    table = guest.symbol("table", rodata, info=OBJECT)
    start = guest.emit(auipc(A1), addi(A1, A1, 0), slli(A0, A0, 2), add(A0, A0, A1), lw(A0, A0))
    if relative:
        guest.emit(add(A0, A0, A1))
    guest.emit(jalr(ZERO, A0))
    guest.relocate(guest.text, start, Type.PCREL_HI20, table)
    guest.relocate(guest.text, start + 4, Type.PCREL_LO12_I, guest.symbol(".L0", guest.text, start))
    for value in (7, 8, 9):
        case = guest.symbol("", guest.text, guest.emit(addi(A0, ZERO, value), RET))
        offset = guest.put(rodata, bytes(4))
        if relative:
            guest.relocate(rodata, offset, Type.ADD32, case)
            guest.relocate(rodata, offset, Type.SUB32, table)
        else:
            guest.relocate(rodata, offset, Type.ABS32, case)
    guest.export("main", guest.symbol("main", guest.text, start))
    assert [run(guest, case, optimize=optimize) for case in (0, 1, 2)] == [7, 8, 9]


@BOTH
@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (1, lambda old, new: new),
        (0, lambda old, new: old + new),
        (4, lambda old, new: old ^ new),
        (8, lambda old, new: old | new),
        (12, lambda old, new: old & new),
        (16, min),
        (20, max),
        (24, lambda old, new: min(old & M64, new & M64)),
        (28, lambda old, new: max(old & M64, new & M64)),
    ],
    ids=["swap", "add", "xor", "or", "and", "min", "max", "minu", "maxu"],
)
def test_atomics(kind: int, expected: Callable[[int, int], int], width: int, optimize: bool) -> None:
    """The new value is left in memory, the old one in the register; all other registers are as before."""
    funct3, load = (2, lw) if width == 32 else (3, ld)
    others = [r for r in range(5, 16) if r not in (A0, A1, A2)]
    guest = Guest()
    cell = guest.symbol("cell", guest.add(".data", bytes(8), flags=ALLOC | WRITE), info=OBJECT)
    start = guest.here
    guest.relocate(guest.text, start, Type.PCREL_HI20, cell)
    guest.relocate(guest.text, start + 4, Type.PCREL_LO12_I, guest.symbol(".L0", guest.text, start))
    guest.emit(auipc(A2), addi(A2, A2, 0), store(funct3, A0, A2))
    guest.emit(*(addi(register, ZERO, register) for register in others))
    guest.emit(atomic(kind, A0, A1, A2, funct3), load(A1, A2))
    guest.emit(slli(A0, A0, 1), add(A0, A0, A1))
    for register in others:
        guest.emit(addi(register, register, -register), add(A0, A0, register))
    guest.emit(RET)
    guest.export("main", guest.symbol("main", guest.text, start))
    for old, new in ((5, 3), (-7, 4), (4, -7)):
        changed = expected(old, new)
        changed = (changed & (1 << width) - 1 ^ 1 << width - 1) - (1 << width - 1)
        assert run(guest, old & M64, new & M64, optimize=optimize) == (2 * old + changed) & M64


@BOTH
def test_load_reserved_and_store_conditional(optimize: bool) -> None:
    guest = main(
        addi(SP, SP, -8), sd(A0, SP), atomic(2, A2, ZERO, SP), add(A2, A2, A1), atomic(3, A3, A2, SP), ld(A0, SP)
    )
    guest.emit(add(A0, A0, A3), addi(SP, SP, 8), RET)
    assert run(guest, 30, 12, optimize=optimize) == 42


@BOTH
@pytest.mark.parametrize("amount", [1, 2, 3])
@pytest.mark.parametrize("word", [False, True], ids=["", "uw"])
def test_shift_and_add(amount: int, word: bool, optimize: bool) -> None:
    opcode = 0x3B if word else 0x33
    value = 0xFFFF_FFFF_0000_0005
    shifted = (value & (0xFFFF_FFFF if word else M64)) << amount
    for rd in (A0, A1, A2):
        guest = main(r_type(opcode, rd, 2 * amount, A0, A1, 0x10), addi(A0, rd, 0), RET)
        assert run(guest, value, 100, optimize=optimize) == (shifted + 100) & M64
    both = main(r_type(opcode, A0, 2 * amount, A0, A0, 0x10), RET)
    assert run(both, value, optimize=optimize) == (shifted + value) & M64


@BOTH
def test_heap_base_and_sbrk(optimize: bool) -> None:
    guest = Guest()
    data = guest.symbol("data", guest.add(".data", b"123", flags=ALLOC | WRITE), info=OBJECT)
    start = guest.emit(auipc(A1), 0x300B | A0 << 7, 0x100B | A1 << 7 | ZERO << 15 | A2 << 15)
    guest.relocate(guest.text, start, Type.PCREL_HI20, data)
    guest.emit(RET)
    guest.export("main", guest.symbol("main", guest.text, start))
    assert run(guest, optimize=optimize) == vm.MemoryMap(ro_size=0, rw_size=3).heap_base


@BOTH
def test_weak_symbols_that_nothing_defines_are_zero(optimize: bool) -> None:
    guest = Guest()
    weak = guest.symbol("weak", 0, info=0x22)
    start = guest.emit(auipc(A1), addi(A1, A1, 0), beq(A1, ZERO, 12), auipc(RA), jalr(RA, RA), addi(A0, ZERO, 9), RET)
    guest.relocate(guest.text, start, Type.PCREL_HI20, weak)
    guest.relocate(guest.text, start + 4, Type.PCREL_LO12_I, guest.symbol(".L0", guest.text, start))
    guest.relocate(guest.text, start + 12, Type.CALL_PLT, weak)
    guest.export("main", guest.symbol("main", guest.text, start))
    assert run(guest, optimize=optimize) == 9


@BOTH
def test_a_loop(optimize: bool) -> None:
    """The sum of 1 to a0."""
    loop = (addi(A1, ZERO, 0), add(A1, A1, A0), addi(A0, A0, -1), 0x0005_1063 | 0, addi(A0, A1, 0), RET)
    code = list(loop)
    code[3] = r_type(0x63, 0x19, 1, A0, ZERO, 0x7F)  # bne a0, zero, -8
    assert run(main(*code), 100, optimize=optimize) == 5050


@BOTH
def test_calls_that_do_not_return(optimize: bool) -> None:
    """A call at the end of a section: there is no code to return to."""
    guest = Guest()
    stop = guest.function("stop", addi(A0, ZERO, 3), ld(RA, SP), addi(SP, SP, 8), RET)
    start = guest.emit(addi(SP, SP, -8), sd(RA, SP))
    guest.relocate(guest.text, guest.here, Type.CALL_PLT, stop)
    guest.emit(auipc(RA), jalr(RA, RA))
    guest.export("main", guest.symbol("main", guest.text, start))
    assert run(guest, optimize=optimize) == 3


@BOTH
def test_function_pointers(optimize: bool) -> None:
    guest = Guest()
    target = guest.function("target", addi(A0, A0, 1), RET)
    start = guest.emit(auipc(T0), addi(T0, T0, 0), jalr(ZERO, T0))
    guest.relocate(guest.text, start, Type.PCREL_HI20, target)
    guest.relocate(guest.text, start + 4, Type.PCREL_LO12_I, guest.symbol(".L0", guest.text, start))
    guest.export("main", guest.symbol("main", guest.text, start))
    assert run(guest, 41, optimize=optimize) == 42


@BOTH
def test_stores_of_zero(optimize: bool) -> None:
    guest = main(addi(SP, SP, -8), sd(A0, SP), sw(ZERO, SP, 4), ld(A0, SP), addi(SP, SP, 8), RET)
    assert run(guest, M64, optimize=optimize) == 0xFFFF_FFFF


def test_the_same_bytes_every_time() -> None:
    guest = Guest()
    with_calls(guest)
    elf = guest.to_bytes()
    for optimize in (False, True):
        assert link(elf, optimize=optimize).to_bytes() == link(elf, optimize=optimize).to_bytes()


@BOTH
def test_entry_points(optimize: bool) -> None:
    guest = Guest()
    guest.function("plain", addi(A0, A0, 1), RET)
    guest.export("main", guest.function("main", RET))
    program = link(guest.to_bytes(), optimize=optimize, entry_points=["plain", "main"])
    assert sorted(export.name for export in program.exports) == ["main", "plain"]
    with pytest.raises(ElfError, match="the entry point other is no symbol of code"):
        link(guest.to_bytes(), entry_points=["other"])


def test_strip() -> None:
    elf = main(RET).to_bytes()
    assert DebugInfo(link(elf)).locate(0)[0].name == "main"
    assert not DebugInfo(link(elf, strip=True)).present


def test_stack_sizes() -> None:
    guest = main(RET)
    assert link(guest.to_bytes()).stack_size == 0x2000
    assert link(guest.to_bytes(), min_stack_size=0x2001).stack_size == 0x3000
    sizes = b"".join(size.to_bytes(4, "little") for size in (1, 0x12345))
    guest.add(".polkavm_min_stack_size", sizes, flags=0)
    assert link(guest.to_bytes(), min_stack_size=0x2001).stack_size == 0x13000
    with pytest.raises(ValueError, match="min_stack_size"):
        link(guest.to_bytes(), min_stack_size=2**32)


@BOTH
def test_dispatch_table(optimize: bool) -> None:
    guest = Guest()
    for name in ("one", "two", "three"):
        guest.export(name, guest.function(name, addi(A0, ZERO, len(name)), RET))
    program = link(guest.to_bytes(), optimize=optimize, dispatch_table=["three", b"one"])
    assert [program.is_instruction_start(pc) for pc in (0, 5)] == [True, True]
    blob = vm.ProgramBlob.build(
        isa=program.isa, code=program.code, bitmask=program.bitmask, exports=[(0, b"zero"), (5, b"five")]
    )

    async def call() -> list[int | None]:
        async with vm.Engine(vm.Config(backend="interpreter")) as engine:
            module = await engine.compile(blob)
            async with await module.instantiate() as instance:
                return [await instance.call(name) for name in ("zero", "five")]

    assert asyncio.run(call()) == [5, 3]


@BOTH
def test_unreachable_code_and_data_are_left_out(optimize: bool) -> None:
    guest = main(RET)
    guest.function("unused", 0x0005_0553, RET)  # a floating-point instruction
    guest.add(".rodata", bytes([1]) * 100)
    program = link(guest.to_bytes(), optimize=optimize)
    assert program.ro_data_size == 0
    assert len(program.code) <= 3


@BOTH
def test_jumps_between_sections(optimize: bool) -> None:
    guest = Guest()
    other = guest.add(".text.other", flags=ALLOC | 4, align=4)
    guest.put(other, addi(A0, A0, 5).to_bytes(4, "little") + RET.to_bytes(4, "little"))
    distance = guest.sections[other].address - guest.sections[guest.text].address
    guest.export("main", guest.function("main", addi(T1, ZERO, 1), jal(ZERO, distance - 4)))
    assert run(guest, 1, optimize=optimize) == 6
