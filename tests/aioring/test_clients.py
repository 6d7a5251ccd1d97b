# SPDX-License-Identifier: MIT
"""Frameworks that know nothing of aioring, unchanged in its loop: pytest-asyncio, uvicorn, aiohttp, httpx."""

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import aioring

in_our_loop = pytest.mark.asyncio(loop_factories=["aioring"])
_HOW = "pip install --group clients"


def need(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is missing: {_HOW}")


# --- pytest-asyncio: the recipe of docs/event-loop.md ---


def test_the_recipe(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "event-loop.md").read_text()
    start = text.index("```python\n# conftest.py") + len("```python\n")
    (tmp_path / "conftest.py").write_text(text[start : text.index("```", start)])
    (tmp_path / "test_it.py").write_text(
        "import asyncio, aioring, pytest\n"
        "@pytest.mark.asyncio\n"
        "async def test_it():\n"
        "    assert isinstance(asyncio.get_running_loop(), aioring.EventLoop)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=19, cwd=tmp_path)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


# --- HTTP ---


@contextlib.asynccontextmanager
async def uvicorn_server() -> AsyncIterator[str]:
    uvicorn = need("uvicorn")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-path", scope["path"].encode())]})
        await send({"type": "http.response.body", "body": body[::-1]})

    class Server(uvicorn.Server):  # type: ignore[misc, name-defined]
        def install_signal_handlers(self) -> None: ...

        @contextlib.contextmanager
        def capture_signals(self) -> Any:
            yield

    server = Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", ws="none"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        assert not serving.done(), serving
        await asyncio.sleep(0.001)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await serving


@in_our_loop
async def test_uvicorn_and_httpx() -> None:
    httpx = need("httpx")
    async with uvicorn_server() as url, httpx.AsyncClient(trust_env=False) as client:
        answers = await asyncio.gather(*(client.post(f"{url}/{number}", content=b"abc") for number in range(50)))
        assert [answer.content for answer in answers] == [b"cba"] * 50
        assert [answer.headers["x-path"] for answer in answers] == [f"/{number}" for number in range(50)]
        large = b"x" * 300_000
        assert (await client.get(url)).status_code == 200
        assert (await client.post(url, content=large)).status_code == 200


@in_our_loop
async def test_uvicorn_takes_the_loop_by_name() -> None:
    uvicorn = need("uvicorn")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        """Never called."""

    factory = uvicorn.Config(app, loop="aioring:new_event_loop").get_loop_factory()
    made = await asyncio.to_thread(factory)
    assert isinstance(made, aioring.EventLoop)
    made.close()


@in_our_loop
async def test_aiohttp_both_ways() -> None:
    aiohttp = need("aiohttp")
    web = need("aiohttp.web")

    async def answer(request: Any) -> Any:
        return web.json_response({"path": request.path, "length": len(await request.read())})

    async def talk(request: Any) -> Any:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data.upper())
        return socket

    application = web.Application()
    application.add_routes([web.post("/{name}", answer), web.get("/talk", talk)])
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with aiohttp.ClientSession() as session:

        async def post(number: int) -> Any:
            async with session.post(f"{url}/{number}", data=b"x" * number * 1000) as response:
                return await response.json()

        found = await asyncio.gather(*(post(number) for number in range(50)))
        assert found == [{"path": f"/{number}", "length": number * 1000} for number in range(50)]
        async with session.ws_connect(f"{url}/talk") as socket:
            await socket.send_str("hello")
            assert await socket.receive_str() == "HELLO"
    await runner.cleanup()


def test_a_client_in_another_thread() -> None:
    """A loop per thread, each with its ring."""
    results: list[int] = []

    def work(number: int) -> None:
        async def main() -> int:
            await asyncio.sleep(0)
            return number

        results.append(aioring.run(main()))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(8))
