# SPDX-License-Identifier: MIT
"""From RISC-V to the IR: one instruction after the other, by itself, into one or a few operations.

The zero register becomes an immediate, the parts of an address become the address, atomic operations (a guest has one
thread) become loads and stores. What needs a register more than the instruction has takes one of `SCRATCH`.
"""

from __future__ import annotations

from typing import Final

from vm.toolchain._cfg import Item, Part
from vm.toolchain._decode import Atomic, Bit, Decoded, Form
from vm.toolchain._ir import (
    ABSOLUTE_FORM,
    BRANCH_IMM,
    CALL,
    CALL_INDIRECT,
    CODE_ADDRESS,
    ECALLI,
    FIRST_BRANCH,
    IMM_LEFT,
    IMM_RIGHT,
    JUMP,
    JUMP_INDIRECT,
    LOAD_IMM,
    LOAD_IMM64,
    MEMSET,
    MOVE,
    NOWHERE,
    SBRK,
    SCRATCH,
    STORE_IMM,
    TRAP,
    Block,
    op,
)
from vm.toolchain._layout import Layout
from vm.toolchain._metadata import Metadata
from vm.toolchain._reachability import Reachable
from vm.toolchain._sections import ABSOLUTE, Image, Kind, Target

_ZERO: Final = -1
_INVALID: Final = -2
#: The guest's register for each of RISC-V's.
_REGISTERS: Final = (_ZERO, 0, 1, _INVALID, _INVALID, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, *16 * (_INVALID,))
_ABI_NAMES: Final = (
    *("zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7"),
    *("s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6"),
)
_U32: Final = 0xFFFF_FFFF
_SIGN_EXTENDS: Final = frozenset({op("add_imm_32")})
_SCRATCH_0, _SCRATCH_1 = SCRATCH


def needs_scratch(reachable: Reachable) -> bool:
    """Whether lowering takes scratch registers, which there has to be memory for to spill others to."""
    forms = {Form.ATOMIC, Form.SHIFT_ADD, Form.OR_COMBINE, Form.BIT, Form.ZERO_IF, Form.SELECT, Form.ALU}
    for item in reachable.flow.items.values():
        decoded = item.decoded
        if decoded.form in forms:
            if decoded.form is Form.ALU and (
                0 not in (decoded.rs1, decoded.rs2) or (decoded.op in IMM_LEFT and decoded.op in IMM_RIGHT)
            ):
                continue
            return True
    return False


def signed32(value: int) -> int:
    return ((value & _U32) ^ 0x8000_0000) - 0x8000_0000


