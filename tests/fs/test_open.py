# SPDX-License-Identifier: MIT
"""open() held against builtins.open(): modes, arguments, errors, names."""

import asyncio
import contextlib
import functools
import gc
import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aioring
from aioring import fs

MODES = [kind + plus + form for kind in "rwax" for plus in ("", "+") for form in ("", "b", "t")]


async def outcome(action: Callable[[], Any]) -> Any:
    """What it gives or raises, in a form to compare."""
    try:
        result = action()
        return await result if hasattr(result, "__await__") else result
    except Exception as error:
        return type(error), getattr(error, "errno", str(error)), getattr(error, "filename", None)


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("mode", MODES)
async def test_modes(tmp_path: Path, mode: str, there: bool) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    if there:
        theirs.write_text("some text\nhere\n")
        ours.write_text("some text\nhere\n")
    data: Any = b"new" if "b" in mode else "new"
    error = None
    try:
        expected = open(theirs, mode)  # noqa: SIM115
    except OSError as caught:
        error = caught
    if error is not None:
        assert await outcome(lambda: fs.open(ours, mode)) == (type(error), error.errno, str(ours))
        return
    async with fs.open(ours, mode) as file:
        with expected:
            for name in ("readable", "writable", "seekable", "isatty"):
                assert getattr(file, name)() == getattr(expected, name)(), name
            assert file.mode == expected.mode
            assert file.name == str(ours) if not isinstance(expected.name, Path) else ours
            assert await file.tell() == expected.tell()
            actions: tuple[tuple[Any, ...], ...]
            # flush(): the stdlib does not know where an append will go
            actions = (("read", 4), ("write", data), ("flush",), ("tell",), ("seek", 0), ("read",), ("write", data))
            for action in (*actions, ("flush",), ("tell",)):
                ours_gave = await outcome(lambda action=action: getattr(file, action[0])(*action[1:]))
                theirs_gave = await outcome(lambda action=action: getattr(expected, action[0])(*action[1:]))
                assert ours_gave == theirs_gave, action
        assert not file.closed
    assert file.closed
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize(
    "arguments",
    [
        ("rw",), ("",), ("b",), ("rr",), ("rU",), ("rbt",), ("z",), ("rb", -1, "utf-8"), ("rb", -1, None, "strict"),
        ("rb", -1, None, None, "\n"), ("r", 0), ("r", -1, "no such codec"), ("r", -1, "hex"),
        ("r", -1, None, None, "x"), ("r", -1, None, None, None, False), (5,),
    ],
)  # fmt: skip
async def test_bad_arguments(tmp_path: Path, arguments: tuple[Any, ...], count_fds: Callable[[], int]) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    before = count_fds()
    with pytest.raises((ValueError, TypeError, LookupError)) as expected:
        open(path, *arguments)  # noqa: SIM115
    with pytest.raises(expected.type) as caught:
        await fs.open(path, *arguments)
    if arguments != (5,):
        assert str(caught.value) == str(expected.value)
    assert count_fds() == before


