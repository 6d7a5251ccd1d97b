# SPDX-License-Identifier: MIT
"""`EventLoop`: asyncio's event loop with a native core that waits in a ring of its own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import sys
import weakref
from asyncio import base_events, constants, format_helpers, sslproto, trsock
from collections.abc import AsyncIterator, Callable, Coroutine
from selectors import SelectorKey
from typing import IO, TYPE_CHECKING, Any, TypeVar

from aioring import _loop
from aioring._loop_ring import LoopRing
from aioring._ring import Ring
from aioring._subprocesses import make_subprocess_transport
from aioring._transports import StreamTransport

if TYPE_CHECKING:
    import ssl

    from _typeshed import FileDescriptorLike

    from aioring.fs._raw import RawFile

T = TypeVar("T")

# What accept(2) says where asyncio waits for the shortage to end.
_SHORTAGE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class _Files:
    """Stands where asyncio's loops have their selector: it tells what files are watched, for those who show it."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop

    def get_key(self, fileobj: FileDescriptorLike) -> SelectorKey:
        events = self._loop._watched(fileobj)
        if not events:
            raise KeyError(f"{fileobj!r} is not registered")
        return SelectorKey(fileobj, fileobj if isinstance(fileobj, int) else fileobj.fileno(), events, None)

    def close(self) -> None:
        """Nothing: the loop closes its ring."""


