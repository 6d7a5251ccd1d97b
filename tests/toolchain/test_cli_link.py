# SPDX-License-Identifier: MIT
"""``pvm link``, as users type it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Command, Template
from elf_writer import A0, A1, ECALL, RET, add, main

from vm.debug_info import DebugInfo
from vm.isa import InstructionSet
from vm.program import ProgramBlob
from vm.toolchain import link

GUEST = main(add(A0, A0, A1), RET).to_bytes()


@pytest.fixture
def pvm(directory: Path, template: Template) -> Command:
    return Command(directory, template)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "guest.elf").write_bytes(GUEST)
    (tmp_path / "wrong.elf").write_bytes(main(ECALL, RET).to_bytes())
    return tmp_path


def test_link_and_run(pvm: Command, directory: Path) -> None:
    assert pvm("link", "guest.elf", "-o", "guest.polkavm") == (0, "", "")
    assert (directory / "guest.polkavm").read_bytes() == link(GUEST).to_bytes()
    assert pvm("run", "--backend", "interpreter", "guest.polkavm", "main", "2", "40")[:2] == (0, "42\n")


def test_options(pvm: Command, directory: Path) -> None:
    options = ("--isa", "jam_v1", "--no-optimize", "--strip")
    assert pvm("link", *options, "guest.elf", "--output", "guest.polkavm") == (0, "", "")
    program = ProgramBlob.parse((directory / "guest.polkavm").read_bytes())
    assert program == link(GUEST, isa=InstructionSet.JAM_V1, optimize=False, strip=True)
    assert not DebugInfo(program).present


def test_errors_are_one_line(pvm: Command, directory: Path) -> None:
    (directory / "out.polkavm").write_bytes(b"before")
    status, output, errors = pvm("link", "wrong.elf", "-o", "out.polkavm")
    assert (status, output) == (3, "")
    assert errors == (
        "pvm: wrong.elf: ecall in section .text at offset 0x0 in main; "
        "a guest has no system calls: import a host function instead\n"
    )
    assert (directory / "out.polkavm").read_bytes() == b"before"


def test_other_errors(pvm: Command, directory: Path) -> None:
    assert pvm("link", "none.elf", "-o", "x")[2] == "pvm: cannot read none.elf: No such file or directory\n"
    assert "--isa must be one of" in pvm("link", "guest.elf", "-o", "x", "--isa", "z80")[2]
    status, _, errors = pvm("link", "guest.elf", "-o", "none/x")
    assert (status, errors) == (74, "pvm: cannot write none/x: No such file or directory\n")
    status, _, errors = pvm("link", "guest.elf", "-o", "x", "--isa", "latest32")
    assert status == 3
    assert "compile for riscv32" in errors


def test_errors_as_json_are_for_other_commands(pvm: Command, directory: Path) -> None:
    status, output, _ = pvm("link", "wrong.elf", "-o", "x", "--json")
    assert status == 2
    assert "error" in json.loads(output)
