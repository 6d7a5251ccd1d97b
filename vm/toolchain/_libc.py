# SPDX-License-Identifier: MIT
"""The guests' C library: musl's sources out of the ziglang package, on the SDK's own few files.

Nothing of musl or Zig is part of this package: both are compiled where they are installed, once for each compiler,
target and version of the SDK, into the user's cache. What musl's C files lack, because Zig has moved it to its own
library (``lib/c``), comes from there. With a system's clang there is only what the SDK brings itself.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vm.toolchain._archive import write_archive
from vm.toolchain._cache import cached
from vm.toolchain._compiler import INSTALL, Compiler, Target, digest, run, run_zig, zig_command

#: What is shipped for guests.
SDK = Path(__file__).parent.parent / "sdk"

#: Folders of musl's src, and files in them that are left out: they need processes, or the SDK has its own.
_MUSL: dict[str, tuple[str, ...]] = {
    "ctype": (),
    "errno": (),
    "exit": ("_Exit.c", "abort.c", "abort_lock.c"),
    "internal": ("defsysinfo.c", "procfdname.c", "vdso.c", "emulate_wait4.c"),
    "locale": ("setlocale.c", "locale_map.c", "newlocale.c", "dcngettext.c", "catopen.c", "bind_textdomain_codeset.c"),
    "math": (),
    "multibyte": (),
    "prng": (),
    "search": (),
    "stdio": ("freopen.c", "popen.c", "pclose.c"),
    "stdlib": (),
    "string": (),
    "temp": (),
    "time": ("__map_file.c", "timer_create.c", "timer_delete.c", "timer_settime.c", "clock_getcpuclockid.c"),
}
#: Single files of other folders.
_MUSL_FILES = (
    "fcntl/creat.c",
    "fcntl/open.c",
    "linux/getrandom.c",
    "misc/a64l.c",
    "misc/basename.c",
    "misc/dirname.c",
    "misc/getopt.c",
    "misc/getopt_long.c",
    "misc/getsubopt.c",
    "unistd/isatty.c",
    "unistd/lseek.c",
    "unistd/read.c",
    "unistd/readv.c",
    "unistd/write.c",
    "unistd/writev.c",
)
#: Files of Zig's lib/c that need no operating system.
_ZIG = ("ctype", "inttypes", "math", "search", "stdlib", "string", "strings", "wchar")

#: Files of libc++'s src that its headers cannot do without.
_LIBCXX = (
    *("algorithm.cpp", "any.cpp", "bind.cpp", "charconv.cpp", "chrono.cpp", "expected.cpp", "functional.cpp"),
    *("hash.cpp", "memory.cpp", "memory_resource.cpp", "optional.cpp", "ryu/d2fixed.cpp", "ryu/d2s.cpp"),
    *("ryu/f2s.cpp", "string.cpp", "valarray.cpp", "variant.cpp"),
)
#: Functions of compiler-rt that the SDK's division.c stands in front of, and what it calls them: as many letters, so
#: that a string table can be changed in place.
_RENAMED = {b"__divdf3\0": b"__divdf_\0", b"__divsf3\0": b"__divsf_\0"}

#: The SDK's own files: those for any program, those that stand on musl, and those that stand in for it.
_OWN = ("constructors.c", "cxx.cpp", "exit.c", "malloc.c", "panic.c", "setjmp.S", "tls.c")
_OWN_ON_MUSL = ("division.c", "environment.c", "posix.c", "process.c")
_OWN_INSTEAD = ("freestanding.c",)
#: Those that know musl's internals, in a folder of their own with headers that stand in for musl's.
_INSIDE_MUSL = ("freopen.c", "thread.c")
#: Linked as an object, not as a member of the archive, if there is a main.
_START = "start.c"
#: Linked as objects, always: Zig's library or compiler-rt have the same functions, and the linker would take what it
#: comes across first. What is not called is left out all the same.
_FIRST = ("memory.c",)
_FIRST_ON_MUSL = ("ctype.c", "integers.c", "longdouble.c")

#: Headers of ISO C and POSIX that say, without a libc, where to get one.
_LIBC_HEADERS = (
    *("assert.h", "complex.h", "ctype.h", "errno.h", "fcntl.h", "fenv.h", "inttypes.h", "locale.h", "math.h"),
    *("search.h", "setjmp.h", "signal.h", "stdio.h", "stdlib.h", "string.h", "strings.h", "sys/stat.h", "sys/time.h"),
    *("sys/types.h", "time.h", "unistd.h", "wchar.h", "wctype.h"),
)


@dataclass(frozen=True, slots=True)
class Library:
    """Compiled libraries and the headers that belong to them."""

    #: Flags for every source of a guest.
    flags: tuple[str, ...]
    #: The same for C++, before `flags`.
    cxx_flags: tuple[str, ...]
    #: What is linked always, in this order.
    inputs: tuple[Path, ...]
    #: What is linked if the program defines main.
    start: Path


def code_flags(target: Target) -> list[str]:
    """Compiler flags that make code for guests, of any language."""
    return [
        f"--target={target.triple}",
        f"-march={target.march}",
        f"-mabi={target.abi}",
        "-mcmodel=medlow",
        "-mno-relax",
        "-mno-strict-align",  # guests may access memory unaligned, and pay nothing for it
        "-fno-pic",
        "-ffunction-sections",
        "-fdata-sections",
        *("-Xclang", "-mlong-double-64"),  # see vm/sdk/src/longdouble.c
        "-femulated-tls",  # there is no thread pointer
        "-fno-asynchronous-unwind-tables",
        "-fno-unwind-tables",
        "-fno-stack-protector",
        "-D__PVM__=1",
    ]


CXX_FLAGS = ("-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics")


def library(compiler: Compiler, target: Target) -> Library:
    """The libraries for `target`: from the cache, or made now, which takes some ten seconds.

    Raises `BuildError` and `ToolchainError`, and OSError if there is no place for them.
    """
    name = f"libc-{target.bits}-{digest(compiler.identity, *_sources())}"
    folder = cached(name, partial(_build, compiler, target))
    inputs = [folder / f"{Path(name).stem}.o" for name in _first(compiler)]
    inputs += [folder / "libpvm.a", *([] if compiler.zig is None else [folder / "libbuiltins.a"])]
    return Library(
        flags=tuple(_system_headers(compiler, target, folder)),
        cxx_flags=tuple(_cxx_headers(compiler)),
        inputs=tuple(inputs),
        start=folder / "start.o",
    )


def _first(compiler: Compiler) -> Sequence[str]:
    return _FIRST if compiler.library is None else (*_FIRST, *_FIRST_ON_MUSL)


def _sources() -> Iterator[bytes]:
    """Whatever the libraries are made of, as far as it is ours."""
    for path in sorted(path for path in SDK.rglob("*") if path.is_file()):
        yield path.name.encode()
        yield path.read_bytes()
    for path in (Path(__file__), Path(__file__).with_name("_compiler.py")):
        yield path.read_bytes()


def _system_headers(compiler: Compiler, target: Target, folder: Path) -> list[str]:
    """Where <...> is looked up: the SDK, musl, the compiler."""
    if compiler.library is None:
        return ["-ffreestanding", "-isystem", str(SDK / "include"), "-idirafter", str(folder / "headers")]
    return _headers(compiler.library, target)


def _headers(library: Path, target: Target) -> list[str]:
    libc = library / "libc" / "include"
    places = (SDK / "include", libc / f"riscv{target.bits}-linux-musl", libc / "generic-musl", library / "include")
    return ["-nostdinc", *(flag for place in places for flag in ("-isystem", str(place)))]


def _cxx_headers(compiler: Compiler) -> list[str]:
    """libc++'s headers come before C's, which they wrap."""
    if compiler.library is None:
        return []
    # What the configuration of a built libc++ would say. Only its headers are here: what the library itself has, such
    # as streams, is not, and templates are instantiated by who uses them.
    defines = {
        "_LIBCPP_ABI_VERSION": "1",
        "_LIBCPP_ABI_NAMESPACE": "__1",
        "_LIBCPP_ASSERTION_SEMANTIC_DEFAULT": "_LIBCPP_ASSERTION_SEMANTIC_QUICK_ENFORCE",
        "_LIBCPP_DISABLE_VISIBILITY_ANNOTATIONS": "1",
        "_LIBCPP_DISABLE_EXTERN_TEMPLATE": "1",
        "_LIBCPP_HARDENING_MODE": "_LIBCPP_HARDENING_MODE_NONE",
        "_LIBCPP_HAS_FILESYSTEM": "0",
        "_LIBCPP_HAS_LOCALIZATION": "0",
        "_LIBCPP_HAS_MONOTONIC_CLOCK": "1",
        "_LIBCPP_HAS_MUSL_LIBC": "1",
        "_LIBCPP_HAS_RANDOM_DEVICE": "0",
        "_LIBCPP_HAS_TERMINAL": "0",
        "_LIBCPP_HAS_THREADS": "0",
        "_LIBCPP_HAS_THREAD_API_PTHREAD": "0",
        "_LIBCPP_HAS_TIME_ZONE_DATABASE": "0",
        "_LIBCPP_HAS_UNICODE": "1",
        "_LIBCPP_HAS_VENDOR_AVAILABILITY_ANNOTATIONS": "0",
        "_LIBCPP_HAS_WIDE_CHARACTERS": "1",
        "_LIBCPP_PSTL_BACKEND_SERIAL": "1",
    }
    headers = ["-isystem", str(compiler.library / "libcxx" / "include")]
    headers += ["-isystem", str(compiler.library / "libcxxabi" / "include")]
    # As on Linux: libc++ wants more of the libc than ISO C has.
    return ["-nostdinc++", "-D_GNU_SOURCE", *(f"-D{name}={value}" for name, value in defines.items()), *headers]


def _build(compiler: Compiler, target: Target, folder: Path) -> None:
    """Fills `folder`."""
    objects = folder / "objects"
    objects.mkdir()
    jobs: list[tuple[Path, list[str]]] = []
    own = _own_flags(compiler, target, folder)
    names = [*_OWN, *(_OWN_ON_MUSL if compiler.library else _OWN_INSTEAD)]
    jobs += [(objects / f"{name}.o", [str(SDK / "src" / name), *own]) for name in names]
    jobs += [(folder / f"{Path(name).stem}.o", [str(SDK / "src" / name), *own]) for name in (_START, *_first(compiler))]
    if compiler.library is None:
        _write_stand_ins(folder / "headers")
    else:
        flags = _musl_flags(compiler.library, target)
        jobs += [(objects / f"{name}.o", [str(SDK / "musl" / name), *flags]) for name in _INSIDE_MUSL]
        jobs += [(objects / f"musl-{path.parent.name}-{path.name}.o", [str(path), *flags]) for path in _musl(compiler)]
    works = [partial(_compile, compiler, output, arguments) for output, arguments in jobs]
    if compiler.library is not None:
        works += [partial(_zig_libc, compiler, target, folder), partial(_builtins, compiler, target, folder)]
    _run_all(works)
    _pack(objects, folder / "libpvm.a")


def cxx_library(compiler: Compiler, target: Target) -> Path | None:
    """What of libc++ is no header, as an archive; None for a system's clang, without libc++. Made as `library`."""
    if compiler.library is None:
        return None
    name = f"libcxx-{target.bits}-{digest(compiler.identity, *_sources())}"
    return cached(name, partial(_build_cxx, compiler, target)) / "libcxx.a"


