# SPDX-License-Identifier: MIT
"""Writes the C source of the extension ``vm._sandbox`` (cffi, API mode).

usage: build_sandbox.py SANDBOX_API_H OUTPUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import cffi


def main() -> None:
    header, output = sys.argv[1:]
    # the header is the one declaration; cffi wants it without the preprocessor's lines
    declarations = "\n".join(line for line in Path(header).read_text().splitlines() if not line.startswith("#"))
    ffi = cffi.FFI()
    ffi.cdef(declarations)
    ffi.set_source("vm._sandbox", '#include "sandbox/sandbox_api.h"')
    ffi.emit_c_code(output)


main()
