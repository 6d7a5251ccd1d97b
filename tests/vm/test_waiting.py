# SPDX-License-Identifier: MIT
"""Waiting for guests in threads: the waiter alone, engines that use it, and machines that refuse io_uring."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import gc
import logging
import mmap
import os
import random
import select
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from forbid import forbidden
from guests import basic
from processes import Census, thread_names, until, wake_futex

import aioring
import vm
from vm._waiter import ThreadWaiter, _log_once, open_waiter

ROOT = Path(__file__).parents[2]


class Words:
    """Futex words in a file that is mapped twice: here they are changed, there they are waited on."""

    def __init__(self, count: int) -> None:
        fd = os.memfd_create("words")
        os.ftruncate(fd, 4 * count)
        self.maps = [mmap.mmap(fd, 4 * count) for _ in range(2)]
        os.close(fd)
        self.values = [(ctypes.c_uint32 * count).from_buffer(each) for each in self.maps]
        self.count = count

    def address(self, number: int) -> int:
        return ctypes.addressof(self.values[0]) + 4 * number

    def wake(self, number: int) -> None:
        wake_futex(ctypes.addressof(self.values[1]) + 4 * number)

    def change(self, number: int) -> None:
        self.values[1][number] += 1
        self.wake(number)

    def close(self) -> None:
        self.values.clear()
        gc.collect()
        for each in self.maps:
            each.close()


@pytest.fixture
def words(nothing_left: Census) -> Iterator[Words]:
    made = Words(1000)
    yield made
    made.close()


@pytest.fixture
async def waiter(words: Words) -> AsyncIterator[ThreadWaiter]:
    made = ThreadWaiter(asyncio.get_running_loop())
    yield made
    made.close()
    assert "vm-waits" not in thread_names()


def start(waiter: ThreadWaiter, words: Words, number: int) -> asyncio.Task[None]:
    return asyncio.create_task(waiter.futex_wait(words.address(number), words.values[0][number]))


# --- the waiter -------------------------------------------------------------------------------------------------------


async def test_a_change_ends_the_wait(waiter: ThreadWaiter, words: Words) -> None:
    task = start(waiter, words, 3)
    await asyncio.sleep(0)
    words.change(3)
    await task


async def test_a_change_before_the_wait_is_seen(waiter: ThreadWaiter, words: Words) -> None:
    words.change(0)
    await waiter.futex_wait(words.address(0), 0)


async def test_a_wake_without_a_change_is_nothing(waiter: ThreadWaiter, words: Words) -> None:
    task, other = start(waiter, words, 0), start(waiter, words, 1)
    for _ in range(100):
        words.wake(0)
        await asyncio.sleep(0)
    words.change(1)
    await other
    assert not task.done()
    words.change(0)
    await task


async def test_a_wait_can_be_cancelled_and_its_memory_unmapped(waiter: ThreadWaiter, words: Words) -> None:
    for _ in range(50):
        own = Words(1)
        tasks = [start(waiter, own, 0), start(waiter, words, 0)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        own.close()
        words.change(0)  # has the thread look again, and not at what is gone
        await tasks[1]


async def test_a_change_and_a_cancellation_at_once(waiter: ThreadWaiter, words: Words) -> None:
    for _ in range(100):
        cancelled, other = start(waiter, words, 0), start(waiter, words, 1)
        await asyncio.sleep(0)
        words.change(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        words.change(1)
        await other


async def test_no_change_of_a_thousand_words_is_lost(waiter: ThreadWaiter, words: Words) -> None:
    """Another thread changes them in any order, again as soon as they are waited for."""
    rounds, rng = 5, random.Random(1)

    async def follow(number: int) -> None:
        for value in range(rounds):
            await waiter.futex_wait(words.address(number), value)
            assert words.values[0][number] > value

    changes = [number for number in range(words.count) for _ in range(rounds)]
    rng.shuffle(changes)

    def change() -> None:
        for number in changes:
            words.change(number)

    tasks = [asyncio.create_task(follow(number)) for number in range(words.count)]
    await asyncio.sleep(0)
    assert waiter.threads == thread_names().count("vm-waits") == 8
    await asyncio.gather(asyncio.to_thread(change), *tasks)
    assert waiter.threads == 8


async def test_places_are_used_again(waiter: ThreadWaiter, words: Words) -> None:
    for _ in range(20):
        tasks = [start(waiter, words, number) for number in range(100)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        for number in range(1, 100, 2):
            words.change(number)
        await asyncio.wait(tasks)
        assert [task.cancelled() for task in tasks] == [True, False] * 50
    assert waiter.threads == 1


async def test_closing_ends_the_waits(words: Words) -> None:
    waiter = ThreadWaiter(asyncio.get_running_loop())
    ours, theirs = os.pipe()
    tasks = [start(waiter, words, number) for number in range(300)]
    polling = asyncio.create_task(waiter.poll(ours, select.POLLIN))
    await asyncio.sleep(0)
    waiter.close()
    await asyncio.gather(*tasks)
    with pytest.raises(vm.InstanceStateError, match="closed"):
        await polling
    assert "vm-waits" not in thread_names()
    waiter.close()
    with pytest.raises(vm.InstanceStateError, match="closed"):
        await waiter.futex_wait(words.address(0), 0)
    with pytest.raises(vm.InstanceStateError, match="closed"):
        await waiter.poll(ours, select.POLLIN)
    assert waiter.threads == 0
    os.close(ours)
    os.close(theirs)


async def test_polls(waiter: ThreadWaiter) -> None:
    ours, theirs = os.pipe()
    assert await waiter.poll(theirs, select.POLLOUT) == select.POLLOUT
    readable = asyncio.create_task(waiter.poll(ours, select.POLLIN))
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="already"):
        await waiter.poll(ours, select.POLLIN)
    os.write(theirs, b"x")
    assert await readable == select.POLLIN
    # readable as it is, only its end counts now
    hung_up = asyncio.create_task(waiter.poll(ours, select.POLLHUP))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not hung_up.done()
    os.close(theirs)
    assert await hung_up == select.POLLHUP
    os.close(ours)
    with pytest.raises(OSError, match="Bad file"):
        await waiter.poll(ours, select.POLLIN)


async def test_a_poll_can_be_cancelled_and_made_again(waiter: ThreadWaiter) -> None:
    ours, theirs = os.pipe()
    for _ in range(3):
        task = asyncio.create_task(waiter.poll(ours, select.POLLIN))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    os.write(theirs, b"x")
    assert await waiter.poll(ours, select.POLLIN) == select.POLLIN
    os.close(ours)
    os.close(theirs)


async def test_a_forked_child_leaves_it_alone(waiter: ThreadWaiter, words: Words) -> None:
    task = start(waiter, words, 0)
    await asyncio.sleep(0)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            task.get_coro().close()  # type: ignore[union-attr]
            try:
                waiter.futex_wait(words.address(1), 0).send(None)
            except vm.SandboxError:
                waiter.close()
                status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    words.change(0)
    await task


# --- engines ----------------------------------------------------------------------------------------------------------

THREADS = vm.Config(waiting="threads", spin=0)


@pytest.fixture
async def threaded(nothing_left: Census) -> AsyncIterator[vm.Engine]:
    async with vm.Engine(THREADS) as engine:
        assert engine.waiting == "threads"
        yield engine
    assert "vm-waits" not in thread_names()


def answering() -> vm.Linker:
    linker = vm.Linker()

    @linker.function("ask")
    async def ask(caller: vm.Caller) -> vm.u64:
        await asyncio.sleep(0)
        return 40

    return linker


async def test_calls_and_host_calls(threaded: vm.Engine) -> None:
    module = await threaded.compile(basic())
    async with await answering().instantiate(module) as instance:
        for number in range(200):
            assert await instance.call("add", number, 2) == number + 2
            assert await instance.call("ask", number) == number + 40
        with pytest.raises(vm.TrapError):
            await instance.call("trap")


async def test_a_cancelled_call_stops_the_guest(threaded: vm.Engine) -> None:
    module = await threaded.compile(basic())
    async with await answering().instantiate(module) as instance:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await instance.call("spin")
        assert await instance.call("add", 1, 2) == 3
        running = asyncio.create_task(instance.call("ask_and_spin"))
        await until(lambda: "running" in repr(instance))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await instance.call("add", 1, 2) == 3


async def test_a_death_is_seen(threaded: vm.Engine) -> None:
    module = await threaded.compile(basic())
    async with await answering().instantiate(module) as instance:
        running = asyncio.create_task(instance.call("spin"))
        await until(lambda: "running" in repr(instance))
        os.kill(instance.pid, signal.SIGKILL)
        with pytest.raises(vm.SandboxDiedError, match="killed"):
            await running


async def test_a_death_whose_wake_does_not_come_through(nothing_left: Census) -> None:
    """On a busy machine the engine may be closed before the thread tells that a dead guest's word changed."""
    async with vm.Engine(vm.Config(waiting="threads", spare_workers=0)) as engine:
        module = await engine.compile(basic())
        async with await answering().instantiate(module) as instance:
            running = asyncio.create_task(instance.call("spin"))
            await until(lambda: "running" in repr(instance))
            waiter = engine._waiter
            assert isinstance(waiter, ThreadWaiter)
            asyncio.get_running_loop().remove_reader(waiter._event)
            await engine.aclose()
            with pytest.raises(vm.SandboxDiedError, match="SIGKILL"):
                await running
            assert not running.cancelled()


