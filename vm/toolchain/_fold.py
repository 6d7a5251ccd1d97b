# SPDX-License-Identifier: MIT
"""Constants, addresses and copies are put where they are used.

`constants_at_starts` follows constants through the whole program; `Folder` then rewrites one block at a time: what is
constant becomes an immediate, an absolute address, a direct jump or a decided branch; a copy is read from where it was
copied, a sum with a constant is made part of the address it is used in. What loaded the constants and made the copies
is left for dead code elimination.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from vm.toolchain._evaluate import Evaluator, branch_conditions, signed
from vm.toolchain._ir import (
    ABSOLUTE_FORM,
    BRANCH_IMM,
    CALL,
    CALL_INDIRECT,
    CODE_ADDRESS,
    ECALLI,
    FIRST_BRANCH,
    FIRST_LOAD_INDIRECT,
    IMM_LEFT,
    IMM_RIGHT,
    JUMP,
    JUMP_INDIRECT,
    LAST_BRANCH,
    LAST_LOAD_INDIRECT,
    LOAD_IMM,
    LOAD_IMM64,
    MEMSET,
    MOVE,
    NOWHERE,
    OPERATIONS,
    READS_Y,
    READS_Z,
    REGISTER_COUNT,
    STORE_IMM,
    WRITES_X,
    Block,
    End,
    Instruction,
    is_branch,
    op,
)


class CodeAddress(NamedTuple):
    """The value of a register that holds the code address of a block."""

    block: int


Value: TypeAlias = int | CodeAddress | None
Values: TypeAlias = list[Value]

_MIN32, _MAX32 = -0x8000_0000, 0x7FFF_FFFF
#: Registers a host function may change: those of arguments and results.
_HOST_CHANGES: Final = (2, 3, 4, 7, 8, 9, 10, 11, 12)
_MEMSET_CHANGES: Final = (7, 9)
_STORE_BITS: Final = {
    number: bits
    for indirect, absolute in ((f"store_indirect_u{b}", f"store_u{b}") for b in (8, 16, 32, 64))
    for bits in (int(indirect.rpartition("u")[2]),)
    for number in (op(indirect), op(absolute))
}
_STORE_IMM_INDIRECT: Final = dict(STORE_IMM.values())
#: The store of an immediate at an absolute address, by the one of a register there.
_STORE_IMM_ABSOLUTE: Final = {ABSOLUTE_FORM[number]: absolute for number, (_, absolute) in STORE_IMM.items()}
_CMOV: Final = {
    op("cmov_if_zero"): (op("cmov_if_zero_imm"), False),
    op("cmov_if_not_zero"): (op("cmov_if_not_zero_imm"), True),
}
_CMOV_IMM: Final = dict(_CMOV.values())
_COMMUTATIVE_MUL: Final = {op("mul_imm_32"): op("shift_logical_left_imm_32")} | {
    op("mul_imm_64"): op("shift_logical_left_imm_64")
}


def _narrow_operations() -> bytearray:
    """Whether the result of an operation is always the sign extension of its lower 32 bits."""
    table = bytearray(257)
    for number, opcode in enumerate(OPERATIONS):
        if opcode is not None:
            name = opcode.name
            loads = name.startswith("load_") and name.endswith(("_u8", "_i8", "_u16", "_i16", "_i32"))
            table[number] = (
                loads
                or name.endswith("_32")
                or name.startswith(("set_", "sign_extend", "zero_extend", "count_"))
                or number == LOAD_IMM
            )
    return table


_NARROW: Final = _narrow_operations()
_AFFINE, _SHIFTED = 0, 1


def _fits(value: int) -> bool:
    return _MIN32 <= value <= _MAX32


class Folder:
    """Folds the blocks of a program whose registers have `width` bits."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._evaluator = Evaluator(width)
        self._binary = self._evaluator.binary
        self._with_imm = self._evaluator.with_imm
        self._unary = self._evaluator.unary
        self._conditions = branch_conditions(width)
        suffix = str(width)
        self._add_imm = op(f"add_imm_{suffix}")
        self._shift_left = op(f"shift_logical_left_imm_{suffix}")
        self._shift_right = op(f"shift_logical_right_imm_{suffix}")
        self._shift_right_signed = op(f"shift_arithmetic_right_imm_{suffix}")
        self._subs = {op(f"sub_{bits}"): op(f"add_imm_{bits}") for bits in (32, 64)}
        self._rotates = {op(f"rotate_left_{bits}"): (op(f"rotate_right_imm_{bits}"), bits - 1) for bits in (32, 64)}
        #: Operations that give their register operand back if the immediate is 0.
        self._neutral = {self._add_imm, op("or_imm"), op("xor_imm"), self._shift_left, self._shift_right}
        self._neutral.add(self._shift_right_signed)

    # --- Constants through the whole program --------------------------------------------------------------------------

    def _value(self, instruction: Instruction, known: Values) -> Value:
        """What an instruction that writes x writes to it."""
        number, _, y, z, _ = instruction
        if number in (LOAD_IMM, LOAD_IMM64):
            return y
        if number == CODE_ADDRESS:
            return CodeAddress(y)
        if number == MOVE:
            return known[y]
        if READS_Y[number]:
            a = known[y]
            if type(a) is int:
                if READS_Z[number]:
                    b = known[z]
                    if type(b) is int and number in self._binary:
                        return self._binary[number](a, b)
                elif number in self._with_imm:
                    return self._with_imm[number](a, z)
                elif number in self._unary:
                    return self._unary[number](a)
        return None

    def _transfer(self, block: Block, known: Values) -> None:
        for instruction in block.body:
            number = instruction[0]
            if WRITES_X[number]:
                known[instruction[1]] = self._value(instruction, known)
            elif number in (ECALLI, MEMSET):
                for register in _HOST_CHANGES if number == ECALLI else _MEMSET_CHANGES:
                    known[register] = None

    def constants_at_starts(self, blocks: list[Block | None]) -> list[Values | None]:
        """The constants that registers hold at the start of each block; None for blocks that nothing leads to."""
        states: list[Values | None] = [None] * len(blocks)
        pending: list[int] = []
        for block in blocks:
            if block is None:
                continue
            if block.end[0] in (CALL, CALL_INDIRECT):
                self._reset(states, pending, block.end[4])
            if block.taken or block.exported:
                self._reset(states, pending, block.number)
            for instruction in block.body:
                if instruction[0] == CODE_ADDRESS:
                    self._reset(states, pending, instruction[2])
        pending.reverse()
        waiting = bytearray(len(blocks))
        for number in pending:
            waiting[number] = 1
        while pending:
            current = pending.pop()
            waiting[current] = 0
            block, state = blocks[current], states[current]
            assert block is not None
            assert state is not None
            known = state.copy()
            self._transfer(block, known)
            number, x, _, target, following, _ = block.end
            successors = [target] if number in (JUMP, CALL) else [target, following] if is_branch(number) else []
            if number == CALL:
                known[x] = CodeAddress(following)
            for successor in successors:
                if self._merge(states, successor, known) and not waiting[successor]:
                    waiting[successor] = 1
                    pending.append(successor)
        return states

    @staticmethod
    def _reset(states: list[Values | None], pending: list[int], number: int) -> None:
        if states[number] is None:
            states[number] = [None] * REGISTER_COUNT
            pending.append(number)

    @staticmethod
    def _merge(states: list[Values | None], number: int, known: Values) -> bool:
        """Whether anything changed."""
        state = states[number]
        if state is None:
            states[number] = known.copy()
            return True
        changed = False
        for register, value in enumerate(state):
            if value is not None and value != known[register]:
                state[register] = None
                changed = True
        return changed

    # --- One block ----------------------------------------------------------------------------------------------------

    def fold(self, block: Block, known: Values) -> None:
        """Rewrite `block`, at whose start registers hold `known`, which is used up."""
        self._known = known
        #: Of a register that is another one plus a constant, or shifted left by it: which, that register, the constant.
        self._made: list[tuple[int, int, int] | None] = [None] * REGISTER_COUNT
        #: Registers that hold sign extensions of 32 bits.
        self._narrow = 0
        body: list[Instruction] = []
        for instruction in block.body:
            folded = self._instruction(instruction)
            if folded is not None:
                body.append(folded)
                self._note(folded)
        block.body = body
        block.end = self._end(block.end)

    def _note(self, instruction: Instruction) -> None:
        """Take in what an instruction that has been folded does."""
        number, x, y, z, _ = instruction
        known, made = self._known, self._made
        if WRITES_X[number]:
            value = self._value(instruction, known)
            known[x] = value
            heir = self._forget(x)
            made[x] = None
            if value is None:
                if number == self._add_imm:
                    if x != y:
                        made[x] = (_AFFINE, y, z)
                    elif heir is not None and _fits(z - heir[1]):
                        made[x] = (_AFFINE, heir[0], z - heir[1])
                elif x != y and number == MOVE:
                    made[x] = (_AFFINE, y, 0)
                elif x != y and number == self._shift_left:
                    made[x] = (_SHIFTED, y, z)
            narrow = _NARROW[number]
            if number == MOVE:
                narrow = self._narrow >> y & 1
            elif number == _AND_IMM and z >= 0:
                narrow = 1
            self._narrow = self._narrow | 1 << x if narrow else self._narrow & ~(1 << x)
        elif number in (ECALLI, MEMSET):
            for register in _HOST_CHANGES if number == ECALLI else _MEMSET_CHANGES:
                known[register] = None
                made[register] = None
                self._narrow &= ~(1 << register)
                self._forget(register)

    def _forget(self, register: int) -> tuple[int, int] | None:
        """`register` changes: what was made of it is now said by one of those registers, the heir.

        Returns the heir, and what is to be added to the old value of `register` to get it; None if there is none.
        """
        made = self._made
        heir = None
        for other in range(REGISTER_COUNT):
            entry = made[other]
            if entry is None or entry[1] != register:
                continue
            made[other] = None
            if entry[0] == _AFFINE and other != register:
                if heir is None:
                    heir = (other, entry[2])
                elif _fits(entry[2] - heir[1]):
                    made[other] = (_AFFINE, heir[0], entry[2] - heir[1])
        return heir

    def _constant(self, x: int, value: int, position: int) -> Instruction:
        return (LOAD_IMM if _fits(value) else LOAD_IMM64, x, value, 0, position)

    def _original(self, register: int) -> int:
        """The register that this one is a copy of, or itself."""
        entry = self._made[register]
        return entry[1] if entry is not None and entry[0] == _AFFINE and entry[2] == 0 else register

    def _base(self, register: int, offset: int) -> tuple[int, int]:
        """The shortest way to say `register` + `offset`."""
        entry = self._made[register]
        if entry is not None and entry[0] == _AFFINE and _fits(entry[2] + offset):
            return entry[1], entry[2] + offset
        return register, offset

    def _instruction(self, instruction: Instruction) -> Instruction | None:
        number, x, y, z, position = instruction
        if number in (LOAD_IMM, LOAD_IMM64):
            return None if self._known[x] == y else instruction
        if number in STORE_IMM:
            return self._store(number, x, y, z, position)
        if FIRST_LOAD_INDIRECT <= number <= LAST_LOAD_INDIRECT:
            base = self._known[y]
            if type(base) is int:
                return (ABSOLUTE_FORM[number], x, signed(base + z, 32), 0, position)
            y, z = self._base(y, z)
            return (number, x, y, z, position)
        if number in _STORE_BITS:  # at an absolute address
            value = self._known[x]
            if type(value) is int and (fitting := self._stored(number, value)) is not None:
                return (_STORE_IMM_ABSOLUTE[number], y, fitting, 0, position)
            return (number, self._original(x), y, z, position)
        if number in _STORE_IMM_INDIRECT:
            base = self._known[x]
            if type(base) is int:
                return (_STORE_IMM_INDIRECT[number], signed(base + y, 32), z, 0, position)
            x, y = self._base(x, y)
            return (number, x, y, z, position)
        if WRITES_X[number] and READS_Y[number]:
            return self._operation(number, x, y, z, position)
        return instruction

    @staticmethod
    def _stored(number: int, value: int) -> int | None:
        """The immediate that stores the same bytes as `value`."""
        bits = _STORE_BITS[number]
        value = signed(value, bits)
        return value if _fits(value) else None

    def _store(self, number: int, x: int, y: int, z: int, position: int) -> Instruction:
        known = self._known
        value, base = known[x], known[y]
        fitting = self._stored(number, value) if type(value) is int else None
        if type(base) is int:
            address = signed(base + z, 32)
            if fitting is not None:
                return (STORE_IMM[number][1], address, fitting, 0, position)
            return (ABSOLUTE_FORM[number], self._original(x), address, 0, position)
        y, z = self._base(y, z)
        if fitting is not None:
            return (STORE_IMM[number][0], y, z, fitting, position)
        return (number, self._original(x), y, z, position)

    def _operation(self, number: int, x: int, y: int, z: int, position: int) -> Instruction | None:
        """An instruction that makes x of y and, maybe, z."""
        known = self._known
        if number in _CMOV or number in _CMOV_IMM:
            return self._conditional(number, x, y, z, position)
        value = self._value((number, x, y, z, position), known)
        if type(value) is int:
            return None if known[x] == value else self._constant(x, value, position)
        if isinstance(value, CodeAddress):
            return (CODE_ADDRESS, x, value.block, 0, position)
        if READS_Z[number]:
            a, b = known[y], known[z]
            if type(b) is int and number in self._subs and _fits(-b):
                return self._with_immediate(self._subs[number], x, y, -b, position)
            if type(b) is int and number in self._rotates:
                imm, mask = self._rotates[number]
                return self._with_immediate(imm, x, y, -b & mask, position)
            if type(b) is int and number in IMM_RIGHT and _fits(b):
                return self._with_immediate(IMM_RIGHT[number], x, y, b, position)
            if type(a) is int and number in IMM_LEFT and _fits(a):
                return self._with_immediate(IMM_LEFT[number], x, z, a, position)
            return (number, x, self._original(y), self._original(z), position)
        if number == MOVE:
            source = self._original(y)
            return None if source == x else (MOVE, x, source, 0, position)
        if number in self._with_imm:
            return self._with_immediate(number, x, y, z, position)
        return (number, x, self._original(y), z, position)

    def _with_immediate(self, number: int, x: int, y: int, imm: int, position: int) -> Instruction | None:
        """x = y op imm, where y is not constant."""
        if number in _COMMUTATIVE_MUL:
            if imm == 0:
                return self._constant(x, 0, position)
            if imm > 0 and imm & (imm - 1) == 0:
                number, imm = _COMMUTATIVE_MUL[number], imm.bit_length() - 1
        if number in _SHIFT_MASKS:
            imm &= _SHIFT_MASKS[number]
        made = self._made[y]
        if made is not None and made[0] == _SHIFTED and made[2] == imm:
            replaced = self._shift_pair(number, x, made[1], imm, position)
            if replaced is not None:
                return replaced
        if number == self._add_imm:
            y, imm = self._base(y, imm)
        else:
            y = self._original(y)
        if imm == 0 and (number in self._neutral or (number == _ADD_IMM_32 and self._narrow >> y & 1)):
            return None if x == y else (MOVE, x, y, 0, position)
        if imm == 0 and number == _AND_IMM:
            return self._constant(x, 0, position)
        return (number, x, y, imm, position)

    def _shift_pair(self, number: int, x: int, y: int, amount: int, position: int) -> Instruction | None:
        """x = (y << amount) >> amount, in one operation."""
        left = self._width - amount
        if number == self._shift_right:
            if left == 16:
                return (op("zero_extend_16"), x, y, 0, position)
            if left < 32 and amount:
                return (_AND_IMM, x, y, (1 << left) - 1, position)
        elif number == self._shift_right_signed:
            if left in (8, 16):
                return (op(f"sign_extend_{left}"), x, y, 0, position)
            if left == 32 and self._width == 64:
                return (_ADD_IMM_32, x, y, 0, position)
        return None

    def _conditional(self, number: int, x: int, y: int, z: int, position: int) -> Instruction | None:
        known = self._known
        if number in _CMOV_IMM:
            condition, value, source = known[y], z, -1
            not_zero = _CMOV_IMM[number]
            y = self._original(y)
        else:
            condition, source = known[z], self._original(y)
            imm, not_zero = _CMOV[number]
            constant = known[y]
            z = self._original(z)
            if type(constant) is int and _fits(constant):
                number, y, value, source = imm, z, constant, -1
            else:
                value = 0
        if type(condition) is int:
            if (condition != 0) != not_zero:
                return None
            if source < 0:
                return None if known[x] == value else self._constant(x, value, position)
            return None if source == x else (MOVE, x, source, 0, position)
        if source < 0:
            return (number, x, y, value, position)
        return None if source == x else (number, x, source, z, position)

    def _end(self, end: End) -> End:
        number, x, y, target, following, position = end
        known = self._known
        if number == JUMP_INDIRECT:
            value = known[x]
            if isinstance(value, CodeAddress):
                return (JUMP, 0, 0, value.block, NOWHERE, position)
            return (number, self._original(x), 0, NOWHERE, NOWHERE, position)
        if number == CALL_INDIRECT:
            value = known[y]
            if isinstance(value, CodeAddress):
                return (CALL, x, 0, value.block, following, position)
            return (number, x, self._original(y), NOWHERE, following, position)
        if not is_branch(number):
            return end
        a = known[x]
        if FIRST_BRANCH <= number <= LAST_BRANCH:
            b = known[y]
            if type(b) is int and _fits(b):
                number, y = BRANCH_IMM[number][0], b
            elif type(a) is int and _fits(a):
                number, x, y, a = BRANCH_IMM[number][1], y, a, b
            else:
                return (number, self._original(x), self._original(y), target, following, position)
        if type(a) is int:
            taken = self._conditions[number](a, y)
            return (JUMP, 0, 0, target if taken else following, NOWHERE, position)
        return (number, self._original(x), y, target, following, position)


_AND_IMM: Final = op("and_imm")
_SHIFT_MASKS: Final = {
    op(f"{name}_imm_{bits}"): bits - 1
    for name in ("shift_logical_left", "shift_logical_right", "shift_arithmetic_right", "rotate_right")
    for bits in (32, 64)
}
_ADD_IMM_32: Final = op("add_imm_32")
