# SPDX-License-Identifier: MIT
"""Stream transports: what runs once per connection, over the native half that moves the bytes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import warnings
from asyncio import constants, futures, trsock
from asyncio.log import logger
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aioring import _loop, _streams

if TYPE_CHECKING:
    from aioring._event_loop import EventLoop

# Python 3.13: a server knows its connections (Server.close_clients).
_SERVER_KNOWS_CLIENTS = sys.version_info >= (3, 13)


def _set_nodelay(sock: socket.socket) -> None:
    """Answers are small and awaited: they do not wait for more (tcp(7), TCP_NODELAY).

    asyncio leaves out sockets made without a protocol's number, as socket.socket() makes them, and whatever a listening
    one of these accepts: an answer of two parts takes 40 ms there, the other end's delayed ACK.
    """
    if (
        sock.family in (socket.AF_INET, socket.AF_INET6)
        and sock.type == socket.SOCK_STREAM
        and sock.proto in (0, socket.IPPROTO_TCP)
    ):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class StreamTransport(_loop.StreamTransport):
    """A connected TCP or Unix stream socket, as asyncio's own transport of one: same methods, order and messages."""

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE

    _extra: dict[str, Any]

    def __init__(
        self,
        loop: EventLoop,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None,
        extra: dict[str, Any] | None,
        server: Any,
    ) -> None:
        fd = sock.fileno()
        self._open(loop, sock, fd, server)
        self._extra = extra = {} if extra is None else extra
        extra["socket"] = trsock.TransportSocket(sock)
        extra["sockname"] = extra.get("sockname")
        with contextlib.suppress(OSError):
            extra["sockname"] = sock.getsockname()
        if "peername" not in extra:
            extra["peername"] = None
            with contextlib.suppress(OSError):
                extra["peername"] = sock.getpeername()
        self._high_water = 64 * 1024
        self._low_water = 16 * 1024
        self.set_protocol(protocol)
        if server is not None:
            if _SERVER_KNOWS_CLIENTS:
                server._attach(self)
            else:
                server._attach()
        loop._transports[fd] = self
        _set_nodelay(sock)
        loop.call_soon(protocol.connection_made, self)
        loop.call_soon(self._begin)
        if waiter is not None:
            loop.call_soon(futures._set_result_unless_cancelled, waiter, None)  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        if self._loop is None or self._loop.is_closed():
            state = "closed" if self._sock is None else "closing" if self._closing else "idle"
        elif self._sock is None:
            state = "closed"
        else:
            reading = "polling" if self.is_reading() else "idle"
            writing = "polling" if self.get_write_buffer_size() else "idle"
            closing = "closing " if self._closing else ""
            state = f"{closing}read={reading} write=<{writing}, bufsize={self.get_write_buffer_size()}>"
        return f"<{type(self).__name__} fd={self._sock_fd} {state}>"

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._set_protocol(protocol, isinstance(protocol, asyncio.BufferedProtocol), _streams.adopt(protocol))
        self._protocol_connected = True

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def abort(self) -> None:
        """Close now; what waits to be sent is dropped."""
        self._force_close(None)

    # ---- called by the native half -----------------------------------------------------------------------------

    def _fatal_error(self, error: BaseException, message: str = "Fatal error on transport") -> None:
        if self._loop is None:
            return
        if isinstance(error, OSError):
            if self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=error)
        else:
            self._loop.call_exception_handler(
                {"message": message, "exception": error, "transport": self, "protocol": self._protocol}
            )
        self._force_close(error)

    def _call_connection_lost(self, error: BaseException | None) -> None:
        sock, server, waiter = self._sock, self._server, self._empty_waiter
        if sock is None:
            return
        try:
            if self._protocol_connected:
                self._protocol.connection_lost(error)
        finally:
            self._release()
            sock.close()
            if server is not None:
                if _SERVER_KNOWS_CLIENTS:
                    server._detach(self)
                else:
                    server._detach()
            if waiter is not None and not waiter.done():
                waiter.set_exception(ConnectionError("Connection is closed by peer"))

    def _drained(self) -> None:
        """Everything is sent, and someone waits for that."""
        if self._empty_waiter is not None and not self._empty_waiter.done():
            self._empty_waiter.set_result(None)

    def _warn_lost(self) -> None:
        logger.warning("socket.send() raised exception.")

    # ---- sendfile ----------------------------------------------------------------------------------------------

    def _make_empty_waiter(self) -> asyncio.Future[None]:
        if self._empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._empty_waiter = waiter
        if not self.get_write_buffer_size():
            waiter.set_result(None)
        return waiter

    def _reset_empty_waiter(self) -> None:
        self._empty_waiter = None

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        sock = self._sock
        if sock is not None:
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            sock.close()
