# SPDX-License-Identifier: MIT
"""From text assembly to a program blob.

One statement a line; `//` starts a line that is a comment::

    pub @main:
        a0 = a0 + a1
        jump @done if a0 != 0
        trap
    @done:
        ret

A label is the start of a basic block; `vm._asm_statements` knows the statements, `vm._asm_layout` where they go.
``docs/assembly.md`` describes the language.

This module is pure data.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from vm._asm_layout import Jump, lay_out
from vm._asm_statements import Raw, Statement, StatementError, parse_statement
from vm._asm_symbols import unquote
from vm._errors import AssemblyError, ProgramParseError
from vm.encoding import TARGET_FORMATS, encode_instruction
from vm.isa import CODE_ADDRESS_ALIGNMENT, InstructionSet
from vm.program import MAX_CODE_SIZE, MAX_JUMP_TABLE_ENTRIES, ProgramBlob

_U32_MAX: Final = 0xFFFF_FFFF

_ISA: Final = {isa.label: isa for isa in InstructionSet}
_DIRECTIVE: Final = re.compile(r"%(\w+)\s*=\s*(.*)")
_SIZE: Final = re.compile(r"[0-9]{1,20}")
_OFFSET: Final = re.compile(r"[0-9]{1,10}")

_FALLTHROUGH: Final = parse_statement("fallthrough")


class _Line(NamedTuple):
    """A line of the source: its number, counted from 1, and its text without the white space around it."""

    number: int
    text: str

    def error(self, what: str) -> AssemblyError:
        return AssemblyError(what, line=self.number, text=self.text)


class _Label(NamedTuple):
    """Where a label is: the basic block it means to a jump, and the instruction it means to the host."""

    line: _Line
    block: int
    instruction: int
    exported: bool


class _Place(NamedTuple):
    """A place of the code that a directive names: a label, or a code offset."""

    line: _Line
    label: str | None
    offset: int


class _Assembler:
    def __init__(self, isa: InstructionSet | None) -> None:
        self.isa = isa
        self.sizes: dict[str, int] = {}
        self.data: dict[str, tuple[_Line, bytes]] = {}
        self.imports: list[bytes] = []
        self.exports: list[tuple[bytes, _Place]] = []
        self.jump_table: list[_Place] = []
        self.statements: list[tuple[Statement | Raw, _Line]] = []
        #: Number of the first instruction of every basic block; the last one may still be empty.
        self.block_starts = [0]
        self.labels: dict[str, _Label] = {}

    # --- Reading ------------------------------------------------------------------------------------------------------

    def read(self, line: _Line) -> None:
        text = line.text
        if not text or text.startswith("//"):
            return
        if text[0] == "%":
            self._read_directive(line)
        elif text.startswith(("@", "pub @")):
            self._read_label(line)
        else:
            try:
                statement = parse_statement(text)
            except StatementError as error:
                raise line.error(str(error)) from None
            self._add(statement, line)

    def _read_directive(self, line: _Line) -> None:
        match = _DIRECTIVE.fullmatch(line.text)
        if match is None:
            raise line.error("a directive looks like '%name = value'")
        name, value = match.groups()
        if name == "isa":
            if value not in _ISA:
                raise line.error(f"unknown instruction set; there are {', '.join(_ISA)}")
            self.isa = _ISA[value]
        elif name in ("ro_data_size", "rw_data_size", "stack_size"):
            if not _SIZE.fullmatch(value) or int(value) > _U32_MAX:
                raise line.error(f"{name} must be a decimal number from 0 to {_U32_MAX}")
            self.sizes[name] = int(value)
        elif name in ("ro_data", "rw_data"):
            try:
                self.data[name] = line, bytes.fromhex(value.replace(" ", ""))
            except ValueError:
                raise line.error(f"{name} must be pairs of hexadecimal digits") from None
        elif name == "import":
            self.imports.append(self._symbol(line, value))
        elif name == "export":
            symbol, _, place = value.rpartition(" ")
            self.exports.append((self._symbol(line, symbol.rstrip()), self._place(line, place)))
        elif name == "jump_table":
            self.jump_table += [self._place(line, place) for place in value.split()]
        else:
            raise line.error(f"unknown directive %{name}")

    def _symbol(self, line: _Line, text: str) -> bytes:
        symbol = unquote(text)
        if symbol is None:
            raise line.error('a symbol is text in double quotes, with \\", \\\\ and \\xNN for what is not plain in it')
        return symbol

    def _place(self, line: _Line, text: str) -> _Place:
        if text.startswith("@") and len(text) > 1:
            return _Place(line, text[1:], 0)
        if not _OFFSET.fullmatch(text) or int(text) > _U32_MAX:
            raise line.error("a place of the code is @label or a decimal code offset")
        return _Place(line, None, int(text))

    def _read_label(self, line: _Line) -> None:
        text = line.text.removeprefix("pub ")
        rest = text.removesuffix("%no_fallthrough").rstrip()
        if not rest.endswith(":"):
            raise line.error("a label looks like '@name:', 'pub @name:' or '@name: %no_fallthrough'")
        name = rest[1:-1].rstrip()
        if not name:
            raise line.error("the label has no name")
        if name in self.labels:
            raise line.error(f"duplicate label, first defined in line {self.labels[name].line.number}")
        if self.block_starts[-1] != len(self.statements) and text.endswith(":"):
            self._add(_FALLTHROUGH, line)
        exported = line.text.startswith("pub ")
        self.labels[name] = _Label(line, len(self.block_starts) - 1, len(self.statements), exported)

    def _add(self, statement: Statement | Raw, line: _Line) -> None:
        if len(self.statements) == MAX_CODE_SIZE:
            raise line.error(f"the code gets larger than the limit of {MAX_CODE_SIZE} bytes")
        if isinstance(statement, Raw) and not statement.starts and (self.statements or self.labels):
            raise line.error("a .gap is possible only before the first instruction and its labels")
        self.statements.append((statement, line))
        if statement.ends_block:
            self.block_starts.append(len(self.statements))

    # --- Writing ------------------------------------------------------------------------------------------------------

    def finish(self) -> bytes:
        if self.isa is None:
            raise AssemblyError("no instruction set: neither a %isa directive nor the caller names one")
        if not self.statements:
            raise AssemblyError("there is no code")
        ro_data, ro_data_size = self._region("ro_data")
        rw_data, rw_data_size = self._region("rw_data")
        for label in self.labels.values():
            self._check_label(label)

        heads, jumps, addresses = self._encode_heads(self.isa)
        layout = lay_out([len(head) for head in heads], jumps)
        positions = layout.positions
        size = positions[-1]
        if size > MAX_CODE_SIZE:
            raise AssemblyError(f"the code has {size} bytes, more than the limit of {MAX_CODE_SIZE}")
        for (source, target, _), width in zip(jumps, layout.widths, strict=True):
            heads[source] += (positions[target] - positions[source]).to_bytes(width, "little", signed=True)
        bitmask = bytearray((size + 7) // 8)
        for position, (statement, _) in zip(positions, self.statements, strict=False):
            if not isinstance(statement, Raw) or statement.starts:
                bitmask[position >> 3] |= 1 << (position & 7)
        exports = sorted(
            (_exported(name, label), positions[label.instruction])
            for name, label in self.labels.items()
            if label.exported
        )
        exports += [(symbol, self._offset(place, positions)) for symbol, place in self.exports]
        try:
            return ProgramBlob.build(
                isa=self.isa,
                code=b"".join(heads),
                bitmask=bytes(bitmask),
                ro_data=ro_data,
                rw_data=rw_data,
                ro_data_size=ro_data_size,
                rw_data_size=rw_data_size,
                stack_size=self.sizes.get("stack_size", 0),
                imports=self.imports,
                exports=((pc, symbol) for symbol, pc in exports),
                jump_table=[
                    *(self._offset(place, positions, jump=True) for place in self.jump_table),
                    *(positions[index] for index in addresses),
                ],
            ).to_bytes()
        except ProgramParseError as error:
            raise AssemblyError(error.what) from error

    def _region(self, name: str) -> tuple[bytes, int]:
        """Initial data and size of a memory region."""
        if name not in self.data:
            return b"", self.sizes.get(f"{name}_size", 0)
        line, data = self.data[name]
        size = self.sizes.get(f"{name}_size", len(data))
        if len(data) > size:
            raise line.error(f"{len(data)} bytes of data, but {name}_size is {size}")
        return data, size

    def _check_label(self, label: _Label) -> None:
        end = len(self.statements)
        if self.block_starts[label.block] == end or (label.exported and label.instruction == end):
            raise label.line.error("no instruction follows this label")

    def _label(self, name: str, line: _Line) -> _Label:
        label = self.labels.get(name)
        if label is None:
            raise line.error(f"there is no label @{name}")
        return label

    def _offset(self, place: _Place, positions: list[int], *, jump: bool = False) -> int:
        """The code offset of a place: of the block of its label for a jump, of its instruction for the host."""
        if place.label is None:
            return place.offset
        label = self._label(place.label, place.line)
        if not jump and label.instruction == len(self.statements):
            raise label.line.error("no instruction follows this label")
        return positions[self.block_starts[label.block] if jump else label.instruction]

    def _encode_heads(self, isa: InstructionSet) -> tuple[list[bytes], list[Jump], list[int]]:
        """Every instruction without its jump distance, the jumps, and the instructions that the jump table names."""
        heads: list[bytes] = []
        jumps: list[Jump] = []
        addresses: list[int] = []
        for index, (statement, line) in enumerate(self.statements):
            if isinstance(statement, Raw):
                heads.append(statement.code)
                continue
            opcode, operands, name, width = statement
            if opcode.numbers[isa] is None:
                raise line.error(f"the instruction set {isa.label} has no {opcode.name}")
            if name is not None:
                target = self.block_starts[self._label(name, line).block]
                if opcode.format in TARGET_FORMATS:
                    jumps.append(Jump(index, target, width))
                    operands = (*operands, 0)
                else:
                    addresses.append(target)
                    entries = len(self.jump_table) + len(addresses)
                    if entries > MAX_JUMP_TABLE_ENTRIES:
                        raise line.error(f"more than {MAX_JUMP_TABLE_ENTRIES} code addresses")
                    operands = (*operands, entries * CODE_ADDRESS_ALIGNMENT)
            heads.append(encode_instruction(isa, opcode, operands))
        return heads, jumps, addresses


def _exported(name: str, label: _Label) -> bytes:
    try:
        return name.encode()
    except UnicodeEncodeError:
        raise label.line.error("the name of an export must be encodable as UTF-8") from None


def assemble(text: str, isa: InstructionSet | None = None) -> bytes:
    """Assemble `text` to the bytes of a program blob.

    `isa` is the instruction set of a program that has no ``%isa`` directive.  Data without a size directive gives
    its region its own length.  Raises `AssemblyError`, which names the line.
    """
    assembler = _Assembler(isa)
    for number, line in enumerate(text.split("\n"), 1):
        assembler.read(_Line(number, line.strip()))
    return assembler.finish()
