# SPDX-License-Identifier: MIT
"""A protocol that remembers, and a transport with it."""

import asyncio
import socket
from collections.abc import Callable


class Recorder(asyncio.Protocol):
    """Remembers what it is told; `lost` is done when the connection is."""

    def __init__(self, *, keep_open: bool = False) -> None:
        self.told: list[str] = []
        self.data = bytearray()
        self.keep_open = keep_open
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self.came = asyncio.Event()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.told.append("made")
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        self.data += data
        self.came.set()

    def eof_received(self) -> bool:
        self.told.append("eof")
        self.came.set()
        return self.keep_open

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")
        self.came.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.told.append("lost")
        self.lost.set_result(exc)

    async def until(self, size: int) -> None:
        while len(self.data) < size:
            self.came.clear()
            await self.came.wait()


async def pair(*, keep_open: bool = False, kind: Callable[..., Recorder] = Recorder) -> tuple[Recorder, socket.socket]:
    """A transport, and the plain socket at its other end."""
    here, there = socket.socketpair()
    there.setblocking(False)
    _, protocol = await asyncio.get_running_loop().create_connection(lambda: kind(keep_open=keep_open), sock=here)
    return protocol, there
