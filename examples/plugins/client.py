# SPDX-License-Identifier: MIT
"""Builds a C function here and has the server run it, or names one of the server's.

python client.py discount 7 12 3
python client.py functions/discount.c 7 12 3
"""

from __future__ import annotations

import argparse
import base64
import json
import socket
import sys
from pathlib import Path

from vm import toolchain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plugin", help="a name, or a C source")
    parser.add_argument("args", type=int, nargs="*")
    parser.add_argument("--port", type=int, default=8765)
    given = parser.parse_args()
    request: dict[str, object] = {"args": given.args}
    if given.plugin.endswith(".c"):
        folder = Path(__file__).with_name("functions")
        try:
            blob = toolchain.build([given.plugin], include_dirs=[folder])
        except (toolchain.BuildError, toolchain.ToolchainError, toolchain.ElfError, OSError) as error:
            sys.exit(str(error))
        request["program"] = base64.b64encode(blob.to_bytes()).decode()
    else:
        request["plugin"] = given.plugin
    try:
        with socket.create_connection(("127.0.0.1", given.port)) as connection:
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(connection.makefile().readline())
    except (OSError, ValueError) as error:
        sys.exit(f"no answer: {error}")
    if "error" in answer:
        sys.exit(answer["error"])
    print(answer["result"])


if __name__ == "__main__":
    main()
