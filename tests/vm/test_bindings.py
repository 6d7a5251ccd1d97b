# SPDX-License-Identifier: MIT
"""Typed bindings: the module that is written, that tools like it, and that it works."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import hashlib
import math
import re
from pathlib import Path
from typing import Any

import pytest
from generated import check, load
from guests import LATEST32, LATEST64, build
from hypothesis import given, settings
from hypothesis import strategies as st

import vm
from vm._bindings_source import MAX_EXPORTS, MAX_FIELDS, MAX_STRUCTURES
from vm.bindings import VERSION, BindingsError, module_source, require
from vm.signatures import HEADER

LETTERS = {"b": "b", "B": "B", "h": "h", "H": "H", "i": "i", "I": "I", "q": "q", "Q": "Q"}
LETTERS |= {"f": "f", "d": "d", "flag": "?", "P": "P"}
VALUES: dict[str, list[Any]] = {
    "b": [0, 127, -128],
    "B": [0, 255],
    "h": [32767, -32768],
    "H": [65535],
    "i": [2**31 - 1, -(2**31)],
    "I": [2**32 - 1],
    "q": [2**63 - 1, -(2**63), 1 << 32],
    "Q": [2**64 - 1, 1],
    "f": [0.5, -1.25, math.inf, 3],
    "d": [0.1, -1e300, -math.inf],
    "?": [True, False],
    "P": [0, 0x10000, 0xFFFE_0000],
}

#: Exports that give back what they get, and what the host says.
IDENTITY = "".join(f"pub @id_{name}:\n    ret\n" for name in LETTERS)
ASK = "".join(f"pub @ask_{name}:\n    ecalli {number}\n    ret\n" for number, name in enumerate(LETTERS))
TYPES = "".join(f"export id_{n}({t}){t}\nexport ask_{n}({t}){t}\nimport host_{n}({t}){t}\n" for n, t in LETTERS.items())


def signed(blob: vm.ProgramBlob, records: str) -> vm.ProgramBlob:
    """The program with these signatures."""
    blob = dataclasses.replace(blob, signatures=HEADER + records.encode())
    return vm.ProgramBlob.parse(blob.to_bytes())


def crossing(isa: vm.InstructionSet) -> vm.ProgramBlob:
    return signed(build(IDENTITY + ASK, isa, imports=[f"host_{name}" for name in LETTERS]), TYPES)


class Echo:
    """Implements any imports: each answers with its argument."""

    def __init__(self, *, later: bool) -> None:
        self.seen: list[object] = []
        self._later = later

    def __getattr__(self, name: str) -> Any:
        def now(caller: vm.Caller, value: object) -> object:
            self.seen.append(value)
            return value

        async def later(caller: vm.Caller, value: object) -> object:
            await asyncio.sleep(0)
            return now(caller, value)

        return later if self._later else now


@pytest.mark.parametrize("isa", [LATEST64, LATEST32], ids=lambda isa: isa.label)
@pytest.mark.parametrize("later", [False, True])
async def test_every_type_crosses(engine: vm.Engine, isa: vm.InstructionSet, later: bool) -> None:
    blob = crossing(isa)
    made, echo = load(blob), Echo(later=later)
    async with await made.Program.instantiate(await engine.compile(blob), echo) as program:
        for name, letter in LETTERS.items():
            for value in VALUES[letter]:
                for kind in ("id", "ask"):
                    result = await getattr(program, f"{kind}_{name}")(value)
                    assert result == value, (kind, name)
                    assert type(result) is type(float(value) if letter in "fd" else value)
                assert echo.seen.pop() == value
        assert math.isnan(await program.ask_f(math.nan))
        assert math.isnan(await program.id_d(math.nan))


@pytest.mark.parametrize(
    ("name", "value", "register"),
    [
        ("b", -3, 2**64 - 3),
        ("h", -300, 2**64 - 300),
        ("H", 65535, 65535),
        ("I", 0xFFFF_FFFF, 2**64 - 1),
        ("flag", True, 1),
        ("P", 0xFFFE_0000, 0xFFFE_0000),
        ("f", -1.0, 0xFFFF_FFFF_BF80_0000),
    ],
)
async def test_registers_are_as_the_calling_convention_has_them(
    engine: vm.Engine, name: str, value: Any, register: int
) -> None:
    blob = crossing(LATEST64)
    async with await load(blob).Program.instantiate(await engine.compile(blob), Echo(later=False)) as program:
        await getattr(program, f"id_{name}")(value)
        assert program.instance.registers["a0"] == register


async def test_what_a_guest_leaves_above_its_result_means_nothing(engine: vm.Engine) -> None:
    text = "".join(f"pub @get_{n}:\n    a0 = 0xffffffffffffff80\n    ret\n" for n in LETTERS)
    blob = signed(build(text), "".join(f"export get_{n}(){t}\n" for n, t in LETTERS.items()))
    expected = {"b": -128, "B": 128, "h": -128, "H": 0xFF80, "i": -128, "I": 0xFFFF_FF80, "q": -128, "flag": True}
    async with await load(blob).Program.instantiate(await engine.compile(blob)) as program:
        for name, value in {**expected, "Q": 2**64 - 128, "P": 0xFFFF_FF80}.items():
            assert await getattr(program, f"get_{name}")() == value
        assert math.isnan(await program.get_f())


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("B", -1, OverflowError, "argument 1 of 'id_B' is -1, not from 0 to 255 .u8."),
        ("b", 128, OverflowError, "not from -128 to 127"),
        ("I", 1 << 32, OverflowError, "u32"),
        ("q", 1 << 63, OverflowError, "i64"),
        ("P", -1, OverflowError, "address"),
        ("i", 1.5, TypeError, "argument 1 of 'id_i' must be an int, not float"),
        ("f", 1e39, OverflowError, r"argument 1 of 'id_f' is more than f32 can be"),
        pytest.param("d", 10**400, OverflowError, "more than f64 can be", id="d-large"),
        ("d", "1", TypeError, "must be a float, not str"),
        ("flag", None, TypeError, "must be a bool, not NoneType"),
    ],
)
async def test_wrong_values(engine: vm.Engine, name: str, value: Any, error: type[Exception], message: str) -> None:
    blob = crossing(LATEST64)
    echo = Echo(later=False)
    async with await load(blob).Program.instantiate(await engine.compile(blob), echo) as program:
        with pytest.raises(error, match=message):
            await getattr(program, f"id_{name}")(value)
        wrong = dict.fromkeys(LETTERS, 0) | {name: value}

        def answer(caller: vm.Caller, argument: object) -> object:
            return wrong[name]

        setattr(echo, f"host_{name}", answer)
        linker = load(blob).link(echo)
        async with await linker.instantiate(program.instance.module) as instance:
            with pytest.raises(error, match=f"the result of host function 'host_{name}'"):
                await instance.call(f"ask_{name}")
        assert await getattr(program, f"id_{name}")(0) == 0, "it can be called again"


async def test_void_is_none(engine: vm.Engine) -> None:
    blob = signed(build("pub @f:\n    ecalli 0\n    ret\n", imports=["g"]), "export f()v\nimport g()v\n")

    class Host:
        result: object = None

        async def g(self, caller: vm.Caller) -> object:
            return self.result

    host = Host()
    async with await load(blob).Program.instantiate(await engine.compile(blob), host) as program:
        assert await program.f() is None
        host.result = 1
        with pytest.raises(TypeError, match="the result of host function 'g' is 1"):
            await program.f()


STRUCTURES = """\
struct "struct point" 56 i@0:x q@8:far B*8@16:name h*3@24:three P@32:next ?@40:flag f@44:weight I@48:def I@52:SIZE
struct "empty" 0
export bump(P"struct point *")P"const point *"
export other(P"empty*"P"nobody*")v
import show(P"point *"P)v
"""
BUMP = """
%rw_data_size = 4096
pub @bump:
    a1 = i32 [a0]
    i32 a1 = a1 + 1
    u32 [a0] = a1
    ecalli 0
    ret
