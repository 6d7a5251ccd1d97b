# SPDX-License-Identifier: MIT
"""The types of a program's exports and imports, as guests of the SDK record them (docs/guests.md, "Signatures").

A signature is text, in the ELF section ``.pvm_signatures`` and, behind a line that names the format, in a section of
the blob. That comes from strangers: reading takes time and memory in proportion to its bytes, of which there is a
limit, and fails only with `SignatureError` or `ProgramParseError`.

This module is pure data.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from vm._errors import ProgramParseError
from vm._printable import shorten
from vm.isa import ARGUMENT_REGISTERS
from vm.program import ProgramBlob

#: What the blob's section begins with; anything else is somebody else's section.
HEADER: Final = b"pvm-signatures 1\n"

#: Limits of our own: bytes of the blob's section and of a structure; values in all structures, arrays' elements each.
MAX_SIZE: Final = 1 << 20
MAX_STRUCTURE_SIZE: Final = 1 << 20
MAX_VALUES: Final = 1 << 20

#: Bytes of a value in memory, by its letter, which is that of Python's `struct`; a pointer has a machine word.
SIZES: Final = {"b": 1, "B": 1, "?": 1, "h": 2, "H": 2, "i": 4, "I": 4, "f": 4, "q": 8, "Q": 8, "d": 8}
_VOID: Final = "v"
_POINTER: Final = "P"

_TYPE: Final = rb'[bBhHiIqQfd?]|P(?:"[^"\n]*")?'
_ONE_TYPE: Final = re.compile(_TYPE)
_FUNCTION: Final = re.compile(rb'(export|import) ([^"\n]*)\(((?:' + _TYPE + rb")*)\)(v|" + _TYPE + rb")")
_STRUCTURE: Final = re.compile(rb'struct "([^"\n]+)" (\d{1,10})((?: [^ \n]+)*)')
_FIELD: Final = re.compile(rb'([bBhHiIqQfd?P])(?:\*(\d{1,10}))?@(\d{1,10}):([^ "\n]+)')
#: Words of C's that do not change what a pointer points to.
_QUALIFIERS: Final = frozenset(
    {"const", "volatile", "restrict", "__restrict", "__restrict__", "struct", "union", "class"}
)


class SignatureError(ValueError):
    """A record is wrong, or contradicts another one; `offset` is its first byte in the section."""

    def __init__(self, what: str, offset: int) -> None:
        super().__init__(what)
        self.offset = offset


class Type(NamedTuple):
    """The type of a parameter or result."""

    #: A letter of `SIZES`, ``P`` for a pointer, or ``v`` for a function that returns nothing.
    letter: str
    #: The name of the declared structure that a pointer points to; None for other pointers, and other types.
    structure: str | None = None


class Signature(NamedTuple):
    """The types of a function."""

    parameters: tuple[Type, ...]
    result: Type


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a structure."""

    name: str
    letter: str
    #: In bytes from the start of the structure.
    offset: int
    #: Elements, if it is an array; None if it is not.
    count: int | None


class Structure(NamedTuple):
    """A structure that PVM_STRUCT declared."""

    size: int
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Signatures:
    """Signatures by symbol, and structures by name, without qualifiers and ``struct``."""

    exports: dict[bytes, Signature] = field(default_factory=dict)
    imports: dict[bytes, Signature] = field(default_factory=dict)
    structures: dict[str, Structure] = field(default_factory=dict)

    @classmethod
    def of(cls, blob: ProgramBlob) -> Signatures:
        """What the blob says; nothing if it has no such section.

        Raises `ProgramParseError` for a section that begins as ours, and goes on as none.
        """
        if not blob.signatures.startswith(HEADER):
            return cls()
        if len(blob.signatures) > MAX_SIZE:
            what = f"{len(blob.signatures)} bytes, more than the limit of {MAX_SIZE}"
            raise ProgramParseError(what, section="signatures")
        try:
            return cls.parse(blob.signatures[len(HEADER) :], blob.isa.word_bits)
        except SignatureError as error:
            what = f"{error} at byte {len(HEADER) + error.offset:#x} of the section"
            raise ProgramParseError(what, section="signatures") from None

    @classmethod
    def parse(cls, records: bytes, word_bits: int) -> Signatures:
        """The records of a guest with registers of `word_bits` bits. Raises `SignatureError`."""
        found = cls()
        found.add(records, word_bits)
        return found.resolved()

    def add(self, records: bytes, word_bits: int) -> None:
        """Adds records, without a look at what pointers point to: see `resolved`. Raises `SignatureError`."""
        for offset, line in _lines(records):
            if match := _FUNCTION.fullmatch(line):
                kind, symbol, parameters, result = match.groups()
                signature = _signature(parameters, result, word_bits, offset)
                known = self.exports if kind == b"export" else self.imports
                before = known.get(symbol)
                if before is not None and _letters(before) != _letters(signature):
                    raise SignatureError(
                        f"the {kind.decode()} {_show(symbol)} is declared with different types: "
                        f"{_letters(before)} and {_letters(signature)}",
                        offset,
                    )
                known[symbol] = signature if before is None else _common(before, signature)
            elif match := _STRUCTURE.fullmatch(line):
                name = _plain(_text(match[1]))
                structure = _structure(name, int(match[2]), match[3].split(), word_bits, offset)
                if self.structures.setdefault(name, structure) != structure:
                    raise SignatureError(f"two different structures are called {shorten(name)}", offset)
            else:
                raise SignatureError(f"no signature: {_show(line)}", offset)
        fields = (field for structure in self.structures.values() for field in structure.fields)
        values = sum(1 if field.count is None else field.count for field in fields)
        if values > MAX_VALUES:
            raise SignatureError(f"{values} values in structures, more than the limit of {MAX_VALUES}", 0)

    def resolved(self) -> Signatures:
        """The same, where pointers to anything but a declared structure are just pointers."""

        def of(kind: Type) -> Type:
            return kind if kind.structure in self.structures else Type(kind.letter)

        def all_of(known: dict[bytes, Signature]) -> dict[bytes, Signature]:
            return {symbol: Signature(tuple(map(of, s.parameters)), of(s.result)) for symbol, s in known.items()}

        return Signatures(all_of(self.exports), all_of(self.imports), self.structures)

    def only(self, exports: Container[bytes], imports: Container[bytes]) -> Signatures:
        """The signatures of these exports and imports alone, with all structures."""
        return Signatures(
            {symbol: signature for symbol, signature in self.exports.items() if symbol in exports},
            {symbol: signature for symbol, signature in self.imports.items() if symbol in imports},
            self.structures,
        )

    def to_bytes(self) -> bytes:
        """The blob's section, the same for equal ones; empty if there is nothing to say."""
        lines = [_structure_record(name, structure) for name, structure in sorted(self.structures.items())]
        for kind, known in ((b"export", self.exports), (b"import", self.imports)):
            lines += [kind + b" " + symbol + _record(signature) for symbol, signature in sorted(known.items())]
        return HEADER + b"\n".join([*lines, b""]) if lines else b""


