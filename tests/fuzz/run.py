# SPDX-License-Identifier: MIT
# ruff: noqa: T201 - a command
"""Coverage-guided fuzzing with libFuzzer: of the C code that takes hostile programs, and of what reads blobs.

usage: python tests/fuzz/run.py [--seconds N] [--jobs J] [--only pvm|blob] [--keep-corpus]
       python tests/fuzz/run.py --only pvm|blob FILE...

`fuzz_pvm.c` is built with clang, AddressSanitizer and UndefinedBehaviorSanitizer in a temporary directory
(Debian: ``apt install clang libclang-rt-14-dev``, of whatever version clang has); `fuzz_blob.py` runs in this
interpreter, which needs the project and atheris (``pip install atheris``).  Each runs for N seconds in J processes,
which start from `corpus` and share what they find.

At the end it prints what was executed and covered.  Inputs that fail are kept in ``fuzz-findings`` in the current
directory; given as FILE, they are run once more.  With ``--keep-corpus`` the inputs that cover most replace those in
`corpus`: for when the format of the inputs has changed, or when much is covered that was not.

Exit status: 0, 1 if something was found, 2 if it could not run.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

HERE: Final = Path(__file__).resolve().parent
CORPUS: Final = HERE / "corpus"
TARGETS: Final = ("pvm", "blob")

# Comparisons are not traced: there is next to nothing in an input to be found that way, and it takes half the time.
_INSTRUMENTATION: Final = (
    *("-g", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"),
    *("-fno-sanitize-coverage=trace-cmp", "-Wno-error"),
)
# Seconds for one input and MiB of memory, above which there is something wrong with it.
_LIMITS: Final = ("-timeout=20", "-rss_limit_mb=2000")
# Bytes of an input, and inputs of a target that are kept in the project.
_MOST_KEPT: Final = 80
_MOST_BYTES: Final = {"pvm": 400, "blob": 300}


class CannotRunError(Exception):
    """Something is not installed."""


class Outcome(NamedTuple):
    """What the processes of one target have done."""

    executions: int
    #: Edges of the control flow that were taken, of the process that took most.
    coverage: int
    #: Inputs that each covered something new.
    corpus: int
    seconds: float
    findings: tuple[Path, ...]
    #: The end of the output of each process that failed.
    reports: tuple[str, ...]


def find_clang() -> str:
    """The newest clang there is."""
    for name in ("clang", *(f"clang-{version}" for version in range(30, 11, -1))):
        if found := shutil.which(name):
            return found
    raise CannotRunError("no clang, which has libFuzzer, was found (Debian: apt install clang-14 libclang-rt-14-dev)")


def build(target: str, directory: Path) -> list[str]:
    """Build `target`; the command that runs it."""
    if importlib.util.find_spec("vm") is None:
        raise CannotRunError(f"{sys.executable} does not have the project installed (make build)")
    if target == "blob":
        if importlib.util.find_spec("atheris") is None:
            raise CannotRunError(f"{sys.executable} has no atheris (pip install atheris)")
        return [sys.executable, str(HERE / "fuzz_blob.py")]
    sys.path.insert(0, str(HERE.parent / "native"))
    from driver import compile_c

    output = directory / "fuzz_pvm"
    try:
        compile_c(find_clang(), HERE / "fuzz_pvm.c", output, *_INSTRUMENTATION)
    except subprocess.CalledProcessError as error:
        raise CannotRunError(f"the target cannot be built: {error}") from None
    return [str(output)]


def fuzz(target: str, command: Sequence[str], directory: Path, *, seconds: int, jobs: int) -> Outcome:
    """Run `command` in `jobs` processes that share a corpus in `directory`."""
    corpus, artifacts = directory / f"{target}-corpus", directory / f"{target}-findings"
    corpus.mkdir()
    artifacts.mkdir()
    options = [
        *_LIMITS,
        *(f"-max_total_time={seconds}", f"-max_len={_MOST_BYTES[target]}", "-len_control=0", "-reload=1"),
        *(f"-artifact_prefix={artifacts}/", str(corpus), str(CORPUS / target)),
    ]
    logs = [directory / f"{target}-{job}.log" for job in range(jobs)]
    processes: list[subprocess.Popen[bytes]] = []
    start = time.monotonic()
    try:
        for log in logs:
            with log.open("wb") as output:
                processes.append(subprocess.Popen([*command, *options], stdout=output, stderr=subprocess.STDOUT))
        statuses = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    texts = [log.read_text(errors="replace") for log in logs]
    return Outcome(
        executions=sum(_last_number(r"^(?:Done |#)(\d+)", text) for text in texts),
        coverage=max(_last_number(r" cov: (\d+)", text) for text in texts),
        corpus=len(list(corpus.iterdir())),
        seconds=time.monotonic() - start,
        findings=tuple(sorted(artifacts.iterdir())),
        reports=tuple(text[-4000:] for text, status in zip(texts, statuses, strict=True) if status != 0),
    )


def _last_number(pattern: str, text: str) -> int:
    return int([0, *re.findall(pattern, text, re.MULTILINE)][-1])


def minimise(target: str, command: Sequence[str], directory: Path) -> int:
    """Replace the project's corpus by the few inputs that take most edges; how many they are."""
    kept = directory / f"{target}-kept"
    kept.mkdir()
    options = ["-merge=1", "-set_cover_merge=1", "-use_counters=0", *_LIMITS]
    sources = [str(kept), str(directory / f"{target}-corpus"), str(CORPUS / target)]
    subprocess.run([*command, *options, *sources], check=True, capture_output=True)
    # They are written in the order of how much each adds to those before it; the last ones add an edge each.
    best = sorted(kept.iterdir(), key=lambda file: (file.stat().st_mtime_ns, file.name))[:_MOST_KEPT]
    shutil.rmtree(CORPUS / target)
    (CORPUS / target).mkdir()
    for file in best:
        shutil.copyfile(file, CORPUS / target / file.name)
    return len(best)