pub @other:
    ret
"""


@pytest.mark.parametrize("isa", [LATEST64, LATEST32], ids=lambda isa: isa.label)
async def test_structures(engine: vm.Engine, isa: vm.InstructionSet) -> None:
    blob = signed(build(BUMP, isa, imports=["show"]), STRUCTURES)
    made = load(blob)
    point = made.Point(x=-2, far=1 << 40, name=b"one", three=(1, -2, 3), next=7, flag=True, weight=0.5, def_=9)
    data = point.pack()
    assert len(data) == made.Point.SIZE == 56
    assert data[16:24] == b"one\0\0\0\0\0"
    assert made.Point.unpack(data) == dataclasses.replace(point, name=b"one\0\0\0\0\0")
    assert made.Point.unpack(memoryview(data)) == made.Point.unpack(bytearray(data))
    assert made.Point().pack() == bytes(56)
    assert made.Empty.unpack(made.Empty().pack()) == made.Empty()
    seen: list[Any] = []

    class Host:
        def show(self, caller: vm.Caller, place: int, address: int) -> None:
            seen.append(made.Point.read(caller.memory, place).x)

    async with await made.Program.instantiate(await engine.compile(blob), Host()) as program:
        address = made.PointPointer(program.memory.map.rw_address)
        point.write(program.memory, address)
        assert await program.bump(address) == address
        assert made.Point.read(program.memory, address).x == -1
        assert seen == [-1]
        with pytest.raises(vm.MemoryAccessError):
            made.Point.read(program.memory, 0)
        with pytest.raises(vm.MemoryAccessError):
            point.write(program.memory, 0xFFFF_FFF0)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"x": 1 << 31}, OverflowError, "Point.x is 2147483648, not from"),
        ({"x": "1"}, TypeError, "Point.x must be an int, not str"),
        ({"name": b"123456789"}, ValueError, "Point.name has 9 bytes, more than 8"),
        ({"name": "text"}, TypeError, "bytes-like"),
        ({"three": (1, 2)}, ValueError, "Point.three has 2 elements, not 3"),
        ({"three": (1, 2, 1 << 15)}, OverflowError, "an element of Point.three is 32768"),
        ({"weight": 1e40}, OverflowError, "Point.weight"),
    ],
)
def test_wrong_fields(fields: dict[str, Any], error: type[Exception], message: str) -> None:
    made = load(signed(build(BUMP), STRUCTURES))
    with pytest.raises(error, match=message):
        made.Point(**fields).pack()
    with pytest.raises(ValueError, match="Point has 56 bytes, not 55"):
        made.Point.unpack(bytes(55))


# --- Without signatures, exports or imports ---------------------------------------------------------------------------


async def test_without_signatures(engine: vm.Engine) -> None:
    text = "pub @sum:\n    a0 = a0 + a1\n    ecalli 0\n    ret\n"
    blob = build(text, imports=["ask"])

    class Host:
        async def ask(self, caller: vm.Caller, value: vm.i32, other: int) -> vm.i32:
            return value + other

    async with await load(blob).Program.instantiate(await engine.compile(blob), Host()) as program:
        assert await program.sum(2, 40) == 82
        assert await program.sum(-1, 0) == 2**64 - 1


async def test_without_exports_and_imports(engine: vm.Engine) -> None:
    blob = build("    ret\n")
    made = load(blob)
    assert not hasattr(made, "Imports")
    async with await made.Program.instantiate(await engine.compile(blob)) as program:
        assert program.instance.module.exports == {}
    await program.aclose()


async def test_what_stdio_serves_is_no_import(engine: vm.Engine) -> None:
    text = "%rw_data_size = 16\npub @put:\n    a1 = a0\n    a0 = 1\n    a2 = 2\n    ecalli 0\n    ret\n"
    blob = signed(build(text, imports=["pvm_write"]), "export put(P)i\n")
    made, out = load(blob), bytearray()
    module = await engine.compile(blob)
    async with await made.Program.instantiate(module) as program:
        assert await program.put(program.memory.map.rw_address) == -9, "EBADF: nothing is granted"
    async with await made.Program.instantiate(module, stdio=vm.Stdio(stdout=out)) as program:
        assert await program.put(program.memory.map.rw_address) == 2
    assert bytes(out) == b"\0\0"


# --- The module knows its program -------------------------------------------------------------------------------------


async def test_other_programs_are_refused(engine: vm.Engine, tmp_path: Path) -> None:
    blob, other = build("pub @f:\n    ret\n"), build("pub @f:\n    a0 = 1\n    ret\n")
    made = load(blob)
    digest = hashlib.sha256(blob.to_bytes()).hexdigest()
    assert digest == made.Program.SHA256
    assert digest in made.__doc__
    wrong = await engine.compile(other)
    with pytest.raises(BindingsError, match=f"for the program with SHA-256 {digest}, the module has [0-9a-f]+: run"):
        await made.Program.instantiate(wrong)
    async with await vm.Linker().instantiate(wrong) as instance:
        with pytest.raises(vm.VMError, match="run 'pvm bindings' again"):
            made.Program(instance)
    right = await engine.compile(blob)
    await right.save(tmp_path / "module.pvmc")
    stored = await engine.load(tmp_path / "module.pvmc")
    async with made.Program(await vm.Linker().instantiate(stored)) as program:
        assert await program.f(5) == 5


async def test_link_adds_to_a_linker(engine: vm.Engine) -> None:
    blob = signed(build("pub @f:\n    ecalli 0\n    ret\n", imports=["g"]), "export f()i\nimport g()i\n")
    made, linker = load(blob), vm.Linker()
    host = Echo(later=False)
    host.g = lambda caller: 5
    assert made.link(host, linker) is linker
    assert linker.names == {"g"}
    with pytest.raises(ValueError, match="'g' is defined already"):
        made.link(host, linker)


def test_versions_are_compared() -> None:
    require(VERSION)
    with pytest.raises(BindingsError, match=f"version {VERSION + 1}, not {VERSION}"):
        require(VERSION + 1)


def test_the_same_program_gives_the_same_text() -> None:
    blob = crossing(LATEST64)
    assert module_source(blob) == module_source(vm.ProgramBlob.parse(blob.to_bytes()))


def test_too_many_exports() -> None:
    def with_exports(count: int) -> vm.ProgramBlob:
        exports = tuple(vm.Export(0, b"%d" % number) for number in range(count))
        return dataclasses.replace(build("    ret\n"), exports=exports)

    assert f"x{MAX_EXPORTS - 1}(" in module_source(with_exports(MAX_EXPORTS))
    with pytest.raises(BindingsError, match=f"{MAX_EXPORTS + 1} exports, more than {MAX_EXPORTS}"):
        module_source(with_exports(MAX_EXPORTS + 1))


def test_too_many_structures() -> None:
    blob = build("    ret\n")
    many = "".join(f'struct "s{number}" 0\n' for number in range(MAX_STRUCTURES + 1))
    with pytest.raises(BindingsError, match=f"{MAX_STRUCTURES + 1} structures, more than"):
        module_source(signed(blob, many))
    fields = "".join(f" b@0:f{number}" for number in range(MAX_FIELDS + 1))
    with pytest.raises(BindingsError, match=f"{MAX_FIELDS + 1} fields of structures, more than"):
        module_source(signed(blob, f'struct "s" 1{fields}\n'))


def test_damaged_signatures() -> None:
    with pytest.raises(vm.ProgramParseError, match="no signature: nonsense"):
        module_source(signed(build("    ret\n"), "nonsense\n"))


# --- Hostile names ----------------------------------------------------------------------------------------------------

NAMES = [
    "",
    "plain",
    "class",
    "None",
    "int",
    "print",
    "l",
    "CamelCase",
    "a-b",
    "a_b",
    "a b",
    "1st",
    "_start",
    "__init__",
    "__class__",
    "instance",
    "instantiate",
    "SHA256",
    "_check",
    "vm",
    "bindings",
    "Program",
    "Point",
    "self",
    '"""',
    "\\",
    "\\x22",
    "'); import os; os._exit(3); ('",
    '"); import os; os._exit(3); ("',
    "new\nline\r\u2028",
    "\u202eright to left",
    "\N{PILE OF POO}",
    "\ufb01",
    "x" * 59,
    "x" * 100,
    "x" * 101,
    "x" * 104,
    '"' * 26,
    '"' * 30,
    "y" * 70 + "é" * 500,
    "y" * 71,
]
WIRES = [name.encode() for name in NAMES] + [b"\xff", b"\\xff"]


