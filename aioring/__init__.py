# SPDX-License-Identifier: MIT
"""io_uring for asyncio: a ring of awaitable operations, and an event loop that waits in it.

`open_ring()` gives the ring for whatever loop runs. `Ring` is one of its own, as a guest of that loop. `EventLoop`,
`run()` and `new_event_loop()` are asyncio's loop on io_uring, and `aioring.fs` has files for it. `Userfaultfd` has the
page faults of registered memory. `features()` tells what the kernel can do. What can go wrong is drawn in
`AioringError`'s module.
"""

from aioring._errors import (
    AioringError,
    RingClosedError,
    RingForkedError,
    RingOwnerError,
    RingStateError,
    RingUnavailableError,
    UnsupportedOperationError,
    UserfaultfdUnavailableError,
)
from aioring._event_loop import EventLoop, new_event_loop, open_ring, run
from aioring._features import Feature, Features, UserfaultfdFeature, features
from aioring._operations import Operation
from aioring._ring import Ring
from aioring._userfaultfd import Fault, Userfaultfd

__all__ = [
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