def _build_cxx(compiler: Compiler, target: Target, folder: Path) -> None:
    assert compiler.library is not None
    objects = folder / "objects"
    objects.mkdir()
    flags = _libcxx_flags(compiler, target)
    source = compiler.library / "libcxx" / "src"
    outputs = [(name, objects / f"{Path(name).name}.o") for name in _LIBCXX]
    _run_all([partial(_compile, compiler, output, [str(source / name), *flags]) for name, output in outputs])
    _pack(objects, folder / "libcxx.a")


def _run_all(works: Iterable[Callable[[], None]]) -> None:
    """Runs them on all processors. After an error, or Ctrl-C, those that have not begun are left out."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = [pool.submit(work) for work in works]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()


def _pack(objects: Path, archive: Path) -> None:
    """Makes an archive of a folder's files, and removes them."""
    archive.write_bytes(write_archive((path.name, path.read_bytes()) for path in sorted(objects.iterdir())))
    shutil.rmtree(objects)


def _compile(compiler: Compiler, output: Path, arguments: Sequence[str]) -> None:
    run([*compiler.clang, "-c", *arguments, "-o", str(output)])


def _own_flags(compiler: Compiler, target: Target, folder: Path) -> list[str]:
    # The SDK's files are what builtins are made of, and must not call themselves.
    flags = [*code_flags(target), "-O2", "-fno-builtin", "-Wall", "-Wextra", "-Werror", *CXX_FLAGS, "-D_GNU_SOURCE"]
    return [*flags, "-Wno-unused-command-line-argument", *_system_headers(compiler, target, folder)]


