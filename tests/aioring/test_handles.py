# SPDX-License-Identifier: MIT
"""Callbacks and timers of the native core, run and stopped by hand."""

import asyncio
import contextvars
import gc
import math
import subprocess
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import aioring


@pytest.fixture
def loop() -> Iterator[aioring.EventLoop]:
    made = aioring.EventLoop()
    yield made
    made.close()


def once(loop: aioring.EventLoop) -> None:
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_handles_are_of_asyncio(loop: aioring.EventLoop) -> None:
    handle = loop.call_soon(print, 1, 2)
    assert isinstance(handle, asyncio.Handle)
    assert not handle.cancelled()
    assert "print" in repr(handle)
    handle.cancel()
    handle.cancel()
    assert handle.cancelled()
    timer = loop.call_at(loop.time() + 1000, print)
    assert isinstance(timer, asyncio.TimerHandle)
    assert timer.when() > loop.time() + 900
    assert loop._pending()[1] == 1
    timer.cancel()
    assert loop._pending()[1] == 0  # gone at once
    assert weakref.ref(timer)() is timer
    # One that Python code made and queued, as asyncio's signal handling does.
    ran: list[int] = []
    loop._add_callback(asyncio.Handle(ran.append, (1,), loop))  # type: ignore[attr-defined]
    once(loop)
    assert ran == [1]
    with pytest.raises(TypeError, match=r"asyncio\.Handle is required"):
        loop._add_callback(print)  # type: ignore[attr-defined]


def test_handles_hold_nothing_after_their_call(loop: aioring.EventLoop) -> None:
    class Thing:
        def call(self) -> None:
            pass

    for add in (loop.call_soon, lambda call: loop.call_later(0, call)):
        thing = Thing()
        gone = weakref.ref(thing)
        add(thing.call)  # type: ignore[operator]
        del thing
        gc.collect()
        assert gone() is not None
        once(loop)
        once(loop)
        assert gone() is None


def test_handles_in_a_cycle_are_collected(loop: aioring.EventLoop) -> None:
    class Thing:
        handle: asyncio.Handle

        def call(self) -> None:
            pass

    def add(*, stop: bool) -> None:
        thing = Thing()
        things.append(weakref.ref(thing))
        thing.handle = loop.call_soon(thing.call)
        assert gc.is_tracked(thing.handle) == (not loop.is_running())
        if stop:
            loop.stop()

    things: list[weakref.ref[Thing]] = []
    gc.disable()  # until they have had their turn
    try:
        add(stop=False)
        loop.call_soon(lambda: add(stop=False))
        once(loop)
        loop.call_soon(lambda: add(stop=True))
        loop.run_forever()
        assert [thing() is None for thing in things] == [False, False, False]
        gc.collect()
        # The last one waits for the loop to run again.
        assert [thing() is None for thing in things] == [True, True, False]
        waiting = things[2]()
        assert waiting is not None
        assert gc.is_tracked(waiting.handle)
        del waiting
        once(loop)
        gc.collect()
        assert things[2]() is None
    finally:
        gc.enable()


def test_a_loop_that_was_dropped_is_collected_with_what_it_was_to_call() -> None:
    class Thing:
        handle: asyncio.Handle

        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            self.loop = loop

        def call(self) -> None:
            pass

        def start(self) -> None:
            self.handle = self.loop.call_soon(self.call)
            self.loop.stop()

    things = [Thing(aioring.EventLoop())]
    things[0].loop.call_soon(things[0].start)
    things[0].loop.run_forever()
    gone = weakref.ref(things.pop())
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        gc.collect()
    assert gone() is None


def test_ten_thousand_timers_in_order(loop: aioring.EventLoop) -> None:
    ran: list[int] = []
    now = loop.time()
    handles = [loop.call_at(now + index % 7 * 1e-4, ran.append, index) for index in range(10_000)]
    for handle in handles[::3]:
        handle.cancel()
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert ran == sorted((index for index in range(10_000) if index % 3), key=lambda index: index % 7)
    assert loop._pending()[:2] == (0, 0)


def test_bad_arguments(loop: aioring.EventLoop) -> None:
    for call in (loop.call_soon, loop.call_later, loop.call_at, loop.call_soon_threadsafe):
        with pytest.raises(TypeError, match="missing"):
            call()  # type: ignore[operator]
        with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
            call(1, print, other=2)  # type: ignore[operator]
    with pytest.raises(TypeError, match="delay must not be None"):
        loop.call_later(None, print)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="when cannot be None"):
        loop.call_at(None, print)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="NaN"):
        loop.call_later(math.nan, print)
    with pytest.raises(TypeError):
        loop.call_later("1", print)  # type: ignore[arg-type]
    loop.call_later(math.inf, print).cancel()


def test_exceptions_go_to_the_handler(loop: aioring.EventLoop) -> None:
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))
    handle = loop.call_soon(int, "no number")
    ran: list[int] = []
    loop.call_soon(ran.append, 1)
    once(loop)
    assert ran == [1]
    assert [context["handle"] for context in told] == [handle]
    assert isinstance(told[0]["exception"], ValueError)
    assert "Exception in callback int(" in told[0]["message"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_loop_loses_no_callback(loop: aioring.EventLoop, kind: type[BaseException]) -> None:
    ran: list[int] = []

    def interrupt() -> None:
        raise kind

    loop.call_soon(ran.append, 1)
    loop.call_soon(interrupt)
    loop.call_soon(ran.append, 2)
    with pytest.raises(kind):
        loop.run_forever()
    assert ran == [1]
    once(loop)
    assert ran == [1, 2]


def test_context(loop: aioring.EventLoop) -> None:
    variable = contextvars.ContextVar("variable", default="none")
    seen: list[str] = []

    def look(new: str) -> None:
        seen.append(variable.get())
        variable.set(new)

    context = contextvars.copy_context()
    loop.call_soon(look, "first", context=context)
    loop.call_soon(look, "second", context=context)
    loop.call_later(0, look, "third", context=context)
    token = variable.set("here")
    loop.call_soon(look, "changed")
    variable.reset(token)
    once(loop)
    once(loop)
    assert seen == ["none", "first", "here", "second"]
    assert variable.get() == "none"
    # In a context that is entered already nothing can be called; the loop goes on.
    loop.call_soon(seen.clear, context=context)
    context.run(once, loop)
    assert seen != []


def test_debug_mode_tells_of_other_threads_and_of_what_is_no_callback(loop: aioring.EventLoop) -> None:
    loop.set_debug(True)
    handle = loop.call_soon(print)
    assert handle._source_traceback[-1].name.startswith("test_debug")  # type: ignore[attr-defined]
    handle.cancel()
    assert "print" in repr(handle)

    async def coroutine() -> None:
        pass

    with pytest.raises(TypeError, match="coroutines cannot be used with call_soon"):
        loop.call_soon(coroutine)

    async def main() -> None:
        def call() -> None:
            with pytest.raises(RuntimeError, match="Non-thread-safe operation"):
                loop.call_soon(print)
            loop.call_soon_threadsafe(int)

        await asyncio.to_thread(call)

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())


def test_another_interpreter_is_refused() -> None:
    program = """
import sys
from test.support import run_in_subinterp
code = '''
try:
    import aioring._loop
except ImportError as error:
    print("refused:", error)
'''
sys.exit(run_in_subinterp(code))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if "No module named" in result.stderr:
        pytest.skip("this Python has no test package")
    assert "refused:" in result.stdout, result.stderr
    assert result.returncode == 0