def size_of(letter: str, word_bits: int) -> int:
    """Bytes of a value in memory."""
    return word_bits // 8 if letter == _POINTER else SIZES[letter]


# --- Reading ----------------------------------------------------------------------------------------------------------


def _lines(records: bytes) -> Iterator[tuple[int, bytes]]:
    start = 0
    while start < len(records):
        end = records.find(b"\n", start)
        if end < 0:
            raise SignatureError("the last signature is cut short", start)
        yield start, records[start:end]
        start = end + 1


def _signature(parameters: bytes, result: bytes, word_bits: int, offset: int) -> Signature:
    types = tuple(_type(text) for text in _ONE_TYPE.findall(parameters))
    registers = sum(-(-size_of(kind.letter, word_bits) * 8 // word_bits) for kind in types)
    if registers > len(ARGUMENT_REGISTERS):
        raise SignatureError(
            f"a function whose arguments take {registers} registers; there are {len(ARGUMENT_REGISTERS)}", offset
        )
    return Signature(types, _type(result))


def _type(text: bytes) -> Type:
    letter, spelling = chr(text[0]), _text(text[1:].strip(b'"'))
    pointed, star, rest = spelling.partition("*")
    # of a pointer that is a const pointer: qualifiers again
    return Type(letter, _plain(pointed)) if star and not _plain(rest) else Type(letter)


def _structure(name: str, size: int, words: list[bytes], word_bits: int, offset: int) -> Structure:
    if not name:
        raise SignatureError("a structure has no name", offset)
    if size > MAX_STRUCTURE_SIZE:
        raise SignatureError(
            f"the structure {shorten(name)} has {size} bytes, more than the limit of {MAX_STRUCTURE_SIZE}", offset
        )
    fields = []
    for word in words:
        match = _FIELD.fullmatch(word)
        if match is None:
            raise SignatureError(f"no field of a structure: {_show(word)}", offset)
        letter, count, place = match[1].decode(), None if match[2] is None else int(match[2]), int(match[3])
        if place + size_of(letter, word_bits) * (1 if count is None else count) > size:
            raise SignatureError(f"the field {_show(match[4])} leaves the structure {shorten(name)}", offset)
        fields.append(Field(_text(match[4]), letter, place, count))
    return Structure(size, tuple(fields))


def _common(one: Signature, other: Signature) -> Signature:
    """What two signatures with the same letters agree on."""
    pairs = zip((*one.parameters, one.result), (*other.parameters, other.result), strict=True)
    types = [first if first == second else Type(first.letter) for first, second in pairs]
    return Signature(tuple(types[:-1]), types[-1])


def _plain(spelling: str) -> str:
    return " ".join(word for word in spelling.split() if word not in _QUALIFIERS)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _show(name: bytes) -> str:
    return shorten(_text(name))


# --- Writing ----------------------------------------------------------------------------------------------------------


def _letters(signature: Signature) -> str:
    return f"({''.join(kind.letter for kind in signature.parameters)}){signature.result.letter}"


def _record(signature: Signature) -> bytes:
    def text(kind: Type) -> str:
        return kind.letter if kind.structure is None else f'{kind.letter}"{kind.structure}*"'

    return f"({''.join(map(text, signature.parameters))}){text(signature.result)}".encode()


def _structure_record(name: str, structure: Structure) -> bytes:
    fields = "".join(
        f" {field.letter}{'' if field.count is None else f'*{field.count}'}@{field.offset}:{field.name}"
        for field in structure.fields
    )
    return f'struct "{name}" {structure.size}{fields}'.encode()
