# SPDX-License-Identifier: MIT
"""``pvm`` as users type it, a process each time, without the quarter of a second that its imports take each time.

As a program it is the template: an interpreter that has imported what every command does, and forks for each request
that comes through the socket whose number is its argument. The fork goes on as ``python -m vm.cli``.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: How a command starts without a template, and in it, too.
_PYTHON = [sys.executable, "-W", "error"]
#: What decides how much and in which form a command writes; tests begin without.
_SPOKEN = ("PVM_TRACEBACK", "COLUMNS", "FORCE_COLOR")
#: Bytes of a request: a command line and an environment.
_REQUEST = 1 << 17


class Template:
    """Starts commands one after another, by forking. Started by the first of them."""

    def __init__(self) -> None:
        self._running: tuple[socket.socket, subprocess.Popen[bytes]] | None = None

    def run(self, arguments: Sequence[str], directory: Path, environment: dict[str, str]) -> tuple[int, str, str]:
        """Exit status, standard output and standard error of ``python -m vm.cli ARGUMENTS``. Of `environment` what an
        interpreter reads when it starts (PYTHON...) is ours."""
        request = json.dumps([str(directory), environment, arguments]).encode()
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            try:
                connection = self._connect()
                socket.send_fds(connection, [request], [output.fileno(), errors.fileno()])
                status = connection.recv(_REQUEST)
            except BaseException:  # a test's time is up: what it started must not answer the next
                self.close()
                raise
            if not status:
                self.close()
                raise RuntimeError("the template of commands has died")
            texts = []
            for file in (output, errors):
                file.seek(0)
                texts.append(file.read().decode())
        return int(status), *texts  # type: ignore[return-value]

    def _connect(self) -> socket.socket:
        if self._running is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                command = [*_PYTHON, __file__, str(theirs.fileno())]
                self._running = ours, subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
        return self._running[0]

    def close(self) -> None:
        """Ends it, and what it has started."""
        if self._running is not None:
            connection, process = self._running
            self._running = None
            connection.close()
            os.killpg(process.pid, 9)
            process.wait()


class Command:
    """``pvm`` in a directory with programs; it warns of nothing, or fails."""

    def __init__(self, directory: Path, template: Template) -> None:
        self.directory = directory
        self.environment = {name: value for name, value in os.environ.items() if name not in _SPOKEN}
        self._template = template

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        command = [*_PYTHON, "-m", "vm.cli", *arguments]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(command, cwd=self.directory, env=self.environment, text=True, **pipes)

    def __call__(self, *arguments: str, input: str | None = None, **options: Any) -> tuple[int, str, str]:  # noqa: A002
        """Exit status, standard output (if it is not given elsewhere) and standard error. With options of
        `subprocess.Popen` an interpreter is started."""
        if input is None and not options:
            return self._template.run(arguments, self.directory, self.environment)
        if input is not None:
            options["stdin"] = subprocess.PIPE
        with self.start(*arguments, **options) as process:
            output, errors = process.communicate(input)
        return process.returncode, output or "", errors

    def prints(self, *arguments: str, **options: Any) -> str:
        status, output, errors = self(*arguments, **options)
        assert (status, errors) == (0, "")
        return output

    def fails(self, status: int, *arguments: str, **options: Any) -> str:
        """What it says, in one line on standard error."""
        actual, output, errors = self(*arguments, **options)
        assert (actual, output) == (status, ""), errors
        assert errors.startswith("pvm: ")
        assert errors.count("\n") == 1
        assert errors.endswith("\n")
        assert errors.isascii()
        assert errors[:-1].isprintable()
        return errors.removeprefix("pvm: ").removesuffix("\n")

    def reports(self, status: int, *arguments: str) -> dict[str, Any]:
        """The error that it prints with --json."""
        actual, output, errors = self(*arguments)
        assert (actual, errors) == (status, "")
        assert output.count("\n") == 1
        error: dict[str, Any] = json.loads(output)["error"]
        assert error["status"] == status
        return error


def _serve(number: int) -> list[str]:
    """Answers each request with the exit status of a fork. Returns in the fork: its command line."""
    with socket.socket(fileno=number) as connection:
        while True:
            request, files, _, _ = socket.recv_fds(connection, _REQUEST, 2)
            if not request:
                sys.exit()
            child = os.fork()
            if child == 0:
                break
            for file in files:
                os.close(file)
            connection.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
    directory, environment, arguments = json.loads(request)
    for stream, file in enumerate(files, 1):
        os.dup2(file, stream)
        os.close(file)
    os.chdir(directory)
    sys.path[0] = directory
    os.environ.clear()
    os.environ.update(environment)
    return arguments  # type: ignore[no-any-return]


if __name__ == "__main__":
    import vm.cli._app  # noqa: F401 - this is what takes long

    gc.collect()
    gc.freeze()  # a fork that ends does not look at all of it again
    sys.argv[1:] = _serve(int(sys.argv[1]))
    runpy.run_module("vm.cli", run_name="__main__", alter_sys=True)
