# SPDX-License-Identifier: MIT
"""Child processes: how their end is seen, and what is left when it is not. CPython's test_subprocess has the rest."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import until, wait_for_death, watch

import aioring


def children() -> str:
    return Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text()


async def test_exit_codes_and_signals() -> None:
    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", "exit 7")
    assert await process.wait() == 7
    assert await process.wait() == 7
    process = await asyncio.create_subprocess_exec("/bin/sleep", "1000")
    process.kill()
    assert await process.wait() == -signal.SIGKILL


async def test_a_child_with_pipes() -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("/bin/cat", stdin=pipe, stdout=pipe)
    sent = bytes(range(256)) * 1024
    received, _ = await process.communicate(sent)
    assert received == sent
    assert process.returncode == 0


def test_no_thread_and_no_descriptor_per_child(count_fds: Callable[[], int]) -> None:
    async def main() -> None:
        await (await asyncio.create_subprocess_exec("/bin/true")).wait()
        before, threads = count_fds(), threading.active_count()
        running = [await asyncio.create_subprocess_exec("/bin/cat", stdin=asyncio.subprocess.PIPE) for _ in range(10)]
        assert threading.active_count() == threads
        await asyncio.gather(*(process.communicate(b"") for process in running))
        assert count_fds() == before

    aioring.run(main())
    assert children() == ""


def test_a_program_that_is_not_there(count_fds: Callable[[], int]) -> None:
    async def main() -> None:
        before = count_fds()
        with pytest.raises(FileNotFoundError, match="/no/such"):
            await asyncio.create_subprocess_exec("/no/such", stdout=asyncio.subprocess.PIPE)
        assert count_fds() == before

    aioring.run(main())


def test_no_descriptor_left_for_the_pidfd(monkeypatch: pytest.MonkeyPatch, count_fds: Callable[[], int]) -> None:
    """The child that was started is killed and reaped. Popen takes more descriptors, and gives them back: only another
    thread can be the reason."""

    def fail(pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def main() -> None:
        before = count_fds()
        monkeypatch.setattr(os, "pidfd_open", fail)
        with pytest.raises(OSError, match="Too many open files"):
            await asyncio.create_subprocess_exec("/bin/sleep", "1000", stdout=asyncio.subprocess.PIPE)
        monkeypatch.undo()
        await until(lambda: count_fds() == before)  # the pipe's transport is closed by the loop

    aioring.run(main())
    assert children() == ""


@pytest.mark.filterwarnings("ignore:subprocess:ResourceWarning", "ignore:unclosed:ResourceWarning")
def test_a_loop_closed_before_the_child_ends(count_fds: Callable[[], int]) -> None:
    before = count_fds()
    loop = aioring.new_event_loop()
    process = loop.run_until_complete(asyncio.create_subprocess_exec("/bin/sleep", "1000"))
    pid = process.pid
    with watch(pid) as pidfds:
        loop.close()
        del loop, process
        gc.collect()
        wait_for_death(*pidfds.values())  # asyncio's transport kills it
    assert count_fds() == before
    with contextlib.suppress(ChildProcessError):  # the subprocess module reaps it, if it was dead soon enough
        os.waitpid(pid, 0)


def test_an_exit_status_that_somebody_else_read(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> int:
        process = await asyncio.create_subprocess_exec("/bin/sleep", "1000")
        process.kill()
        os.waitpid(process.pid, 0)
        return await process.wait()

    with caplog.at_level(logging.WARNING, "asyncio"):
        assert aioring.run(main()) == 255
    assert "read by others" in caplog.text


def test_a_cancelled_start_leaves_no_child() -> None:
    async def main() -> None:
        starting = asyncio.create_subprocess_exec("/bin/sleep", "1000", stdout=asyncio.subprocess.PIPE)
        task = asyncio.ensure_future(starting)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    aioring.run(main())
    assert children() == ""


def test_in_a_thread_beside_the_main_one() -> None:
    codes: list[int] = []

    async def main() -> None:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "raise SystemExit(3)")
        codes.append(await process.wait())

    thread = threading.Thread(target=aioring.run, args=(main(),))
    thread.start()
    thread.join()
    assert codes == [3]
