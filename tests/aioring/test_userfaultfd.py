# SPDX-License-Identifier: MIT
"""Page faults of real threads, resolved from the event loop; and the memory that has them."""

import asyncio
import errno
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import (
    HAS,
    LIBC,
    PAGE,
    PAGES,
    Start,
    needs_userfaultfd,
    page,
    private,
    read,
    write,
)
from forbid import forbidden

import aioring

Feature = aioring.UserfaultfdFeature

pytestmark = needs_userfaultfd


# ---- faults --------------------------------------------------------------------------------------------------------


async def test_a_write_to_an_absent_page(uffd: aioring.Userfaultfd, memory: mmap.mmap, start: Start) -> None:
    address = uffd.register(memory)
    writing = start(write, address + 2 * PAGE + 5)
    fault = await uffd.read()
    assert not writing.done()
    uffd.copy(fault.address, page(b"content"))
    assert fault == aioring.Fault(address + 2 * PAGE, True, False, await writing)
    assert memory[2 * PAGE : 2 * PAGE + 8] == b"contewt."


async def test_a_read_of_an_absent_page(uffd: aioring.Userfaultfd, memory: mmap.mmap, start: Start) -> None:
    address = uffd.register(memory)
    reading = start(read, address, 3)
    fault = await uffd.read()
    assert (fault.address, fault.is_write, fault.is_write_protect) == (address, False, False)
    uffd.zero(fault.address, PAGE)
    assert await reading == b"\0\0\0"
    reading = start(read, address + PAGE, 7)
    uffd.copy((await uffd.read()).address, memoryview(page(b"content")))
    assert await reading == b"content"


async def test_a_write_to_a_protected_page(uffd: aioring.Userfaultfd, memory: mmap.mmap, start: Start) -> None:
    memory[:] = b"." * len(memory)
    address = uffd.register(memory, missing=False, write_protect=True)
    uffd.write_protect(address, 2 * PAGE, True)
    writing = [start(write, address), start(write, address + 2 * PAGE)]
    fault = await uffd.read()
    assert (fault.address, fault.is_write, fault.is_write_protect) == (address, True, True)
    assert memory[0] == ord(".")  # reading goes on
    uffd.write_protect(address, PAGE, False)
    assert fault.thread_id == await writing[0]
    await writing[1]  # it never waited
    assert (memory[0], memory[2 * PAGE]) == (ord("w"), ord("w"))


async def test_a_page_that_comes_protected(uffd: aioring.Userfaultfd, memory: mmap.mmap, start: Start) -> None:
    address = uffd.register(memory, write_protect=True)
    writing = start(write, address)
    assert not (await uffd.read()).is_write_protect
    uffd.copy(address, page(b"old"), write_protect=True)
    assert (await uffd.read()).is_write_protect
    uffd.write_protect(address, PAGE, False)
    await writing
    assert memory[:3] == b"wld"


async def test_waking_later(ring: aioring.Ring, uffd: aioring.Userfaultfd, memory: mmap.mmap, start: Start) -> None:
    address = uffd.register(memory)
    reading = start(read, address)
    await uffd.read()
    uffd.wake(address, PAGE)  # the page is still absent
    fault = await uffd.read()
    uffd.copy(address, page(b"x"), wake=False)
    assert memory[:1] == b"x"
    for _ in range(10):
        await ring.nop()
    assert not reading.done()
    uffd.wake(address, PAGE)
    assert await reading == b"x"
    assert fault.thread_id is not None


async def test_shared_memory(uffd: aioring.Userfaultfd, start: Start) -> None:
    fd = os.memfd_create("shared")
    os.ftruncate(fd, PAGES * PAGE)
    with mmap.mmap(fd, 0) as memory:
        address = uffd.register(memory)
        reading = start(read, address + PAGE, 3)
        uffd.copy((await uffd.read()).address, page(b"all"))
        assert await reading == b"all"
        assert os.pread(fd, 3, PAGE) == b"all"
        uffd.unregister(memory)
    os.close(fd)


async def test_pages_that_were_given_back_are_absent(
    uffd: aioring.Userfaultfd, memory: mmap.mmap, start: Start
) -> None:
    memory[0] = 1
    address = uffd.register(memory)
    assert memory[0] == 1
    memory.madvise(mmap.MADV_DONTNEED)
    reading = start(read, address)
    assert (await uffd.read()).address == address
    uffd.copy(address, page(b"2"))
    assert await reading == b"2"


