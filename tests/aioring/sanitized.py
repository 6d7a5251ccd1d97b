# SPDX-License-Identifier: MIT
"""Runs tests with the extensions built for AddressSanitizer and UndefinedBehaviorSanitizer.

    python tests/aioring/sanitized.py FOLDER [PYTEST ARGUMENT ...]

FOLDER is for the build, and is made; without arguments the tests beside this file are run. Objects come from malloc()
there (PYTHONMALLOC), so that each is watched. Leaks are not looked for: an interpreter that ends leaves objects.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def build(folder: Path) -> Path:
    """The packages, with extensions from a build in `folder`."""
    if not (folder / "build.ninja").exists():
        options = ["-Db_sanitize=address,undefined", "-Db_lundef=false", "-Dbuildtype=debugoptimized"]
        subprocess.run(["meson", "setup", *options, folder, ROOT], check=True)
    subprocess.run(["ninja", "-C", folder, "--quiet"], check=True)
    packages = folder / "packages"
    for name in ("aioring", "vm"):
        (packages / name).mkdir(parents=True, exist_ok=True)
        for module in (ROOT / name).rglob("*.py"):
            link = packages / module.relative_to(ROOT)
            link.parent.mkdir(exist_ok=True)
            if not link.exists():
                link.symlink_to(module)
    for package, pattern in (("aioring", "uring/_uring*.so"), ("aioring", "loop/_loop*.so"), ("vm", "sandbox/_*.so")):
        for extension in (folder / "native").glob(pattern):
            link = packages / package / extension.name
            if not link.exists():
                link.symlink_to(extension)
    return packages


def main() -> int:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    packages = build(Path(sys.argv[1]).resolve())
    runtime = subprocess.run(["cc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0:handle_segv=1:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(packages),
    }
    # The editable install would be found first, by its own finder: the site module is not loaded, its folder is.
    site = next(path for path in sys.path if path.endswith("site-packages"))
    start = f"import sys; sys.path.append({site!r}); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    arguments = sys.argv[2:] or [str(Path(__file__).parent)]
    return subprocess.run(
        [sys.executable, "-P", "-S", "-c", start, "-o", "timeout=120", *arguments], env=environment, cwd=ROOT
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
