# SPDX-License-Identifier: MIT
"""What an engine counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

#: Buckets of a histogram: the last one is for 2^41 ns (37 minutes) and longer.
BUCKETS: Final = 43


@dataclass(frozen=True, slots=True)
class Histogram:
    """How long something took, how often. `counts[i]` is how often it took less than 2^i nanoseconds and not less than
    half of that; the last counts all that took longer."""

    counts: tuple[int, ...]
    #: Seconds, of all together.
    sum: float

    @property
    def count(self) -> int:
        """How often in all."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Seconds; 0.0 of nothing."""
        return self.sum / self.count if self.count else 0.0

    @property
    def bounds(self) -> tuple[float, ...]:
        """Seconds below which each bucket lies."""
        return (*(2**i / 1e9 for i in range(BUCKETS - 1)), float("inf"))

    def quantile(self, share: float) -> float:
        """Seconds that `share` (0 to 1) of them took at most; those in one bucket are taken to be spread evenly. 0.0 of
        nothing. Raises ValueError for a share that is none."""
        if not 0 <= share <= 1:
            raise ValueError(f"{share} is no share: it must be from 0 to 1")
        left = share * self.count
        for bucket, count in enumerate(self.counts):
            if count and left <= count:
                above = 1 << bucket
                below = above >> 1
                return (below + (above - below) * left / count) / 1e9
            left -= count
        return 0.0

    def __sub__(self, before: Histogram) -> Histogram:
        """What came since then."""
        counts = tuple(now - then for now, then in zip(self.counts, before.counts, strict=True))
        return Histogram(counts, self.sum - before.sum)


class Stopwatch:
    """Collects durations on the event loop's thread; `take` gives a `Histogram`."""

    __slots__ = ("_counts", "_total")

    def __init__(self) -> None:
        self._counts = [0] * 65
        self._total = 0

    def add(self, duration: int) -> None:
        """One more, of so many nanoseconds: below 2^64, and not negative."""
        self._counts[duration.bit_length()] += 1
        self._total += duration

    def take(self) -> Histogram:
        last = BUCKETS - 1
        return Histogram((*self._counts[:last], sum(self._counts[last:])), self._total / 1e9)


def _gauge(what: str) -> dict[str, str]:
    return {"kind": "gauge", "what": what}


def _counter(what: str) -> dict[str, str]:
    return {"kind": "counter", "what": what}


def _histogram(what: str) -> dict[str, str]:
    return {"kind": "histogram", "what": what}


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What `Engine.statistics` tells: gauges, the state of the moment; counters since the engine was made; histograms
    of durations since then. The metadata of a field (``dataclasses.fields``) say which it is, and of what."""

    alive: int = field(metadata=_gauge("Instances that are open: running, waiting or stopped."))
    running: int = field(metadata=_gauge("Guests that run, as far as the system gives them processors."))
    waiting: int = field(metadata=_gauge("Guests that wait for their turn to run (Config.max_running)."))
    idle: int = field(metadata=_gauge("Worker processes that no instance has: kept for reuse, or spare."))
    processes: int = field(metadata=_gauge("Worker processes, also those being started; 0 if guests run in this one."))
    spawned: int = field(metadata=_counter("Worker processes that were started, or guests that run in this one."))
    reused: int = field(metadata=_counter("Instances that got a process which had served another."))
    killed: int = field(metadata=_counter("Worker processes that died: killed by their engine, or by others."))
    offended: int = field(metadata=_counter("Guests that broke their sandbox's rules, or did not stop when told to."))
    host_calls: int = field(metadata=_counter("Host calls of guests."))
    page_faults: int = field(metadata=_counter("Page faults of guests, served by a pager or told to the host."))
    spawn_time: Histogram = field(metadata=_histogram("Until a new process was ready."))
    queue_time: Histogram = field(metadata=_histogram("Of waits for a turn to run, by those that had to wait."))
    run_time: Histogram = field(metadata=_histogram("From letting a guest run to its next stop, waiting included."))


class Counters:
    """What `Statistics` is made of, where the engine and its home count."""

    __slots__ = (
        "host_calls",
        "killed",
        "offended",
        "page_faults",
        "queue_time",
        "reused",
        "run_time",
        "spawn_time",
        "spawned",
    )

    def __init__(self) -> None:
        self.spawned = self.reused = self.killed = self.offended = 0
        self.host_calls = self.page_faults = 0
        self.spawn_time, self.queue_time, self.run_time = Stopwatch(), Stopwatch(), Stopwatch()
