# SPDX-License-Identifier: MIT
# ruff: noqa: T201 - a command
"""Runs tests with the extensions built for a sanitizer.

    python -m tests.sanitized address FOLDER [PYTEST ARGUMENT ...]
    python -m tests.sanitized thread FOLDER [PYTEST ARGUMENT ...]
    python -m tests.sanitized address FOLDER -m tests.chaos --runs 2000

FOLDER is for the build and the reports, and is made; a build of the other sanitizer wants a folder of its own. Without
arguments all tests of the two packages are run. It fails if a test does, or if there is a report from any process.

`address` is AddressSanitizer with UndefinedBehaviorSanitizer. Objects come from malloc() there (PYTHONMALLOC), so that
each is watched. Leaks are not looked for: an interpreter that ends leaves objects.

`thread` is ThreadSanitizer. The interpreter is not built for it, but what orders its threads are functions of the C
library, which are watched whoever calls them: the GIL is a mutex and a condition, a `threading.Lock` a semaphore. So
two accesses of our C code are a race unless a lock, the GIL or an atomic orders them. What it does not see: accesses of
the interpreter and of guest code, and order that only the kernel makes (a pipe, a completion of the ring).

Neither sees the zygote and the processes of guests, which have no runtime.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

TESTS = ("tests/aioring", "tests/fs", "tests/security", "tests/vm")

#: Seconds for a test. One can be five times as slow, on a machine that does something else.
TIMEOUT = 180

BUILDS = {
    "address": ["-Db_sanitize=address,undefined"],
    # Past its interceptors. That of clone() takes a child that borrows memory (CLONE_VM) for a fork, and stops watching
    # the parent. That of sigaction() keeps a signal until the thread calls the C library, which guest code never does.
    "thread": ["-Db_sanitize=thread", "-Dc_args=-Dclone=__clone -Dsigaction=__sigaction"],
}

# A signal that kills does so: tests look for that, and the fault handler of pytest tells where.
_SIGNALS = ":".join(f"handle_{name}=0" for name in ("segv", "sigbus", "sigill", "sigfpe", "abort"))

OPTIONS = {
    "address": {
        "ASAN_OPTIONS": f"detect_leaks=0:allocator_may_return_null=1:{_SIGNALS}",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    },
    # A forked interpreter that starts threads is not watched any more.
    "thread": {"TSAN_OPTIONS": f"halt_on_error=0:die_after_fork=0:allocator_may_return_null=1:{_SIGNALS}"},
}

#: No report: a test asked for more memory than there is, and malloc() gave none (allocator_may_return_null).
_REFUSED = "WARNING: AddressSanitizer failed to allocate"

RUNTIME = {"address": "libasan.so", "thread": "libtsan.so"}

PYTHON_ONLY = tuple(
    f"tests/vm/test_{name}.py"
    for name in ("assembler", "cost_model", "debug_info", "disassembler", "encoding", "isa", "memory_map", "signatures")
)

SHELLS = (
    "tests/aioring/test_streams.py::test_subprocesses",
    "tests/aioring/test_subprocesses.py::test_exit_codes_and_signals",
    "tests/vm/test_doctor.py::test_without_user_namespaces_left",
    "tests/vm/test_doctor.py::test_with_memfds_that_cannot_be_executed",
)

RESIDENT = (
    "tests/vm/test_memory_pages.py::test_freed_pages_go_back",
    "tests/vm/test_memory_pages.py::test_zeroing_what_was_never_touched",
    *(
        f"tests/security/test_lifecycle.py::test_{name}"
        for name in ("a_thousand_runs", "a_hundred_modules", "engines_come_and_go", "failures", "many_at_once")
    ),
)

#: What neither runs, by the beginning of its name, and why not.
SKIPPED_BY_BOTH = {
    "tests/vm/test_generic.py::test_no_address_space": "limits addresses, which the sanitizer wants more of",
    "tests/security/test_unprivileged.py": "runs others again, as a user who may not write reports",
    "tests/vm/test_cli_tools.py::test_disasm_native": "loads capstone with RTLD_DEEPBIND, which no sanitizer bears",
    **dict.fromkeys(PYTHON_ONLY, "runs no C code, for minutes"),
    **dict.fromkeys(RESIDENT, "compares what is resident, of which the sanitizer keeps what was freed"),
}

SKIPPED: dict[str, dict[str, str]] = {
    "address": SKIPPED_BY_BOTH,
    "thread": {
        **SKIPPED_BY_BOTH,
        **dict.fromkeys(SHELLS, "starts a shell, which faults under the runtime of the sanitizer"),
        "tests/vm/test_generic.py::test_a_forked_child": "starts threads after a fork, which the sanitizer does not",
        "tests/vm/test_generic_signals.py::test_a_handler_of_c": "checks a handler's mask, to which more is added",
        "tests/vm/test_generic.py::test_a_thousand_alive": "has no room for a thousand times 4 GiB of addresses",
        "tests/security/test_generic_code.py::test_random": "has no room for 300 times 4 GiB of addresses",
    },
}

#: By sanitizer: programs that tests start, with locks of their own that it cannot see.
SUPPRESSIONS = {"address": "", "thread": "race:bin/ruff\n"}

#: What every interpreter does as it starts. The finder of the editable install would come first, and in the project's
#: folder the sources, which have no extensions.
CUSTOMIZE = """\
import sys
from importlib.machinery import PathFinder

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [{packages!r}]) if name in ("aioring", "vm") else None

