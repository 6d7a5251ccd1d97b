# SPDX-License-Identifier: MIT
"""asyncpg, which knows nothing of aioring, in its loop: with a PostgreSQL server, over a Unix socket and with TLS."""

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import postgresql
import pytest
from processes import PATIENCE, until

asyncpg = pytest.importorskip("asyncpg", reason="asyncpg is missing: pip install --group clients")

pytestmark = pytest.mark.asyncio(loop_factories=["aioring"])

Where = dict[str, Any]


@pytest.fixture(scope="module")
def server() -> Iterator[postgresql.Server]:
    """As long as these tests last: those of other modules count their children."""
    if missing := postgresql.missing():
        pytest.skip(f"no {' and '.join(missing)}: Debian has them in postgresql and util-linux")
    with postgresql.serve() as served:
        yield served


@pytest.fixture(params=["unix", "tls"])
def where(server: postgresql.Server, request: pytest.FixtureRequest) -> Where:
    """What asyncpg.connect() needs to know."""
    known = {"user": postgresql.USER, "password": postgresql.PASSWORD, "database": "postgres", "port": server.port}
    if request.param == "unix":
        return {**known, "host": str(server.folder)}
    if server.tls is None:
        pytest.skip("no openssl program to make a certificate with")
    return {**known, "host": "localhost", "ssl": server.tls}


@contextlib.asynccontextmanager
async def connected(where: Where) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(**where)
    try:
        yield connection
    finally:
        await connection.close()


async def until_it_waits(observer: Any, pid: int, event: str) -> None:
    """Until the server's process `pid` is in `event`, as pg_stat_activity calls it."""
    async with asyncio.timeout(PATIENCE):
        while await observer.fetchval("select wait_event from pg_stat_activity where pid = $1", pid) != event:
            pass


