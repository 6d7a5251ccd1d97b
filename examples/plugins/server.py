# SPDX-License-Identifier: MIT
"""A server whose requests run C functions of strangers, each in a sandbox of its own, with limits.

    python server.py [--port PORT] [--plugins DIRECTORY]

A request is a line of JSON: a program, or the name of one of the server's, and up to three integers for its function.

    {"plugin": "discount", "args": [7, 12, 3]}
    {"program": "...the blob, in base64...", "args": [7, 12, 3]}

The answer is one, too: {"result": 276} or {"error": "..."}. client.py builds programs and sends them.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aioring
import vm

#: For one request. Waiting for the server is in `wall`, and not in `cpu`.
LIMITS = vm.Limits(memory=8 << 20, cpu=0.25, wall=2.0)
#: Bytes of a request.
LONGEST = 1 << 20
_ARGUMENTS = 3
#: What `lookup` finds: prices, here. In a real server, a database.
PRICES = {7: 25, 8: 1999}


class RequestError(Exception):
    """The request makes no sense; says why."""


def _linker() -> vm.Linker:
    linker = vm.Linker()
    vm.Stdio().link(linker)  # no files, no clock, no output

    @linker.function("lookup")
    async def lookup(caller: vm.Caller, key: vm.u32) -> vm.i64:
        await asyncio.sleep(0)
        return PRICES.get(key, 0)

    return linker


class Server:
    """Answers requests with what programs compute."""

    def __init__(self, engine: vm.Engine, plugins: Mapping[str, vm.Module]) -> None:
        self._engine = engine
        self._plugins = plugins
        self._linker = _linker()

    async def answer(self, line: bytes) -> dict[str, Any]:
        """The answer to a request. Whatever is wrong with the request or the program is an answer, too."""
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise RequestError("a request is an object")
            args = request.get("args", [])
            if not isinstance(args, list) or len(args) > _ARGUMENTS or any(type(a) is not int for a in args):
                raise RequestError(f"args are up to {_ARGUMENTS} integers")
            if any(not -(1 << 63) <= number < 1 << 63 for number in args):
                raise RequestError("integers have 64 bits")
            module = await self._module(request)
            async with await self._linker.instantiate(module, limits=LIMITS) as instance:
                padded = [number & (1 << 64) - 1 for number in args + [0] * (_ARGUMENTS - len(args))]
                return {"result": await instance.call("plugin", *padded, returns=vm.i64)}
        except (ValueError, RecursionError) as error:
            return {"error": f"no request: {error}"}
        except RequestError as error:
            return {"error": str(error)}
        except vm.VMError as error:
            return {"error": f"{type(error).__name__}: {error}"}

    async def _module(self, request: dict[str, Any]) -> vm.Module:
        name, program = request.get("plugin"), request.get("program")
        if isinstance(program, str):
            try:
                blob = base64.b64decode(program, validate=True)
            except binascii.Error as error:
                raise RequestError(f"the program is no base64: {error}") from error
            module = await self._engine.compile(blob)
            if module.isa.word_bits != 64:
                raise RequestError("programs are built for latest64")
            return module
        if isinstance(name, str) and name in self._plugins:
            return self._plugins[name]
        raise RequestError("a request has a plugin, one of " + ", ".join(sorted(self._plugins)) + ", or a program")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: a request after the other."""
        try:
            with contextlib.suppress(ConnectionError, ValueError):  # ValueError: a line longer than LONGEST
                while line := await reader.readline():
                    writer.write(json.dumps(await self.answer(line)).encode() + b"\n")
                    await writer.drain()
        finally:
            writer.close()


async def main(port: int, paths: Sequence[Path]) -> None:
    async with vm.Engine() as engine:
        plugins = {path.stem: await engine.compile(path) for path in paths}
        server = await asyncio.start_server(Server(engine, plugins).serve, "127.0.0.1", port, limit=LONGEST)
        print(f"port {server.sockets[0].getsockname()[1]}, plug-ins: {', '.join(plugins) or 'none'}", flush=True)
        async with server:
            await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8765, help="0: any (default: %(default)s)")
    parser.add_argument("--plugins", type=Path, help="a directory of programs to serve by name")
    given = parser.parse_args()
    try:
        aioring.run(main(given.port, sorted(given.plugins.glob("*.polkavm")) if given.plugins else []))
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, vm.VMError) as error:
        sys.exit(f"server: {error}")
