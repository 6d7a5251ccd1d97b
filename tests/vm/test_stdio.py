# SPDX-License-Identifier: MIT
"""vm.Stdio: what is granted works, what is not is an error, and nothing a guest passes gets it further.

The guest passes its host calls on as it was called, so that the test says what a hostile program would.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from guests import build

import vm

NAMES = sorted(vm.Stdio().names)
#: Every export is a host call with the export's own arguments.
GUEST = build(
    "%rw_data_size = 32768\n%ro_data_size = 4096\n%stack_size = 4096\n"
    + "".join(f"pub @{name}:\n    ecalli {index}\n    ret\n" for index, name in enumerate(NAMES)),
    imports=NAMES,
)
PATH, OTHER, DATA, RO = 0x30000, 0x31000, 0x32000, 0x10000
READ, WRITE, CREATE, EXCLUSIVE, TRUNCATE, APPEND = 1, 2, 4, 8, 16, 32


class Guest:
    """An instance, with its imports as methods."""

    def __init__(self, instance: vm.Instance) -> None:
        self.instance = instance
        self.memory = instance.memory

    async def __call__(self, name: str, *args: int, returns: Any = vm.i32) -> int:
        return await self.instance.call(f"pvm_{name}", *args, returns=returns)

    async def path(self, name: str, path: str | bytes, *args: int) -> int:
        data = os.fsencode(path)
        self.memory.write(PATH, data)
        return await self(name, PATH, len(data), *args)

    async def write(self, fd: int, data: bytes) -> int:
        self.memory.write(DATA, data)
        return await self("write", fd, DATA, len(data))

    async def read(self, fd: int, size: int) -> bytes | int:
        count = await self("read", fd, DATA, size)
        return self.memory.read(DATA, count) if count >= 0 else count

    async def rename(self, old: str, new: str) -> int:
        self.memory.write(OTHER, new.encode())
        return await self.path("rename", old, OTHER, len(new))

    async def stat(self, path: str) -> tuple[int, ...] | int:
        result = await self.path("stat", path, DATA)
        return struct.unpack("<QqII", self.memory.read(DATA, 24)) if result == 0 else result


Start = Callable[..., Any]


@pytest.fixture
async def start(engine: vm.Engine) -> Start:
    module = await engine.compile(GUEST)

    @asynccontextmanager
    async def start(**granted: Any) -> AsyncIterator[Guest]:
        linker = vm.Linker()
        vm.Stdio(**granted).link(linker)
        async with await linker.instantiate(module) as instance:
            yield Guest(instance)

    return start


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory to grant, with a secret beside it and ways that seem to lead there."""
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "data"
    (folder / "inner").mkdir(parents=True)
    (folder / "file").write_text("0123456789")
    (folder / "inner" / "file").write_text("inner")
    (folder / "link").symlink_to("../secret")
    (folder / "within").symlink_to("file")
    (folder / "up").symlink_to("..")
    (folder / "top").symlink_to("/")
    os.mkfifo(folder / "pipe")
    return folder


