# SPDX-License-Identifier: MIT
"""An engine's statistics for Prometheus; needs the extra ``aioring[prometheus]``.

prometheus_client.REGISTRY.register(vm.prometheus.EngineCollector(engine))
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from vm import Engine, Histogram

#: Buckets below 1 us (2^10 ns) and above 69 s (2^36 ns) are summed up.
_FIRST, _LAST = 10, 36


class EngineCollector(Collector):
    """Reads `Engine.statistics` whenever it is asked, in any thread, also after the engine was closed.

    Names are ``vm_`` and that of the field: ``vm_alive``, ``vm_spawned_total``, ``vm_run_time_seconds``. For several
    engines in one registry give it a mapping, whose keys are the values of the label ``engine``.
    """

    def __init__(self, engine: Engine | Mapping[str, Engine]) -> None:
        self._engines: Mapping[str, Engine] = engine if isinstance(engine, Mapping) else {"": engine}
        self._labels = ["engine"] if isinstance(engine, Mapping) else []

    def collect(self) -> Iterator[Metric]:
        found = {name: engine.statistics() for name, engine in self._engines.items()}
        for field in fields(next(iter(found.values()))) if found else ():
            name, what = f"vm_{field.name}", field.metadata["what"]
            family: GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily
            match field.metadata["kind"]:
                case "gauge":
                    family = GaugeMetricFamily(name, what, labels=self._labels)
                case "counter":
                    family = CounterMetricFamily(name, what, labels=self._labels)
                case _:
                    family = HistogramMetricFamily(f"{name}_seconds", what, labels=self._labels)
            for label, statistics in found.items():
                value = getattr(statistics, field.name)
                labels = [label] if self._labels else []
                if isinstance(family, HistogramMetricFamily):
                    family.add_metric(labels, _buckets(value), value.sum)
                else:
                    family.add_metric(labels, value)
            yield family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Upper bounds, and how many were at most that."""
    sums = list(itertools.accumulate(histogram.counts))
    found = [(repr(bound), float(total)) for bound, total in zip(histogram.bounds, sums, strict=True)]
    return [*found[_FIRST : _LAST + 1], ("+Inf", float(histogram.count))]