async def test_features(ring: aioring.Ring, memory: mmap.mmap, start: Start) -> None:
    if Feature.EXACT_ADDRESS not in HAS.userfaultfd:
        pytest.skip("Linux 5.18")
    with aioring.Userfaultfd(ring, features=Feature.EXACT_ADDRESS) as uffd:
        address = uffd.register(memory)
        writing = start(write, address + 5)
        assert await uffd.read() == aioring.Fault(address + 5, True, False, None)
        uffd.zero(address, PAGE)
        await writing
    with pytest.raises(ValueError, match=r"EVENT_FORK.*only faults"):
        aioring.Userfaultfd(features=Feature.EVENT_FORK | Feature.THREAD_ID)


async def test_one_thread_and_thousands_of_pages(ring: aioring.Ring, uffd: aioring.Userfaultfd, start: Start) -> None:
    with private(3000) as memory:
        address = uffd.register(memory)
        writing = start(write, address, len(memory))
        found = []

        async def serve() -> None:
            async for fault in uffd:
                found.append(fault.address)
                uffd.zero(fault.address, PAGE)

        server = asyncio.create_task(serve())
        await writing
        assert found == list(range(address, address + len(memory), PAGE))
        assert memory[:] == b"w" * len(memory)
        uffd.close()
        await server  # its iteration ended
    assert ring.in_flight == 0


async def test_the_loop_has_turns_between_faults_that_are_there(
    uffd: aioring.Userfaultfd, memory: mmap.mmap, start: Start
) -> None:
    address = uffd.register(memory)
    reading = [start(read, address + index * PAGE) for index in range(PAGES)]
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    for _ in range(PAGES):
        before = turns
        uffd.zero((await uffd.read()).address, PAGE)
        assert turns > before
    other.cancel()
    await asyncio.gather(*reading)


# ---- memory --------------------------------------------------------------------------------------------------------


async def test_registered_memory_stays_mapped(uffd: aioring.Userfaultfd) -> None:
    memory = private()
    uffd.register(memory)
    with pytest.raises(BufferError):
        memory.close()
    uffd.unregister(memory)
    address = uffd.register(memoryview(memory)[2 * PAGE : 6 * PAGE])
    uffd.unregister(address + PAGE, PAGE)  # the rest is in two parts
    with pytest.raises(BufferError):
        memory.close()
    uffd.unregister(address, PAGE)
    with pytest.raises(BufferError):
        memory.close()
    uffd.unregister(memoryview(memory)[4 * PAGE : 6 * PAGE])
    memory.close()
    memory = private()
    uffd.register(memory)
    uffd.close()
    memory.close()


