# SPDX-License-Identifier: MIT
"""What only `aioring.EventLoop`'s transports and servers show: what is left when somebody forgets them."""

import asyncio
import contextlib
import gc
import socket
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from transports import Recorder, pair

import aioring


def test_connections_accepted_but_not_served_are_closed(count_fds: Callable[[], int]) -> None:
    """The kernel accepts on its own; what it accepted last goes with the loop."""
    gc.collect()
    before = count_fds()

    async def main() -> None:
        await asyncio.get_running_loop().create_server(asyncio.Protocol, sock=listener)
        for _ in range(3):
            await asyncio.sleep(0)  # the kernel accepts by now

    loop = aioring.EventLoop()
    listener = socket.create_server(("127.0.0.1", 0), backlog=50)
    loop.run_until_complete(main())
    clients = [socket.create_connection(listener.getsockname()) for _ in range(20)]
    loop.close()
    listener.close()
    for client in clients:
        client.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
        client.close()
    assert count_fds() == before


@pytest.mark.asyncio(loop_factories=["aioring"])
async def test_a_failing_protocol_factory() -> None:
    errors: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    told = loop.create_future()

    def note(_: object, context: dict[str, Any]) -> None:
        errors.append(context)
        if not told.done():
            told.set_result(None)

    loop.set_exception_handler(note)

    def factory() -> asyncio.Protocol:
        raise LookupError("on purpose")

    server = await loop.create_server(factory, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        client.setblocking(False)
        await told  # asyncio tells only in debug mode
        assert isinstance(errors[0]["exception"], LookupError)
        assert await loop.sock_recv(client, 1) == b""
    server.close()
    await server.wait_closed()


@pytest.mark.asyncio(loop_factories=["aioring"])
async def test_a_closed_transport_is_collected() -> None:
    protocol, there = await pair()
    gone = weakref.ref(protocol.transport)
    protocol.transport.close()
    await protocol.lost
    there.close()
    del protocol
    for _ in range(3):
        await asyncio.sleep(0)
    gc.collect()
    assert gone() is None


def test_a_forgotten_transport_complains() -> None:
    loop = aioring.EventLoop()
    here, there = socket.socketpair()
    loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=here))
    with pytest.warns(ResourceWarning, match="unclosed transport <StreamTransport fd="):
        loop.close()  # whose operation held it
    there.close()


def test_transports_follow_the_loop_into_another_thread() -> None:
    loop = aioring.EventLoop()

    async def start() -> tuple[Recorder, socket.socket]:
        return await pair()

    async def go_on(protocol: Recorder, there: socket.socket, size: int) -> None:
        there.send(b"x")
        await protocol.until(size)

    protocol, there = loop.run_until_complete(start())
    for size in (1, 2, 3):
        thread = threading.Thread(target=loop.run_until_complete, args=(go_on(protocol, there, size),))
        thread.start()
        thread.join()
    loop.run_until_complete(go_on(protocol, there, 4))
    protocol.transport.close()
    loop.run_until_complete(protocol.lost)
    there.close()
    loop.close()


@pytest.mark.asyncio(loop_factories=["aioring"])
async def test_repr_tells_the_state() -> None:
    protocol, there = await pair()
    assert "read=polling write=<idle, bufsize=0>" in repr(protocol.transport)
    protocol.transport.close()
    await protocol.lost
    assert "closed" in repr(protocol.transport)
    there.close()
