# SPDX-License-Identifier: MIT
"""Write the C source of the extension `aioring._uring` from the declarations in its headers (cffi, API mode)."""

import sys
from pathlib import Path

from cffi import FFI


def main(headers: list[Path], output: Path) -> None:
    builder = FFI()
    for header in headers:
        builder.cdef("\n".join(line for line in header.read_text().splitlines() if not line.startswith("#")))
    builder.set_source("aioring._uring", "\n".join(f'#include "{header.name}"' for header in headers))
    builder.emit_c_code(str(output))


if __name__ == "__main__":
    main([Path(header) for header in sys.argv[1:-1]], Path(sys.argv[-1]))
