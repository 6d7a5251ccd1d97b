# SPDX-License-Identifier: MIT
"""Who reads page faults, from where, and to what end."""

import asyncio
import concurrent.futures
import mmap
import os
import threading
import warnings
from collections.abc import Callable

import pytest
from faults import (
    PAGE,
    PAGES,
    Start,
    needs_userfaultfd,
    page,
    private,
    read,
    until_there_is_one,
    waiting,
    write,
)

import aioring

pytestmark = needs_userfaultfd


# ---- readers -------------------------------------------------------------------------------------------------------


async def test_several_readers(ring: aioring.Ring, uffd: aioring.Userfaultfd, memory: mmap.mmap, start: Start) -> None:
    address = uffd.register(memory)
    found: list[aioring.Fault] = []

    async def serve() -> None:
        async for fault in uffd:
            found.append(fault)
            uffd.zero(fault.address, PAGE)

    servers = [await waiting(ring, serve()) for _ in range(5)]
    threads = await asyncio.gather(*(start(write, address + index * PAGE) for index in range(PAGES)))
    assert sorted(fault.address for fault in found) == list(range(address, address + len(memory), PAGE))
    assert {fault.thread_id for fault in found} <= set(threads)
    uffd.close()
    await asyncio.gather(*servers)
    assert ring.in_flight == 0


async def test_two_that_wait_for_the_same_page(uffd: aioring.Userfaultfd, memory: mmap.mmap, start: Start) -> None:
    address = uffd.register(memory)
    reading = [start(read, address) for _ in range(2)]
    faults = [await uffd.read() for _ in range(2)]
    assert faults[0].address == faults[1].address
    assert faults[0].thread_id != faults[1].thread_id
    uffd.copy(address, page(b"x"))  # for both
    assert await asyncio.gather(*reading) == [b"x", b"x"]
    with pytest.raises(FileExistsError, match=f"{address:#x}"):
        uffd.copy(address, page(b"y"))
    uffd.wake(address, PAGE)


async def test_a_cancelled_reader_takes_no_fault(
    ring: aioring.Ring, uffd: aioring.Userfaultfd, memory: mmap.mmap, start: Start
) -> None:
    address = uffd.register(memory)
    for index in range(PAGES):
        task = await waiting(ring, uffd.read())
        if index % 2:
            task.cancel()  # asked before the fault, which comes before the end
        writing = start(write, address + index * PAGE)
        until_there_is_one(uffd)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        fault = await uffd.read()
        assert fault.address == address + index * PAGE
        uffd.zero(fault.address, PAGE)
        assert await writing == fault.thread_id
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await uffd.read()
    assert ring.in_flight == 0


async def test_a_storm_of_cancellations(ring: aioring.Ring, uffd: aioring.Userfaultfd, start: Start) -> None:
    with private(500) as memory:
        address = uffd.register(memory)
        writing = start(write, address, len(memory))
        found = []

        async def serve() -> None:
            fault = await uffd.read()
            found.append(fault.address)
            uffd.zero(fault.address, PAGE)

        while len(found) < 500:
            tasks = [asyncio.create_task(serve()) for _ in range(4)]
            for turns in range(4):
                for _ in range(turns):
                    await asyncio.sleep(0)
                tasks[turns].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await writing
        assert found == list(range(address, address + len(memory), PAGE))
        uffd.unregister(memory)
    assert ring.in_flight == 0


