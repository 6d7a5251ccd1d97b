# SPDX-License-Identifier: MIT
"""What a guest cannot have is an error that names the section, the function, the offset and a way out."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
from elf_writer import (
    A0,
    A1,
    A6,
    ABSOLUTE,
    ALLOC,
    DYN_FILE,
    ECALL,
    EXECUTE,
    GP,
    NOTE,
    OBJECT,
    RA,
    REL_FILE,
    RET,
    TLS,
    TP,
    WRITE,
    ZERO,
    ElfWriter,
    Guest,
    add,
    addi,
    auipc,
    beq,
    jal,
    jalr,
    ld,
    lw,
    main,
    sw,
)

import vm
from vm.isa import InstructionSet
from vm.toolchain import ElfError, link
from vm.toolchain._relocations import Type


def failure(elf: bytes | Guest | ElfWriter, *, isa: InstructionSet | None = None) -> ElfError:
    data = elf if isinstance(elf, bytes) else elf.to_bytes()
    errors = []
    for optimize in (False, True):
        with pytest.raises(ElfError) as caught:
            link(data, optimize=optimize, isa=isa)
        errors.append(caught.value)
    assert str(errors[0]) == str(errors[1])
    error = errors[0]
    assert isinstance(error, vm.VMError)
    assert str(error).isprintable()
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    for part in (error.what, error.section, error.symbol, error.hint):
        assert part is None or part in str(error)
    return error


CODE: dict[str, tuple[tuple[int, ...], str, str]] = {
    "high register": ((addi(A0, A6, 0),), "register x16 (a6)", "rv64e"),
    "global pointer": ((lw(A0, GP),), "register x3 (gp)", "gp relaxation"),
    "thread pointer": ((ld(A0, TP),), "register x4 (tp)", "thread-local"),
    "float": ((0x0005_0553,), "floating-point instruction", "soft float"),
    "compressed float": ((0x2108,), "compressed floating-point instruction", "soft float"),
    "vector": ((0x0205_8057,), "vector instruction", "without the V"),
    "system call": ((ECALL,), "ecall", "import a host function"),
    "control register": ((0xC000_2573,), "control register 0xc00", "no control registers"),
    "privileged": ((0x1050_0073,), "privileged instruction", "privileged"),
    "unknown": ((0x0000_007F,), "unknown instruction", "rv64emac"),
    "unknown compressed": ((0x8002,), "unknown compressed instruction", "rv64emac"),
    "absolute load": ((lw(A0, ZERO, 16),), "absolute address", "--emit-relocs"),
    "absolute store": ((sw(A0, ZERO, 16),), "absolute address", "--emit-relocs"),
    "lone auipc": ((auipc(A0), lw(A0, A0)), "auipc without a relocation", "--emit-relocs"),
    "offset jump": ((jalr(ZERO, A0, 4),), "indirect jump", "no arithmetic"),
    "absolute jump": ((jalr(ZERO, ZERO, 0),), "indirect jump", "no arithmetic"),
    "sbrk of zero": ((0x100B | A0 << 7,), "sbrk with the zero register", ""),
    "host call": ((0x0B, 0, 0), "host call without a relocation", "--emit-relocs"),
    "jump outside": ((jal(ZERO, 0x8000),), "where no code is", ""),
}


@pytest.mark.parametrize("case", CODE)
def test_code(case: str) -> None:
    code, what, hint = CODE[case]
    guest = main(addi(A1, ZERO, 1), *code, RET)
    error = failure(guest)
    assert what in error.what
    assert hint in (error.hint or "")
    assert (error.section, error.symbol, error.offset) == (".text", "main", 4)
    assert error.address == guest.sections[guest.text].address + 4


def test_unsupported_instructions_of_an_instruction_set() -> None:
    guest = main(addi(A1, ZERO, 1), 0x200B, RET)
    assert link(guest.to_bytes()).code
    error = failure(guest, isa=InstructionSet.JAM_V1)
    assert error.what == "the instruction set jam_v1 has no memset"
    assert (error.symbol, error.offset) == ("main", 4)


def test_instruction_sets_of_another_width() -> None:
    assert "registers of 32 bits" in failure(main(RET), isa=InstructionSet.LATEST32).what
    error = failure(main(RET, bits=32), isa=InstructionSet.LATEST64)
    assert error.hint == "compile for riscv64"


def test_64_bit_instructions_are_unknown_to_32_bit_guests() -> None:
    assert "unknown instruction" in failure(main(ld(A0, A0), RET, bits=32)).what


# --- Relocations ------------------------------------------------------------------------------------------------------


def relocated(number: int, *code: int, symbol: Callable[[Guest], int] | None = None) -> Guest:
    guest = Guest()
    start = guest.emit(*code, RET)
    data = guest.add(".data", bytes(16), flags=ALLOC | WRITE)
    target = symbol(guest) if symbol else guest.symbol("thing", data, info=OBJECT)
    guest.relocate(guest.text, start, number, target)
    guest.export("main", guest.symbol("main", guest.text, start))
    return guest


@pytest.mark.parametrize("number", [Type.TPREL_HI20, Type.TLS_GD_HI20, Type.TLS_GOT_HI20, 62])
def test_thread_local_relocations(number: int) -> None:
    error = failure(relocated(number, auipc(A0), addi(A0, A0, 0)))
    assert "thread-local storage" in error.what
    assert (error.section, error.symbol) == (".text", "main")


def test_unknown_relocations() -> None:
    assert failure(relocated(46, addi(A0, A0, 0))).what == "unsupported relocation type 46 in code"


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (Type.HI20, addi(A0, A0, 0)),
        (Type.LO12_I, add(A0, A0, A0)),
        (Type.PCREL_HI20, addi(A0, A0, 0)),
        (Type.CALL_PLT, addi(A0, A0, 0)),
        (Type.BRANCH, addi(A0, A0, 0)),
    ],
)
def test_relocations_on_other_instructions(number: int, code: int) -> None:
    assert "on an instruction it is not for" in failure(relocated(number, code)).what


def test_low_parts_without_high_parts() -> None:
    error = failure(relocated(Type.PCREL_LO12_I, lw(A0, A0)))
    assert "whose high part" in error.what
    assert error.hint == "link with --emit-relocs"


def test_undefined_symbols() -> None:
    error = failure(relocated(Type.CALL_PLT, auipc(RA), jalr(RA, RA), symbol=lambda g: g.symbol("puts", 0, info=0x10)))
    assert error.what == "undefined symbol puts"
    assert "import it from the host" in (error.hint or "")
    assert error.symbol == "main"


def test_loads_of_code() -> None:
    guest = Guest()
    start = guest.emit(auipc(A0), lw(A0, A0), RET)
    guest.relocate(guest.text, start, Type.PCREL_HI20, guest.symbol("text", guest.text))
    guest.relocate(guest.text, start + 4, Type.PCREL_LO12_I, guest.symbol(".L0", guest.text, start))
    guest.export("main", guest.symbol("main", guest.text, start))
    error = failure(guest)
    assert "a load or store of code" in error.what
    assert "not in its memory" in (error.hint or "")


def in_data(*numbers: int, code: bool = False, second: str = "data") -> Guest:
    guest = Guest()
    data = guest.add(".data", bytes(16), flags=ALLOC | WRITE)
    start = guest.emit(auipc(A0), RET)
    guest.relocate(guest.text, start, Type.PCREL_HI20, guest.symbol("object", data, info=OBJECT))
    function = guest.symbol("main", guest.text, start)
    symbols = {"code": function, "data": guest.symbol("object", data, info=OBJECT)}
    for number, symbol in zip(numbers, ("code" if code else "data", second), strict=False):
        guest.relocate(data, 8, number, symbols[symbol])
    guest.export("main", function)
    return guest


@pytest.mark.parametrize(
    ("guest", "what"),
    [
        (lambda: in_data(Type.JAL), "unsupported R_RISCV_JAL in data"),
        (lambda: in_data(Type.SUB32), "a negative address"),
        (
            lambda: in_data(Type.ADD32, Type.SUB32, code=True, second="code"),
            "a distance between two places of the code",
        ),
        (lambda: in_data(Type.SET16), "an address in 16 bits"),
        (lambda: in_data(Type.ADD16, Type.SUB16, code=True), "a code address in 16 bits"),
        (lambda: in_data(Type.ADD32, Type.SUB64), "relocations of different widths"),
        (lambda: in_data(Type.ABS32, Type.ABS32), "unsupported R_RISCV_32 in data"),
    ],
)
def test_data(guest: Callable[[], Guest], what: str) -> None:
    error = failure(guest())
    assert what in error.what
    assert (error.section, error.symbol, error.offset) == (".data", "object", 8)


def test_symbols_that_are_not_there() -> None:
    guest = relocated(Type.HI20, addi(A0, A0, 0), symbol=lambda g: 1000)
    assert failure(guest).what == "a relocation refers to symbol 1000, which is not there"


def test_relocations_outside_of_their_section() -> None:
    guest = main(RET)
    guest.relocate(guest.text, 1000, 46)
    assert "outside of the section" in failure(guest).what


# --- Sections ---------------------------------------------------------------------------------------------------------


def with_section(name: str, **fields: int) -> Guest:
    guest = main(RET)
    guest.add(name, bytes(8), **fields)
    return guest


def test_unknown_sections() -> None:
    error = failure(with_section(".strange", type=0x7000_0042))
    assert (error.what, error.section) == ("an allocated section of unknown type 0x70000042", ".strange")
    assert error.hint == "discard it in the linker script"


@pytest.mark.parametrize("align", [3, 0x20000])
def test_alignments(align: int) -> None:
    error = failure(with_section(".data", align=align))
    assert "an alignment of" in error.what
    assert error.section == ".data"


def test_writable_code() -> None:
    error = failure(with_section(".hot", flags=ALLOC | WRITE | EXECUTE))
    assert (error.section, error.hint) == (".hot", "split it")


def test_thread_local_data() -> None:
    guest = Guest()
    data = guest.add(".tdata", bytes(8), flags=ALLOC | WRITE | TLS)
    start = guest.emit(auipc(A0), RET)
    guest.relocate(guest.text, start, Type.PCREL_HI20, guest.symbol("mine", data, info=OBJECT))
    guest.export("main", guest.symbol("main", guest.text, start))
    assert "thread-local" in failure(guest).what


def test_data_that_is_too_large() -> None:
    guest = relocated(Type.PCREL_HI20, auipc(A0))
    guest.sections[-1].type, guest.sections[-1].size = 8, 0xF000_0000
    assert "bytes of data are more than lui can address" in failure(guest).what
    guest.sections[-1].size = 0xFFFF_FFFF
    assert "do not fit the address space" in failure(guest).what
    guest.sections[-1].size = 1 << 33
    assert "does not fit the address space" in failure(guest).what


def test_stacks_that_are_too_large() -> None:
    with pytest.raises(ElfError, match="do not fit the address space"):
        link(main(RET).to_bytes(), min_stack_size=0xFFFF_F000)


# --- Files and metadata -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"PVM\0" + bytes(100), b"\x7fELF\x01\x02" + bytes(100)])
def test_other_files(data: bytes) -> None:
    assert "this is not " in failure(data).what


def test_other_machines() -> None:
    assert failure(ElfWriter(machine=62)).what == "this ELF file is for machine 62, not for RISC-V (243)"


def test_other_kinds_of_elf_files() -> None:
    assert "neither an executable nor an object" in failure(ElfWriter(file_type=4)).what


def test_nothing_exported() -> None:
    error = failure(Guest(RET))
    assert error.what == "the ELF file exports nothing"
    assert error.hint


def test_two_exports_of_a_name() -> None:
    guest = main(RET)
    guest.export("main", guest.function("again", RET))
    assert failure(guest).what == "two exports are called main"


def test_exports_of_data() -> None:
    guest = main(RET)
    guest.export("data", guest.symbol("data", guest.add(".rodata", bytes(8)), info=OBJECT))
    error = failure(guest)
    assert (error.what, error.section) == ("the export data is not in a section of code", ".polkavm_exports")


def test_exports_without_relocations() -> None:
    guest = Guest(RET, file_type=REL_FILE)
    guest.export("main", guest.symbol("main", guest.text))
    next(s for s in guest.sections if s.name == ".polkavm_exports").relocations.clear()
    assert "there is no relocation for the pointer to the metadata of an export" in failure(guest).what


@pytest.mark.parametrize(
    ("offset", "byte", "what"),
    [
        (0, 3, "metadata of unknown version 3"),
        (1, 9, "metadata with unknown flags 0x9"),
        (5, 255, "the symbol of metadata leaves its section"),
        (17, 10, "metadata of a function with 10 arguments"),
        (18, 3, "metadata of a function with 2 arguments and 3 results"),
    ],
)
def test_metadata(offset: int, byte: int, what: str) -> None:
    guest = main(RET)
    section = next(s for s in guest.sections if s.name == ".polkavm_metadata")
    section.data[len(b"main") + offset] = byte
    error = failure(guest)
    assert what in error.what
    assert error.section == ".polkavm_metadata"


def test_export_versions() -> None:
    guest = main(RET)
    next(s for s in guest.sections if s.name == ".polkavm_exports").data[0] = 2
    assert failure(guest).what == "an export of unknown version 2"


def test_exports_cut_short() -> None:
    guest = main(RET)
    guest.sections[next(i for i, s in enumerate(guest.sections) if s.name == ".polkavm_exports")].data += b"\1\0"
    for section in guest.sections:
        section.size = max(section.size, len(section.data))
    assert failure(guest).what == "the last export is cut short"


def imports(*declared: tuple[str, int, int | None]) -> Guest:
    guest = Guest()
    stubs = [guest.host_function(name, inputs, index=index) for name, inputs, index in declared]
    start = guest.here
    for stub in stubs:
        guest.relocate(guest.text, guest.here, Type.CALL, stub)
        guest.emit(auipc(RA), jalr(RA, RA))
    guest.emit(RET)
    guest.export("main", guest.symbol("main", guest.text, start))
    return guest


@pytest.mark.parametrize(
    ("declared", "what"),
    [
        ((("a", 1, None), ("a", 2, None)), "the import a is declared with different prototypes"),
        ((("a", 1, 0), ("b", 1, None)), "the import b has no index, but others have"),
        ((("a", 1, 4), ("b", 1, 4)), "the imports a and b both have index 4"),
        ((("a", 1, 1024),), "the import a has index 1024; there can be no more than 1024 imports"),
    ],
)
def test_imports_that_contradict_each_other(declared: tuple[tuple[str, int, int | None], ...], what: str) -> None:
    assert failure(imports(*declared)).what == what


def test_stack_sizes_of_half_a_word() -> None:
    guest = main(RET)
    guest.add(".polkavm_min_stack_size", b"12345", flags=0, type=NOTE)
    error = failure(guest)
    assert (error.what, error.section) == ("5 bytes are no multiple of 4", ".polkavm_min_stack_size")


def test_dispatch_of_what_is_not_exported() -> None:
    with pytest.raises(ElfError, match="the dispatch table names other, no export"):
        link(main(RET).to_bytes(), dispatch_table=["other"])


def test_jumps_in_relocatable_files_need_relocations() -> None:
    guest = Guest(beq(A0, A1, 4), RET, file_type=REL_FILE)
    guest.export("main", guest.symbol("main", guest.text))
    assert failure(guest).what == "a jump without a relocation"


def test_jumps_to_odd_addresses() -> None:
    guest = relocated(Type.CALL, auipc(RA), jalr(RA, RA), symbol=lambda g: g.symbol("odd", g.text, 1))
    assert "a jump to the odd address" in failure(guest).what


def test_instructions_that_leave_their_section() -> None:
    guest = main(addi(A0, A0, 0))
    guest.put(guest.text, b"\x13\x05")
    assert failure(guest).what == "an instruction leaves its section"


def test_names_are_made_fit_to_be_shown() -> None:
    guest = Guest()
    guest.export("main", guest.function("evil\x1b[2J\n" + "x" * 500, ECALL))
    error = failure(guest)
    assert error.symbol is not None
    assert error.symbol.startswith("evil\\x1b[2J\\x0ax")
    assert len(error.symbol) == 80


def test_absolute_symbols_are_numbers() -> None:
    guest = Guest(file_type=DYN_FILE)
    start = guest.emit(addi(A0, ZERO, 0), RET)
    guest.relocate(guest.text, start, Type.LO12_I, guest.symbol("NUMBER", ABSOLUTE, 1234))
    guest.export("main", guest.symbol("main", guest.text, start))
    assert link(guest.to_bytes()).code.startswith(bytes([51, 7, 0xD2, 0x04]))
