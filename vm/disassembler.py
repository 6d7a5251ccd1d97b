# SPDX-License-Identifier: MIT
r"""From a program blob to text: assembly that assembles to the same program again, and a listing for people.

`disassemble` gives text that `vm.assembler.assemble` turns into a blob with the same code, bitmask, jump table entries,
exports and memory, whatever the blob is.  Where plain statements cannot say what the blob holds, it uses what
the language has for that purpose (``docs/assembly.md``):

* ``%width N`` at jumps whose distance takes more bytes than the shortest layout of the program gives it,
* ``.bytes`` for instructions that no statement stands for, and for jumps to where no block starts,
* ``.gap`` for code before the first instruction,
* ``%jump_table`` for all its entries: whether a number that is loaded is a code address, nobody can tell,
* ``%export`` for all exports if there is one that a ``pub`` label cannot express, or if their order is not by name.

Names in a blob are untrusted: what is not plain in them is escaped or left out, so that no line holds anything but
printable characters.  Of the debug sections nothing but comments remains.

This module is pure data.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, repeat
from operator import add
from typing import Final, NamedTuple

from vm._asm_layout import WIDEST, Jump, lay_out
from vm._asm_symbols import PLAIN_NAME, quote
from vm._disasm_statements import format_statement, is_statement
from vm._printable import shorten
from vm.debug_info import DebugInfo, places
from vm.encoding import TARGET_FORMATS, Instruction, encode_instruction, instruction_starts, instructions
from vm.program import ProgramBlob

_INDENT: Final = "    "
_ENTRIES_PER_LINE: Final = 8


def disassemble(blob: ProgramBlob) -> str:
    """The whole text assembly of `blob`; see `assembly_lines`."""
    return "\n".join(chain(assembly_lines(blob), ("",)))


def assembly_lines(blob: ProgramBlob) -> Iterator[str]:
    """The text assembly of `blob`, line by line.

    Two things do not come back as they were: an import whose symbol lies outside of its section gets an empty one, and
    entries of the jump table get no wider than they need.

    Time grows with the size of the code, memory with the number of instructions: some hundred bytes for each.
    """
    labels = _Labels(blob)
    plan = _plan(blob, labels)
    functions = _functions(blob)
    yield from _head(blob, labels)
    if first := _first_start(blob):
        yield f"{_INDENT}.gap {blob.code[:first].hex(' ')}"
    for (instruction, stop), spelling in zip(_spans(blob), plan.spellings, strict=True):
        pc = instruction.pc
        if pc in functions:
            yield f"// {functions[pc]}"
        yield from labels.lines(pc)
        statement = format_statement(instruction, labels.target(instruction))
        if spelling == _BYTES:
            yield f"{_INDENT}// {pc}: {statement}"
            yield f"{_INDENT}.bytes {blob.code[pc:stop].hex(' ')}"
        else:
            yield f"{_INDENT}{statement}" + (f" %width {spelling}" if pc in plan.widened else "")
    yield from _tail(blob, labels)


def listing_lines(blob: ProgramBlob) -> Iterator[str]:
    """The code of `blob` for people, line by line: offset and bytes of every instruction, labels, and as comments
    functions and source lines where the blob has them.

    The assembler does not read it. An instruction is shown as what it does, however it is encoded, and a jump to where
    no block starts with the offset instead of a label; ``invalid`` is an operation that does not exist.
    """
    labels = _Labels(blob)
    functions = _functions(blob)
    sources = _sources(blob)
    source = next(sources, None)
    digits = len(str(len(blob.code)))
    if first := _first_start(blob):
        yield f"{0:{digits}}: {_abridged(blob.code[:first])} (no instruction starts here)"
    for instruction, stop in _spans(blob):
        pc = instruction.pc
        if pc in functions:
            yield from ("", f"// {functions[pc]}")
        while source is not None and source[0] <= pc:
            if source[0] == pc:
                yield f"// {source[1]}"
            source = next(sources, None)
        yield from labels.lines(pc)
        statement = format_statement(instruction, labels.target(instruction))
        yield f"{pc:{digits}}: {_abridged(blob.code[pc:stop])} {statement}"


# --- Instructions -----------------------------------------------------------------------------------------------------


def _first_start(blob: ProgramBlob) -> int:
    """Where the first instruction starts; the size of the code if there is none."""
    return next(instruction_starts(blob.bitmask), len(blob.code))


def _spans(blob: ProgramBlob) -> Iterator[tuple[Instruction, int]]:
    """Every instruction that starts somewhere, and where the next one does; an over-long one ends before that."""
    pending: Instruction | None = None
    for instruction in instructions(blob):
        if instruction.length:
            if pending is not None:
                yield pending, instruction.pc
            pending = instruction
    if pending is not None:
        yield pending, len(blob.code)


def _jump_target(instruction: Instruction) -> int | None:
    opcode = instruction.opcode
    return instruction.operands[-1] if opcode is not None and opcode.format in TARGET_FORMATS else None


# --- Labels -----------------------------------------------------------------------------------------------------------


class _Labels:
    """The labels of a program: at every block that a jump or the jump table names, and at every export."""

    def __init__(self, blob: ProgramBlob) -> None:
        targets = {target for instruction, _ in _spans(blob) if (target := _jump_target(instruction)) is not None}
        targets.update(blob.jump_table_entry(index) for index in range(blob.jump_table_entry_count))
        #: Whether ``pub`` labels give the exports as they are.
        self.public = _can_be_public(blob)
        # Those that a jump can mean by a label, which is the start of a block.
        self._blocks = {target for target in targets if blob.is_valid_jump_target(target)}
        self._blob = blob
        self._names: dict[int, str] = {}
        self._lines: dict[int, list[str]] = {}
        used: set[str] = set()
        exported = [export for export in blob.exports if blob.is_instruction_start(export.pc)]
        for pc, name in ((export.pc, export.name) for export in exported):
            if self.public:
                self._define(pc, name, "pub ", used)
            elif pc not in self._names and name not in used and PLAIN_NAME.fullmatch(name):
                self._define(pc, name, "", used)
        for pc in chain(self._blocks, (export.pc for export in exported)):
            if pc not in self._names:
                name = f"label_{pc}"
                while name in used:
                    name += "_"
                self._define(pc, name, "", used)

    def _define(self, pc: int, name: str, public: str, used: set[str]) -> None:
        where = "" if self._blob.is_valid_jump_target(pc) else " %no_fallthrough"
        self._names.setdefault(pc, name)
        self._lines.setdefault(pc, []).append(f"{public}@{name}:{where}")
        used.add(name)

    def lines(self, pc: int) -> Sequence[str]:
        """The definitions of the labels at `pc`."""
        return self._lines.get(pc, ())

    def is_block(self, pc: int) -> bool:
        """Whether a jump to `pc` can be written with a label."""
        return pc in self._blocks

    def block(self, pc: int) -> str:
        """What a jump to `pc` names: a label, or the offset where no block starts."""
        return f"@{self._names[pc]}" if pc in self._blocks else str(pc)

    def export(self, pc: int) -> str:
        """What an export of `pc` names: a label, or the offset where no instruction starts."""
        return f"@{self._names[pc]}" if pc in self._names else str(pc)

    def target(self, instruction: Instruction) -> str:
        """What `instruction` jumps to; empty if it does not."""
        target = _jump_target(instruction)
        return "" if target is None else self.block(target)


def _can_be_public(blob: ProgramBlob) -> bool:
    exports = [(export.symbol, export.pc) for export in blob.exports]
    return (
        exports == sorted(exports)
        and len({symbol for symbol, _ in exports}) == len(exports)
        and all(PLAIN_NAME.fullmatch(e.name) and blob.is_instruction_start(e.pc) for e in blob.exports)
    )


# --- What statements cannot say ---------------------------------------------------------------------------------------

#: No statement gives the instruction's bytes.
_BYTES: Final = -1


class _Plan(NamedTuple):
    """How to write down every instruction."""

    #: Of every instruction `_BYTES`, or how many bytes of it are a jump distance.
    spellings: array[int]
    #: Code offsets of the jumps that need to be told how many bytes to take.
    widened: frozenset[int]


def _plan(blob: ProgramBlob, labels: _Labels) -> _Plan:
    spellings, lengths = array("b"), array("I")
    sources: list[tuple[int, int]] = []
    numbers: dict[int, int] = {}
    for number, (instruction, stop) in enumerate(_spans(blob)):
        spelling = _spelling(blob, labels, instruction, stop)
        spellings.append(spelling)
        lengths.append(stop - instruction.pc - max(0, spelling))
        if labels.is_block(instruction.pc):
            numbers[instruction.pc] = number
        target = _jump_target(instruction)
        if target is not None and spelling != _BYTES:
            sources.append((number, target))
    jumps = [Jump(number, numbers[target]) for number, target in sources]
    widths = [spellings[number] for number, _ in sources]

    # The assembler takes the shortest layout, the blob may have any that fits. What the shortest one leaves too
    # short is held to its width; then no other jump gets shorter or longer than it is, unless the search for the
    # shortest layout was given up: then all are held.
    held = [width if width != least else 0 for width, least in zip(widths, lay_out(lengths, jumps).widths, strict=True)]
    if any(held):
        fixed = [jump._replace(width=width) for jump, width in zip(jumps, held, strict=True)]
        if lay_out(lengths, fixed).widths != widths:
            held = widths
    positions = list(accumulate(map(add, lengths, map(max, spellings, repeat(0))), initial=_first_start(blob)))
    return _Plan(spellings, frozenset(positions[jump.source] for jump, width in zip(jumps, held, strict=True) if width))


def _spelling(blob: ProgramBlob, labels: _Labels, instruction: Instruction, stop: int) -> int:
    """`_BYTES` if the assembler would not give the instruction's bytes back, else the size of its jump distance."""
    opcode, operands, pc = instruction.opcode, instruction.operands, instruction.pc
    if opcode is None or instruction.next_pc != stop or not is_statement(instruction):
        return _BYTES
    code = blob.code[pc:stop]
    if opcode.format not in TARGET_FORMATS:
        return 0 if encode_instruction(blob.isa, opcode, operands) == code else _BYTES
    # A distance of 0 takes no bytes.
    head = encode_instruction(blob.isa, opcode, (*operands[:-1], 0))
    size = len(code) - len(head)
    return size if labels.is_block(operands[-1]) and code.startswith(head) and size <= WIDEST else _BYTES


