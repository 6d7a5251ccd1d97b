# SPDX-License-Identifier: MIT
"""All of `vm`, with an `Engine` that can be entered in trio as well as in asyncio: for anyio, whatever its backend.

::

    from vm.anyio import Engine, Linker

docs/waiting.md says how, and what it costs.
"""

from vm._anyio import Engine
from vm._config import Config, ModuleConfig
from vm._errors import (
    AssemblyError,
    CompileError,
    CrosscheckError,
    InstanceStateError,
    LimitError,
    LinkError,
    MemoryAccessError,
    MemoryMapError,
    ModuleLoadError,
    OutOfGasError,
    ProgramParseError,
    SandboxDiedError,
    SandboxError,
    SnapshotLoadError,
    TrapError,
    VMError,
)
from vm._instance import Instance
from vm._interrupts import Finished, HostCall, Interrupt, Interrupted, OutOfGas, PageFault, Step, Trap
from vm._limits import CgroupLimits, Limits
from vm._linker import Caller, Linker
from vm._memory import Memory
from vm._module import Module
from vm._pager import FilePager, Pager, ZeroPager
from vm._registers import Registers
from vm._snapshot import Snapshot
from vm._statistics import Histogram, Statistics
from vm._stdio import Stdio
from vm._types import i32, i64, u32, u64
from vm.gas import CostModel, MemoryLatency
from vm.isa import InstructionSet
from vm.memory_map import MemoryMap
from vm.program import Export, ProgramBlob

__all__ = [
    "AssemblyError",
    "Caller",
    "CgroupLimits",
    "CompileError",
    "Config",
    "CostModel",
    "CrosscheckError",
    "Engine",
    "Export",
    "FilePager",
    "Finished",
    "Histogram",
    "HostCall",
    "Instance",
    "InstanceStateError",
    "InstructionSet",
    "Interrupt",
    "Interrupted",
    "LimitError",
    "Limits",
    "LinkError",
    "Linker",
    "Memory",
    "MemoryAccessError",
    "MemoryLatency",
    "MemoryMap",
    "MemoryMapError",
    "Module",
    "ModuleConfig",
    "ModuleLoadError",
    "OutOfGas",
    "OutOfGasError",
    "PageFault",
    "Pager",
    "ProgramBlob",
    "ProgramParseError",
    "Registers",
    "SandboxDiedError",
    "SandboxError",
    "Snapshot",
    "SnapshotLoadError",
    "Statistics",
    "Stdio",
    "Step",
    "Trap",
    "TrapError",
    "VMError",
    "ZeroPager",
    "i32",
    "i64",
    "u32",
    "u64",
]