class Lowering:
    """Makes the blocks of the program; what they are made of is reached, and has its place in memory."""

    def __init__(self, image: Image, reachable: Reachable, layout: Layout, import_numbers: dict[Metadata, int]) -> None:
        self._image = image
        self._flow = reachable.flow
        self._layout = layout
        self._import_numbers = import_numbers
        self._width = 64 if image.is64 else 32
        suffix = str(self._width)
        self._add, self._add_imm = op(f"add_{suffix}"), op(f"add_imm_{suffix}")
        self._sub = op(f"sub_{suffix}")
        self._shift_left = op(f"shift_logical_left_imm_{suffix}")
        self._shift_right = op(f"shift_logical_right_imm_{suffix}")
        self._rotate_right_imm = op(f"rotate_right_imm_{suffix}")
        #: Block number by address of its first instruction.
        self.numbers = {address: number for number, address in enumerate(sorted(self._flow.leaders))}
        self.blocks = [Block(number, address) for address, number in self.numbers.items()]
        for address in reachable.taken:
            self.blocks[self.numbers[address]].taken = True
        for export in reachable.exports:
            block = self.blocks[self.numbers[export.address]]
            block.exported = True
            block.results = max(block.results, export.outputs)
        self._lower = {
            Form.ALU: self._lower_alu,
            Form.ALU_IMM: self._lower_alu_imm,
            Form.UNARY: self._lower_unary,
            Form.LOAD: self._lower_load,
            Form.STORE: self._lower_store,
            Form.LUI: self._lower_upper,
            Form.AUIPC: self._lower_upper,
            Form.HOST_CALL: self._lower_host_call,
            Form.HEAP_BASE: self._lower_heap_base,
            Form.MEMSET: self._lower_memset,
            Form.SBRK: self._lower_sbrk,
            Form.LOAD_RESERVED: self._lower_load_reserved,
            Form.STORE_CONDITIONAL: self._lower_store_conditional,
            Form.ATOMIC: self._lower_atomic,
            Form.SHIFT_ADD: self._lower_shift_add,
            Form.SHIFT_WORD: self._lower_shift_word,
            Form.OR_COMBINE: self._lower_or_combine,
            Form.BIT: self._lower_bit,
            Form.ZERO_IF: self._lower_zero_if,
            Form.MOVE_IF: self._lower_move_if,
            Form.SELECT: self._lower_select,
        }

    def run(self) -> list[Block]:
        items, numbers, lower = self._flow.items, self.numbers, self._lower
        for block in self.blocks:
            address = block.address
            self._body = block.body
            while True:
                item = items[address]
                self._address = address
                form = item.decoded.form
                if form >= Form.BRANCH:
                    self._lower_end(block, item)
                    break
                if form is Form.TRAP:
                    block.end = (TRAP, 0, 0, NOWHERE, NOWHERE, address)
                    break
                if form is not Form.NOTHING:
                    lower[form](item, item.decoded)
                address += item.size
                number = numbers.get(address)
                if number is not None:
                    block.end = (JUMP, 0, 0, number, NOWHERE, address - item.size)
                    break
        return self.blocks

    # --- Registers, addresses and constants ---------------------------------------------------------------------------

    def _register(self, number: int) -> int:
        register = _REGISTERS[number]
        if register != _INVALID:
            return register
        name = _ABI_NAMES[number]
        hint = "compile for rv64e with -mabi=lp64e (rv32e, ilp32e): a guest has the registers up to x15"
        if name == "gp":
            hint = "link without gp relaxation (no __global_pointer$): gp is no register of a guest"
        elif name == "tp":
            hint = "tp is no register of a guest, which has one thread: avoid thread-local storage"
        raise self._image.error(f"register x{number} ({name})", address=self._address, hint=hint)

    def _emit(self, number: int, x: int, y: int = 0, z: int = 0) -> None:
        self._body.append((number, x, y, z, self._address))

    def _load_constant(self, register: int, value: int) -> None:
        wide = not -0x8000_0000 <= value <= 0x7FFF_FFFF
        self._emit(LOAD_IMM64 if wide else LOAD_IMM, register, value)

    def _materialize(self, register: int, scratch: int) -> int:
        """`register`, or a scratch register that is zero for the zero register."""
        if register != _ZERO:
            return register
        self._emit(LOAD_IMM, scratch, 0)
        return scratch

    def _is_code(self, target: Target) -> bool:
        return target.section != ABSOLUTE and self._image.sections[target.section].kind is Kind.CODE

    def _low_part(self, item: Item) -> int:
        """What an instruction with (part of) an address for its immediate adds to its base register."""
        target = item.target
        assert target is not None
        if item.part in (Part.REST, Part.GOT_REST) or self._is_code(target):
            return 0
        address = signed32(self._layout.address_of(target))
        return address if item.part is Part.DIRECT else address - self._high_part(address)

    @staticmethod
    def _high_part(address: int) -> int:
        return signed32(address + 0x800 & ~0xFFF)

    # --- Plain operations ---------------------------------------------------------------------------------------------

    def _lower_upper(self, item: Item, decoded: Decoded) -> None:
        """lui and auipc."""
        rd = self._register(decoded.rd)
        if rd == _ZERO:
            return
        target = item.target
        if target is None:
            self._emit(LOAD_IMM, rd, decoded.imm)
        elif self._is_code(target):
            self._emit(CODE_ADDRESS, rd, self.numbers[target.address])
        else:
            address = signed32(self._layout.address_of(target))
            self._emit(LOAD_IMM, rd, self._high_part(address) if item.part is Part.HIGH else address)

    def _lower_alu_imm(self, item: Item, decoded: Decoded) -> None:
        rd, rs1, imm = self._register(decoded.rd), self._register(decoded.rs1), decoded.imm
        if item.part is Part.DIRECT:
            self._lower_direct(rd, item)
            return
        if item.part is not Part.NONE:
            imm = self._low_part(item)
        if rd == _ZERO:
            return
        if rs1 == _ZERO:
            if decoded.op == self._add_imm or decoded.op in _SIGN_EXTENDS:
                self._emit(LOAD_IMM, rd, imm)
                return
            self._emit(LOAD_IMM, rd, 0)
            rs1 = rd
        if imm == 0 and decoded.op == self._add_imm:
            self._emit(MOVE, rd, rs1)
        else:
            self._emit(decoded.op, rd, rs1, imm)

    def _lower_direct(self, rd: int, item: Item) -> None:
        target = item.target
        assert target is not None
        if rd == _ZERO:
            return
        if self._is_code(target):
            self._emit(CODE_ADDRESS, rd, self.numbers[target.address])
        else:
            self._emit(LOAD_IMM, rd, signed32(self._layout.address_of(target)))

    def _lower_alu(self, item: Item, decoded: Decoded) -> None:
        rd, a, b = self._register(decoded.rd), self._register(decoded.rs1), self._register(decoded.rs2)
        number = decoded.op
        if rd == _ZERO:
            return
        if a != _ZERO and b != _ZERO:
            self._emit(number, rd, a, b)
        elif b == _ZERO and a != _ZERO and number in IMM_RIGHT:
            if IMM_RIGHT[number] == self._add_imm:
                self._emit(MOVE, rd, a)
            else:
                self._emit(IMM_RIGHT[number], rd, a, 0)
        elif a == _ZERO and b != _ZERO and number in IMM_LEFT:
            if IMM_LEFT[number] == self._add_imm:
                self._emit(MOVE, rd, b)
            else:
                self._emit(IMM_LEFT[number], rd, b, 0)
        else:
            a = self._materialize(a, _SCRATCH_0)
            b = self._materialize(b, _SCRATCH_1)
            self._emit(number, rd, a, b)

    def _lower_unary(self, item: Item, decoded: Decoded) -> None:
        rd, rs1 = self._register(decoded.rd), self._register(decoded.rs1)
        if rd == _ZERO:
            return
        if rs1 == _ZERO:
            self._emit(LOAD_IMM, rd, 0)
            rs1 = rd
        self._emit(decoded.op, rd, rs1)

    # --- Memory -------------------------------------------------------------------------------------------------------

    def _no_base(self) -> Exception:
        return self._image.error(
            "a load or store at an absolute address, without a relocation",
            address=self._address,
            hint="a guest's memory is laid out by the linker: use a symbol, and link with --emit-relocs",
        )

    def _lower_load(self, item: Item, decoded: Decoded) -> None:
        rd, base = self._register(decoded.rd), _REGISTERS[decoded.rs1]
        if item.part is Part.DIRECT:
            if rd != _ZERO:
                self._emit(ABSOLUTE_FORM[decoded.op], rd, self._low_part(item))
            return
        base = self._register(decoded.rs1)
        if base == _ZERO:
            raise self._no_base()
        if rd == _ZERO:
            return
        if item.part is Part.GOT_REST:
            self._emit(MOVE, rd, base)
        else:
            self._emit(decoded.op, rd, base, decoded.imm if item.part is Part.NONE else self._low_part(item))

    def _lower_store(self, item: Item, decoded: Decoded) -> None:
        value = self._register(decoded.rs2)
        if item.part is Part.DIRECT:
            address = self._low_part(item)
            if value == _ZERO:
                self._emit(STORE_IMM[decoded.op][1], address, 0)
            else:
                self._emit(ABSOLUTE_FORM[decoded.op], value, address)
            return
        base = self._register(decoded.rs1)
        if base == _ZERO:
            raise self._no_base()
        offset = decoded.imm if item.part is Part.NONE else self._low_part(item)
        if value == _ZERO:
            self._emit(STORE_IMM[decoded.op][0], base, offset, 0)
        else:
            self._emit(decoded.op, value, base, offset)

    def _base(self, number: int) -> int:
        base = self._register(number)
        if base == _ZERO:
            raise self._no_base()
        return base

    def _atomic_load(self, width: int) -> int:
        return op("load_indirect_i32" if width == 32 else "load_indirect_u64")

    def _atomic_store(self, width: int) -> int:
        return op(f"store_indirect_u{width}")

    def _lower_load_reserved(self, item: Item, decoded: Decoded) -> None:
        rd, base = self._register(decoded.rd), self._base(decoded.rs1)
        if rd != _ZERO:
            self._emit(self._atomic_load(decoded.width), rd, base, 0)

    def _lower_store_conditional(self, item: Item, decoded: Decoded) -> None:
        rd, base, value = self._register(decoded.rd), self._base(decoded.rs1), self._register(decoded.rs2)
        store = self._atomic_store(decoded.width)
        if value == _ZERO:
            self._emit(STORE_IMM[store][0], base, 0, 0)
        else:
            self._emit(store, value, base, 0)
        if rd != _ZERO:
            self._emit(LOAD_IMM, rd, 0)

    def _lower_atomic(self, item: Item, decoded: Decoded) -> None:
        rd, base, value = self._register(decoded.rd), self._base(decoded.rs1), self._register(decoded.rs2)
        load, store = self._atomic_load(decoded.width), self._atomic_store(decoded.width)
        # The old value may go to rd at once, unless what comes after still reads that.
        old = rd if rd not in (_ZERO, base, value) else _SCRATCH_0
        if decoded.op != Atomic.SWAP or rd != _ZERO:
            self._emit(load, old, base, 0)
        if decoded.op == Atomic.SWAP:
            if value == _ZERO:
                self._emit(STORE_IMM[store][0], base, 0, 0)
            else:
                self._emit(store, value, base, 0)
        else:
            operand = self._materialize(value, _SCRATCH_1)
            if decoded.width < self._width and value != _ZERO:
                # The old value is sign-extended; minima and maxima compare all of the register.
                self._emit(op("add_imm_32"), _SCRATCH_1, value, 0)
                operand = _SCRATCH_1
            self._emit(decoded.op, _SCRATCH_1, old, operand)
            self._emit(store, _SCRATCH_1, base, 0)
        if rd not in (_ZERO, old):
            self._emit(MOVE, rd, old)

    # --- Operations that PVM has not ----------------------------------------------------------------------------------

    def _zero_extend(self, rd: int, rs1: int) -> None:
        """rd = the lower 32 bits of rs1; 64-bit guests only."""
        self._emit(self._shift_left, rd, rs1, 32)
        self._emit(self._shift_right, rd, rd, 32)

    def _lower_shift_add(self, item: Item, decoded: Decoded) -> None:
        rd, a, b = self._register(decoded.rd), self._register(decoded.rs1), self._register(decoded.rs2)
        if rd == _ZERO:
            return
        if a == _ZERO:
            self._emit(LOAD_IMM, rd, 0) if b == _ZERO else self._emit(MOVE, rd, b)
            return
        shifted = rd if rd != b else _SCRATCH_0
        amount = decoded.imm
        if decoded.op:
            self._emit(self._shift_left, shifted, a, 32)
            self._emit(self._shift_right, shifted, shifted, 32 - amount)
        else:
            self._emit(self._shift_left, shifted, a, amount)
        if b != _ZERO:
            self._emit(self._add, rd, shifted, b)

    def _lower_shift_word(self, item: Item, decoded: Decoded) -> None:
        rd, a, amount = self._register(decoded.rd), self._register(decoded.rs1), decoded.imm
        if rd == _ZERO:
            return
        if a == _ZERO:
            self._emit(LOAD_IMM, rd, 0)
            return
        self._emit(self._shift_left, rd, a, 32)
        if amount < 32:
            self._emit(self._shift_right, rd, rd, 32 - amount)
        elif amount > 32:
            self._emit(self._shift_left, rd, rd, amount - 32)

    def _lower_or_combine(self, item: Item, decoded: Decoded) -> None:
        """Each byte of rd is 0xff if that of rs1 is not zero.

        Adding 0x7f to the low 7 bits of each byte carries into its bit 7 if one of them is set. A byte 0x80 << 1 minus
        a byte 0x80 >> 7 is 0xff, the carries between bytes included.
        """
        rd, a = self._register(decoded.rd), self._register(decoded.rs1)
        if rd == _ZERO:
            return
        if a == _ZERO:
            self._emit(LOAD_IMM, rd, 0)
            return
        mask, bits = SCRATCH
        self._load_constant(mask, 0x7F7F_7F7F_7F7F_7F7F if self._width == 64 else 0x7F7F_7F7F)
        self._emit(op("and"), bits, a, mask)
        self._emit(self._add, bits, bits, mask)
        self._emit(op("or"), bits, bits, a)
        self._emit(op("and_inverted"), bits, bits, mask)
        self._emit(self._shift_right, mask, bits, 7)
        self._emit(self._shift_left, bits, bits, 1)
        self._emit(self._sub, rd, bits, mask)

    def _lower_bit(self, item: Item, decoded: Decoded) -> None:
        rd, a = self._register(decoded.rd), self._register(decoded.rs1)
        if rd == _ZERO:
            return
        if a == _ZERO:
            self._emit(LOAD_IMM, _SCRATCH_0, 0)
            a = _SCRATCH_0
        kind = Bit(decoded.op)
        if decoded.rs2 < 0:
            amount = decoded.imm
            if kind is Bit.EXTRACT:
                self._emit(self._shift_right, rd, a, amount)
                self._emit(op("and_imm"), rd, rd, 1)
                return
            number, value = {
                Bit.SET: (op("or_imm"), 1),
                Bit.CLEAR: (op("and_imm"), ~1),
                Bit.INVERT: (op("xor_imm"), 1),
            }[kind]
            if amount < 31 or self._width == 32:
                mask = signed32(1 << amount)
                self._emit(number, rd, a, ~mask if kind is Bit.CLEAR else mask)
            else:
                self._emit(self._rotate_right_imm, rd, a, amount)
                self._emit(number, rd, rd, value)
                self._emit(self._rotate_right_imm, rd, rd, -amount & 63)
            return
        amount = self._materialize(self._register(decoded.rs2), _SCRATCH_1)
        if kind is Bit.EXTRACT:
            self._emit(op(f"shift_logical_right_{self._width}"), rd, a, amount)
            self._emit(op("and_imm"), rd, rd, 1)
            return
        # rd may be any of the operands, or both.
        mask = rd if rd not in (a, amount) else _SCRATCH_1
        self._emit(op(f"shift_logical_left_imm_alt_{self._width}"), mask, amount, 1)
        self._emit(op({Bit.SET: "or", Bit.CLEAR: "and_inverted", Bit.INVERT: "xor"}[kind]), rd, a, mask)

    def _lower_zero_if(self, item: Item, decoded: Decoded) -> None:
        rd, a, condition = (self._register(r) for r in (decoded.rd, decoded.rs1, decoded.rs2))
        if rd == _ZERO:
            return
        move_imm = op("cmov_if_not_zero_imm" if decoded.op else "cmov_if_zero_imm")
        if a == _ZERO:
            self._emit(LOAD_IMM, rd, 0)
        elif condition == _ZERO:
            self._emit(LOAD_IMM, rd, 0) if not decoded.op else self._emit(MOVE, rd, a)
        else:
            result = rd if rd != condition or a == rd else _SCRATCH_0
            if result != a:
                self._emit(MOVE, result, a)
            self._emit(move_imm, result, condition, 0)
            if result != rd:
                self._emit(MOVE, rd, result)

    def _lower_move_if(self, item: Item, decoded: Decoded) -> None:
        rd, a, condition = (self._register(r) for r in (decoded.rd, decoded.rs1, decoded.rs2))
        if rd != _ZERO:
            self._move_if(bool(decoded.op), rd, a, condition)

    def _move_if(self, not_zero: bool, rd: int, a: int, condition: int) -> None:
        if condition == _ZERO:
            if not not_zero:
                self._emit(LOAD_IMM, rd, 0) if a == _ZERO else self._emit(MOVE, rd, a)
            return
        name = "cmov_if_not_zero" if not_zero else "cmov_if_zero"
        if a == _ZERO:
            self._emit(op(f"{name}_imm"), rd, condition, 0)
        else:
            self._emit(op(name), rd, a, condition)

    def _lower_select(self, item: Item, decoded: Decoded) -> None:
        rd, a, condition = (self._register(r) for r in (decoded.rd, decoded.rs1, decoded.rs2))
        other = self._register(decoded.imm)
        if rd == _ZERO:
            return
        if rd == other:
            self._move_if(True, rd, a, condition)
        elif rd == a:
            self._move_if(False, rd, other, condition)
        else:
            result = rd if rd != condition else _SCRATCH_0
            self._emit(LOAD_IMM, result, 0) if other == _ZERO else self._emit(MOVE, result, other)
            self._move_if(True, result, a, condition)
            if result != rd:
                self._emit(MOVE, rd, result)

    # --- PolkaVM's own ------------------------------------------------------------------------------------------------

    def _lower_host_call(self, item: Item, decoded: Decoded) -> None:
        metadata = self._flow.host_calls[self._address]
        self._emit(ECALLI, self._import_numbers[metadata], metadata.inputs)

    def _lower_heap_base(self, item: Item, decoded: Decoded) -> None:
        rd = self._register(decoded.rd)
        if rd != _ZERO:
            self._emit(LOAD_IMM, rd, signed32(self._layout.heap_base))

    def _lower_memset(self, item: Item, decoded: Decoded) -> None:
        self._emit(MEMSET, 0)

    def _lower_sbrk(self, item: Item, decoded: Decoded) -> None:
        rd, size = self._register(decoded.rd), self._register(decoded.rs1)
        if _ZERO in (rd, size):
            raise self._image.error("sbrk with the zero register", address=self._address)
        self._emit(SBRK, rd, size)

    # --- Ends of blocks -----------------------------------------------------------------------------------------------

    def _lower_end(self, block: Block, item: Item) -> None:
        decoded, address = item.decoded, self._address
        if decoded.form is Form.JALR:
            self._lower_indirect(block, item)
            return
        assert item.target is not None
        if item.target.section == ABSOLUTE:  # a weak symbol that nothing defines
            block.end = (TRAP, 0, 0, NOWHERE, NOWHERE, address)
            return
        target = self.numbers[item.target.address]
        if decoded.form is Form.JAL:
            link = self._register(decoded.rd)
            if link == _ZERO:
                block.end = (JUMP, 0, 0, target, NOWHERE, address)
            else:
                block.end = (CALL, link, 0, target, self.numbers[address + item.size], address)
            return
        following = self.numbers[address + item.size]
        a, b = self._register(decoded.rs1), self._register(decoded.rs2)
        number = decoded.op
        if a == b:
            equal = number in _TRUE_IF_EQUAL
            block.end = (JUMP, 0, 0, target if equal else following, NOWHERE, address)
        elif b == _ZERO:
            block.end = (BRANCH_IMM[number][0], a, 0, target, following, address)
        elif a == _ZERO:
            block.end = (BRANCH_IMM[number][1], b, 0, target, following, address)
        else:
            assert number >= FIRST_BRANCH
            block.end = (number, a, b, target, following, address)

    def _lower_indirect(self, block: Block, item: Item) -> None:
        decoded, address = item.decoded, self._address
        link = self._register(decoded.rd)
        target = item.target
        if item.part is Part.DIRECT:
            assert target is not None
            if not self._is_code(target):
                raise self._image.error("a jump to something that is not code", address=address)
            number = self.numbers[target.address]
            if link == _ZERO:
                block.end = (JUMP, 0, 0, number, NOWHERE, address)
            else:
                block.end = (CALL, link, 0, number, self.numbers[address + item.size], address)
            return
        base = self._register(decoded.rs1)
        offset = decoded.imm if item.part is Part.NONE else self._low_part(item)
        if base == _ZERO or offset:
            raise self._image.error(
                f"an indirect jump to {'an absolute address' if base == _ZERO else 'an offset from a register'}",
                address=address,
                hint="code addresses have no arithmetic in a guest: jump to labels",
            )
        if link == _ZERO:
            block.end = (JUMP_INDIRECT, base, 0, NOWHERE, NOWHERE, address)
        else:
            block.end = (CALL_INDIRECT, link, base, NOWHERE, self.numbers[address + item.size], address)


_TRUE_IF_EQUAL: Final = frozenset(
    op(f"branch_{name}") for name in ("eq", "greater_or_equal_signed", "greater_or_equal_unsigned")
)
