# SPDX-License-Identifier: MIT
"""Runs one guest for ``pvm run``, and tells what went wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aioring
import vm
from vm._loops import run
from vm._module_file import MAGIC, StoredModule, read_module
from vm.cli._errors import CommandError, Status
from vm.cli._host import raised
from vm.cli._text import printable, shorten
from vm.debug_info import format_place, places


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What to run."""

    blob: vm.ProgramBlob
    #: The file of a compiled module that `blob` is from; None: it is to be compiled.
    compiled: Path | None
    engine: vm.Config
    config: vm.ModuleConfig
    linker: vm.Linker
    export: str
    arguments: Sequence[int]
    returns: Any
    #: Seconds that the export may take; None: no limit.
    timeout: float | None
    #: What the guest has to spend, if `config` meters it; None: it does not.
    gas: int | None
    #: The file that host functions come from.
    host: Path | None
    #: Names that the command line gives to imports.
    given: frozenset[str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out, and what took how many seconds."""

    result: int
    #: What the guest spent; None if that was not metered.
    gas: int | None
    compile: float
    start: float
    run: float


def read_program(path: Path) -> vm.ProgramBlob:
    """The program in the file `path`, which is a blob or a compiled module. Raises `CommandError`."""
    return read_compiled(path)[0]


def read_compiled(path: Path) -> tuple[vm.ProgramBlob, StoredModule | None]:
    """The same, and the compiled module if it is one."""
    try:
        data = path.read_bytes()
        if not data.startswith(MAGIC):
            return vm.ProgramBlob.parse(data), None
        stored = read_module(str(path))
        return vm.ProgramBlob.parse(stored.program), stored
    except vm.ModuleLoadError as error:
        raise CommandError(Status.PROGRAM, str(error), kind="load") from error
    except OSError as error:
        raise CommandError(Status.PROGRAM, f"cannot read {path}: {error.strerror}", kind="file") from error
    except vm.ProgramParseError as error:
        details = {"offset": error.offset, "section": error.section}
        raise CommandError(Status.PROGRAM, f"{path}: {error}", kind="parse", details=details) from error


def execute(call: Call) -> Outcome:
    """Runs a call in an event loop of its own. Raises `CommandError`, and KeyboardInterrupt with the guest gone."""
    main = _execute(call)
    try:
        with starting():
            return run(main)
    except asyncio.CancelledError as error:
        raise CommandError(Status.HOST, "a host function cancelled the call") from error
    finally:
        main.close()  # it was never started if there is no event loop


async def _execute(call: Call) -> Outcome:
    clock = time.perf_counter
    began = clock()
    async with vm.Engine(call.engine) as engine:
        entered = clock()
        with compiling():
            if call.compiled is None:
                module = await engine.compile(call.blob, call.config)
            else:
                module = await engine.load(call.compiled, call.config)
                if module.blob != call.blob:
                    raise vm.ModuleLoadError(str(call.compiled), "it was replaced while it was read")
        compiled = clock()
        with _linking(call):
            instance = await call.linker.instantiate(module)
        async with instance:
            if call.gas is not None:
                instance.gas = call.gas
            ready = clock()
            with _calling(call, instance):
                async with asyncio.timeout(call.timeout):
                    try:
                        result = await instance.call(call.export, *call.arguments, returns=call.returns)
                    except TimeoutError as error:  # a host function's: ours is raised behind this block
                        raise raised(error, call.host) from error
            done = clock()
            gas = _spent(call, instance)
    return Outcome(result, gas, compile=compiled - entered, start=entered - began + ready - compiled, run=done - ready)


@contextmanager
def starting() -> Iterator[None]:
    """No sandbox can be had. Around everything: the engine starts processes whenever it needs one."""
    try:
        yield
    except vm.SandboxError as error:
        details = {"step": error.step, "errno": error.errno, "remedy": error.remedy}
        raise CommandError(Status.MACHINE, str(error), details=details) from error
    except (aioring.AioringError, OSError) as error:
        raise CommandError(Status.MACHINE, str(error)) from error


@contextmanager
def compiling() -> Iterator[None]:
    """No module can be had of the program."""
    try:
        yield
    except vm.ModuleLoadError as error:
        raise CommandError(Status.PROGRAM, str(error), kind="load") from error
    except (vm.CompileError, vm.MemoryMapError) as error:
        raise CommandError(Status.PROGRAM, str(error), kind="compile") from error


@contextmanager
def _linking(call: Call) -> Iterator[None]:
    try:
        yield
    except vm.LinkError as error:
        plural = "s" if len(error.missing) > 1 else ""
        # All of them: who has to define them wants to know. There are at most 1024.
        message = f"nothing defines the import{plural} {', '.join(map(shorten, error.missing))}"
        imported = {printable(name) for name in call.blob.import_names if name is not None}
        unused = sorted(name for name in call.given if printable(name) not in imported)
        hint = f"the program does not import {', '.join(map(shorten, unused))}" if unused else "use --import or --host"
        raise CommandError(
            Status.PROGRAM, f"{message} ({hint})", kind="link", details={"missing": error.missing}
        ) from error
    except TypeError as error:  # more arguments than registers
        raise raised(error, call.host) from error


@contextmanager
def _calling(call: Call, instance: vm.Instance) -> Iterator[None]:
    try:
        yield
    except CommandError:
        raise
    except TimeoutError as error:
        message = f"'{shorten(call.export)}' did not return within {call.timeout:g} seconds"
        raise CommandError(Status.TIMEOUT, message, details={"seconds": call.timeout}) from error
    except vm.TrapError as error:
        raise _stopped(call, instance, error, "trap", "trapped", {"reason": error.reason or None}) from error
    except vm.OutOfGasError as error:
        raise _stopped(call, instance, error, "gas", "ran out of gas", {}) from error
    except vm.SandboxDiedError as error:
        raise CommandError(
            Status.TRAPPED, str(error), kind="died", details={"exit_status": error.exit_status}
        ) from error
    except vm.CrosscheckError as error:
        names = ("what", "recompiler", "interpreter", "pc", "since", "address", "instruction")
        details = {name: getattr(error, name) for name in names}
        raise CommandError(Status.INTERNAL, str(error), kind="crosscheck", details=details) from error
    except Exception as error:  # a call that could be made raises nothing else by itself
        raise raised(error, call.host) from error


def _stopped(
    call: Call,
    instance: vm.Instance,
    error: vm.TrapError | vm.OutOfGasError,
    kind: str,
    what: str,
    details: Mapping[str, object],
) -> CommandError:
    """The error for a guest that did `what`, with its backtrace if the program has debug information."""
    place = format_place(error.frames)
    message = f"the guest {what} in '{shorten(call.export)}'"
    message += "" if error.pc is None else f" at pc {error.pc}"
    message += f" ({place})" if place else ""
    message += f": {details['reason']}" if details.get("reason") else ""
    facts = {"export": error.export, "pc": error.pc, **details}
    facts["backtrace"] = [place._asdict() for place in places(error.frames)]
    if call.gas is not None:
        facts["gas_used"] = _spent(call, instance)
    return CommandError(Status.TRAPPED, message, kind=kind, details=facts, note=error.backtrace)


def _spent(call: Call, instance: vm.Instance) -> int | None:
    """Gas that the guest spent; None without metering, or if a host function closed the instance."""
    try:
        return None if call.gas is None else call.gas - instance.gas
    except vm.InstanceStateError:
        return None