async def test_more_guests_than_a_thread_waits_for(nothing_left: Census) -> None:
    """All of them run, endlessly, until they are interrupted."""
    count = 140
    async with vm.Engine(vm.Config(waiting="threads", spin=0, max_running=0)) as engine:
        module = await engine.compile(basic())
        instances = [await answering().instantiate(module) for _ in range(count)]
        for instance in instances:
            instance.prepare_call("spin")
        runs = [asyncio.create_task(instance.run()) for instance in instances]
        await until(lambda: thread_names().count("vm-waits") == 2)
        assert all(await asyncio.gather(*(instance.interrupt() for instance in instances)))
        assert {type(end) for end in await asyncio.gather(*runs)} == {vm.Interrupted}
        assert await instances[-1].call("add", 1, 2) == 3
        for instance in instances:
            await instance.aclose()
    assert "vm-waits" not in thread_names()


async def test_nothing_waits_for_guests_in_this_process() -> None:
    for config in (vm.Config(backend="interpreter", waiting="threads"), vm.Config(sandbox="generic")):
        async with vm.Engine(config) as engine:
            assert engine.waiting is None
            assert "vm-waits" not in thread_names()


# --- choosing ---------------------------------------------------------------------------------------------------------


def test_an_unknown_way() -> None:
    with pytest.raises(ValueError, match="unknown waiting 'pigeons'"):
        vm.Config(waiting="pigeons")  # type: ignore[arg-type]


