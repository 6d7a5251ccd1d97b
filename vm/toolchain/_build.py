# SPDX-License-Identifier: MIT
"""Sources to a program blob: compile each, link them with the guests' C library, and link that for the machine."""

from __future__ import annotations

import os
import re
import struct
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vm.isa import InstructionSet
from vm.program import ProgramBlob
from vm.toolchain._compiler import (
    INSTALL,
    BuildError,
    Compiler,
    CompilerName,
    Target,
    ToolchainError,
    find_compiler,
    run,
    run_zig,
    target_of,
    zig_command,
)
from vm.toolchain._libc import CXX_FLAGS, SDK, Library, code_flags, cxx_library, library
from vm.toolchain._link import link_image

#: Bytes of a guest's stack if nothing is said: printf with floating point takes 10 KiB by itself.
STACK_SIZE = 0x40000
#: What follows -O, and what Zig calls it.
_LEVELS = {
    "0": "Debug",
    "1": "ReleaseSafe",
    "2": "ReleaseFast",
    "3": "ReleaseFast",
    "s": "ReleaseSmall",
    "z": "ReleaseSmall",
}

_C = {".c"}
_CXX = {".cc", ".cpp", ".cxx", ".C"}
_ASSEMBLY = {".S", ".s"}
_ZIG = {".zig"}
#: Passed to the ELF linker as they are.
_LINKED = {".o", ".a"}
#: Functions that compilers call where there is no instruction, in ld.lld's words.
_BUILTIN = re.compile(r"undefined symbol: __[a-z]+[sdt][fi](?:[sdt][fi])?[0-9]?\b")
SUFFIXES = tuple(sorted({*_C, *_CXX, *_ASSEMBLY, *_ZIG, *_LINKED}))


def build(
    sources: Sequence[str | os.PathLike[str]],
    *,
    isa: InstructionSet = InstructionSet.LATEST64,
    opt_level: str = "2",
    debug: bool = False,
    include_dirs: Sequence[str | os.PathLike[str]] = (),
    defines: Mapping[str, str | None] | None = None,
    flags: Sequence[str] = (),
    stack_size: int = STACK_SIZE,
    optimize: bool = True,
    compiler: CompilerName | None = None,
    on_message: Callable[[str], None] | None = None,
) -> ProgramBlob:
    """Compiles C, C++, assembly and Zig sources and links them to a program blob.

    Slow, and blocking: it runs a compiler for each source, and the first time also one for each file of the C library,
    which are then kept in ``$XDG_CACHE_HOME/aioring``. In asynchronous code, call it with `asyncio.to_thread`.

    Sources are known by their suffixes (`SUFFIXES`); objects and archives for the same target are linked as they are.
    Code is generated for `isa`, latest64 or latest32. `opt_level` is what follows ``-O``: 0, 1, 2, 3, s or z. With
    `debug` the blob has line numbers. `include_dirs` and `defines` (a value of None: just defined) go to C, C++ and
    assembly, `flags` as well, unread and last. The stack gets `stack_size` bytes, or what PVM_STACK_SIZE asks for if
    that is more. `optimize` is the linker's. `compiler` chooses one of the compilers, by default the first there is of
    ziglang's and a system's clang. `on_message` gets what compilers say while they succeed, such as warnings.

    Raises `ToolchainError` if there is no compiler, `BuildError` with the compiler's messages if a source is wrong or
    a symbol is missing, `ElfError` for what a guest cannot do, ValueError for arguments that mean nothing, and
    OSError where there is no room for temporary files.
    """
    paths = [Path(source) for source in sources]
    _check(paths, opt_level, stack_size)
    target = target_of(isa)
    found = find_compiler(compiler)
    libraries = library(found, target)
    options = [f"-I{os.fspath(folder)}" for folder in include_dirs]
    options += [f"-D{name}" if value is None else f"-D{name}={value}" for name, value in (defines or {}).items()]
    unit = _Unit(found, target, libraries, opt_level, debug, (*options, *flags))
    say = on_message or (lambda text: None)
    with tempfile.TemporaryDirectory(prefix="aioring-build-", ignore_cleanup_errors=True) as folder:
        objects = unit.compile(paths, Path(folder), say)
        cxx = cxx_library(found, target) if any(path.suffix in _CXX for path in paths) else None
        if cxx is not None:
            objects.append(cxx)
        elf = Path(folder) / "guest.elf"
        _link_elf(found, target, libraries, objects, elf, debug, say)
        data = elf.read_bytes()
    return link_image(data, isa=isa, optimize=optimize, strip=not debug, min_stack_size=stack_size, dispatch_table=())


def _check(paths: Sequence[Path], opt_level: str, stack_size: int) -> None:
    if not paths:
        raise ValueError("there are no sources to build")
    if opt_level not in _LEVELS:
        raise ValueError(f"the optimization level must be one of {', '.join(_LEVELS)}, not {opt_level!r}")
    if not 0 <= stack_size <= 0xFFFF_FFFF:
        raise ValueError(f"the stack size must be from 0 to {0xFFFF_FFFF} bytes, not {stack_size}")
    for path in paths:
        if path.suffix not in SUFFIXES:
            raise ValueError(
                f"{path} is no source that can be built: its name must end in one of {', '.join(SUFFIXES)}"
            )
        if not path.exists():
            raise FileNotFoundError(2, os.strerror(2), str(path))