async def test_memory_that_was_unmapped(uffd: aioring.Userfaultfd) -> None:
    address = LIBC.mmap(None, 2 * PAGE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    with pytest.raises(TypeError, match="an address needs a length"):
        uffd.register(address)
    assert uffd.register(address, 2 * PAGE) == address
    assert LIBC.munmap(address, 2 * PAGE) == 0
    for call in (
        lambda: uffd.copy(address, page(b"")),
        lambda: uffd.zero(address, PAGE),
        lambda: uffd.register(PAGE, PAGE, write_protect=True),  # nothing is ever mapped there
    ):
        with pytest.raises(OSError, match=f"{address:#x}|{PAGE:#x}"):
            call()
    with pytest.raises(OSError, match="unregistering"):
        uffd.unregister(address, 2 * PAGE)
    uffd.wake(address, PAGE)  # nobody


async def test_unregistering_wakes(uffd: aioring.Userfaultfd, memory: mmap.mmap, start: Start) -> None:
    address = uffd.register(memory)
    reading = start(read, address + PAGE)
    fault = await uffd.read()
    uffd.unregister(fault.address, PAGE)
    assert await reading == b"\0"
    assert memory[PAGE] == 0
    for call in (
        lambda: uffd.zero(address, 2 * PAGE),
        lambda: uffd.wake(address + PAGE, PAGE),
        lambda: uffd.unregister(memory),
    ):
        with pytest.raises(ValueError, match=f"{address + PAGE:#x} is not registered"):
            call()
    uffd.register(address + PAGE, PAGE)
    uffd.zero(address, PAGE)
    uffd.unregister(memory)
    # One that waits to write is not woken by the kernel's unregistering.
    uffd.register(memory, missing=False, write_protect=True)
    memory[0] = 1
    uffd.write_protect(address, PAGE, True)
    writing = start(write, address)
    await uffd.read()
    uffd.unregister(memory)
    await writing
    assert memory[0] == ord("w")


async def test_what_cannot_be_registered(uffd: aioring.Userfaultfd, memory: mmap.mmap, ring: aioring.Ring) -> None:
    address = uffd.register(memoryview(memory)[PAGE : 3 * PAGE])
    for wrong, message in (
        (lambda: uffd.register(memory), f"{address:#x} is registered already"),
        (lambda: uffd.register(address + PAGE, PAGE), f"{address:#x} is registered already"),
        (lambda: uffd.register(address + 1, PAGE), "no page begins at"),
        (lambda: uffd.register(-PAGE, PAGE), "no page begins at -"),
        (lambda: uffd.register(memory, PAGE + 1), "no whole pages"),
        (lambda: uffd.register(address, 0), "no whole pages"),
        (lambda: uffd.register(address, -PAGE), "no whole pages"),
        (lambda: uffd.register((1 << 64) - PAGE, 2 * PAGE), "no whole pages"),
        (lambda: uffd.register(memoryview(memory)[:0]), "no whole pages"),
        (lambda: uffd.register(memory, len(memory) + PAGE), f"length is {len(memory) + PAGE}, the buffer's"),
        (lambda: uffd.register(memory, PAGE, missing=False), "missing or write_protect"),
        (lambda: uffd.unregister(memory), "is not registered"),
        (lambda: uffd.copy(address, b"x"), "no whole pages"),
        (lambda: uffd.copy(address, b""), "no whole pages"),
        (lambda: uffd.copy(address, bytes(3 * PAGE)), f"{address + 2 * PAGE:#x} is not registered"),
        (lambda: uffd.zero(address - PAGE, PAGE), "is not registered"),
        (lambda: uffd.zero(address, PAGE // 2), "no whole pages"),
        (lambda: uffd.wake(address + 5, PAGE), "no page begins at"),
        (lambda: uffd.write_protect(address, PAGE, True), "registered without write_protect"),
        (lambda: uffd.copy(address, page(b""), write_protect=True), "registered without write_protect"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    for readonly in (bytes(PAGE), mmap.mmap(-1, PAGE, prot=mmap.PROT_READ)):
        with pytest.raises((TypeError, BufferError)):
            uffd.register(readonly)
    with pytest.raises(TypeError):
        uffd.register("memory")  # type: ignore[arg-type]
    with pytest.raises((TypeError, BufferError)):
        uffd.copy(address, "text")  # type: ignore[arg-type]
    with aioring.Userfaultfd(ring) as other:
        with pytest.raises(OSError, match=f"registering 0x2000 bytes at {address:#x}") as caught:
            other.register(address, 2 * PAGE)
        assert caught.value.errno == errno.EBUSY
    # Every second page; nothing is left of what failed.
    for index in range(5, PAGES, 2):
        uffd.register(memoryview(memory)[index * PAGE :], PAGE)
    with pytest.raises(ValueError, match="is not registered"):
        uffd.zero(address + 4 * PAGE, 2 * PAGE)
    uffd.zero(address, 2 * PAGE)
    uffd.register(memory, PAGE)
    uffd.zero(address - PAGE, PAGE)


async def test_an_error_keeps_no_memory(ring: aioring.Ring, uffd: aioring.Userfaultfd) -> None:
    memory = private()
    address = uffd.register(memory)
    other = aioring.Userfaultfd(ring)
    errors: list[BaseException] = []
    for wrong in (
        lambda: uffd.register(memory),
        lambda: uffd.register(memory, 1),
        lambda: uffd.unregister(memory, 1),
        lambda: uffd.copy(address + len(memory), memory),
        lambda: uffd.copy(address, memory),
        lambda: uffd.write_protect(address, PAGE, True),
        lambda: other.register(memory),
    ):
        with pytest.raises((ValueError, OSError)) as caught:
            wrong()
        errors.append(caught.value)  # with its traceback
    uffd.unregister(memory)
    memory.close()
    other.close()


async def test_a_copy_that_meets_a_page(uffd: aioring.Userfaultfd, memory: mmap.mmap) -> None:
    memory[2 * PAGE] = 1
    address = uffd.register(memory)
    with pytest.raises(FileExistsError, match=f"a page for {address + 2 * PAGE:#x}"):
        uffd.copy(address, b"".join(page(b"%d" % index) for index in range(4)))
    assert (memory[0], memory[PAGE], memory[2 * PAGE]) == (ord("0"), ord("1"), 1)
    with pytest.raises(FileExistsError, match=f"zeroes for {address + 2 * PAGE:#x}"):
        uffd.zero(address + 2 * PAGE, PAGE)
    uffd.copy(address + 3 * PAGE, b"".join(page(b"%d" % index) for index in range(3, PAGES)))
    assert memory[15 * PAGE : 15 * PAGE + 2] == b"15"


async def test_data_from_absent_pages(uffd: aioring.Userfaultfd, memory: mmap.mmap) -> None:
    address = uffd.register(memory)
    with (
        memoryview(memory)[PAGE : 2 * PAGE] as absent,
        pytest.raises(OSError, match=f"Bad address: a page for {address:#x}") as caught,
    ):
        uffd.copy(address, absent)
    assert caught.value.errno == errno.EFAULT


async def test_system_calls_that_touch_absent_pages(
    ring: aioring.Ring, memory: mmap.mmap, start: Start, pipe: tuple[int, int]
) -> None:
    os.write(pipe[1], b"bytes")
    with aioring.Userfaultfd(ring) as uffd:
        uffd.register(memory)
        with pytest.raises(OSError, match="Bad address"):
            await start(os.readv, pipe[0], [memory])
    try:
        uffd = aioring.Userfaultfd(ring, user_mode_only=False)
    except aioring.UserfaultfdUnavailableError as why:
        pytest.skip(str(why))
    with uffd:
        address = uffd.register(memory)
        reading = start(os.readv, pipe[0], [memory])
        uffd.zero((await uffd.read()).address, PAGE)
        assert await reading == 5
        assert memory[:5] == b"bytes"
        assert address


# ---- where there is none -------------------------------------------------------------------------------------------

# What is forbidden is so before anything else; then as a user without privileges.
_TRY = """
import os, sys, aioring
if sys.argv[1] == "nobody" and os.getuid() == 0:
    os.setuid(65534)
for user_mode_only in (True, False):
    try:
        aioring.Userfaultfd(user_mode_only=user_mode_only).close()
        print("made")
    except aioring.UserfaultfdUnavailableError as error:
        print(error)
found = aioring.features()
print(repr(found.userfaultfd_unavailable), bool(found.userfaultfd))
"""


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    made = tmp_path / "attempt.py"
    made.write_text(_TRY)
    return made


def lines(*command: str | Path) -> list[str]:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True, timeout=15)
    return done.stdout.splitlines()


def test_forbidden_to_everybody(attempt: Path) -> None:
    made = lines(*forbidden("userfaultfd", str(attempt), "nobody"))
    assert all("Operation not permitted; " in line for line in made)
    assert "allow userfaultfd there" in made[0]
    assert "CAP_SYS_PTRACE" in made[1]
    assert made[2].startswith("UserfaultfdUnavailableError")
    assert made[2].endswith("False")
    hidden = lines(*forbidden("userfaultfd", str(attempt), "nobody", error=errno.ENOSYS))
    assert all("CONFIG_USERFAULTFD" in line for line in hidden)


def test_allowed_by_the_device(attempt: Path) -> None:
    if not os.access("/dev/userfaultfd", os.R_OK | os.W_OK):
        pytest.skip("no /dev/userfaultfd here (Linux 6.1), or for root")
    assert lines(*forbidden("userfaultfd", str(attempt), "here")) == ["made", "made", "None True"]


def test_without_privileges(attempt: Path) -> None:
    made = lines(sys.executable, "-W", "error", attempt, "nobody")
    assert (made[0], made[2]) == ("made", "None True")
    if Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip() == "0":
        assert "user_mode_only=True" in made[1]


def test_no_descriptors_left(count_fds: Callable[[], int]) -> None:
    program = "\n".join(
        [
            "import resource, aioring",
            "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))",
            "try: aioring.Userfaultfd()",
            "except aioring.UserfaultfdUnavailableError: pass",
            "except OSError as error: print(error.strerror)",
        ]
    )
    assert lines(sys.executable, "-c", program) == ["Too many open files"]
