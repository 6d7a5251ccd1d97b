# SPDX-License-Identifier: MIT
"""``pvm doctor``, here and on machines that lack something: in namespaces, under limits and under seccomp filters."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import json
import os
import platform
import pty
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from forbid import forbidden

from vm._doctor import Check, examine, guests_can_run
from vm._sandbox import ffi, lib

DOCTOR = [sys.executable, "-W", "error", "-m", "vm.cli", "doctor"]
PROGRAM = ("-m", "vm.cli", "doctor", "--json")


def environment(**more: str) -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "PVM_TRACEBACK")}
    return plain | more


def doctor(*command: str) -> tuple[int, dict[str, dict[str, str]]]:
    """The exit status of a command that ends in ``doctor --json``, and its rows by requirement."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.stderr == ""
    answer = json.loads(done.stdout)
    assert answer["ok"] == (done.returncode == 0)
    return done.returncode, {check["requirement"]: check for check in answer["checks"]}


def without(system_call: str, error: int = errno.EPERM) -> tuple[int, dict[str, dict[str, str]]]:
    return doctor(*forbidden(system_call, *PROGRAM, error=error))


def missing(checks: dict[str, dict[str, str]]) -> set[str]:
    return {name for name, check in checks.items() if check["status"] == "missing"}


# --- Here -------------------------------------------------------------------------------------------------------------


def test_rows() -> None:
    checks = examine()
    assert guests_can_run(checks)
    rows = {check.requirement: check for check in checks}
    assert len(rows) == len(checks)
    assert rows["Linux kernel"].found == platform.release()
    assert rows["guest"].found.startswith("ran, in ")
    assert {f"io_uring {name}" for name in ("poll", "cancel", "timeout", "futex_wait", "futex_wake")} <= set(rows)
    assert rows["io_uring futex_wait"].found == "Linux 6.7"
    for check in checks:
        assert check.requirement
        assert check.found
        assert check.enables
        assert bool(check.fix) == (check.status != "ok")


