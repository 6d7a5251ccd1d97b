# SPDX-License-Identifier: MIT
"""``pvm run``, as the command that users type: a process of its own, with real guests."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from commands import Command, Template

from vm import InstructionSet, ProgramBlob
from vm._varint import encode_varint
from vm.assembler import assemble
from vm.encoding import decode_instruction

HELLO = Path(__file__).parents[3] / "shared" / "programs" / "hello-world.polkavm"

ADD = """
pub @add:
    a0 = a0 + a1
    ret
"""
MANY = """
pub @first:
    a0 = a0 * 2
    ret
pub @trap:
    a0 = 1
    trap
pub @spin:
    jump @spin
pub @sum:
    a0 = a0 + a1
    a0 = a0 + a2
    a0 = a0 + a3
    a0 = a0 + a4
    a0 = a0 + a5
    a0 = a0 + t0
    a0 = a0 + t1
    a0 = a0 + t2
    ret
"""
IMPORTING = """
pub @main:
    ecalli 0
    a0 = a0 + 1
    ret
pub @spin:
    ecalli 0
@again:
    jump @again
"""


def blob(
    text: str,
    imports: Sequence[bytes] = (),
    exports: Sequence[tuple[int, bytes]] | None = None,
    isa: InstructionSet = InstructionSet.LATEST64,
) -> bytes:
    """An assembled program with the imports and exports that the text assembly cannot name."""
    plain = ProgramBlob.parse(assemble(text, isa))
    return ProgramBlob.build(
        isa=isa,
        code=plain.code,
        bitmask=plain.bitmask,
        imports=imports,
        exports=plain.exports if exports is None else exports,
    ).to_bytes()


@pytest.fixture
def pvm(tmp_path: Path, template: Template) -> Command:
    (tmp_path / "add.polkavm").write_bytes(blob(ADD))
    (tmp_path / "many.polkavm").write_bytes(blob(MANY))
    (tmp_path / "importing.polkavm").write_bytes(blob(IMPORTING, [b"number"]))
    return Command(tmp_path, template)


@pytest.fixture
def write_host(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        (tmp_path / "host.py").write_text(text)
        return "host.py"

    return write


HOST = """
import vm

linker = vm.Linker()

@linker.function("number")
def number(caller: vm.Caller) -> vm.u64:
    {body}
