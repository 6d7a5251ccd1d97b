# SPDX-License-Identifier: MIT
"""Writes the Python module that ``pvm bindings`` makes of a program.

Every name in a program is a stranger's. In the module it is a string literal in ASCII; identifiers are made of it in
`_Names`, and nothing else of the program is there but numbers.
"""

from __future__ import annotations

import builtins
import hashlib
import keyword
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol

from vm import bindings
from vm._stdio import Stdio
from vm.bindings import TYPE_NAMES, VERSION, BindingsError
from vm.program import ProgramBlob
from vm.signatures import Field, Signature, Signatures, Structure, Type

#: How much there can be in a module; a blob may have a million exports.
MAX_EXPORTS: Final = 10_000
MAX_STRUCTURES: Final = 1000
MAX_FIELDS: Final = 10_000

_WIDTH: Final = 120
_LONGEST_IDENTIFIER: Final = 60
#: Longer names become constants of the module.
_LONGEST_LITERAL: Final = 60
_ARGUMENTS: Final = "abcdefghi"

_HEAD: Final = """\
{imports}

bindings.require({version})
"""

#: Names that the module may use itself.
_MODULE_NAMES: Final = frozenset(
    {"Any", "Awaitable", "Callable", "ClassVar", "Final", "Hashable", "Imports", "NewType", "Program", "Protocol"}
    | {"Self", "bindings", "dataclass", "link", "vm"}
)
#: What no identifier can be: keywords, what annotations and decorators in a class say, and what is hard to read.
_TAKEN: Final = frozenset(
    {*keyword.kwlist, "bool", "bytes", "classmethod", "float", "int", "property", "tuple", "I", "O", "l"}
)


class _Model(Protocol):
    """For the attributes that every protocol has."""


def write_module(blob: ProgramBlob) -> str:
    """See `vm.bindings.module_source`."""
    return "".join(_Module(blob).lines())


