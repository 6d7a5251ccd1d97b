# SPDX-License-Identifier: MIT
"""What is done to files by name, and Path, held against os and pathlib."""

import asyncio
import contextlib
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import anyio
import pytest

import aioring
from aioring import fs


def shown(error: BaseException) -> tuple[Any, ...]:
    return type(error), getattr(error, "errno", None), *(getattr(error, name, None) for name in NAMES)


NAMES = ("filename", "filename2")
CALLS: list[tuple[Any, Any, tuple[Any, ...]]] = [
    (fs.stat, os.stat, ("none",)),
    (fs.stat, os.stat, (pathlib.Path("none"),)),
    (fs.stat, os.stat, (b"none",)),
    (fs.stat, os.stat, (-7,)),
    (fs.lstat, os.lstat, ("none",)),
    (fs.rename, os.rename, ("none", "to")),
    (fs.rename, os.rename, ("file", "directory")),
    (fs.replace, os.replace, (b"none", pathlib.Path("to"))),
    (fs.unlink, os.unlink, ("none",)),
    (fs.unlink, os.unlink, ("directory",)),
    (fs.remove, os.remove, ("none",)),
    (fs.rmdir, os.rmdir, ("full",)),
    (fs.rmdir, os.rmdir, ("file",)),
    (fs.mkdir, os.mkdir, ("directory",)),
    (fs.mkdir, os.mkdir, ("none/below",)),
    (fs.makedirs, os.makedirs, ("directory",)),
    (fs.makedirs, os.makedirs, ("file/below",)),
    (fs.symlink, os.symlink, ("to", "file")),
    (fs.link, os.link, ("none", "to")),
    (fs.link, os.link, ("file", "directory")),
    (fs.readlink, os.readlink, ("file",)),
    (fs.listdir, os.listdir, ("none",)),
    (fs.truncate, os.truncate, ("none", 5)),
    (fs.unlink, os.unlink, ("nul\0",)),
    (fs.rename, os.rename, ("file", "nul\0")),
    (fs.mkdir, os.mkdir, (5.5,)),
    (fs.unlink, os.unlink, (None,)),
]


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("text")
    (tmp_path / "directory").mkdir()
    (tmp_path / "full" / "below" / "deep").mkdir(parents=True)
    (tmp_path / "full" / "below" / "file").write_text("x")
    (tmp_path / "link").symlink_to("full")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    return tmp_path


@pytest.mark.parametrize(("ours", "theirs", "arguments"), CALLS)
async def test_errors(folder: pathlib.Path, ours: Any, theirs: Any, arguments: tuple[Any, ...]) -> None:
    with pytest.raises((OSError, ValueError, TypeError)) as expected:
        theirs(*arguments)
    with pytest.raises((OSError, ValueError, TypeError)) as caught:
        await ours(*arguments)
    assert shown(caught.value) == shown(expected.value)
    if isinstance(expected.value, OSError):
        assert str(caught.value) == str(expected.value)


async def test_stat(folder: pathlib.Path) -> None:
    for name in ("file", "directory", "link", "fifo", "/dev/null", "/proc/self/stat", "."):
        ours, theirs = await fs.stat(name), os.stat(name)
        for field in dir(theirs):
            if field.startswith("st_") and not name.startswith("/proc"):
                assert getattr(ours, field) == getattr(theirs, field), field
        assert ours == theirs or name.startswith("/proc")
        assert await fs.stat(name, follow_symlinks=False) == os.lstat(name) or name.startswith("/proc")
    with open("file") as file:
        assert await fs.stat(file.fileno()) == os.fstat(file.fileno())
    os.utime("file", ns=(-5_000_000_001, 1_700_000_000_123_456_789))
    assert await fs.stat("file") == os.stat("file")
    assert (await fs.stat("file")).st_mtime_ns == os.stat("file").st_mtime_ns


async def test_changes(folder: pathlib.Path) -> None:
    await fs.mkdir("new", 0o700)
    assert os.stat("new").st_mode & 0o777 == 0o700
    await fs.rename("new", b"renamed")
    assert not await fs.exists("new")
    assert await fs.exists("renamed")
    await fs.rmdir("renamed")
    await fs.symlink("file", "symbolic")
    await fs.link("file", "hard")
    assert await fs.readlink("symbolic") == "file"
    assert (await fs.stat("hard")).st_nlink == 2
    await fs.replace("hard", "other")
    await fs.unlink("symbolic")
    await fs.remove("other")
    await fs.makedirs("a/b/c")
    await fs.makedirs("a/b/c", exist_ok=True)
    await fs.makedirs("a/b/d/.", exist_ok=True)
    await fs.makedirs(pathlib.Path("a/e/"))
    assert sorted(await fs.listdir("a")) == ["b", "e"]
    await fs.truncate("file", 2)
    assert await fs.copy("file", "directory") == "directory/file"
    assert pathlib.Path("directory/file").read_text() == "te"
    with pytest.raises(ValueError, match="embedded null byte"):
        await fs.copy("file", "nul\0")
    name = "\udcff\udcfe"
    await fs.mkdir(name)
    assert b"\xff\xfe" in os.listdir(b".")
    await fs.rmdir(name)


