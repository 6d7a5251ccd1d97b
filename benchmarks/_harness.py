# SPDX-License-Identifier: MIT
"""How all benchmarks measure: contenders in interleaved rounds (A B A B), medians, and ratios within a round.

A machine that others use too gives nonsense, and a contender that polls suffers from it more than one that sleeps.
So a sample is taken when the machine is idle, and again if it is not idle right after; patience for that is bounded,
and the report counts the samples for which it ran out.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

ROOT: Final = Path(__file__).resolve().parent.parent
PROGRAMS: Final = ROOT.parent / "shared" / "programs"
WAD: Final = Path("/usr/share/games/doom/freedoom1.wad")

#: A share of all processors; background daemons stay below it, a compiler or a test suite does not.
_IDLE: Final = 0.10
_WINDOW: Final = 0.15
#: What this process did itself right before has to settle: dying guests, the kernel's workers.
_SETTLE: Final = 0.05

#: What one run of a contender measured: seconds by name (or counts).
Sample: TypeAlias = dict[str, float]
Contender: TypeAlias = Callable[[], Sample]
#: Samples by contender, in the order of the rounds.
Samples: TypeAlias = dict[str, list[Sample]]


class SkipError(Exception):
    """Something that a benchmark needs is missing; says what and how to get it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table: what we take, what the peer takes, one sample per round each."""

    what: str
    #: Seconds, or a count if `unit` is empty.
    ours: Sequence[float]
    #: Empty: nothing to compare with.
    peer: Sequence[float] = ()
    #: Who the peer is.
    against: str = ""
    #: The ratio promised.
    goal: float | None = None
    unit: str = "s"

    def ratios(self) -> list[float]:
        """Ours by the peer's, round by round; below 1 we are faster."""
        return [a / b for a, b in zip(self.ours, self.peer, strict=False) if b > 0]


@dataclass(frozen=True, slots=True)
class Report:
    """What one benchmark found."""

    title: str
    rows: list[Row] = field(default_factory=list)
    #: What could not be measured, and why.
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Options:
    """The arguments that all benchmarks share."""

    rounds: int
    ticks: int
    #: Seconds that a benchmark waits in all for others to leave the machine alone.
    patience: float
    quick: bool
    samples: int = 0
    disturbed: int = 0