sys.meta_path[:] = [Finder, *(finder for finder in sys.meta_path if type(finder).__name__ != "MesonpyMetaFinder")]
"""


#: That an interpreter has the extensions of the build.
CHECK = """\
import sys
from aioring import _loop, _uring
from vm import _sandbox

for module in (_loop, _uring, _sandbox):
    if not module.__file__.startswith({packages!r}):
        sys.exit(f"{{module.__file__}} is not of this build")
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A plugin of the run inside."""
    skipped = SKIPPED[os.environ["AIORING_SANITIZER"]]
    for item in items:
        for beginning, reason in skipped.items():
            if item.nodeid.startswith(beginning):
                item.add_marker(pytest.mark.skip(reason=f"under the sanitizer: {reason}"))


def build(sanitizer: str, folder: Path) -> Path:
    """The packages, with extensions from a build in `folder`."""
    if not (folder / "build.ninja").exists():
        options = [*BUILDS[sanitizer], "-Db_lundef=false", "-Dbuildtype=debugoptimized"]
        subprocess.run(["meson", "setup", *options, folder, ROOT], check=True)
    subprocess.run(["ninja", "-C", folder, "--quiet"], check=True)
    packages = folder / "packages"
    for name in ("aioring", "vm"):
        for file in (ROOT / name).rglob("*"):
            if file.is_file() and file.suffix not in (".pyc", ".so"):
                _link(packages / file.relative_to(ROOT), file)
    for package, pattern in (("aioring", "uring/_uring*.so"), ("aioring", "loop/_loop*.so"), ("vm", "sandbox/_*.so")):
        for extension in (folder / "native").glob(pattern):
            _link(packages / package / extension.name, extension)
    (packages / "sitecustomize.py").write_text(CUSTOMIZE.format(packages=str(packages)))
    return packages


def _link(link: Path, file: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(file)


def run(sanitizer: str, folder: Path, arguments: list[str]) -> int:
    """Runs pytest, or the module after -m; the exit status."""
    packages = build(sanitizer, folder)
    for report in folder.glob("report.*"):
        report.unlink()
    (folder / "suppressions").write_text(SUPPRESSIONS[sanitizer])
    common = f":log_path={folder / 'report'}:suppressions={folder / 'suppressions'}"
    runtime = subprocess.run(
        ["cc", f"-print-file-name={RUNTIME[sanitizer]}"], capture_output=True, text=True, check=True
    )
    environment = {
        **os.environ,
        **{name: options + common for name, options in OPTIONS[sanitizer].items()},
        "AIORING_SANITIZER": sanitizer,
        "LD_PRELOAD": runtime.stdout.strip(),
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": os.pathsep.join([str(packages), str(ROOT / "tests")]),
    }
    # ThreadSanitizer wants mappings where they are without randomization.
    start = ["setarch", "--addr-no-randomize", sys.executable]
    # in the project's folder, as tests start interpreters
    subprocess.run([*start, "-c", CHECK.format(packages=str(packages))], env=environment, cwd=ROOT, check=True)
    module = [] if arguments[:1] == ["-m"] else ["-m", "pytest", "-p", "sanitized", "-o", f"timeout={TIMEOUT}"]
    status = subprocess.run([*start, *module, *(arguments or TESTS)], env=environment, cwd=ROOT).returncode
    texts = [path.read_text(errors="replace") for path in sorted(folder.glob("report.*"))]
    reports = [text for text in texts if not all(_REFUSED in line for line in text.splitlines() if line)]
    for report in reports:
        print(report, file=sys.stderr)
    print(f"{len(reports)} processes with reports", file=sys.stderr)
    return status or int(bool(reports))


def main() -> int:
    if len(sys.argv) < 3 or sys.argv[1] not in BUILDS:
        sys.exit(__doc__)
    return run(sys.argv[1], Path(sys.argv[2]).resolve(), sys.argv[3:])


if __name__ == "__main__":
    sys.exit(main())
