# SPDX-License-Identifier: MIT
"""Everything ``vm`` raises on its own behalf.

::

    Exception
    └── VMError                    any failure of this package
        ├── ProgramParseError      the bytes are not a program blob
        ├── AssemblyError          a line of the text assembly is wrong
        ├── toolchain.ElfError     no program can be made of an ELF file
        ├── bindings.BindingsError the bindings were made for another program
        ├── MemoryMapError         the regions do not fit the 32-bit address space (also a ValueError)
        ├── CompileError           the blob is well formed, but no module can be made of it
        ├── ModuleLoadError        the file holds no compiled module that could be used here
        ├── SnapshotLoadError      the file or the bytes hold no snapshot that could be used
        ├── LinkError              imports that nothing defines, all of them at once
        ├── TrapError              the guest trapped while it was being called
        ├── OutOfGasError          the guest ran out of gas while it was being called
        ├── LimitError             the guest reached one of its limits and was stopped
        ├── CrosscheckError        recompiler and interpreter did not agree
        ├── SandboxError           a sandbox could not be started
        │   └── SandboxDiedError   a sandbox's process is gone
        ├── InstanceStateError     the instance is closed, or running, or has nothing to run
        └── MemoryAccessError      the host named guest memory that is not there (also an IndexError)

Misuse of the interface itself (a wrong type, a negative size) is a plain ``TypeError`` or ``ValueError``.
Every class survives ``pickle`` and ``copy`` with its attributes, so it can cross a process pool.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vm.debug_info import Frame


class VMError(Exception):
    """Root of the tree: any failure of this package."""

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException's own would call the class with `args`, the finished message.
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(cls: type[VMError], args: tuple[Any, ...], state: dict[str, Any]) -> VMError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class ProgramParseError(VMError):
    """The bytes are not a program blob.

    `what` is wrong; `offset` is the byte of the blob where that was seen (None when no single byte is to
    blame); `section` is the section it lies in, by its name in the blob specification (None outside of any).
    """

    def __init__(self, what: str, *, offset: int | None = None, section: str | None = None) -> None:
        self.what = what
        self.offset = offset
        self.section = section
        where = "" if offset is None else f" at byte {offset:#x}"
        where += "" if section is None else f" in the {section} section"
        super().__init__(f"invalid program blob: {what}{where}")


class AssemblyError(VMError):
    """A line of the text assembly is wrong.

    `what` is wrong; `line` is its number, counted from 1 (None when the fault is the program's as a whole);
    `text` is the line without the white space around it.
    """

    def __init__(self, what: str, *, line: int | None = None, text: str = "") -> None:
        self.what = what
        self.line = line
        self.text = text
        super().__init__(what if line is None else f"line {line}: {what}: {_shorten(text)!r}")


def _shorten(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


class MemoryMapError(VMError, ValueError):
    """The page size is not one, or the memory regions of a program do not fit the 32-bit address space."""


class CompileError(VMError):
    """The blob is well formed, but no module can be made of it: the message says what stands in the way."""


class ModuleLoadError(VMError):
    """The file or directory `path` holds no compiled module that could be used here; `what` says why not."""

    def __init__(self, path: str, what: str) -> None:
        self.path = path
        self.what = what
        super().__init__(f"cannot load a compiled module from {path}: {what}")


class SnapshotLoadError(VMError):
    """`source`, a path or "bytes", holds no snapshot of a guest of the given module.

    `what` says why not; `offset` is the byte where that was seen (None when no single byte is to blame).
    """

    def __init__(self, source: str, what: str, *, offset: int | None = None) -> None:
        self.source = source
        self.what = what
        self.offset = offset
        where = "" if offset is None else f" (at byte {offset:#x})"
        super().__init__(f"cannot load a snapshot from {source}: {what}{where}")


class LinkError(VMError):
    """The program imports what nothing defines; `missing` holds the name of every such import, in blob order."""

    def __init__(self, missing: tuple[str, ...]) -> None:
        self.missing = tuple(missing)
        plural = "s" if len(self.missing) != 1 else ""
        super().__init__(f"{len(self.missing)} unresolved import{plural}: {', '.join(self.missing)}")


class _Stopped:
    """What the errors of a guest that stopped have in common: where."""

    pc: int | None
    #: The function that `pc` is in and those it was inlined into, innermost first, as `vm.debug_info.DebugInfo.locate`
    #: gives them; empty where the program does not say.
    frames: tuple[Frame, ...]

    @property
    def backtrace(self) -> str:
        """`frames` for people, on several lines, safe to print; empty where the program does not say."""
        from vm.debug_info import format_backtrace  # here, because it raises errors of this module

        return format_backtrace(self.frames, self.pc) if self.frames and self.pc is not None else ""


def _at(pc: int | None, export: str | None, frames: tuple[Frame, ...]) -> str:
    """The place in a message, in one line."""
    from vm.debug_info import format_place  # as above

    place = format_place(frames)
    where = "" if export is None else f" in {export!r}"
    where += "" if pc is None else f" at pc {pc}"
    return f"{where} ({place})" if place else where


class TrapError(_Stopped, VMError):
    """The guest trapped while it was being called.

    `pc` is the code offset of the instruction that trapped, where known; `export` the function that was
    called, where one was; `reason` what is known beyond that; `frames` and `backtrace` where in the source that is, if
    the program has debug information.
    """

    def __init__(
        self,
        *,
        pc: int | None = None,
        export: str | None = None,
        reason: str = "",
        frames: tuple[Frame, ...] = (),
    ) -> None:
        self.pc = pc
        self.export = export
        self.reason = reason
        self.frames = frames
        super().__init__(f"the guest trapped{_at(pc, export, frames)}" + (f": {reason}" if reason else ""))


class OutOfGasError(_Stopped, VMError):
    """The guest ran out of gas while it was being called.

    `pc` is the code offset at which it would go on with more, None with async metering; `export` the function that was
    called; `frames` and `backtrace` where in the source that is, if the program has debug information. `Instance.run`
    goes on after an assignment to `Instance.gas`.
    """

    def __init__(self, *, pc: int | None = None, export: str | None = None, frames: tuple[Frame, ...] = ()) -> None:
        self.pc = pc
        self.export = export
        self.frames = frames
        super().__init__(f"the guest ran out of gas{_at(pc, export, frames)}")


class LimitError(_Stopped, VMError):
    """The guest reached one of its limits (`vm.Limits`) and was stopped.

    `which` is "memory", "wall" or "cpu", and `limit` its value in bytes or seconds; `pc` is the code offset of the
    instruction it stopped before, where known; `export` the function that was called, where one was; `frames` and
    `backtrace` where in the source that is, if the program has debug information.
    """

    def __init__(
        self,
        which: str,
        limit: float,
        *,
        pc: int | None = None,
        export: str | None = None,
        frames: tuple[Frame, ...] = (),
    ) -> None:
        self.which = which
        self.limit = limit
        self.pc = pc
        self.export = export
        self.frames = frames
        what = {
            "memory": f"{limit} bytes of memory",
            "wall": f"{limit} seconds",
            "cpu": f"{limit} seconds of processor time",
        }[which]
        super().__init__(f"the guest reached its limit of {what}{_at(pc, export, frames)}")


class CrosscheckError(VMError):
    """Recompiler and interpreter did not agree (`Config.crosscheck`): one of them is wrong.

    `what` differs: "event", "pc", "next pc", "host call", "page fault", "fault is a write", the name of a register,
    "gas", "heap size" or "memory"; `recompiler` and `interpreter` are the two values: the name of an interrupt for an
    event, otherwise a number or None where there is none; of memory the byte at `address`, None for all else. `since`
    is the code offset that both went on from. With step tracing, `pc` is that of the instruction they execute
    differently and `instruction` what it does; otherwise it is one of those from `since` to `pc`, where the recompiled
    guest stopped (None: it returned, or there is no telling), and `instruction` is empty.
    """

    def __init__(
        self,
        what: str,
        recompiler: int | str | None,
        interpreter: int | str | None,
        *,
        pc: int | None,
        since: int,
        address: int | None = None,
        instruction: str = "",
    ) -> None:
        self.what = what
        self.recompiler = recompiler
        self.interpreter = interpreter
        self.pc = pc
        self.since = since
        self.address = address
        self.instruction = instruction
        place = what if address is None else f"{what} at {address:#x}"
        values = f"{place} is {_value(what, recompiler)} recompiled and {_value(what, interpreter)} interpreted"
        if instruction:
            super().__init__(f"recompiler and interpreter differ at pc {pc} ({instruction}): {values}")
            return
        end = "its end" if pc is None else f"pc {pc}"
        hint = "step tracing (ModuleConfig.step_tracing) finds the instruction"
        super().__init__(f"recompiler and interpreter differ between pc {since} and {end}: {values}; {hint}")


def _value(what: str, value: int | str | None) -> str:
    """A value in the message: program counters, gas and the like as elsewhere in decimal, the others in hexadecimal."""
    if isinstance(value, int) and what not in ("pc", "next pc", "host call", "gas", "heap size"):
        return hex(value)
    return str(value)


class SandboxError(VMError):
    """A sandbox could not be started: `step` failed with `errno` (None: not a system call), `remedy` is what helps."""

    def __init__(self, step: str, *, errno: int | None = None, remedy: str = "") -> None:
        self.step = step
        self.errno = errno
        self.remedy = remedy
        message = f"cannot start a sandbox: {step}"
        message += "" if errno is None else f": {os.strerror(errno)} (errno {errno})"
        message += f"; {remedy}" if remedy else ""
        super().__init__(message)


class SandboxDiedError(SandboxError):
    """A sandbox's process `pid` is gone; `exit_status` says how, such as ``exit status 3`` or ``killed by SIGKILL``."""

    def __init__(self, pid: int, exit_status: str, *, remedy: str = "") -> None:
        super().__init__(f"process {pid} died ({exit_status})", remedy=remedy)
        self.pid = pid
        self.exit_status = exit_status
        # It had started: the base class's sentence would be wrong.
        self.args = (f"sandbox process {pid} died: {exit_status}" + (f"; {remedy}" if remedy else ""),)


class InstanceStateError(VMError):
    """The instance is closed, or running already, or has nothing to run: the message says which."""


class MemoryAccessError(VMError, IndexError):
    """The host named guest memory that is not there, or not for this use.

    `address` and `length` are the range in bytes that was asked for; `what` was wrong with it.
    """

    def __init__(self, address: int, length: int, what: str) -> None:
        self.address = address
        self.length = length
        self.what = what
        super().__init__(f"{what}: {length} bytes of guest memory at {address:#x}")