def options_parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of all contenders (default: %(default)s)")
    parser.add_argument("--ticks", type=int, default=2001, help="frames of DOOM (default: %(default)s)")
    parser.add_argument(
        "--patience", type=float, default=120.0, help="seconds to wait per benchmark for an idle machine (%(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="at most 3 rounds, 351 ticks, 100 guests: does it work?")
    return parser


def read_options(parser: argparse.ArgumentParser) -> tuple[Options, Arguments]:
    """The shared options, and all arguments."""
    given = parser.parse_args(namespace=Arguments())
    if given.rounds < 1 or given.ticks < 1 or given.patience < 0:
        parser.error("--rounds and --ticks must be at least 1, --patience at least 0")
    rounds, ticks = (min(given.rounds, 3), min(given.ticks, 351)) if given.quick else (given.rounds, given.ticks)
    return Options(rounds=rounds, ticks=ticks, patience=given.patience, quick=given.quick), given


class Arguments(argparse.Namespace):
    """What the command line said; the last two are those of `python -m benchmarks` alone."""

    rounds: int
    ticks: int
    patience: float
    quick: bool
    programs: list[str]
    dry_run: bool


# --- measuring ---


def interleave(contenders: Mapping[str, Contender], options: Options) -> Samples:
    """Runs all contenders in turn, `options.rounds` times, each on an idle machine if patience allows."""
    samples: Samples = {name: [] for name in contenders}
    for number in range(1, options.rounds + 1):
        for name, contender in contenders.items():
            progress(f"round {number}/{options.rounds}: {name}")
            samples[name].append(_undisturbed(contender, options))
    progress("")
    return samples


def add_contenders(
    contenders: dict[str, Contender], makers: Mapping[str, Callable[[], Contender]], report: Report
) -> None:
    """Adds what `makers` make: first ours, then those that are compared with it.

    A peer that cannot run is left out. If ours cannot, so are its peers. The report says why.
    """
    for number, (name, make) in enumerate(makers.items()):
        try:
            contenders[name] = make()
        except SkipError as error:
            if str(error) not in report.skipped:
                report.skipped.append(str(error))
            if number == 0:
                return


def _undisturbed(contender: Contender, options: Options) -> Sample:
    while True:
        calm = _wait_for_idle(options)
        started = time.monotonic()
        sample = contender()
        lasted = time.monotonic() - started
        time.sleep(_SETTLE)
        calm = calm and _busy_share() < _IDLE
        if calm or options.patience <= 0:
            options.samples += 1
            options.disturbed += not calm
            return sample
        options.patience -= lasted


def _wait_for_idle(options: Options) -> bool:
    while True:
        started = time.monotonic()
        if _busy_share() < _IDLE:
            return True
        if options.patience <= 0:
            return False
        options.patience -= time.monotonic() - started


def _busy_share() -> float:
    """Which share of all processors is busy while this process does nothing, stolen time included (proc(5))."""

    def times() -> tuple[int, int]:
        words = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(words), words[3] + words[4]  # idle and iowait

    total, idle = times()
    time.sleep(_WINDOW)
    total_after, idle_after = times()
    passed = total_after - total
    return 1 - (idle_after - idle) / passed if passed else 0.0


def column(samples: Iterable[Sample], name: str) -> list[float]:
    """One measurement of every sample that has it."""
    return [sample[name] for sample in samples if name in sample]


def per(values: Iterable[float], count: int) -> list[float]:
    return [value / count for value in values]


# --- what /proc says about a process ---


def schedule(pid: int | None) -> tuple[float, float]:
    """Seconds that the main thread of a process was on a processor, and that it waited for one (proc(5), schedstat)."""
    if pid is None:
        return 0.0, 0.0
    words = Path(f"/proc/{pid}/schedstat").read_text().split()
    return int(words[0]) / 1e9, int(words[1]) / 1e9


def sleeps(pid: int | None) -> int:
    """How often it went to sleep by itself (proc(5), status: voluntary_ctxt_switches)."""
    if pid is None:
        return 0
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches:"):
            return int(line.split()[1])
    return 0


# --- needs ---


def need_file(path: Path, how: str) -> Path:
    """`path`, if it is there. Raises `SkipError` with what to do."""
    if not path.is_file():
        shown = os.path.relpath(path, ROOT) if path.is_relative_to(ROOT.parent) else path
        raise SkipError(f"{shown} is missing: {how}")
    return path


def need_program(name: str) -> Path:
    return need_file(PROGRAMS / name, "it comes with the folder of test programs beside the project")


def need_wad() -> Path:
    return need_file(WAD, "apt install freedoom")


def need_command(name: str, how: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise SkipError(f"the command {name} is missing: {how}")
    return found


def need_open_files(count: int) -> None:
    """Raises the limit of open files to `count`, as far as the hard limit goes. Raises `SkipError` beyond."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise SkipError(f"{count} open files are needed and {hard} allowed (ulimit -Hn)")
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


# --- showing ---


def progress(text: str) -> None:
    """Where it is, on a terminal's last line."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def quantity(value: float, unit: str = "s") -> str:
    """With three digits and a unit that fits: 0.00123 is 1.23 ms. Without a unit, the number."""
    if unit != "s":
        return f"{_digits(value)}{unit}"
    if value <= 0:
        return "0"
    for scale, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if value >= 0.9995 * scale:
            return f"{_digits(value / scale)} {name}"
    return f"{_digits(value * 1e9)} ns"


def _digits(value: float) -> str:
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def facts() -> list[str]:
    """The machine: what numbers depend on."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return [
        f"{model}, {len(os.sched_getaffinity(0))} processors",
        f"Linux {platform.release()}, {platform.python_implementation()} {platform.python_version()}",
        f"{time.strftime('%Y-%m-%d', time.gmtime())}, load averages {load}",
    ]


def table(report: Report) -> list[str]:
    """The report as Markdown."""
    lines = [f"## {report.title}", ""]
    if report.rows:
        lines += ["| | ours | peer | ratio | lowest to highest | goal |", "|---|---|---|---|---|---|"]
        lines += [_line(row) for row in report.rows]
        lines.append("")
    lines += [f"* {note}" for note in report.notes]
    lines += [f"* Not measured: {reason}" for reason in report.skipped]
    if report.notes or report.skipped:
        lines.append("")
    return lines


def _line(row: Row) -> str:
    ours = quantity(statistics.median(row.ours), row.unit)
    peer = ratio = spread = ""
    if row.peer:
        peer = quantity(statistics.median(row.peer), row.unit) + (f" ({row.against})" if row.against else "")
    ratios = row.ratios()
    if ratios:
        ratio = f"**{_ratio(statistics.median(ratios))}**"
        spread = f"{_ratio(min(ratios))} to {_ratio(max(ratios))}"
    goal = "" if row.goal is None else f"{row.goal:.2f}"
    return f"| {row.what} | {ours} | {peer} | {ratio} | {spread} | {goal} |"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def disturbance(options: Options) -> str:
    return f"{options.rounds} rounds; {options.disturbed} of {options.samples} samples while others used the machine."


def program(measure: Callable[[Options], Report], description: str | None) -> None:
    """The main function of a single benchmark."""
    options, _ = read_options(options_parser(description))
    try:
        report = measure(options)
    except SkipError as error:
        sys.exit(f"not measured: {error}")
    print("\n".join([*(f"* {fact}" for fact in facts()), "", *table(report)]))