def report(target: str, outcome: Outcome) -> None:
    """Print it, and keep the findings."""
    rate = outcome.executions / max(outcome.seconds, 1)
    print(
        f"{target}: {outcome.executions} executions in {outcome.seconds:.0f} s ({rate:.0f}/s), "
        f"{outcome.coverage} edges covered, {outcome.corpus} new inputs, {len(outcome.findings)} findings"
    )
    for text in outcome.reports:
        print(text)
    for finding in outcome.findings:
        kept = Path("fuzz-findings") / f"{target}-{finding.name}"
        kept.parent.mkdir(exist_ok=True)
        shutil.copy(finding, kept)
        print(f"{target}: {kept}: {finding.read_bytes().hex()}")


def positive(text: str) -> int:
    """An integer of 1 or more."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def main() -> int:
    parser = argparse.ArgumentParser(description="Coverage-guided fuzzing with libFuzzer.")
    parser.add_argument("--seconds", type=positive, default=60, metavar="N", help="for each target (60)")
    parser.add_argument("--jobs", type=positive, default=1, metavar="J", help="processes at once (1)")
    parser.add_argument("--only", choices=TARGETS, help="one target instead of both")
    parser.add_argument("--keep-corpus", action="store_true", help="replace the project's corpus")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="an input to run, instead of fuzzing")
    options = parser.parse_args()
    if options.files and not options.only:
        parser.error("files are inputs of one target: say which with --only")

    found = False
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        try:
            targets = [options.only] if options.only else TARGETS
            commands = {target: build(target, directory) for target in targets}
        except CannotRunError as error:
            print(error, file=sys.stderr)
            return 2
        if options.files:
            return int(subprocess.run([*commands[options.only], *_LIMITS, *options.files]).returncode != 0)
        for target, command in commands.items():
            outcome = fuzz(target, command, directory, seconds=options.seconds, jobs=options.jobs)
            report(target, outcome)
            found = found or bool(outcome.findings or outcome.reports)
            if options.keep_corpus and not outcome.reports:
                print(f"{target}: {minimise(target, command, directory)} inputs kept")
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
