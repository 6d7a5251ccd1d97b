# SPDX-License-Identifier: MIT
"""A certificate of one's own, for TLS between the two ends of a test."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple


class Contexts(NamedTuple):
    server: ssl.SSLContext
    #: Trusts the server's certificate, which is of "localhost".
    client: ssl.SSLContext


def contexts(folder: Path) -> Contexts | None:
    """Both ends' contexts; None where there is no openssl program to make a certificate with, in `folder`."""
    openssl = shutil.which("openssl")
    if openssl is None:
        return None
    key, certificate = folder / "key", folder / "certificate"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", key, "-out", certificate, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)
    return Contexts(server, ssl.create_default_context(cafile=str(certificate)))
