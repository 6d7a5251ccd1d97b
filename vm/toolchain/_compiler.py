# SPDX-License-Identifier: MIT
"""Compilers for guests: that of the ``ziglang`` package, or a system's clang with its lld."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vm._errors import VMError
from vm.isa import InstructionSet

CompilerName = Literal["zig", "clang"]

#: What is needed, in the words that install it.
INSTALL = "pip install 'aioring[toolchain]'"
#: Versions of ziglang whose libc the SDK is made for: musl's C files move into Zig's own library, release by release.
ZIG_VERSIONS = ("0.17.",)
#: The first clang that knows the ABI lp64e.
_CLANG_VERSION = 18
#: They would add to the include path, or to the command line.
_FOREIGN = ("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "CCC_OVERRIDE_OPTIONS")


class ToolchainError(VMError):
    """There is no compiler for guests, or it cannot do what is asked; the message says how to get one that can."""


class BuildError(VMError):
    """A compiler or the ELF linker failed.

    `command` is its command line, `status` its exit status (negative: the signal that killed it), `output` what it
    printed, byte for byte as far as it is UTF-8.
    """

    def __init__(self, command: Sequence[str], status: int, output: str) -> None:
        self.command = tuple(command)
        self.status = status
        self.output = output
        how = f"exit status {status}" if status >= 0 else f"signal {-status}"
        super().__init__(f"{Path(command[0]).name} failed with {how}" + (f":\n{output.rstrip()}" if output else ""))


@dataclass(frozen=True, slots=True)
class Target:
    """What a guest's instruction set is called by compilers."""

    bits: int
    triple: str
    march: str
    abi: str
    #: The same as `march`, for Zig.
    cpu: str
    #: lld's name for the output format.
    emulation: str


_EXTENSIONS = "emac_zba_zbb"
_FEATURES = "+e+m+a+c+zba+zbb+unaligned_scalar_mem-relax"
_TARGETS = {
    InstructionSet.LATEST64: Target(
        64, "riscv64-unknown-none-elf", f"rv64{_EXTENSIONS}", "lp64e", f"generic_rv64{_FEATURES}", "elf64lriscv"
    ),
    InstructionSet.LATEST32: Target(
        32, "riscv32-unknown-none-elf", f"rv32{_EXTENSIONS}", "ilp32e", f"generic_rv32{_FEATURES}", "elf32lriscv"
    ),
}


def target_of(isa: InstructionSet) -> Target:
    """The target to compile for. Raises ValueError for an instruction set that compilers are not driven for."""
    target = _TARGETS.get(isa)
    if target is None:
        known = ", ".join(isa.label for isa in _TARGETS)
        raise ValueError(f"guests are compiled for {known}, not for {isa.label}")
    return target


@dataclass(frozen=True, slots=True)
class Compiler:
    """A compiler that was found."""

    name: CompilerName
    #: What it says of its version, in one line.
    version: str
    clang: tuple[str, ...]
    lld: tuple[str, ...]
    #: Zig's executable and library, where musl is; None for a system's clang.
    zig: Path | None = None
    library: Path | None = None

    @property
    def identity(self) -> str:
        """Differs between compilers whose objects must not be mixed."""
        status = Path(self.clang[0]).stat()
        return f"{self.name} {self.version} {self.clang[0]} {status.st_size} {status.st_mtime_ns}"


def run(command: Sequence[str], *, cwd: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """Runs a tool; what it printed. Raises `BuildError` if it fails, `ToolchainError` if it cannot be started."""
    inherited = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=inherited | (environment or {}),
            check=False,
        )
    except OSError as error:
        raise ToolchainError(f"cannot run {command[0]}: {error.strerror}") from error
    output = done.stdout.decode("utf-8", "backslashreplace")
    if done.returncode:
        raise BuildError(command, done.returncode, output)
    return output


def find_compiler(name: CompilerName | None = None) -> Compiler:
    """The compiler called `name`, or the first there is: ziglang's, then a system's clang.

    Raises `ToolchainError` if there is none that will do.
    """
    problems = []
    for candidate in (_zig, _clang):
        if name is None or candidate.__name__ == f"_{name}":
            try:
                return candidate()
            except ToolchainError as error:
                problems.append(str(error))
    raise ToolchainError(f"no compiler for guests: {'; '.join(problems)}. This installs one: {INSTALL}")


def _zig() -> Compiler:
    spec = importlib.util.find_spec("ziglang")
    folder = spec.submodule_search_locations[0] if spec and spec.submodule_search_locations else None
    if folder is None:
        raise ToolchainError("the Python package ziglang is not installed")
    zig = Path(folder) / "zig"
    version = _version((str(zig), "version"), _stamp(zig))
    if not version.startswith(ZIG_VERSIONS):
        wanted = " or ".join(f"{prefix}x" for prefix in ZIG_VERSIONS)
        raise ToolchainError(f"ziglang is {version}, and {wanted} is needed")
    return Compiler("zig", version, (str(zig), "clang"), (str(zig), "ld.lld"), zig, Path(folder) / "lib")


def _clang() -> Compiler:
    """The newest clang in PATH that has its lld beside it."""
    for suffix in ("", *(f"-{major}" for major in range(30, _CLANG_VERSION - 1, -1))):
        clang, lld = shutil.which(f"clang{suffix}"), shutil.which(f"ld.lld{suffix}")
        if clang is None or lld is None:
            continue
        version = _version((clang, "--version"), _stamp(Path(clang)))
        major = re.search(r"clang version (\d+)", version)
        if major and int(major[1]) >= _CLANG_VERSION:
            return Compiler("clang", version, (clang,), (lld,))
    raise ToolchainError(f"there is no clang {_CLANG_VERSION} or newer with ld.lld in PATH")


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise ToolchainError(f"cannot use {path}: {error.strerror}") from error


@functools.lru_cache(maxsize=32)
def _version(command: tuple[str, ...], stamp: int) -> str:
    """The first line that a tool prints; `stamp` tells one file of a name from the next."""
    try:
        return run(command).partition("\n")[0].strip()
    except BuildError as error:
        raise ToolchainError(f"'{' '.join(command)}' fails: {error.output.strip() or error.status}") from error


def zig_command(compiler: Compiler, target: Target, verb: str, system: str) -> list[str]:
    """The begin of a command line of Zig that makes code for guests. For `run_zig`."""
    return [
        str(compiler.zig),
        verb,
        "-target",
        f"riscv{target.bits}-{system}",
        f"-mcpu={target.cpu}",
        "-mcmodel=medlow",
        "-fno-PIC",
        "-fsingle-threaded",  # no atomics, no thread pointer
        "-fno-stack-check",
        "-fomit-frame-pointer",
        "-fno-stack-protector",
        "-fno-unwind-tables",
        "-ffunction-sections",
        "-fdata-sections",
    ]


def run_zig(command: Sequence[str]) -> str:
    """As `run`. Zig's own caches, which only grow, last as long as the command."""
    with tempfile.TemporaryDirectory(prefix="aioring-zig-", ignore_cleanup_errors=True) as cache:
        return run(command, environment={"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache})


def digest(*parts: str | bytes) -> str:
    """A short name for all `parts` together."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()[:20]
