# SPDX-License-Identifier: MIT
"""The generic sandbox's signal handlers among those of others: each gets what it would get without them.

Every test is a process of its own, because most of them end it.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__)

#: What all scripts begin with. `trap` has a guest trap in two ways, and compute.
COMMON = f"""
import asyncio, ctypes, faulthandler, os, signal, sys, threading, vm
sys.path.insert(0, {str(HERE.parents[1])!r})
from guests import basic, memory

GENERIC = vm.Config(sandbox="generic")
HANDLED = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGURG)

async def trap(engine):
    for blob, *call in ((basic(), "trap"), (memory(), "load", 0), (memory(), "store", 0x10000, 1)):
        async with await (await engine.compile(blob)).instantiate() as instance:
            instance.prepare_call(*call)
            assert isinstance(await instance.run(), vm.Trap)
    async with await (await engine.compile(basic())).instantiate() as instance:
        assert await instance.call("count_down", 50_000_000) == 7

def crash():
    ctypes.string_at(8)
"""


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMON + script, *arguments], capture_output=True, text=True, timeout=15, check=False
    )


@pytest.mark.parametrize("order", ["before", "within", "within, closed", "again and again"])
@pytest.mark.parametrize("thread", [False, True])
def test_faulthandler_reports_a_crash(order: str, thread: bool) -> None:
    found = run(
        """
order, thread = sys.argv[1], sys.argv[2] == "True"

async def main():
    if order == "before":
        faulthandler.enable()
    async with vm.Engine(GENERIC) as engine:
        await trap(engine)
        for _ in range({"within": 1, "within, closed": 1, "again and again": 30}.get(order, 0)):
            faulthandler.disable()
            await trap(engine)
            faulthandler.enable()
            await trap(engine)
        print("trapped", flush=True)
        if order != "within, closed":
            await asyncio.to_thread(crash) if thread else crash()
    crash()

asyncio.run(main())
""",
        order,
        str(thread),
    )
    assert found.returncode == -signal.SIGSEGV, found.stderr
    assert found.stdout == "trapped\n"
    assert found.stderr.count("Fatal Python error: Segmentation fault") == 1, found.stderr
    assert "in crash" in found.stderr


def test_a_crash_without_anybody_else() -> None:
    found = run("""
async def main():
    async with vm.Engine(GENERIC) as engine:
        await trap(engine)
        print("trapped", flush=True)
        crash()

asyncio.run(main())
""")
    assert (found.returncode, found.stdout) == (-signal.SIGSEGV, "trapped\n"), found.stderr


@pytest.mark.parametrize("number", ["SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGTRAP"])
def test_a_signal_that_is_sent_kills(number: str) -> None:
    found = run(
        """
async def main():
    async with vm.Engine(GENERIC) as engine:
        await trap(engine)
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))

asyncio.run(main())
""",
        number,
    )
    assert found.returncode == -getattr(signal, number), found.stderr


def test_python_handlers() -> None:
    """Before and after the engine starts; and all is restored, also by two engines that overlap."""
    found = run("""
seen = []
before = {}
for number in HANDLED[:3]:
    signal.signal(number, lambda number, frame: seen.append(("early", number)))
signal.signal(HANDLED[3], signal.SIG_IGN)

def actions():  # what the kernel has (sigaction(2)): handlers as addresses
    buffer = ctypes.create_string_buffer(256)
    found = []
    for number in HANDLED:
        assert ctypes.CDLL(None).sigaction(number, None, buffer) == 0
        found.append(bytes(buffer[:8]))
    return found

def send():
    seen.clear()
    for number in HANDLED:
        if number != signal.SIGTRAP:
            signal.raise_signal(number)
            os.kill(os.getpid(), number)
    return list(seen)

async def main():
    async with vm.Engine(GENERIC) as engine:
        await trap(engine)
        assert actions() != untouched
        assert send() == [("early", number) for number in HANDLED[:3] for _ in range(2)], seen
        async with vm.Engine(GENERIC) as another:
            signal.signal(signal.SIGILL, lambda number, frame: seen.append(("late", number)))
            signal.signal(signal.SIGURG, lambda number, frame: seen.append(("late", number)))
            await trap(engine)
            await trap(another)
            expected = {signal.SIGSEGV: "early", signal.SIGBUS: "early", signal.SIGILL: "late", signal.SIGURG: "late"}
            assert send() == [(kind, number) for number, kind in expected.items() for _ in range(2)], seen
        await trap(engine)
        assert send() == [(kind, number) for number, kind in expected.items() for _ in range(2)], seen

