# SPDX-License-Identifier: MIT
"""The Python side of driver.c: compiles it together with the recompiler, and runs guest code in it.

`NativeGuest` has the interface of `reference.Interpreter`, so that both can be run in step and compared.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import pytest
from reference import REGISTER_COUNT, Exit, ExitKind, Program

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wvla", "-Wstrict-prototypes", "-Wmissing-prototypes"]

#: Bits of `pvm_cpu_feature` that the recompiler can do without.
BMI2 = 1 << 3

#: Of every compilation; `compile_c` adds its options.
BASE = ["-std=gnu17", "-O1", "-fPIE", "-pie", "-Werror", *WARNINGS]

#: Of what hostile input is given to. -O0: most of the time goes into compiling.
SANITIZERS = ("-g", "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")

_NO_PC = 0xFFFF_FFFF
_KINDS = {0: ExitKind.HALT, 2: ExitKind.ECALLI, 3: ExitKind.TRAP, 8: ExitKind.SBRK, 100: ExitKind.STEPS}


def compile_c(compiler: str, main: Path, output: Path, *options: str) -> None:
    """Compile the recompiler and `main` into `output`; an option that ends in .c or .S is one more file of it."""
    flags = tuple(option for option in options if not option.endswith((".c", ".S")))
    library, include = _library(compiler, flags)
    others = [Path(option) for option in options if option.endswith((".c", ".S"))]
    with tempfile.TemporaryDirectory() as directory:
        own = _objects(compiler, flags, [main, *others], Path(directory), include)
        subprocess.run([compiler, *BASE, *flags, *library, *own, "-o", output], check=True)


def compile_sanitized(compiler: str, main: Path, output: Path, *options: str) -> None:
    """`compile_c` with AddressSanitizer and UndefinedBehaviorSanitizer; skips the test where they cannot be linked."""
    with tempfile.TemporaryDirectory() as directory:
        probe = Path(directory) / "probe.c"
        probe.write_text("int main(void) { return 0; }\n")
        command: list[str | Path] = [compiler, *SANITIZERS, probe, "-o", probe.with_suffix("")]
        if subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip(f"{compiler} cannot link the address and undefined behaviour sanitizers")
    compile_c(compiler, main, output, *SANITIZERS, *options)


@functools.cache
def _library(compiler: str, flags: tuple[str, ...]) -> tuple[list[Path], Path]:
    """Objects of native/pvm, compiled once for all programs with these flags; and where the generated header is."""
    folder = Path(tempfile.mkdtemp(prefix="pvm-objects-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    generator = ROOT / "native/pvm/gen_opcodes.py"
    subprocess.run([sys.executable, generator, ROOT / "vm/isa.py", folder / "opcodes.h"], check=True)
    return _objects(compiler, flags, sorted((ROOT / "native/pvm").glob("*.c")), folder, folder), folder


def _objects(compiler: str, flags: Sequence[str], sources: Sequence[Path], folder: Path, include: Path) -> list[Path]:
    includes = [f"-I{directory}" for directory in (include, ROOT / "native", ROOT / "native/pvm")]

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        subprocess.run([compiler, *BASE, *flags, *includes, "-c", source, "-o", target], check=True)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(compile_one, sources))


class Compiled(NamedTuple):
    """What came out of a recompilation."""

    status: int  # 0 or -errno
    code_size: int  # bytes
    instruction_count: int
    nanoseconds: int


class Driver:
    """A running driver process; a context manager. Holds one program and one guest memory at a time."""

    def __init__(self, executable: Path) -> None:
        self._process = subprocess.Popen([executable], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.instruction_count = 0
        self.code_size = 0

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
        finally:
            self._process.stdout.close()
            status = self._process.wait()
        if kind is None and status != 0:
            raise RuntimeError(f"the driver died: exit status {status}")

    def _send(self, command: bytes, *numbers: int, data: bytes = b"") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(command + struct.pack(f"<{len(numbers)}I", *numbers) + data)

    def _receive(self, size: int) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.flush()
        data = self._process.stdout.read(size)
        if len(data) != size:
            raise RuntimeError(f"the driver died: exit status {self._process.wait()}")
        return data

    def compile(self, program: Program, *, jump_table_entry_size: int = 4, without: int = 0) -> Compiled:
        """Recompile; `without` are bits of CPU features not to use."""
        size = jump_table_entry_size
        table = b"".join((pc & (1 << 8 * size) - 1).to_bytes(size, "little") for pc in program.jump_table)
        data = program.code + program.bitmask + table
        self._send(b"P", program.isa, without, len(program.code), len(program.jump_table), size, data=data)
        nanoseconds, status, self.code_size, self.instruction_count = struct.unpack("<qiII", self._receive(20))
        return Compiled(status, self.code_size, self.instruction_count, nanoseconds)

    def run(self, registers: Sequence[int], pc: int | None) -> tuple[Exit, list[int]]:
        """Run from `pc`, or from behind the last host call; returns the exit and the registers then."""
        data = struct.pack(f"<{REGISTER_COUNT}Q", *registers)
        self._send(b"R", _NO_PC if pc is None else pc, data=data)
        *after, fault, state, at, number, _ = struct.unpack(f"<{REGISTER_COUNT + 1}Q4I", self._receive(128))
        kind = _KINDS[state]
        if kind is ExitKind.HALT:
            return Exit(kind), after
        # A fault of the native jump table, far above guest memory, is a panic of the guest.
        return Exit(kind, at, number if kind is ExitKind.ECALLI else 0, fault if fault < 1 << 32 else None), after

    def instructions(self) -> list[tuple[int, int]]:
        """(pc, native offset) of every instruction."""
        return list(struct.iter_unpack("<II", self._command(b"I", 8 * self.instruction_count)))

    def native_code(self) -> bytes:
        return self._command(b"C", self.code_size)

    def _command(self, command: bytes, size: int) -> bytes:
        self._send(command)
        return self._receive(size)

    def map(self, address: int, size: int) -> None:
        """Map zeroed guest pages, readable and writable."""
        self._send(b"M", address, size)

    def unmap(self, address: int, size: int) -> None:
        self._send(b"U", address, size)

    def protect(self, address: int, size: int) -> None:
        """Make guest pages read-only."""
        self._send(b"A", address, size, 1)

    def write(self, address: int, data: bytes) -> None:
        self._send(b"W", address, len(data), data=data)

    def read(self, address: int, size: int) -> bytes:
        self._send(b"G", address, size)
        return self._receive(size)
