# SPDX-License-Identifier: MIT
"""Debug information: what DWARF, or the symbols, say of the code is what the blob says of it."""

from __future__ import annotations

import zlib
from contextlib import suppress

import pytest
from dwarf_writer import Dwarf, Function
from elf_writer import A0, A1, ECALL, RA, RET, SP, ZERO, Guest, add, addi, addiw, auipc, jalr, ld, main, sd

from vm.debug_info import DebugInfo, Frame, FrameKind
from vm.program import ProgramBlob
from vm.toolchain import ElfError, link
from vm.toolchain._dwarf import Dwarf as Reader
from vm.toolchain._dwarf_forms import DwarfError
from vm.toolchain._relocations import Type

PATH = "/src/dir/a.c"
VERSIONS = pytest.mark.parametrize("version", [4, 5])


def guest_with_lines(version: int) -> Guest:
    """main, at lines 10 and 11, with `inner` of line 20 in `middle` of line 30."""
    guest = main(addi(A1, A0, 1), add(A0, A0, A1), addiw(A0, A0, 3), RET)
    start = guest.sections[guest.text].address
    inner = Function("inner", start + 4, start + 8, call=(30, 3))
    middle = Function("middle", start + 4, start + 12, call=(11, 2), inside=[inner])
    rows = [(start, 10, 1), (start + 4, 20, 4), (start + 8, 31, 5), (start + 12, 12, 6), (start + 16, 0, 0)]
    Dwarf(version, [Function("main", start, start + 16, inside=[middle])], rows).add_to(guest)
    return guest


def frame(function: str, line: int, column: int, *, namespace: str | None = "space") -> Frame:
    return Frame(FrameKind.LINE, namespace, function, PATH, line, column)


@VERSIONS
@pytest.mark.parametrize("optimize", [False, True])
def test_frames(version: int, optimize: bool) -> None:
    program = link(guest_with_lines(version).to_bytes(), optimize=optimize)
    info = DebugInfo(program)
    info.check()
    assert [region.frames for region in info.regions()] == [
        (frame("main", 10, 1),),
        (frame("inner", 20, 4), frame("middle", 30, 3), frame("main", 11, 2)),
        (frame("middle", 31, 5), frame("main", 11, 2)),
        (frame("main", 12, 6),),
    ]
    assert [function.name for function in info.functions()] == ["space::main"]


@VERSIONS
def test_errors_name_the_line(version: int) -> None:
    guest = main(addi(A0, A0, 0), ECALL, RET)
    start = guest.sections[guest.text].address
    rows = [(start, 10, 1), (start + 4, 77, 4), (start + 12, 0, 0)]
    Dwarf(version, [Function("main", start, start + 12)], rows).add_to(guest)
    with pytest.raises(ElfError) as caught:
        link(guest.to_bytes())
    assert caught.value.source == f"{PATH}:77"
    assert f"in section .text at offset 0x4 in main ({PATH}:77)" in str(caught.value)


def test_compressed_sections() -> None:
    guest = guest_with_lines(5)
    expected = link(guest.to_bytes())
    for section in guest.sections:
        if section.name.startswith(".debug"):
            header = (1).to_bytes(8, "little") + len(section.data).to_bytes(8, "little") + (1).to_bytes(8, "little")
            section.data = bytearray(header + zlib.compress(section.data))
            section.size, section.flags = len(section.data), 0x800
    assert link(guest.to_bytes()) == expected


def test_functions_are_known_by_their_symbols() -> None:
    guest = Guest()
    guest.export("a", guest.function("first", addi(A0, ZERO, 1), RET))
    guest.export("b", guest.function("second", addi(A0, ZERO, 2), RET))
    info = DebugInfo(link(guest.to_bytes()))
    info.check()
    assert [function.name for function in info.functions()] == ["first", "second"]
    assert info.locate(0) == (Frame(FrameKind.LINE, None, "first", None, None, None),)


def test_inlined_functions_keep_their_callers() -> None:
    guest = Guest()
    tiny = guest.function("tiny", addi(A0, A0, 1), RET)
    start = guest.emit(addi(SP, SP, -8), sd(RA, SP))
    guest.relocate(guest.text, guest.here, Type.CALL_PLT, tiny)
    guest.emit(auipc(RA), jalr(RA, RA), ld(RA, SP), addi(SP, SP, 8), RET)
    guest.export("main", guest.symbol("main", guest.text, start, size=guest.here - start))
    info = DebugInfo(link(guest.to_bytes()))
    assert [[f.name for f in region.frames] for region in info.regions()] == [["main"], ["tiny", "main"], ["main"]]


def test_functions_that_were_thrown_away() -> None:
    """A linker leaves their debug information, with addresses of nothing."""
    guest = main(RET)
    start = guest.sections[guest.text].address
    functions = [Function("gone", 0, 100), Function("main", start, start + 4)]
    Dwarf(5, functions, [(0, 50, 1), (100, 0, 0), (start, 10, 1), (start + 4, 0, 0)]).add_to(guest)
    assert DebugInfo(link(guest.to_bytes())).locate(0) == (frame("main", 10, 1),)


@VERSIONS
def test_damaged_debug_information_harms_nothing(version: int) -> None:
    guest = guest_with_lines(version)
    whole = link(guest.to_bytes(), strip=True)
    for section in guest.sections:
        if not section.name.startswith(".debug"):
            continue
        data = bytes(section.data)
        for place in range(len(data)):
            section.data = bytearray(data)
            section.data[place] ^= 1 << place % 7
            program = link(guest.to_bytes())
            DebugInfo(program).check()
            assert (program.code, program.exports) == (whole.code, whole.exports)
        section.data = bytearray(data)


def test_cut_debug_information() -> None:
    sections = Dwarf(5, [Function("main", 0, 4)], [(0, 10, 1), (4, 0, 0)]).sections()
    assert Reader(sections, lambda address: True).scopes
    for name, data in sections.items():
        for length in range(len(data)):
            with suppress(DwarfError):
                Reader({**sections, name: data[:length]}, lambda address: True)


@pytest.mark.parametrize("name", [".debug_info", ".debug_abbrev", ".debug_line"])
def test_much_ado_about_nothing(name: str) -> None:
    """Bytes that cost much time each are given up on."""
    sections = Dwarf(5, [Function("main", 0, 4)], [(0, 10, 1), (4, 0, 0)]).sections()
    for filler in (b"\0", b"\x80", b"\xff", b"\1", b"\3"):
        noise = sections[name] + filler * 100_000
        with suppress(DwarfError):
            Reader({**sections, name: noise}, lambda address: True)


def test_many_attributes_without_bytes() -> None:
    """A byte of an entry that stands for a thousand attributes."""
    attributes = b"".join(bytes([0x02, 0x19]) for _ in range(1000))
    abbreviations = b"\1\x11\0" + attributes + b"\0\0" + b"\0"
    unit = (5).to_bytes(2, "little") + b"\1\x08" + bytes(4) + b"\1" * 200_000
    info = len(unit).to_bytes(4, "little") + unit
    with pytest.raises(DwarfError, match="too much work"):
        Reader({".debug_info": info, ".debug_abbrev": abbreviations}, lambda address: True)


def test_the_blob_is_what_the_reader_reads() -> None:
    program = link(guest_with_lines(5).to_bytes())
    assert ProgramBlob.parse(program.to_bytes()) == program
    assert program.debug_line_programs[0] == 1
    assert len(program.debug_line_program_ranges) == 12
