# SPDX-License-Identifier: MIT
"""``pvm inspect``: shows what is in a program blob, without running any of it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import vm
from vm._varint import decode_varint
from vm.cli._errors import Status
from vm.cli._guest import read_program
from vm.cli._output import write, write_json
from vm.cli._text import printable, shorten
from vm.debug_info import DebugInfo
from vm.encoding import instructions
from vm.isa import InstructionSet
from vm.program import MAGIC, SECTION_NAMES, ProgramBlob

#: Exports that are listed for people; a blob may have a million.
_MOST_EXPORTS = 100
#: What precedes the sections (specification, section 3): magic bytes, version, length.
_HEADER_SIZE = len(MAGIC) + 1 + 8

Program = Annotated[str, typer.Argument(metavar="PROGRAM", help="A program blob (.polkavm).", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object: what is there, or what went wrong.")]


def inspect(program: Program, as_json: Json = False) -> Callable[[], int]:
    """Show what is in PROGRAM: sections, memory map, imports, exports, jump table, instructions, debug information."""
    return partial(_inspect, Path(program), as_json)


def _inspect(program: Path, as_json: bool) -> int:
    facts = _examine(read_program(program))
    if as_json:
        write_json({"file": str(program), **dataclasses.asdict(facts), "isa": facts.isa.label})
    else:
        write("\n".join(_render(facts)) + "\n")
    return Status.DONE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    id: int
    name: str
    #: Bytes of its payload.
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Export:
    pc: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Code:
    """Sizes in bytes; instructions include those that are invalid."""

    size: int
    instructions: int
    invalid: int
    basic_blocks: int
    jump_table_entries: int
    jump_table_entry_size: int
    #: Entries at which no basic block starts: a jump through them traps.
    jump_table_invalid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Debug:
    present: bool
    functions: int
    regions: int
    #: What is wrong with the debug sections, if anything.
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """All there is to know, as the JSON object has it."""

    isa: InstructionSet
    word_bits: int
    #: Bytes of the blob, and its sections, as a writer emits them: optional ones of unknown meaning are not there.
    size: int
    sections: list[_Section]
    #: For the default page size; None if the regions do not fit, and then why.
    memory_map: vm.MemoryMap | None
    memory_map_error: str | None
    imports: list[str | None]
    exports: list[_Export]
    code: _Code
    #: How often each operation occurs, most frequent first.
    histogram: dict[str, int]
    debug_info: _Debug


def _examine(blob: ProgramBlob) -> _Facts:
    data = blob.to_bytes()
    memory_map, error = _memory_map(blob)
    histogram: Counter[str] = Counter()
    blocks = 0
    for instruction in instructions(blob):
        if instruction.length:
            histogram[instruction.name] += 1
            blocks += instruction.ends_block
    entries = range(blob.jump_table_entry_count)
    return _Facts(
        isa=blob.isa,
        word_bits=blob.isa.word_bits,
        size=len(data),
        sections=list(_sections(data)),
        memory_map=memory_map,
        memory_map_error=error,
        imports=list(blob.import_names),
        exports=[_Export(pc=export.pc, name=export.name) for export in blob.exports],
        code=_Code(
            size=len(blob.code),
            instructions=histogram.total(),
            invalid=histogram["invalid"],
            basic_blocks=blocks,
            jump_table_entries=len(entries),
            jump_table_entry_size=blob.jump_table_entry_size,
            jump_table_invalid=sum(not blob.is_valid_jump_target(blob.jump_table_entry(i)) for i in entries),
        ),
        histogram=dict(histogram.most_common()),
        debug_info=_debug(blob),
    )


def _sections(data: bytes) -> Iterator[_Section]:
    position = _HEADER_SIZE
    while number := data[position]:
        size, start = decode_varint(data, position + 1, len(data))
        yield _Section(id=number, name=SECTION_NAMES[number], size=size)
        position = start + size


def _memory_map(blob: ProgramBlob) -> tuple[vm.MemoryMap | None, str | None]:
    try:
        return vm.MemoryMap(
            ro_size=blob.ro_data_size,
            rw_size=blob.rw_data_size,
            stack_size=blob.stack_size,
            page_size=vm.ModuleConfig().page_size,
        ), None
    except vm.MemoryMapError as error:
        return None, str(error)


def _debug(blob: ProgramBlob) -> _Debug:
    debug_info = DebugInfo(blob)
    try:
        debug_info.check()
        error = None
    except vm.ProgramParseError as wrong:
        error = str(wrong)
    return _Debug(
        present=debug_info.present,
        functions=sum(1 for _ in debug_info.functions()),
        regions=sum(1 for _ in debug_info.regions()),
        error=error,
    )


# --- For people -------------------------------------------------------------------------------------------------------


def _render(facts: _Facts) -> Iterator[str]:
    code, debug = facts.code, facts.debug_info
    yield f"{facts.isa.label} ({facts.word_bits}-bit registers), {facts.size} bytes"
    yield from _table("sections", [(f"{section.id}", section.name, f"{section.size}") for section in facts.sections])
    if facts.memory_map is None:
        yield from ("", "memory map", f"  {facts.memory_map_error}")
    else:
        yield from _table(f"memory map, pages of {facts.memory_map.page_size} bytes", _regions(facts.memory_map))
    imports = [(f"{number}", _name(name)) for number, name in enumerate(facts.imports)]
    yield from _table(f"imports: {len(imports)}", imports)
    exports = [(f"{export.pc}", shorten(export.name)) for export in facts.exports[:_MOST_EXPORTS]]
    if len(facts.exports) > _MOST_EXPORTS:
        exports.append(("", f"and {len(facts.exports) - _MOST_EXPORTS} more"))
    yield from _table(f"exports: {len(facts.exports)}", exports)
    yield from _table(
        "code",
        [
            (f"{code.size}", "bytes"),
            (f"{code.instructions}", f"instructions, {code.invalid} of them invalid"),
            (f"{code.basic_blocks}", "basic blocks"),
            (
                f"{code.jump_table_entries}",
                f"jump table entries of {code.jump_table_entry_size} bytes, {code.jump_table_invalid} of them invalid",
            ),
        ],
    )
    yield from ("", "debug information")
    if debug.error is not None:
        yield f"  {printable(debug.error)}"
    yield f"  {debug.functions} functions, {debug.regions} regions" if debug.present else "  none"
    yield from _table(
        "instructions",
        [(f"{count}", f"{100 * count / code.instructions:.2f}%", name) for name, count in facts.histogram.items()],
    )


def _regions(memory: vm.MemoryMap) -> list[tuple[str, str, str]]:
    """Name, addresses, and declared and accessible sizes."""
    regions = [
        ("read-only data", memory.ro_address, memory.ro_accessible, memory.ro_size),
        ("read-write data", memory.rw_address, memory.rw_accessible, memory.rw_size),
        ("stack", memory.stack_low, memory.stack_accessible, memory.stack_size),
    ]
    rows = [
        (f"{address:#010x}..{address + size:#010x}", f"{declared}", name)
        for name, address, size, declared in regions
        if size
    ]
    heap = memory.heap_base
    return [*rows, (f"{heap:#010x}..{heap + memory.max_heap_size:#010x}", "", "heap, as far as it can grow")]


def _name(name: str | None) -> str:
    return "(its offset is wrong)" if name is None else shorten(name)


def _table(title: str, rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A title and rows of cells, of which numbers are aligned to the right."""
    yield from ("", title)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if cell[:1].isdigit() else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        ]
        yield f"  {'  '.join(cells)}".rstrip()