untouched = actions()
asyncio.run(main())
python = untouched[0]
assert actions() == [*untouched[:5], python], "not restored"
print(send() == [
    (kind, number)
    for number, kind in {
        signal.SIGSEGV: "early", signal.SIGBUS: "early", signal.SIGILL: "late", signal.SIGURG: "late"
    }.items()
    for _ in range(2)
])
""")
    assert (found.returncode, found.stdout) == (0, "True\n"), found.stderr


C_HANDLER = r"""
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

static char *page;
static volatile int mask_was_right, seen;

/* Gives the page its access, as a lazy allocator does, or skips an instruction of two bytes. */
static void on_fault(int number, siginfo_t *info, void *context)
{
    sigset_t now;
    sigprocmask(SIG_SETMASK, NULL, &now);
    seen++;
    mask_was_right = sigismember(&now, SIGUSR1) && sigismember(&now, number) && !sigismember(&now, SIGTRAP);
    if (number == SIGSEGV && info->si_addr == page)
        mprotect(page, 4096, PROT_READ | PROT_WRITE);
    else if (number == SIGILL)
        ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
    else
        _exit(99);
}

void install(void)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGUSR1);
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGILL, &action, NULL);
}

int fault(void)
{
    seen = 0;
    page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *(volatile char *)page = 5;
    munmap(page, 4096);
    __asm__ volatile("ud2");
    return seen == 2 && mask_was_right;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) to build a signal handler with")
    directory = tmp_path_factory.mktemp("handler")
    (directory / "handler.c").write_text(C_HANDLER)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", directory / "handler.so", directory / "handler.c"], check=True)
    return directory / "handler.so"


@pytest.mark.parametrize("order", ["before", "within"])
def test_a_handler_of_c(order: str, library: Path) -> None:
    """One that repairs what it gets, before the engine or after it, while it is open and when it is closed."""
    found = run(
        """
library = ctypes.CDLL(sys.argv[2])

async def main():
    async with vm.Engine(GENERIC) as engine:
        if sys.argv[1] == "within":
            await trap(engine)
            library.install()
        for _ in range(20):
            await trap(engine)
            assert library.fault() == 1
            assert await asyncio.to_thread(library.fault) == 1
    assert library.fault() == 1

if sys.argv[1] == "before":
    library.install()
for _ in range(3):
    asyncio.run(main())
print("done")
""",
        order,
        str(library),
    )
    assert (found.returncode, found.stdout) == (0, "done\n"), found.stderr


def test_blocked_signals() -> None:
    """A thread that blocks them all can run guests; they are blocked again behind them."""
    found = run("""
everything = signal.valid_signals()
signal.pthread_sigmask(signal.SIG_BLOCK, everything)
blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())

async def main():
    async with vm.Engine(GENERIC) as engine:
        for _ in range(10):
            await trap(engine)
            assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked
        async with await (await engine.compile(basic())).instantiate() as instance:
            try:
                async with asyncio.timeout(0.02):
                    await instance.call("spin")
            except TimeoutError:
                print("done")

asyncio.run(main())
""")
    assert (found.returncode, found.stdout) == (0, "done\n"), found.stderr


def test_signals_in_the_middle_of_guest_code() -> None:
    """Python's own handlers run on the stack that guest code leaves alone, whatever it computes."""
    found = run("""
seen = []
signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)

async def main():
    async with vm.Engine(GENERIC) as engine:
        for _ in range(5):
            await trap(engine)

asyncio.run(main())
signal.setitimer(signal.ITIMER_REAL, 0)
print(len(seen) > 10)
""")
    assert (found.returncode, found.stdout) == (0, "True\n"), found.stderr


def test_a_stack_overflow_of_the_host() -> None:
    """faulthandler's alternate stack still serves."""
    found = run("""
async def main():
    faulthandler.enable()
    async with vm.Engine(GENERIC) as engine:
        await trap(engine)
        sys.setrecursionlimit(10**9)
        def deep():
            return eval("deep()", {"deep": deep})
        deep()

asyncio.run(main())
""")
    assert found.returncode == -signal.SIGSEGV, found.stderr
    assert "Fatal Python error: Segmentation fault" in found.stderr