def hostile() -> vm.ProgramBlob:
    """Exports and imports with all these names, half of them with types; structures with as many fields."""
    records = []
    for number, name in enumerate(NAMES):
        if "\n" in name or '"' in name or number % 3 == 0:
            continue
        records += [f'export {name}(bP"Point *")P"def*"', f'import {name}(bIqdfP?B)P"Point*"']
    fields = "".join(f" i@0:{name}" for name in NAMES if name and not re.search('[ "\n]', name))
    records += [f'struct "Point" 8{fields}', 'struct "def" 8 i@0:mixedCase', 'struct "point" 4 i@0:pack h*1@0:LAYOUT']
    records += [f'struct "{name}" 4' for name in ("None", "Exception", "vm", "Program", "PointPointer", "1", "::", "é")]
    blob = dataclasses.replace(build("    ret\n"), exports=tuple(vm.Export(0, name) for name in [*WIRES, *WIRES]))
    offsets = [sum(map(len, WIRES[:i])) for i in range(len(WIRES))]
    blob = dataclasses.replace(blob, import_offsets=(*offsets, 1 << 20), import_symbols=b"".join(WIRES))
    return signed(blob, "".join(f"{record}\n" for record in records))


def methods_of(made: Any) -> list[str]:
    """The methods that exports have become."""
    return [name for name in vars(made.Program) if not name.startswith("__") and name not in ("SHA256", "instantiate")]


