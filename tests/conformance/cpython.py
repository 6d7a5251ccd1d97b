# SPDX-License-Identifier: MIT
"""Runs CPython's own asyncio tests on `aioring.EventLoop`.

    python tests/conformance/cpython.py [MODULE | MODULE.Class.test ...]

The loop stands in for every one that the suite makes: by its policy, by asyncio.new_event_loop() and by
asyncio.SelectorEventLoop(). What is left out is listed here, with the reason. Exit status 1: something failed.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import selectors
import sys
import unittest
from collections.abc import Iterator
from typing import Any

import aioring

#: Modules of test.test_asyncio that run a loop.
MODULES = (
    "test_base_events",
    "test_buffered_proto",
    "test_context",
    "test_eager_task_factory",
    "test_events",
    "test_free_threading",
    "test_futures",
    "test_futures2",
    "test_locks",
    "test_pep492",
    "test_protocols",
    "test_queues",
    "test_runners",
    "test_sendfile",
    "test_server",
    "test_sock_lowlevel",
    "test_ssl",
    "test_sslproto",
    "test_staggered",
    "test_streams",
    "test_subprocess",
    "test_taskgroups",
    "test_tasks",
    "test_threads",
    "test_timeouts",
    "test_transports",
    "test_unix_events",
    "test_waitfor",
)

_OTHER_SELECTOR = "the tests of EPollEventLoopTests again, with another selector; our loop has none"

_MOCK_SOCKET = "its sockets are mocks without a file descriptor, and the system calls are made by fd"

_NO_WATCHER = "it is about the policy's child watcher; our loop sees the end of its children by itself"

#: Class, or Class.test -> why it is not for us.
SKIPPED: dict[str, str] = {
    "KqueueEventLoopTests": _OTHER_SELECTOR,
    "PollEventLoopTests": _OTHER_SELECTOR,
    "SelectEventLoopTests": _OTHER_SELECTOR,
    "BaseEventLoopWithSelectorTests.test_create_connection_ip_addr": _MOCK_SOCKET,
    "BaseEventLoopWithSelectorTests.test_create_connection_ipv6_scope": _MOCK_SOCKET,
    "BaseEventLoopWithSelectorTests.test_create_connection_no_inet_pton": _MOCK_SOCKET,
    "BaseEventLoopWithSelectorTests.test_create_connection_service_name": _MOCK_SOCKET,
    "BaseEventLoopWithSelectorTests.test_create_datagram_endpoint_ip_addr": _MOCK_SOCKET,
    "BaseEventLoopWithSelectorTests.test_create_server_soreuseport_only_defined": _MOCK_SOCKET,
    "GenericWatcherTests.test_create_subprocess_fails_with_inactive_watcher": _NO_WATCHER,
}


class _Loop(aioring.EventLoop):
    """Where the suite hands a selector to its loop, ours takes its place."""

    def __init__(self, selector: selectors.BaseSelector | None = None) -> None:
        if selector is not None:
            selector.close()
        super().__init__()


class _Policy(asyncio.DefaultEventLoopPolicy):
    _loop_factory = _Loop  # type: ignore[assignment]


def available() -> list[str]:
    """The modules that this Python's suite has; none where the distribution leaves the suite out."""
    if importlib.util.find_spec("test") is None or importlib.util.find_spec("test.test_asyncio") is None:
        return []
    return [name for name in MODULES if importlib.util.find_spec(f"test.test_asyncio.{name}") is not None]


def _tests(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from _tests(test)
        else:
            yield test


def _selected(suite: unittest.TestSuite) -> unittest.TestSuite:
    result = unittest.TestSuite()
    for test in _tests(suite):
        kind, name = type(test).__name__, test._testMethodName
        if reason := SKIPPED.get(kind) or SKIPPED.get(f"{kind}.{name}"):
            setattr(test, name, unittest.skip(reason)(getattr(test, name)))
        result.addTest(test)
    return result


def main(names: list[str]) -> int:
    # Looked up when the tests call it.
    asyncio.SelectorEventLoop = _Loop  # type: ignore[misc]
    if sys.version_info >= (3, 13):
        asyncio.EventLoop = _Loop
    asyncio.set_event_loop_policy(_Policy())
    suite = unittest.TestSuite()
    for name in names or available():
        module, _, rest = name.partition(".")
        imported: Any = importlib.import_module(f"test.test_asyncio.{module}")
        # Some tests call the module's tearDownModule(), which puts the default policy back; ours stays.
        imported.tearDownModule = lambda: None
        loader = unittest.defaultTestLoader
        suite.addTest(loader.loadTestsFromName(rest, imported) if rest else loader.loadTestsFromModule(imported))
    result = unittest.TextTestRunner(verbosity=1).run(_selected(suite))
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
