# SPDX-License-Identifier: MIT
"""The program blob: a ``.polkavm`` file, parsed and written (blob specification, sections 1 to 4).

Blobs come from strangers.  Parsing takes time and memory proportional to the bytes that are there, never to a
count they claim, and fails only with `ProgramParseError`.

This module is pure data: it opens no file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, TypeAlias

from vm._errors import ProgramParseError
from vm._varint import VarintError, decode_varint, encode_varint
from vm.encoding import is_instruction_start, previous_start
from vm.isa import OPCODE_BY_NUMBER, InstructionSet

BytesLike: TypeAlias = bytes | bytearray | memoryview

MAGIC: Final = b"PVM\0"

#: Limits of the format (section 1).
MAX_CODE_SIZE: Final = 32 << 20
MAX_JUMP_TABLE_ENTRIES: Final = 16 << 20
MAX_IMPORTS: Final = 1024

#: Limits of our own, so that what a blob becomes in memory stays in proportion to its size: each export costs a
#: hundred bytes however short it is, and symbols of imports can overlap.
MAX_EXPORTS: Final = 1 << 20
MAX_OVERLAPPING_SYMBOL_BYTES: Final = 1 << 20

_MEMORY_CONFIG: Final = 1
_RO_DATA: Final = 2
_RW_DATA: Final = 3
_IMPORTS: Final = 4
_EXPORTS: Final = 5
_CODE: Final = 6
_DEBUG_STRINGS: Final = 128
_DEBUG_LINE_PROGRAMS: Final = 129
_DEBUG_LINE_PROGRAM_RANGES: Final = 130
# Our own, of those that the format leaves open: readers skip what they do not know behind the debug sections.
_SIGNATURES: Final = 192
_END: Final = 0
# Sections with this bit may be skipped by those who do not know them.
_OPTIONAL: Final = 0x80

#: Names of the sections by number, in the only order allowed.
SECTION_NAMES: Final = {
    _MEMORY_CONFIG: "memory config",
    _RO_DATA: "ro data",
    _RW_DATA: "rw data",
    _IMPORTS: "imports",
    _EXPORTS: "exports",
    _CODE: "code",
    _DEBUG_STRINGS: "debug strings",
    _DEBUG_LINE_PROGRAMS: "debug line programs",
    _DEBUG_LINE_PROGRAM_RANGES: "debug line program ranges",
    _SIGNATURES: "signatures",
}


class Export(NamedTuple):
    """A place of the code with a name the host can call."""

    #: Code offset; whether an instruction starts there is not checked.
    pc: int
    #: Arbitrary bytes, in practice UTF-8.
    symbol: bytes

    @property
    def name(self) -> str:
        """The symbol for people: bytes that are not UTF-8 are written as ``\\xNN``."""
        return self.symbol.decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ProgramBlob:
    """A parsed program; immutable, hashable, without any tie to the bytes it was parsed from.

    `parse` and `build` make one that is well formed; the constructor takes its fields as they are.
    """

    isa: InstructionSet
    code: bytes
    #: Bit i & 7 of byte i >> 3 is set where an instruction starts at code byte i.
    bitmask: bytes

    #: Initial contents of the regions; shorter than the region, the rest of which is zero.
    ro_data: bytes = b""
    rw_data: bytes = b""
    #: Sizes of the regions in bytes, u32.
    ro_data_size: int = 0
    rw_data_size: int = 0
    stack_size: int = 0

    #: Where in `import_symbols` the symbol of each import starts; it ends where the next one starts.
    import_offsets: tuple[int, ...] = ()
    import_symbols: bytes = b""
    exports: tuple[Export, ...] = ()

    #: Little-endian unsigned code offsets of `jump_table_entry_size` bytes each (0 if there are none).
    jump_table: bytes = b""
    jump_table_entry_size: int = 0

    #: The debug sections as they are in the blob (section 9).
    debug_strings: bytes = b""
    debug_line_programs: bytes = b""
    debug_line_program_ranges: bytes = b""

    #: The types of exports and imports as they are in the blob, unread: `vm.signatures` does that.
    signatures: bytes = b""

    #: The symbol of each import, by the number that `ecalli` names; None for an import whose offsets are out of
    #: range or run backwards.
    imports: tuple[bytes | None, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        symbols = self.import_symbols
        ranges = _symbol_ranges(self.import_offsets, len(symbols))
        imports = tuple(None if r is None else symbols[r.start : r.stop] for r in ranges)
        object.__setattr__(self, "imports", imports)

    def __repr__(self) -> str:
        return (
            f"<ProgramBlob {self.isa.label}, {len(self.code)} bytes of code, "
            f"{len(self.imports)} imports, {len(self.exports)} exports>"
        )

    @classmethod
    def parse(cls, data: BytesLike) -> ProgramBlob:
        """Parse the bytes of a whole blob.

        Raises `ProgramParseError` for anything the specification does not allow, and for more than `MAX_EXPORTS`
        exports.  What it leaves open is accepted: an export list that ends early, an import without a symbol, an
        export that names no instruction, optional sections of unknown meaning (which are dropped).
        """
        return _parse(data if isinstance(data, bytes) else bytes(memoryview(data)))

    @classmethod
    def build(
        cls,
        *,
        isa: InstructionSet,
        code: bytes,
        bitmask: bytes,
        ro_data: bytes = b"",
        rw_data: bytes = b"",
        ro_data_size: int | None = None,
        rw_data_size: int | None = None,
        stack_size: int = 0,
        imports: Sequence[bytes] = (),
        exports: Iterable[tuple[int, bytes]] = (),
        jump_table: Sequence[int] = (),
        debug_strings: bytes = b"",
        debug_line_programs: bytes = b"",
        debug_line_program_ranges: bytes = b"",
        signatures: bytes = b"",
    ) -> ProgramBlob:
        """Make a blob of its parts; region sizes default to the lengths of their data.

        Raises `ProgramParseError` if the parts are not what `parse` accepts, ValueError for numbers that are no u32.
        """
        offsets, end = [], 0
        for symbol in imports:
            offsets.append(end)
            end += len(symbol)
        # The size of the largest entry; at least one byte, or the table would be taken for an empty one.
        entry_size = max(1, (max(jump_table).bit_length() + 7) // 8) if jump_table else 0
        if entry_size > 4 or min(jump_table, default=0) < 0:
            raise ValueError("a jump table entry does not fit a u32")
        blob = cls(
            isa=isa,
            code=code,
            bitmask=bitmask,
            ro_data=ro_data,
            rw_data=rw_data,
            ro_data_size=len(ro_data) if ro_data_size is None else ro_data_size,
            rw_data_size=len(rw_data) if rw_data_size is None else rw_data_size,
            stack_size=stack_size,
            import_offsets=tuple(offsets),
            import_symbols=b"".join(imports),
            exports=tuple(Export(pc, symbol) for pc, symbol in exports),
            jump_table=b"".join(pc.to_bytes(entry_size, "little") for pc in jump_table),
            jump_table_entry_size=entry_size,
            debug_strings=debug_strings,
            debug_line_programs=debug_line_programs,
            debug_line_program_ranges=debug_line_program_ranges,
            signatures=signatures,
        )
        return cls.parse(blob.to_bytes())

    def to_bytes(self) -> bytes:
        """The blob as a writer emits it: shortest varints, empty sections left out.

        `parse` gives an equal `ProgramBlob` back.  ValueError for numbers that are no u32.
        """
        return _write(self)

    def with_imports(self, *names: str) -> ProgramBlob:
        """The same program with these imports: ``ecalli n`` asks for ``names[n]``.

        Raises `ProgramParseError` for more than `MAX_IMPORTS`.
        """
        symbols = [name.encode() for name in names]
        offsets = tuple(itertools.accumulate((len(symbol) for symbol in symbols[:-1]), initial=0)) if symbols else ()
        blob = replace(self, import_offsets=offsets, import_symbols=b"".join(symbols))
        return self.parse(blob.to_bytes())

    @property
    def import_names(self) -> tuple[str | None, ...]:
        """`imports` for people: bytes that are not UTF-8 are written as ``\\xNN``."""
        return tuple(None if s is None else s.decode("utf-8", "backslashreplace") for s in self.imports)

    @property
    def jump_table_entry_count(self) -> int:
        return len(self.jump_table) // self.jump_table_entry_size if self.jump_table_entry_size else 0

    def jump_table_entry(self, index: int) -> int:
        """The code offset that address (`index` + 1) * 2 stands for; IndexError outside of the table."""
        if not 0 <= index < self.jump_table_entry_count:
            raise IndexError(f"jump table entry {index} of {self.jump_table_entry_count}")
        size = self.jump_table_entry_size
        return int.from_bytes(self.jump_table[index * size : (index + 1) * size], "little")

    def is_instruction_start(self, pc: int) -> bool:
        """Whether an instruction starts at code offset `pc`."""
        return is_instruction_start(self.bitmask, pc)

    def is_valid_jump_target(self, pc: int) -> bool:
        """Whether a jump may go to code offset `pc`: a basic block starts there (section 4)."""
        if pc == 0 or not self.is_instruction_start(pc):
            return self.is_instruction_start(pc)
        previous = previous_start(self.bitmask, pc)
        if previous is None:
            return False
        opcode = OPCODE_BY_NUMBER[self.isa].get(self.code[previous])
        return opcode is not None and opcode.ends_block


def _symbol_ranges(offsets: tuple[int, ...], size: int) -> list[range | None]:
    """Where each symbol lies in a pool of `size` bytes; None if it lies outside or ends before it starts."""
    ends = (*offsets[1:], size)[: len(offsets)]
    return [range(start, end) if start <= end <= size else None for start, end in zip(offsets, ends, strict=True)]


# --- Reading ----------------------------------------------------------------------------------------------------------


class _Reader:
    """A position in the blob, and the section it is in; reads nothing past `end`."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.end = len(data)
        self.section: str | None = None

    def error(self, what: str, offset: int | None = None) -> ProgramParseError:
        return ProgramParseError(what, offset=self.position if offset is None else offset, section=self.section)

    def varint(self, what: str, limit: int | None = None) -> int:
        start = self.position
        try:
            value, self.position = decode_varint(self.data, start, self.end)
        except VarintError as error:
            raise self.error(f"cannot read the {what}: {error}") from None
        if limit is not None and value > limit:
            raise self.error(f"the {what} is {value}, more than the limit of {limit}", start)
        return value

    def bytes(self, size: int, what: str) -> bytes:
        start = self.position
        if size > self.end - start:
            raise self.error(f"the {what} needs {size} bytes, {self.end - start} are left")
        self.position = start + size
        return self.data[start : self.position]

    def byte(self, what: str) -> int:
        return self.bytes(1, what)[0]


