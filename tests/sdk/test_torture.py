# SPDX-License-Identifier: MIT
"""Programs print as guests what they print as programs of this machine, built by another compiler."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import pytest
from sdk_guests import TORTURE, run_main

import vm
from vm import toolchain

NAMES = sorted(path.name for suffix in ("c", "cpp") for path in TORTURE.glob(f"*.{suffix}"))
LEVELS = ("0", "2")
#: What the interpreter runs in a second or less, of most kinds.
INTERPRETED = (
    *("bytecode.c", "computed_goto.c", "function_pointers.c", "global_data.c", "json.c", "nonlocal_jumps.c"),
    *("many_arguments.c", "structs_by_value.c", "switches.c", "unaligned.c", "varargs.c", "coroutines.cpp"),
    *("static_objects.cpp", "templates.cpp", "virtuals.cpp"),
)
#: What a 32-bit compiler does not have.
ONLY_64_BITS = ("arithmetic128.c",)

Built = Callable[[str, str], vm.ProgramBlob]


def flags_of(name: str) -> list[str]:
    return ["-w", "-std=c++20"] if name.endswith(".cpp") else ["-w", "-std=gnu17"]


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """What a program does here. Built by gcc, as guests are by clang: what both agree on is the language's."""
    if not shutil.which("gcc") or not shutil.which("g++"):
        pytest.skip("there is no gcc and g++ to compare with")
    folder = tmp_path_factory.mktemp("native")

    @cache
    def native(name: str) -> subprocess.CompletedProcess[str]:
        compiler = "g++" if name.endswith(".cpp") else "gcc"
        program = folder / Path(name).stem
        subprocess.run([compiler, *flags_of(name), "-O1", "-o", program, TORTURE / name, "-lm"], check=True)
        return subprocess.run([program], capture_output=True, text=True, check=False, timeout=10)

    return native


@pytest.fixture(scope="session")
def built(isa: vm.InstructionSet, request: pytest.FixtureRequest) -> Iterator[Built]:
    """Guests. Those of all tests that are to be run are built ahead, in the order of the tests, on all processors."""
    futures: dict[tuple[str, str], Future[vm.ProgramBlob]] = {}
    with ThreadPoolExecutor() as pool:
        for item in request.session.items:
            spec = getattr(item, "callspec", None)
            if item.path != Path(__file__) or spec is None or spec.params["isa"] != isa.label:
                continue
            name, level = spec.params["name"], spec.params["level"]
            if (name, level) not in futures and not (name in ONLY_64_BITS and isa.word_bits == 32):
                build = partial(toolchain.build, isa=isa, opt_level=level, flags=flags_of(name))
                futures[name, level] = pool.submit(build, [TORTURE / name])
        try:
            yield lambda name, level: futures[name, level].result()
        finally:
            for future in futures.values():
                future.cancel()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", NAMES)
async def test_a_guest_prints_what_the_machine_prints(
    native: Callable[[str], subprocess.CompletedProcess[str]],
    isa: vm.InstructionSet,
    built: Built,
    name: str,
    level: str,
) -> None:
    if name in ONLY_64_BITS and isa.word_bits == 32:
        pytest.skip("a 32-bit compiler has no such type")
    wanted = native(name)
    got = await run_main(built(name, level))
    assert got.stdout == wanted.stdout
    assert got.status == wanted.returncode
    assert got.stdout.count("\n") >= 1


@pytest.mark.parametrize("level", ["2"])
@pytest.mark.parametrize("name", INTERPRETED)
async def test_the_interpreter_prints_it_too(
    native: Callable[[str], subprocess.CompletedProcess[str]],
    isa: vm.InstructionSet,
    built: Built,
    name: str,
    level: str,
) -> None:
    got = await run_main(built(name, level), config=vm.Config(backend="interpreter"))
    assert (got.stdout, got.status) == (native(name).stdout, native(name).returncode)