@dataclass(frozen=True, slots=True)
class _Unit:
    """What is the same for every source."""

    compiler: Compiler
    target: Target
    libraries: Library
    level: str
    debug: bool
    options: tuple[str, ...]

    def compile(self, sources: Sequence[Path], folder: Path, say: Callable[[str], None]) -> list[Path]:
        """The objects, in the order of their sources. Messages come in that order, too."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = [
                None if path.suffix in _LINKED else pool.submit(self._compile, path, folder / f"{number}.o")
                for number, path in enumerate(sources)
            ]
            objects = []
            try:
                for number, (path, job) in enumerate(zip(sources, jobs, strict=True)):
                    objects.append(path if job is None else folder / f"{number}.o")
                    if job is not None and (text := job.result()):
                        say(text)
            finally:
                for job in jobs:
                    if job is not None:
                        job.cancel()
        return objects

    def _compile(self, source: Path, output: Path) -> str:
        if source.suffix in _ZIG:
            return self._compile_zig(source, output)
        flags = [*code_flags(self.target), f"-O{self.level}", *(["-g"] if self.debug else [])]
        if source.suffix in _CXX:
            flags += [*CXX_FLAGS, *self.libraries.cxx_flags]
        flags += [*self.libraries.flags, "-Wno-unused-command-line-argument", *self.options]
        return run([*self.compiler.clang, "-c", *flags, "-o", str(output), str(source)])

    def _compile_zig(self, source: Path, output: Path) -> str:
        if self.compiler.zig is None:
            raise ToolchainError(f"{source} needs Zig: {INSTALL}")
        command = zig_command(self.compiler, self.target, "build-obj", "freestanding-none")
        command += [f"-O{_LEVELS[self.level]}", *([] if self.debug else ["-fstrip"]), "-fno-compiler-rt"]
        command += ["--dep", "pvm", f"-Mroot={source}", f"-Mpvm={SDK / 'zig' / 'pvm.zig'}", f"-femit-bin={output}"]
        return run_zig(command)


def _link_elf(
    compiler: Compiler,
    target: Target,
    libraries: Library,
    objects: Sequence[Path],
    output: Path,
    debug: bool,
    say: Callable[[str], None],
) -> None:
    inputs = [str(path) for path in objects]
    wanted: list[str] = []
    surveys = [_survey(path.read_bytes()) for path in objects if path.suffix == ".o"]
    if any(survey.has_main for survey in surveys):
        inputs.append(str(libraries.start))
    if any(survey.has_constructors for survey in surveys):
        wanted.append("--undefined=__pvm_constructors")
    command = [*compiler.lld, "-m", target.emulation, "-static", "--emit-relocs", "--gc-sections", "--no-relax"]
    # Exports are what keeps sections. Nothing starts at an entry point.
    command += ["--entry=0", "--build-id=none", *wanted, *([] if debug else ["--strip-debug"])]
    command += [*inputs, *map(str, libraries.inputs), "-o", str(output)]
    try:
        say(run(command))
    except BuildError as error:
        if compiler.zig is None and _BUILTIN.search(error.output):
            hint = f"note: floating point, and other arithmetic that the processor lacks, needs ziglang: {INSTALL}\n"
            raise BuildError(error.command, error.status, error.output + hint) from error
        raise


@dataclass(frozen=True, slots=True)
class _Survey:
    """What an object file has that decides what it is linked with."""

    has_main: bool
    has_constructors: bool


def _survey(elf: bytes) -> _Survey:
    """Looks into an object of a compiler's that ran here, or that was given: one that is none, lld complains about."""
    try:
        return _Survey(*_find(memoryview(elf)))
    except (struct.error, IndexError, ValueError):
        return _Survey(False, False)


def _find(elf: memoryview) -> tuple[bool, bool]:
    # System V ABI, chapters 4 and 5: section headers, symbol table, initialization.
    wide = elf[4] == 2
    (table,) = struct.unpack_from("<Q" if wide else "<I", elf, 40 if wide else 32)
    entry_size, count, names = struct.unpack_from("<HHH", elf, 58 if wide else 46)
    layout, fields = ("<IIQQQQIIQQ", 10) if wide else ("<IIIIIIIIII", 10)
    sections = [struct.unpack_from(layout, elf, table + i * entry_size)[:fields] for i in range(count)]

    def text(section: int, offset: int) -> bytes:
        start = sections[section][4] + offset
        return bytes(elf[start : start + 64]).partition(b"\0")[0]

    main = False
    constructors = False
    for name, kind, _, _, offset, size, link, _, _, step in sections:
        if kind == 14 or text(names, name).startswith(b".init_array"):  # SHT_INIT_ARRAY
            constructors = True
        if kind == 2:  # SHT_SYMTAB
            for place in range(offset, offset + size, step):
                symbol, index = struct.unpack_from("<I2xH" if wide else "<I10xH", elf, place)
                # defined here, and not local
                main = main or (
                    index != 0 and elf[place + (4 if wide else 12)] >> 4 != 0 and text(link, symbol) == b"main"
                )
    return main, constructors