@pytest.mark.parametrize(
    "name",
    ["", "nul\0inside", b"nul\0inside", "\ud800", "not/there", "/etc/passwd/below", "x" * 300, "/", "loop"],
)
async def test_hostile_names(tmp_path: Path, name: str | bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    assert await outcome(lambda: fs.open(name)) == await outcome(lambda: open(name))  # noqa: SIM115
    calls: tuple[tuple[Any, Any], ...] = ((fs.stat, os.stat), (fs.unlink, os.unlink), (fs.rmdir, os.rmdir))
    for ours, theirs in calls if name != "/" else ():
        gave = []
        for call in (ours, theirs):
            gave.append(await outcome(functools.partial(call, name)))
            if not os.path.lexists("loop"):
                os.symlink("loop", "loop")
        if isinstance(gave[0], tuple) and gave[0][0] is ValueError:  # says where, in some calls
            gave = [each[0] for each in gave]
        assert gave[0] == gave[1], theirs


async def test_names_that_are_no_text(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xfe"
    async with fs.open(name, "wb") as file:
        assert await file.write(b"x") == 1
        assert file.name == name
    async with fs.open(os.fsdecode(name), "rb") as file:
        assert await file.read() == b"x"
    assert await fs.listdir(tmp_path) == ["\udcff\udcfe"]
    with pytest.raises(TypeError):
        fs.open(None)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        fs.open(1.5)  # type: ignore[call-overload]


async def test_descriptors(tmp_path: Path, count_fds: Callable[[], int]) -> None:
    before = count_fds()
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    async with fs.open(fd, "wb", closefd=False) as file:
        await file.write(b"kept open")
        assert file.fileno() == fd
    assert os.pread(fd, 100, 0) == b"kept open"
    async with fs.open(fd, "rb") as file:
        await file.seek(0)
        assert await file.read() == b"kept open"
    assert count_fds() == before
    with pytest.raises(OSError, match="Bad file descriptor"):
        await fs.open(fd)
    with pytest.raises(ValueError, match="negative file descriptor"):
        await fs.open(-1)
    directory = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(IsADirectoryError):
        await fs.open(directory)
    os.close(directory)
    async with fs.open(tmp_path / "file", "rb") as file:
        assert not os.get_inheritable(file.fileno())


async def test_opener(tmp_path: Path, count_fds: Callable[[], int]) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    before = count_fds()
    async with fs.open("file", "w", opener=lambda name, flags: os.open(name, flags, dir_fd=directory)) as file:
        await file.write("text")
    assert (tmp_path / "file").read_text() == "text"
    with pytest.raises(ValueError, match="opener returned -1"):
        await fs.open("file", opener=lambda name, flags: -1)
    with pytest.raises(TypeError, match="expected integer from opener"):
        await fs.open("file", opener=lambda name, flags: "fd")  # type: ignore[arg-type, return-value]
    assert count_fds() == before
    os.close(directory)


async def test_a_mask_applies(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        async with fs.open(tmp_path / "ours", "w"), fs.open(tmp_path / "other", "xb"):
            pass
        open(tmp_path / "theirs", "w").close()
    finally:
        os.umask(old)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "theirs").stat().st_mode
    assert (tmp_path / "other").stat().st_mode == (tmp_path / "theirs").stat().st_mode


async def test_closed(tmp_path: Path) -> None:
    for mode, buffering in (("w+", -1), ("w+b", -1), ("w+b", 0)):
        file: Any = await fs.open(tmp_path / "file", mode, buffering)
        await file.close()
        await file.close()
        for name, *arguments in (
            ("read",), ("readline",), ("write", "x" if "b" not in mode else b"x"), ("seek", 0), ("tell",), ("flush",),
            ("truncate",), ("fsync",), ("stat",), ("fileno",), ("readable",), ("isatty",), ("__aenter__",),
        ):  # fmt: skip
            gave = await outcome(lambda name=name, arguments=arguments: getattr(file, name)(*arguments))  # noqa: B023
            assert gave == (ValueError, "I/O operation on closed file", None), (name, gave)
        assert "closed" in repr(file)


async def test_wrong_direction(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for mode, buffering, name, argument in (
        ("r", -1, "write", "x"), ("rb", -1, "write", b"x"), ("rb", 0, "write", b"x"), ("w", -1, "read", -1),
        ("wb", -1, "read", -1), ("wb", 0, "read", -1), ("rb", -1, "truncate", 0), ("wb", -1, "readline", -1),
        ("r", -1, "truncate", 0), ("w", -1, "readline", -1),
    ):  # fmt: skip
        async with fs.open(tmp_path / "file", mode, buffering) as file:
            with pytest.raises(io.UnsupportedOperation):
                await getattr(file, name)(argument)


async def test_forgotten_files_warn_and_lose_nothing(tmp_path: Path, count_fds: Callable[[], int]) -> None:
    before = count_fds()
    for mode, data in (("w", "text"), ("wb", b"text")):
        file: Any = await fs.open(tmp_path / "file", mode)
        await file.write(data)
        with pytest.warns(ResourceWarning, match="unclosed file <RawFile"):
            del file
        assert (tmp_path / "file").read_text() == "text"
    assert count_fds() == before


def test_a_loop_closes_with_files_open(tmp_path: Path, count_fds: Callable[[], int]) -> None:
    before = count_fds()
    kept: list[Any] = []

    async def main() -> None:
        kept.append(await fs.open(tmp_path / "one", "w"))
        await kept[0].write("kept")
        kept.append(await fs.open(tmp_path / "two", "wb", 0, fixed=True))

    with pytest.warns(ResourceWarning, match="whose event loop is closed") as caught:
        aioring.run(main())
    assert len(caught) == 2
    assert count_fds() == before
    assert (tmp_path / "one").read_text() == "kept"
    assert all(file.closed for file in kept)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept.clear()
        gc.collect()


def test_other_loops_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(aioring.RingStateError, match=r"needs an aioring\.EventLoop, and .* runs here"):
            await fs.open(tmp_path / "file", "w")
        with pytest.raises(aioring.RingStateError, match=r"aioring\.run"):
            await fs.stat(tmp_path)

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main())
    assert not list(tmp_path.iterdir())


def test_files_stay_with_their_loop(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    with (
        asyncio.Runner(loop_factory=aioring.EventLoop) as one,
        asyncio.Runner(loop_factory=aioring.EventLoop) as other,
    ):

        async def start() -> fs.RawFile:
            return await fs.open(tmp_path / "file", "rb", 0)

        async def use(file: fs.RawFile) -> bytes:
            return await file.pread(4, 0)

        file = one.run(start())
        with pytest.raises(aioring.RingOwnerError):
            other.run(use(file))
        assert one.run(use(file)) == b"data"
        one.run(file.close())


async def test_opening_is_cancelled(tmp_path: Path, count_fds: Callable[[], int]) -> None:
    before = count_fds()
    for turn in range(30):
        opening = asyncio.ensure_future(_await(fs.open(tmp_path / "file", "w")))
        for _ in range(turn % 5):
            await asyncio.sleep(0)
        if turn % 7 == 0:
            await aioring_turn()
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await opening).close()
    assert count_fds() == before
    # A fifo nobody writes to: open() waits, and can be told not to.
    os.mkfifo(tmp_path / "fifo")
    opening = asyncio.ensure_future(_await(fs.open(tmp_path / "fifo", "rb")))
    await aioring_turn()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert count_fds() == before


async def _await(opening: Any) -> Any:
    return await opening


async def aioring_turn() -> None:
    """Through the kernel and back."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, aioring.EventLoop)
    await loop.ring.nop()