class _Names:
    """Identifiers for names of any kind, different ones for different names."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._used = {*_TAKEN, *taken}
        self._next: dict[str, int] = {}

    def add(self, wanted: str, *, separator: str = "_") -> str:
        """`wanted`, or something like it that is free: with `separator` and perhaps a number behind it."""
        name = re.sub(r"[^A-Za-z0-9_]", "_", wanted)[:_LONGEST_IDENTIFIER]
        # Python has its own ideas of what begins with underscores
        if not name[:1].isalpha():
            name = f"x{name}"
        free = name
        while free in self._used:
            number = self._next.get(name, 1 if separator else 2)
            self._next[name] = number + 1
            free = f"{name}{separator}{'' if number == 1 else number}"
        self._used.add(free)
        return free

    def all(self, wanted: Iterable[str]) -> dict[str, str]:
        """Identifiers for different names: those first that can stay what they are."""
        names = list(wanted)
        exact = [name for name in names if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)]
        found = {name: self.add(name) for name in exact}
        found.update((name, self.add(name)) for name in names if name not in found)
        return found


class _Module:
    def __init__(self, blob: ProgramBlob) -> None:
        self._blob = blob
        self._signatures = Signatures.of(blob)
        self._word = "Q" if blob.isa.word_bits == 64 else "I"
        # Of several with the same name the first counts, as in a Module.
        self._exports: dict[str, Signature | None] = {}
        for export in blob.exports:
            self._exports.setdefault(export.name, self._signatures.exports.get(export.symbol))
        structures = self._signatures.structures.values()
        _limit("exports", len(self._exports), MAX_EXPORTS)
        _limit("structures", len(structures), MAX_STRUCTURES)
        _limit("fields of structures", sum(len(structure.fields) for structure in structures), MAX_FIELDS)
        served = Stdio().names
        self._uses_stdio = not served.isdisjoint(blob.import_names)
        self._imports: dict[str, Signature | None] = {}
        for name, symbol in zip(blob.import_names, blob.imports, strict=True):
            if name is not None and symbol is not None and name not in served:
                self._imports.setdefault(name, self._signatures.imports.get(symbol))

        top = _Names({*_MODULE_NAMES, *dir(builtins)})
        self._classes = {name: self._class(top, name) for name in self._signatures.structures}
        self._pointers = {name: top.add(f"{made}Pointer", separator="") for name, made in self._classes.items()}
        used = {*_MODULE_NAMES, *self._classes.values(), *self._pointers.values()}
        self._methods = _Names({*used, *dir(bindings.Program), "SHA256", "instantiate"}).all(self._exports)
        self._functions = _Names({*used, *dir(_Model)}).all(self._imports)
        self._constants: dict[str, str] = {}
        self._fields_made: list[str] = []

    @staticmethod
    def _class(names: _Names, name: str) -> str:
        words = re.split(r"[^A-Za-z0-9]+", name.rpartition("::")[2].rpartition(".")[2])
        made = "".join(word[:1].upper() + word[1:] for word in words)
        return names.add(made if made[:1].isalpha() else f"X{made}", separator="")

    def lines(self) -> Iterator[str]:
        """The module, in pieces."""
        body = "".join([*self._structures(), *self._protocol(), *self._program()])
        head = self._docstring()
        constants = "".join(_assignment(name, text) for text, name in self._constants.items())
        constants = f"\n{constants}" if constants else ""
        head += "\n" + _HEAD.format(imports=self._import_lines(body + constants), version=VERSION) + constants
        rules = self._exceptions()
        if rules:
            # RUF100 complains of the others where nothing looks for them
            yield f"# ruff: noqa: {', '.join([*rules, 'RUF100'])}\n"
        yield head
        yield body

    def _docstring(self) -> str:
        blob = self._blob
        return (
            f'"""Bindings for a program with {_count(len(self._exports), "export")}, {blob.isa.label}.\n\n'
            "Made by 'pvm bindings', not to be edited. The SHA-256 of the blob is\n"
            f"{self._hash()}.\n"
            '"""\n'
        )

    def _hash(self) -> str:
        return hashlib.sha256(self._blob.to_bytes()).hexdigest()

    @staticmethod
    def _import_lines(text: str) -> str:
        text = re.sub(r'"[^"]*"', "", text)
        lines = []
        for module, names in (
            ("collections.abc", ("Awaitable", "Callable", "Hashable")),
            ("dataclasses", ("dataclass",)),
            ("typing", ("Any", "ClassVar", "Final", "NewType", "Protocol", "Self")),
        ):
            used = [name for name in names if re.search(rf"\b{name}\b", text)]
            lines += [f"from {module} import {', '.join(used)}"] if used else []
        return "\n".join([*lines, "", "import vm", "from vm import bindings"])

    def _exceptions(self) -> list[str]:
        """Rules of style that a guest's own names break."""
        methods = [*self._methods.values(), *self._functions.values()]
        rules = ["N802"] if any(name != name.lower() for name in methods) else []
        mixed = any(name[:1].islower() and name != name.lower() for name in self._fields_made)
        return rules + (["N815"] if mixed else [])

    # --- structures ---

    def _structures(self) -> Iterator[str]:
        for name, structure in self._signatures.structures.items():
            made = self._classes[name]
            yield f'\n\n#: Address of `{made}`.\n{self._pointers[name]} = NewType("{self._pointers[name]}", int)\n'
            yield f"\n\n@dataclass(slots=True)\nclass {made}(bindings.Structure):\n"
            yield f'    """A structure of {_count(structure.size, "byte")}."""\n\n'
            yield f"    SIZE: ClassVar[int] = {structure.size}\n"
            yield from self._fields(structure)

    def _fields(self, structure: Structure) -> Iterator[str]:
        names = _Names({*_MODULE_NAMES, *dir(bindings.Structure), "SIZE", "LAYOUT"})
        made = [names.add(field.name) for field in structure.fields]
        self._fields_made += made
        rows = [
            f'("{name}", "{self._code(field)}", {field.offset}, {field.count})'
            for name, field in zip(made, structure.fields, strict=True)
        ]
        if len(rows) == 1:
            rows[0] += ","
        yield _wrapped("    LAYOUT: ClassVar[bindings.Layout] = (", rows, ")", steps=2)
        if made:
            yield "\n"
        for name, field in zip(made, structure.fields, strict=True):
            yield f"    {name}: {self._field_type(field)}\n"

    def _code(self, field: Field) -> str:
        return self._word if field.letter == "P" else field.letter

    def _field_type(self, field: Field) -> str:
        kind = _PYTHON.get(field.letter, "int")
        if field.count is None:
            return f"{kind} = {_ZEROS[kind]}  # {TYPE_NAMES[field.letter]}"
        if field.letter == "B":
            return f'bytes = b"\\0" * {field.count}'
        return f"tuple[{kind}, ...] = ({_ZEROS[kind]},) * {field.count}  # {TYPE_NAMES[field.letter]}"

    # --- imports ---

    def _protocol(self) -> Iterator[str]:
        if not self._imports:
            return
        yield "\n\nclass Imports(Protocol):\n"
        yield '    """The functions that the guest imports, to be defined by the host: each def or async def."""\n'
        for name, signature in self._imports.items():
            made = self._functions[name]
            if signature is None:
                yield f"\n    @property\n    def {made}(self) -> Callable[..., Any]:\n"
                yield '        """Of unknown types: what its annotations say (vm.Linker.function)."""\n'
            else:
                result = self._python(signature.result)
                parameters = ["self", "caller: vm.Caller", *self._parameters(signature), "/"]
                yield "\n" + _wrapped(f"    def {made}(", parameters, f") -> Awaitable[{result}] | {result}:")
                yield f'        """{self._prototype(signature)}"""\n'
        yield "\n\ndef link(imports: Imports, linker: vm.Linker | None = None) -> vm.Linker:\n"
        yield '    """A new linker, or `linker`, with the functions of `imports` defined."""\n'
        yield "    linker = vm.Linker() if linker is None else linker\n"
        for name, signature in self._imports.items():
            function = f"imports.{self._functions[name]}"
            if signature is None:
                yield _wrapped("    linker.define(", [self._literal(name), function], ")")
            else:
                types = [f'"{text}"' for text in self._letters(signature)]
                yield _wrapped("    bindings.define(", ["linker", self._literal(name), function, *types], ")")
        yield "    return linker\n"

    # --- exports ---

    def _program(self) -> Iterator[str]:
        yield '\n\nclass Program(bindings.Program):\n    """An instance of the program."""\n\n'
        yield f'    SHA256 = "{self._hash()}"\n\n    @classmethod\n'
        parameters = ["cls", "module: vm.Module", *(["imports: Imports"] if self._imports else []), "*"]
        parameters += ["stdio: vm.Stdio | None = None"] if self._uses_stdio else []
        parameters += ["limits: vm.Limits | None = None", "tenant: Hashable = None"]
        yield _wrapped("    async def instantiate(", parameters, ") -> Self:")
        if self._uses_stdio:
            yield '        """An instance of `module`, with what `stdio` grants; by default that is nothing."""\n'
        else:
            yield '        """An instance of `module`."""\n'
        yield f"        linker = {'link(imports)' if self._imports else 'vm.Linker()'}\n"
        if self._uses_stdio:
            yield "        (vm.Stdio() if stdio is None else stdio).link(linker)\n"
        yield "        return await cls._instantiate(module, linker, limits, tenant)\n"
        for name, signature in self._exports.items():
            yield "\n"
            yield from self._method(name, signature)

    def _method(self, name: str, signature: Signature | None) -> Iterator[str]:
        literal, made = self._literal(name), self._methods[name]
        if signature is None:
            yield f"    async def {made}(self, *args: int) -> int:\n"
            yield '        """Of unknown types: machine words, and what is in a0 afterwards."""\n'
            yield _wrapped("        return await self.instance.call(", [literal, "*args"], ")")
            return
        given = self._parameters(signature)
        parameters = ["self", *given, *(["/"] if given else [])]
        result = self._python(signature.result)
        yield _wrapped(f"    async def {made}(", parameters, f") -> {result}:")
        yield f'        """{self._prototype(signature)}"""\n'
        types = [f'"{text}"' for text in self._letters(signature)]
        arguments = ["self.instance", literal, *types, *_ARGUMENTS[: len(signature.parameters)]]
        wrap = self._pointers.get(signature.result.structure or "")
        if wrap is not None:
            yield _wrapped("        value = await bindings.call(", arguments, ")")
            yield f"        return {wrap}(value)\n"
        else:
            head = "await" if signature.result.letter == "v" else "return await"
            yield _wrapped(f"        {head} bindings.call(", arguments, ")")

    # --- types ---

    def _parameters(self, signature: Signature) -> list[str]:
        pairs = zip(_ARGUMENTS, signature.parameters, strict=False)
        return [f"{name}: {self._python(kind)}" for name, kind in pairs]

    def _python(self, kind: Type) -> str:
        return _PYTHON.get(kind.letter, "int") if kind.structure is None else self._pointers[kind.structure]

    def _prototype(self, signature: Signature) -> str:
        def of(kind: Type) -> str:
            return TYPE_NAMES[kind.letter] if kind.structure is None else f"{self._classes[kind.structure]} *"

        return f"({', '.join(map(of, signature.parameters))}) -> {of(signature.result)}"

    @staticmethod
    def _letters(signature: Signature) -> tuple[str, str]:
        return "".join(kind.letter for kind in signature.parameters), signature.result.letter

    # --- text ---

    def _literal(self, name: str) -> str:
        """An expression for the name."""
        text = f'"{_escape(name)}"'
        if len(text) <= _LONGEST_LITERAL:
            return text
        return self._constants.setdefault(name, f"_NAME_{len(self._constants) + 1}")