"""


# --- Help and version -------------------------------------------------------------------------------------------------


def test_alone_it_shows_its_help(pvm: Command) -> None:
    output = pvm.prints()
    assert "Usage: pvm" in output
    assert "run" in output
    assert "doctor" in output


def test_the_help_tells_the_options_and_the_exit_statuses(pvm: Command) -> None:
    output = pvm.prints("run", "--help")
    for option in ("--import", "--host", "--returns", "--timeout", "--page-size", "--json", "--traceback"):
        assert option in output
    recent = ("--backend", "--sandbox", "--crosscheck", "--step-tracing", "--gas", "--legacy-sbrk", "--dynamic-paging")
    for option in recent:
        assert option in output
    assert "[EXPORT] [ARGS]..." in output
    assert "'linker = vm.Linker()'" in " ".join(output.replace("│", " ").split())
    for status in ("1: the guest trapped", "3: the program cannot be read", "130: Ctrl-C"):
        assert status in output
    assert "\x1b" not in output


def test_version(pvm: Command) -> None:
    from importlib.metadata import version

    assert pvm.prints("--version") == f"pvm {version('aioring')}\n"


# --- Results ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not HELLO.exists(), reason="../shared/programs is not there")
def test_hello_world(pvm: Command) -> None:
    arguments = ("run", str(HELLO), "add_numbers", "1", "10", "--import", "get_third_number=100")
    assert pvm.prints(*arguments) == "111\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["1", "2"], 3),
        (["add", "1", "2"], 3),
        (["add", "0x10", "0b11"], 19),
        (["add", "0o17", "010"], 25),
        (["add", "-1", "-0x1"], 2**64 - 2),
        (["add", "--", "-1", "-2"], 2**64 - 3),
        (["-5", "+3"], 2**64 - 2),
        (["-1", "--returns", "i64"], -1),
        (["-1", "--returns", "u32"], 2**32 - 1),
        (["-1", "--returns", "i32"], -1),
        (["-1", "--returns", "u64"], 2**64 - 1),
        (["18446744073709551615", "1"], 0),
        ([], 0),
        (["1", "2", "--timeout", "9.5"], 3),
        (["1", "2", "--page-size", "0x4000"], 3),
        (["1", "2", "--backend", "interpreter"], 3),
        (["1", "2", "--backend", "recompiler"], 3),
        (["1", "2", "--sandbox", "linux"], 3),
        (["1", "2", "--crosscheck"], 3),
        (["1", "2", "--crosscheck", "--step-tracing", "--gas", "2"], 3),
        (["1", "2", "--gas", "2"], 3),
        (["1", "2", "--gas", "0x7fffffffffffffff", "--backend", "interpreter"], 3),
        (["1", "2", "--legacy-sbrk"], 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_results(pvm: Command, arguments: list[str], expected: int) -> None:
    assert pvm.prints("run", "add.polkavm", *arguments) == f"{expected}\n"


def test_the_generic_sandbox_comes_with_a_warning(pvm: Command) -> None:
    status, output, errors = pvm("run", "add.polkavm", "1", "2", "--sandbox", "generic", "--gas", "100")
    assert (status, output) == (0, "3\n")
    assert errors.count("\n") == 1
    assert "a fault of the recompiler" in errors


def test_nine_arguments(pvm: Command) -> None:
    assert pvm.prints("run", "many.polkavm", "sum", *map(str, range(1, 10))) == "45\n"


def test_a_64_bit_result_of_a_32_bit_program_takes_two_registers(pvm: Command) -> None:
    (pvm.directory / "pair.polkavm").write_bytes(
        blob("pub @pair:\n a0 = 5\n a1 = 1\n ret\n", isa=InstructionSet.LATEST32)
    )
    assert pvm.prints("run", "pair.polkavm") == "5\n"
    assert pvm.prints("run", "pair.polkavm", "--returns", "u64") == f"{2**32 + 5}\n"


def test_json(pvm: Command) -> None:
    output = pvm.prints("run", "add.polkavm", "add", "-1", "2", "--json")
    assert output.count("\n") == 1
    result = json.loads(output)
    seconds = result.pop("seconds")
    assert result == {"export": "add", "args": [-1, 2], "result": 1, "isa": "latest64"}
    assert set(seconds) == {"compile", "start", "run"}
    assert all(0 < spent < 20 for spent in seconds.values())


def test_imports(pvm: Command) -> None:
    assert pvm.prints("run", "importing.polkavm", "main", "--import", "number=0x29") == "42\n"
    assert pvm.prints("run", "importing.polkavm", "--import=number=-2") == f"{2**64 - 1}\n"


def test_an_import_with_an_equals_sign_in_its_name(pvm: Command) -> None:
    (pvm.directory / "odd.polkavm").write_bytes(blob(IMPORTING, [b"a=b"]))
    assert pvm.prints("run", "odd.polkavm", "--import", "a=b=1") == "2\n"


def test_host_file(pvm: Command, write_host: Callable[[str], str]) -> None:
    (pvm.directory / "neighbour.py").write_text("ANSWER = 41\n")
    host = write_host("from neighbour import ANSWER\n" + HOST.format(body="return ANSWER"))
    assert pvm.prints("run", "importing.polkavm", "--host", host) == "42\n"
    host = write_host(
        "import asyncio\n"
        + HOST.replace("def number", "async def number").format(body="await asyncio.sleep(0); return 6")
    )
    assert pvm.prints("run", "importing.polkavm", "--host", host) == "7\n"
    assert not (pvm.directory / "__pycache__" / "host.cpython-311.pyc").exists()


def test_host_file_and_imports_together(pvm: Command, write_host: Callable[[str], str]) -> None:
    text = "pub @main:\n ecalli 0\n s0 = a0\n ecalli 1\n a0 = a0 - s0\n ret\n"
    (pvm.directory / "two.polkavm").write_bytes(blob(text, [b"number", b"other"]))
    host = write_host(HOST.format(body="return 30"))
    assert pvm.prints("run", "two.polkavm", "--host", host, "--import", "other=100") == "70\n"


def test_the_default_export_is_main_or_the_only_one(pvm: Command) -> None:
    assert pvm.prints("run", "importing.polkavm", "--import", "number=1") == "2\n"
    assert "which export? The program has first, " in pvm.fails(2, "run", "many.polkavm")
    assert "which export?" in pvm.fails(2, "run", "many.polkavm", "1", "2")


# --- A wrong command line ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rum"], "No such command 'rum'"),
        (["run"], "Missing argument 'PROGRAM' (see 'pvm run --help')"),
        (["--nope"], "No such option: --nope"),
        (["run", "add.polkavm", "--nope"], "no such option: --nope"),
        (["run", "add.polkavm", "add", "1", "--nope", "2"], "no such option: --nope"),
        (["run", "add.polkavm", "--timeout"], "Option '--timeout' requires an argument"),
        (["run", "add.polkavm", "subtract"], "no export 'subtract'; the program has add"),
        (
            ["run", "add.polkavm", "add", "one"],
            "argument 1 is 'one', which is no integer (decimal, 0x.., 0o.. or 0b..)",
        ),
        (["run", "add.polkavm", "add", "1", "1.5"], "argument 2 is '1.5', which is no integer"),
        (["run", "add.polkavm", "add", ""], "argument 1 is '', which is no integer"),
        (["run", "add.polkavm", "add", "9" * 5000], "which is no integer"),
        (
            ["run", "add.polkavm", "add", "0x10000000000000000"],
            "argument 1 is 18446744073709551616, which does not fit",
        ),
        (
            ["run", "add.polkavm", "add", "-9223372036854775809"],
            "argument 1 is -9223372036854775809, which does not fit",
        ),
        (["run", "many.polkavm", "sum", *"1234567890"], "10 arguments: an export takes at most 9"),
        (["run", "add.polkavm", "--returns", "u16"], "--returns must be one of int, u32, i32, u64, i64, not 'u16'"),
        (["run", "add.polkavm", "--timeout", "soon"], "--timeout must be a positive number of seconds, not 'soon'"),
        (["run", "add.polkavm", "--timeout", "0"], "--timeout must be a positive number of seconds, not '0'"),
        (["run", "add.polkavm", "--timeout", "nan"], "--timeout must be a positive number of seconds, not 'nan'"),
        (["run", "add.polkavm", "--page-size", "big"], "--page-size is 'big', which is no integer"),
        (
            ["run", "add.polkavm", "--backend", "jit"],
            "--backend must be one of recompiler, interpreter, not 'jit'",
        ),
        (
            ["run", "add.polkavm", "--crosscheck", "--backend", "interpreter"],
            "--crosscheck compares both backends: it does not go with --backend interpreter",
        ),
        (["run", "add.polkavm", "--sandbox", "none"], "--sandbox must be one of linux, generic, not 'none'"),
        (["run", "add.polkavm", "--sandbox", ""], "--sandbox must be one of linux, generic, not ''"),
        (
            ["run", "add.polkavm", "--sandbox", "generic", "--backend", "interpreter"],
            "--sandbox keeps recompiled code in: it does not go with --backend interpreter",
        ),
        (
            ["run", "add.polkavm", "--sandbox", "generic", "--crosscheck"],
            "--crosscheck compares a process with the interpreter: it does not go with --sandbox generic",
        ),
        (["run", "add.polkavm", "--step-tracing"], "--step-tracing goes with --crosscheck only"),
        (["run", "add.polkavm", "--gas", "much"], "--gas is 'much', which is no integer"),
        (["run", "add.polkavm", "--gas", "-1"], "--gas must be from 0 to 9223372036854775807, not -1"),
        (["run", "add.polkavm", "--gas", f"{1 << 63}"], "--gas must be from 0 to 9223372036854775807, not 9223"),
        (["run", "importing.polkavm", "--import", "number"], "--import 'number' must look like NAME=VALUE"),
        (["run", "importing.polkavm", "--import", "=1"], "--import '=1' must look like NAME=VALUE"),
        (["run", "importing.polkavm", "--import", "number="], "import 'number' is '', which is no integer"),
        (["run", "importing.polkavm", "--import", "number=1e3"], "import 'number' is '1e3', which is no integer"),
        (["run", "importing.polkavm", "--import=number=1", "--import=number=1"], "import 'number' is given twice"),
        (["run", "importing.polkavm", "--import", f"number={2**64}"], "does not fit int (64 bits)"),
        (["doctor", "now"], "Got unexpected extra argument"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_usage_errors(pvm: Command, arguments: list[str], message: str) -> None:
    assert message in pvm.fails(2, *arguments)


def test_an_import_of_both_kinds_is_an_error(pvm: Command, write_host: Callable[[str], str]) -> None:
    host = write_host(HOST.format(body="return 1"))
    message = pvm.fails(2, "run", "importing.polkavm", "--host", host, "--import", "number=1")
    assert message == "import 'number' is defined by both --import and host.py"


# --- Programs that are none -------------------------------------------------------------------------------------------


def test_what_cannot_be_read(pvm: Command) -> None:
    assert pvm.fails(3, "run", "absent.polkavm") == "cannot read absent.polkavm: No such file or directory"
    assert pvm.fails(3, "run", ".") == "cannot read .: Is a directory"
    assert pvm.reports(3, "run", "absent.polkavm", "--json")["kind"] == "file"


def test_what_is_no_program(pvm: Command) -> None:
    (pvm.directory / "text").write_text("hello")
    assert "text: invalid program blob: it does not start with the magic bytes" in pvm.fails(3, "run", "text")
    whole = (pvm.directory / "add.polkavm").read_bytes()
    (pvm.directory / "half").write_bytes(whole[: len(whole) // 2])
    assert "half: invalid program blob: its length field says" in pvm.fails(3, "run", "half")
    (pvm.directory / "empty").write_bytes(b"")
    error = pvm.reports(3, "run", "empty", "--json")
    assert (error["kind"], error["offset"]) == ("parse", 0)


def test_a_program_without_exports(pvm: Command) -> None:
    (pvm.directory / "none.polkavm").write_bytes(blob(ADD, exports=[]))
    assert pvm.fails(2, "run", "none.polkavm") == "the program has no exports"
    assert pvm.fails(2, "run", "none.polkavm", "main") == "the program has no exports"


def test_a_page_size_that_is_none(pvm: Command) -> None:
    assert pvm.reports(3, "run", "add.polkavm", "--page-size", "5000", "--json")["kind"] == "compile"


def test_missing_imports_are_all_named(pvm: Command) -> None:
    (pvm.directory / "two.polkavm").write_bytes(blob(IMPORTING, [b"one", b"two", b"three"]))
    message = pvm.fails(3, "run", "two.polkavm", "main", "--import", "two=2")
    assert message == "nothing defines the imports one, three (use --import or --host)"
    message = pvm.fails(3, "run", "two.polkavm", "main", "--import", "tow=2", "--import", "one=1")
    assert message == "nothing defines the imports two, three (the program does not import tow)"
    error = pvm.reports(3, "run", "two.polkavm", "main", "--json")
    assert (error["kind"], error["missing"]) == ("link", ["one", "two", "three"])


HOSTILE = "\x1b[31m[bold]red[/bold]\n\u202e\x07".encode()
SHOWN = r"\x1b[31m[bold]red[/bold]\x0a\u202e\x07"


def test_names_in_a_blob_reach_no_terminal(pvm: Command) -> None:
    exports = [(0, HOSTILE), (0, b"\xff" * 300), *((0, b"export %d" % i) for i in range(1000))]
    (pvm.directory / "hostile.polkavm").write_bytes(blob(IMPORTING, [HOSTILE], exports))
    message = pvm.fails(2, "run", "hostile.polkavm", "main")
    assert f"the program has {SHOWN}, " in message
    assert "and 982 more" in message
    assert len(message) < 4000
    # what is shown can be typed
    assert SHOWN in pvm.fails(3, "run", "hostile.polkavm", SHOWN)
    assert pvm.prints("run", "hostile.polkavm", SHOWN, "--import", f"{SHOWN}=4") == "5\n"
    (pvm.directory / "trap.polkavm").write_bytes(blob("trap\n", exports=[(0, HOSTILE)]))
    assert pvm.fails(1, "run", "trap.polkavm") == f"the guest trapped in '{SHOWN}' at pc 0"


# --- Guests and hosts that fail ---------------------------------------------------------------------------------------


def test_trap(pvm: Command) -> None:
    code = ProgramBlob.parse((pvm.directory / "many.polkavm").read_bytes())
    (start,) = (export.pc for export in code.exports if export.name == "trap")
    message = pvm.fails(1, "run", "many.polkavm", "trap")
    error = pvm.reports(1, "run", "many.polkavm", "trap", "--json")
    assert error["pc"] == start + code.code[start:].index(0, 2)
    assert message == f"the guest trapped in 'trap' at pc {error['pc']}"
    assert (error["kind"], error["export"]) == ("trap", "trap")


def test_a_host_call_that_is_no_import(pvm: Command) -> None:
    (pvm.directory / "odd.polkavm").write_bytes(blob("pub @main:\n ecalli 7\n ret\n"))
    assert "host call 7, which no host function serves" in pvm.fails(1, "run", "odd.polkavm")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1 +\n", "host.py, line 1: SyntaxError: invalid syntax"),
        ("\n\nraise ValueError('no\\nway')\n", r"host.py, line 3: ValueError: no\x0away"),
        ("import nowhere_at_all\n", "host.py, line 1: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("open('absent')\n", "host.py, line 1: FileNotFoundError: "),
        ("", "the host file host.py must define 'linker = vm.Linker()'"),
        ("linker = 5\n", "the host file host.py must define 'linker = vm.Linker()', not int"),
        (HOST.format(body="raise KeyError('k')"), "host.py, line 8: KeyError: 'k'"),
        (HOST.format(body="raise RuntimeError"), "host.py, line 8: RuntimeError"),
        (HOST.format(body="raise TimeoutError('late')"), "host.py, line 8: TimeoutError: late"),
        (
            HOST.format(body="return caller.memory.read(0, 4)"),
            "host.py, line 8: MemoryAccessError: not readable memory",
        ),
        (HOST.format(body="return 'x'"), "the result of host function 'number' must be an int, not str"),
        (HOST.format(body="import asyncio; raise asyncio.CancelledError"), "a host function cancelled the call"),
        (HOST.replace("(caller: vm.Caller)", "()").format(body="return 1"), "must take the vm.Caller"),
    ],
    ids=lambda value: value.splitlines()[-1][:40] if value else "empty",
)
def test_host_errors(pvm: Command, write_host: Callable[[str], str], text: str, message: str) -> None:
    assert message in pvm.fails(5, "run", "importing.polkavm", "main", "--host", write_host(text))


def test_host_file_that_cannot_be_read(pvm: Command) -> None:
    message = pvm.fails(5, "run", "importing.polkavm", "main", "--host", "absent.py")
    assert message == "cannot read the host file absent.py: No such file or directory"
    assert "Is a directory" in pvm.fails(5, "run", "importing.polkavm", "main", "--host", ".")


def test_host_error_in_json(pvm: Command, write_host: Callable[[str], str]) -> None:
    host = write_host(HOST.format(body="raise KeyError('k')"))
    error = pvm.reports(5, "run", "importing.polkavm", "main", "--host", host, "--json")
    assert error == {
        "kind": "host",
        "message": "host.py, line 8: KeyError: 'k'",
        "status": 5,
        "exception": "KeyError",
        "file": "host.py",
        "line": 8,
    }


def test_the_host_may_exit(pvm: Command, write_host: Callable[[str], str]) -> None:
    host = write_host(HOST.format(body="raise SystemExit(9)"))
    assert pvm("run", "importing.polkavm", "main", "--host", host) == (9, "", "")


def test_usage_error_in_json(pvm: Command) -> None:
    assert pvm.reports(2, "run", "add.polkavm", "--json", "subtract")["exports"] == ["add"]
    assert pvm.reports(2, "run", "--json")["kind"] == "usage"


@pytest.mark.parametrize("form", ["option", "environment"])
def test_traceback(pvm: Command, write_host: Callable[[str], str], form: str) -> None:
    arguments = ["run", "importing.polkavm", "main", "--host", write_host(HOST.format(body="raise KeyError('k')"))]
    if form == "option":
        arguments.append("--traceback")
    else:
        pvm.environment["PVM_TRACEBACK"] = "1"
    status, output, errors = pvm(*arguments)
    assert (status, output) == (5, "")
    assert errors.startswith("Traceback (most recent call last):\n")
    assert "    raise KeyError('k')\n" in errors
    assert errors.endswith("\npvm: host.py, line 8: KeyError: 'k'\n")
    pvm.environment["PVM_TRACEBACK"] = "0"
    assert "Traceback" not in pvm(*arguments[:5])[2]


@pytest.mark.parametrize("backend", ["recompiler", "interpreter"])
class TestBackends:
    def test_gas_used(self, pvm: Command, backend: str) -> None:
        options = ("--backend", backend, "--gas", "100", "--json")
        result = json.loads(pvm.prints("run", "add.polkavm", "1", "2", *options))
        assert (result["result"], result["gas_used"]) == (3, 2)
        error = pvm.reports(1, "run", "many.polkavm", "trap", *options)
        assert (error["kind"], error["gas_used"], error["backtrace"]) == ("trap", 2, [])

    def test_out_of_gas(self, pvm: Command, backend: str) -> None:
        options = ("--backend", backend, "--gas", "1000")
        code = ProgramBlob.parse((pvm.directory / "many.polkavm").read_bytes())
        (pc,) = (export.pc for export in code.exports if export.name == "spin")
        message = pvm.fails(1, "run", "many.polkavm", "spin", *options)
        assert message == f"the guest ran out of gas in 'spin' at pc {pc}"
        error = pvm.reports(1, "run", "many.polkavm", "spin", *options, "--json")
        assert error == {
            "kind": "gas",
            "message": message,
            "status": 1,
            "export": "spin",
            "pc": pc,
            "backtrace": [],
            "gas_used": 1000,
        }
        assert pvm.fails(1, "run", "add.polkavm", "--backend", backend, "--gas", "1").endswith(
            "of gas in 'add' at pc 0"
        )

    def test_legacy_sbrk(self, pvm: Command, backend: str) -> None:
        program = ProgramBlob.build(
            isa=InstructionSet.REVIVE_V1,
            code=bytes([101, 0x77, 50, 0]),  # a0 = sbrk a0; ret
            bitmask=bytes([0b0101]),
            exports=[(0, b"main")],
        )
        (pvm.directory / "sbrk.polkavm").write_bytes(program.to_bytes())
        assert pvm.fails(1, "run", "sbrk.polkavm", "10", "--backend", backend).endswith("trapped in 'main' at pc 0")
        assert pvm.prints("run", "sbrk.polkavm", "10", "--backend", backend, "--legacy-sbrk") == f"{0x20000 + 10}\n"

    def test_dynamic_paging(self, pvm: Command, backend: str) -> None:
        (pvm.directory / "stack.polkavm").write_bytes(
            assemble(
                "%stack_size = 4096\npub @main:\n    sp = sp - 8\n    u64 [sp] = a0\n    a0 = u64 [sp]\n    ret\n",
                InstructionSet.LATEST64,
            )
        )
        arguments = ("run", "stack.polkavm", "main", "7", "--backend", backend)
        assert pvm.prints(*arguments, "--dynamic-paging") == "7\n"
        assert pvm.prints(*arguments) == "7\n"

    def test_backtrace(self, pvm: Command, backend: str) -> None:
        arguments = ("run", "debug.polkavm", "--backend", backend)
        (pvm.directory / "debug.polkavm").write_bytes(with_source("f", "/src/x.c", 7))
        assert pvm(*arguments) == (
            1,
            "",
            "pvm: the guest trapped in 'main' at pc 0 (f, x.c:7)\n"
            "guest backtrace at pc 0, innermost first:\n"
            "  #0 f\n"
            "       at /src/x.c:7\n",
        )
        error = pvm.reports(1, *arguments, "--json")
        assert error["backtrace"] == [{"function": "f", "location": "/src/x.c:7"}]
        assert error["message"] == "the guest trapped in 'main' at pc 0 (f, x.c:7)"
        (pvm.directory / "debug.polkavm").write_bytes(with_source("\x1b[2J\n", "\x07\n" * 5000, 1))
        status, _, errors = pvm(*arguments)
        assert status == 1
        assert errors.count("\n") == 4
        assert all(line.isprintable() and len(line) < 220 for line in errors.splitlines())

    def test_timeout(self, pvm: Command, backend: str) -> None:
        arguments = ("many.polkavm", "spin", "--timeout", "0.05", "--backend", backend)
        assert pvm.fails(124, "run", *arguments) == "'spin' did not return within 0.05 seconds"


def with_source(function: str, path: str, line: int) -> bytes:
    """A program that traps at offset 0, which is `line` of `path` in `function`."""

    def counted(text: str) -> bytes:
        return encode_varint(len(text.encode())) + text.encode()

    strings = b"\0" + counted(function)
    # stack depth 1, function, path, line, region of one byte, end (specification, section 9)
    program = b"\x0a\1\x06\1\x07" + encode_varint(len(strings)) + b"\x08" + encode_varint(line) + b"\x0e\0"
    plain = ProgramBlob.parse(assemble("pub @main:\n trap\n", InstructionSet.LATEST64))
    return dataclasses.replace(
        plain,
        debug_strings=strings + counted(path),
        debug_line_programs=b"\1" + program,
        debug_line_program_ranges=struct.pack("<III", 0, 1, 1),
    ).to_bytes()


# --- Guests that do not end -------------------------------------------------------------------------------------------

TELL = """
import os, vm

