# SPDX-License-Identifier: MIT
"""Damaged ELF files: a `ElfError` or a program that parses, and no long wait for either."""

from __future__ import annotations

import functools
import time
from contextlib import suppress
from pathlib import Path

import pytest
from dwarf_writer import Dwarf, Function
from elf_writer import (
    A0,
    A1,
    ALLOC,
    NOBITS,
    OBJECT,
    RA,
    RET,
    SP,
    WRITE,
    ZERO,
    Guest,
    add,
    addi,
    atomic,
    auipc,
    beq,
    jal,
    jalr,
    ld,
    lui,
    main,
    sd,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from vm.debug_info import DebugInfo
from vm.program import ProgramBlob
from vm.toolchain import ElfError, _cfg, _metadata, link
from vm.toolchain._relocations import Type

#: Seconds; an undamaged file takes a few milliseconds.
PATIENCE = 2.0


@functools.cache
def small() -> bytes:
    """A guest with some of everything."""
    guest = Guest()
    host = guest.host_function("host")
    data = guest.add(".data", bytes(16), flags=ALLOC | WRITE)
    cell = guest.symbol("cell", data, info=OBJECT)
    start = guest.emit(auipc(A1), addi(A1, A1, 0), atomic(0, A0, A0, A1), beq(A0, ZERO, 8), add(A0, A0, A1))
    guest.relocate(guest.text, start, Type.PCREL_HI20, cell)
    guest.relocate(guest.text, start + 4, Type.PCREL_LO12_I, guest.symbol(".L0", guest.text, start))
    guest.emit(addi(SP, SP, -8), sd(RA, SP))
    guest.relocate(guest.text, guest.here, Type.CALL_PLT, host)
    guest.emit(auipc(RA), jalr(RA, RA), ld(RA, SP), addi(SP, SP, 8), RET)
    function = guest.symbol("main", guest.text, start, size=guest.here - start)
    guest.relocate(data, 8, Type.ABS64, function)
    guest.export("main", function)
    base = guest.sections[guest.text].address
    end = base + guest.here
    rows = [(base + start, 1, 1), (base + start + 8, 2, 1), (end, 0, 0)]
    Dwarf(5, [Function("main", base + start, end)], rows).add_to(guest)
    return guest.to_bytes()


def try_to_link(elf: bytes) -> None:
    for optimize in (False, True):
        started = time.perf_counter()
        with suppress(ElfError):
            program = link(elf, optimize=optimize)
            assert ProgramBlob.parse(program.to_bytes()) == program
            DebugInfo(program).check()
        assert time.perf_counter() - started < PATIENCE


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_flipped_bits(data: st.DataObject) -> None:
    elf = bytearray(small())
    for bit in data.draw(st.lists(st.integers(0, 8 * len(elf) - 1), min_size=1, max_size=8)):
        elf[bit >> 3] ^= 1 << (bit & 7)
    try_to_link(bytes(elf))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_other_numbers(data: st.DataObject) -> None:
    """Sizes, offsets and counts that are zero, enormous, or a little wrong."""
    elf = bytearray(small())
    for _ in range(data.draw(st.integers(1, 3))):
        size = data.draw(st.sampled_from([1, 2, 4, 8]))
        place = data.draw(st.integers(0, len(elf) // 2 - 4)) * 2
        value = data.draw(st.sampled_from([0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 2**63, 2**64 - 1]))
        elf[place : place + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    try_to_link(bytes(elf))


def test_truncated_files() -> None:
    elf = small()
    for length in range(0, len(elf), 7):
        with pytest.raises(ElfError):
            link(elf[:length])


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_flipped_bits_of_a_real_file(shared: Path, data: st.DataObject) -> None:
    names = ("rv64ua/amoadd_w", "rv32ui/jal", "rv64ui/lb")
    elf = bytearray((shared / f"programs/riscv-tests/{data.draw(st.sampled_from(names))}.elf").read_bytes())
    for bit in data.draw(st.lists(st.integers(0, 8 * len(elf) - 1), min_size=1, max_size=8)):
        elf[bit >> 3] ^= 1 << (bit & 7)
    try_to_link(bytes(elf))


# --- Files made to take long ------------------------------------------------------------------------------------------


def timed(guest: Guest) -> None:
    try_to_link(guest.to_bytes())


def test_overlapping_instructions() -> None:
    """A branch to the middle of every instruction: each is code of its own, and all of them meet again."""
    guest = Guest()
    start = guest.here
    # lui with an upper half that is a 16-bit instruction, and branches into it
    for _ in range(3000):
        guest.emit(0x0001_0537)
        guest.emit(beq(A0, A1, -2))
    guest.emit(RET)
    guest.export("main", guest.symbol("main", guest.text, start))
    timed(guest)


def test_long_chains_of_jumps() -> None:
    guest = Guest()
    guest.export("jumps", guest.function("jumps", *[jal(ZERO, 4)] * 20_000, RET))
    guest.export("calls", guest.function("calls", *[jal(RA, 4)] * 5000, RET))
    start = guest.here
    for _ in range(5000):
        guest.emit(beq(A0, A1, 8), jal(ZERO, 8))
    guest.emit(RET)
    guest.export("main", guest.symbol("main", guest.text, start))
    timed(guest)


def test_many_small_functions_that_call_each_other() -> None:
    guest = Guest()
    count = 2000
    functions = [guest.symbol(f"f{n}", guest.text, 20 * n) for n in range(count)]
    for n in range(count):
        guest.relocate(guest.text, guest.here, Type.CALL_PLT, functions[(7 * n + 1) % count])
        guest.emit(auipc(RA), jalr(RA, RA))
        guest.relocate(guest.text, guest.here, Type.CALL_PLT, functions[(3 * n + 5) % count])
        guest.emit(auipc(6), jalr(ZERO, 6), RET)
    guest.export("main", functions[0])
    timed(guest)


def test_many_sections() -> None:
    guest = Guest()
    start = guest.here
    for n in range(1000):
        section = guest.add(f".rodata.{n}", b"\1", align=1)
        guest.relocate(guest.text, guest.here, Type.HI20, guest.symbol(f"s{n}", section, info=OBJECT))
        guest.emit(0x537)
    guest.emit(RET)
    guest.export("main", guest.symbol("main", guest.text, start))
    timed(guest)


# --- Limits -----------------------------------------------------------------------------------------------------------


def test_sections_that_share_their_bytes() -> None:
    guest = main(RET)
    for _ in range(20):
        guest.add(".comment", size=1000, flags=0)
    guest.add(".comment", bytes(1000), flags=0)
    with pytest.raises(ElfError, match="the sections overlap: they have 21"):
        link(guest.to_bytes())


def test_too_many_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cfg, "_MOST_INSTRUCTIONS", 10)
    assert link(main(*[addi(A0, A0, 1)] * 9, RET).to_bytes()).code
    with pytest.raises(ElfError, match=r"more than 10 instructions in section \.text at offset 0x28 in main"):
        link(main(*[addi(A0, A0, 1)] * 10, RET).to_bytes())


def test_too_long_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_metadata, "_MOST_SYMBOL_BYTES", 8)
    guest = main(RET)
    assert link(guest.to_bytes()).exports
    guest.export("other", guest.function("other", RET))
    with pytest.raises(ElfError, match="the symbols of exports and imports have more than 8 bytes"):
        link(guest.to_bytes())


def test_gaps_in_data() -> None:
    guest = Guest()
    start = guest.here
    for section in (guest.add(".rodata.zeros", type=NOBITS, size=1 << 24), guest.add(".rodata.one", b"1")):
        guest.relocate(guest.text, guest.here, Type.HI20, guest.symbol("data", section, info=OBJECT))
        guest.emit(lui(A0, 0))
    guest.emit(RET)
    guest.export("main", guest.symbol("main", guest.text, start))
    with pytest.raises(ElfError, match=r"a gap of \d+ bytes before it in section .rodata.one"):
        link(guest.to_bytes())
