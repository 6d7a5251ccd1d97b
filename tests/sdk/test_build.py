# SPDX-License-Identifier: MIT
"""pvm build and vm.toolchain.build: options, messages, what goes wrong, and the cache."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest
from commands import Template
from sdk_guests import ISA, Build, run_main

import vm
from vm import toolchain
from vm.toolchain import _cache, _compiler

ADD = """#include <pvm.h>
PVM_EXPORT(uint32_t, add, uint32_t, uint32_t);
uint32_t add(uint32_t a, uint32_t b) { return a + b; }
"""
HELLO = '#include <stdio.h>\nint main(int c, char **v) { printf("hello %s\\n", c > 1 ? v[1] : "world"); return c; }\n'


class Pvm(Protocol):
    """``pvm`` with these words, and these changes of the environment."""

    def __call__(self, *words: str | Path, **changes: str) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def pvm(template: Template) -> Pvm:
    def pvm(*words: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
        arguments = [str(word) for word in words]
        return subprocess.CompletedProcess(arguments, *template.run(arguments, Path.cwd(), {**os.environ, **changes}))

    return pvm


@pytest.fixture
def source(tmp_path: Path) -> Callable[[str, str], Path]:
    def source(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return source


Source = Callable[[str, str], Path]


# --- the command ---


def test_build_and_run_from_the_shell(pvm: Pvm, compiler: None, source: Source, tmp_path: Path) -> None:
    program = tmp_path / "hello.polkavm"
    built = pvm("build", source("hello.c", HELLO), "-o", program, "-Os")
    assert (built.returncode, built.stdout, built.stderr) == (0, "", "")
    done = pvm("run", program)
    assert (done.returncode, done.stdout, done.stderr) == (1, "hello world\n", "")
    done = pvm("run", program, "--", "-5", "main")
    assert (done.returncode, done.stdout) == (3, "hello -5\n")
    done = pvm("run", program, "main", "you")
    assert (done.returncode, done.stdout) == (2, "hello you\n")
    done = pvm("run", "--json", program)
    assert done.returncode == 1
    assert '"result": 1' in done.stdout


def test_what_a_main_is_granted_on_the_command_line(pvm: Pvm, compiler: None, source: Source, tmp_path: Path) -> None:
    program = tmp_path / "cat.polkavm"
    text = """
        #include <stdio.h>
        #include <stdlib.h>
        int main(int argc, char **argv) {
            FILE *file = argc > 1 ? fopen(argv[1], argc > 2 ? "w" : "r") : stdin;
            if (!file) { perror(argv[1]); return 1; }
            if (argc > 2) return fputs(argv[2], file) < 0;
            for (int c; (c = getc(file)) != EOF;) putchar(c);
            printf("<%s>", getenv("WHO") ? getenv("WHO") : "nobody");
            return ferror(file) ? 2 : 0;
        }
        """
    assert pvm("build", source("cat.c", text), "-o", program).returncode == 0
    (tmp_path / "file").write_text("from a file")
    assert pvm("run", program).returncode == 2  # stdin is not granted
    assert pvm("run", program, "--", "data/file").stderr == "data/file: No such file or directory\n"
    done = pvm("run", program, "--dir", f"data={tmp_path}", "--env", "WHO=me", "--", "data/file")
    assert (done.returncode, done.stdout) == (0, "from a file<me>")
    done = pvm("run", program, "--dir", f"data={tmp_path}", "--", "data/file", "new")
    assert done.stderr == "data/file: Read-only file system\n"
    assert pvm("run", program, "--dir", f"data={tmp_path}:rw", "--", "data/file", "new").returncode == 0
    assert (tmp_path / "file").read_text() == "new"
    done = subprocess.run(
        [sys.executable, "-m", "vm.cli", "run", "--grant", "stdin", program],
        input=b"typed",
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"typed<nobody>"
    for words in (["--grant", "network"], ["--dir", "x"], ["--dir", "a/b=/tmp"], ["--env", "=x"]):
        done = pvm("run", program, *words)
        assert done.returncode == 2, words
        assert done.stderr.count("\n") == 1


def test_an_export_that_prints_gets_the_streams(pvm: Pvm, compiler: None, source: Source, tmp_path: Path) -> None:
    text = "#include <stdio.h>\n#include <pvm.h>\nPVM_EXPORT(int, say, int);\n"
    text += 'int say(int x) { return printf("%d\\n", x); }\n'
    program = tmp_path / "say.polkavm"
    assert pvm("build", source("say.c", text), "-o", program).returncode == 0
    done = pvm("run", program, "say", "42")
    assert (done.returncode, done.stdout) == (0, "42\n3\n")


def test_compiler_errors_pass_through(pvm: Pvm, compiler: None, source: Source, tmp_path: Path) -> None:
    bad = source("bad.c", "int main(void) {\n    return undeclared;\n}\n")
    done = pvm("build", bad, "-o", tmp_path / "out")
    assert done.returncode == 3
    assert f"{bad}:2:12: error: use of undeclared identifier 'undeclared'" in done.stderr
    assert done.stderr.endswith("pvm: the program was not built\n")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    zig = pvm("build", source("bad.zig", "export fn f() u32 { return x; }\n"), "-o", tmp_path / "out")
    assert zig.returncode == 3
    assert "error: use of undeclared identifier 'x'" in zig.stderr


def test_missing_symbols_and_missing_exports_are_said(pvm: Pvm, compiler: None, source: Source, tmp_path: Path) -> None:
    done = pvm(
        "build", source("a.c", "int nowhere(void); int main(void) { return nowhere(); }\n"), "-o", tmp_path / "out"
    )
    assert done.returncode == 3
    assert "undefined symbol: nowhere" in done.stderr
    done = pvm("build", source("b.c", "int f(void) { return 1; }\n"), "-o", tmp_path / "out")
    assert done.returncode == 3
    assert "exports nothing" in done.stderr


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["missing.c"], 3, "cannot read missing.c"),
        (["notes.txt"], 2, "no source that can be built"),
        (["a.c", "-O", "fast"], 2, "optimization level"),
        (["a.c", "--isa", "jam_v1"], 2, "--isa must be"),
        (["a.c", "--compiler", "gcc"], 2, "--compiler must be"),
        (["a.c", "--stack-size", "many"], 2, "no integer"),
        (["a.c", "--stack-size", "-1"], 2, "stack"),
    ],
)
def test_a_wrong_command_line(
    pvm: Pvm, compiler: None, tmp_path: Path, words: list[str], status: int, message: str
) -> None:
    (tmp_path / "a.c").write_text(ADD)
    (tmp_path / "notes.txt").touch()
    words = [str(tmp_path / word) if word in ("a.c", "notes.txt") else word for word in words]
    done = pvm("build", *words, "-o", tmp_path / "out")
    assert done.returncode == status
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_output_that_cannot_be_written(pvm: Pvm, compiler: None, source: Source, tmp_path: Path) -> None:
    done = pvm("build", source("a.c", ADD), "-o", tmp_path / "no" / "such" / "folder")
    assert done.returncode == 74
    assert "cannot write" in done.stderr


# --- options ---


async def test_defines_includes_flags_and_several_sources(cxx_compiler: None, source: Source, tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "part.h").write_text("int part(void);\n")
    main = source("main.c", '#include "part.h"\n#include <part.h>\nint main(void) { return part() + VALUE + FLAG; }\n')
    part = source("part.cpp", '#ifdef GIVEN\nextern "C" int part() { return 40; }\n#endif\n')
    assembly = source("more.S", "    .globl more\nmore:\n    ret\n")
    blob = toolchain.build(
        [main, part, assembly],
        include_dirs=[tmp_path / "include"],
        defines={"VALUE": "(1 + 1)", "GIVEN": None},
        flags=["-DFLAG=100"],
    )
    assert (await run_main(blob)).status == 142


async def test_objects_and_archives_are_linked(compiler: None, source: Source, tmp_path: Path) -> None:
    from vm.toolchain._archive import write_archive

    found, target = _compiler.find_compiler("zig"), _compiler.target_of(ISA["latest64"])
    flags = [f"--target={target.triple}", f"-march={target.march}", f"-mabi={target.abi}", "-mcmodel=medlow"]
    for name in ("one", "two"):
        text = f"int {name}_with_a_long_name(void) {{ return {len(name)}; }}\n"
        _compiler.run([*found.clang, "-c", *flags, str(source(f"{name}.c", text)), "-o", str(tmp_path / f"{name}.o")])
    archive = write_archive([("a-member-with-a-long-name.o", (tmp_path / "two.o").read_bytes() + b"\0")])
    (tmp_path / "two.a").write_bytes(archive)
    text = "int one_with_a_long_name(void), two_with_a_long_name(void);\n"
    text += "int main(void) { return 10 * one_with_a_long_name() + two_with_a_long_name(); }\n"
    blob = toolchain.build([source("main.c", text), tmp_path / "one.o", tmp_path / "two.a"])
    assert (await run_main(blob)).status == 33
    (tmp_path / "one.o").write_bytes(b"no object")
    with pytest.raises(toolchain.BuildError, match=r"one\.o"):
        toolchain.build([tmp_path / "main.c", tmp_path / "one.o", tmp_path / "two.a"])


def test_warnings_reach_who_asks(build: Build) -> None:
    heard: list[str] = []
    text = "#warning look at this\n" + ADD
    build(text, flags=(), on_message=heard.append)
    assert any("look at this" in message for message in heard)
    heard.clear()
    build(ADD, on_message=heard.append)
    assert "".join(heard) == ""


async def test_line_numbers_in_backtraces(engine: vm.Engine, build: Build) -> None:
    text = "#include <pvm.h>\nPVM_EXPORT(void, f);\nvoid f(void) {\n    __builtin_trap();\n}\n"
    for debug in (True, False):
        module = await engine.compile(build(text, debug=debug))
        async with await module.instantiate() as instance:
            with pytest.raises(vm.TrapError) as caught:
                await instance.call("f")
        assert ("source.c:4" in caught.value.backtrace) is debug


def test_the_stack_is_as_large_as_wanted(build: Build) -> None:
    assert build(ADD).stack_size == 0x40000
    assert build(ADD, stack_size=0x10000).stack_size == 0x10000
    assert build(ADD + "PVM_STACK_SIZE(0x80000);\n").stack_size == 0x80000


def test_the_same_sources_make_the_same_bytes(build: Build) -> None:
    first, second = build(HELLO, flags=()).to_bytes(), build(HELLO, flags=()).to_bytes()
    assert first == second


def test_arguments_that_mean_nothing(compiler: None, source: Source) -> None:
    with pytest.raises(ValueError, match="no sources"):
        toolchain.build([])
    with pytest.raises(ValueError, match="not for jam_v1"):
        toolchain.build([source("a.c", ADD)], isa=ISA["jam_v1"])


def test_headers_of_the_callers_machine_stay_out(
    compiler: None, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "stdint.h").write_text("#error foreign\n")
    monkeypatch.setenv("CPATH", str(tmp_path / "foreign"))
    monkeypatch.setenv("C_INCLUDE_PATH", str(tmp_path / "foreign"))
    toolchain.build([source("a.c", ADD)])


# --- compilers ---


def test_no_compiler_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, source: Source) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(toolchain.ToolchainError, match=r"pip install 'aioring\[toolchain\]'") as caught:
        toolchain.build([source("a.c", ADD)])
    assert "ziglang is not installed" in str(caught.value)
    assert "no clang" in str(caught.value)


def test_no_compiler_from_the_shell(source: Source, tmp_path: Path) -> None:
    # without site-packages there is no ziglang, nor typer: only what looks for a compiler runs
    code = "import sys; sys.modules['ziglang'] = None; from vm.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "build", source("a.c", ADD), "-o", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": "/nonexistent"},
    )
    assert done.returncode == 4
    assert "pip install 'aioring[toolchain]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_another_release_of_ziglang_is_refused(compiler: None, monkeypatch: pytest.MonkeyPatch, source: Source) -> None:
    monkeypatch.setattr(_compiler, "ZIG_VERSIONS", ("0.1.",))
    with pytest.raises(toolchain.ToolchainError, match=r"0\.1\.x is needed.*pip install"):
        toolchain.build([source("a.c", ADD)], compiler="zig")


@pytest.fixture
def clang(cache: Path) -> str:
    try:
        _compiler.find_compiler("clang")
    except toolchain.ToolchainError as error:
        pytest.skip(str(error))
    return "clang"


async def test_a_systems_clang_builds_what_needs_no_libc(engine: vm.Engine, clang: str, source: Source) -> None:
    text = ADD + "PVM_EXPORT(void *, take, uint32_t);\nvoid *take(uint32_t size) { return calloc(size, 1); }\n"
    blob = toolchain.build([source("a.c", text)], compiler="clang")
    assert blob.import_names == ()
    module = await engine.compile(blob)
    async with await module.instantiate() as instance:
        assert await instance.call("add", 1, 2) == 3
        address = await instance.call("take", 100)
        assert instance.memory.read(address, 100) == bytes(100)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.c", "#include <stdio.h>\n"),
        ("a.c", "#include <pvm.h>\nPVM_EXPORT(double, f, double);\ndouble f(double x) { return x / 3; }\n"),
        ("a.zig", "export fn f() void {}\n"),
    ],
)
def test_a_systems_clang_says_what_it_has_not(clang: str, source: Source, name: str, text: str) -> None:
    with pytest.raises((toolchain.BuildError, toolchain.ToolchainError), match=r"aioring\[toolchain\]"):
        toolchain.build([source(name, text)], compiler="clang")


# --- the cache ---


def test_the_libc_is_built_once(compiler: None, cache: Path, source: Source) -> None:
    toolchain.build([source("a.c", HELLO)])
    folders = {path: path.stat().st_mtime_ns for path in (cache / "aioring").iterdir()}
    started = time.monotonic()
    toolchain.build([source("a.c", HELLO)])
    assert time.monotonic() - started < 5  # well under a second where nobody else is at work
    assert {path: path.stat().st_mtime_ns for path in (cache / "aioring").iterdir()} == folders
    assert stat.S_IMODE((cache / "aioring").stat().st_mode) == 0o700


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the cache will be."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "aioring"


def make(folder: Path) -> None:
    (folder / "made").write_text("once")


def fail(folder: Path) -> None:
    (folder / "half").write_text("half")
    raise RuntimeError("stopped")


def test_an_entry_appears_whole_or_not_at_all(root: Path) -> None:
    with pytest.raises(RuntimeError, match="stopped"):
        _cache.cached("entry", fail)
    assert list(root.iterdir()) == []
    assert _cache.cached("entry", make) == root / "entry"
    assert _cache.cached("entry", fail) == root / "entry"
    assert [path.name for path in root.iterdir()] == ["entry"]


def test_somebody_else_may_be_faster(root: Path) -> None:
    def slow(folder: Path) -> None:
        make(folder)
        _cache.cached("entry", make)  # as another process would
        (root / "entry" / "theirs").touch()

    assert (_cache.cached("entry", slow) / "theirs").exists()
    assert [path.name for path in root.iterdir()] == ["entry"]


def test_a_cache_that_others_can_write_to_is_not_used(root: Path) -> None:
    root.mkdir(parents=True)
    root.chmod(0o777)
    folder = _cache.cached("entry-of-others", make)
    assert root not in folder.parents
    assert (folder / "made").read_text() == "once"
    assert _cache.cached("entry-of-others", fail) == folder  # as long as we run
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to somebody else")
def test_a_cache_of_somebody_else_is_not_used(root: Path) -> None:
    root.mkdir(parents=True)
    os.chown(root, 12345, 12345)
    assert root not in _cache.cached("entry-of-another", make).parents


def test_no_place_for_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = _cache.cached("entry-without-a-place", make)
    assert (folder / "made").exists()
    assert tmp_path not in folder.parents


def test_a_read_only_cache_is_read(root: Path) -> None:
    _cache.cached("entry", make)
    root.chmod(0o500)
    try:
        assert _cache.cached("entry", fail) == root / "entry"
    finally:
        root.chmod(0o700)


def test_a_relative_cache_home_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _cache.cached("entry", make) == tmp_path / ".cache" / "aioring" / "entry"