linker = vm.Linker()

@linker.function("number")
def number(caller: vm.Caller) -> vm.u64:
    print(caller.instance.pid, flush=True)
    return 0
"""


def is_gone(pid: int) -> bool:
    """Whether the process is dead: at most a zombie that its reaper has not seen yet."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], 5)[0])
    finally:
        os.close(fd)


def descendants(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            yield child
            yield from descendants(child)


def test_timeout(pvm: Command, write_host: Callable[[str], str]) -> None:
    arguments = ("run", "importing.polkavm", "spin", "--host", write_host(TELL), "--timeout", "0.05")
    status, output, errors = pvm(*arguments)
    assert (status, errors) == (124, "pvm: 'spin' did not return within 0.05 seconds\n")
    assert is_gone(int(output))


def test_timeout_in_json(pvm: Command) -> None:
    error = pvm.reports(124, "run", "many.polkavm", "spin", "--timeout", "0.05", "--json")
    assert (error["kind"], error["seconds"]) == ("timeout", 0.05)


@pytest.mark.parametrize("form", ["text", "json"])
def test_ctrl_c_leaves_no_process(pvm: Command, write_host: Callable[[str], str], form: str) -> None:
    options = ["--json"] if form == "json" else []
    with pvm.start("run", "importing.polkavm", "spin", "--host", write_host(TELL), *options) as process:
        assert process.stdout is not None
        guest = int(process.stdout.readline())
        family = list(descendants(process.pid))
        assert guest in family
        assert len(family) >= 2  # the nursery and the guest
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()
    assert process.returncode == 130
    if form == "json":
        assert json.loads(output)["error"]["kind"] == "interrupted"
        assert errors == ""
    else:
        assert (output, errors) == ("", "pvm: interrupted\n")
    assert all(map(is_gone, family))


def test_a_killed_command_leaves_no_process(pvm: Command, write_host: Callable[[str], str]) -> None:
    with pvm.start("run", "importing.polkavm", "spin", "--host", write_host(TELL)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        family = list(descendants(process.pid))
        process.kill()
    assert all(map(is_gone, family))


def test_a_killed_guest(pvm: Command, write_host: Callable[[str], str]) -> None:
    text = HOST.format(body="import os, signal; os.kill(caller.instance.pid, signal.SIGKILL); return 1")
    error = pvm.reports(1, "run", "importing.polkavm", "spin", "--host", write_host(text), "--json")
    assert error["kind"] == "died"


# --- Output that nobody takes -----------------------------------------------------------------------------------------


def test_nobody_reads_the_output(pvm: Command) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert pvm("run", "add.polkavm", "1", "2", stdout=writer) == (141, "", "")
    finally:
        os.close(writer)


def test_output_that_cannot_be_written(pvm: Command) -> None:
    with Path("/dev/full").open("w") as full:
        failed = (74, "", "pvm: cannot write the output: No space left on device\n")
        assert pvm("run", "add.polkavm", "1", "2", stdout=full) == failed
        assert pvm("run", "add.polkavm", "1", "2", "--json", stdout=full) == failed


def test_closed_output(pvm: Command) -> None:
    status, _, errors = pvm("run", "add.polkavm", "1", "2", stdout=None, preexec_fn=lambda: os.close(1))
    assert (status, errors) == (74, "pvm: cannot write the output: standard output is closed\n")


# --- A machine without sandboxes --------------------------------------------------------------------------------------


def test_too_few_open_files(pvm: Command, write_host: Callable[[str], str]) -> None:
    host = write_host(
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n" + HOST.format(body="return 1")
    )
    message = pvm.fails(4, "run", "importing.polkavm", "main", "--host", host)
    assert "Too many open files" in message
    assert pvm.reports(4, "run", "importing.polkavm", "main", "--host", host, "--json")["kind"] == "machine"


def test_a_difference(pvm: Command, write_host: Callable[[str], str]) -> None:
    """The host changes what the interpreter holds: the exit status is that of a fault of pvm's own."""
    host = write_host(
        """
import vm

linker = vm.Linker()

@linker.function("number")
def number(caller: vm.Caller) -> int:
    caller.instance._machine.interpreted.guest.heap_size = 5
    return 1
"""
    )
    since = decode_instruction(ProgramBlob.parse((pvm.directory / "importing.polkavm").read_bytes()), 0).next_pc
    message = (
        f"recompiler and interpreter differ between pc {since} and its end: "
        "heap size is 0 recompiled and 5 interpreted; step tracing (ModuleConfig.step_tracing) finds the instruction"
    )
    options = ("importing.polkavm", "main", "--host", host, "--crosscheck")
    assert pvm.fails(70, "run", *options) == message
    error = pvm.reports(70, "run", *options, "--step-tracing", "--json")
    assert (error["kind"], error["what"], error["recompiler"], error["interpreter"]) == (
        "crosscheck",
        "heap size",
        0,
        5,
    )
    assert (error["since"], error["pc"], error["instruction"]) == (since, since, "")
