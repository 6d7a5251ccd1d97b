# SPDX-License-Identifier: MIT
"""Processes to which a seccomp filter forbids a system call for good, as container engines do."""

from __future__ import annotations

import errno
import sys

#: Numbers of x86-64 (arch/x86/entry/syscalls/syscall_64.tbl).
SYSTEM_CALLS = {
    "seccomp": 317,
    "memfd_create": 319,
    "userfaultfd": 323,
    "io_uring_setup": 425,
    "fsopen": 430,
    "futex_waitv": 449,
}

# Installs the filter, in seccomp(2)'s classic BPF, and goes on as the program that the arguments name.
_FORBID = """
import ctypes, runpy, struct, sys

error = int(sys.argv[1])
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl.argtypes = [ctypes.c_int] + 4 * [ctypes.c_void_p]
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
for number in map(int, sys.argv[2].split(",")):
    instructions = [(LOAD, 0, 0, 0), (EQUAL, 0, 1, number), (RETURN, 0, 0, 0x50000 | error), (RETURN, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in instructions))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(instructions), ctypes.addressof(code)))
    assert libc.prctl(22, 2, ctypes.addressof(program), 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
del sys.argv[:3]
if sys.argv[0] == "-m":
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def forbidden(system_calls: str | tuple[str, ...], *program: str, error: int = errno.EPERM) -> list[str]:
    """The command that runs a Python program, a path or ``-m`` and a module, and its arguments without these calls."""
    names = (system_calls,) if isinstance(system_calls, str) else system_calls
    numbers = ",".join(str(SYSTEM_CALLS[name]) for name in names)
    return [sys.executable, "-W", "error", "-c", _FORBID, str(error), numbers, *program]
