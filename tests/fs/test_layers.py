# SPDX-License-Identifier: MIT
"""BufferedFile and TextFile held against the stdlib's, call by call, in random sequences."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import aioring
from aioring import fs

COMMON = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
SIZES = st.one_of(st.none(), st.integers(-1, 40), st.sampled_from([5000, 20_000]))
BYTES = st.one_of(st.binary(max_size=30), st.sampled_from([b"\n", b"x" * 9000, b"line\n" * 2000]))
TEXT = st.one_of(
    st.text("aé€😀\n\r", max_size=20), st.sampled_from(["\r\n", "\n", "line\r\n" * 2000, "é" * 9000, "\r" * 3])
)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=aioring.EventLoop) as made:
        yield made


async def outcome(call: Callable[[], Any]) -> Any:
    try:
        result = call()
        return await result if isinstance(result, Awaitable) else result
    except Exception as error:
        return type(error), str(error)


async def compare(ours: Any, theirs: Any, actions: list[tuple[Any, ...]]) -> None:
    for name, *arguments in actions:
        gave = await outcome(lambda name=name, arguments=arguments: getattr(ours, name)(*arguments))
        expected = await outcome(lambda name=name, arguments=arguments: getattr(theirs, name)(*arguments))
        assert gave == expected, (name, arguments)


def actions_on_bytes() -> st.SearchStrategy[list[tuple[Any, ...]]]:
    return st.lists(
        st.one_of(
            st.tuples(st.just("read"), SIZES),
            st.tuples(st.just("readline"), SIZES),
            st.tuples(st.just("readlines"), st.integers(-1, 100)),
            st.tuples(st.just("write"), BYTES),
            st.tuples(st.just("seek"), st.integers(0, 20_000)),
            st.tuples(st.just("seek"), st.integers(-50, 50), st.sampled_from([0, 1, 2])),
            st.tuples(st.just("tell")),
            st.tuples(st.just("flush")),
            st.tuples(st.just("truncate"), st.one_of(st.none(), st.integers(-1, 20_000))),
        ),
        max_size=25,
    )


@COMMON
@given(start=BYTES, mode=st.sampled_from(["rb", "r+b", "w+b"]), size=st.sampled_from([-1, 2, 16, 4096]),
       actions=actions_on_bytes())  # fmt: skip
def test_bytes(
    runner: asyncio.Runner, tmp_path: Path, start: bytes, mode: str, size: int, actions: list[tuple[Any, ...]]
) -> None:
    async def main() -> None:
        for name in ("ours", "theirs"):
            (tmp_path / name).write_bytes(start)
        with open(tmp_path / "theirs", mode, size) as theirs:
            async with fs.open(tmp_path / "ours", mode, size) as ours:
                await compare(ours, theirs, actions)
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()

    runner.run(main())


ENCODINGS = ["utf-8", "utf-16", "utf-32", "utf-8-sig", "latin-1", "utf-16-le", "shift_jis", "utf-7"]


@COMMON
@given(data=st.data(), encoding=st.sampled_from(ENCODINGS), newline=st.sampled_from([None, "", "\n", "\r", "\r\n"]),
       text=TEXT)  # fmt: skip
def test_reading_text(
    runner: asyncio.Runner, tmp_path: Path, data: st.DataObject, encoding: str, newline: str | None, text: str
) -> None:
    """With seeks to where tell() was, at random: the same text must follow."""
    path = tmp_path / "file"
    path.write_bytes(text.encode(encoding, "replace"))
    actions: st.SearchStrategy[Any] = st.one_of(
        st.tuples(st.just("read"), SIZES),
        st.tuples(st.just("readline"), st.integers(-1, 40)),
        st.sampled_from([("tell",), ("back",), ("seek", 0), ("seek", 0, 2), ("seek", 3, 1), ("seek", -1)]),
    )

    async def main() -> None:
        with open(path, encoding=encoding, newline=newline) as theirs:
            async with fs.open(path, encoding=encoding, newline=newline) as ours:
                places: list[tuple[int, int]] = []
                for name, *arguments in data.draw(st.lists(actions, max_size=20)):
                    if name == "tell":
                        places.append((await ours.tell(), theirs.tell()))
                    elif name == "back":
                        if places:
                            here, there = data.draw(st.sampled_from(places))
                            await ours.seek(here)
                            theirs.seek(there)
                    else:
                        await compare(ours, theirs, [(name, *arguments)])
                assert await ours.read() == theirs.read()
                assert ours.newlines == theirs.newlines

    runner.run(main())


@COMMON
@given(encoding=st.sampled_from(ENCODINGS), newline=st.sampled_from([None, "", "\n", "\r", "\r\n"]),
       mode=st.sampled_from(["w", "a", "w+", "r+", "a+", "x"]), start=TEXT, errors=st.sampled_from([None, "replace"]),
       actions=st.lists(st.one_of(st.tuples(st.just("write"), TEXT), st.sampled_from(
           [("flush",), ("seek", 0), ("seek", 0, 2), ("writelines", ["a\n", "b"]), ("truncate", 0)])), max_size=10)
       )  # fmt: skip
def test_writing_text(
    runner: asyncio.Runner, tmp_path: Path, encoding: str, newline: str | None, mode: str, start: str,
    errors: str | None, actions: list[tuple[Any, ...]],
) -> None:  # fmt: skip
    async def main() -> None:
        for name in ("ours", "theirs"):
            (tmp_path / name).write_bytes(start.encode(encoding, "replace"))
            if mode == "x":
                (tmp_path / name).unlink()
        with open(tmp_path / "theirs", mode, -1, encoding, errors, newline) as theirs:
            async with fs.open(tmp_path / "ours", mode, -1, encoding, errors, newline) as ours:
                await compare(ours, theirs, actions)
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()

    runner.run(main())


async def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("".join(f"line {number}\n" for number in range(20_000)) + "last")
    async with fs.open(path) as file:
        lines = [line async for line in file]
        assert await file.tell() == path.stat().st_size
    with open(path) as theirs:
        assert lines == list(theirs)
    async with fs.open(path, "rb") as binary:
        assert [line.decode() async for line in binary] == lines
        await binary.seek(0)
        assert b"".join(await binary.readlines()).decode() == "".join(lines)


async def test_positions_are_byte_offsets_where_they_can_be(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes("é1\r\n€2\n".encode())
    async with fs.open(path, encoding="utf-8") as file:
        places = []
        while await file.read(1):
            places.append(await file.tell())
        assert places == [2, 3, 5, 8, 9, 10]


async def test_what_only_bytes_have(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789" * 1000)
    async with fs.open(path, "r+b", 16) as file:
        assert (await file.peek())[:4] == b"0123"
        assert await file.read1(4) == b"0123"
        assert await file.read1() == b"456789012345"
        buffer = bytearray(20)
        assert await file.readinto(buffer) == 20
        assert buffer == b"67890123456789012345"
        assert await file.readinto1(memoryview(buffer)[:3]) == 3
        with pytest.raises(TypeError, match="read-write"):
            await file.readinto(b"no")
        await file.write(b"x")
        assert await file.pread(1, await file.tell() - 1) == b"x"  # written before
        await file.write(b"y")
        assert await file.pwrite(b"0", 0) == 1
        part = bytearray(2)
        assert await file.preadv([part], await file.tell() - 2) == 2
        assert part == b"xy"
        assert await file.pwritev([b"a", b"b"], 1) == 2
        assert await file.pread_into(part, 1) == 2
        assert part == b"ab"
        with pytest.raises(TypeError, match="bytes-like object is required, not 'str'"):
            await file.write("text")  # type: ignore[arg-type]
        await file.allocate(0, 20_000)
        assert (await file.stat()).st_size == 20_000
        await file.fsync()
        await file.fdatasync()


async def test_text_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"ok\xff")
    async with fs.open(path, encoding="utf-8") as file:
        with pytest.raises(UnicodeDecodeError):
            await file.read()
    async with fs.open(path, encoding="utf-8", errors="surrogateescape") as file:
        assert await file.read() == "ok\udcff"
        assert (file.encoding, file.errors) == ("utf-8", "surrogateescape")
    async with fs.open(path, "w", encoding="ascii") as file:
        with pytest.raises(UnicodeEncodeError):
            await file.write("é")
        with pytest.raises(TypeError, match="must be str, not bytes"):
            await file.write(b"bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b""


async def test_line_buffering(tmp_path: Path) -> None:
    async with fs.open(tmp_path / "file", "w", 1) as file:
        assert file.line_buffering
        await file.write("half")
        assert (tmp_path / "file").read_text() == ""
        await file.write(" a line\nand")
        assert (tmp_path / "file").read_text() == "half a line\nand"


async def test_tasks_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "file"
    async with fs.open(path, "w", 64) as file:
        await asyncio.gather(*(file.write(f"{number:05}\n") for number in range(2000)))
    assert sorted(path.read_text().split()) == [f"{number:05}" for number in range(2000)]
    async with fs.open(path, "r") as file:
        lines = await asyncio.gather(*(file.readline() for _ in range(2000)))
    assert "".join(lines) == path.read_text()
    async with fs.open(path, "rb", 64) as binary:
        parts = await asyncio.gather(*(binary.read(6) for _ in range(2000)))
    assert b"".join(parts) == path.read_bytes()


async def test_a_cancelled_reader_loses_nothing() -> None:
    source, sink = os.pipe()
    async with fs.open(source, "rb") as file:
        for turn in range(40):
            reading = asyncio.create_task(file.read(6) if turn % 2 else file.readline())
            for _ in range(turn % 3):
                await asyncio.sleep(0)
            os.write(sink, b"abc")
            for _ in range(turn % 5):
                await asyncio.sleep(0)
            reading.cancel()
            got = b""
            with contextlib.suppress(asyncio.CancelledError):
                got = await reading
            os.write(sink, b"de\n")
            got += await file.read(6 - len(got))
            assert got == b"abcde\n", turn
        os.close(sink)