def _musl_flags(library: Path, target: Target) -> list[str]:
    # As musl's own build has it: C99, its own headers first, no warnings.
    flags = [*code_flags(target), "-std=c99", "-O2", "-ffreestanding", "-fno-builtin", "-w"]
    return [*flags, "-D_XOPEN_SOURCE=700", *_musl_includes(library), *_headers(library, target)]


def _libcxx_flags(compiler: Compiler, target: Target) -> list[str]:
    assert compiler.library is not None
    libcxx = compiler.library / "libcxx"
    flags = [*code_flags(target), *CXX_FLAGS, "-std=c++23", "-O2", "-w", "-D_LIBCPP_BUILDING_LIBRARY"]
    flags += [*_cxx_headers(compiler), *_headers(compiler.library, target)]
    return [*flags, *(f"-I{libcxx / place}" for place in ("src", "src/include", "libc"))]


def _musl_includes(library: Path) -> list[str]:
    """musl's internal headers, with ours for the machine in front."""
    musl = library / "libc" / "musl"
    places = (SDK / "musl", musl / "src" / "include", musl / "src" / "internal", musl / "arch" / "generic")
    return [f"-I{place}" for place in places]


def _musl(compiler: Compiler) -> Iterator[Path]:
    """musl's source files."""
    assert compiler.library is not None
    source = compiler.library / "libc" / "musl" / "src"
    for folder, without in _MUSL.items():
        for path in sorted((source / folder).glob("*.c")):
            if path.name not in without:
                yield path
    for name in _MUSL_FILES:
        yield source / name