async def test_walk(folder: pathlib.Path) -> None:
    for arguments in ((True,), (False,), (True, None, True), (False, None, True)):
        ours = sorted([(top, sorted(dirs), sorted(files)) async for top, dirs, files in fs.walk(".", *arguments)])
        assert ours == sorted((top, sorted(dirs), sorted(files)) for top, dirs, files in os.walk(".", *arguments))
    assert [top async for top, _, _ in fs.walk(b"full")] == [top for top, _, _ in os.walk(b"full")]
    pruned = []
    async for top, directories, _ in fs.walk("full"):
        pruned.append(top)
        directories.clear()
    assert pruned == ["full"]
    failures: list[OSError] = []
    assert [each async for each in fs.walk("none", True, failures.append)] == []
    assert [failure.filename for failure in failures] == ["none"]
    assert [each async for each in fs.walk("none")] == []


async def test_operations_that_an_older_kernel_lacks(folder: pathlib.Path, count_fds: Callable[[], int]) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, aioring.EventLoop)
    before = loop.ring._supported
    # As the probe would have come out before Linux 5.15, in which the loop runs, too.
    loop.ring._supported = before - {"mkdirat", "symlinkat", "linkat", "ftruncate"}
    try:
        await fs.mkdir("made")
        await fs.symlink("made", "to-made")
        await fs.link("file", "linked")
        with pytest.raises(FileExistsError) as caught:
            await fs.mkdir("made")
        assert caught.value.filename == "made"
        async with fs.open("file", "r+b") as file:
            assert await file.truncate(1) == 1
        assert os.stat("linked").st_size == 1
    finally:
        loop.ring._supported = before


async def test_cancelled_calls_leave_nothing_in_flight(folder: pathlib.Path) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, aioring.EventLoop)
    for turn in range(20):
        calls = [asyncio.ensure_future(call) for call in (fs.stat("file"), fs.mkdir(f"{turn}"), fs.unlink(f"no{turn}"))]
        for _ in range(turn % 4):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        for call in calls:
            with contextlib.suppress(asyncio.CancelledError, FileNotFoundError):
                await call
    assert loop.ring.in_flight == 0


async def test_a_child_is_waited_for() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, aioring.EventLoop)
    if not loop.ring.supports("waitid"):
        pytest.skip("waitid on the ring needs Linux 6.7")
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
    waiting = loop.ring.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    found = await waiting
    assert found is not None
    assert found == os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert (found.si_pid, found.si_status, found.si_code) == (child.pid, 7, os.CLD_EXITED)
    child.wait()
    with pytest.raises(ChildProcessError):
        await loop.ring.waitid(os.P_PID, child.pid, os.WEXITED)
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as cat:
        assert await loop.ring.waitid(os.P_PID, cat.pid, os.WEXITED | os.WNOHANG) is None
        cancelled = loop.ring.waitid(os.P_PID, cat.pid, os.WEXITED)
        await loop.ring.nop()
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled


async def test_splice(folder: pathlib.Path) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, aioring.EventLoop)
    source, sink = os.pipe()
    fd = os.open("file", os.O_RDWR)
    assert await loop.ring.splice(fd, sink, 3, source_offset=1) == 3
    assert await loop.ring.splice(source, fd, 10, target_offset=10) == 3
    assert os.pread(fd, 20, 0) == b"text" + bytes(6) + b"ext"
    with pytest.raises(OSError, match="Invalid argument"):
        await loop.ring.splice(fd, fd, 1)
    for each in (source, sink, fd):
        os.close(each)


# --- Path ---


def test_path_has_what_anyio_has() -> None:
    theirs = {name for name in vars(anyio.Path) if not name.startswith("_")} - {"limiter"}
    assert theirs <= set(dir(fs.Path))


ASKED = [
    *("exists", "is_dir", "is_file", "is_symlink", "is_block_device", "is_char_device", "is_fifo", "is_socket"),
    *("is_mount", "stat", "lstat", "owner", "group", "readlink", "absolute", "resolve", "expanduser", "read_bytes"),
    *("read_text", "rmdir"),
]


@pytest.mark.parametrize("name", ["file", "directory", "link", "dangling", "none", "fifo", "socket", "/dev/null", "/",
                                  "nul\0", "file/below", "~", "..", "full/below"])  # fmt: skip
