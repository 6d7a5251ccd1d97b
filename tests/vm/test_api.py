# SPDX-License-Identifier: MIT
"""What the package exports, and how its exceptions are related."""

from __future__ import annotations

import ast
import copy
import dataclasses
import pickle
import re
import sys
import tomllib
from pathlib import Path

import pytest

import vm

EXPORTS = {
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
    "Stdio",
    "Statistics",
    "Step",
    "Trap",
    "TrapError",
    "VMError",
    "ZeroPager",
    "i32",
    "i64",
    "u32",
    "u64",
}

ERRORS = [
    vm.ProgramParseError("nonsense", offset=3, section="code"),
    vm.AssemblyError("nonsense", line=4, text="a0 = ?"),
    vm.MemoryMapError("too large"),
    vm.CompileError("too large"),
    vm.ModuleLoadError("a/file.pvmc", "its checksum is wrong"),
    vm.SnapshotLoadError("a/file.pvms", "it is not a snapshot", offset=0),
    vm.LinkError(("one", "two")),
    vm.TrapError(pc=5, export="main", reason="why"),
    vm.CrosscheckError("a0", 1, 2, pc=7, since=5, instruction="a0 = 1"),
    vm.CrosscheckError("memory", 1, 2, pc=None, since=5, address=0x20000),
    vm.SandboxError("a step", errno=1, remedy="do something"),
    vm.SandboxDiedError(77, "killed by SIGKILL"),
    vm.InstanceStateError("closed"),
    vm.MemoryAccessError(0x10, 2, "not readable memory"),
]


def test_exports() -> None:
    assert set(vm.__all__) == EXPORTS
    assert len(vm.__all__) == len(EXPORTS)
    assert vm.__all__ == sorted(vm.__all__, key=lambda name: (name.islower(), name))
    for name in EXPORTS:
        assert getattr(vm, name) is not None
    public = {name for name in vars(vm) if not name.startswith("_")}
    modules = {
        "anyio",
        "assembler",
        "bindings",
        "cli",
        "debug_info",
        "disassembler",
        "encoding",
        "gas",
        "isa",
        "memory_map",
        "program",
    }
    assert public - EXPORTS <= modules | {"signatures", "toolchain"}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_are_one_family_and_survive_copies(error: vm.VMError) -> None:
    assert isinstance(error, vm.VMError)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


def test_error_bases() -> None:
    assert issubclass(vm.SandboxDiedError, vm.SandboxError)
    assert issubclass(vm.MemoryMapError, ValueError)
    assert issubclass(vm.MemoryAccessError, IndexError)


def test_errors_name_the_place() -> None:
    assert str(vm.LinkError(("one", "two"))) == "2 unresolved imports: one, two"
    assert str(vm.LinkError(("one",))) == "1 unresolved import: one"
    assert str(vm.TrapError(pc=5, export="main", reason="why")) == "the guest trapped in 'main' at pc 5: why"
    assert str(vm.SandboxDiedError(77, "exit status 3")) == "sandbox process 77 died: exit status 3"


@pytest.mark.parametrize(
    "interrupt",
    [vm.Finished(), vm.HostCall(3), vm.Trap(4, 11), vm.OutOfGas(5), vm.Step(6), vm.PageFault(4096, 4096, True)],
    ids=repr,
)
def test_interrupts_are_frozen_values(interrupt: vm.Interrupt) -> None:
    assert interrupt == copy.copy(interrupt)
    assert hash(interrupt) == hash(copy.copy(interrupt))
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError, AttributeError)):
        interrupt.index = 5  # type: ignore[misc, union-attr]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"backend": "compiler"}, "backend"),
        ({"backend": "interpreter", "crosscheck": True}, "crosscheck"),
        ({"sandbox": "firecracker"}, "sandbox"),
        ({"spin": -1e-9}, "spin"),
        ({"spin": 1.1e-3}, "spin"),
        ({"spin": float("nan")}, "spin"),
        ({"max_idle_workers": -1}, "max_idle_workers"),
        ({"module_cache_size": -1}, "module_cache_size"),
        ({"cache_directory": ""}, "cache_directory"),
    ],
)
def test_config_refuses(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        vm.Config(**settings)  # type: ignore[arg-type]


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        vm.Config().spin = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        vm.ModuleConfig().page_size = 1  # type: ignore[misc]


#: What may be imported without being a dependency: where it is, and the extra that has it.
OPTIONAL = {
    "vm/_anyio.py": {"trio"},
    "vm/_bridge.py": {"outcome", "trio"},  # outcome comes with trio
    "vm/_threads.py": {"trio"},
    "vm/disassembler.py": {"capstone"},
    "vm/opentelemetry.py": {"opentelemetry"},
    "vm/prometheus.py": {"prometheus_client"},
}


def test_what_is_imported_is_a_dependency() -> None:
    root = Path(vm.__file__).parents[1]
    with (Path(__file__).parents[2] / "pyproject.toml").open("rb") as file:
        required = {re.split(r"\W", line)[0] for line in tomllib.load(file)["project"]["dependencies"]}
    known = required | set(sys.stdlib_module_names) | {"_typeshed", "aioring", "vm"}
    for path in [*(root / "vm").rglob("*.py"), *(root / "aioring").rglob("*.py")]:
        name = path.relative_to(root).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found = {(node.module or "").split(".")[0]}
            else:
                continue
            assert found <= known | OPTIONAL.get(name, set()), f"{name}: {found}"
