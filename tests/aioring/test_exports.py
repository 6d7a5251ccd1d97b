# SPDX-License-Identifier: MIT
import inspect

import aioring
from aioring import _errors


def test_exports() -> None:
    assert sorted(aioring.__all__) == [
        "AioringError",
        "EventLoop",
        "Fault",
        "Feature",
        "Features",
        "Operation",
        "Ring",
        "RingClosedError",
        "RingForkedError",
        "RingOwnerError",
        "RingStateError",
        "RingUnavailableError",
        "UnsupportedOperationError",
        "Userfaultfd",
        "UserfaultfdFeature",
        "UserfaultfdUnavailableError",
        "features",
        "new_event_loop",
        "open_ring",
        "run",
    ]
    assert all(getattr(aioring, name).__doc__ for name in aioring.__all__)


def test_operations_of_a_ring() -> None:
    public = {name for name in dir(aioring.Ring) if not name.startswith("_")}
    assert public == {
        *("openat", "stat", "mkdirat", "unlinkat", "renameat", "linkat", "symlinkat", "waitid", "linked", "send_zc"),
        *("close_file", "fsync", "fallocate", "ftruncate", "splice"),
        *("nop", "read", "readinto", "write", "timeout", "poll", "futex_wait", "futex_wake", "cancel"),
        *("close", "closed", "features", "fileno", "in_flight", "supports"),
    }


def test_the_drawn_tree_is_the_real_one() -> None:
    drawing = inspect.getdoc(_errors) or ""
    drawn = {word for line in drawing.splitlines() for word in line.split() if word.endswith("Error")}
    real = {
        name
        for name, value in vars(_errors).items()
        if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == _errors.__name__
    }
    assert drawn == real
    assert real <= set(aioring.__all__)
    depth = {line.split("── ")[1].split()[0]: line.index("── ") for line in drawing.splitlines() if "── " in line}
    for name in real - {"AioringError"}:
        error = getattr(aioring, name)
        parents = [parent.__name__ for parent in error.__mro__[1:] if parent.__name__ in real]
        assert depth[parents[0]] < depth[name]
