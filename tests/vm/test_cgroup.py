# SPDX-License-Identifier: MIT
"""What all guests of an engine may use together: real control groups, where this machine lets a test make them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import signal
import time
from pathlib import Path
from typing import cast

import pytest
from guests import basic, memory
from processes import Census, nurseries

import vm
from vm._cgroup import Cgroup, Hierarchy, find_hierarchies, parse_hierarchies
from vm._linux import LinuxHome

MIB = 1 << 20


def directories(controller: str) -> list[Path]:
    """The groups of this process's engines. Others may be there, too."""
    hierarchy = find_hierarchies()[controller]
    return sorted((hierarchy.root / (hierarchy.own or "")).glob(f"pvm-{os.getpid()}-*"))


@pytest.fixture(autouse=True)
def cgroups(nothing_left: Census) -> None:
    """Skips where this process may not make a group with limits."""
    try:
        Cgroup(vm.CgroupLimits(memory=1 << 30, processes=1000, cpu=1)).close()
    except vm.SandboxError as error:
        pytest.skip(str(error))
    assert not directories("pids")


def pids(path: Path) -> set[int]:
    return {int(line) for line in (path / "cgroup.procs").read_text().split()}


async def test_every_process_is_in_it_and_it_goes_with_the_engine() -> None:
    async with vm.Engine(vm.Config(cgroup=vm.CgroupLimits(memory=64 * MIB, processes=9, cpu=0.5))) as engine:
        module = await engine.compile(basic())
        async with await module.instantiate() as first, await module.instantiate() as second:
            assert await first.call("add", 1, 2) == 3
            for controller in ("memory", "pids", "cpu"):
                (path,) = directories(controller)
                assert pids(path) >= {first.pid, second.pid} | nurseries()
                assert os.getpid() not in pids(path)
        (path,) = directories("pids")
        assert (path / "pids.max").read_text() == "10\n"
    assert not any(map(directories, ("memory", "pids", "cpu")))
    await engine.aclose()


async def test_only_the_controllers_that_are_asked_for() -> None:
    async with vm.Engine(vm.Config(cgroup=vm.CgroupLimits(processes=9))):
        assert len(directories("pids")) == 1
        if find_hierarchies()["memory"].version == 1:
            assert not directories("memory")
    async with vm.Engine(vm.Config(cgroup=vm.CgroupLimits())):
        assert not directories("pids")


async def test_each_engine_has_its_own() -> None:
    config = vm.Config(cgroup=vm.CgroupLimits(processes=9))
    async with vm.Engine(config):
        async with vm.Engine(config):
            assert len(directories("pids")) == 2
        assert len(directories("pids")) == 1


async def test_too_much_memory_kills_a_guest_and_no_other() -> None:
    async with vm.Engine(vm.Config(cgroup=vm.CgroupLimits(memory=32 * MIB))) as engine:
        module = await engine.compile(memory())
        async with await module.instantiate() as modest, await module.instantiate() as greedy:
            assert await modest.call("grow", MIB)
            top = await greedy.call("grow", 64 * MIB)
            with pytest.raises(vm.SandboxDiedError, match=r"SIGKILL \(the memory limit of all guests"):
                await greedy.call("fill", top - 64 * MIB, 0x55, 64 * MIB)
            assert await modest.call("grow", 0)
        # what it had is free again
        async with await module.instantiate() as next_one:
            top = await next_one.call("grow", 16 * MIB)
            await next_one.call("fill", top - 16 * MIB, 0x55, 16 * MIB)
            # another death has another reason
            os.kill(next_one.pid, signal.SIGKILL)
            with pytest.raises(vm.SandboxDiedError, match=r"SIGKILL$"):
                await next_one.call("grow", 0)


