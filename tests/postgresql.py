# SPDX-License-Identifier: MIT
"""A PostgreSQL server of one's own, for the clients of a test."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import certificates
from processes import PATIENCE

#: Its superuser, and that one's password.
USER, PASSWORD = "postgres", "correct horse"
_PROGRAMS = ("initdb", "postgres", "setpriv")


class Server(NamedTuple):
    #: Where its Unix socket is. It asks for a password there, too.
    folder: Path
    #: Of the Unix socket's name, and on 127.0.0.1, where it insists on TLS.
    port: int
    #: Trusts the server, which is "localhost"; None where it has no certificate, and does not listen on 127.0.0.1.
    tls: ssl.SSLContext | None


def _program(name: str) -> str | None:
    """A program's path. Debian has PostgreSQL's own in no PATH, and as many versions as one likes."""
    versions = Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
    newest = max(versions, key=lambda path: float(path.parts[-3]), default=None)
    return str(newest) if newest is not None else shutil.which(name)


def missing() -> list[str]:
    """Programs that are needed to start a server, and are not there."""
    return [name for name in _PROGRAMS if _program(name) is None]


@contextlib.contextmanager
def serve() -> Iterator[Server]:
    """A server that serves, with an empty database; nothing is left of it afterwards.

    Raises:
        RuntimeError: it did not start; the message is what it wrote.
    """
    initdb, postgres, setpriv = map(_program, _PROGRAMS)
    # A folder that its user can get to, and with a name short enough for a socket's: tmp_path is neither.
    with tempfile.TemporaryDirectory(prefix="postgresql-", dir="/tmp") as name, socket.socket() as reserved:
        folder = Path(name)
        tls = certificates.contexts(folder)
        password = folder / "password"
        password.write_text(PASSWORD)
        options: dict[str, Any] = {"cwd": folder}
        if os.geteuid() == 0:  # whom PostgreSQL refuses to serve
            nobody = pwd.getpwnam("nobody")
            options.update(user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[])
            for path in (folder, *folder.iterdir()):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        # Bound, not listening, and both with SO_REUSEADDR: the port is the server's and nobody else's (socket(7)).
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]

        data = folder / "data"
        made = subprocess.run(
            [
                *(initdb, "--pgdata", data, "--username", USER, "--pwfile", password),
                *("--auth", "scram-sha-256", "--no-locale", "--encoding", "UTF8", "--no-sync"),
            ],
            **options,
            capture_output=True,
            text=True,
        )
        if made.returncode != 0:
            raise RuntimeError(f"initdb: {made.stdout}{made.stderr}")
        (data / "pg_hba.conf").write_text("local all all scram-sha-256\nhostssl all all 127.0.0.1/32 scram-sha-256\n")
        settings = {
            "unix_socket_directories": folder,
            "port": port,
            "listen_addresses": "" if tls is None else "127.0.0.1",
            "ssl": "off" if tls is None else "on",
            "ssl_cert_file": folder / "certificate",
            "ssl_key_file": folder / "key",
            "fsync": "off",
            "log_min_messages": "log",  # so that what nobody reads before its end fits in the pipe
            "log_checkpoints": "off",
        }
        command = [
            *(setpriv, "--pdeathsig", "QUIT", postgres, "-D", data),  # if this process is killed, it ends, too
            *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
        ]
        with subprocess.Popen(command, **options, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                log = ""
                while "ready to accept connections" not in log:
                    line = process.stderr.readline()
                    if not line:
                        raise RuntimeError(f"postgres: {log}")
                    log += line
                yield Server(folder, port, None if tls is None else tls.client)
                process.send_signal(signal.SIGINT)  # it ends its connections
                log = process.communicate(timeout=PATIENCE)[1]
                if process.returncode != 0:
                    raise RuntimeError(f"postgres: {log}")
            finally:
                # SIGQUIT: it ends its processes, and what the kernel shares between them; SIGKILL leaves them behind.
                process.send_signal(signal.SIGQUIT)