async def test_queries(where: Where, count_fds: Callable[[], int]) -> None:
    before = count_fds()
    async with connected(where) as connection:
        in_tls = await connection.fetchval("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
        assert in_tls is ("ssl" in where)
        rows = await connection.fetch("select n, n::text as text from generate_series(1, $1::int) n", 10_000)
        assert [tuple(row) for row in rows] == [(n, str(n)) for n in range(1, 10_001)]
        large = "x" * 5_000_000
        assert await connection.fetchval("select $1::text || 'y'", large) == large + "y"
        assert await connection.fetch("select 1 where false") == []

        await connection.execute("create temp table kept (number int)")
        with pytest.raises(asyncpg.DivisionByZeroError):
            async with connection.transaction():
                await connection.execute("insert into kept values (1)")
                await connection.execute("select 1 / 0")
        async with connection.transaction():
            await connection.executemany("insert into kept values ($1)", [(number,) for number in range(1000)])
        assert await connection.fetchval("select sum(number) from kept") == sum(range(1000))
    await until(lambda: count_fds() == before)


async def test_a_cursor(where: Where) -> None:
    async with connected(where) as connection, connection.transaction():
        prepared = await connection.prepare("select n from generate_series(1, $1::int) n")
        assert [row[0] async for row in prepared.cursor(20_000, prefetch=100)] == list(range(1, 20_001))
        cursor = await prepared.cursor(1000)
        assert await cursor.forward(990) == 990
        assert [row[0] for row in await cursor.fetch(100)] == list(range(991, 1001))
        assert await cursor.fetchrow() is None


# --- COPY ---

ROWS, ROW_SIZE = 400, 100_000  # more than any socket's buffers


async def test_copy_in_waits_for_the_server(where: Where) -> None:
    made = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal made
        for made in range(1, ROWS + 1):
            yield b"%d\t%s\n" % (made, b"x" * ROW_SIZE)

    async with connected(where) as connection, connected(where) as observer, asyncio.TaskGroup() as group:
        await connection.execute("""
            create temp table target (number int, text text);
            create function pg_temp.wait() returns trigger language plpgsql as
                'begin perform pg_advisory_xact_lock_shared(1); return new; end';
            create trigger wait before insert on target for each row execute function pg_temp.wait()
        """)
        await observer.execute("select pg_advisory_lock(1)")
        copying = group.create_task(connection.copy_to_table("target", source=source()))
        await until_it_waits(observer, connection.get_server_pid(), "advisory")
        for _ in range(ROWS):
            await asyncio.sleep(0)
        assert 0 < made < ROWS
        await observer.execute("select pg_advisory_unlock(1)")
        assert await copying == f"COPY {ROWS}"
        found = await connection.fetchrow("select count(*), sum(number), sum(length(text)) from target")
        assert tuple(found) == (ROWS, sum(range(ROWS + 1)), ROWS * ROW_SIZE)

        await connection.execute("create temp table records (number int, text text)")
        records = [(number, str(number)) for number in range(50_000)]
        assert await connection.copy_records_to_table("records", records=records) == "COPY 50000"
        assert [tuple(row) for row in await connection.fetch("select * from records order by number")] == records


async def test_copy_out_waits_for_the_client(where: Where) -> None:
    entered, left = asyncio.Event(), asyncio.Event()
    digest = hashlib.md5()

    async def sink(data: bytes) -> None:
        entered.set()
        await left.wait()
        digest.update(data)

    async with connected(where) as connection, connected(where) as observer, asyncio.TaskGroup() as group:
        query = "select repeat('x', $1) from generate_series(1, $2)"
        copying = group.create_task(connection.copy_from_query(query, ROW_SIZE, ROWS, output=sink))
        await entered.wait()
        await until_it_waits(observer, connection.get_server_pid(), "ClientWrite")
        for _ in range(ROWS):  # turns in which a client that does not wait would have had all of it
            await until_it_waits(observer, connection.get_server_pid(), "ClientWrite")
        left.set()
        assert await copying == f"COPY {ROWS}"
        assert digest.digest() == hashlib.md5((b"x" * ROW_SIZE + b"\n") * ROWS).digest()
        assert await connection.fetchval("select 1") == 1


async def test_a_copy_that_fails_or_is_cancelled(where: Where) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"1\n"
        raise KeyError("mine")

    async def sink(data: bytes) -> None:
        await asyncio.Event().wait()

    async with connected(where) as connection:
        await connection.execute("create temp table target (number int)")
        with pytest.raises(KeyError, match="mine"):
            await connection.copy_to_table("target", source=source())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await connection.copy_from_query("select generate_series(1, 1000000)", output=sink)
        assert await connection.fetchval("select count(*) from target") == 0


# --- many, and news ---


async def test_a_pool(where: Where, count_fds: Callable[[], int]) -> None:
    before = count_fds()
    async with asyncpg.create_pool(**where, min_size=2, max_size=5) as pool:

        async def work(number: int) -> set[int]:
            backends = set()
            for round_ in range(10):
                async with pool.acquire() as connection, connection.transaction():
                    text = f"{number}/{round_};" * 1000
                    found = await connection.fetchrow("select pg_backend_pid(), $1::text", text)
                    assert found[1] == text
                    backends.add(found[0])
            return backends

        backends = await asyncio.gather(*map(work, range(20)))
        assert 2 <= len(set.union(*backends)) <= 5
        assert pool.get_size() <= 5
    await until(lambda: count_fds() == before)


async def test_notifications(where: Where) -> None:
    heard: list[str] = []
    complete = asyncio.Event()

    def listener(connection: Any, pid: int, channel: str, payload: str) -> None:
        assert (connection, pid, channel) == (listening, notifying.get_server_pid(), "news")
        heard.append(payload)
        if len(heard) == 100:
            complete.set()

    async with connected(where) as listening, connected(where) as notifying:
        await listening.add_listener("news", listener)
        for number in range(100):
            await notifying.execute("select pg_notify('news', $1)", str(number))
        async with asyncio.timeout(PATIENCE):  # it asks for nothing: they come by themselves
            await complete.wait()
        assert heard == [str(number) for number in range(100)]
        await listening.remove_listener("news", listener)


# --- what goes wrong ---


async def test_a_query_is_cancelled(where: Where, count_fds: Callable[[], int]) -> None:
    async with connected(where) as connection, connected(where) as observer:
        pid = connection.get_server_pid()
        before = count_fds()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await connection.execute("select pg_sleep(1000)")
            assert await connection.fetchval("select pg_backend_pid()") == pid

            running = asyncio.create_task(connection.execute("select pg_sleep(1000)"))
            await until_it_waits(observer, pid, "PgSleep")
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert await connection.fetchval("select pg_backend_pid()") == pid
        with pytest.raises(TimeoutError):  # by asyncpg itself
            await connection.execute("select pg_sleep(1000)", timeout=0.02)
        assert await connection.fetchval("select pg_backend_pid()") == pid
        await until(lambda: count_fds() == before)  # each cancellation has a connection of its own


async def test_cancelled_while_it_connects(where: Where, count_fds: Callable[[], int]) -> None:
    before, turns = count_fds(), 0
    connecting = asyncio.create_task(asyncpg.connect(**where))
    while not connecting.done():
        turns += 1
        await asyncio.sleep(0)
    await connecting.result().close()
    for twentieth in range(20):  # all along the way
        connecting = asyncio.create_task(asyncpg.connect(**where))
        for _ in range(turns * twentieth // 20):
            await asyncio.sleep(0)
        connecting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await connecting).close()
    await until(lambda: count_fds() == before)


async def test_the_server_ends_a_connection(where: Where, count_fds: Callable[[], int]) -> None:
    async with connected(where) as observer:
        before = count_fds()
        terminate = "select pg_terminate_backend($1)"
        busy = await asyncpg.connect(**where)
        running = asyncio.create_task(busy.execute("select pg_sleep(1000)"))
        await until_it_waits(observer, busy.get_server_pid(), "PgSleep")
        assert await observer.fetchval(terminate, busy.get_server_pid())
        with pytest.raises(asyncpg.ConnectionDoesNotExistError, match="closed in the middle of operation"):
            await running

        told = asyncio.Event()
        idle = await asyncpg.connect(**where)
        idle.add_termination_listener(lambda connection: told.set())
        assert await observer.fetchval(terminate, idle.get_server_pid())
        async with asyncio.timeout(PATIENCE):
            await told.wait()

        for connection in (busy, idle):
            await until(connection.is_closed)
            with pytest.raises(asyncpg.InterfaceError, match="closed"):
                await connection.fetchval("select 1")
            await connection.close()
        await until(lambda: count_fds() == before)

        async with asyncpg.create_pool(**where, min_size=1, max_size=1) as pool:
            first = await pool.fetchval("select pg_backend_pid()")
            assert await observer.fetchval(terminate, first)
            async with asyncio.timeout(PATIENCE):
                while pool.get_size():
                    await asyncio.sleep(0)
            assert await pool.fetchval("select pg_backend_pid()") != first


async def test_no_connection(where: Where, count_fds: Callable[[], int]) -> None:
    before = count_fds()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(**{**where, "password": "wrong"})
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(**{**where, "database": "none"})
    with pytest.raises(OSError, match=r"No such file|refused|Connect call failed"):
        await asyncpg.connect(**{**where, "port": 1})
    await until(lambda: count_fds() == before)


@pytest.mark.parametrize("where", ["tls"], indirect=True)
async def test_a_server_that_is_not_trusted(where: Where, count_fds: Callable[[], int]) -> None:
    before = count_fds()
    with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for '127\.0\.0\.1'"):
        await asyncpg.connect(**{**where, "host": "127.0.0.1"})
    with pytest.raises(ssl.SSLCertVerificationError, match=r"self.signed"):
        await asyncpg.connect(**{**where, "ssl": ssl.create_default_context()})
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="no encryption"):
        await asyncpg.connect(**{**where, "ssl": False})
    await until(lambda: count_fds() == before)