class _SectionReader:
    """Walks the sections in their order; `enter` takes the next one if it is the one that is asked for."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader
        self._next_id = reader.byte("section id")

    def enter(self, section: int) -> bool:
        """Whether `section` comes next; the reader is then confined to its payload, until `leave`."""
        if self._next_id != section:
            return False
        self._confine(SECTION_NAMES[section])
        return True

    def leave(self) -> None:
        reader = self._reader
        reader.position, reader.end, reader.section = reader.end, len(reader.data), None
        self._next_id = reader.byte("section id")

    def take(self, section: int) -> bytes:
        """The payload of `section`, empty if another one comes next."""
        if not self.enter(section):
            return b""
        payload = self._reader.bytes(self._reader.end - self._reader.position, "payload")
        self.leave()
        return payload

    def finish(self) -> bytes:
        """Skip unknown optional sections up to the end marker; gives the payload of the first with signatures."""
        signatures = None
        while self._next_id & _OPTIONAL:
            if self._next_id == _SIGNATURES and signatures is None:
                signatures = self.take(_SIGNATURES)
            else:
                self._confine(f"optional {self._next_id}")
                self.leave()
        if self._next_id != _END:
            name = SECTION_NAMES.get(self._next_id)
            what = "unknown" if name is None else f"misplaced or repeated {name}"
            raise self._reader.error(f"{what} section (id {self._next_id})", self._reader.position - 1)
        return signatures or b""

    def _confine(self, name: str) -> None:
        reader = self._reader
        reader.section = name
        size = reader.varint("section length")
        if size > reader.end - reader.position:
            raise reader.error(f"the section needs {size} bytes, {reader.end - reader.position} are left")
        reader.end = reader.position + size


def _parse(data: bytes) -> ProgramBlob:
    reader = _Reader(data)
    if not data.startswith(MAGIC):
        raise reader.error("it does not start with the magic bytes 'PVM\\0'")
    reader.position = len(MAGIC)
    version = reader.byte("instruction set version")
    try:
        isa = InstructionSet(version)
    except ValueError:
        raise reader.error(f"unknown instruction set version {version}", reader.position - 1) from None
    blob_size = int.from_bytes(reader.bytes(8, "blob length"), "little")
    if blob_size != len(data):
        raise reader.error(f"its length field says {blob_size} bytes, there are {len(data)}", reader.position - 8)

    sections = _SectionReader(reader)
    ro_data_size = rw_data_size = stack_size = 0
    if sections.enter(_MEMORY_CONFIG):
        ro_data_size = reader.varint("ro data size")
        rw_data_size = reader.varint("rw data size")
        stack_size = reader.varint("stack size")
        if reader.position != reader.end:
            raise reader.error(f"{reader.end - reader.position} bytes too many")
        sections.leave()
    ro_data = _take_data(reader, sections, _RO_DATA, ro_data_size)
    rw_data = _take_data(reader, sections, _RW_DATA, rw_data_size)
    import_offsets, import_symbols = _take_imports(reader, sections)
    exports = _take_exports(reader, sections)
    if not sections.enter(_CODE):
        raise reader.error("there is no code section", reader.position - 1)
    entry_size, jump_table, code, bitmask = _read_code(reader)
    sections.leave()
    debug_strings = sections.take(_DEBUG_STRINGS)
    debug_line_programs = sections.take(_DEBUG_LINE_PROGRAMS)
    debug_line_program_ranges = sections.take(_DEBUG_LINE_PROGRAM_RANGES)
    signatures = sections.finish()

    return ProgramBlob(
        isa=isa,
        code=code,
        bitmask=bitmask,
        ro_data=ro_data,
        rw_data=rw_data,
        ro_data_size=ro_data_size,
        rw_data_size=rw_data_size,
        stack_size=stack_size,
        import_offsets=import_offsets,
        import_symbols=import_symbols,
        exports=exports,
        jump_table=jump_table,
        jump_table_entry_size=entry_size,
        debug_strings=debug_strings,
        debug_line_programs=debug_line_programs,
        debug_line_program_ranges=debug_line_program_ranges,
        signatures=signatures,
    )


def _take_data(reader: _Reader, sections: _SectionReader, section: int, region_size: int) -> bytes:
    if not sections.enter(section):
        return b""
    size = reader.end - reader.position
    if size > region_size:
        raise reader.error(f"{size} bytes of data for a region of {region_size}")
    data = reader.bytes(size, "data")
    sections.leave()
    return data


def _take_imports(reader: _Reader, sections: _SectionReader) -> tuple[tuple[int, ...], bytes]:
    if not sections.enter(_IMPORTS):
        return (), b""
    count = reader.varint("number of imports", MAX_IMPORTS)
    table = reader.bytes(count * 4, "offsets of the imports")
    offsets = tuple(int.from_bytes(table[i : i + 4], "little") for i in range(0, len(table), 4))
    start = reader.position
    symbols = reader.bytes(reader.end - start, "symbols")
    named = sum(len(r) for r in _symbol_ranges(offsets, len(symbols)) if r is not None)
    if named > len(symbols) + MAX_OVERLAPPING_SYMBOL_BYTES:
        raise reader.error(f"overlapping symbols: {named} bytes of them in {len(symbols)}", start)
    sections.leave()
    return offsets, symbols


def _take_exports(reader: _Reader, sections: _SectionReader) -> tuple[Export, ...]:
    """The list ends at its count or where it stops making sense, whichever comes first (section 3)."""
    if not sections.enter(_EXPORTS):
        return ()
    exports: list[Export] = []
    with suppress(ProgramParseError):
        count = reader.varint("number of exports")
        while len(exports) < min(count, MAX_EXPORTS + 1):
            pc = reader.varint("pc")
            exports.append(Export(pc, reader.bytes(reader.varint("symbol length"), "symbol")))
    if len(exports) > MAX_EXPORTS:
        raise reader.error(f"more than {MAX_EXPORTS} exports")
    sections.leave()
    return tuple(exports)


def _read_code(reader: _Reader) -> tuple[int, bytes, bytes, bytes]:
    if reader.position == reader.end:
        raise reader.error("there is no code")
    entry_count = reader.varint("number of jump table entries", MAX_JUMP_TABLE_ENTRIES)
    entry_size = reader.byte("size of a jump table entry")
    if entry_size > 4:
        raise reader.error(f"a jump table entry has {entry_size} bytes, more than the limit of 4", reader.position - 1)
    code_size_offset = reader.position
    code_size = reader.varint("size of the code", MAX_CODE_SIZE)
    if code_size == 0:
        raise reader.error("there is no code", code_size_offset)
    jump_table = reader.bytes(entry_count * entry_size, "jump table")
    code = reader.bytes(code_size, "code")
    bitmask_size, expected = reader.end - reader.position, (code_size + 7) // 8
    if bitmask_size != expected:
        raise reader.error(f"the bitmask has {bitmask_size} bytes, {code_size} bytes of code need {expected}")
    bitmask = reader.bytes(bitmask_size, "bitmask")
    if code_size % 8 and bitmask[-1] >> code_size % 8:
        raise reader.error("the padding of the bitmask is not zero", reader.position - 1)
    return entry_size if jump_table else 0, jump_table, code, bitmask


# --- Writing ----------------------------------------------------------------------------------------------------------


def _write(blob: ProgramBlob) -> bytes:
    sizes = (blob.ro_data_size, blob.rw_data_size, blob.stack_size)
    payloads = {
        _MEMORY_CONFIG: b"".join(map(encode_varint, sizes)) if any(sizes) else b"",
        _RO_DATA: blob.ro_data,
        _RW_DATA: blob.rw_data,
        _IMPORTS: _imports_payload(blob),
        _EXPORTS: _exports_payload(blob.exports),
        _CODE: _code_payload(blob),
        _DEBUG_STRINGS: blob.debug_strings,
        _DEBUG_LINE_PROGRAMS: blob.debug_line_programs,
        _DEBUG_LINE_PROGRAM_RANGES: blob.debug_line_program_ranges,
        _SIGNATURES: blob.signatures,
    }
    body = b"".join(
        bytes([section]) + encode_varint(len(payload)) + payload for section, payload in payloads.items() if payload
    )
    head = MAGIC + bytes([blob.isa])
    size = len(head) + 8 + len(body) + 1
    return head + size.to_bytes(8, "little") + body + bytes([_END])


def _imports_payload(blob: ProgramBlob) -> bytes:
    if not blob.import_offsets and not blob.import_symbols:
        return b""
    table = b"".join(offset.to_bytes(4, "little") for offset in blob.import_offsets)
    return encode_varint(len(blob.import_offsets)) + table + blob.import_symbols


def _exports_payload(exports: tuple[Export, ...]) -> bytes:
    if not exports:
        return b""
    parts = [encode_varint(len(exports))]
    for pc, symbol in exports:
        parts += (encode_varint(pc), encode_varint(len(symbol)), symbol)
    return b"".join(parts)


def _code_payload(blob: ProgramBlob) -> bytes:
    return b"".join(
        (
            encode_varint(blob.jump_table_entry_count),
            bytes([blob.jump_table_entry_size]),
            encode_varint(len(blob.code)),
            blob.jump_table,
            blob.code,
            blob.bitmask,
        )
    )
