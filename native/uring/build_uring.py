# SPDX-License-Identifier: MIT
"""Write the C source of the extension `aioring._uring` from the declarations in uring_api.h (cffi, API mode)."""

import sys
from pathlib import Path

from cffi import FFI


def main(api: Path, output: Path) -> None:
    declarations = "\n".join(line for line in api.read_text().splitlines() if not line.startswith("#"))
    builder = FFI()
    builder.cdef(declarations)
    builder.set_source("aioring._uring", f'#include "{api.name}"')
    builder.emit_c_code(str(output))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