async def test_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PVM_WAITING", raising=False)
    engine = vm.Engine()
    assert engine.waiting is None
    async with engine:
        assert engine.waiting == "io_uring"
    monkeypatch.setenv("PVM_WAITING", "threads")
    async with vm.Engine() as engine:
        assert engine.waiting == "threads"
    async with vm.Engine(vm.Config(waiting="io_uring")) as engine:  # the program knows better
        assert engine.waiting == "io_uring"
    monkeypatch.setenv("PVM_WAITING", "pigeons")
    with pytest.raises(ValueError, match="PVM_WAITING is 'pigeons'"):
        await vm.Engine().__aenter__()


async def test_a_ring_that_cannot_wait_for_futexes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on Linux 5.16 to 6.6, where a ring has no such operation."""
    monkeypatch.delenv("PVM_WAITING", raising=False)
    monkeypatch.setattr(aioring.Ring, "supports", lambda self, name: name != "futex_wait")
    _log_once.cache_clear()
    caplog.set_level(logging.INFO, "vm")
    for _ in range(2):
        async with open_waiter("auto") as waiter:
            assert isinstance(waiter, ThreadWaiter)
    assert len(caplog.records) == 1
    assert "futex_wait needs Linux 6.7" in caplog.text
    with pytest.raises(aioring.UnsupportedOperationError):
        await vm.Engine(vm.Config(waiting="io_uring")).__aenter__()


# --- machines that refuse io_uring ------------------------------------------------------------------------------------


def run_without(system_calls: str | tuple[str, ...], *program: str, error: int = errno.EPERM) -> str:
    """What it wrote, both streams."""
    command = forbidden(system_calls, *program, error=error)
    environment = {name: value for name, value in os.environ.items() if name != "PVM_WAITING"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


REFUSED = """
import asyncio, logging, sys
import aioring, vm

