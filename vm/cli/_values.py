# SPDX-License-Identifier: MIT
"""Integers and exports, as they are written on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from vm._config import SANDBOXES, ModuleConfig, Sandbox
from vm._module_file import BACKENDS, Backend
from vm._types import WORD
from vm.cli._errors import CommandError, Status
from vm.cli._text import listing, printable, shorten
from vm.isa import ARGUMENT_REGISTERS
from vm.program import ProgramBlob

_INTEGER = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+|[0-9]+)", re.ASCII)
# Leading zeros included; int() of a hostile length takes long, and refuses more than 4300 digits by itself.
_LONGEST = 128


def usage(message: str, **details: object) -> CommandError:
    """The error for a command line that is wrong."""
    return CommandError(Status.USAGE, message, details=details)


def find_integer(text: str) -> int | None:
    """The value of a decimal, ``0x``, ``0o`` or ``0b`` number with or without a sign; None if it is none."""
    if len(text) > _LONGEST or not _INTEGER.fullmatch(text):
        return None
    # With base 0, Python refuses leading zeros.
    return int(text, 10 if text.lstrip("+-").isdigit() else 0)


def integer(text: str, what: str) -> int:
    """The same; raises `CommandError` that names `what` the integer is for."""
    value = find_integer(text)
    if value is None:
        raise usage(f"{what} is '{shorten(text)}', which is no integer (decimal, 0x.., 0o.. or 0b..)")
    return value


def word(value: int, bits: int, what: str) -> int:
    """`value`, if a guest register of `bits` bits can hold it. Raises `CommandError`."""
    try:
        WORD.for_word(bits).check(value, what)
    except OverflowError as error:
        raise usage(str(error)) from None
    return value


def choose_backend(name: str | None) -> Backend | None:
    """The backend of this name. Raises `CommandError`."""
    found = next((backend for backend in BACKENDS if backend == name), None)
    if found is None and name is not None:
        raise usage(f"--backend must be one of {', '.join(BACKENDS)}, not '{shorten(name)}'")
    return found


def choose_sandbox(name: str | None) -> Sandbox:
    """The sandbox of this name, linux if there is none. Raises `CommandError`."""
    if name is None:
        return "linux"
    found = next((sandbox for sandbox in SANDBOXES if sandbox == name), None)
    if found is None:
        raise usage(f"--sandbox must be one of {', '.join(SANDBOXES)}, not '{shorten(name)}'")
    return found


def module_config(page_size: int | None, metered: bool, legacy_sbrk: bool) -> ModuleConfig:
    """The settings that the options for compiling make."""
    config = ModuleConfig(gas_metering="sync" if metered else None, legacy_sbrk=legacy_sbrk)
    return config if page_size is None else replace(config, page_size=page_size)


def choose_export(blob: ProgramBlob, words: Sequence[str]) -> tuple[str, list[str]]:
    """The export that ``[EXPORT] [ARGS]...`` means, by its name in `Module.exports`, and the arguments for it.

    It may be left out if there is one only, or one called ``main``. Raises `CommandError` that lists the exports.
    """
    names = list(dict.fromkeys(export.name for export in blob.exports))
    default = "main" if "main" in names else names[0] if len(names) == 1 else None
    first = words[0] if words else None
    if first is not None and first in names:
        return first, list(words[1:])
    # A name that no shell can type is called as it is listed.
    spelled = next((name for name in names if printable(name) == first), None)
    if spelled is not None:
        return spelled, list(words[1:])
    if not names:
        raise usage("the program has no exports", exports=names)
    if first is None or find_integer(first) is not None:
        if default is None:
            raise usage(f"which export? The program has {listing(names)}", exports=names)
        return default, list(words)
    if first.startswith("-"):
        raise usage(f"no such option: {shorten(first)}")
    raise usage(f"no export '{shorten(first)}'; the program has {listing(names)}", exports=names)


def parse_arguments(words: Sequence[str], bits: int) -> list[int]:
    """The integers to call an export with. Raises `CommandError`."""
    if len(words) > len(ARGUMENT_REGISTERS):
        raise usage(f"{len(words)} arguments: an export takes at most {len(ARGUMENT_REGISTERS)}")
    values = []
    for number, text in enumerate(words, 1):
        if text.startswith("-") and find_integer(text) is None:
            raise usage(f"no such option: {shorten(text)}")
        values.append(word(integer(text, f"argument {number}"), bits, f"argument {number}"))
    return values
