# SPDX-License-Identifier: MIT
"""What runs in threads, under ThreadSanitizer: threads.c."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from driver import HERE, ROOT, compile_c
from guests import build

from vm.memory_map import MemoryMap

# Past the interceptors of the sanitizer, which would keep the signals of guests: see tests/sanitized.py.
SANITIZER = ("-g", "-fsanitize=thread", "-Dsigaction=__sigaction")

#: All of native/sandbox but what is about processes.
SOURCES = (
    *("generic.c", "generic_enter.S", "generic_home.c", "guest.c", "image.c", "image_file.c", "interpreted.c"),
    *("memory.c", "pager.c", "paging.c", "probe.c", "recompiled.c", "signals.c", "snapshot.c", "waits.c"),
)

UNSUPPORTED = 77

#: With more data than copies of a snapshot get at once (SNAPSHOT_LAZY).
PROGRAM = """
%rw_data_size = 524288
%stack_size = 4096
pub @count:
    a0 = a0 - 1
    jump @count if a0 != 0
    ecalli 3
    ret
pub @fill:
    u64 [a0] = a0
    a0 = a0 + 4096
    jump @fill if a0 <u a1
    ret
pub @load:
    a0 = u64 [a0]
    ret
pub @grow:
    a0 = sbrk a0
    ret
pub @spin:
    jump @spin
"""


def header() -> str:
    """The program as C has it."""
    blob = build(PROGRAM)
    regions = MemoryMap(ro_size=0, rw_size=blob.rw_data_size, stack_size=blob.stack_size, aux_size=0, page_size=4096)
    fields = {
        "page_size": regions.page_size,
        "rw_address": regions.rw_address,
        "rw_size": regions.rw_accessible,
        "heap_base": regions.heap_base,
        "heap_size_max": regions.max_heap_size,
        "stack_low": regions.stack_low,
        "stack_size": regions.stack_accessible,
    }
    constants = {f"PROGRAM_{export.symbol.decode().upper()}": export.pc for export in blob.exports}
    constants["PROGRAM_ISA"] = int(blob.isa)
    constants["PROGRAM_DATA"] = regions.rw_address
    constants["PROGRAM_DATA_END"] = regions.rw_address + regions.rw_accessible
    lines = [f"#define {name} UINT32_C({value})" for name, value in constants.items()]
    lines.append(f"#define PROGRAM_MAP {{{', '.join(f'.{name} = {value}u' for name, value in fields.items())}}}")
    for name, data in (("code", blob.code), ("bitmask", blob.bitmask)):
        lines.append(f"static const uint8_t program_{name}[] = {{{', '.join(map(str, data))}}};")
    return "\n".join([*lines, ""])


@pytest.fixture(scope="session")
def threads(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("threads")
    probe = directory / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    command: list[str | Path] = [compiler, *SANITIZER, probe, "-o", directory / "probe"]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip(f"{compiler} cannot link the thread sanitizer")
    if subprocess.run(["setarch", "--addr-no-randomize", directory / "probe"], capture_output=True).returncode != 0:
        pytest.skip("the thread sanitizer does not start here: its mappings are taken, or personality(2) is refused")
    (directory / "program.h").write_text(header())
    folder = ROOT / "native/sandbox"
    subprocess.run(
        [sys.executable, folder / "build_id.py", ROOT, directory / "build_id.h", directory / "build_id.d"], check=True
    )
    output = directory / "threads"
    sources = [str(folder / name) for name in SOURCES]
    compile_c(compiler, HERE / "threads.c", output, *SANITIZER, "-O0", f"-I{directory}", *sources)  # faster to compile
    return output


@pytest.mark.parametrize(
    "what", ["generic", "generic-paging", "interpreted", "interpreted-paging", "images", "waits", "handlers"]
)
def test_no_data_race(threads: Path, what: str) -> None:
    command = ["setarch", "--addr-no-randomize", threads, what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode == UNSUPPORTED:
        pytest.skip("the kernel lacks what is run in these threads")
    assert done.returncode == 0, done.stderr
