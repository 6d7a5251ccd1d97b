# SPDX-License-Identifier: MIT
"""A compiler, and programs built with it. Skips where there is none; the libc is built once for all tests."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aioring
import vm
from vm import toolchain
from vm.toolchain._compiler import find_compiler, target_of
from vm.toolchain._libc import cxx_library, library

# As in the tests' own conftest: this lets tests import the modules beside them.
sys.path.insert(0, str(Path(__file__).parent))

from sdk_guests import ISA, Build


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """One loop will do: what differs between them is not compiled C."""
    return {"aioring": aioring.EventLoop}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Libraries are built in the set-up of the first test that needs them.
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(20, func_only=True))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache that builds use, ours alone."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


def _prepare(isa: vm.InstructionSet, *, cxx: bool) -> None:
    """Has the libraries built, which is no test's own time. Skips where they cannot be."""
    pytest.importorskip("ziglang", reason="the Python package ziglang is not installed")
    try:
        found = find_compiler("zig")
    except toolchain.ToolchainError as error:
        pytest.skip(str(error))
    (cxx_library if cxx else library)(found, target_of(isa))


@pytest.fixture(scope="session")
def compiler(cache: Path) -> None:
    """A compiler for C is there, and its libc."""
    _prepare(vm.InstructionSet.LATEST64, cxx=False)


@pytest.fixture(scope="session")
def cxx_compiler(compiler: None) -> None:
    """The same for C++."""
    _prepare(vm.InstructionSet.LATEST64, cxx=True)


@pytest.fixture(scope="session", params=["latest64", "latest32"])
def isa(cxx_compiler: None, request: pytest.FixtureRequest) -> vm.InstructionSet:
    """Every instruction set that compilers are driven for, with C and C++."""
    isa = ISA[request.param]
    _prepare(isa, cxx=False)
    _prepare(isa, cxx=True)
    return isa


@pytest.fixture
def build(compiler: None, tmp_path: Path) -> Build:
    """Builds text of the language that a suffix names, with warnings as errors."""

    def build(text: str, suffix: str = ".c", *more: Path, **options: Any) -> vm.ProgramBlob:
        source = tmp_path / f"source{suffix}"
        source.write_text(text)
        flags = () if suffix == ".zig" else ("-Wall", "-Wextra", "-Werror")
        return toolchain.build([source, *more], **{"flags": flags, **options})

    return build
