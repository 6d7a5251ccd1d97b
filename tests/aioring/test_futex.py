# SPDX-License-Identifier: MIT
"""Futexes: words in shared memory, with waiters and wakers in this process and in others."""

import asyncio
import ctypes
import mmap
import os
import sys
from collections.abc import Iterator

import pytest

import aioring

_SYS_FUTEX = 202
_FUTEX_WAIT = 0
_FUTEX_WAKE = 1


class Word:
    """A 32-bit word in memory that other processes can map."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("futex")
        os.ftruncate(self.fd, mmap.PAGESIZE)
        self.memory = mmap.mmap(self.fd, mmap.PAGESIZE)
        self.word = ctypes.c_uint32.from_buffer(self.memory)
        self.address = ctypes.addressof(self.word)

    def close(self) -> None:
        del self.word
        self.memory.close()
        os.close(self.fd)


@pytest.fixture
def word() -> Iterator[Word]:
    made = Word()
    yield made
    made.close()


# A process that adds one to the word and wakes its waiters, each time it reads a byte.
_WAKER = f"""
import ctypes, mmap, sys
memory = mmap.mmap(int(sys.argv[1]), mmap.PAGESIZE)
word = ctypes.c_uint32.from_buffer(memory)
libc = ctypes.CDLL(None)
while sys.stdin.buffer.read(1):
    word.value += 1
    print(libc.syscall({_SYS_FUTEX}, ctypes.byref(word), {_FUTEX_WAKE}, 1000, None, None, 0), flush=True)
"""

# A process that waits until the word is not 0.
_WAITER = f"""
import ctypes, mmap, sys
memory = mmap.mmap(int(sys.argv[1]), mmap.PAGESIZE)
word = ctypes.c_uint32.from_buffer(memory)
libc = ctypes.CDLL(None)
print(flush=True)
while word.value == 0:
    libc.syscall({_SYS_FUTEX}, ctypes.byref(word), {_FUTEX_WAIT}, 0, None, None, 0)
"""


async def test_another_process_wakes(ring: aioring.Ring, word: Word) -> None:
    waker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _WAKER, str(word.fd)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        pass_fds=[word.fd],
    )
    assert waker.stdin is not None
    assert waker.stdout is not None
    for round_ in range(50):
        waiting = ring.futex_wait(word.address, round_)
        await ring.nop()  # by now it waits
        waker.stdin.write(b".")
        assert await waiting is True
        assert word.word.value == round_ + 1
        assert await waker.stdout.readline() == b"1\n"
    waker.stdin.close()
    assert await waker.wait() == 0


async def test_waking_another_process(ring: aioring.Ring, word: Word) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _WAITER, str(word.fd), stdout=asyncio.subprocess.PIPE, pass_fds=[word.fd]
    )
    assert process.stdout is not None
    await process.stdout.readline()
    while not await ring.futex_wake(word.address, 1):
        await ring.nop()  # it is about to wait
    assert process.returncode is None
    word.word.value = 1
    await ring.futex_wake(word.address, 1)
    assert await process.wait() == 0


async def test_a_word_that_differs_does_not_wait(ring: aioring.Ring, word: Word) -> None:
    word.word.value = 7
    assert await ring.futex_wait(word.address, 8) is False


async def test_wake_counts_waiters(ring: aioring.Ring, word: Word) -> None:
    waiting = [ring.futex_wait(word.address, 0) for _ in range(5)]
    await ring.nop()
    assert await ring.futex_wake(word.address, 2) == 2
    assert await ring.futex_wake(word.address, 100) == 3
    assert await asyncio.gather(*waiting) == [True] * 5
    assert await ring.futex_wake(word.address, 1) == 0


async def test_private_and_shared_words_are_apart(ring: aioring.Ring, word: Word) -> None:
    waiting = ring.futex_wait(word.address, 0, private=True)
    await ring.nop()
    assert await ring.futex_wake(word.address, 1) == 0
    assert await ring.futex_wake(word.address, 1, private=True) == 1
    assert await waiting


async def test_values_are_unsigned(ring: aioring.Ring, word: Word) -> None:
    word.word.value = 0xFFFFFFFF
    waiting = ring.futex_wait(word.address, 0xFFFFFFFF)
    await ring.nop()
    assert await ring.futex_wake(word.address, 1) == 1
    assert await waiting
    for value in (-1, 1 << 32):
        with pytest.raises(OverflowError):
            ring.futex_wait(word.address, value)


async def test_bad_addresses(ring: aioring.Ring, word: Word) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        await ring.futex_wait(word.address + 1, 0)
    with pytest.raises(OSError, match="Bad address"):
        await ring.futex_wait(0, 0)
    with pytest.raises(OSError, match="Bad address"):
        await ring.futex_wake(0, 1)


async def test_cancelled_wait_is_gone(ring: aioring.Ring, word: Word) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await ring.futex_wait(word.address, 0)
    assert await ring.futex_wake(word.address, 1) == 0


async def test_a_thousand_waiters(ring: aioring.Ring, word: Word) -> None:
    addresses = [word.address + 4 * index for index in range(1000)]
    waiting = [ring.futex_wait(address, 0) for address in addresses]
    await ring.nop()
    assert await asyncio.gather(*(ring.futex_wake(address, 1) for address in addresses)) == [1] * 1000
    assert all(await asyncio.gather(*waiting))
