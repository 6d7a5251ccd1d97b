# SPDX-License-Identifier: MIT
"""The homes that guests can have, side by side: what each does about a matter on this machine, for ``pvm doctor``."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vm._config import Config

if TYPE_CHECKING:
    from vm._doctor import Check

#: How to choose each.
HOMES: Final[Mapping[str, Config]] = {
    "linux": Config(),
    "generic": Config(sandbox="generic"),
    "interpreter": Config(backend="interpreter"),
}


@dataclass(frozen=True, slots=True)
class Matter:
    """One row of the matrix: what the homes do about `what`."""

    what: str
    linux: str
    generic: str
    interpreter: str


def matrix(checks: tuple[Check, ...], trials: Mapping[str, str]) -> tuple[Matter, ...]:
    """The rows; `trials` is what became of a guest in each home, `checks` what `vm._doctor.examine` found."""
    by_name = {check.requirement: check for check in checks}

    def here(requirement: str, text: str) -> str:
        check = by_name.get(requirement)
        return text if check is not None and check.status == "ok" else f"{text}: not available"

    return (
        Matter("a guest here", trials["linux"], trials["generic"], trials["interpreter"]),
        Matter(
            "sandboxing",
            here("user namespaces", "a process each, in namespaces of its own"),
            "none: native code in this process",
            "no native code of guests",
        ),
        Matter(
            "memory protection",
            "address space of its process",
            "GS base and inaccessible pages",
            "every access is checked",
        ),
        Matter(
            "paging",
            here("userfaultfd", "userfaultfd, held by the host"),
            here("userfaultfd", "userfaultfd of this process"),
            "pages are looked up at every access",
        ),
        Matter(
            "signals",
            "handled in its process",
            "SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGURG of this process, chained",
            "none",
        ),
        Matter("waiting", by_name["waiting"].found, "nothing to wait for", "nothing to wait for"),
        Matter(
            "filtering",
            here("seccomp", "seccomp leaves futex, rt_sigreturn, exit"),
            "none",
            "none needed",
        ),
        Matter("limits", "memory, gas, time; rlimits of its process", "memory, gas, time", "memory, gas, time"),
    )


def try_all(run: Callable[[Config], str], *, linux: str) -> dict[str, str]:
    """What became of a guest in each home: `linux` in its own, which was tried already."""
    found = {"linux": linux}
    for name, config in HOMES.items():
        if name not in found:
            with _without_warning():
                found[name] = run(config)
    return found


@contextlib.contextmanager
def _without_warning() -> Iterator[None]:
    """Nobody chose the generic sandbox here."""
    logger = logging.getLogger("vm")

    def drop(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING

    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)