@pytest.mark.parametrize("method", ASKED)
async def test_paths_answer_as_pathlib(folder: pathlib.Path, name: str, method: str) -> None:
    if (name, method) in {("fifo", "read_bytes"), ("fifo", "read_text")} or (method, name) == ("rmdir", "directory"):
        return  # waits for a writer; works once
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        results: list[Any] = []
        for path in (pathlib.Path(name), fs.Path(name)):
            try:
                result = getattr(path, method)()
                result = await result if hasattr(result, "__await__") else result
                results.append(str(result) if isinstance(result, pathlib.PurePath) else result)
            except (OSError, ValueError, RuntimeError) as error:
                shows = (type(error),) if isinstance(error, ValueError) else shown(error)
                results.append(tuple(str(each) if isinstance(each, pathlib.PurePath) else each for each in shows))
        assert results[0] == results[1]


async def test_path_is_a_path(folder: pathlib.Path) -> None:
    path = fs.Path("full") / "below" / "file"
    assert isinstance(path.parent, fs.Path)
    assert os.fspath(path) == "full/below/file"
    assert path == fs.Path("full", "below/file")
    assert {path: 1}[fs.Path("full/below/file")] == 1
    assert sorted([fs.Path("b"), fs.Path("a")]) == [fs.Path("a"), fs.Path("b")]
    assert repr(path) == "Path('full/below/file')"
    assert path.with_suffix(".txt").name == "file.txt"
    with open(path) as file:
        assert file.read() == "x"
    assert str(await fs.Path.cwd()) == os.getcwd()
    assert str(await fs.Path.home()) == str(pathlib.Path.home())
    assert await path.samefile(pathlib.Path("link/below/file"))
    assert not await path.samefile("file")


async def test_path_changes(folder: pathlib.Path) -> None:
    path = fs.Path("new/deep/er")
    with pytest.raises(FileNotFoundError) as caught:
        await path.mkdir()
    assert caught.value.filename == "new/deep/er"
    await path.mkdir(parents=True)
    await path.mkdir(parents=True, exist_ok=True)
    with pytest.raises(FileExistsError):
        await path.mkdir(parents=True)
    with pytest.raises(FileExistsError):
        await fs.Path("file").mkdir(exist_ok=True)
    text = path / "text"
    assert await text.write_text("é\n", encoding="utf-8", newline="\r\n") == 2
    assert await text.read_bytes() == b"\xc3\xa9\r\n"
    assert await text.read_text("utf-8") == "é\n"
    assert await text.write_bytes(bytearray(b"raw")) == 3
    with pytest.raises(TypeError):
        await text.write_text(b"bytes")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        await text.write_bytes("text")  # type: ignore[arg-type]
    assert await text.read_bytes() == b"raw"
    moved = await text.rename(path / "moved")
    assert isinstance(moved, fs.Path)
    assert await (await moved.replace(path / "again")).exists()
    await text.symlink_to("again")
    assert await text.readlink() == fs.Path("again")
    assert await text.resolve() == await (path / "again").absolute()
    await (path / "hard").hardlink_to(path / "again")
    assert (await text.stat()).st_nlink == 2
    await (path / "hard").chmod(0o600)
    assert (await text.stat()).st_mode & 0o777 == 0o600
    await (path / "touched").touch()
    with pytest.raises(FileExistsError):
        await (path / "touched").touch(exist_ok=False)
    assert await (path / "touched").copy(path / "copied") == path / "copied"
    assert sorted([each.name async for each in path.iterdir()]) == ["again", "copied", "hard", "text", "touched"]
    assert sorted([each.name async for each in path.glob("t*")]) == ["text", "touched"]
    assert sorted([str(each) async for each in fs.Path("new").rglob("c*")]) == ["new/deep/er/copied"]
    assert [(str(top), dirs) async for top, dirs, _ in fs.Path("new").walk()][:2] == [
        ("new", ["deep"]),
        ("new/deep", ["er"]),
    ]
    await text.unlink()
    await text.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        await text.unlink()
    async with path.joinpath("again").open("rb") as file:
        assert await file.read() == b"raw"
    async with await (path / "again").open() as opened:
        assert await opened.read() == "raw"


def test_exports() -> None:
    assert all(getattr(fs, name).__doc__ for name in fs.__all__)
    assert sorted(fs.__all__) == [
        *("BufferedFile", "Buffers", "Opening", "Path", "RawFile", "TextFile", "copy", "exists", "link", "listdir"),
        *("lstat", "makedirs", "mkdir", "open", "readlink", "remove", "rename", "replace", "rmdir", "stat", "symlink"),
        *("truncate", "unlink", "walk"),
    ]