def descriptors(tree: Path) -> int:
    """How many files of the tree are open."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the directory's own
            found += os.readlink(f"/proc/self/fd/{fd}").startswith(str(tree))
    return found


# --- nothing granted ---


async def test_without_grants_every_function_is_an_error_the_guest_sees(start: Start) -> None:
    async with start() as guest:
        for fd in (0, 1, 2, 3, -1, 1 << 30):
            assert await guest("write", fd, DATA, 1) == -errno.EBADF
            assert await guest("read", fd, DATA, 1) == -errno.EBADF
            assert await guest("close", fd) == -errno.EBADF
            assert await guest("seek", fd, 0, 0, returns=vm.i64) == -errno.EBADF
            assert await guest("fstat", fd, DATA) == -errno.EBADF
        for path in ("etc/passwd", "/etc/passwd", "../etc/passwd", ".", "/.", "..", "data/x"):
            assert await guest.path("open", path, READ) == -errno.ENOENT
            assert await guest.path("remove", path) == -errno.ENOENT
            assert await guest.path("mkdir", path) == -errno.ENOENT
            assert await guest.rename(path, path) == -errno.ENOENT
        assert await guest("clock_ns", 0, returns=vm.i64) == -errno.EPERM
        assert await guest("random", DATA, 8) == -errno.EPERM
        assert await guest("args", DATA, 100) == 0
        assert await guest("env", DATA, 100) == 0


async def test_a_linker_without_it_names_what_is_missing(engine: vm.Engine) -> None:
    module = await engine.compile(GUEST)
    with pytest.raises(vm.LinkError) as caught:
        await vm.Linker().instantiate(module)
    assert caught.value.missing == tuple(NAMES)


def test_linking_twice_is_refused() -> None:
    linker = vm.Linker()
    vm.Stdio().link(linker)
    with pytest.raises(ValueError, match="defined already"):
        vm.Stdio().link(linker)


@pytest.mark.parametrize(
    ("granted", "message"),
    [
        ({"stdout": 3}, "stdout must be a function"),
        ({"stderr": "x"}, "stderr must be a function"),
        ({"stdin": "text"}, "stdin must be bytes"),
        ({"args": "one"}, "a sequence"),
        ({"args": ["a\0b"]}, "NUL"),
        ({"env": {"A": "a\0b"}}, "NUL"),
        ({"directories": {"a/b": ("/", "r")}}, "cannot be the name"),
        ({"directories": {"..": ("/", "r")}}, "cannot be the name"),
        ({"directories": {"": ("/", "r")}}, "cannot be the name"),
        ({"directories": {"a": ("/", "w")}}, "'r' or 'rw'"),
    ],
)
def test_what_is_no_grant_is_refused(granted: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        vm.Stdio(**granted)


# --- streams ---


def sinks() -> dict[str, tuple[Any, Callable[[], bytes]]]:
    pieces: list[bytes] = []
    later: list[bytes] = []
    array = bytearray()
    buffer = io.BytesIO()

    async def put(data: bytes) -> None:
        await asyncio.sleep(0)
        later.append(data)

    return {
        "function": (pieces.append, lambda: b"".join(pieces)),
        "coroutine": (put, lambda: b"".join(later)),
        "bytearray": (array, lambda: bytes(array)),
        "BytesIO": (buffer, buffer.getvalue),
    }


@pytest.mark.parametrize("kind", sinks())
async def test_output_reaches_what_was_granted(start: Start, kind: str) -> None:
    sink, written = sinks()[kind]
    async with start(stdout=sink) as guest:
        assert await guest.write(1, b"hello ") == 6
        assert await guest.write(1, b"") == 0
        assert await guest.write(1, b"you") == 3
        assert await guest.write(2, b"lost") == -errno.EBADF
    assert written() == b"hello you"


async def test_a_stream_is_written_in_a_thread(start: Start, tmp_path: Path) -> None:
    threads: list[threading.Thread] = []

    class Raw(io.RawIOBase):
        def write(self, data: Any) -> int:
            threads.append(threading.current_thread())
            return 2

    with (tmp_path / "log").open("wb") as log:
        async with start(stdout=Raw(), stderr=log) as guest:
            assert await guest.write(1, b"hello") == 2  # a raw stream takes what it can
            assert await guest.write(2, b"to a file") == 9
        assert (tmp_path / "log").read_bytes() == b"to a file"
    assert threading.main_thread() not in threads


async def test_what_a_sink_raises_is_an_error_number_or_reaches_the_caller(start: Start) -> None:
    def full(data: bytes) -> None:
        raise OSError(errno.ENOSPC, "full")

    def broken(data: bytes) -> None:
        raise RuntimeError("broken")

    async with start(stdout=full, stderr=broken) as guest:
        assert await guest.write(1, b"x") == -errno.ENOSPC
        with pytest.raises(RuntimeError, match="broken"):
            await guest.write(2, b"x")
        assert await guest.write(1, b"x") == -errno.ENOSPC  # and goes on


@pytest.mark.parametrize("kind", ["bytes", "function", "coroutine", "stream"])
async def test_input_comes_in_pieces_and_ends(start: Start, kind: str, tmp_path: Path) -> None:
    text = io.BytesIO(b"some input")

    async def later(size: int) -> bytes:
        return text.read(size)

    (tmp_path / "input").write_bytes(b"some input")
    with (tmp_path / "input").open("rb") as stream:
        source = {"bytes": b"some input", "function": text.read, "coroutine": later, "stream": stream}[kind]
        async with start(stdin=source) as guest:
            assert await guest.read(0, 4) == b"some"
            assert await guest.read(0, 0) == b""
            assert await guest.read(0, 100) == b" input"
            assert await guest.read(0, 100) == b""
            assert await guest("seek", 0, 0, 0, returns=vm.i64) == -errno.ESPIPE
            assert await guest("fstat", 0, DATA) == 0
            assert struct.unpack("<QqII", guest.memory.read(DATA, 24)) == (0, 0, 3, 0)


async def test_input_that_breaks_its_word_is_the_hosts_error(start: Start) -> None:
    async with start(stdin=lambda size: b"x" * (size + 1)) as guest:
        with pytest.raises(ValueError, match="at most 5"):
            await guest.read(0, 5)
    async with start(stdin=lambda size: "text") as guest:
        with pytest.raises(TypeError, match="not bytes"):
            await guest.read(0, 5)


async def test_arguments_environment_clock_and_random(start: Start) -> None:
    async with start(args=["prog", b"\xff", ""], env={"A": "1", "B": "two"}, clock=True, random=True) as guest:
        expected = b"prog\0\xff\0\0"
        assert await guest("args", 0, 0) == len(expected)
        assert await guest("args", DATA, len(expected) - 1) == len(expected)
        assert guest.memory.read(DATA, 4) == bytes(4)
        assert await guest("args", DATA, 1 << 31) == len(expected)
        assert guest.memory.read(DATA, len(expected)) == expected
        assert await guest("env", DATA, 100) == 10
        assert guest.memory.read(DATA, 10) == b"A=1\0B=two\0"
        assert await guest("clock_ns", 0, returns=vm.i64) > 1_600_000_000_000_000_000
        first = await guest("clock_ns", 1, returns=vm.i64)
        assert 0 <= first <= await guest("clock_ns", 1, returns=vm.i64) < 20_000_000_000
        assert await guest("clock_ns", 2, returns=vm.i64) == -errno.EINVAL
        assert await guest("random", DATA, 16) == 16
        assert guest.memory.read(DATA, 16) != bytes(16)
        assert await guest("random", DATA, 0) == 0


# --- files ---


async def test_files_are_read_written_and_closed(start: Start, tree: Path) -> None:
    async with start(directories={"data": (tree, "rw")}) as guest:
        fd = await guest.path("open", "data/new", READ | WRITE | CREATE)
        assert fd == 3
        assert await guest.write(fd, b"hello world") == 11
        assert await guest("seek", fd, 6, 0, returns=vm.i64) == 6
        assert await guest.read(fd, 100) == b"world"
        assert await guest("seek", fd, -5, 1, returns=vm.i64) == 6
        assert await guest("seek", fd, 0, 2, returns=vm.i64) == 11
        assert await guest("seek", fd, -1, 0, returns=vm.i64) == -errno.EINVAL
        assert await guest("seek", fd, 0, 3, returns=vm.i64) == -errno.EINVAL
        other = await guest.path("open", "/data/inner/../file", READ)
        assert other == 4
        assert await guest.write(other, b"x") == -errno.EBADF  # it is open for reading
        assert await guest("close", fd) == 0
        assert await guest("close", fd) == -errno.EBADF
        assert await guest.path("open", "data/./inner//file", READ) == 3  # the lowest that is free
        appended = await guest.path("open", "data/new", WRITE | APPEND)
        assert await guest.write(appended, b"!") == 1
        assert (tree / "new").read_text() == "hello world!"
        assert await guest.path("open", "data/new", WRITE | TRUNCATE) == 6
        assert (tree / "new").read_text() == ""
        assert await guest.path("open", "data/new", WRITE | CREATE | EXCLUSIVE) == -errno.EEXIST


async def test_directories_and_status(start: Start, tree: Path) -> None:
    async with start(directories={"data": (tree, "rw")}) as guest:
        status = await guest.stat("data/file")
        assert isinstance(status, tuple)
        assert status == (10, (tree / "file").stat().st_mtime_ns, 1, 0)
        for folder in ("data", "data/", "/data/inner", "data/inner/", "data/inner/..", "/"):
            status = await guest.stat(folder)
            assert isinstance(status, tuple), folder
            assert status[2] == 2
        link = await guest.stat("data/link")
        assert isinstance(link, tuple)
        assert link[2] == 4  # the link itself
        assert await guest.stat("") == -errno.ENOENT
        assert await guest.stat("data/file/") == -errno.ENOTDIR
        assert await guest.path("mkdir", "data/made") == 0
        assert await guest.path("mkdir", "data/made") == -errno.EEXIST
        assert await guest.rename("data/file", "data/made/moved") == 0
        assert (tree / "made" / "moved").read_text() == "0123456789"
        assert await guest.path("remove", "data/made") == -errno.ENOTEMPTY
        assert await guest.path("remove", "data/made/moved") == 0
        assert await guest.path("remove", "data/made") == 0
        assert await guest.path("remove", "data") == -errno.EBUSY
        assert await guest.rename("data", "data/inner/x") == -errno.EBUSY
        assert await guest.path("open", "data/inner", READ) == -errno.EISDIR
        assert tree.is_dir()


ESCAPES = [
    "data/..",
    "data/../secret",
    "data/inner/../../secret",
    "data/../../../../../../etc/passwd",
    "data/link",
    "data/link/",
    "data/up/secret",
    "data/up/data/file",
    "data/top/etc/passwd",
    "data/within",
    "/etc/passwd",
    "etc/passwd",
    "../secret",
    "./../secret",
    "secret",
    "data/pipe",
    "data\\..\\secret",
    "data/\0/../../secret",
]


@pytest.mark.parametrize("mode", ["r", "rw"])
async def test_no_path_leads_out(start: Start, tree: Path, mode: str) -> None:
    before = sorted(path.name for path in tree.parent.rglob("*"))
    async with start(directories={"data": (tree, mode)}) as guest:
        for path in [*ESCAPES, str(tree.parent / "secret"), f"data/{tree.parent}/secret"]:
            for flags in (READ, READ | WRITE, WRITE | CREATE, WRITE | TRUNCATE, WRITE | CREATE | EXCLUSIVE):
                if path == "data\\..\\secret" and flags & CREATE and mode == "rw":
                    continue  # a name as any other
                assert await guest.path("open", path, flags) < 0, path
        for path in ("data/../secret", "data/up/secret", "data/..", "data/top/x"):
            assert await guest.path("remove", path) < 0
            assert await guest.path("mkdir", path) < 0
            assert await guest.rename("data/file", path) < 0
            assert await guest.rename(path, "data/stolen") < 0
            assert isinstance(await guest.stat(path), int)
    assert (tree.parent / "secret").read_text() == "secret"
    assert sorted(path.name for path in tree.parent.rglob("*")) == before


async def test_a_link_that_replaces_a_directory_meanwhile_is_not_followed(start: Start, tree: Path) -> None:
    async with start(directories={"data": (tree, "rw")}) as guest:
        assert await guest.path("open", "data/inner/file", READ) == 3
        (tree / "inner").rename(tree / "was")
        (tree / "inner").symlink_to(tree.parent)
        assert await guest.path("open", "data/inner/secret", READ) == -errno.ENOTDIR
        assert await guest.path("open", "data/inner/new", WRITE | CREATE) == -errno.ENOTDIR


async def test_what_is_granted_may_itself_be_a_link(start: Start, tree: Path) -> None:
    (tree.parent / "alias").symlink_to(tree)
    async with start(directories={"data": (tree.parent / "alias", "r")}) as guest:
        assert await guest.path("open", "data/file", READ) == 3


async def test_read_only_is_read_only(start: Start, tree: Path) -> None:
    async with start(directories={"data": (tree, "r"), "other": (tree / "inner", "rw")}) as guest:
        for flags in (WRITE, READ | WRITE, READ | CREATE, READ | TRUNCATE, READ | APPEND, WRITE | CREATE | EXCLUSIVE):
            assert await guest.path("open", "data/file", flags) == -errno.EROFS
        assert await guest.path("remove", "data/file") == -errno.EROFS
        assert await guest.path("mkdir", "data/x") == -errno.EROFS
        assert await guest.rename("data/file", "other/file") == -errno.EROFS
        assert await guest.rename("other/file", "data/file") == -errno.EROFS
        assert await guest.path("open", "data/file", READ) == 3
    assert (tree / "file").read_text() == "0123456789"


async def test_flags_that_mean_nothing(start: Start, tree: Path) -> None:
    async with start(directories={"data": (tree, "rw")}) as guest:
        for flags in (0, CREATE, READ | EXCLUSIVE, READ | 64, READ | 1 << 31):
            assert await guest.path("open", "data/file", flags) == -errno.EINVAL


async def test_bad_pointers_and_huge_sizes_are_errors(start: Start, tree: Path) -> None:
    out = bytearray()
    granted = {"stdout": out, "stdin": b"x" * (1 << 22), "args": ["a"], "random": True, "env": {"A": "b"}}
    async with start(directories={"data": (tree, "rw")}, **granted) as guest:
        assert await guest.path("open", "data/file", READ) == 3
        for address in (0, 0xFFFF_FFFF, 0x2FFFF, 0xFFFF_0000, 1 << 40):
            for name in ("write", "read"):
                for size in (1, 4096, 1 << 20, 0xFFFF_FFFF):
                    assert await guest(name, 1 if name == "write" else 0, address, size) == -errno.EFAULT
            assert await guest("read", 3, address, 5) == -errno.EFAULT
            assert await guest("open", address, 5, READ) == -errno.EFAULT
            assert await guest("stat", address, 5, DATA) == -errno.EFAULT
            assert await guest.path("stat", "data/file", address) == -errno.EFAULT
            assert await guest("fstat", 3, address) == -errno.EFAULT
            assert await guest("args", address, 100) == -errno.EFAULT
            assert await guest("env", address, 100) == -errno.EFAULT
            assert await guest("random", address, 100) == -errno.EFAULT
            assert await guest.path("rename", "data/file", address, 4) == -errno.EFAULT
        for name in ("open", "stat", "remove", "mkdir"):
            for size in (4096, 1 << 31, 0xFFFF_FFFF):
                assert await guest(name, PATH, size, DATA) == -errno.ENAMETOOLONG
        assert await guest.path("open", "data/" + "x/" * 2000, READ) == -errno.ENAMETOOLONG
        assert await guest.path("open", "data/" + "x" * 300, READ) == -errno.ENAMETOOLONG
        assert await guest("read", 0, RO, 4) == -errno.EFAULT  # read-only memory
        assert await guest("write", 1, RO, 4) == 4
        # what failed took nothing from the input or the file
        assert await guest.read(3, 10) == b"0123456789"
        assert await guest("read", 0, DATA, 4096) == 4096
    assert out == bytes(4)


async def test_one_call_moves_a_bounded_amount(engine: vm.Engine) -> None:
    size = 3 << 20
    module = await engine.compile(
        build(
            f"%rw_data_size = {size}\npub @write:\n    ecalli 0\n    ret\npub @random:\n    ecalli 1\n    ret\n",
            imports=["pvm_write", "pvm_random"],
        )
    )
    out = bytearray()
    linker = vm.Linker()
    vm.Stdio(stdout=out, random=True).link(linker)
    async with await linker.instantiate(module) as instance:
        assert await instance.call("write", 1, 0x20000, size, returns=vm.i32) == 1 << 20
        assert await instance.call("random", 0x20000, size, returns=vm.i32) == 1 << 16
    assert len(out) == 1 << 20


async def test_a_guest_has_a_bounded_number_of_files_and_they_close_with_it(start: Start, tree: Path) -> None:
    async with start(directories={"data": (tree, "r")}) as guest:
        await guest.path("open", "data/file", READ)
        before = descriptors(tree)
        results = [await guest.path("open", "data/file", READ) for _ in range(100)]
        assert results[-1] == -errno.EMFILE
        opened = [fd for fd in results if fd >= 0]
        assert len(opened) == 63
        assert descriptors(tree) == before + 63
        assert await guest("close", 10) == 0
        assert await guest.path("open", "data/file", READ) == 10
    assert descriptors(tree) == 0


async def test_instances_share_no_descriptors(start: Start, engine: vm.Engine, tree: Path) -> None:
    linker = vm.Linker()
    vm.Stdio(directories={"data": (tree, "r")}).link(linker)
    module = await engine.compile(GUEST)
    async with await linker.instantiate(module) as one, await linker.instantiate(module) as two:
        first, second = Guest(one), Guest(two)
        assert await first.path("open", "data/file", READ) == 3
        assert await second.read(3, 4) == -errno.EBADF
        assert await second.path("open", "data/inner/file", READ) == 3
        assert await first.read(3, 4) == b"0123"
        assert await second.read(3, 4) == b"inne"


async def test_a_new_instance_does_not_inherit_files(start: Start, engine: vm.Engine, tree: Path) -> None:
    linker = vm.Linker()
    vm.Stdio(directories={"data": (tree, "r")}).link(linker)
    module = await engine.compile(GUEST)
    for _ in range(3):  # in the same worker
        async with await linker.instantiate(module) as instance:
            guest = Guest(instance)
            assert await guest("close", 3) == -errno.EBADF
            assert await guest.path("open", "data/file", READ) == 3


async def test_a_cancelled_write_leaves_the_guest_usable(start: Start, tree: Path) -> None:
    """The thread cannot be stopped, and is not waited for."""
    entered, leave = threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    class Slow(io.RawIOBase):
        def write(self, data: Any) -> int:
            entered.set()
            leave.wait(10)
            return len(data)

    async with start(stdout=Slow(), directories={"data": (tree, "r")}) as guest:
        assert await guest.path("open", "data/file", READ) == 3
        call = asyncio.ensure_future(guest.write(1, b"x"))
        await loop.run_in_executor(None, entered.wait, 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await guest.read(3, 4) == b"0123"  # it can be called again
    leave.set()


async def test_a_closed_file_outlives_its_users_only() -> None:
    from vm._directories import OpenFile

    reading, writing = os.pipe()
    file = OpenFile(reading)
    reader = asyncio.ensure_future(asyncio.to_thread(file.read, 5))
    while not file._users:
        await asyncio.sleep(0)
    file.close()
    assert os.fstat(reading)  # still there
    os.write(writing, b"late")
    assert await reader == b"late"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.read(1)
    file.close()
    os.close(writing)


async def test_file_work_leaves_the_loop_alone(start: Start, tree: Path) -> None:
    """A slow stream does not hold the loop up."""
    leave = threading.Event()

    class Slow(io.RawIOBase):
        def write(self, data: Any) -> int:
            leave.wait(10)
            return len(data)

    async with start(stdout=Slow()) as guest:
        call: Awaitable[int] = asyncio.ensure_future(guest.write(1, b"x"))
        for _ in range(5):
            await asyncio.sleep(0)
        leave.set()
        assert await call == 1
