# SPDX-License-Identifier: MIT
"""The same guests on wasmtime-py: what Python programs run untrusted code with today. Optional."""

from __future__ import annotations

import importlib
import importlib.metadata
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from benchmarks._harness import Contender, Sample, SkipError

_GUEST: Final = """
(module
  (import "host" "get_third_number" (func $third (result i32)))
  (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add)
  (func (export "add_numbers") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add call $third i32.add))
"""


def load() -> Any:
    """The module wasmtime. Raises `SkipError` if it is not installed."""
    try:
        return importlib.import_module("wasmtime")
    except ImportError as error:
        raise SkipError("wasmtime-py: pip install wasmtime") from error


def version() -> str:
    return f"wasmtime-py {importlib.metadata.version('wasmtime')}"


class _Guests:
    """A compiled module, its host function, and instances of it."""

    def __init__(self, delay: float = 0.0) -> None:
        self._wasmtime = wasmtime = load()
        engine = wasmtime.Engine()
        self._engine = engine
        self._module = wasmtime.Module(engine, _GUEST)
        self._linker = wasmtime.Linker(engine)

        def get_third_number() -> int:
            if delay:
                time.sleep(delay)
            return 100

        kind = wasmtime.FuncType([], [wasmtime.ValType.i32()])
        self._linker.define_func("host", "get_third_number", kind, get_third_number)

    def new(self, export: str) -> tuple[Any, Any]:
        """A store and an exported function in a new instance."""
        store = self._wasmtime.Store(self._engine)
        return store, self._linker.instantiate(store, self._module).exports(store)[export]


def calls(export: str, count: int, warm: int) -> Contender:
    guests = _Guests()

    def run() -> Sample:
        store, function = guests.new(export)
        for _ in range(warm):
            function(store, 1, 10)
        started = time.perf_counter()
        for _ in range(count):
            function(store, 1, 10)
        return {"call": (time.perf_counter() - started) / count}

    return run


def fresh(export: str, count: int, warm: int) -> Contender:
    guests = _Guests()

    def once() -> None:
        store, function = guests.new(export)
        function(store, 1, 10)

    def run() -> Sample:
        for _ in range(warm):
            once()
        started = time.perf_counter()
        for _ in range(count):
            once()
        return {"fresh": (time.perf_counter() - started) / count}

    return run


def waiting(count: int, delay: float) -> Contender:
    """`count` guests, each in a thread of its own: the host function cannot be async, so it blocks its thread."""
    guests = _Guests(delay)

    def one() -> None:
        store, function = guests.new("add_numbers")
        function(store, 1, 10)

    def run() -> Sample:
        started = time.perf_counter()
        with ThreadPoolExecutor(count) as pool:
            for future in [pool.submit(one) for _ in range(count)]:
                future.result()
        return {"all": time.perf_counter() - started}

    return run


def function(module: bytes, export: str, argument: int, results: dict[str, int]) -> Contender:
    """One call of an export without imports, from u32 to u64; its result goes to `results`."""
    wasmtime = load()
    engine = wasmtime.Engine()
    compiled = wasmtime.Module(engine, module)

    def run() -> Sample:
        store = wasmtime.Store(engine)
        called = wasmtime.Instance(store, compiled, []).exports(store)[export]
        called(store, 1)
        started = time.perf_counter()
        result = called(store, argument)
        seconds = time.perf_counter() - started
        results["wasmtime"] = result & 0xFFFF_FFFF_FFFF_FFFF
        return {"run": seconds}

    return run
