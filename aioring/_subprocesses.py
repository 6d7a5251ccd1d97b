# SPDX-License-Identifier: MIT
"""Child processes: asyncio's transport for one, whose end the ring sees by a pidfd."""

from __future__ import annotations

import asyncio
import os
from asyncio import unix_events
from asyncio.log import logger
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aioring._event_loop import EventLoop


async def make_subprocess_transport(
    loop: EventLoop,
    protocol: asyncio.SubprocessProtocol,
    args: Any,
    shell: bool,
    *streams_and_bufsize: Any,
    extra: dict[str, Any] | None = None,
    **popen: Any,
) -> asyncio.SubprocessTransport:
    """Spawns (by vfork(2), where the subprocess module can) and waits until its pipes are connected.

    No child watcher of asyncio's policy is asked: in Python 3.11 that would be a thread for each child.
    """
    waiter = loop.create_future()
    transport: Any = unix_events._UnixSubprocessTransport(  # type: ignore[attr-defined]
        loop, protocol, args, shell, *streams_and_bufsize, waiter=waiter, extra=extra, **popen
    )
    try:
        _watch(loop, transport)
        await waiter
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException:
        transport.close()
        await transport._wait()
        raise
    return transport  # type: ignore[no-any-return]


class _Child:
    """A child that is waited for. Its pidfd is closed with it: at its end, or when the loop is closed before."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._process = transport._proc
        self.pidfd = os.pidfd_open(self._process.pid)  # a child that has ended is a zombie, and has one too

    def ended(self, loop: EventLoop) -> None:
        loop._remove_reader(self.pidfd)
        try:
            _, status = os.waitpid(self._process.pid, 0)
            code = os.waitstatus_to_exitcode(status)
        except ChildProcessError:  # SIGCHLD is ignored, or somebody else waited for it: the transport's close() may
            code = self._process.returncode
            if code is None:
                code = 255  # as asyncio says
                logger.warning("child process pid %d: its exit status was read by others", self._process.pid)
        self._transport._process_exited(code)

    def __del__(self) -> None:
        if (pidfd := getattr(self, "pidfd", -1)) >= 0:
            os.close(pidfd)


def _watch(loop: EventLoop, transport: Any) -> None:
    try:
        child = _Child(transport)
    except OSError:  # no descriptor left: a child that is not watched would never be reaped
        transport._proc.kill()
        transport._process_exited(transport._proc.wait())
        raise
    loop._add_reader(child.pidfd, child.ended, loop)