def _zig_libc(compiler: Compiler, target: Target, folder: Path) -> None:
    """What Zig's library has of libc, in one object."""
    assert compiler.zig is not None
    assert compiler.library is not None
    source = folder / "zig-libc"
    source.mkdir()
    # They find each other by relative paths, and the root that they import must be ours: Zig's own has more in it.
    (source / "c").symlink_to(compiler.library / "c")
    root = (SDK / "zig" / "libc.zig").read_text()
    imports = "".join(f'    _ = @import("c/{name}.zig");\n' for name in _ZIG)
    (source / "c.zig").write_text(f"{root}\ncomptime {{\n{imports}}}\n")
    command = [*zig_command(compiler, target, "build-obj", "linux-musl"), "-OReleaseFast", "-fstrip", "-lc"]
    output = folder / "objects" / "zig-libc.o"
    run_zig([*command, "--name", "c", f"-femit-bin={output}", str(source / "c.zig")])
    shutil.rmtree(source)


def _builtins(compiler: Compiler, target: Target, folder: Path) -> None:
    """compiler-rt: soft float, and what else the processor has no instruction for."""
    assert compiler.zig is not None
    empty = folder / "empty.c"
    empty.touch()
    command = zig_command(compiler, target, "build-lib", "freestanding-none")
    output = folder / "libbuiltins.a"
    run_zig([*command, "-OReleaseFast", "-fcompiler-rt", "-fstrip", f"-femit-bin={output}", str(empty)])
    empty.unlink()
    archive = output.read_bytes()
    for theirs, ours in _RENAMED.items():
        archive = archive.replace(theirs, ours)
    output.write_bytes(archive)


def _write_stand_ins(headers: Path) -> None:
    """Headers that say what is missing, found only if nothing else has their names."""
    for name in _LIBC_HEADERS:
        path = headers / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#error "<{name}> is part of the guests\' libc, which is built with ziglang: {INSTALL}"\n')