_PYTHON: Final = {"?": "bool", "f": "float", "d": "float", "v": "None"}
_ZEROS: Final = {"int": "0", "float": "0.0", "bool": "False"}


def _escape(name: str) -> str:
    """The inside of a string literal."""
    return "".join(_escaped(character) for character in name)


def _escaped(character: str) -> str:
    if " " <= character <= "~" and character not in '"\\':
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _assignment(name: str, value: str) -> str:
    """A constant, on as many lines as it needs."""
    text = _escape(value)
    line = f'{name}: Final = "{text}"\n'
    if len(line) <= _WIDTH + 1:
        return line
    if len(text) + 6 <= _WIDTH:
        return f'{name}: Final = (\n    "{text}"\n)\n'
    pieces, piece = [], ""
    for escaped in map(_escaped, value):
        if len(piece) + len(escaped) + 6 > _WIDTH:
            pieces.append(piece)
            piece = ""
        piece += escaped
    parts = "".join(f'    "{part}"\n' for part in [*pieces, piece])
    return f"{name}: Final = (\n{parts})\n"


def _wrapped(head: str, items: Sequence[str], tail: str, *, steps: int = 3) -> str:
    """`head`, the items with commas between, `tail`, as ruff has it: on one line if that fits, else with the items on a
    line of their own (not with two `steps`), else with a line for each.
    """
    line = head + ", ".join(items) + tail
    if len(line) <= _WIDTH:
        return line + "\n"
    indent = head[: len(head) - len(head.lstrip())]
    inner = f"{indent}    {', '.join(items)}"
    if len(inner) <= _WIDTH and steps == 3:
        return f"{head}\n{inner}\n{indent}{tail}\n"
    rows = "".join(f"{indent}    {item.removesuffix(',')},\n" for item in items)
    return f"{head}\n{rows}{indent}{tail}\n"


def _limit(what: str, number: int, most: int) -> None:
    if number > most:
        raise BindingsError(f"the program has {number} {what}, more than {most}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
