# SPDX-License-Identifier: MIT
"""Typed bindings of guests that were compiled."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
from generated import check, load
from sdk_guests import Build

import vm
from vm import toolchain
from vm.bindings import module_source

SHAPES = """
#include <pvm.h>
#ifndef __cplusplus
#include <stdbool.h>
#endif

struct point { double x, y; };
struct shape {
    struct point *points;
    uint32_t count;
    char name[8];
    bool closed;
    int8_t tags[3];
    float area;
};
PVM_STRUCT(struct point, x, y);
PVM_STRUCT(struct shape, points, count, name, closed, tags, area);

PVM_IMPORT(float, scale, const struct shape *, uint32_t);
PVM_IMPORT(int64_t, clock_ns);
PVM_IMPORT(void, finished, bool, int64_t);

PVM_EXPORT(void *, take, uint32_t);
PVM_EXPORT(struct shape *, make, const struct point *, uint32_t);
PVM_EXPORT(bool, is_closed, const struct shape *);
PVM_EXPORT(int8_t, narrow, int8_t, uint8_t, int16_t, uint16_t);
PVM_EXPORT(uint64_t, wide, uint64_t, int64_t, bool);
PVM_EXPORT(double, half, float);
PVM_EXPORT_AS(int32_t, "not an identifier", odd, int32_t);

static struct shape made;

void *take(uint32_t size) { return malloc(size); }
struct shape *make(const struct point *points, uint32_t count) {
    made.points = (struct point *)points;
    made.count = count;
    memcpy(made.name, "shape", 6);
    made.closed = count > 2;
    made.tags[0] = -1;
    made.tags[2] = 100;
    made.area = scale(&made, count);
    finished(made.closed, clock_ns());
    return &made;
}
bool is_closed(const struct shape *shape) { return shape->closed; }
int8_t narrow(int8_t a, uint8_t b, int16_t c, uint16_t d) { return (int8_t)(a + b + c + d); }
uint64_t wide(uint64_t a, int64_t b, bool c) { return c ? a + (uint64_t)b : a; }
double half(float x) { return x / 2; }
int32_t odd(int32_t x) { return -x; }
"""


class Host:
    """Implements the imports, each in its own way."""

    def __init__(self, made: Any) -> None:
        self._made = made
        self.points: list[Any] = []
        self.end: tuple[object, ...] = ()

    async def scale(self, caller: vm.Caller, address: int, count: int) -> float:
        await asyncio.sleep(0)
        shape = self._made.Shape.read(caller.memory, address)
        size = self._made.Point.SIZE
        self.points = [self._made.Point.read(caller.memory, shape.points + size * i) for i in range(count)]
        return sum(point.x for point in self.points)

    def clock_ns(self, caller: vm.Caller) -> int:
        return -(1 << 40)

    def finished(self, caller: vm.Caller, closed: bool, time: int) -> None:
        self.end = (closed, time)


@pytest.mark.parametrize("suffix", [".c", ".cpp"])
async def test_a_compiled_guest(
    engine: vm.Engine, build: Build, tmp_path: Path, suffix: str, isa: vm.InstructionSet
) -> None:
    blob = build(SHAPES, suffix, isa=isa)
    made: Any = load(blob)
    host = Host(made)
    async with await made.Program.instantiate(await engine.compile(blob), host) as program:
        points = [made.Point(0.5, -1.0), made.Point(2.0, math.inf), made.Point(0.25, 1e300)]
        address = await program.take(made.Point.SIZE * len(points))
        for number, point in enumerate(points):
            point.write(program.memory, address + number * made.Point.SIZE)
        place = await program.make(made.PointPointer(address), len(points))
        shape = made.Shape.read(program.memory, place)
        assert shape == made.Shape(address, 3, b"shape\0\0\0", True, (-1, 0, 100), 2.75)
        assert host.points == points
        assert host.end == (True, -(1 << 40))
        assert await program.is_closed(place) is True
        shape.closed = False
        shape.write(program.memory, place)
        assert await program.is_closed(place) is False
        assert await program.narrow(-128, 255, -32768, 32641) == 0
        assert await program.narrow(-128, 0, 0, 0) == -128
        assert await program.wide(1 << 63, -1, True) == (1 << 63) - 1
        assert await program.wide(2**64 - 1, 0, False) == 2**64 - 1
        assert await program.half(0.5) == 0.25
        assert await program.not_an_identifier(-(2**31) + 1) == 2**31 - 1
        with pytest.raises(OverflowError, match="argument 2 of 'narrow' is 256"):
            await program.narrow(0, 256, 0, 0)


@pytest.mark.timeout(60)  # mypy looks at all of vm
def test_tools_have_nothing_to_say(build: Build, tmp_path: Path) -> None:
    examples = Path(__file__).parents[2] / "examples" / "guests"
    paths = [tmp_path / name for name in ("hello.py", "summing.py")]
    paths[0].write_text(module_source(toolchain.build([examples / "hello.c"])))
    paths[1].write_text(module_source(toolchain.build([examples / "sum.zig"])))
    assert check(paths, [], tmp_path) == ""
