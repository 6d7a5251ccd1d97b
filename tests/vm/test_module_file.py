# SPDX-License-Identifier: MIT
"""Compiled modules in files: back as they were, refused when they do not fit, and hostile ones."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from guests import basic, basic_32, build, memory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from module_files import DIGEST, File, put, sealed
from processes import Census

import vm
from vm._module_file import MAGIC, encode_config, read_module

ROOT = Path(__file__).parents[2]
ONE_LOOP = pytest.mark.asyncio(loop_factories=["aioring"])
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="files of somebody else: only root can make them")
NOBODY = 65534


@pytest.fixture
async def interpreter(nothing_left: Census) -> AsyncIterator[vm.Engine]:
    async with vm.Engine(vm.Config(backend="interpreter")) as engine:
        yield engine


@pytest.fixture
async def other(nothing_left: Census) -> AsyncIterator[vm.Engine]:
    """An engine that never knows a module already."""
    async with vm.Engine(vm.Config(module_cache_size=0)) as engine:
        yield engine


def linker() -> vm.Linker:
    made = vm.Linker()
    made.define("ask", lambda caller, value: value)
    return made


# --- there and back ---------------------------------------------------------------------------------------------------

CONFIGS = [
    vm.ModuleConfig(),
    vm.ModuleConfig(page_size=0x4000, aux_data_size=5000),
    vm.ModuleConfig(gas_metering="sync"),
    vm.ModuleConfig(gas_metering="async", cost_model=vm.CostModel.full()),
    vm.ModuleConfig(gas_metering="sync", cost_model=vm.CostModel.table({"add_64": 7}, default=3)),
    vm.ModuleConfig(gas_metering="sync", per_instruction_metering=True),
    vm.ModuleConfig(step_tracing=True),
]


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
@pytest.mark.parametrize("program", [basic, basic_32, memory])
async def test_it_comes_back_as_it_was(
    engine: vm.Engine, other: vm.Engine, tmp_path: Path, program: Callable[[], vm.ProgramBlob], config: vm.ModuleConfig
) -> None:
    module = await engine.compile(program(), config)
    path = tmp_path / "module.pvmc"
    await module.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for again in (await other.load(path), await other.load(str(path), config)):
        assert again is not module
        assert (again.blob, again.config, again.memory_map) == (module.blob, module.config, module.memory_map)
        assert again.exports == module.exports
        assert again.native_code() == module.native_code()
        for pc in range(len(module.blob.code) + 2):
            assert again.native_offset(pc) == module.native_offset(pc)
            assert again.gas_cost(pc) == module.gas_cost(pc)
    twin = tmp_path / "twin.pvmc"
    await again.save(twin)
    assert twin.read_bytes() == path.read_bytes()


async def test_it_runs(engine: vm.Engine, other: vm.Engine, tmp_path: Path) -> None:
    for program in (basic(), memory()):
        await (await engine.compile(program, vm.ModuleConfig(gas_metering="sync"))).save(
            tmp_path / f"{len(program.code)}.pvmc"
        )
    async with await linker().instantiate(await other.load(tmp_path / f"{len(basic().code)}.pvmc")) as instance:
        instance.gas = 1000
        assert await instance.call("add", 1, 2) == 3
        assert await instance.call("ask", 4) == 8
        assert await instance.call("count_down", 10) == 7
        with pytest.raises(vm.TrapError) as trap:
            await instance.call("trap")
        (start,) = (export.pc for export in basic().exports if export.name == "trap")
        assert trap.value.pc == next(filter(basic().is_instruction_start, itertools.count(start + 1)))
        with pytest.raises(vm.OutOfGasError):
            await instance.call("spin")
        instance.gas = 1000
        assert await instance.call("negate", 1) == (1 << 64) - 1
    async with await (await other.load(tmp_path / f"{len(memory().code)}.pvmc")).instantiate() as instance:
        instance.gas = 1000
        assert await instance.call("load_u64", 0x10000) == 0x8877665544332211
        heap = await instance.call("grow", 4096)
        assert await instance.call("store_u64", heap - 8, 5) == heap - 8
        assert await instance.call("jump_to", 4) == 4


async def test_it_is_the_module_that_the_engine_knows(engine: vm.Engine, tmp_path: Path) -> None:
    path = tmp_path / "module.pvmc"
    module = await engine.compile(basic())
    await module.save(path)
    assert await engine.load(path) is module
    async with vm.Engine() as second:
        loaded = await asyncio.gather(*(second.load(path) for _ in range(5)))
        assert len(set(loaded)) == 1
        assert await second.compile(basic()) is loaded[0] is not module


async def test_the_interpreter(engine: vm.Engine, interpreter: vm.Engine, tmp_path: Path) -> None:
    config = vm.ModuleConfig(gas_metering="sync")
    paths = {each: tmp_path / f"{each.config.backend}.pvmc" for each in (engine, interpreter)}
    for each, path in paths.items():
        await (await each.compile(basic(), config)).save(path)
    assert File(paths[interpreter].read_bytes()).parts["code"] == b""
    async with (
        vm.Engine(vm.Config(backend="interpreter")) as second,
        await linker().instantiate(await second.load(paths[interpreter], config)) as instance,
    ):
        instance.gas = 100
        assert await instance.call("ask", 4) == 8
    with pytest.raises(vm.ModuleLoadError, match="it is for the recompiler, and this engine's backend is the interp"):
        await interpreter.load(paths[engine])
    with pytest.raises(vm.ModuleLoadError, match="it is for the interpreter, and this engine's backend is the recomp"):
        await engine.load(paths[interpreter])


async def test_an_engine_that_crosschecks(engine: vm.Engine, tmp_path: Path) -> None:
    path = tmp_path / "module.pvmc"
    await (await engine.compile(basic())).save(path)
    config = vm.Config(crosscheck=True, cache_directory=tmp_path / "cache")
    for _ in range(2):
        async with vm.Engine(config) as checking:
            for module in (await checking.load(path), await checking.compile(memory())):
                async with await linker().instantiate(module) as instance:
                    assert await instance.call(next(name for name in ("add", "load") if name in module.exports), 65536)


async def test_other_settings_are_refused(engine: vm.Engine, tmp_path: Path) -> None:
    path = tmp_path / "module.pvmc"
    await (await engine.compile(basic(), vm.ModuleConfig(page_size=0x4000))).save(path)
    with pytest.raises(vm.ModuleLoadError, match=r"it was compiled with page_size=16384 \(not 4096\)$") as caught:
        await engine.load(path, vm.ModuleConfig())
    assert caught.value.path == str(path)
    with pytest.raises(vm.ModuleLoadError, match=r"page_size=16384 \(not 4096\), step_tracing=False \(not True\)"):
        await engine.load(path, vm.ModuleConfig(step_tracing=True))


async def test_after_the_engine_was_closed(nothing_left: Census, tmp_path: Path) -> None:
    async with vm.Engine() as engine:
        module = await engine.compile(basic())
    await module.save(tmp_path / "module.pvmc")
    with pytest.raises(vm.InstanceStateError, match="not open"):
        await engine.load(tmp_path / "module.pvmc")


async def test_a_program_put_together_by_hand_is_not_saved(engine: vm.Engine, tmp_path: Path) -> None:
    blob = build("ret")
    module = await engine.compile(vm.ProgramBlob(isa=blob.isa, code=blob.code, bitmask=blob.bitmask + b"\1"))
    with pytest.raises(ValueError, match="no blob has fields like these"):
        await module.save(tmp_path / "module.pvmc")
    assert not list(tmp_path.iterdir())


# --- writing ----------------------------------------------------------------------------------------------------------


async def test_a_file_is_replaced_as_a_whole(engine: vm.Engine, tmp_path: Path) -> None:
    path = tmp_path / "module.pvmc"
    path.write_bytes(b"before")
    path.chmod(0o644)
    old = path.open("rb")
    umask = os.umask(0o777)
    try:
        await (await engine.compile(basic())).save(path)
    finally:
        os.umask(umask)
    with old:
        assert old.read() == b"before"
    assert (await engine.load(path)).blob == basic()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


async def test_relative_paths(engine: vm.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = await engine.compile(basic())
    await module.save("module.pvmc")
    for path in ("module.pvmc", "./module.pvmc", f"../{tmp_path.name}//module.pvmc"):
        assert await engine.load(path) is module


async def test_places_where_no_file_can_be(engine: vm.Engine, tmp_path: Path) -> None:
    module = await engine.compile(basic())
    (tmp_path / "directory").mkdir()
    for path, error in (
        (tmp_path / "directory", IsADirectoryError),
        (f"{tmp_path}/", IsADirectoryError),
        (tmp_path / "absent" / "module.pvmc", FileNotFoundError),
        ("/dev/null/module.pvmc", NotADirectoryError),
        ("", IsADirectoryError),
        (tmp_path / ("x" * 256), OSError),
    ):
        with pytest.raises(error):
            await module.save(path)
    assert [each.name for each in tmp_path.rglob("*")] == ["directory"]
    for path, refusal in (
        (tmp_path / "absent", FileNotFoundError),
        ("", FileNotFoundError),
        ("/dev/null/module.pvmc", NotADirectoryError),
        (tmp_path / "directory", vm.ModuleLoadError),
        ("/", vm.ModuleLoadError),
        ("/dev/null", vm.ModuleLoadError),
    ):
        with pytest.raises(refusal):
            await engine.load(path)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_write_that_fails_leaves_what_was_there(engine: vm.Engine, tmp_path: Path) -> None:
    module = await engine.compile(basic())
    path = tmp_path / "module.pvmc"
    path.write_bytes(b"before")
    with file_size_limit(1000), pytest.raises(OSError, match="File too large"):
        await module.save(path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 50])
async def test_a_cancelled_save_leaves_all_or_nothing(engine: vm.Engine, tmp_path: Path, turns: int) -> None:
    unit, end = build("a0 = a0 + 1\n" * 8), build("ret")
    program = vm.ProgramBlob.build(
        isa=unit.isa, code=unit.code * 20_000 + end.code, bitmask=unit.bitmask * 20_000 + end.bitmask
    )
    module = await engine.compile(program)
    path = tmp_path / "module.pvmc"
    task = asyncio.create_task(module.save(path))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert {each.name for each in tmp_path.iterdir()} <= {path.name}
    if path.exists():
        assert await engine.load(path) is module


# --- whose file it is -------------------------------------------------------------------------------------------------


@pytest.fixture
async def saved(engine: vm.Engine, tmp_path: Path) -> Path:
    """A file of a module, in a directory of its own."""
    directory = tmp_path / "directory"
    directory.mkdir(mode=0o755)
    await (await engine.compile(basic())).save(directory / "module.pvmc")
    return directory / "module.pvmc"


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
async def test_files_that_others_can_write(engine: vm.Engine, saved: Path, mode: int) -> None:
    saved.chmod(mode)
    with pytest.raises(vm.ModuleLoadError, match="may write it"):
        await engine.load(saved)
    saved.chmod(0o644)
    await engine.load(saved)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
async def test_directories_that_others_can_write(engine: vm.Engine, saved: Path, tmp_path: Path, mode: int) -> None:
    below = saved.parent / "below"
    below.mkdir()
    moved = saved.rename(below / saved.name)
    for directory in (below, saved.parent):
        directory.chmod(mode)
        with pytest.raises(vm.ModuleLoadError, match=f"may write to the directory {directory} "):
            await engine.load(moved)
        directory.chmod(mode | stat.S_ISVTX)
        await engine.load(moved)
        directory.chmod(0o755)
    await engine.load(moved)


async def test_links(engine: vm.Engine, saved: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.pvmc"
    link.symlink_to(saved)
    with pytest.raises(vm.ModuleLoadError, match="it is a symbolic link"):
        await engine.load(link)
    link.unlink()
    link.hardlink_to(saved)
    for path in (link, saved):
        with pytest.raises(vm.ModuleLoadError, match="it has 2 names"):
            await engine.load(path)
    link.unlink()
    (tmp_path / "way").symlink_to("directory")
    (tmp_path / "detour").symlink_to(tmp_path / "directory" / ".." / "way")
    for directory in ("way", "detour"):  # one's own links are as good as the directories they lead to
        await engine.load(tmp_path / directory / saved.name)
    saved.parent.chmod(0o777)
    with pytest.raises(vm.ModuleLoadError, match=f"others may write to the directory {saved.parent} "):
        await engine.load(tmp_path / "detour" / saved.name)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        await engine.load(tmp_path / "loop" / saved.name)


async def test_what_is_no_regular_file(engine: vm.Engine, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)  # nobody writes to it, and it is not waited for
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises(vm.ModuleLoadError, match="not a regular file"):
            await engine.load(path)


@AS_ROOT
async def test_files_of_others(engine: vm.Engine, saved: Path, tmp_path: Path) -> None:
    os.chown(saved, NOBODY, NOBODY)
    with pytest.raises(vm.ModuleLoadError, match=f"it belongs to user {NOBODY}, and this process is user 0"):
        await engine.load(saved)
    os.chown(saved, 0, 0)
    os.chown(saved.parent, NOBODY, NOBODY)
    with pytest.raises(vm.ModuleLoadError, match=f"the directory {saved.parent} belongs to user {NOBODY}"):
        await engine.load(saved)
    os.chown(saved.parent, 0, 0)
    link = tmp_path / "way"
    link.symlink_to(saved.parent)
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(vm.ModuleLoadError, match=f"the symbolic link {link} belongs to user {NOBODY}"):
        await engine.load(link / saved.name)


@AS_ROOT
async def test_files_of_root_are_not_for_users(saved: Path) -> None:
    for directory in (saved.parent, *itertools.takewhile(lambda d: d != d.parent, saved.parent.parents)):
        if directory.stat().st_mode & 0o005 != 0o005:
            directory.chmod(0o755)
    saved.chmod(0o644)
    read_module(str(saved))
    os.seteuid(NOBODY)
    try:
        with pytest.raises(vm.ModuleLoadError, match=f"it belongs to user 0, and this process is user {NOBODY}"):
            read_module(str(saved))
    finally:
        os.seteuid(0)


# --- damaged, and hostile ---------------------------------------------------------------------------------------------


@ONE_LOOP
async def test_every_byte_counts(engine: vm.Engine, saved: Path) -> None:
    data = saved.read_bytes()
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        put(saved, damaged)
        with pytest.raises(vm.ModuleLoadError):
            read_module(str(saved))
    put(saved, data)
    await engine.load(saved)


@ONE_LOOP
async def test_every_length_counts(saved: Path) -> None:
    data = saved.read_bytes()
    for size in range(len(data)):
        put(saved, data[:size])
        with pytest.raises(vm.ModuleLoadError):
            read_module(str(saved))
    put(saved, data + b"\0")
    with pytest.raises(vm.ModuleLoadError, match=f"it has {len(data) + 1} bytes, its header describes {len(data)}"):
        read_module(str(saved))


U32, U64 = (1 << 32) - 1, (1 << 64) - 1


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("magic", b"PVM\0\0\0\0\0", "it is not a compiled module"),
        ("version", 0, "its format has version 0: only 1 is known"),
        ("version", 2, "its format has version 2"),
        ("backend", 2, "it is for an unknown backend, number 2"),
        ("backend", 1, "it is for the interpreter and has native code all the same"),
        ("build", bytes(32), "another build of this package made it"),
        ("features", 0, "it is for another processor"),
        ("features", U32, "it is for another processor"),
        ("settings", U32, "its header asks for 4294967295 bytes of settings"),
        ("program", U64, "its header asks for 18446744073709551615 bytes of program"),
        ("code", 1 << 63, "bytes of native code"),
        ("tables", 1 << 40, "bytes of tables"),
        ("program", 0, "its header describes"),
        ("code", 1 << 20, "its header describes"),
    ],
)
async def test_every_field_counts(engine: vm.Engine, saved: Path, field: str, value: Any, complaint: str) -> None:
    file = File(saved.read_bytes())
    assert bytes(file) == saved.read_bytes()
    file.header[field] = value
    put(saved, bytes(file))
    with pytest.raises(vm.ModuleLoadError, match=complaint) as caught:
        await engine.load(saved)
    assert str(caught.value).startswith(f"cannot load a compiled module from {saved}: ")


def changed(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def word(value: int) -> bytes:
    return value.to_bytes(4, "little")


#: Changes of one part of a file whose checksum is right, and what is said about it.
HOSTILE: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("settings", lambda s: b"", "settings have at least"),
    ("settings", lambda s: s[:-1], "a cost table has"),
    ("settings", lambda s: changed(s, 0, word(5)), "invalid page size"),
    ("settings", lambda s: changed(s, 4, word(U32)), "do not fit"),
    ("settings", lambda s: changed(s, 8, b"\3"), "unknown gas metering 3"),
    ("settings", lambda s: changed(s, 9, b"\2"), "they are not written as they should be"),
    ("settings", lambda s: changed(s, 13, word(5)), "5 is not a valid MemoryLatency"),
    ("settings", lambda s: changed(s, 13, word(25)), "they are not written as they should be"),
    ("program", lambda p: b"", "its program is invalid"),
    ("program", lambda p: p + b"\0", "its program is invalid"),
    ("program", lambda p: changed(p, 4, b"\xff"), "its program is invalid: .*instruction set"),
    ("code", lambda c: b"", "the size of the native code is out of range"),
    ("code", lambda c: c + b"\0", "the gas stubs do not end where the native code does"),
    ("tables", lambda t: b"", "shorter than their header"),
    ("tables", lambda t: t[:23], "shorter than their header"),
    ("tables", lambda t: t[:-4], "do not add up"),
    ("tables", lambda t: t + bytes(4), "do not add up"),
    ("tables", lambda t: changed(t, 0, word(U32)), "a trampoline"),
    ("tables", lambda t: changed(t, 4, word(1 << 20)), "a trampoline"),
    ("tables", lambda t: changed(t, 8, t[24:28]), "a trampoline"),
    ("tables", lambda t: changed(t, 12, word(0)), "the gas stubs do not end"),
    ("tables", lambda t: changed(t, 16, word(U32)), "do not add up"),
    ("tables", lambda t: changed(t, 16, word(0)), "do not add up"),
    ("tables", lambda t: changed(t, 20, word(U32)), "do not add up"),
    ("tables", lambda t: changed(t, 24, word(U32)), "run backwards"),
    ("tables", lambda t: changed(t, 24, word(0)), "a trampoline"),
    ("tables", lambda t: changed(t, len(t) - 4, word(U32)), "before the gas stubs"),
    ("tables", lambda t: changed(t[:-4], 16, word(int.from_bytes(t[16:20], "little") - 1)), "number of instructions"),
    ("tables", lambda t: changed(t, 16, word(int.from_bytes(t[16:20], "little") + 1)) + t[-4:], "of instructions"),
]


@pytest.mark.parametrize(("part", "change", "complaint"), HOSTILE)
async def test_absurd_contents(
    engine: vm.Engine, saved: Path, part: str, change: Callable[[bytes], bytes], complaint: str
) -> None:
    file = File(saved.read_bytes())
    file.replace(part, change(bytes(file.parts[part])))
    put(saved, bytes(file))
    with pytest.raises(vm.ModuleLoadError, match=complaint):
        await engine.load(saved)


async def test_absurd_gas_stubs(engine: vm.Engine, tmp_path: Path) -> None:
    path = tmp_path / "module.pvmc"
    await (await engine.compile(basic(), vm.ModuleConfig(gas_metering="sync"))).save(path)
    data = path.read_bytes()
    for change, complaint in (
        (lambda t: changed(t, len(t) - 8, word(U32)), "a gas stub leads to no instruction"),
        (lambda t: changed(t, len(t) - 8, word(0)), "a gas stub leads to no instruction"),
        (lambda t: changed(t, len(t) - 4, word(1 << 31)), "gives back more than any block costs"),
        (lambda t: changed(t[:-8], 20, word(int.from_bytes(t[20:24], "little") - 1)), "the gas stubs do not end"),
    ):
        file = File(data)
        file.replace("tables", change(bytes(file.parts["tables"])))
        put(path, bytes(file))
        with pytest.raises(vm.ModuleLoadError, match=complaint):
            await engine.load(path)
    file = File(data)
    file.replace("settings", encode_config(vm.ModuleConfig()))
    put(path, bytes(file))
    with pytest.raises(vm.ModuleLoadError, match="gas stubs without gas metering"):
        await engine.load(path)


async def test_native_code_of_another_program(engine: vm.Engine, other: vm.Engine, tmp_path: Path) -> None:
    paths = [tmp_path / "first.pvmc", tmp_path / "second.pvmc"]
    for path, blob in zip(paths, (basic(), memory()), strict=True):
        await (await engine.compile(blob)).save(path)
    first, second = (File(path.read_bytes()) for path in paths)
    for part in ("code", "tables"):
        first.replace(part, second.parts[part])
    put(paths[0], bytes(first))
    with pytest.raises(vm.ModuleLoadError, match="its tables are invalid"):
        await other.load(paths[0])


@ONE_LOOP
async def test_code_that_is_not_the_recompilers_stays_in_its_sandbox(other: vm.Engine, saved: Path) -> None:
    file = File(saved.read_bytes())
    size = len(file.parts["code"])
    file.replace("code", (b"\x0f\x05" * size)[:size])  # syscall, syscall, ...
    put(saved, bytes(file))
    async with await linker().instantiate(await other.load(saved)) as instance:
        with pytest.raises(vm.SandboxDiedError):
            await instance.call("add", 1, 2)


@ONE_LOOP
async def test_arbitrary_contents_with_a_right_checksum(other: vm.Engine, saved: Path) -> None:
    """Either an error, or a module that cannot hurt its host, whatever its code does."""
    original = saved.read_bytes()
    words = len(original) // 4

    async def attempt(changes: list[tuple[int, int]], run: bool) -> bool:
        data = bytearray(original[:-DIGEST])
        for at, value in changes:
            position = min(at * 4, len(data) - 4)
            data[position : position + 4] = word(value)
        put(saved, sealed(data))
        try:
            module = await other.load(saved)
        except vm.ModuleLoadError:
            return False
        for pc in range(len(module.blob.code) + 2):
            module.native_offset(pc)
            module.gas_cost(pc)
        if run:
            try:
                async with asyncio.timeout(0.05), await module.instantiate() as instance:
                    instance.prepare_call(next(iter(module.exports), 0), 1, 2)
                    await instance.run()
            except (vm.VMError, TimeoutError):
                pass
        return True

    cases: list[tuple[list[tuple[int, int]], bool]] = []

    values = st.one_of(st.integers(0, U32), st.integers(0, 2000), st.sampled_from([0, 1, U32, 1 << 31, 1 << 20]))

    @settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(st.integers(0, words), values), min_size=1, max_size=4))
    def collect(changes: list[tuple[int, int]]) -> None:
        cases.append((changes, len(cases) % 3 == 0))

    collect()  # hypothesis calls no coroutines
    accepted = sum([await attempt(changes, run) for changes, run in cases])
    assert 0 < accepted < len(cases)  # it got behind the checksum, and it did not believe all


# --- a directory of them ----------------------------------------------------------------------------------------------


def caching(directory: Path | str, **settings: Any) -> vm.Engine:
    return vm.Engine(vm.Config(cache_directory=directory, **settings))


@pytest.mark.parametrize("backend", ["recompiler", "interpreter"])
async def test_a_directory_is_looked_into_first(nothing_left: Census, tmp_path: Path, backend: str) -> None:
    directory = tmp_path / "new" / "cache"
    before: dict[Path, int] = {}
    for number in range(2):
        async with caching(directory, backend=backend) as engine:
            module = await engine.compile(basic())
            metered = await engine.compile(basic(), vm.ModuleConfig(gas_metering="sync"))
            async with await linker().instantiate(module) as instance:
                assert await instance.call("add", number, 2) == number + 2
            del module, instance, metered
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        files = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
        assert len(files) == 2
        assert before in ({}, files)  # written once
        before = files


async def test_what_is_there_is_not_compiled(nothing_left: Census, tmp_path: Path) -> None:
    async with caching(tmp_path) as engine:
        await engine.compile(basic())
    (path,) = tmp_path.iterdir()
    file = File(path.read_bytes())
    file.parts["code"][-1] ^= 0xFF  # a compiler would not
    put(path, bytes(file))
    for size in (64, 0):
        async with caching(tmp_path, module_cache_size=size) as engine:
            assert (await engine.compile(basic())).native_code() == file.parts["code"]


def entry_of_another_program(path: Path) -> None:
    file = File(path.read_bytes())
    file.replace("program", basic_32().to_bytes())
    put(path, bytes(file))


def entry_of_another_build(path: Path) -> None:
    file = File(path.read_bytes())
    file.header["build"] = bytes(32)
    put(path, bytes(file))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda path: put(path, path.read_bytes()[:-1]), "its header describes"),
        (lambda path: put(path, b""), "it is not a compiled module"),
        (lambda path: path.chmod(0o622), "may write it"),
        (entry_of_another_program, "it is another program"),
        (entry_of_another_build, "another build"),
    ],
)
async def test_an_unusable_entry_is_compiled_over(
    nothing_left: Census,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], Any],
    complaint: str,
) -> None:
    caplog.set_level(logging.WARNING, "vm")
    async with caching(tmp_path) as engine:
        await engine.compile(basic())
    (path,) = tmp_path.iterdir()
    intact = path.read_bytes()
    spoil(path)
    async with caching(tmp_path) as engine, await linker().instantiate(await engine.compile(basic())) as instance:
        assert await instance.call("add", 1, 2) == 3
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("vm", logging.WARNING)
    assert complaint in record.getMessage()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == intact
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_directory_that_goes_away(
    nothing_left: Census, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "vm")
    directory = tmp_path / "cache"
    async with caching(directory) as engine:
        directory.rmdir()
        assert (await engine.compile(basic())).blob == basic()
    assert ["cannot save a compiled module" in record.getMessage() for record in caplog.records] == [True]


async def test_programs_that_fail_are_not_kept(nothing_left: Census, tmp_path: Path) -> None:
    async with caching(tmp_path) as engine:
        with pytest.raises(vm.ProgramParseError):
            await engine.compile(b"PVM\0")
        with pytest.raises(vm.MemoryMapError):
            await engine.compile(basic(), vm.ModuleConfig(page_size=1))
    assert not list(tmp_path.iterdir())


async def test_directories_that_cannot_be_used(nothing_left: Census, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for path, complaint in (
        (tmp_path / "file", "the cache directory is of no use: File exists"),
        (tmp_path / "file" / "below", "the cache directory is of no use: Not a directory"),
        (tmp_path / "open", "others may write to the directory"),
        ("/proc/cache", "the cache directory is of no use"),
    ):
        engine = caching(path)
        with pytest.raises(vm.ModuleLoadError, match=complaint) as caught:
            async with engine:
                pass
        assert caught.value.path == str(path)


# --- builds -----------------------------------------------------------------------------------------------------------


def test_a_build_is_known_by_its_sources(tmp_path: Path) -> None:
    def build_id() -> str:
        script = tmp_path / "native/sandbox/build_id.py"
        subprocess.run([sys.executable, script, tmp_path, tmp_path / "out.h", tmp_path / "out.d"], check=True)
        return (tmp_path / "out.h").read_text()

    for folder in ("native/linux", "native/pvm", "native/sandbox", "native/zygote"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "vm").mkdir()
    shutil.copy(ROOT / "vm/isa.py", tmp_path / "vm")
    first = build_id()
    assert build_id() == first
    assert str(tmp_path / "native/pvm/recompiler.c") in (tmp_path / "out.d").read_text()
    seen = {first}
    for name in ("native/pvm/recompiler.c", "native/zygote/layout.h", "native/sandbox/image.c", "vm/isa.py"):
        with (tmp_path / name).open("a") as file:
            file.write("\n")
        seen.add(build_id())
    (tmp_path / "native/pvm/new.c").touch()
    seen.add(build_id())
    assert len(seen) == 6


def test_the_magic_bytes_are_no_programs() -> None:
    assert len(MAGIC) == 8
    assert not MAGIC.startswith(b"PVM")
    with pytest.raises(vm.ProgramParseError):
        vm.ProgramBlob.parse(MAGIC)
    with pytest.raises(UnicodeDecodeError):
        MAGIC.decode()
