# SPDX-License-Identifier: MIT
"""An engine's statistics for OpenTelemetry; needs the extra ``aioring[opentelemetry]``.

vm.opentelemetry.observe(engine)
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING

from opentelemetry.metrics import CallbackOptions, Meter, Observation, get_meter

from vm import Statistics

if TYPE_CHECKING:
    from vm import Engine


def observe(engine: Engine, meter: Meter | None = None, attributes: Mapping[str, str] | None = None) -> None:
    """Makes observable instruments whose callbacks read `Engine.statistics`, in whatever thread the SDK's reader has.

    Gauges and counters are ``vm.`` and the name of the field: ``vm.alive``, ``vm.spawned``. Of a histogram, which the
    API has no observable instrument for, there are two counters: ``vm.run_time.count``, and ``vm.run_time.sum`` in
    seconds. `attributes` tell engines apart. The engine is not kept: after it is gone there are no observations.
    """
    meter = get_meter("vm") if meter is None else meter
    reference = weakref.ref(engine)
    labels = dict(attributes or {})

    def read(value: Callable[[Statistics], float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observations(options: CallbackOptions) -> Iterable[Observation]:
            engine = reference()
            return [] if engine is None else [Observation(value(engine.statistics()), labels)]

        return observations

    for field in fields(Statistics):
        name, kind, what = field.name, field.metadata["kind"], field.metadata["what"]
        if kind == "gauge":
            meter.create_observable_gauge(f"vm.{name}", [read(_number(name))], description=what)
        elif kind == "counter":
            meter.create_observable_counter(f"vm.{name}", [read(_number(name))], description=what)
        else:
            meter.create_observable_counter(f"vm.{name}.count", [read(_part(name, "count"))], description=what)
            meter.create_observable_counter(f"vm.{name}.sum", [read(_part(name, "sum"))], unit="s", description=what)


def _number(name: str) -> Callable[[Statistics], float]:
    return lambda statistics: getattr(statistics, name)


def _part(name: str, part: str) -> Callable[[Statistics], float]:
    return lambda statistics: getattr(getattr(statistics, name), part)
