# SPDX-License-Identifier: MIT
"""What an engine counts, and who can read it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import signal
import subprocess
import sys
import threading

import pytest
from guests import BASIC, build
from processes import until

import vm
from vm._statistics import BUCKETS, Stopwatch

MIB = 1 << 20


def linker() -> vm.Linker:
    made = vm.Linker()
    made.define("ask", lambda caller, value: value)
    return made


# --- histograms ---


def test_an_empty_histogram() -> None:
    empty = Stopwatch().take()
    assert (empty.count, empty.sum, empty.mean, empty.quantile(0.5)) == (0, 0.0, 0.0, 0.0)


def test_durations_fall_into_their_buckets() -> None:
    watch = Stopwatch()
    for duration in (0, 1, 2, 3, 4, 1000, 1 << 60):
        watch.add(duration)
    histogram = watch.take()
    assert histogram.count == 7
    assert histogram.counts[:4] == (1, 1, 2, 1)
    assert histogram.counts[10] == 1
    assert histogram.counts[-1] == 1
    assert len(histogram.counts) == len(histogram.bounds) == BUCKETS
    assert histogram.sum == pytest.approx((1010 + (1 << 60)) / 1e9)
    for bound, count in zip(histogram.bounds[:3], (0, 1, 2), strict=True):
        assert sum(duration < bound * 1e9 for duration in (0, 1, 2, 3, 4)) > count - 1


def test_quantiles_are_within_a_factor_of_two() -> None:
    watch = Stopwatch()
    for duration in range(1, 1001):
        watch.add(duration * 1000)
    histogram = watch.take()
    for share in (0.01, 0.1, 0.5, 0.9, 0.99, 1.0):
        exact = share * 1e-3
        assert exact / 2 <= histogram.quantile(share) <= 2 * exact
    assert histogram.quantile(0.25) <= histogram.quantile(0.75)
    with pytest.raises(ValueError, match="no share"):
        histogram.quantile(1.5)


def test_what_came_since() -> None:
    watch = Stopwatch()
    watch.add(1000)
    before = watch.take()
    watch.add(3000)
    since = watch.take() - before
    assert since.count == 1
    assert since.sum == pytest.approx(3e-6)


# --- counts ---


async def test_a_life_in_numbers(engine: vm.Engine) -> None:
    module = await engine.compile(build(BASIC, imports=["ask"]))
    assert engine.statistics().alive == 0
    one = await linker().instantiate(module)
    two = await linker().instantiate(module)
    now = engine.statistics()
    assert (now.alive, now.running, now.waiting) == (2, 0, 0)
    assert now.spawned >= 2
    assert now.processes >= 2
    assert now.spawn_time.count == now.spawned
    await one.call("add", 1, 2)
    await one.call("negate", 1)
    assert engine.statistics().run_time.count == 2
    assert engine.statistics().host_calls == 0
    await one.aclose()
    await one.aclose()
    assert engine.statistics().alive == 1
    async with await linker().instantiate(module) as three:
        assert engine.statistics().reused == 1
        spinning = asyncio.create_task(three.call("spin"))
        await until(lambda: engine.statistics().running == 1)
        spinning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await spinning
        assert engine.statistics().running == 0
    await two.aclose()
    await until(lambda: engine.statistics().idle == engine.statistics().processes)
    assert engine.statistics().killed == 0
    await engine.aclose()
    end = engine.statistics()
    assert (end.alive, end.idle, end.processes) == (0, 0, 0)
    assert end.killed == end.spawned


async def test_host_calls_are_counted(engine: vm.Engine) -> None:
    module = await engine.compile(build("pub @twice:\n    ecalli 0\n    ecalli 0\n    ret\n", imports=["ask"]))
    async with await linker().instantiate(module) as instance:
        await instance.call("twice", 5)
        await instance.call("twice", 5)
    assert engine.statistics().host_calls == 4
    assert engine.statistics().run_time.count == 6


async def test_waits_for_a_turn(nothing_left: object) -> None:
    async with vm.Engine(vm.Config(max_running=1)) as engine:
        module = await engine.compile(build(BASIC, imports=["ask"]))
        async with await linker().instantiate(module) as one, await linker().instantiate(module) as two:
            spinning = asyncio.create_task(one.call("spin"))
            await until(lambda: engine.statistics().running == 1)
            assert engine.statistics().queue_time.count == 0
            assert await two.call("add", 1, 2) == 3
            waited = engine.statistics().queue_time
            assert waited.count >= 1
            assert waited.sum > 0
            spinning.cancel()
            with pytest.raises(asyncio.CancelledError):
                await spinning


@pytest.mark.parametrize("pager", [False, True])
async def test_page_faults_are_counted(engine: vm.Engine, pager: bool) -> None:
    text = f"%rw_data_size = {MIB}\npub @touch:\n    u8 [a0] = a0\n    ret\n"
    module = await engine.compile(build(text), vm.ModuleConfig(dynamic_paging=True))
    made = vm.Linker()
    if pager:
        made.on_page_fault(vm.ZeroPager())
    else:
        made.on_page_fault(lambda caller, fault: caller.memory.zero(fault.address, fault.size))
    instance = await made.instantiate(module)
    start = module.memory_map.rw_address
    before = engine.statistics().page_faults
    await instance.call("touch", start + MIB // 2)
    seen = engine.statistics().page_faults
    assert seen > before
    await instance.aclose()
    assert engine.statistics().page_faults == seen


async def test_a_process_that_others_kill(engine: vm.Engine, caplog: pytest.LogCaptureFixture) -> None:
    module = await engine.compile(build(BASIC, imports=["ask"]))
    async with await linker().instantiate(module) as instance:
        with caplog.at_level(logging.INFO, "vm"):
            os.kill(instance.pid, signal.SIGKILL)
            await until(lambda: engine.statistics().killed == 1)
        assert f"{instance.pid}" in caplog.text
        assert "SIGKILL" in caplog.text


async def test_an_instance_that_nobody_closed(engine: vm.Engine) -> None:
    module = await engine.compile(build(BASIC, imports=["ask"]))
    instance = await linker().instantiate(module)
    with pytest.warns(ResourceWarning, match="unclosed"):
        instance.__del__()
    assert engine.statistics().alive == 0


@pytest.mark.parametrize("config", [vm.Config(backend="interpreter"), vm.Config(sandbox="generic")], ids=str)
async def test_guests_in_this_process(config: vm.Config) -> None:
    async with vm.Engine(config) as engine:
        module = await engine.compile(build(BASIC, imports=["ask"]))
        async with await linker().instantiate(module) as instance:
            assert await instance.call("add", 1, 2) == 3
            now = engine.statistics()
            assert (now.alive, now.spawned, now.processes, now.idle) == (1, 1, 0, 0)
            assert now.run_time.count == 1


async def test_statistics_from_another_thread(engine: vm.Engine) -> None:
    module = await engine.compile(build(BASIC, imports=["ask"]))
    stop = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                engine.statistics()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for _ in range(30):
            async with await linker().instantiate(module) as instance:
                await instance.call("add", 1, 2)
    finally:
        stop.set()
        await asyncio.to_thread(thread.join)
    assert not failures


async def test_they_are_frozen(engine: vm.Engine) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        engine.statistics().alive = 5  # type: ignore[misc]


# --- exporters ---


async def test_prometheus(engine: vm.Engine) -> None:
    client = pytest.importorskip("prometheus_client")
    from vm.prometheus import EngineCollector

    module = await engine.compile(build(BASIC, imports=["ask"]))
    async with await linker().instantiate(module) as instance:
        for _ in range(3):
            await instance.call("add", 1, 2)
        registry = client.CollectorRegistry()
        registry.register(EngineCollector(engine))
        assert registry.get_sample_value("vm_alive") == 1
        assert registry.get_sample_value("vm_spawned_total") == engine.statistics().spawned
        assert registry.get_sample_value("vm_run_time_seconds_count") == 3
        assert registry.get_sample_value("vm_run_time_seconds_bucket", {"le": "+Inf"}) == 3
        assert registry.get_sample_value("vm_run_time_seconds_sum") == engine.statistics().run_time.sum
        text = client.generate_latest(registry).decode()
        for field in dataclasses.fields(vm.Statistics):
            assert f"vm_{field.name}" in text
            assert field.metadata["what"] in text

        several = client.CollectorRegistry()
        several.register(EngineCollector({"one": engine, "two": engine}))
        assert several.get_sample_value("vm_alive", {"engine": "two"}) == 1
    empty = client.CollectorRegistry()
    empty.register(EngineCollector({}))
    assert client.generate_latest(empty) == b""


async def test_opentelemetry(engine: vm.Engine) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from vm.opentelemetry import observe

    module = await engine.compile(build(BASIC, imports=["ask"]))
    async with await linker().instantiate(module) as instance:
        await instance.call("add", 1, 2)
        reader = InMemoryMetricReader()
        provider = MeterProvider([reader])
        observe(engine, provider.get_meter("test"), {"engine": "mine"})
        data = reader.get_metrics_data()
        assert data is not None
        found = {
            metric.name: metric.data.data_points[0]
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }
        assert found["vm.alive"].value == 1
        assert found["vm.run_time.count"].value == 1
        assert found["vm.run_time.sum"].value > 0
        assert dict(found["vm.spawned"].attributes) == {"engine": "mine"}
        provider.shutdown()


def test_neither_exporter_is_needed() -> None:
    program = "import sys, vm; sys.exit(any(name in sys.modules for name in ('prometheus_client', 'opentelemetry')))"
    subprocess.run([sys.executable, "-c", program], check=True)