def test_a_row_cannot_be_changed() -> None:
    check = examine()[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        check.status = "missing"  # type: ignore[misc]


def test_optional_things_do_not_matter() -> None:
    optional = Check("x", "nothing", "much", "do", "optional")
    assert guests_can_run((optional,))
    assert not guests_can_run((optional, dataclasses.replace(optional, status="missing")))


def test_it_leaves_nothing_behind() -> None:
    def count() -> int:
        gc.collect()  # a compiled program is closed with the last reference to it
        return len(list(Path("/proc/self/fd").iterdir()))

    examine()
    before = count()
    examine()
    assert count() == before


def test_the_processor_s_features_have_names() -> None:
    required = lib.sandbox_cpu_required()
    assert required
    assert not lib.sandbox_probe_cpu() & ~required
    names = [lib.sandbox_cpu_feature_name(1 << bit) for bit in range(32) if required >> bit & 1]
    assert {ffi.string(name) for name in names} == {b"popcnt", b"lzcnt", b"bmi1"}
    assert lib.sandbox_cpu_feature_name(0) == ffi.NULL
    assert lib.sandbox_cpu_feature_name(1 << 31) == ffi.NULL


def test_json() -> None:
    status, checks = doctor(*DOCTOR, "--json")
    assert status == 0
    assert set(checks) == {check.requirement for check in examine()}
    assert all(set(check) == {"requirement", "found", "enables", "fix", "status"} for check in checks.values())


MATTERS = {
    *("a guest here", "sandboxing", "memory protection", "paging"),
    *("signals", "waiting", "filtering", "limits"),
}


def homes(*command: str) -> dict[str, dict[str, str]]:
    """The matrix of a command that ends in ``doctor --json``, by matter."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    return {row.pop("what"): row for row in json.loads(done.stdout)["homes"]}


def test_the_matrix_of_homes() -> None:
    found = homes(*DOCTOR, "--json")
    assert set(found) == MATTERS
    assert all(set(row) == {"linux", "generic", "interpreter"} for row in found.values())
    assert all(cell.startswith("ran, in ") for cell in found["a guest here"].values())
    assert not any("not available" in cell for row in found.values() for cell in row.values())
    assert "SIGURG" in found["signals"]["generic"]


def test_the_matrix_where_processes_cannot_be_had() -> None:
    found = homes(*forbidden("fsopen", *PROGRAM))
    guests = found["a guest here"]
    assert guests.pop("linux") == "not tried"
    assert all(cell.startswith("ran, in ") for cell in guests.values())
    assert found["sandboxing"]["linux"].endswith("not available")


def test_the_matrix_without_io_uring() -> None:
    found = homes(*forbidden("io_uring_setup", *PROGRAM))
    assert all(cell.startswith("ran, in ") for cell in found["a guest here"].values())
    assert found["waiting"]["linux"] == "threads in futex_waitv"


@pytest.mark.parametrize("columns", [None, "80", "200"])
def test_the_table_in_a_pipe(columns: str | None) -> None:
    more = {} if columns is None else {"COLUMNS": columns}
    done = subprocess.run(DOCTOR, capture_output=True, text=True, check=False, env=environment(**more))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["requirement", "found", "enables", "how", "to", "fix", "status"]
    assert lines[-1] == "Guests can run."
    assert max(map(len, lines)) <= int(columns or 80)
    assert "\x1b" not in done.stdout
    assert not any(line != line.rstrip() for line in lines)
    text = " ".join(done.stdout.split())
    assert "…" not in text


def test_the_table_on_a_terminal_is_coloured() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(DOCTOR, stdout=theirs, env=environment(TERM="xterm")) as process:
        os.close(theirs)
        output = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while part := os.read(ours, 65536):
                output += part
    os.close(ours)
    assert process.returncode == 0
    assert b"\x1b[32mok" in output


def test_the_table_in_ascii() -> None:
    done = subprocess.run(DOCTOR, capture_output=True, check=False, env=environment(PYTHONIOENCODING="ascii"))
    assert done.returncode == 0
    assert done.stdout.isascii()


# --- Elsewhere --------------------------------------------------------------------------------------------------------


def test_without_io_uring() -> None:
    status, checks = without("io_uring_setup")
    assert status == 0
    assert missing(checks) == set()
    assert checks["io_uring"]["status"] == checks["io_uring futex_wait"]["status"] == "optional"
    assert checks["waiting"]["found"] == "threads in futex_waitv"
    assert checks["guest"]["found"].startswith("ran, in ")
    assert checks["io_uring"]["found"].startswith("EPERM, kernel.io_uring_disabled = ")
    assert "allow io_uring_setup, io_uring_enter and io_uring_register" in checks["io_uring"]["fix"]


def test_on_a_kernel_without_io_uring() -> None:
    status, checks = without("io_uring_setup", errno.ENOSYS)
    assert status == 0
    assert checks["io_uring"]["found"].startswith("ENOSYS")
    assert "kernel" in checks["io_uring"]["fix"]


def test_without_anything_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVM_WAITING", "threads")
    status, checks = without("futex_waitv", errno.ENOSYS)
    assert status == 1
    assert missing(checks) == {"waiting", "guest"}
    assert checks["waiting"]["found"] == "futex_waitv: ENOSYS, by PVM_WAITING"
    assert "Linux 5.16" in checks["waiting"]["fix"]
    assert checks["guest"]["fix"] == "see waiting"
    # what does not need it is looked at all the same
    assert checks["user namespaces"]["status"] == "ok"


@pytest.mark.parametrize(
    ("value", "found", "status"),
    [("io_uring", "io_uring, by PVM_WAITING", 0), ("", "io_uring", 0), ("pigeons", "unknown", 1)],
)
def test_waiting_is_chosen_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, value: str, found: str, status: int
) -> None:
    monkeypatch.setenv("PVM_WAITING", value)
    done, checks = doctor(*DOCTOR, "--json")
    assert (done, checks["waiting"]["found"]) == (status, found)


def test_without_mounts() -> None:
    status, checks = without("fsopen")
    assert status == 1
    assert missing(checks) == {"user namespaces", "guest"}
    assert checks["user namespaces"]["found"] == "the nursery: making an empty root (fsopen, fsmount): EPERM"
    assert "seccomp profile" in checks["user namespaces"]["fix"]
    assert checks["io_uring"]["status"] == "ok"


def test_without_seccomp() -> None:
    status, checks = without("seccomp")
    assert status == 1
    assert {"seccomp", "guest"} <= missing(checks)
    assert checks["seccomp"]["found"] == "EPERM"


def test_without_memfd() -> None:
    status, checks = without("memfd_create")
    assert status == 1
    assert {"sealed memfd", "guest"} <= missing(checks)


def test_without_userfaultfd() -> None:
    status, checks = without("userfaultfd")
    assert status == 0
    assert checks["userfaultfd"]["status"] == "optional"
    assert checks["userfaultfd"]["found"].startswith("EPERM")


@pytest.mark.skipif(os.geteuid() != 0, reason="maps many users into a user namespace, which takes root")
def test_without_user_namespaces_left() -> None:
    # Root's capabilities come with the exec after the maps are written.
    wait, limit = 'echo && read go && exec "$@"', 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    command = ["unshare", "--user", "sh", "-c", wait, "sh", "sh", "-c", limit, "sh", *DOCTOR, "--json"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment(), **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        for kind in ("uid", "gid"):
            Path(f"/proc/{process.pid}/{kind}_map").write_text("0 0 65536\n")
        output, errors = process.communicate("go\n")
    assert (process.returncode, errors) == (1, "")
    checks = {check["requirement"]: check for check in json.loads(output)["checks"]}
    assert missing(checks) == {"user namespaces", "namespace limits", "guest"}
    assert checks["user namespaces"]["found"].endswith(": ENOSPC")
    assert "user.max_user_namespaces" in checks["user namespaces"]["fix"]
    assert checks["namespace limits"]["found"] == "user 0"
    assert checks["namespace limits"]["enables"] == "up to 0 guests at once"
    assert checks["namespace limits"]["fix"] == "sysctl user.max_user_namespaces=10000"


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a pid namespace, which takes root")
def test_with_memfds_that_cannot_be_executed() -> None:
    # The setting belongs to the pid namespace (Linux 6.3), and cannot be lowered again.
    script = 'echo 2 > /proc/sys/vm/memfd_noexec && "$@"'
    command = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh", *DOCTOR, "--json"]
    status, checks = doctor(*command)
    assert status == 1
    assert missing(checks) == {"sealed memfd", "user namespaces", "guest"}
    assert checks["sealed memfd"]["found"] == "not executable, vm.memfd_noexec = 2"
    assert checks["sealed memfd"]["fix"].startswith("sysctl vm.memfd_noexec=1")


def test_open_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = min(100, hard)
    status, checks = doctor("prlimit", f"--nofile={limit}:{limit}", *DOCTOR, "--json")
    check = checks["open file limit"]
    assert (status, check["status"]) == (0, "optional")
    assert check["found"].startswith(f"{limit}")
    about, guests, *_ = check["enables"].split()
    assert about == "about"
    assert 0 < int(guests) < limit
    assert check["fix"].startswith("ulimit -n ")
    status, checks = doctor("prlimit", "--nofile=16", *DOCTOR, "--json")
    assert checks["open file limit"]["found"] == "16"
