# SPDX-License-Identifier: MIT
"""Files of snapshots: damaged ones, those of others, and false ones whose checksum is right."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from guests import LATEST32, MEMORY, basic, build
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import Census, census

import vm
from vm._module_file import encode_config

ONE_LOOP = pytest.mark.asyncio(loop_factories=["aioring"])
CONFIGS = {
    "recompiler": vm.Config(),
    "interpreter": vm.Config(backend="interpreter"),
    "generic": vm.Config(sandbox="generic"),
}
PAGE = 0x1000

# The format as docs/snapshots.md has it, on purpose not the one in vm._snapshot_file.
HEADER = struct.Struct("<8sII32sIIQ")
HEADER_FIELDS = ("magic", "version", "settings", "program", "runs", "zero", "contents")
STATE = struct.Struct("<13Qq8I8B")
REGISTERS = tuple(f"r{n}" for n in range(13))
NUMBERS = ("pc", "next_pc", "host_call", "heap_size", "fault_address", "fault_errno", "signal", "aux_size")
BYTES = ("has_pc", "has_next_pc", "entering", "progress", "event", "fault_write", "zero1", "zero2")
STATE_FIELDS = (*REGISTERS, "gas", *NUMBERS, *BYTES)
DATA, ZERO, INITIAL, GUARDED = 0, 1, 2, 4


class File:
    """A snapshot to be changed; `bytes` makes sizes and checksum right again."""

    def __init__(self, data: bytes) -> None:
        self.header: dict[str, Any] = dict(zip(HEADER_FIELDS, HEADER.unpack_from(data), strict=True))
        at = HEADER.size + self.header["settings"]
        self.settings = data[HEADER.size : at]
        self.state_at = at
        self.state: dict[str, int] = dict(zip(STATE_FIELDS, STATE.unpack_from(data, at), strict=True))
        self.runs_at = at + STATE.size
        end = self.runs_at + 12 * self.header["runs"]
        self.runs = [struct.unpack_from("<III", data, self.runs_at + 12 * n) for n in range(self.header["runs"])]
        self.contents = data[end:-32]

    def offset_of(self, field: str) -> int:
        index = STATE_FIELDS.index(field)
        return self.state_at + (8 * index if index < 14 else 112 + 4 * (index - 14) if index < 22 else 122 + index)

    def __bytes__(self) -> bytes:
        self.header.update(settings=len(self.settings), runs=len(self.runs), contents=len(self.contents))
        runs = b"".join(struct.pack("<III", *run) for run in self.runs)
        state = STATE.pack(*self.state.values())
        return sealed(HEADER.pack(*self.header.values()) + self.settings + state + runs + self.contents)


def sealed(data: bytes) -> bytes:
    return data + hashlib.sha256(data).digest()


@pytest.fixture(params=CONFIGS)
async def engine(nothing_left: Census, request: pytest.FixtureRequest) -> AsyncIterator[vm.Engine]:
    async with vm.Engine(CONFIGS[request.param]) as engine:
        yield engine


async def a_file(module: vm.Module, export: str = "load", argument: int | None = None, heap: int = 3 * PAGE) -> File:
    """Of a guest that was stopped at its first stop in a call, with a page of stack and two of heap."""
    layout = module.memory_map
    async with await module.instantiate() as instance:
        instance.gas = 100
        if heap:
            await instance.call("grow", heap)
            instance.memory.write(layout.rw_address + layout.rw_accessible, b"h" * 2 * PAGE)
        instance.memory.write(layout.stack_low, b"s")
        instance.prepare_call(export, layout.stack_low if argument is None else argument)
        await instance.run()
        return File((await instance.snapshot()).to_bytes())


async def refused(engine: vm.Engine, module: vm.Module, data: bytes, match: str) -> vm.SnapshotLoadError:
    with pytest.raises(vm.SnapshotLoadError, match=match) as caught:
        await engine.load_snapshot(data, module)
    return caught.value


# --- damage -----------------------------------------------------------------------------------------------------------


@ONE_LOOP
async def test_every_byte_counts(engine: vm.Engine) -> None:
    module = await engine.compile(basic())
    async with await module.instantiate() as instance:
        instance.memory.write(module.memory_map.rw_address, b"content")
        data = (await instance.snapshot()).to_bytes()
    # of the contents, one byte in 64
    contents = len(data) - 32 - PAGE
    for at in [*range(contents), *range(contents, len(data) - 32, 64), *range(len(data) - 32, len(data))]:
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        error = await refused(engine, module, bytes(damaged), "cannot load a snapshot from bytes")
        assert error.source == "bytes"
        assert error.offset is not None
        assert 0 <= error.offset <= len(data)
    for size in [*range(300), *range(300, len(data), 97)]:
        await refused(engine, module, data[:size], "not a snapshot|ends in the header|header describes")
    await refused(engine, module, data + b"x", "header describes")
    assert (await engine.load_snapshot(data, module)).to_bytes() == data


@ONE_LOOP
async def test_sizes_are_checked_before_anything_else(engine: vm.Engine) -> None:
    """A header that asks for more than the program can have."""
    module = await engine.compile(build(MEMORY))
    good = bytes(await a_file(module))
    for name, value, match in (
        ("settings", 1 << 20, "bytes of settings"),
        ("runs", 1 << 31, "runs"),
        ("contents", 1 << 60, "bytes of contents"),
        ("version", 2, "version 2"),
        ("magic", b"\x89PVM\r\n\x1a\n", "not a snapshot"),
    ):
        header = dict(zip(HEADER_FIELDS, HEADER.unpack_from(good), strict=True))
        header[name] = value
        await refused(engine, module, HEADER.pack(*header.values()) + good[HEADER.size :], match)


# --- somebody else's --------------------------------------------------------------------------------------------------


@ONE_LOOP
async def test_another_program(engine: vm.Engine) -> None:
    data = bytes(await a_file(await engine.compile(build(MEMORY))))
    error = await refused(engine, await engine.compile(basic()), data, "another program")
    assert error.offset == 16


@ONE_LOOP
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("gas_metering", vm.ModuleConfig(gas_metering="sync")),
        ("page_size", vm.ModuleConfig(page_size=0x4000)),
        ("dynamic_paging", vm.ModuleConfig(dynamic_paging=True)),
        ("step_tracing", vm.ModuleConfig(step_tracing=True)),
        ("aux_data_size", vm.ModuleConfig(aux_data_size=1)),
    ],
)
async def test_other_settings(engine: vm.Engine, name: str, config: vm.ModuleConfig) -> None:
    data = bytes(await a_file(await engine.compile(build(MEMORY))))
    error = await refused(engine, await engine.compile(build(MEMORY), config), data, f"taken with {name}=")
    assert error.offset == HEADER.size


@ONE_LOOP
async def test_settings_that_are_none(engine: vm.Engine) -> None:
    module = await engine.compile(build(MEMORY))
    for wrong in (b"", b"\xff" * 20, encode_config(module.config) + b"x"):
        file = await a_file(module)
        file.settings = wrong
        await refused(engine, module, bytes(file), "settings")


# --- false, with a checksum that is right -----------------------------------------------------------------------------


@ONE_LOOP
@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("gas", -1, "gas is -1"),
        ("heap_size", (1 << 32) - 1, "heap has"),
        ("aux_size", PAGE * 4, "bytes of auxiliary data: "),
        ("aux_size", 5, "not whole pages"),
        ("fault_errno", 5000, "no errno 5000"),
        ("has_pc", 2, "has_pc is 2"),
        ("has_next_pc", 255, "has_next_pc is 255"),
        ("entering", 2, "entering is 2"),
        ("fault_write", 2, "fault_write is 2"),
        ("progress", 1, "progress"),
        ("progress", 3, "progress"),
        ("event", 7, "unknown event 7"),
        ("event", 2, "it has no pc"),
        ("event", 3, "it has no pc"),
        ("zero1", 1, "reserved byte"),
        ("zero2", 1, "reserved byte"),
    ],
)
async def test_a_false_field(engine: vm.Engine, field: str, value: int, match: str) -> None:
    module = await engine.compile(build(MEMORY), vm.ModuleConfig(aux_data_size=PAGE))
    file = await a_file(module)
    file.state[field] = value
    error = await refused(engine, module, bytes(file), match)
    assert error.offset == file.offset_of("has_pc" if "no pc" in match else field)


@ONE_LOOP
async def test_a_register_that_is_too_wide(engine: vm.Engine) -> None:
    module = await engine.compile(build("pub @load:\n ret", LATEST32))
    async with await module.instantiate() as instance:
        file = File((await instance.snapshot()).to_bytes())
    file.state["r7"] = 1 << 32
    error = await refused(engine, module, bytes(file), "register a0 is 0x100000000")
    assert error.offset == file.offset_of("r7")


@ONE_LOOP
async def test_where_no_guest_goes_on(engine: vm.Engine) -> None:
    """A next pc has to be an instruction's, and its progress one that it can have; the host's own may be any."""
    module = await engine.compile(basic())
    async with await module.instantiate() as instance:
        instance.prepare_call("ask", 1)
        await instance.run()
        file = File((await instance.snapshot()).to_bytes())
        starts = {file.state["next_pc"], *module.exports.values()}
    assert (file.state["has_next_pc"], file.state["entering"], file.state["progress"]) == (1, 0, 0)
    good, places = [], set()
    pcs = [*range(len(module.blob.code) + 3), 1 << 31, (1 << 32) - 1]
    for pc in pcs:
        file.state["next_pc"] = pc
        try:
            await engine.load_snapshot(bytes(file), module)
            good.append(pc)
        except vm.SnapshotLoadError as error:
            places.add((str(error).rpartition(" no guest of this program goes on at pc ")[2].split()[0], error.offset))
    bad = {(str(pc), file.offset_of("next_pc")) for pc in pcs if pc not in good}
    assert places == bad
    assert starts <= set(good)
    assert len(good) < len(module.blob.code)
    file.state["next_pc"] = module.exports["add"]
    for progress in (1, 2, 255):
        file.state["progress"] = progress  # nothing there is stepped, paid for apart, or faults
        await refused(engine, module, bytes(file), f"goes on at pc {file.state['next_pc']} at progress {progress}")
    file.state.update(progress=0, entering=1, next_pc=(1 << 32) - 1)
    async with await (await engine.load_snapshot(bytes(file), module)).instantiate() as fork:
        assert isinstance(await fork.run(), vm.Trap)
    file.state.update(has_next_pc=0)
    await refused(engine, module, bytes(file), "enters, but there is no next pc")
    file.state.update(entering=0, event=2)
    await refused(engine, module, bytes(file), "does not go on")


@ONE_LOOP
@pytest.mark.parametrize("paged", [False, True])
async def test_false_runs(engine: vm.Engine, paged: bool) -> None:
    module = await engine.compile(build(MEMORY), vm.ModuleConfig(aux_data_size=PAGE, dynamic_paging=paged))
    layout = module.memory_map
    file = await a_file(module, heap=0 if paged else 3 * PAGE)
    rw, stack, aux = (address // PAGE for address in (layout.rw_address, layout.stack_low, layout.aux_address))
    pages = layout.rw_accessible // PAGE + (0 if paged else 3)
    outside = "not all in one region"
    for runs, number, match in (
        ([(rw, 0, ZERO)], 0, "no pages"),
        ([(rw, 1, 3)], 0, "kind is unknown"),
        ([(rw, 1, 8)], 0, "kind is unknown"),
        ([(rw, 1, 0xFFFFFFFF)], 0, "kind is unknown"),
        ([(rw, 1, ZERO), (rw, 1, ZERO)], 1, "do not come behind"),
        ([(stack, 1, ZERO), (rw, 1, ZERO)], 1, "do not come behind"),
        ([(rw, 2, ZERO), (rw + 1, 1, ZERO)], 1, "do not come behind"),
        ([(rw, pages + 1, ZERO)], 0, outside),
        ([(rw + pages, 1, ZERO)], 0, outside),
        ([(rw, 0xFFFFFFFF, ZERO)], 0, outside),
        ([(0xFFFFFFFF, 1, ZERO)], 0, outside),
        ([(0xFFFFFFFF, 0xFFFFFFFF, DATA)], 0, outside),
        ([(0, 1, ZERO)], 0, outside),
        ([(layout.ro_address // PAGE, 1, DATA)], 0, outside),
        ([(stack - 1, 1, ZERO)], 0, outside),
        ([(stack, 2, ZERO)], 0, outside),
        ([(rw, stack - rw + 1, ZERO)], 0, outside),
        ([(aux, 2, ZERO)], 0, outside),
        ([(aux, 1, ZERO | GUARDED)], 0, "cannot write" if paged else "dynamic paging only"),
        ([(rw, 1, ZERO | GUARDED)] if not paged else [(rw + 1, 1, INITIAL)], 0, "only" if not paged else "no initial"),
        ([(rw, 1, INITIAL)] if not paged else [(stack, 1, INITIAL)], 0, "only" if not paged else "no initial"),
    ):
        file.runs, file.contents = list(runs), b""
        error = await refused(engine, module, bytes(file), match)
        assert error.offset == file.runs_at + 12 * number
        assert f"run number {number}" in str(error)
    file.runs = [(rw, 1, DATA)]
    for contents in (b"", bytes(PAGE - 1), bytes(PAGE + 1)):
        file.contents = contents
        assert (await refused(engine, module, bytes(file), "bytes of contents")).offset == 56


@ONE_LOOP
@pytest.mark.parametrize("paged", [False, True])
async def test_whatever_is_accepted_runs(engine: vm.Engine, paged: bool) -> None:
    """Any file at all is either refused, or makes a guest that runs, stops, and can be saved again."""
    config = vm.ModuleConfig(gas_metering="sync", dynamic_paging=paged, aux_data_size=2 * PAGE)
    module = await engine.compile(build(MEMORY), config)
    linker = vm.Linker()
    linker.on_page_fault(vm.ZeroPager())
    base = bytes(await a_file(module, heap=0 if paged else 3 * PAGE))
    rw, stack, aux = (
        address // PAGE
        for address in (module.memory_map.rw_address, module.memory_map.stack_low, module.memory_map.aux_address)
    )
    pages = st.one_of(*(st.integers(place - 1, place + 5) for place in (rw, stack, aux)), st.integers(0, (1 << 32) - 1))
    kinds = st.sampled_from([DATA, ZERO, INITIAL, DATA | GUARDED, ZERO | GUARDED, INITIAL | GUARDED])
    changes = st.fixed_dictionaries(
        {},
        optional={
            "next_pc": st.integers(0, len(module.blob.code) + 2),
            "heap_size": st.sampled_from([0, 1, PAGE, 3 * PAGE, 1 << 20, module.memory_map.max_heap_size]),
            "aux_size": st.sampled_from([0, PAGE, 2 * PAGE, 3 * PAGE]),
            "has_pc": st.integers(0, 1),
            "has_next_pc": st.integers(0, 1),
            "entering": st.integers(0, 1),
            "progress": st.integers(0, 3),
            "event": st.integers(0, 7),
            "fault_address": st.integers(0, (1 << 32) - 1),
            "gas": st.integers(-1, 200),
            **dict.fromkeys(REGISTERS, st.integers(0, (1 << 64) - 1)),
        },
    )
    runs = st.lists(st.tuples(pages, st.integers(0, 4), kinds), max_size=5)
    accepted = 0

    @settings(
        max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(changes, runs)
    def make(change: dict[str, int], some: list[tuple[int, int, int]]) -> None:
        file = File(base)
        file.state.update(change)
        file.runs = sorted(some)
        file.contents = bytes(sum(count for _, count, kind in some if kind & 3 == DATA) * PAGE)
        files.append(bytes(file))

    files: list[bytes] = []
    make()
    before = census()
    for data in files:
        try:
            snapshot = await engine.load_snapshot(data, module)
        except vm.SnapshotLoadError:
            continue
        accepted += 1
        assert snapshot.to_bytes() == data
        async with await linker.instantiate(snapshot, limits=vm.Limits(wall=5)) as fork:
            if fork.next_program_counter is not None:
                await fork.run()
            (await fork.snapshot()).to_bytes()
            fork.gas = 1000
            assert await fork.call("stack_pointer") == module.memory_map.stack_high
    assert accepted > 5
    assert sum((census() - before).files.values()) <= 5  # of workers that are kept
