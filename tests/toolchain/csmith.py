# SPDX-License-Identifier: MIT
# ruff: noqa: T201 - a command
"""Random C programs of csmith's, as programs for this machine and as guests: their checksums must be equal.

usage: python -m tests.toolchain.csmith [--count N] [--seed N] [--jobs J] [--keep DIR]

Seeds are `--seed` and those after it. Each program is compiled for this machine, 64 bits by gcc and 32 bits by the
clang of the package ziglang, and as a guest for latest64 and latest32, at -O0 and -O2; what each prints must be what
the machine of the same width prints. It needs csmith (Debian: ``apt install csmith libcsmith-dev gcc``).

Many of csmith's programs never end, and nobody can tell which: one that the machine itself has not finished in
`--host-seconds` is left out, and counted. So are those that csmith does not finish writing, and those that are at odds
with themselves on this machine, at two levels of optimization: they have no defined result. A guest gets
`--guest-seconds` for what took the machine less than `--host-seconds`.

A program that fails is kept in DIR (``csmith-findings`` in the current directory) as ``SEED.c``, with ``SEED.txt``,
which has the command lines that make it again and what was printed.

Exit status: 0, 1 if something was found, 2 if it could not run.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import functools
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aioring
import vm
from vm import toolchain
from vm.toolchain._compiler import find_compiler

HEADERS: Final = Path("/usr/include/csmith")
LEVELS: Final = ("0", "2")
#: The bits of a machine word, and the guests that are compared with a machine of that width.
WIDTHS: Final = {64: vm.InstructionSet.LATEST64, 32: vm.InstructionSet.LATEST32}
#: What csmith itself gets to write a program: some seeds keep it busy forever.
_GENERATOR_SECONDS: Final = 20.0
#: What csmith assumes, from a file that it otherwise writes to where it is run.
_PLATFORM: Final = "integer size = 4\npointer size = 8\n"
#: csmith's locals are large, and its calls deep.
_STACK: Final = 4 << 20


class CannotRunError(Exception):
    """Something is not installed."""


class LeftOutError(Exception):
    """A program that there is nothing to compare of; says why, in the words that are counted."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that programs get."""

    host: float
    guest: float


@dataclass(slots=True)
class Finding:
    """What is wrong with a program."""

    seed: int
    what: list[str] = field(default_factory=list)


def host_compiler(width: int, level: str) -> list[str]:
    """The command that compiles for this machine, with words of `width` bits."""
    if width == 64:
        return ["gcc", f"-O{level}", "-w"]
    # Debian's gcc has no 32-bit libc, zig brings one. 64-bit integers are aligned as RISC-V has them.
    zig = find_compiler("zig").zig
    options = ("-target", "x86-linux-musl", "-malign-double", "-fno-sanitize=undefined", "-static", "-w")
    return [str(zig), "cc", *options, f"-O{level}"]


def generator(seed: int) -> list[str]:
    return ["csmith", "--seed", str(seed)]


def _printed(command: Sequence[str | Path], folder: Path, seconds: float, too_slow: str) -> str:
    """What a command prints. Raises `LeftOutError` if it takes too long, or fails."""
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise LeftOutError(too_slow) from error
    if done.returncode:
        raise LeftOutError(f"{Path(command[0]).name} failed with status {done.returncode}")
    return done.stdout