def test_hostile_names_become_identifiers() -> None:
    blob = hostile()
    text = module_source(blob)
    assert text.isascii()
    assert all(line.isprintable() for line in text.splitlines())
    made = load(blob)
    names = {export.name for export in blob.exports}
    assert len(names) == len(NAMES) + 1, "one name can be written in two ways"
    own = methods_of(made)
    assert len(own) == len(names)
    assert {"plain", "class_", "CamelCase", "a_b", "x_start", "print", "self"} <= set(own)
    assert {made.Point, made.Point2, made.Def} <= set(vm.bindings.Structure.__subclasses__())


async def test_hostile_names_are_called_by_their_own(engine: vm.Engine) -> None:
    names = [name for name in NAMES if name]
    exports = tuple(vm.Export(0, name.encode()) for name in names)
    echo = {name: number for number, name in enumerate(names)}
    blob = dataclasses.replace(build("pub @f:\n    ecalli 0\n    ret\n", imports=["'); raise SystemExit('"]))
    records = "import '); raise SystemExit('(i)i\n" + "".join(
        f"export {name}(i)i\n" for name in names if name.isalnum()
    )
    blob = signed(dataclasses.replace(blob, exports=exports), records)
    made = load(blob)
    (function,) = (name for name in vars(made.Imports) if "SystemExit" in name)
    host = Echo(later=False)
    async with await made.Program.instantiate(await engine.compile(blob), host) as program:
        for name in methods_of(made):
            assert await getattr(program, name)(echo["plain"]) == echo["plain"]
    assert host.seen == [echo["plain"]] * len(names)
    assert re.fullmatch(r"[a-zA-Z]\w*", function)


