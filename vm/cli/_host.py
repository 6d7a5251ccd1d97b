# SPDX-License-Identifier: MIT
"""Host functions for ``pvm run``: those of the ``--host`` file, and the constants of ``--import``."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import vm
from vm.cli._errors import CommandError, Status
from vm.cli._text import printable, shorten
from vm.cli._values import integer, usage, word

#: The name that the host file's module has: no file of the user's or of a library is called like this.
_MODULE = "__pvm_host__"


def parse_imports(texts: Sequence[str]) -> dict[str, int]:
    """The values of ``--import NAME=VALUE``, by name. Raises `CommandError`."""
    values: dict[str, int] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not equals or not name:
            raise usage(f"--import '{shorten(text)}' must look like NAME=VALUE")
        if name in values:
            raise usage(f"import '{shorten(name)}' is given twice")
        values[name] = integer(value, f"import '{shorten(name)}'")
    return values


def make_linker(blob: vm.ProgramBlob, imports: dict[str, int], host: Path | None) -> vm.Linker:
    """A linker with all that the command line defines. Raises `CommandError`."""
    linker = vm.Linker() if host is None else load(host)
    # A name that no shell can type is given as the missing imports are listed.
    spelled = {printable(name): name for name in blob.import_names if name is not None}
    for name, value in imports.items():
        word(value, blob.isa.word_bits, f"import '{shorten(name)}'")
        try:
            linker.define(spelled.get(name, name), _constant(value))
        except ValueError as error:
            raise usage(f"import '{shorten(name)}' is defined by both --import and {host}") from error
    return linker


def _constant(value: int) -> Callable[[vm.Caller], int]:
    """A host function that returns `value`, whatever the guest passes."""

    def constant(caller: vm.Caller) -> int:
        return value

    return constant


def load(path: Path) -> vm.Linker:
    """Runs the Python file `path` as a trusted part of this process; its `linker`. Raises `CommandError`."""
    module = ModuleType(_MODULE)
    module.__file__ = str(path)
    # Where dataclasses, pickle and the like look for the globals of what the file defines.
    sys.modules[_MODULE] = module
    # As for a program of its own: it may import its neighbours.
    sys.path.insert(0, str(path.resolve().parent))
    try:
        # Not by an importer: that would leave a __pycache__ beside the user's file.
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except OSError as error:
        if error.filename != str(path):
            raise raised(error, path) from error
        raise CommandError(Status.HOST, f"cannot read the host file {path}: {error.strerror}") from error
    except Exception as error:
        raise raised(error, path) from error
    linker = module.__dict__.get("linker")
    if not isinstance(linker, vm.Linker):
        found = "" if linker is None else f", not {type(linker).__name__}"
        raise CommandError(Status.HOST, f"the host file {path} must define 'linker = vm.Linker()'{found}")
    return linker


def raised(error: BaseException, path: Path | None) -> CommandError:
    """The error for what the host file, or a host function, raised."""
    kind = type(error).__name__
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line, text = error.lineno, error.msg
    else:
        frames = traceback.extract_tb(error.__traceback__)
        line, text = next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None), str(error)
    where = "a host function" if line is None else f"{path}, line {line}"
    message = f"{where}: {kind}: {text}" if text else f"{where}: {kind}"
    details = {"exception": kind, "file": None if path is None else str(path), "line": line}
    return CommandError(Status.HOST, message, details=details)
