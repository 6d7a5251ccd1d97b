# SPDX-License-Identifier: MIT
"""The linker on ELF files of other people: the official RISC-V tests, relocation tests, and DOOM."""

from __future__ import annotations

import io
import itertools
import time
from pathlib import Path
from typing import Literal, TypeAlias

import pytest
from doom_host import FRAMES, play, read_wad

import vm
from vm.debug_info import DebugInfo
from vm.toolchain import link
from vm.toolchain._dwarf import SECTIONS
from vm.toolchain._dwarf_forms import Budget
from vm.toolchain._dwarf_lines import LineTable
from vm.toolchain._sections import Image

pytestmark = pytest.mark.asyncio(loop_factories=["aioring"])

Backend: TypeAlias = Literal["recompiler", "interpreter"]
BACKENDS = pytest.mark.parametrize("backend", ["recompiler", "interpreter"])
OPTIMIZE = pytest.mark.parametrize("optimize", [False, True], ids=["plain", "optimized"])

#: What every test gets; endless loops are failures.
GAS = 10_000
#: Files of instruction tests.
TESTS = 180


@BACKENDS
@OPTIMIZE
async def test_riscv_tests(backend: Backend, optimize: bool, shared: Path) -> None:
    """Each passes if it finishes; a failure is a trap."""
    files = sorted((shared / "programs/riscv-tests").glob("*/*.elf"))
    assert len(files) == TESTS
    failures = {}
    async with vm.Engine(vm.Config(backend=backend)) as engine:
        for path in files:
            program = link(path.read_bytes(), optimize=optimize)
            module = await engine.compile(program, vm.ModuleConfig(gas_metering="sync"))
            async with await module.instantiate() as instance:
                instance.gas = GAS
                try:
                    await instance.call("main")
                except (vm.TrapError, vm.OutOfGasError) as error:
                    failures[f"{path.parent.name}/{path.name}"] = str(error)
    assert not failures


@BACKENDS
@OPTIMIZE
@pytest.mark.parametrize(
    ("name", "secrets"),
    [
        ("add_sub", [0x0101_0101, 0x0202_0202, 0x0303_0303]),
        ("hi_lo", [0xA101_0101, 0xB202_0202, 0xC303_0303]),
    ],
)
async def test_relocations(backend: Backend, optimize: bool, name: str, secrets: list[int], shared: Path) -> None:
    """`get_string` gives the address of a secret by way of a table of relative addresses."""
    program = link((shared / f"programs/elf/reloc_{name}_64.elf").read_bytes(), optimize=optimize)
    async with vm.Engine(vm.Config(backend=backend)) as engine:
        module = await engine.compile(program)
        async with await module.instantiate() as instance:
            found = [await instance.call("get_string", index) for index in range(len(secrets))]
            assert [int.from_bytes(instance.memory.read(a or 0, 4), "little") for a in found] == secrets


@pytest.fixture(scope="module")
def doom_elf(shared: Path) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    compressed = (shared / "programs/elf/doom_64.elf.zst").read_bytes()
    return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(compressed))


@pytest.mark.timeout(60)
async def test_line_tables_of_doom(doom_elf: bytes) -> None:
    """Our reader of DWARF finds what pyelftools finds."""
    pytest.importorskip("elftools")
    from elftools.elf.elffile import ELFFile

    information = ELFFile(io.BytesIO(doom_elf)).get_dwarf_info(relocate_dwarf_sections=False)
    image = Image(doom_elf)
    sections = {section.name: bytes(section.data) for section in image.sections if section.name in SECTIONS}
    compared = 0
    for unit in itertools.islice(information.iter_CUs(), 0, None, 8):
        program = information.line_program_for_CU(unit)
        top = unit.get_top_DIE()
        directory = top.attributes["DW_AT_comp_dir"].value.decode()
        offset = top.attributes["DW_AT_stmt_list"].value
        ours = LineTable(sections, offset, directory, Budget(1 << 24), lambda address: True)
        states = [entry.state for entry in program.get_entries() if entry.state is not None]
        theirs = [(s.address, -1, 0, 0) if s.end_sequence else (s.address, s.file, s.line, s.column) for s in states]
        assert ours.rows == theirs
        names = [entry.name.decode() for entry in program["file_entry"]]
        assert [path.rpartition("/")[2] for path in ours.paths] == [name.rpartition("/")[2] for name in names]
        compared += len(theirs)
    assert compared > 10_000


@pytest.mark.timeout(120)
@OPTIMIZE
async def test_doom(optimize: bool, doom_elf: bytes) -> None:
    """28 MB of ELF file become a program whose frames are those of the reference implementation."""
    read_wad()
    started = time.perf_counter()
    program = link(doom_elf, optimize=optimize)
    assert time.perf_counter() - started < 60
    DebugInfo(program).check()
    async with vm.Engine() as engine:
        assert await play(engine, program, max(FRAMES)) == FRAMES