def _on_host(source: Path, width: int, level: str, limits: Limits) -> str:
    """What this machine prints."""
    program = source.with_suffix(f".{width}-{level}")
    command = [*host_compiler(width, level), f"-I{HEADERS}", str(source), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotRunError(f"{shlex.join(command)} fails:\n{done.stderr}")
    try:
        return _printed([program], source.parent, limits.host, "too slow on this machine")
    finally:
        program.unlink()


async def _in_guest(engine: vm.Engine, blob: vm.ProgramBlob, seconds: float) -> str:
    """What a guest prints, and how it ended if that was not well."""
    out = bytearray()
    linker = vm.Linker()
    vm.Stdio(stdout=out, stderr=out, args=["program"]).link(linker)
    try:
        module = await engine.compile(blob)
        async with asyncio.timeout(seconds), await linker.instantiate(module) as instance:
            status = await instance.call("main", returns=vm.i32)
    except (vm.VMError, TimeoutError) as error:
        return f"{out.decode(errors='replace')}{type(error).__name__}: {error}\n"
    return out.decode(errors="replace") + (f"exit status {status}\n" if status else "")


async def check(seed: int, folder: Path, engine: vm.Engine, limits: Limits) -> Finding | None:
    """What is wrong with the program of a seed, which is left in `folder`; None: nothing. Raises `LeftOutError`."""
    source = folder / f"{seed}.c"
    text = await asyncio.to_thread(_printed, generator(seed), folder, _GENERATOR_SECONDS, "csmith did not finish")
    source.write_text(text)
    finding = Finding(seed)
    for width, isa in WIDTHS.items():
        wanted = await asyncio.to_thread(_on_host, source, width, "1", limits)
        differing = []
        for level in LEVELS:
            build = functools.partial(
                toolchain.build,
                [source],
                isa=isa,
                opt_level=level,
                include_dirs=[HEADERS],
                flags=["-w"],
                stack_size=_STACK,
            )
            try:
                got = await _in_guest(engine, await asyncio.to_thread(build), limits.guest)
            except toolchain.BuildError as error:
                got = f"{error}\n"
            except toolchain.ElfError as error:
                got = f"not linked: {error}\n"
            if got != wanted:
                differing.append(f"--isa {isa.label} -O {level}: {got.rstrip()}")
        if differing:
            for level in LEVELS:
                if await asyncio.to_thread(_on_host, source, width, level, limits) != wanted:
                    raise LeftOutError(f"at odds with itself on this machine ({width} bits)")
            finding.what += [f"this machine, {width} bits: {wanted.rstrip()}", *differing]
    return finding if finding.what else None


def _keep(finding: Finding, folder: Path, keep: Path) -> None:
    keep.mkdir(parents=True, exist_ok=True)
    name = f"{finding.seed}.c"
    shutil.copyfile(folder / name, keep / name)
    lines = [f"{shlex.join(generator(finding.seed))} > {name}"]
    lines += [
        f"{shlex.join([*host_compiler(width, '1'), f'-I{HEADERS}', name, '-o', str(finding.seed)])}" for width in WIDTHS
    ]
    lines += [
        f"pvm build {name} -o {finding.seed}.polkavm --isa {isa.label} -O {level} -I {HEADERS} --stack-size {_STACK}"
        for isa in WIDTHS.values()
        for level in LEVELS
    ]
    (keep / f"{finding.seed}.txt").write_text("\n".join([*lines, "", *finding.what]) + "\n")


async def search(seeds: Sequence[int], jobs: int, limits: Limits, keep: Path) -> collections.Counter[str]:
    """Checks the programs of all seeds, `jobs` at a time; how many there were of each outcome."""
    outcomes: collections.Counter[str] = collections.Counter()
    waiting = iter(seeds)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="csmith-") as name:
        folder = Path(name)
        (folder / "platform.info").write_text(_PLATFORM)

        async def work(engine: vm.Engine) -> None:
            for seed in waiting:
                try:
                    finding = await check(seed, folder, engine, limits)
                except LeftOutError as error:
                    outcomes[f"left out: {error}"] += 1
                else:
                    outcomes["equal" if finding is None else "different"] += 1
                    if finding is not None:
                        _keep(finding, folder, keep)
                        print("\n  ".join([f"seed {seed}:", *finding.what]), flush=True)
                (folder / f"{seed}.c").unlink(missing_ok=True)
                done = outcomes.total()
                if done % 25 == 0:
                    print(f"{done}/{len(seeds)} in {time.monotonic() - started:.0f} s: {told(outcomes)}", flush=True)

        async with vm.Engine() as engine, asyncio.TaskGroup() as group:
            for _ in range(jobs):
                group.create_task(work(engine))
    return outcomes


def told(outcomes: collections.Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(outcomes.items()))


def _need() -> None:
    """Raises `CannotRunError` for what is not installed."""
    for command in ("csmith", "gcc"):
        if shutil.which(command) is None:
            raise CannotRunError(f"the command {command} is missing: apt install csmith libcsmith-dev gcc")
    if not (HEADERS / "csmith.h").is_file():
        raise CannotRunError(f"{HEADERS} is missing: apt install libcsmith-dev")
    try:
        find_compiler("zig")
    except toolchain.ToolchainError as error:
        raise CannotRunError(str(error)) from error


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="programs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at a time (default: %(default)s)")
    parser.add_argument("--host-seconds", type=float, default=5.0, help="for a program of this machine (%(default)s)")
    parser.add_argument("--guest-seconds", type=float, default=100.0, help="for a guest (default: %(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("csmith-findings"), metavar="DIR", help="(%(default)s)")
    given = parser.parse_args()
    if given.count < 1 or given.seed < 0 or given.jobs < 1 or min(given.host_seconds, given.guest_seconds) <= 0:
        parser.error("--count, --jobs and seconds must be positive, --seed at least 0")
    limits = Limits(given.host_seconds, given.guest_seconds)
    outcomes = None
    try:
        _need()
        outcomes = aioring.run(search(range(given.seed, given.seed + given.count), given.jobs, limits, given.keep))
    except* (CannotRunError, toolchain.ToolchainError) as group:
        print(f"csmith: {group.exceptions[0]}", file=sys.stderr)
    if outcomes is None:
        return 2
    print(f"{outcomes.total()} programs: {told(outcomes)}")
    return 1 if outcomes["different"] else 0


if __name__ == "__main__":
    sys.exit(main())