async def test_close_while_readers_wait(
    ring: aioring.Ring, uffd: aioring.Userfaultfd, memory: mmap.mmap, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    address = uffd.register(memory)

    async def iterate() -> list[aioring.Fault]:
        return [fault async for fault in uffd]

    readers = [await waiting(ring, uffd.read()) for _ in range(3)]
    iterating = await waiting(ring, iterate())
    cancelled = await waiting(ring, uffd.read())
    cancelled.cancel()
    late = asyncio.create_task(uffd.read())  # it never begins
    reading = pool.submit(read, address)
    until_there_is_one(uffd)
    uffd.close()
    # Without a turn of the loop: nothing has the file any more.
    assert reading.result(10) == b"\0"
    for reader in [*readers, late]:
        with pytest.raises(ValueError, match="closed userfaultfd"):
            await reader
    assert await iterating == []
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert ring.in_flight == 0


async def test_close_with_a_fault_that_a_reader_was_told_of(
    ring: aioring.Ring, uffd: aioring.Userfaultfd, memory: mmap.mmap, start: Start
) -> None:
    reader = await waiting(ring, uffd.read())
    reading = start(read, uffd.register(memory))
    until_there_is_one(uffd)
    for _ in range(3):
        ring._poll(0)  # its poll is done, and it has had no turn yet
    uffd.close()
    with pytest.raises(ValueError, match="closed"):
        await reader
    assert await reading == b"\0"


async def test_the_end_of_the_ring_ends_a_reader(memory: mmap.mmap, start: Start) -> None:
    async with aioring.Ring() as ring:
        uffd = aioring.Userfaultfd(ring)
        address = uffd.register(memory)
        reader = await waiting(ring, uffd.read())
    with pytest.raises(aioring.RingClosedError, match="closed while this operation"):
        await reader
    with pytest.raises(aioring.RingClosedError, match="the ring is closed"):
        await uffd.read()
    writing = start(write, address)
    until_there_is_one(uffd)
    uffd.copy(address, page(b"only reading needs it"))
    await writing
    uffd.close()


async def test_a_guest_whose_loop_is_gone(memory: mmap.mmap, pool: concurrent.futures.ThreadPoolExecutor) -> None:
    """Both outlive the loop, and are closed in its thread."""

    def run() -> None:
        loop = asyncio.SelectorEventLoop()
        ring = aioring.Ring()
        uffd = aioring.Userfaultfd(ring)
        reader = uffd.read()
        task = loop.create_task(reader)

        async def turns() -> None:
            while not ring.in_flight:
                await asyncio.sleep(0)
            await ring.nop()

        loop.run_until_complete(turns())
        loop.close()
        uffd.register(memory)
        uffd.close()
        assert ring.in_flight == 0
        ring.close()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        reader.close()

    await asyncio.wrap_future(pool.submit(run))


# ---- whose it is ---------------------------------------------------------------------------------------------------


async def test_the_ring_of_the_running_loop(memory: mmap.mmap, start: Start) -> None:
    with aioring.Userfaultfd() as uffd:
        address = uffd.register(memory)
        if not isinstance(asyncio.get_running_loop(), aioring.EventLoop):
            with pytest.raises(aioring.RingStateError, match=r"no ring of its own.*open_ring"):
                await uffd.read()
            return
        reading = start(read, address)
        uffd.zero((await uffd.read()).address, PAGE)
        assert await reading == b"\0"


async def test_another_loop(ring: aioring.Ring, uffd: aioring.Userfaultfd, start: Start) -> None:
    reader = await waiting(ring, uffd.read())

    async def use() -> None:
        with pytest.raises(aioring.RingOwnerError, match=r"belongs to .* not to"):
            await uffd.read()
        with pytest.raises(aioring.RingOwnerError, match=r"belongs to .* not to"):
            uffd.close()

    await start(asyncio.run, use())
    assert not uffd.closed
    reader.cancel()


async def test_another_thread(ring: aioring.Ring, uffd: aioring.Userfaultfd, memory: mmap.mmap, start: Start) -> None:
    address = uffd.register(memory)
    reader = await waiting(ring, uffd.read())

    def use() -> None:
        with pytest.raises(aioring.RingOwnerError, match="belongs to the thread of its event loop"):
            uffd.close()
        uffd.copy(address, page(b"from there"))

    await start(use)
    assert memory[:10] == b"from there"
    assert not uffd.closed
    assert not reader.done()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await start(uffd.close)  # nobody reads


async def test_closed_under_calls_of_other_threads(start: Start) -> None:
    """No call uses the number of the fd for what stands there next."""
    for _ in range(20):
        with private(64) as memory:
            uffd = aioring.Userfaultfd()
            address = uffd.register(memory)
            begun = [threading.Event() for _ in range(2)]

            def call(event: threading.Event, uffd: aioring.Userfaultfd = uffd, address: int = address) -> None:
                while True:
                    uffd.wake(address, 64 * PAGE)
                    event.set()

            calling = [start(call, event) for event in begun]
            assert all(event.wait(10) for event in begun)
            uffd.close()
            source, sink = os.pipe()  # one of them has its number
            for one in calling:
                with pytest.raises(ValueError, match=r"closed userfaultfd|is not registered"):
                    await one
            os.close(source)
            os.close(sink)


async def test_fork(ring: aioring.Ring, uffd: aioring.Userfaultfd, memory: mmap.mmap, start: Start) -> None:
    address = uffd.register(memory)
    closed = aioring.Userfaultfd()
    closed.close()
    reader = await waiting(ring, uffd.read())
    fd = uffd.fileno()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of forks beside threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)
            for use in (
                uffd.fileno,
                uffd.__enter__,
                lambda: uffd.read().send(None),
                lambda: uffd.__anext__().send(None),
                lambda: uffd.register(memory),
                lambda: uffd.unregister(memory),
                lambda: uffd.copy(address, page(b"for the parent?")),
                lambda: uffd.zero(address, PAGE),
                lambda: uffd.write_protect(address, PAGE, True),
                lambda: uffd.wake(address, PAGE),
            ):
                with pytest.raises(aioring.RingForkedError, match="belongs to the parent"):
                    use()
            with pytest.raises(ValueError, match="closed"):
                closed.fileno()
            uffd.close()
            assert uffd.closed
            assert memory[0] == 0  # nothing is registered here, and nobody waits
            memory.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0  # nothing else is to run
    writing = start(write, address)
    assert (await reader).address == address
    uffd.copy(address, page(b"for the parent"))
    await writing