async def test_as_many_processes_as_there_may_be() -> None:
    async with vm.Engine(vm.Config(cgroup=vm.CgroupLimits(processes=3), spare_workers=2)) as engine:
        modules = [await engine.compile(program) for program in (basic(), memory())]
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3):  # with three idle and spare ones in its way
                await stack.enter_async_context(await modules[0].instantiate())
            with pytest.raises(vm.SandboxError, match=r"CgroupLimits\.processes") as caught:
                await modules[0].instantiate()
            assert caught.value.errno == errno.EAGAIN
        # the idle ones are the other module's
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3):
                instance = await stack.enter_async_context(await modules[1].instantiate())
                assert await instance.call("grow", 0)


async def test_processor_time() -> None:
    """The kernel may be late by a period; a process that is not held back would have ten times as much."""
    async with vm.Engine(vm.Config(cgroup=vm.CgroupLimits(cpu=0.1))) as engine:
        module = await engine.compile(basic())
        async with await module.instantiate() as instance:
            before, started = instance_cpu(instance), time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await instance.call("spin")
            taken, elapsed = instance_cpu(instance) - before, time.monotonic() - started
            assert taken <= 0.1 * elapsed + 0.1


def instance_cpu(instance: vm.Instance) -> float:
    return time.clock_gettime_ns(~instance.pid << 3 | 2) / 1e9  # clock_getcpuclockid(3)


async def test_a_nursery_that_is_replaced() -> None:
    async with vm.Engine(vm.Config(cgroup=vm.CgroupLimits(processes=9))) as engine:
        module = await engine.compile(basic())
        async with await module.instantiate() as instance:
            (nursery,) = nurseries()
            os.kill(nursery, signal.SIGKILL)
            with pytest.raises(vm.SandboxDiedError):
                await instance.call("spin")
        async with await module.instantiate() as instance:
            (path,) = directories("pids")
            assert {instance.pid, *nurseries()} <= pids(path)
            assert nursery not in pids(path)


async def test_what_a_killed_program_left_is_removed() -> None:
    hierarchy = find_hierarchies()["pids"]
    left = hierarchy.root / (hierarchy.own or "") / "pvm-1-0"
    left.mkdir()  # as another engine may find it, too
    async with vm.Engine(vm.Config(cgroup=vm.CgroupLimits(processes=9))):
        assert not left.exists()


async def test_a_group_of_one_s_own_choice() -> None:
    hierarchy = find_hierarchies()["pids"]
    path = f"{hierarchy.own or ''}/test-{os.getpid()}".lstrip("/")
    parent = hierarchy.root / path
    parent.mkdir()
    try:
        async with vm.Engine(vm.Config(cgroup=vm.CgroupLimits(processes=9, parent=f"/{path}"))) as engine:
            module = await engine.compile(basic())
            async with await module.instantiate() as instance:
                (made,) = parent.glob("pvm-*")
                assert instance.pid in pids(made)
    finally:
        parent.rmdir()


async def test_one_that_cannot_be_had(caplog: pytest.LogCaptureFixture) -> None:
    limits = vm.CgroupLimits(memory=64 * MIB, processes=9, parent="/no/such/group")
    with pytest.raises(vm.SandboxError, match=r"cgroup: making a group in .*/no/such/group: No such file") as caught:
        async with vm.Engine(vm.Config(cgroup=limits)):
            pass
    assert "CgroupLimits(parent=)" in caught.value.remedy
    limits = vm.CgroupLimits(processes=9, parent="/no/such/group", required=False)
    with caplog.at_level(logging.WARNING, "vm"):
        async with vm.Engine(vm.Config(cgroup=limits)) as engine:
            module = await engine.compile(basic())
            async with await module.instantiate() as instance:
                assert await instance.call("add", 1, 2) == 3
    (record,) = caplog.records
    assert "/no/such/group" in record.message


async def test_a_limit_that_the_kernel_refuses() -> None:
    """What was made before it is removed."""
    with pytest.raises(vm.SandboxError, match=r"cgroup: writing \d+ to .*pids.max: Invalid argument"):
        async with vm.Engine(vm.Config(cgroup=vm.CgroupLimits(memory=64 * MIB, processes=1 << 40))):
            pass
    assert not any(map(directories, ("memory", "pids")))


