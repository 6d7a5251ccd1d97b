# SPDX-License-Identifier: MIT
"""``pvm bindings``, as users type it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from commands import Command, Template
from elf_writer import A0, A1, RET, add, main

import vm
from vm.bindings import module_source
from vm.signatures import HEADER
from vm.toolchain import link


@pytest.fixture
def pvm(directory: Path, template: Template) -> Command:
    return Command(directory, template)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    guest = main(add(A0, A0, A1), RET)
    guest.add(".pvm_signatures", b"export main(ii)i\n", flags=0, align=1)
    (tmp_path / "guest.elf").write_bytes(guest.to_bytes())
    (tmp_path / "guest.polkavm").write_bytes(link(guest.to_bytes()).to_bytes())
    return tmp_path


def test_bindings_of_a_linked_guest(pvm: Command, directory: Path) -> None:
    source = module_source(vm.ProgramBlob.parse((directory / "guest.polkavm").read_bytes()))
    assert "async def main(self, a: int, b: int, /) -> int:" in source
    assert pvm("bindings", "guest.polkavm") == (0, source, "")
    assert pvm("bindings", "guest.polkavm", "-o", "guest.py") == (0, "", "")
    assert (directory / "guest.py").read_text() == source
    assert pvm("compile", "guest.polkavm", "-o", "guest.pvmc")[0] == 0
    assert pvm("bindings", "guest.pvmc") == (0, source, ""), "a compiled module holds its program"


def test_a_host_imports_what_was_written(pvm: Command, directory: Path) -> None:
    assert pvm("bindings", "guest.polkavm", "--output", "guest.py") == (0, "", "")
    (directory / "host.py").write_text(
        """
import asyncio, guest, vm

async def main():
    async with vm.Engine(vm.Config(backend="interpreter")) as engine:
        async with await guest.Program.instantiate(await engine.compile("guest.polkavm")) as program:
            print(await program.main(-50, 8))

asyncio.run(main())
"""
    )
    command = [sys.executable, "-W", "error", "host.py"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("-42\n", "")


def test_errors(pvm: Command, directory: Path) -> None:
    (directory / "not.polkavm").write_bytes(b"PVM\0\x07")
    program = vm.ProgramBlob.parse((directory / "guest.polkavm").read_bytes())
    data = program.to_bytes()
    damaged = data.replace(HEADER + b"export", HEADER + b"xxport")
    (directory / "damaged.polkavm").write_bytes(damaged)
    assert pvm("bindings", "none.polkavm") == (
        3,
        "",
        "pvm: cannot read none.polkavm: No such file or directory\n",
    )
    assert pvm("bindings", "not.polkavm")[::2] == (
        3,
        "pvm: not.polkavm: invalid program blob: unknown instruction set version 7 at byte 0x4\n",
    )
    status, output, errors = pvm("bindings", "damaged.polkavm", "-o", "out.py")
    assert (status, output) == (3, "")
    assert errors.startswith("pvm: damaged.polkavm: invalid program blob: no signature: xxport main(ii)i at byte 0x11 ")
    assert not (directory / "out.py").exists()
    assert pvm("run", "--backend", "interpreter", "damaged.polkavm", "main", "1", "2")[:2] == (0, "3\n")
    status, _, errors = pvm("bindings", "guest.polkavm", "-o", "none/x.py")
    assert (status, errors) == (74, "pvm: cannot write none/x.py: No such file or directory\n")


def test_help(pvm: Command, directory: Path) -> None:
    status, output, _ = pvm("bindings", "--help")
    assert status == 0
    assert "typed Python module" in output
    assert "--output" in output
    assert "bindings" in pvm("--help")[1]