async def main():
    async with vm.Engine() as engine:
        print(engine.waiting)

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
for _ in range(2):
    try:
        asyncio.run(main())
    except vm.SandboxError as error:
        print(error)
        print(error.__context__)
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        (tmp_path / "script.py").write_text(text)
        return str(tmp_path / "script.py")

    return write


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
def test_it_falls_back_and_says_so_once(script: Callable[[str], str], error: int) -> None:
    output = run_without("io_uring_setup", script(REFUSED), error=error)
    assert output.count("threads\n") == 2
    assert output.count("INFO vm guests are waited for by threads in futex_waitv: ") == 1
    assert os.strerror(error) in output


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
def test_without_futex_waitv_either(script: Callable[[str], str], error: int) -> None:
    output = run_without(("io_uring_setup", "futex_waitv"), script(REFUSED), error=error)
    assert output.count("waiting for guests in a thread (futex_waitv)") == 2
    assert "use Linux 5.16 or newer" in output
    assert output.count("io_uring is unavailable") == 2


def test_insisting_on_io_uring(script: Callable[[str], str]) -> None:
    text = REFUSED.replace("vm.Engine()", 'vm.Engine(vm.Config(waiting="io_uring"))').replace(
        "vm.SandboxError", "aioring.RingUnavailableError"
    )
    assert run_without("io_uring_setup", script(text)).count("io_uring is unavailable") == 2


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
def test_conformance_without_io_uring(error: int) -> None:
    """The engines agree on random programs, every stop waited for in a thread."""
    output = run_without("io_uring_setup", "tests/conformance/engines.py", "--programs=100", "--threads", error=error)
    assert "100 programs, no difference" in output


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["engine", "interrupt", "limits"])
def test_these_tests_without_io_uring(name: str) -> None:
    # one of them asks for aioring's own loop, for which asyncio's stands in anyway
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-k", "not aioring and not in_two_threads"]
    output = run_without("io_uring_setup", "-m", "pytest", *options, f"tests/vm/test_{name}.py")
    assert " passed" in output
    assert " failed" not in output


TRIO = """
import trio
from guests import basic
from vm.anyio import Engine, Linker

async def main():
    async with Engine() as engine:
        linker = Linker()
        linker.define("ask", lambda caller: 1)
        async with await linker.instantiate(await engine.compile(basic())) as instance:
            print(engine.waiting, await instance.call("ask", 2), await instance.call("count_down", 1_000_000))

trio.run(main)
"""


def test_trio_without_io_uring(script: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trio", reason="trio is not installed")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    assert run_without("io_uring_setup", script(TRIO)) == "threads 3 7\n"


def test_the_command_line_without_io_uring(tmp_path: Path) -> None:
    program = tmp_path / "basic.polkavm"
    program.write_bytes(basic().to_bytes())
    arguments = ("run", str(program), "add", "2", "3", "--import", "ask=1")
    assert run_without("io_uring_setup", "-m", "vm.cli", *arguments).strip().endswith("5")