@pytest.mark.parametrize("turns", range(0, 30, 3))
async def test_cancelled_while_it_is_made(turns: int) -> None:
    engine = vm.Engine(vm.Config(cgroup=vm.CgroupLimits(processes=9)))
    task = asyncio.create_task(engine.__aenter__())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await engine.aclose()
    assert not directories("pids")


async def test_a_limit_on_processes_of_another_kind(nothing_left: Census) -> None:
    """RLIMIT_NPROC gives the same answer: the nursery's clone3 fails with EAGAIN."""
    if os.getuid():
        pytest.skip("the limit counts all processes of this user")
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (4, hard))  # root's processes are free of it, those of the nursery not
    try:
        async with vm.Engine(vm.Config(spare_workers=0)) as engine:
            module = await engine.compile(basic())
            home = cast(LinuxHome, engine._home)
            async with contextlib.AsyncExitStack() as stack:
                with pytest.raises(vm.SandboxError, match="ulimit -u"):
                    for _ in range(9):
                        await stack.enter_async_context(await module.instantiate())
                there = home.processes
            assert 1 <= there <= 4
            # those that are idle make room
            other = await engine.compile(memory())
            async with await other.instantiate() as instance:
                assert await instance.call("grow", 0)
                assert home.processes <= there
    finally:
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))


async def test_no_process_for_the_nursery(nothing_left: Census) -> None:
    if os.getuid():
        pytest.skip("the limit counts all processes of this user")
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
    try:
        with pytest.raises(vm.SandboxError, match=r"namespaces \(clone3\): .*ulimit -u") as caught:
            async with vm.Engine():
                pass
    finally:
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
    assert caught.value.errno == errno.EAGAIN


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values", [{"memory": 0}, {"memory": 1.5e9}, {"processes": 0}, {"processes": -1}, {"cpu": 0.0}, {"cpu": 1e30}]
)
def test_values_out_of_range(values: dict[str, float]) -> None:
    (name,) = values
    with pytest.raises(ValueError, match=f"cgroup limit {name}"):
        vm.CgroupLimits(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("home", [{"sandbox": "generic"}, {"backend": "interpreter"}])
def test_guests_without_processes(home: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="control group"):
        vm.Config(cgroup=vm.CgroupLimits(processes=9), **home)  # type: ignore[arg-type]


# --- what /proc tells -------------------------------------------------------------------------------------------------

V1 = r"""
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
32 31 0:29 /docker/1 /sys/fs/cgroup/cpu\040acct rw,relatime shared:9 master:1 - cgroup cgroup rw,cpuacct,cpu
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
23 1 0:2 / /proc rw - proc proc rw
"""


@pytest.mark.parametrize(
    ("groups", "memory_group", "cpu_group"),
    [
        ("5:memory:/a/b\n4:cpuacct,cpu:/docker/1/x\n0::/\n", "a/b", "x"),
        ("5:memory:/\n4:cpuacct,cpu:/docker/1\n0::/\n", "", ""),
        ("5:memory:/../x\n4:cpuacct,cpu:/docker/12\n0::/\n", None, None),
        ("0::/\n", None, None),
        ("5:memory:/a:b/c\n", "a:b/c", None),
    ],
)
def test_where_version_1_is(groups: str, memory_group: str | None, cpu_group: str | None) -> None:
    found = parse_hierarchies(groups, V1.strip())
    assert found["memory"] == Hierarchy(1, Path("/sys/fs/cgroup/memory"), memory_group)
    assert found["cpu"] == Hierarchy(1, Path("/sys/fs/cgroup/cpu acct"), cpu_group)


def test_where_version_2_is(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    line = f"30 23 0:26 / {tmp_path} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
    found = parse_hierarchies("0::/user.slice/app.scope\n", line)
    assert found["pids"] == Hierarchy(2, tmp_path, "user.slice/app.scope")
    assert parse_hierarchies("0::/\n", f"{line}31 23 0:27 / /gone rw - cgroup2 cgroup2 rw\n") == {
        name: Hierarchy(2, tmp_path, "") for name in ("cpu", "memory", "pids")
    }