# --- Around the code --------------------------------------------------------------------------------------------------


def _head(blob: ProgramBlob, labels: _Labels) -> Iterator[str]:
    yield f"%isa = {blob.isa.label}"
    for name, size in (
        ("ro_data_size", blob.ro_data_size),
        ("rw_data_size", blob.rw_data_size),
        ("stack_size", blob.stack_size),
    ):
        if size:
            yield f"%{name} = {size}"
    for number, symbol in enumerate(blob.imports):
        if symbol is None:
            yield f"// import {number} has no symbol: its offset is wrong"
        yield f"%import = {quote(symbol or b'')}"
    if not labels.public:
        for export in blob.exports:
            yield f"%export = {quote(export.symbol)} {labels.export(export.pc)}"
    yield ""


def _tail(blob: ProgramBlob, labels: _Labels) -> Iterator[str]:
    yield ""
    count = blob.jump_table_entry_count
    for first in range(0, count, _ENTRIES_PER_LINE):
        line = range(first, min(first + _ENTRIES_PER_LINE, count))
        yield "%jump_table = " + " ".join(labels.block(blob.jump_table_entry(index)) for index in line)
    for name, data in (("ro_data", blob.ro_data), ("rw_data", blob.rw_data)):
        if data:
            yield f"%{name} = {data.hex()}"


# --- For people -------------------------------------------------------------------------------------------------------

#: Bytes of code that a line of the listing has room for; no canonical instruction has more.
_MOST_BYTES: Final = 10


def _abridged(code: bytes) -> str:
    """The bytes in a column of fixed width; how many are left out is said at their end."""
    kept = len(code) if len(code) <= _MOST_BYTES else _MOST_BYTES - 3
    left_out = f" +{len(code) - kept}" if kept < len(code) else ""
    return f"{code[:kept].hex(' ')}{left_out}".ljust(_MOST_BYTES * 3)


def _functions(blob: ProgramBlob) -> dict[int, str]:
    """The functions' names by the offset at which their code starts."""
    return {function.begin: shorten(function.name, 200) for function in DebugInfo(blob).functions()}


def _sources(blob: ProgramBlob) -> Iterator[tuple[int, str]]:
    """Where the source line changes: the code offset, and the new line."""
    previous = ""
    for region in DebugInfo(blob).regions():
        if region.frames:
            inner, *outer = places(region.frames)
            text = shorten(inner.location or "(unknown line)", 200) + (
                f", {shorten(inner.function or '', 200)}" if outer else ""
            )
            if text != previous:
                yield region.begin, text
                previous = text
