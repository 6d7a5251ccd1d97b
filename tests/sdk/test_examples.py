# SPDX-License-Identifier: MIT
"""The examples that are built from C. Those of libraries fetch their sources, and skip where they cannot."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib.util
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import vm

EXAMPLES = Path(__file__).parents[2] / "examples"


def make(example: str, build: Path, *targets: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("make") is None:
        pytest.skip("the command make is missing")
    variables = [f"PVM={sys.executable} -m vm.cli", f"PYTHON={sys.executable}", f"BUILD={build}"]
    command = ["make", "-s", "-C", EXAMPLES / example, *variables, *targets]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


def load(example: str, name: str) -> ModuleType:
    """A Python file of an example, which is no package."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / example / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def built(example: str, build: Path) -> Path:
    """Where an example was built from sources that are fetched. Skips where they cannot be."""
    fetched = make(example, build, "source")
    if fetched.returncode:
        assert "checksum" not in fetched.stderr, fetched.stderr
        pytest.skip(f"the source cannot be fetched: {fetched.stderr.strip().splitlines()[0]}")
    done = make(example, build)
    assert done.returncode == 0, done.stderr
    return build


# --- Lua ---


@pytest.fixture(scope="module")
def lua(compiler: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("lua", tmp_path_factory.mktemp("lua")) / "lua.polkavm"


def run_lua(lua: Path, options: list[str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vm.cli", "run", *options, str(lua), "--", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_lua_runs_a_script_of_a_granted_directory(lua: Path, tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "lua" / "words.lua", tmp_path)
    (tmp_path / "text").write_text("The cat and the dog.\nAnd the bird, the DOG...\n")
    done = run_lua(lua, ["--dir", f"here={tmp_path}"], "here/words.lua", "here/text")
    assert (done.stdout, done.stderr, done.returncode) == ("  4 the\n  2 and\n  2 dog\n  1 bird\n  1 cat\n", "", 0)


def test_lua_computes_and_fails_as_lua_does(lua: Path) -> None:
    script = """
        local co = coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i) end end)
        print(co() + co() + co(), 7 // 2, 2^0.5, math.maxinteger, #"text", ("x"):rep(3, ","))
        print(pcall(error, {code = 5}), select("#", table.unpack({1, 2, 3})), string.format("%q %5.1f", "a\\n", 2.25))
        local t = setmetatable({}, {__index = function(_, k) return k * 2 end})
        print(t[21], io.open("nowhere/file"))
        error("on purpose")
    """
    done = run_lua(lua, [], "-e", script)
    lines = done.stdout.splitlines()
    assert lines[0] == "6\t3\t1.4142135623731\t9223372036854775807\t4\tx,x,x"
    assert lines[-1].startswith("42\tnil\tnowhere/file: No such file")
    assert "on purpose" in done.stderr
    assert done.returncode == 1


def test_lua_is_stopped(lua: Path) -> None:
    done = run_lua(lua, ["--timeout", "0.3"], "-e", "while true do end")
    assert "did not return within" in done.stderr
    assert done.returncode == 124


async def test_lua_is_copied_for_each_script(lua: Path) -> None:
    scripts = load("lua", "scripts")
    async with (
        vm.Engine() as engine,
        await scripts.warm(await engine.compile(lua.with_name("warm.polkavm"))) as snapshot,
    ):
        good, left, wrong, endless, greedy = await asyncio.gather(
            scripts.run(snapshot, b"mark = (mark or 0) + 1 print(mark, string.rep('x', 3))"),
            scripts.run(snapshot, b"mark = (mark or 0) + 1 print(mark)"),
            scripts.run(snapshot, b"print('before') nonsense()"),
            scripts.run(snapshot, b"while true do end"),
            scripts.run(snapshot, b"local t = {} while true do t[#t + 1] = ('x'):rep(1 << 20) .. #t end"),
        )
        assert good == scripts.Outcome("1\txxx\n", "")
        assert left == scripts.Outcome("1\n", "")  # nothing of the others
        assert wrong.output == "before\n"
        assert "global 'nonsense'" in wrong.error
        assert "cpu" in endless.error or "processor time" in endless.error
        assert "not enough memory" in greedy.error
        again = await scripts.run(snapshot, b"print(mark, io.open('/etc/passwd'))")
        assert again.output.startswith("nil\tnil\t")
        flood = await scripts.run(snapshot, b"while true do io.write(('x'):rep(1 << 16)) end")
        assert len(flood.output) == scripts.LONGEST_OUTPUT


def test_lua_scripts_in_files(lua: Path) -> None:
    folder = EXAMPLES / "lua"
    command = [sys.executable, folder / "scripts.py", lua.with_name("warm.polkavm"), folder / "primes.lua"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("2 3 5 7 11 13 17 19 23 29 31 37 41 43 47\n")
    assert done.returncode == 0


# --- pictures ---


@pytest.fixture(scope="module")
def image(compiler: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("images", tmp_path_factory.mktemp("images")) / "image.polkavm"


def png(width: int, height: int, rows: bytes) -> bytes:
    """A PNG file of RGB pixels, 8 bits each."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + rows[3 * width * y : 3 * width * (y + 1)] for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")


async def test_a_picture_is_decoded_and_a_bad_one_is_not(image: Path) -> None:
    images = load("images", "images")
    rows = bytes((x * y + c * 80) & 255 for y in range(20) for x in range(30) for c in range(3))
    async with vm.Engine() as engine:
        module = await engine.compile(image)
        good = png(30, 20, rows)
        picture = await images.decode(module, good)
        assert (picture.width, picture.height) == (30, 20)
        assert picture.ppm() == b"P6\n30 20\n255\n" + rows
        assert picture.pixels[3::4] == b"\xff" * 600
        for bad in (b"", b"no picture", good[:70], good[:20] + b"\xff" * 60, png(9000, 9000, b"")):
            with pytest.raises(images.ImageError):
                await images.decode(module, bad)
        assert (await images.decode(module, good)).pixels == picture.pixels


def test_pictures_from_the_shell(image: Path, tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(png(2, 1, b"abcdef"))
    script = EXAMPLES / "images" / "images.py"
    command = [sys.executable, script, image, tmp_path / "p.png", tmp_path / "p.ppm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == (f"{tmp_path}/p.png: 2 x 1\n", 0)
    assert (tmp_path / "p.ppm").read_bytes() == b"P6\n2 1\n255\nabcdef"


# --- plug-ins ---

Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def plugins(compiler: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = tmp_path_factory.mktemp("plugins")
    done = make("plugins", build)
    assert done.returncode == 0, done.stderr
    return build


@pytest.fixture
async def ask(plugins: Path) -> AsyncIterator[Ask]:
    """Asks a server, over a connection of its own."""
    script = EXAMPLES / "plugins" / "server.py"
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, "--port", "0", "--plugins", plugins, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        port = int((await process.stdout.readline()).split(b",")[0].split()[1])

        async def ask(request: object) -> Any:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            line = request if isinstance(request, bytes) else json.dumps(request).encode()
            try:
                writer.write(line + b"\n")
                answer = await reader.readline()
                return json.loads(answer) if answer else None
            except ConnectionError:
                return None
            finally:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()

        yield ask
    finally:
        process.terminate()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


async def test_requests_run_functions_in_sandboxes(ask: Ask, plugins: Path) -> None:
    assert await ask({"plugin": "discount", "args": [7, 12, 3]}) == {"result": 276}
    program = base64.b64encode((plugins / "discount.polkavm").read_bytes()).decode()
    assert await ask({"program": program, "args": [8, 1]}) == {"result": 1999}
    answers = await asyncio.gather(*(ask({"plugin": "discount", "args": [7, n]}) for n in range(9)))
    assert answers == [{"result": 25 * n} for n in range(9)]


async def test_what_goes_wrong_is_an_answer(ask: Ask) -> None:
    stopped, crashed, fine = await asyncio.gather(
        ask({"plugin": "endless"}), ask({"plugin": "greedy"}), ask({"plugin": "discount", "args": [7, 2, 0]})
    )
    assert "0.25 seconds of processor time" in stopped["error"]
    assert crashed["error"].startswith("TrapError")
    assert fine == {"result": 50}
    for bad in (b"", b"{", b"[]", {}, {"plugin": "nosuch"}, {"program": "!"}, {"program": "AAAA"}):
        assert "error" in await ask(bad)
    for args in ([1, 2, 3, 4], ["1"], [1 << 64], [True], 5):
        assert "error" in await ask({"plugin": "discount", "args": args})
    assert await ask(b"x" * (2 << 20)) is None  # too long: the connection ends
    assert await ask({"plugin": "discount", "args": [7, 2, 0]}) == {"result": 50}


def test_the_client_builds_and_sends(plugins: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, EXAMPLES / "plugins" / "server.py", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    with server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().split(",")[0].split()[1]
            source = EXAMPLES / "plugins" / "functions" / "discount.c"
            command = [sys.executable, EXAMPLES / "plugins" / "client.py", source, "7", "12", "3", "--port", port]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
            assert (done.stdout, done.stderr, done.returncode) == ("276\n", "", 0)
        finally:
            server.terminate()