async def test_it_is_not_inherited_by_a_program(uffd: aioring.Userfaultfd) -> None:
    assert not os.get_inheritable(uffd.fileno())


# ---- the end -------------------------------------------------------------------------------------------------------


async def test_closed(memory: mmap.mmap, count_fds: Callable[[], int]) -> None:
    before = count_fds()
    with aioring.Userfaultfd() as uffd:
        address = uffd.register(memory)
        assert repr(uffd) == f"<Userfaultfd fd={uffd.fileno()}>"
        assert not uffd.closed
    uffd.close()
    assert uffd.closed
    assert repr(uffd) == "<Userfaultfd closed>"
    for use in (
        uffd.fileno,
        uffd.__enter__,
        lambda: uffd.read().send(None),
        lambda: uffd.register(memory),
        lambda: uffd.unregister(memory),
        lambda: uffd.copy(address, page(b"")),
        lambda: uffd.zero(address, PAGE),
        lambda: uffd.write_protect(address, PAGE, True),
        lambda: uffd.wake(address, PAGE),
    ):
        with pytest.raises(ValueError, match="closed userfaultfd"):
            use()
    assert [fault async for fault in uffd] == []
    assert count_fds() == before


async def test_a_thousand_leave_nothing(
    ring: aioring.Ring, memory: mmap.mmap, start: Start, count_fds: Callable[[], int]
) -> None:
    before = count_fds()
    for index in range(1000):
        with aioring.Userfaultfd(ring) as uffd:
            address = uffd.register(memory)
            if index % 100 == 0:
                reader = await waiting(ring, uffd.read())
                reading = start(read, address)
                if index % 200 == 0:
                    await reader
        if index % 100 == 0:
            assert await reading == b"\0"
            memory.madvise(mmap.MADV_DONTNEED)
            await asyncio.wait([reader])
            reader.exception()
    assert count_fds() == before


async def test_a_forgotten_one_complains_and_leaves_nothing(
    memory: mmap.mmap, pool: concurrent.futures.ThreadPoolExecutor, count_fds: Callable[[], int]
) -> None:
    before = count_fds()
    holder = [aioring.Userfaultfd()]
    reading = pool.submit(read, holder[0].register(memory))
    until_there_is_one(holder[0])
    with pytest.warns(ResourceWarning, match="unclosed <Userfaultfd fd="):
        holder.clear()
    assert reading.result(10) == b"\0"
    assert count_fds() == before


async def test_a_forgotten_reader(
    ring: aioring.Ring, memory: mmap.mmap, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    """Its poll is still under way, and ends with the rest."""
    uffd = aioring.Userfaultfd(ring)
    reader = uffd.read()
    reader.send(None)
    await ring.nop()
    reading = pool.submit(read, uffd.register(memory))
    reader.close()
    del reader
    holder = [uffd]
    del uffd
    with pytest.warns(ResourceWarning, match="unclosed <Userfaultfd fd="):
        holder.clear()
    assert reading.result(10) == b"\0"
    assert ring.in_flight == 0
