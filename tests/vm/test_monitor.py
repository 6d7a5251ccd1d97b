# SPDX-License-Identifier: MIT
"""``pvm top``, and the sockets that it reads."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import sys
import threading
from pathlib import Path

import pytest
from guests import BASIC, build
from processes import Census, until

import vm
from vm import _monitor
from vm.cli import main


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "aioring-vm"


def linker() -> vm.Linker:
    made = vm.Linker()
    made.define("ask", lambda caller, value: value)
    return made


async def test_an_engine_tells_of_itself(nothing_left: Census, runtime: Path) -> None:
    async with vm.Engine(vm.Config(monitor=True, spin=0)) as engine:
        module = await engine.compile(build(BASIC, imports=["ask"]))
        async with await linker().instantiate(module) as instance:
            spinning = asyncio.create_task(instance.call("spin"))
            await until(lambda: engine.statistics().running == 1)
            [report] = await asyncio.to_thread(lambda: list(_monitor.reports()))
            assert report.process == os.getpid()
            assert report.home == "linux"
            assert report.statistics.alive == 1
            assert report.statistics.spawn_time.count >= 1
            [guest] = report.guests
            assert guest.process == instance.pid
            assert guest.state == "running"
            assert guest.cpu > 0
            spinning.cancel()
            with pytest.raises(asyncio.CancelledError):
                await spinning
            [report] = await asyncio.to_thread(lambda: list(_monitor.reports()))
            assert report.guests[0].state == "stopped"
    assert list(runtime.iterdir()) == []


async def test_two_engines_in_one_process(runtime: Path) -> None:
    config = vm.Config(backend="interpreter", monitor=True)
    async with vm.Engine(config), vm.Engine(config):
        found = await asyncio.to_thread(lambda: list(_monitor.reports()))
        assert [report.home for report in found] == ["interpreter"] * 2


async def test_only_its_user_can_reach_it(runtime: Path) -> None:
    async with vm.Engine(vm.Config(backend="interpreter", monitor=True)):
        assert stat.S_IMODE(runtime.stat().st_mode) == 0o700


async def test_nobody_listens_without_being_asked_to(runtime: Path) -> None:
    async with vm.Engine(vm.Config(backend="interpreter")):
        assert not runtime.exists()


@pytest.mark.parametrize("what", ["mode", "link", "file"])
async def test_a_directory_that_others_could_enter(nothing_left: Census, runtime: Path, what: str) -> None:
    if what == "mode":
        runtime.mkdir(mode=0o755)
    elif what == "link":
        runtime.symlink_to(runtime.parent)
    else:
        runtime.touch()
    with pytest.raises(OSError, match="only user"):
        await vm.Engine(vm.Config(monitor=True)).__aenter__()


async def test_a_reader_that_reads_nothing_holds_nobody_up(runtime: Path) -> None:
    async with vm.Engine(vm.Config(backend="interpreter", monitor=True)):
        [path] = runtime.iterdir()
        with socket.socket(socket.AF_UNIX) as stuck:
            stuck.connect(str(path))
            assert len(await asyncio.to_thread(lambda: list(_monitor.reports()))) == 1


def test_what_is_left_of_the_dead_is_removed(runtime: Path) -> None:
    runtime.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(runtime / "1.1"))
    assert list(_monitor.reports()) == []
    assert list(runtime.iterdir()) == []


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"statistics": 5}',
        b'{"statistics": {}, "guests": 5}',
        b'{"statistics": {"alive": "many"}}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_an_answer_that_is_no_report(runtime: Path, answer: bytes) -> None:
    runtime.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(runtime / "1.1"))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert list(_monitor.reports()) == []
        thread.join()


def test_an_answer_without_end(runtime: Path) -> None:
    runtime.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(runtime / "1.1"))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection, pytest.raises(OSError, match=r"Broken pipe|reset"):
                while True:
                    connection.sendall(bytes(1 << 16))

        thread = threading.Thread(target=serve)
        thread.start()
        assert list(_monitor.reports()) == []
        thread.join()


# --- the command ---


async def test_top_shows_engines_and_guests(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with vm.Engine(vm.Config(monitor=True)) as engine:
        module = await engine.compile(build(BASIC, imports=["ask"]))
        async with await linker().instantiate(module) as instance:
            command = asyncio.create_task(asyncio.to_thread(main, ["top", "--once", "--interval", "0.1"]))
            while not command.done():
                await instance.call("add", 1, 2)
            assert command.result() == 0
            text = capsys.readouterr().out
            assert str(os.getpid()) in text
            assert str(instance.pid) in text
            assert "running" in text
            assert await asyncio.to_thread(main, ["top", "--json"]) == 0
            [report] = json.loads(capsys.readouterr().out)
            assert report["statistics"]["alive"] == 1


def test_top_without_engines(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--once"]) == 0
    assert "No engine with a monitor" in capsys.readouterr().out
    assert main(["top", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize("interval", ["0", "-1", "x", "nan", "inf", "61"])
def test_an_interval_out_of_range(interval: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", f"--interval={interval}"]) == 2
    assert "--interval" in capsys.readouterr().err


def test_top_where_it_cannot_look(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runtime.mkdir(mode=0o755)
    runtime.chmod(0o755)
    assert main(["top", "--once"]) != 0
    assert "only user" in capsys.readouterr().err


async def test_the_live_view_on_a_terminal(runtime: Path) -> None:
    """Ctrl-C ends it, and the terminal is as it was."""
    terminal, of_child = os.openpty()
    try:
        async with vm.Engine(vm.Config(backend="interpreter", monitor=True)):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "vm.cli", "top", "--interval", "0.1", stdin=of_child, stdout=of_child,
                env={**os.environ, "TERM": "xterm", "COLUMNS": "150", "LINES": "40"},
            )  # fmt: skip
            os.set_blocking(terminal, False)
            shown = b""

            def has(what: bytes, times: int = 1) -> bool:
                nonlocal shown
                with contextlib.suppress(BlockingIOError):
                    shown += os.read(terminal, 1 << 16)  # a page at most
                return shown.count(what) >= times

            await until(lambda: has(b"interpreter", 2))
            process.send_signal(2)
            assert await process.wait() == 0
            await until(lambda: has(b"\x1b[?1049l"))  # the other screen is left
    finally:
        os.close(terminal)
        os.close(of_child)