class EventLoop(_loop.Core, asyncio.SelectorEventLoop):
    """asyncio's event loop with a native core, in io_uring: submitting, waiting and reaping are one system call.

    What a program calls often is in C: callbacks, timers, futures and tasks, readers and writers, stream transports,
    servers and the sock_*() methods. What runs once is asyncio's own. Everything of `asyncio.SelectorEventLoop` works,
    with the `Operation`s of `loop.ring` beside it. The loop may be made in one thread and run in another.

    Raises:
        RingUnavailableError: io_uring is missing or blocked; the message says why, and the remedy.
    """

    _ring: LoopRing
    _transports: dict[int, asyncio.BaseTransport]
    slow_callback_duration: float

    if TYPE_CHECKING:  # asyncio's own, which typeshed leaves out

        def _check_closed(self) -> None: ...
        def _check_running(self) -> None: ...
        def _check_thread(self) -> None: ...
        def _check_callback(self, callback: object, method: str) -> None: ...
        def _ensure_fd_no_transport(self, fd: FileDescriptorLike) -> None: ...
        def _accept_connection2(self, *arguments: Any) -> Coroutine[Any, Any, None]: ...

    def __init__(self) -> None:
        self._ring = LoopRing(self)
        self._listeners: dict[int, _loop.Listener] = {}
        self._files: weakref.WeakSet[RawFile] = weakref.WeakSet()  # open ones
        try:
            super().__init__(_Files(self))  # type: ignore[arg-type]
        except BaseException:
            self._ring._close_with_loop()
            self._close_native()
            self._closed = True  # half made: nothing is left for __del__ to warn of
            raise

    @property
    def ring(self) -> Ring:
        """The ring that drives this loop; usable while the loop is open, in its thread."""
        return self._ring

    # ---- running -----------------------------------------------------------------------------------------------

    def run_forever(self) -> None:
        """Run until `stop()`. The ring follows into the calling thread."""
        # As BaseEventLoop does, but before the ring is touched (and in Python 3.13.0 a second run breaks the first).
        self._check_closed()
        self._check_running()
        self._ring._adopt()
        try:
            super().run_forever()
        finally:
            self._ring._leave()

    def close(self) -> None:
        """Close the loop and its ring. What is in flight is cancelled; its end is waited for.

        Raises:
            RingOwnerError: operations are in flight in another thread, which is alive.
        """
        if not self.is_closed() and not self.is_running():
            for listener in self._listeners.values():
                listener.stop()
            self._listeners.clear()
            self._ring._close_with_loop()
        super().close()
        self._close_native()
        with contextlib.ExitStack() as files:  # all of them, even if a warning is an error
            for file in list(self._files):
                files.callback(file._close_forgotten, ", whose event loop is closed")

    def _make_way(self, error: int) -> None:
        self._ring._make_way(error)

    # ---- what the core leaves to Python ------------------------------------------------------------------------

    def _check_call(self, callback: object, method: str) -> None:
        """In debug mode, for call_soon() and its like."""
        if method != "call_soon_threadsafe":
            self._check_thread()
        self._check_callback(callback, method)

    def _trace_handle(self, handle: asyncio.Handle) -> None:
        """In debug mode: where the handle was made."""
        handle._source_traceback = format_helpers.extract_stack(sys._getframe(1))  # type: ignore[attr-defined]

    def _run_checked(self, item: Any) -> None:
        """In debug mode: run a handle or a transport's turn, and tell if it took long."""
        self._current_handle = item if isinstance(item, asyncio.Handle) else None
        try:
            start = self.time()
            item._run()
            took = self.time() - start
            if took >= self.slow_callback_duration:
                shown = base_events._format_handle(item) if isinstance(item, asyncio.Handle) else repr(item)  # type: ignore[attr-defined]
                base_events.logger.warning("Executing %s took %.3f seconds", shown, took)  # type: ignore[attr-defined]
        finally:
            self._current_handle = None

    def _callback_failed(self, handle: Any, error: BaseException) -> None:
        shown = format_helpers._format_callback_source(handle._callback, handle._args)
        context = {"message": f"Exception in callback {shown}", "exception": error, "handle": handle}
        if handle._source_traceback:
            context["source_traceback"] = handle._source_traceback
        self.call_exception_handler(context)

    def _check_socket(self, sock: socket.socket) -> None:
        """For the sock_*() methods: what they cannot work on."""
        base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")

    # ---- transports --------------------------------------------------------------------------------------------

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        *,
        extra: dict[str, Any] | None = None,
        server: Any = None,
    ) -> StreamTransport:
        self._ensure_fd_no_transport(sock)
        return StreamTransport(self, sock, protocol, waiter, extra, server)

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        waiter: asyncio.Future[None] | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = constants.SSL_SHUTDOWN_TIMEOUT,
    ) -> Any:
        self._ensure_fd_no_transport(rawsock)
        ssl_protocol = sslproto.SSLProtocol(
            self,
            protocol,
            sslcontext,
            waiter,  # type: ignore[arg-type]
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,  # type: ignore[arg-type]
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        StreamTransport(self, rawsock, ssl_protocol, None, extra, server)
        return ssl_protocol._app_transport

    async def _sendfile_native(self, transp: Any, file: IO[bytes], offset: int, count: int | None) -> int:
        # As asyncio's, which counts on the transport being in the table.
        self._transports.pop(transp._sock_fd, None)
        resume_reading = transp.is_reading()
        transp.pause_reading()
        await transp._make_empty_waiter()
        try:
            return await self.sock_sendfile(transp._sock, file, offset, count, fallback=False)
        finally:
            transp._reset_empty_waiter()
            if resume_reading:
                transp.resume_reading()
            self._transports[transp._sock_fd] = transp

    async def _make_subprocess_transport(self, *arguments: Any, **options: Any) -> asyncio.SubprocessTransport:
        return await make_subprocess_transport(self, *arguments, **options)

    # ---- servers -----------------------------------------------------------------------------------------------

    # asyncio's give a turn to others once they serve: who is cancelled in it has a server that nobody can close.

    async def create_server(self, *arguments: Any, start_serving: bool = True, **options: Any) -> asyncio.Server:
        """As asyncio's; cancelled, it leaves no server."""
        server = await super().create_server(*arguments, start_serving=False, **options)
        if start_serving:
            server._start_serving()  # type: ignore[attr-defined]
        return server

    async def create_unix_server(self, *arguments: Any, start_serving: bool = True, **options: Any) -> asyncio.Server:
        """As asyncio's; cancelled, it leaves no server."""
        server = await super().create_unix_server(*arguments, start_serving=False, **options)
        if start_serving:
            server._start_serving()  # type: ignore[attr-defined]
        return server

    def _start_serving(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        sslcontext: ssl.SSLContext | None = None,
        server: Any = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = constants.SSL_SHUTDOWN_TIMEOUT,
    ) -> None:
        """Accept connections on a listening socket: the kernel does (multishot accept, Linux 5.19)."""

        def accepted(fd: int) -> None:
            connection = socket.socket(sock.family, sock.type, sock.proto, fileno=fd)
            connection.setblocking(False)
            if sslcontext is not None:
                coroutine = self._accept_connection2(
                    protocol_factory,
                    connection,
                    {},
                    sslcontext,
                    server,
                    ssl_handshake_timeout,
                    ssl_shutdown_timeout,
                )
                self.create_task(coroutine)
                return
            try:
                StreamTransport(self, connection, protocol_factory(), None, {}, server)
            except (SystemExit, KeyboardInterrupt):
                connection.close()
                raise
            except BaseException as error:
                connection.close()
                self.call_exception_handler(
                    {"message": "Error on transport creation for incoming connection", "exception": error}
                )

        def failed(code: int) -> None:
            error = OSError(code, os.strerror(code))
            context = {"exception": error, "socket": trsock.TransportSocket(sock)}
            if code in _SHORTAGE:
                self.call_exception_handler({"message": "socket.accept() out of system resource", **context})
                self.call_later(constants.ACCEPT_RETRY_DELAY, listener.again)
            elif (
                code == errno.EINVAL and sock.fileno() >= 0 and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            ):
                # A kernel without multishot accept.
                listener.stop()
                del self._listeners[sock.fileno()]
                serving = (protocol_factory, sock, sslcontext, server, backlog)
                super(EventLoop, self)._start_serving(*serving, ssl_handshake_timeout, ssl_shutdown_timeout)  # type: ignore[misc]
            else:
                self.call_exception_handler({"message": "socket.accept() failed", **context})

        listener = self._listeners[sock.fileno()] = self._listen(sock.fileno(), accepted, failed)

    def _stop_serving(self, sock: socket.socket) -> None:
        listener = self._listeners.pop(sock.fileno(), None)
        if listener is not None:
            listener.stop()
        super()._stop_serving(sock)  # type: ignore[misc]


def new_event_loop() -> EventLoop:
    """A new `EventLoop`; the `loop_factory` of `asyncio.Runner`."""
    return EventLoop()


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """`asyncio.run()` in an `EventLoop`."""
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("aioring.run() cannot be called from a running event loop")
    with asyncio.Runner(debug=debug, loop_factory=new_event_loop) as runner:
        return runner.run(main)


@contextlib.asynccontextmanager
async def open_ring() -> AsyncIterator[Ring]:
    """The ring for the running loop: an `EventLoop`'s own, or else a new guest `Ring`, closed on leaving.

    Raises:
        RingUnavailableError: io_uring is missing or blocked; the message says why, and the remedy.
    """
    loop = asyncio.get_running_loop()
    if isinstance(loop, EventLoop):
        yield loop.ring
    else:
        async with Ring() as ring:
            yield ring
