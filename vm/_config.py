# SPDX-License-Identifier: MIT
"""Settings, frozen once made."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from vm._limits import CgroupLimits, Limits
from vm.gas import CostModel

Sandbox: TypeAlias = Literal["linux", "generic"]
SANDBOXES: Final[tuple[Sandbox, ...]] = ("linux", "generic")
Waiting: TypeAlias = Literal["auto", "io_uring", "threads"]
WAITING: Final[tuple[Waiting, ...]] = ("auto", "io_uring", "threads")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How an `Engine` runs its guests. Raises ValueError for a value out of range."""

    #: How guest code is executed. The interpreter needs nothing of the machine, checks every access, and is some
    #: ten times slower; its guests run in this process, on threads of their own, and `sandbox` means nothing to it.
    backend: Literal["recompiler", "interpreter"] = "recompiler"
    #: Run every guest in both backends at once, the recompiled one in its process and the interpreter in this one, and
    #: compare them at every stop: `CrosscheckError` reports the first difference. For finding faults; slow. With
    #: `ModuleConfig.step_tracing`, which stops before each instruction, it names the one. A recompiled guest that does
    #: not stop at all is compared with nothing: limit its gas, trace steps, or give up after a while. Not with backend
    #: "interpreter".
    crosscheck: bool = False
    #: What keeps recompiled code in. "linux": a locked-down process per guest. "generic": nothing but the code itself.
    #: It runs in this process, and a fault of the recompiler would be a hole through which a guest gets at everything
    #: that this process has. For programs that are trusted, and where processes cannot be had; calls and starts are
    #: faster. While the engine is open, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP and SIGURG have handlers of its own,
    #: which hand on what is not about guests. docs/sandboxes.md has more.
    sandbox: Sandbox = "linux"
    #: Seconds that a resumed guest is polled before its waiter is suspended on the event loop, at most 1 ms. Short
    #: calls are answered within it; it adapts to each instance and is off while guests outnumber processors.
    spin: float = 50e-6
    #: What waits for worker processes: an "io_uring" (Linux 6.7), or "threads" in futex_waitv (Linux 5.16), one for up
    #: to 127 guests. "auto" is io_uring where it is to be had, unless the environment variable PVM_WAITING says
    #: otherwise. docs/waiting.md has more.
    waiting: Waiting = "auto"
    #: Which later instances of its module a worker process serves, its memory reset in between: those of the same
    #: `tenant` (`Module.instantiate`), "always" any, or "never" one: then every instance gets a new process.
    reuse: Literal["tenant", "never", "always"] = "tenant"
    #: Idle worker processes kept for reuse, over all modules; the longest idle ones go first.
    max_idle_workers: int = 64
    #: Processes that nobody used yet, kept ready for each module that was instantiated and is still known; they are
    #: started in the background and count among `max_idle_workers`.
    spare_workers: int = 1
    #: Guests that run at once; the others wait in the order they came, and while they do, one that runs for longer than
    #: 10 ms is put behind them. Guests in host calls do not run. None: as many as there are processors for this process
    #: (no limit with `crosscheck`, whose guests cannot be stopped halfway); 0: no limit.
    max_running: int | None = None
    #: What every guest may use (docs/limits.md).
    limits: Limits = field(default_factory=Limits)
    #: What all guests together may use, kept by the kernel. With sandbox "linux" only.
    cgroup: CgroupLimits | None = None
    #: Whether ``pvm top`` shows this engine: its statistics and guests are told at a Unix socket that only this user
    #: can reach, in $XDG_RUNTIME_DIR or a directory under /tmp.
    monitor: bool = False
    #: Compiled modules kept in memory: to compile the same program again with an equal `ModuleConfig` gives the same
    #: `Module`. The longest unused ones go first; one that something else refers to stays known. 0: each is compiled.
    module_cache_size: int = 64
    #: Directory of compiled modules, which `Engine.compile` looks into first and saves to; made, for its user alone, if
    #: it is not there. None: there is none. Nothing is ever removed from it; anything in it may be, at any time.
    cache_directory: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if self.backend not in ("recompiler", "interpreter"):
            raise ValueError(f"unknown backend {self.backend!r}: there are 'recompiler' and 'interpreter'")
        if self.crosscheck and self.backend != "recompiler":
            raise ValueError(
                "crosscheck compares the recompiler with the interpreter: it goes with backend 'recompiler'"
            )
        if self.sandbox not in SANDBOXES:
            raise ValueError(f"unknown sandbox {self.sandbox!r}: there are 'linux' and 'generic'")
        if self.crosscheck and self.sandbox != "linux":
            raise ValueError("crosscheck compares a worker with the interpreter: it goes with sandbox 'linux'")
        if self.runs_in_process and self.cache_directory is not None:
            raise ValueError("native code from files is not run in this process: cache_directory goes with 'linux'")
        if self.cgroup is not None and (self.runs_in_process or self.backend == "interpreter"):
            raise ValueError("a control group keeps processes, and these guests have none: cgroup goes with 'linux'")
        if not 0 <= self.spin <= 1e-3:
            raise ValueError(f"spin is {self.spin} seconds: it must be from 0 to 0.001")
        if self.waiting not in WAITING:
            raise ValueError(f"unknown waiting {self.waiting!r}: there are 'auto', 'io_uring' and 'threads'")
        if self.reuse not in ("tenant", "never", "always"):
            raise ValueError(f"unknown reuse {self.reuse!r}: there are 'tenant', 'never' and 'always'")
        for name in ("max_idle_workers", "spare_workers", "max_running"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} is {value}: it must not be negative")
        if self.module_cache_size < 0:
            raise ValueError(f"module_cache_size is {self.module_cache_size}: it must not be negative")
        if self.cache_directory is not None and not os.fspath(self.cache_directory):
            raise ValueError("cache_directory is empty: give a path, or None")

    @property
    def runs_in_process(self) -> bool:
        """Whether recompiled code runs in this process."""
        return self.backend == "recompiler" and self.sandbox == "generic"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleConfig:
    """How one program is compiled. Raises ValueError for settings that exclude each other; whether the sizes fit
    depends on the program."""

    #: Bytes of a guest memory page: a power of two from 4 KiB to 64 KiB (specification, section 1).
    page_size: int = 0x1000
    #: Bytes of auxiliary data, which the host writes and the guest only reads.
    aux_data_size: int = 0
    #: Whether gas is charged: not at all; "sync", where a block that cannot be paid is not entered and the guest can
    #: go on with more; or "async", where gas may end below zero and the guest has no place to go on.
    gas_metering: Literal["sync", "async"] | None = None
    #: What a block costs.
    cost_model: CostModel = field(default_factory=CostModel.naive)
    #: Charge 1 before each instruction instead of per block; with the naive model only.
    per_instruction_metering: bool = False
    #: Stop before each instruction (`Step`).
    step_tracing: bool = False
    #: Memory is there by the page, when the host puts it there: a touch of any other page is a `PageFault`, which
    #: `Instance.run` returns and `Linker.on_page_fault` serves. Pages that hold initial data are there from the start.
    dynamic_paging: bool = False
    #: In a revive_v1 program opcode 101 is sbrk, as tools of old emitted it; otherwise it is invalid.
    legacy_sbrk: bool = False

    def __post_init__(self) -> None:
        if self.gas_metering not in (None, "sync", "async"):
            raise ValueError(f"unknown gas_metering {self.gas_metering!r}: there are None, 'sync' and 'async'")
        if self.per_instruction_metering and not self.cost_model.is_naive:
            raise ValueError("per_instruction_metering goes with the naive cost model only")
