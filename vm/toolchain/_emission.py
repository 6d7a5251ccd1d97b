# SPDX-License-Identifier: MIT
"""From blocks to bytes: code, instruction bitmask and jump table."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from vm._asm_layout import Jump, lay_out
from vm.encoding import encode_instruction
from vm.isa import Format, InstructionSet
from vm.program import MAX_CODE_SIZE
from vm.toolchain._errors import ElfError
from vm.toolchain._ir import (
    CALL,
    CALL_INDIRECT,
    CODE_ADDRESS,
    FALLTHROUGH,
    INVERTED,
    JUMP,
    JUMP_INDIRECT,
    LOAD_IMM,
    NOWHERE,
    OPERATIONS,
    TRAP,
    Block,
    is_branch,
)
from vm.toolchain._jump_table import JumpTable

#: Bytes from one entry of the dispatch table to the next: a jump with the widest distance.
DISPATCH_ENTRY_SIZE: Final = 5

_U64: Final = 0xFFFF_FFFF_FFFF_FFFF
_OPERANDS: Final = {
    Format.NONE: 0,
    Format.IMM: 1,
    Format.REG_IMM: 2,
    Format.REG_IMM64: 2,
    Format.REG_REG: 2,
    Format.IMM_IMM: 2,
    Format.REG_IMM_IMM: 3,
    Format.REG_REG_IMM: 3,
    Format.REG_REG_REG: 3,
}


class Code(NamedTuple):
    code: bytes
    bitmask: bytes
    #: Code offset of each slot of the jump table.
    jump_table: list[int]
    #: Code offset of each block.
    offsets: dict[int, int]
    #: Code offset of each instruction, and last the length of the code.
    instructions: list[int]
    #: The `position` of each instruction of the IR.
    positions: array[int]


class _Emitter:
    def __init__(self, blocks: list[Block], isa: InstructionSet, table: JumpTable) -> None:
        self._isa = isa
        self._blocks = blocks
        self._table = table
        self._encoded: dict[tuple[int, int, int, int], bytes] = {}
        self.heads: list[bytes] = []
        self.positions = array("Q")
        #: Jumps by number of the instruction, with the block they go to.
        self.jumps: list[tuple[int, int]] = []
        self.first: dict[int, int] = {}

    def _encode(self, number: int, x: int, y: int, z: int) -> bytes:
        """An instruction, without its jump distance."""
        key = (number, x, y, z)
        head = self._encoded.get(key)
        if head is None:
            opcode = OPERATIONS[number]
            assert opcode is not None
            form = opcode.format
            count = _OPERANDS.get(form)
            if form is Format.REG_IMM64:
                operands: tuple[int, ...] = (x, y & _U64)
            elif count is not None:
                operands = (x, y, z)[:count]
            elif form is Format.OFFSET:
                operands = (0,)
            elif form is Format.REG_REG_IMM_IMM:
                operands = (x, y, z, 0)
            else:
                operands = (x, y, 0)
            head = self._encoded[key] = encode_instruction(self._isa, opcode, operands)
        return head

    def _put(self, position: int, number: int, x: int = 0, y: int = 0, z: int = 0) -> None:
        self.heads.append(self._encode(number, x, y, z))
        self.positions.append(position)

    def _jump(self, position: int, target: int, number: int, x: int = 0, y: int = 0) -> None:
        self.jumps.append((len(self.heads), target))
        self._put(position, number, x, y)

    def dispatch(self, target: int) -> None:
        self._jump(self._blocks[0].address, target, JUMP)

    def run(self) -> None:
        blocks = self._blocks
        entered = self._entered()
        table = self._table
        heads, positions, encode = self.heads, self.positions, self._encode
        for block, after in zip(blocks, [*(b.number for b in blocks[1:]), NOWHERE], strict=True):
            self.first[block.number] = len(heads)
            for number, x, y, z, position in block.body:
                if number == CODE_ADDRESS:
                    number, y = LOAD_IMM, table.address(y)
                heads.append(encode(number, x, y, z))
                positions.append(position)
            self._end(block, after, after in entered)

    def _entered(self) -> set[int]:
        """The blocks that something other than the block before them may jump to."""
        found = set(self._table.slots)
        for block in self._blocks:
            number, _, _, target, following, _ = block.end
            if number != JUMP:
                found.update((target, following))
        for block, after in zip(self._blocks, [*(b.number for b in self._blocks[1:]), NOWHERE], strict=True):
            if block.exported:
                found.add(block.number)
            if block.end[0] == JUMP and block.end[3] != after:
                found.add(block.end[3])
        return found

    def _end(self, block: Block, after: int, after_entered: bool) -> None:
        number, x, y, target, following, position = block.end
        if number == JUMP:
            if target != after:
                self._jump(position, target, JUMP)
            elif after_entered:  # what is jumped to must follow the end of a block
                self._put(position, FALLTHROUGH)
        elif is_branch(number):
            if target == after:
                number, target, following = INVERTED[number], following, target
            self._jump(position, target, number, x, y)
            if following != after:
                self._jump(position, following, JUMP)
        elif number == CALL:
            self._jump(position, target, CALL, x, self._table.address(following))
        elif number == CALL_INDIRECT:
            self._put(position, CALL_INDIRECT, x, y, self._table.address(following))
        elif number == JUMP_INDIRECT:
            self._put(position, JUMP_INDIRECT, x, 0)
        else:
            self._put(position, TRAP)


def find_unsupported(blocks: Iterable[Block], isa: InstructionSet) -> tuple[str, int] | None:
    """Name and position of the first operation that `isa` does not have."""
    missing = {n for n, opcode in enumerate(OPERATIONS) if opcode is not None and opcode.numbers[isa] is None}
    for block in blocks:
        for instruction in block.body:
            if instruction[0] in missing:
                opcode = OPERATIONS[instruction[0]]
                assert opcode is not None
                return opcode.name, instruction[4]
    return None


def emit(blocks: Iterable[Block], isa: InstructionSet, table: JumpTable, dispatched: Sequence[int]) -> Code:
    """The code of `blocks`, in this order, behind jumps to the `dispatched` ones, of `DISPATCH_ENTRY_SIZE` bytes each.

    They use nothing that `isa` does not have, see `find_unsupported`.
    """
    emitter = _Emitter(list(blocks), isa, table)
    for number in dispatched:
        emitter.dispatch(number)
    emitter.run()
    heads, first = emitter.heads, emitter.first
    # The last one needs no padding.
    wide = len(dispatched) - 1
    jumps = [
        Jump(source, first[target], DISPATCH_ENTRY_SIZE - 1 if source < wide else 0) for source, target in emitter.jumps
    ]
    starts, widths = lay_out([len(head) for head in heads], jumps)
    size = starts[-1]
    if size > MAX_CODE_SIZE:
        raise ElfError(f"the code has {size} bytes, more than the limit of {MAX_CODE_SIZE}")
    for (source, target, _), width in zip(jumps, widths, strict=True):
        heads[source] += (starts[target] - starts[source]).to_bytes(width, "little", signed=True)
    bits = bytearray((size + 7) // 8)
    for start in starts[:-1]:
        bits[start >> 3] |= 1 << (start & 7)
    offsets = {number: starts[index] for number, index in first.items()}
    return Code(
        code=b"".join(heads),
        bitmask=bytes(bits),
        jump_table=[offsets[number] for number in table.slots],
        offsets=offsets,
        instructions=starts,
        positions=emitter.positions,
    )
