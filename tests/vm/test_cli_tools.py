# SPDX-License-Identifier: MIT
"""``pvm inspect``, ``pvm disasm``, ``pvm asm`` and ``pvm compile``, as the commands that users type."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from commands import Command, Template

import aioring
import vm
from vm.assembler import assemble
from vm.disassembler import disassemble, listing_lines
from vm.encoding import instruction_starts, instructions
from vm.isa import InstructionSet
from vm.program import ProgramBlob

PROGRAMS = Path(__file__).resolve().parents[3] / "shared" / "programs"

SOURCE = """
%isa = latest64
%ro_data = 01 02 03
%rw_data_size = 5000
%stack_size = 4096
%import = "print"
%import = "\\xff\\x1b[2J"
%jump_table = @main @done 3

pub @main:
    a0 = a0 + a1
    jump @done if a0 == 0
    ecalli 0
@done:
    ret
    .bytes ff
"""


PROGRAM = ProgramBlob.parse(assemble(SOURCE))
#: What a line of native code starts with.
NATIVE = "        | "


@pytest.fixture
def pvm(tmp_path: Path, template: Template) -> Command:
    (tmp_path / "source.pasm").write_text(SOURCE)
    (tmp_path / "program.polkavm").write_bytes(assemble(SOURCE))
    (tmp_path / "not.polkavm").write_bytes(b"PVM\0\x07")
    return Command(tmp_path, template)


# --- asm --------------------------------------------------------------------------------------------------------------


def test_asm(pvm: Command) -> None:
    assert pvm.prints("asm", "source.pasm", "-o", "out.polkavm") == ""
    assert (pvm.directory / "out.polkavm").read_bytes() == assemble(SOURCE)


def test_asm_of_standard_input(pvm: Command) -> None:
    assert pvm.prints("asm", "-", "--output", "out.polkavm", "--isa", "jam_v1", input="trap\n") == ""
    assert (pvm.directory / "out.polkavm").read_bytes() == assemble("trap", InstructionSet.JAM_V1)


def test_asm_replaces_the_output(pvm: Command) -> None:
    pvm.prints("asm", "source.pasm", "-o", "not.polkavm")
    assert (pvm.directory / "not.polkavm").read_bytes() == assemble(SOURCE)


def test_asm_of_wrong_source_leaves_the_output(pvm: Command) -> None:
    (pvm.directory / "wrong.pasm").write_text("trap\n  a0 = \x1b[2J\n")
    before = (pvm.directory / "program.polkavm").read_bytes()
    message = pvm.fails(3, "asm", "wrong.pasm", "-o", "program.polkavm", "--isa", "latest64")
    assert message.startswith("wrong.pasm: line 2: ")
    assert "is not a value" in message
    assert (pvm.directory / "program.polkavm").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("missing", "-o", "out"), 3, "cannot read missing: No such file or directory"),
        ((".", "-o", "out"), 3, "cannot read .: Is a directory"),
        (("program.polkavm", "-o", "out"), 3, "program.polkavm: line 1: the text is not UTF-8"),
        (
            ("-", "-o", "out"),
            3,
            "standard input: no instruction set: neither a %isa directive nor the caller names one",
        ),
        (("source.pasm", "-o", "no/out"), 74, "cannot write no/out: No such file or directory"),
        (("source.pasm", "-o", "."), 74, "cannot write .: Is a directory"),
        (
            ("source.pasm", "-o", "out", "--isa", "z80"),
            2,
            "--isa must be one of revive_v1, latest32, latest64, jam_v1,",
        ),
        (("source.pasm",), 2, "Missing option '--output'"),
        ((), 2, "Missing argument 'SOURCE'"),
    ],
)
def test_asm_fails(pvm: Command, arguments: tuple[str, ...], status: int, message: str) -> None:
    if "program.polkavm" in arguments:
        (pvm.directory / "program.polkavm").write_bytes(b"\xff")
    assert pvm.fails(status, "asm", *arguments, input="trap\n").startswith(message)
    assert not (pvm.directory / "out").exists()


# --- disasm -----------------------------------------------------------------------------------------------------------


def test_disasm(pvm: Command) -> None:
    lines = pvm.prints("disasm", "program.polkavm").splitlines()
    assert lines == [*listing_lines(ProgramBlob.parse(assemble(SOURCE)))]
    assert lines[:2] == ["pub @main:", " 0: c8 87 07                       a0 = a0 + a1"]
    assert pvm.prints("disasm", "--listing", "program.polkavm").splitlines() == lines


def test_disasm_plain_and_back(pvm: Command) -> None:
    text = pvm.prints("disasm", "--plain", "program.polkavm")
    assert text == disassemble(ProgramBlob.parse(assemble(SOURCE)))
    pvm.prints("asm", "-", "-o", "again.polkavm", input=text)
    assert (pvm.directory / "again.polkavm").read_bytes() == assemble(SOURCE)


def test_disasm_native(pvm: Command) -> None:
    pytest.importorskip("capstone")
    head, *lines = pvm.prints("disasm", "program.polkavm", "--native").splitlines()
    assert head.startswith("// x86-64: ")
    assert head.endswith(" bytes, offsets from the start of the native code")
    assert [line for line in lines if not line.startswith(NATIVE)] == [*listing_lines(PROGRAM)]
    end = 0
    begins: dict[int, int] = {}  # of the native code that stands below each instruction
    pc = None
    for line in lines:
        if line.startswith(NATIVE):
            offset, size = native_place(line)
            assert offset == end
            if pc is not None:
                begins.setdefault(pc, end)
            end += size
        elif line.split(":")[0].strip().isdecimal():
            pc = int(line.split(":")[0])
    assert end == int(head.split()[2])
    # fallthrough has no native code
    offsets = native_offsets(PROGRAM)
    starts = {i.pc: offsets[i.pc] for i in instructions(PROGRAM) if i.length and i.name != "fallthrough"}
    assert begins == starts
    assert len(starts) == 5


def native_place(line: str) -> tuple[int, int]:
    """Offset and size of the native instruction on a line."""
    found = re.match(r" *([0-9a-f]+): ((?:[0-9a-f]{2} )+)", line.removeprefix(NATIVE))
    assert found
    return int(found[1], 16), len(bytes.fromhex(found[2]))


def native_offsets(program: ProgramBlob, backend: Literal["recompiler", "interpreter"] = "recompiler") -> list[Any]:
    """Those of every offset of the code, and some around it."""

    async def main() -> list[int | None]:
        async with vm.Engine(vm.Config(backend=backend)) as engine:
            module = await engine.compile(program)
            assert module.native_offset(-1) is module.native_offset(1 << 32) is module.native_offset(1 << 70) is None
            assert module.native_offset((1 << 32) - 1) is None
            return [module.native_offset(pc) for pc in range(len(program.code))]

    return aioring.run(main())


def test_native_offsets() -> None:
    offsets = native_offsets(PROGRAM)
    starts = [*instruction_starts(PROGRAM.bitmask)]
    assert [pc for pc, offset in enumerate(offsets) if offset is not None] == starts
    native = [offsets[pc] for pc in starts]
    assert native == sorted(native)
    # all but the fallthrough have code of their own
    assert len(set(native)) == len(native) - 1
    assert set(native_offsets(PROGRAM, "interpreter")) == {None}


def test_disasm_native_of_code_that_starts_late(pvm: Command) -> None:
    """A gap before the first instruction, and no instruction at all."""
    pytest.importorskip("capstone")
    for bitmask, listing in ((b"\4", ["0: 00 00"]), (b"\0", ["0: 00 00 00"])):
        program = ProgramBlob.build(isa=InstructionSet.LATEST64, code=bytes(3), bitmask=bitmask)
        (pvm.directory / "gap.polkavm").write_bytes(program.to_bytes())
        head, *lines = pvm.prints("disasm", "gap.polkavm", "--native").splitlines()
        assert [line for line in lines if not line.startswith(NATIVE)] == [*listing_lines(program)]
        assert lines[-1].startswith(NATIVE) == (bitmask != b"\0")
        assert sum(line.startswith(listing[0]) for line in lines) == 1
        sizes = [native_place(line)[1] for line in lines if line.startswith(NATIVE)]
        assert sum(sizes) == int(head.split()[2])


def test_disasm_native_without_capstone(pvm: Command) -> None:
    (pvm.directory / "capstone.py").write_text("raise ImportError('not installed')")
    message = pvm.fails(4, "disasm", "--native", "program.polkavm")
    assert message == "--native needs the package capstone: pip install capstone"


@pytest.mark.parametrize("command", ["disasm", "inspect"])
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("missing",), 3, "cannot read missing: No such file or directory"),
        (("not.polkavm",), 3, "not.polkavm: invalid program blob: unknown instruction set version 7 at byte 0x4"),
        (("source.pasm",), 3, "source.pasm: invalid program blob: it does not start with the magic bytes"),
        ((), 2, "Missing argument 'PROGRAM'"),
    ],
)
def test_no_program(pvm: Command, command: str, arguments: tuple[str, ...], status: int, message: str) -> None:
    assert pvm.fails(status, command, *arguments).startswith(message)


@pytest.mark.parametrize("option", ["--native", "--listing"])
def test_plain_stands_alone(pvm: Command, option: str) -> None:
    assert pvm.fails(2, "disasm", "program.polkavm", "--plain", option) == f"--plain and {option} cannot go together"


def test_disasm_for_a_reader_who_leaves(pvm: Command) -> None:
    (pvm.directory / "large.polkavm").write_bytes(assemble("trap\n" * 100_000, InstructionSet.LATEST64))
    command = [sys.executable, "-m", "vm.cli", "disasm", "large.polkavm"]
    with subprocess.Popen(command, cwd=pvm.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"     0: 00                             trap\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


# --- inspect ----------------------------------------------------------------------------------------------------------


def test_inspect(pvm: Command) -> None:
    text = pvm.prints("inspect", "program.polkavm")
    assert text.splitlines() == [
        f"latest64 (64-bit registers), {len(assemble(SOURCE))} bytes",
        "",
        "sections",
        "  1  memory config   5",
        "  2  ro data         3",
        "  4  imports        19",
        "  5  exports         7",
        "  6  code           19",
        "",
        "memory map, pages of 4096 bytes",
        "  0x00010000..0x00011000     3  read-only data",
        "  0x00030000..0x00032000  5000  read-write data",
        "  0xfffdf000..0xfffe0000  4096  stack",
        "  0x00031388..0xfffc0000        heap, as far as it can grow",
        "",
        "imports: 2",
        "  0  print",
        r"  1  \xff\x1b[2J",
        "",
        "exports: 1",
        "  0  main",
        "",
        "code",
        "  11  bytes",
        "   6  instructions, 1 of them invalid",
        "   4  basic blocks",
        "   3  jump table entries of 1 bytes, 1 of them invalid",
        "",
        "debug information",
        "  none",
        "",
        "instructions",
        "  1  16.67%  add_64",
        "  1  16.67%  branch_eq_imm",
        "  1  16.67%  ecalli",
        "  1  16.67%  fallthrough",
        "  1  16.67%  jump_indirect",
        "  1  16.67%  invalid",
    ]


def test_inspect_json(pvm: Command) -> None:
    facts = json.loads(pvm.prints("inspect", "program.polkavm", "--json"))
    memory = facts.pop("memory_map")
    assert (memory["rw_address"], memory["rw_size"], memory["rw_accessible"]) == (0x30000, 5000, 8192)
    assert facts == {
        "file": "program.polkavm",
        "isa": "latest64",
        "word_bits": 64,
        "size": len(assemble(SOURCE)),
        "sections": [
            {"id": 1, "name": "memory config", "size": 5},
            {"id": 2, "name": "ro data", "size": 3},
            {"id": 4, "name": "imports", "size": 19},
            {"id": 5, "name": "exports", "size": 7},
            {"id": 6, "name": "code", "size": 19},
        ],
        "memory_map_error": None,
        "imports": ["print", "\\xff\x1b[2J"],
        "exports": [{"pc": 0, "name": "main"}],
        "code": {
            "size": 11,
            "instructions": 6,
            "invalid": 1,
            "basic_blocks": 4,
            "jump_table_entries": 3,
            "jump_table_entry_size": 1,
            "jump_table_invalid": 1,
        },
        "histogram": {"add_64": 1, "branch_eq_imm": 1, "ecalli": 1, "fallthrough": 1, "jump_indirect": 1, "invalid": 1},
        "debug_info": {"present": False, "functions": 0, "regions": 0, "error": None},
    }


def test_inspect_json_fails_in_json(pvm: Command) -> None:
    status, output, errors = pvm("inspect", "not.polkavm", "--json")
    assert (status, errors) == (3, "")
    error = json.loads(output)["error"]
    assert (error["kind"], error["offset"]) == ("parse", 4)


def test_inspect_what_cannot_run(pvm: Command) -> None:
    """Regions that do not fit, no instruction at all, malformed debug sections, and many exports: all are shown."""
    program = ProgramBlob.build(
        isa=InstructionSet.LATEST32,
        code=b"\0",
        bitmask=b"\0",
        rw_data_size=0xFFFF_FFFF,
        exports=[(n, b"\x1b%d" % n) for n in range(150)],
        debug_strings=b"\0",
        debug_line_programs=b"\2",
        debug_line_program_ranges=struct.pack("<III", 0, 1, 0),
    )
    (pvm.directory / "odd.polkavm").write_bytes(program.to_bytes())
    text = pvm.prints("inspect", "odd.polkavm")
    assert "memory map\n  the memory regions do not fit the address space" in text
    assert "  0  instructions, 0 of them invalid\n" in text
    assert "exports: 150\n   0  \\x1b0\n" in text
    assert "\n  99  \\x1b99\n      and 50 more\n" in text
    assert "\n  invalid program blob: unknown version 2 at offset 0x0 in the debug line programs section\n" in text
    assert all(line.isprintable() for line in text.splitlines())
    facts = json.loads(pvm.prints("inspect", "odd.polkavm", "--json"))
    assert facts["memory_map"] is None
    assert len(facts["exports"]) == 150
    assert facts["debug_info"]["error"].startswith("invalid program blob: unknown version 2")


@pytest.mark.parametrize(
    ("name", "instructions", "functions"), [("hello-world", 10, 0), ("quake", 84355, 686), ("doom", 163243, 0)]
)
def test_inspect_real_programs(pvm: Command, name: str, instructions: int, functions: int) -> None:
    path = PROGRAMS / f"{name}.polkavm"
    if not path.exists():
        pytest.skip(f"{name}.polkavm is not at ../shared/programs")
    facts = json.loads(pvm.prints("inspect", str(path), "--json"))
    assert facts["code"]["instructions"] == sum(facts["histogram"].values()) == instructions
    assert facts["size"] == path.stat().st_size
    assert facts["debug_info"] == {
        "present": functions > 0,
        "functions": functions,
        "regions": facts["debug_info"]["regions"],
        "error": None,
    }


# --- compile ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def add(pvm: Command) -> Path:
    """A program that adds; `compile` is told of it as add.polkavm."""
    path = pvm.directory / "add.polkavm"
    path.write_bytes(assemble("pub @add:\na0 = a0 + a1\nret", InstructionSet.LATEST64))
    return path


@pytest.mark.parametrize("backend", ["recompiler", "interpreter"])
def test_compile_and_run(pvm: Command, add: Path, backend: str) -> None:
    assert pvm.prints("compile", add.name, "-o", "add.pvmc", "--backend", backend) == ""
    assert (pvm.directory / "add.pvmc").stat().st_mode & 0o777 == 0o600
    add.unlink()  # the file has all of it
    assert pvm.prints("run", "add.pvmc", "add", "1", "2") == "3\n"
    assert pvm.prints("run", "add.pvmc", "1", "2", "--backend", backend, "--page-size", "4096") == "3\n"
    assert "a0 = a0 + a1" in pvm.prints("disasm", "add.pvmc")
    assert "latest64" in pvm.prints("inspect", "add.pvmc")
    other = "interpreter" if backend == "recompiler" else "recompiler"
    assert pvm.fails(2, "run", "add.pvmc", "1", "2", "--backend", other).endswith(
        f"add.pvmc was compiled for the {backend}: leave --backend out"
    )


def test_compile_with_options(pvm: Command, add: Path) -> None:
    pvm.prints("compile", add.name, "-o", "add.pvmc", "--gas", "--page-size", "0x4000")
    assert json.loads(pvm.prints("run", "add.pvmc", "1", "2", "--gas", "100", "--json"))["gas_used"] == 2
    for options, complaint in (
        ([], "to meter gas: give it some, with --gas"),
        (["--gas", "9", "--page-size", "4096"], "for pages of 16384 bytes: leave --page-size out"),
        (["--gas", "9", "--legacy-sbrk"], "without --legacy-sbrk: leave it out"),
        (["--gas", "9", "--crosscheck", "--step-tracing"], "without step tracing, which cannot be changed"),
    ):
        assert pvm.fails(2, "run", "add.pvmc", "1", "2", *options).endswith(f"add.pvmc was compiled {complaint}")
    assert pvm.prints("run", "add.pvmc", "1", "2", "--gas", "9", "--crosscheck") == "3\n"
    pvm.prints("compile", add.name, "-o", "add.pvmc")  # replaced
    assert pvm.fails(2, "run", "add.pvmc", "1", "2", "--gas", "9").endswith("was compiled without --gas: leave it out")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["absent.polkavm", "-o", "out"], 3, "cannot read absent.polkavm: No such file or directory"),
        (["add.polkavm", "-o", "absent/out"], 74, "cannot write absent/out: No such file or directory"),
        (["add.polkavm", "-o", "."], 74, "cannot write .: Is a directory"),
        (["add.polkavm", "-o", "out", "--page-size", "5"], 3, "invalid page size 0x5"),
        (["add.polkavm", "-o", "out", "--page-size", "big"], 2, "--page-size is 'big', which is no integer"),
        (["add.polkavm", "-o", "out", "--backend", "jit"], 2, "--backend must be one of recompiler, interpreter"),
        (["add.polkavm"], 2, "Missing option '--output' / '-o'"),
    ],
)
def test_compile_fails(pvm: Command, add: Path, arguments: list[str], status: int, message: str) -> None:
    before = set(pvm.directory.iterdir())
    assert message in pvm.fails(status, "compile", *arguments)
    assert set(pvm.directory.iterdir()) == before


def test_a_compiled_module_that_cannot_be_used(pvm: Command, add: Path) -> None:
    pvm.prints("compile", add.name, "-o", "add.pvmc")
    path = pvm.directory / "add.pvmc"
    path.chmod(0o666)
    for command in ("run", "inspect", "disasm"):
        assert "cannot load a compiled module from add.pvmc: its group and others may write it" in pvm.fails(
            3, command, "add.pvmc"
        )
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1])
    status, output, _ = pvm("run", "add.pvmc", "--json")
    assert (status, json.loads(output)["error"]["kind"]) == (3, "load")