@settings(deadline=None, database=None)
@given(st.lists(st.one_of(st.text(max_size=8), st.text("\"'\\\n#{}()a_1", max_size=200)), max_size=6), st.booleans())
def test_any_names(names: list[str], typed: bool) -> None:
    symbols = [name.encode("utf-8", "backslashreplace") for name in names]
    blob = dataclasses.replace(build("    ret\n"), exports=tuple(vm.Export(0, symbol) for symbol in symbols))
    text = [name for name, symbol in zip(names, symbols, strict=True) if typed and not re.search('["\n]', name)]
    records = b"".join(b"export %s(P)?\n" % name.encode("utf-8", "backslashreplace") for name in text)
    blob = dataclasses.replace(blob, signatures=HEADER + records)
    source = module_source(blob)
    assert source.isascii()
    assert max(map(len, source.splitlines())) <= 120
    tree = ast.parse(source)
    imported = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in tree.body[1:4]]
    assert len([node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]) <= 5
    assert "os" not in imported
    made = load(blob)
    methods = [
        name for name in vars(made.Program) if not name.startswith("__") and name not in ("SHA256", "instantiate")
    ]
    assert len(methods) == len({export.name for export in blob.exports})


# --- Tools ------------------------------------------------------------------------------------------------------------

USER = '''\
"""What people write against a generated module."""

import crossing
import structures
import vm


class Sync:
    def show(self, caller: vm.Caller, place: structures.PointPointer, address: int) -> None:
        print(structures.Point.read(caller.memory, place).x + address)


class Async:
    async def show(self, caller: vm.Caller, place: structures.PointPointer, address: int) -> None:
        """Anything."""


class Wrong:
    def show(self, caller: vm.Caller, place: str, address: int) -> None:
        """A parameter of another type."""


async def main(module: vm.Module) -> None:
    for host in (Sync(), Async()):
        structures.link(host)
        async with await structures.Program.instantiate(module, host) as program:
            place = structures.PointPointer(5)
            result: structures.PointPointer = await program.bump(place)
            await program.bump(5)  # type: ignore[arg-type]
            await program.bump(result, 1)  # type: ignore[call-arg]
            await program.other(structures.EmptyPointer(1), 2)
            text: str = await program.bump(place)  # type: ignore[assignment]
    await structures.Program.instantiate(module, Wrong())  # type: ignore[arg-type]
    async with crossing.Program(await vm.Linker().instantiate(module)) as numbers:
        whole: int = await numbers.id_i(1)
        number: float = await numbers.id_f(1)
        flag: bool = await numbers.id_flag(True)
        await numbers.id_flag("text")  # type: ignore[arg-type]
        whole = await numbers.id_d(1)  # type: ignore[assignment]
    structures.Point(x="text")  # type: ignore[arg-type]
    print(text, whole, number, flag)

'''


@pytest.mark.timeout(60)  # mypy looks at all of vm
def test_tools_have_nothing_to_say(tmp_path: Path) -> None:
    programs = {
        "crossing": crossing(LATEST64),
        "structures": signed(build(BUMP, imports=["show"]), STRUCTURES),
        "hostile": hostile(),
        "empty": build("    ret\n"),
        "plain": build("pub @f:\n    ret\n"),
        "untyped": build("pub @f:\n    ret\n", imports=["ask", "pvm_write"]),
        "standard": signed(build("pub @f:\n    ret\n", imports=["pvm_write"]), "export f()v\n"),
    }
    paths = []
    for name, blob in programs.items():
        paths.append(tmp_path / f"{name}.py")
        paths[-1].write_text(module_source(blob))
    user = tmp_path / "user.py"
    user.write_text(USER)
    assert check(paths, [user], tmp_path) == ""
