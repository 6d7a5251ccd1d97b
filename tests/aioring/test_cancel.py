# SPDX-License-Identifier: MIT
"""Cancellation in each state of an operation, and what it never does: give up memory that the kernel may still use."""

import asyncio
import contextlib
import gc
import os
import select
import weakref
from typing import Any

import pytest

import aioring

Pipe = tuple[int, int]


async def test_before_it_was_submitted(ring: aioring.Ring, pipe: Pipe) -> None:
    reading = ring.read(pipe[0], 1)
    assert reading.cancel()
    assert not reading.done()  # the kernel has not heard of it, yet it will
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert ring.in_flight == 0


async def test_while_the_kernel_waits(ring: aioring.Ring, pipe: Pipe) -> None:
    operations: list[aioring.Operation[Any]] = [
        ring.read(pipe[0], 1),
        ring.poll(pipe[0], select.POLLIN),
        ring.timeout(1000),
    ]
    await ring.nop()
    for operation in operations:
        assert operation.cancel()
        with pytest.raises(asyncio.CancelledError):
            await operation
        assert operation.cancelled()
    assert ring.in_flight == 0


async def test_after_it_was_done(ring: aioring.Ring) -> None:
    operation = ring.nop()
    await operation
    assert not operation.cancel()
    assert not await ring.cancel(operation)


async def test_a_task_that_awaits(ring: aioring.Ring, pipe: Pipe) -> None:
    async def read() -> None:
        await ring.read(pipe[0], 1)

    task = asyncio.create_task(read())
    await ring.nop()
    assert ring.in_flight == 1
    task.cancel("enough")
    await ring.nop()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.args == ("enough",)
    assert ring.in_flight == 0
    os.write(pipe[1], b"x")
    assert os.read(pipe[0], 1) == b"x"  # the cancelled read took nothing


async def test_again_and_again_while_it_ends(ring: aioring.Ring, pipe: Pipe) -> None:
    async def read() -> None:
        await ring.read(pipe[0], 1)

    task = asyncio.create_task(read())
    await ring.nop()
    for _ in range(100):
        assert task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ring.in_flight == 0
    assert task.cancelling() == 100


async def test_the_task_goes_on_only_after_the_kernel_let_go(ring: aioring.Ring, pipe: Pipe) -> None:
    buffer = bytearray(1)
    in_flight = []

    async def read() -> None:
        try:
            await ring.readinto(pipe[0], buffer)
        finally:
            in_flight.append(ring.in_flight)
            buffer.extend(b"resizable again")

    task = asyncio.create_task(read())
    await ring.nop()
    task.cancel()
    with pytest.raises(BufferError):
        buffer.extend(b"not while it is in flight")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert in_flight == [0]


async def test_a_result_that_came_first_does_not_swallow_the_cancellation(ring: aioring.Ring, pipe: Pipe) -> None:
    async def read_forever() -> None:
        while True:
            os.write(pipe[1], b"x")
            await ring.read(pipe[0], 1)

    task = asyncio.create_task(read_forever())
    for _ in range(10):
        await ring.nop()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_ring_cancel_keeps_a_result_that_came_first(ring: aioring.Ring, pipe: Pipe) -> None:
    os.write(pipe[1], b"x")
    reading = ring.read(pipe[0], 1)
    assert await ring.cancel(reading) is False
    assert await reading == b"x"
    waiting = ring.read(pipe[0], 1)
    assert await ring.cancel(waiting) is True
    assert waiting.cancelled()
    assert await ring.cancel(waiting) is True


async def test_ring_cancel_of_another_ring(ring: aioring.Ring) -> None:
    async with aioring.Ring() as other:
        operation = other.nop()
        with pytest.raises(ValueError, match="is not of"):
            await ring.cancel(operation)
        await operation


async def test_asyncio_timeout(ring: aioring.Ring, pipe: Pipe) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.005):
            await ring.read(pipe[0], 1)
    async with asyncio.timeout(10):
        await ring.nop()
    assert ring.in_flight == 0


async def test_task_group(ring: aioring.Ring, pipe: Pipe) -> None:
    async def read() -> None:
        await ring.read(pipe[0], 1)

    async def fail() -> None:
        await ring.nop()
        raise LookupError

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(read())
            group.create_task(fail())

    with pytest.raises(ExceptionGroup) as caught:
        await both()
    assert caught.group_contains(LookupError)
    assert ring.in_flight == 0


async def test_memory_outlives_everyone_else(ring: aioring.Ring, pipe: Pipe) -> None:
    class Buffer(bytearray):
        pass

    buffer = Buffer(8)
    gone = weakref.ref(buffer)
    reading = ring.readinto(pipe[0], buffer)
    await ring.nop()
    del buffer, reading
    gc.collect()
    assert gone() == bytearray(8)
    os.write(pipe[1], b"abc")
    while ring.in_flight:
        await ring.nop()
    assert gone() is None


async def test_a_forgotten_operation_ends(ring: aioring.Ring, pipe: Pipe) -> None:
    ring.read(pipe[0], 1)
    gc.collect()
    await ring.nop()
    assert ring.in_flight == 1
    os.write(pipe[1], b"x")
    while ring.in_flight:
        await ring.nop()
    assert select.select([pipe[0]], [], [], 0)[0] == []  # it has read the byte


async def test_storm(ring: aioring.Ring) -> None:
    """A thousand tasks on a hundred pipes, cancelled while results arrive: each byte is read once or still there."""
    pipes = [os.pipe() for _ in range(100)]
    read = 0

    async def reader(fd: int) -> None:
        nonlocal read
        while await ring.read(fd, 1):
            read += 1

    try:
        for round_ in range(10):
            tasks = [asyncio.create_task(reader(pipes[index % 100][0])) for index in range(1000)]
            await asyncio.sleep(0)
            for index, (_, sink) in enumerate(pipes):
                if (index + round_) % 3 == 0:
                    os.write(sink, b"ab")
            if round_ % 2:
                await ring.nop()
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert ring.in_flight == 0
        assert read <= 2 * sum((index + round_) % 3 == 0 for index in range(100) for round_ in range(10))
    finally:
        for fd in sum(pipes, ()):
            os.close(fd)


async def test_cancel_storm_of_timeouts() -> None:
    async with aioring.Ring(entries=4) as ring:
        operations = [ring.timeout(1000) for _ in range(5000)]
        await ring.nop()
        for operation in operations:
            operation.cancel()
        await asyncio.wait(operations)
        assert all(operation.cancelled() for operation in operations)
        assert ring.in_flight == 0


def test_asyncio_run_cancels_what_is_left(pipe: Pipe, loop: asyncio.AbstractEventLoop) -> None:
    ended = []

    async def read() -> None:
        async with aioring.open_ring() as ring:
            try:
                await ring.read(pipe[0], 1)
            finally:
                ended.append(ring.in_flight)

    async def main() -> asyncio.Task[None]:
        task = asyncio.create_task(read())
        for _ in range(3):
            await asyncio.sleep(0)
        return task

    # As asyncio.Runner.close() does: the cancel comes while the loop does not run.
    task = loop.run_until_complete(main())
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        loop.run_until_complete(task)
    assert task.cancelled()
    assert ended == [0]
