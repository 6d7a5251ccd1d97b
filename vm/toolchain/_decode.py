# SPDX-License-Identifier: MIT
"""RISC-V instructions taken apart: I, M, A, C, Zba, Zbb, Zbs and Zicond, of RV32 and RV64, and PolkaVM's custom-0.

Encodings: the RISC-V unprivileged ISA manual, chapters on those extensions; custom-0 from the ELF input specification;
conditional moves of XTHeadCondMov and MIPS's P8700 as LLVM encodes them.

Registers are RISC-V's, 0 to 31: which of them exist is not for the decoder to say.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from vm.toolchain._ir import MEMSET, SBRK, TRAP, op


class Form(enum.IntEnum):
    """What an instruction does, as far as its lowering goes; `Decoded.op` says the rest."""

    NOTHING = 0  # fence
    ALU = 1  # rd = rs1 op rs2
    ALU_IMM = 2  # rd = rs1 op imm
    UNARY = 3  # rd = op rs1
    LOAD = 4  # rd = memory[rs1 + imm]
    STORE = 5  # memory[rs1 + imm] = rs2
    LUI = 6  # rd = imm
    AUIPC = 7  # rd = pc + imm
    TRAP = 8
    HOST_CALL = 9  # followed by the pointer to its metadata
    HEAP_BASE = 10  # rd = heap base
    MEMSET = 11
    SBRK = 12  # rd = sbrk rs1
    LOAD_RESERVED = 13
    STORE_CONDITIONAL = 14
    ATOMIC = 15
    SHIFT_ADD = 16  # rd = (rs1 << imm) + rs2; op 1: rs1 zero-extended from 32 bits
    SHIFT_WORD = 17  # rd = zero-extended rs1 << imm
    OR_COMBINE = 18
    BIT = 19  # rd = rs1 with bit rs2 (imm, if rs2 is -1) set, cleared, inverted, or extracted, as op says
    ZERO_IF = 20  # rd = 0 if rs2 is zero (op: or not zero), otherwise rs1
    MOVE_IF = 21  # rd = rs1 if rs2 is zero (op: or not zero)
    SELECT = 22  # rd = rs1 if rs2 is not zero, otherwise register imm
    # from here on: ends a block
    BRANCH = 23
    JAL = 24
    JALR = 25


class Bit(enum.IntEnum):
    SET = 0
    CLEAR = 1
    INVERT = 2
    EXTRACT = 3


class Atomic(enum.IntEnum):
    """How an atomic operation is done, as far as that is more than an operation of its own."""

    SWAP = -1


class Decoded(NamedTuple):
    form: Form
    op: int
    rd: int
    rs1: int
    rs2: int
    imm: int
    #: Bits of the operation, where lowering has to know: 32 or 64.
    width: int = 0


class UndecodableError(Exception):
    """No instruction that a guest can have; the message says what it is, `hint` what would help."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


_FLOAT: Final = "compile for soft float: -march=rv64emac -mabi=lp64e (rv32emac, ilp32e)"
_TRAP: Final = Decoded(Form.TRAP, TRAP, 0, 0, 0, 0)
_NOTHING: Final = Decoded(Form.NOTHING, 0, 0, 0, 0, 0)
_HOST_CALL_WORD: Final = 0x0000_000B


def _sign(value: int, bits: int) -> int:
    sign = 1 << (bits - 1)
    return ((value & ((1 << bits) - 1)) ^ sign) - sign


def _table(text: str, width: str) -> dict[int, int]:
    """``{key: operation}`` of words ``key:name``, in whose names W is the width."""
    return {int(key, 0): op(name.replace("W", width)) for key, name in (word.split(":") for word in text.split())}


# By funct7 << 3 | funct3.
_REGISTER_OPERATIONS: Final = """
    0x000:add_W 0x001:shift_logical_left_W 0x002:set_less_than_signed 0x003:set_less_than_unsigned 0x004:xor
    0x005:shift_logical_right_W 0x006:or 0x007:and
    0x100:sub_W 0x105:shift_arithmetic_right_W 0x104:xnor 0x106:or_inverted 0x107:and_inverted
    0x008:mul_W 0x009:mul_upper_signed_signed 0x00a:mul_upper_signed_unsigned 0x00b:mul_upper_unsigned_unsigned
    0x00c:div_signed_W 0x00d:div_unsigned_W 0x00e:rem_signed_W 0x00f:rem_unsigned_W
    0x02c:minimum 0x02d:minimum_unsigned 0x02e:maximum 0x02f:maximum_unsigned
    0x181:rotate_left_W 0x185:rotate_right_W
"""
_WORD_OPERATIONS: Final = """
    0x000:add_32 0x001:shift_logical_left_32 0x005:shift_logical_right_32
    0x100:sub_32 0x105:shift_arithmetic_right_32
    0x008:mul_32 0x00c:div_signed_32 0x00d:div_unsigned_32 0x00e:rem_signed_32 0x00f:rem_unsigned_32
    0x181:rotate_left_32 0x185:rotate_right_32
"""
_BITS: Final = {0x0A1: Bit.SET, 0x121: Bit.CLEAR, 0x1A1: Bit.INVERT, 0x125: Bit.EXTRACT}
_SHIFT_ADDS: Final = {0x082: 1, 0x084: 2, 0x086: 3}


class Decoder:
    """Decodes the instructions of one file, each different word once."""

    def __init__(self, is64: bool) -> None:
        self._is64 = is64
        self._seen: dict[int, Decoded] = {}
        width = "64" if is64 else "32"
        self._width = 64 if is64 else 32
        self._register = _table(_REGISTER_OPERATIONS, width)
        self._word = _table(_WORD_OPERATIONS, width) if is64 else {}
        self._immediate = _table(
            "0:add_imm_W 2:set_less_than_signed_imm 3:set_less_than_unsigned_imm 4:xor_imm 6:or_imm 7:and_imm", width
        )
        # By funct3, then by the bits above the shift amount.
        self._shifts = {
            1: _table("0:shift_logical_left_imm_W", width),
            5: _table("0:shift_logical_right_imm_W 16:shift_arithmetic_right_imm_W 24:rotate_right_imm_W", width),
        }
        self._unary = _table(
            "0x600:count_leading_zero_bits_W 0x601:count_trailing_zero_bits_W 0x602:count_set_bits_W "
            "0x604:sign_extend_8 0x605:sign_extend_16",
            width,
        )
        self._loads = _table("0:load_indirect_i8 1:load_indirect_i16 2:load_indirect_i32", width)
        self._loads |= _table("4:load_indirect_u8 5:load_indirect_u16", width)
        self._stores = _table("0:store_indirect_u8 1:store_indirect_u16 2:store_indirect_u32", width)
        if is64:
            self._loads |= _table("3:load_indirect_u64 6:load_indirect_u32", width)
            self._stores |= _table("3:store_indirect_u64", width)
        self._opcodes = {
            0x03: self._decode_load,
            0x0B: self._decode_custom,
            0x0F: self._decode_fence,
            0x13: self._decode_immediate,
            0x17: self._decode_auipc,
            0x23: self._decode_store,
            0x2F: self._decode_atomic,
            0x33: self._decode_register,
            0x37: self._decode_lui,
            0x63: self._decode_branch,
            0x67: self._decode_jalr,
            0x6F: self._decode_jal,
            0x73: self._decode_system,
        }
        if is64:
            self._opcodes |= {0x1B: self._decode_immediate_word, 0x3B: self._decode_register_word}

    def decode(self, word: int) -> Decoded:
        """The instruction `word`, of 16 bits unless its two lowest ones are set; raises `UndecodableError`."""
        decoded = self._seen.get(word)
        if decoded is None:
            decoded = self._decode(word) if word & 3 == 3 else self._decode_compressed(word)
            self._seen[word] = decoded
        return decoded

    def _decode(self, word: int) -> Decoded:
        decode = self._opcodes.get(word & 0x7F)
        if decode is None:
            if word & 0x7F in (0x07, 0x27, 0x43, 0x47, 0x4B, 0x4F, 0x53):
                if word & 0x7F in (0x07, 0x27) and word >> 12 & 7 not in (1, 2, 3, 4):
                    raise UndecodableError(f"vector instruction {word:#010x}", "compile without the V extension")
                raise UndecodableError(f"floating-point instruction {word:#010x}", _FLOAT)
            if word & 0x7F == 0x57:
                raise UndecodableError(f"vector instruction {word:#010x}", "compile without the V extension")
            raise UndecodableError(
                f"unknown instruction {word:#010x}", "compile for rv64emac or rv32emac with Zba, Zbb, Zbs"
            )
        return decode(word)

    @staticmethod
    def _unknown(word: int) -> UndecodableError:
        return UndecodableError(
            f"unknown instruction {word:#010x}", "compile for rv64emac or rv32emac with Zba, Zbb, Zbs"
        )

    # --- 32-bit encodings ---------------------------------------------------------------------------------------------

    def _decode_load(self, word: int) -> Decoded:
        operation = self._loads.get(word >> 12 & 7)
        if operation is None:
            raise self._unknown(word)
        return Decoded(Form.LOAD, operation, word >> 7 & 31, word >> 15 & 31, 0, _sign(word >> 20, 12))

    def _decode_store(self, word: int) -> Decoded:
        operation = self._stores.get(word >> 12 & 7)
        if operation is None:
            raise self._unknown(word)
        offset = _sign(word >> 25 << 5 | word >> 7 & 31, 12)
        return Decoded(Form.STORE, operation, 0, word >> 15 & 31, word >> 20 & 31, offset)

    def _decode_custom(self, word: int) -> Decoded:
        rd, rs1, rs2 = word >> 7 & 31, word >> 15 & 31, word >> 20 & 31
        funct3, funct7 = word >> 12 & 7, word >> 25
        if word == _HOST_CALL_WORD:
            return Decoded(Form.HOST_CALL, 0, 0, 0, 0, 0)
        if funct3 == 1 and funct7 == 0 and rs2 == 0:
            return Decoded(Form.SBRK, SBRK, rd, rs1, 0, 0)
        if word == _HOST_CALL_WORD | 2 << 12:
            return Decoded(Form.MEMSET, MEMSET, 0, 0, 0, 0)
        if funct3 == 3 and funct7 == 0 and rs1 == rs2 == 0:
            return Decoded(Form.HEAP_BASE, 0, rd, 0, 0, 0)
        if funct3 == 1 and funct7 in (0x20, 0x21):  # th.mveqz, th.mvnez
            return Decoded(Form.MOVE_IF, funct7 & 1, rd, rs1, rs2, 0)
        if funct3 == 3 and funct7 & 3 == 3:  # mips.ccmov
            return Decoded(Form.SELECT, 0, rd, rs1, rs2, word >> 27)
        raise self._unknown(word)

    def _decode_fence(self, word: int) -> Decoded:
        if word >> 12 & 7 > 1:
            raise self._unknown(word)
        return _NOTHING

    def _decode_immediate(self, word: int) -> Decoded:
        rd, rs1, funct3, imm = word >> 7 & 31, word >> 15 & 31, word >> 12 & 7, word >> 20
        operation = self._immediate.get(funct3)
        if operation is not None:
            return Decoded(Form.ALU_IMM, operation, rd, rs1, 0, _sign(imm, 12))
        if funct3 == 1 and imm in self._unary:
            return Decoded(Form.UNARY, self._unary[imm], rd, rs1, 0, 0)
        if funct3 == 5 and imm == 0x287:
            return Decoded(Form.OR_COMBINE, 0, rd, rs1, 0, 0, self._width)
        if funct3 == 5 and imm == (0x6B8 if self._is64 else 0x698):
            return Decoded(Form.UNARY, op("reverse_byte"), rd, rs1, 0, 0)
        amount, upper = imm & 63, imm >> 6
        if not self._is64 and amount > 31:
            raise self._unknown(word)
        operation = self._shifts[funct3].get(upper)
        if operation is not None:
            return Decoded(Form.ALU_IMM, operation, rd, rs1, 0, amount)
        bit = _BITS.get(upper << 4 | funct3)
        if bit is None:
            raise self._unknown(word)
        return Decoded(Form.BIT, bit, rd, rs1, -1, amount, self._width)

    def _decode_immediate_word(self, word: int) -> Decoded:
        rd, rs1, funct3, imm = word >> 7 & 31, word >> 15 & 31, word >> 12 & 7, word >> 20
        amount = imm & 31
        name = ""
        if funct3 == 0:
            return Decoded(Form.ALU_IMM, op("add_imm_32"), rd, rs1, 0, _sign(imm, 12))
        if funct3 == 1:
            if imm >> 6 == 2:  # slli.uw
                return Decoded(Form.SHIFT_WORD, 0, rd, rs1, 0, imm & 63)
            counts = {0x600: "leading_zero", 0x601: "trailing_zero", 0x602: "set"}
            if imm in counts:
                return Decoded(Form.UNARY, op(f"count_{counts[imm]}_bits_32"), rd, rs1, 0, 0)
            name = {0: "shift_logical_left_imm_32"}.get(imm >> 5, "")
        elif funct3 == 5:
            names = {0: "shift_logical_right_imm_32", 32: "shift_arithmetic_right_imm_32", 48: "rotate_right_imm_32"}
            name = names.get(imm >> 5, "")
        if not name:
            raise self._unknown(word)
        return Decoded(Form.ALU_IMM, op(name), rd, rs1, 0, amount)

    def _decode_auipc(self, word: int) -> Decoded:
        return Decoded(Form.AUIPC, 0, word >> 7 & 31, 0, 0, _sign(word, 32) & ~0xFFF)

    def _decode_lui(self, word: int) -> Decoded:
        return Decoded(Form.LUI, 0, word >> 7 & 31, 0, 0, _sign(word, 32) & ~0xFFF)

    def _decode_register(self, word: int) -> Decoded:
        rd, rs1, rs2 = word >> 7 & 31, word >> 15 & 31, word >> 20 & 31
        key = word >> 25 << 3 | word >> 12 & 7
        operation = self._register.get(key)
        if operation is not None:
            return Decoded(Form.ALU, operation, rd, rs1, rs2, 0)
        if key in _SHIFT_ADDS:
            return Decoded(Form.SHIFT_ADD, 0, rd, rs1, rs2, _SHIFT_ADDS[key])
        if key == 0x024 and rs2 == 0 and not self._is64:
            return Decoded(Form.UNARY, op("zero_extend_16"), rd, rs1, 0, 0)
        if key in _BITS:
            return Decoded(Form.BIT, _BITS[key], rd, rs1, rs2, 0, self._width)
        if key in (0x03D, 0x03F):  # czero.eqz, czero.nez
            return Decoded(Form.ZERO_IF, key >> 1 & 1, rd, rs1, rs2, 0)
        raise self._unknown(word)

    def _decode_register_word(self, word: int) -> Decoded:
        rd, rs1, rs2 = word >> 7 & 31, word >> 15 & 31, word >> 20 & 31
        key = word >> 25 << 3 | word >> 12 & 7
        operation = self._word.get(key)
        if operation is not None:
            return Decoded(Form.ALU, operation, rd, rs1, rs2, 0)
        if key in _SHIFT_ADDS:
            return Decoded(Form.SHIFT_ADD, 1, rd, rs1, rs2, _SHIFT_ADDS[key])
        if key == 0x020:  # add.uw
            return Decoded(Form.SHIFT_ADD, 1, rd, rs1, rs2, 0)
        if key == 0x024 and rs2 == 0:
            return Decoded(Form.UNARY, op("zero_extend_16"), rd, rs1, 0, 0)
        raise self._unknown(word)

    def _decode_atomic(self, word: int) -> Decoded:
        rd, rs1, rs2 = word >> 7 & 31, word >> 15 & 31, word >> 20 & 31
        width = {2: 32, 3: 64}.get(word >> 12 & 7, 0)
        if not 32 <= width <= self._width:
            raise self._unknown(word)
        kind = word >> 27
        if kind == 2 and rs2 == 0:
            return Decoded(Form.LOAD_RESERVED, 0, rd, rs1, 0, 0, width)
        if kind == 3:
            return Decoded(Form.STORE_CONDITIONAL, 0, rd, rs1, rs2, 0, width)
        if kind == 1:
            return Decoded(Form.ATOMIC, Atomic.SWAP, rd, rs1, rs2, 0, width)
        names = {0: f"add_{width}", 4: "xor", 8: "or", 12: "and", 16: "minimum", 20: "maximum"}
        names |= {24: "minimum_unsigned", 28: "maximum_unsigned"}
        if kind not in names:
            raise self._unknown(word)
        return Decoded(Form.ATOMIC, op(names[kind]), rd, rs1, rs2, 0, width)

    def _decode_branch(self, word: int) -> Decoded:
        names = {0: "eq", 1: "not_eq", 4: "less_signed", 5: "greater_or_equal_signed"}
        names |= {6: "less_unsigned", 7: "greater_or_equal_unsigned"}
        name = names.get(word >> 12 & 7)
        if name is None:
            raise self._unknown(word)
        distance = word >> 31 << 12 | (word >> 7 & 1) << 11 | (word >> 25 & 63) << 5 | (word >> 8 & 15) << 1
        return Decoded(Form.BRANCH, op(f"branch_{name}"), 0, word >> 15 & 31, word >> 20 & 31, _sign(distance, 13))

    def _decode_jal(self, word: int) -> Decoded:
        distance = word >> 31 << 20 | (word >> 12 & 255) << 12 | (word >> 20 & 1) << 11 | (word >> 21 & 1023) << 1
        return Decoded(Form.JAL, 0, word >> 7 & 31, 0, 0, _sign(distance, 21))

    def _decode_jalr(self, word: int) -> Decoded:
        if word >> 12 & 7:
            raise self._unknown(word)
        return Decoded(Form.JALR, 0, word >> 7 & 31, word >> 15 & 31, 0, _sign(word >> 20, 12))

    def _decode_system(self, word: int) -> Decoded:
        if word in (0xC000_1073, 0x0010_0073):  # unimp, ebreak
            return _TRAP
        if word == 0x0000_0073:
            raise UndecodableError("ecall", "a guest has no system calls: import a host function instead")
        if word >> 12 & 3:
            raise UndecodableError(f"access to control register {word >> 20:#x}", "a guest has no control registers")
        raise UndecodableError(f"privileged instruction {word:#010x}", "a guest has no privileged instructions")

    # --- 16-bit encodings: each is short for a 32-bit one -------------------------------------------------------------

    def _decode_compressed(self, h: int) -> Decoded:
        quadrant, funct3 = h & 3, h >> 13
        if quadrant == 0:
            return self._decode_quadrant_0(h, funct3)
        if quadrant == 1:
            return self._decode_quadrant_1(h, funct3)
        return self._decode_quadrant_2(h, funct3)

    def _short(self, h: int) -> UndecodableError:
        return UndecodableError(f"unknown compressed instruction {h:#06x}", "compile for rv64emac or rv32emac")

    def _decode_quadrant_0(self, h: int, funct3: int) -> Decoded:
        rd, rs1 = 8 + (h >> 2 & 7), 8 + (h >> 7 & 7)
        word_offset = (h >> 10 & 7) << 3 | (h >> 6 & 1) << 2 | (h >> 5 & 1) << 6
        double_offset = (h >> 10 & 7) << 3 | (h >> 5 & 3) << 6
        if h == 0:
            return _TRAP
        if funct3 == 0:
            imm = (h >> 11 & 3) << 4 | (h >> 7 & 15) << 6 | (h >> 6 & 1) << 2 | (h >> 5 & 1) << 3
            if imm == 0:
                raise self._short(h)
            return Decoded(Form.ALU_IMM, self._immediate[0], rd, 2, 0, imm)
        if funct3 == 2:
            return Decoded(Form.LOAD, self._loads[2], rd, rs1, 0, word_offset)
        if funct3 == 3 and self._is64:
            return Decoded(Form.LOAD, self._loads[3], rd, rs1, 0, double_offset)
        if funct3 == 6:
            return Decoded(Form.STORE, self._stores[2], 0, rs1, rd, word_offset)
        if funct3 == 7 and self._is64:
            return Decoded(Form.STORE, self._stores[3], 0, rs1, rd, double_offset)
        if funct3 == 4:
            return self._decode_zcb_memory(h, rd, rs1)
        raise UndecodableError(f"compressed floating-point instruction {h:#06x}", _FLOAT)

    def _decode_zcb_memory(self, h: int, rd: int, rs1: int) -> Decoded:
        kind, byte, half = h >> 10 & 7, (h >> 6 & 1) | (h >> 5 & 1) << 1, (h >> 5 & 1) << 1
        if kind == 0:
            return Decoded(Form.LOAD, self._loads[4], rd, rs1, 0, byte)
        if kind == 1:
            return Decoded(Form.LOAD, self._loads[1 if h >> 6 & 1 else 5], rd, rs1, 0, half)
        if kind == 2:
            return Decoded(Form.STORE, self._stores[0], 0, rs1, rd, byte)
        if kind == 3 and not h >> 6 & 1:
            return Decoded(Form.STORE, self._stores[1], 0, rs1, rd, half)
        raise self._short(h)

    def _decode_quadrant_1(self, h: int, funct3: int) -> Decoded:
        rd = h >> 7 & 31
        imm = _sign((h >> 12 & 1) << 5 | h >> 2 & 31, 6)
        if funct3 == 0:
            return Decoded(Form.ALU_IMM, self._immediate[0], rd, rd, 0, imm)
        if funct3 == 1 and self._is64:
            if rd == 0:
                raise self._short(h)
            return Decoded(Form.ALU_IMM, op("add_imm_32"), rd, rd, 0, imm)
        if funct3 in (1, 5):
            distance = (h >> 12 & 1) << 11 | (h >> 11 & 1) << 4 | (h >> 9 & 3) << 8 | (h >> 8 & 1) << 10
            distance |= (h >> 7 & 1) << 6 | (h >> 6 & 1) << 7 | (h >> 3 & 7) << 1 | (h >> 2 & 1) << 5
            return Decoded(Form.JAL, 0, 1 if funct3 == 1 else 0, 0, 0, _sign(distance, 12))
        if funct3 == 2:
            return Decoded(Form.ALU_IMM, self._immediate[0], rd, 0, 0, imm)
        if funct3 == 3:
            if imm == 0:
                raise self._short(h)
            if rd == 2:
                bits = (
                    (h >> 12 & 1) << 9 | (h >> 6 & 1) << 4 | (h >> 5 & 1) << 6 | (h >> 3 & 3) << 7 | (h >> 2 & 1) << 5
                )
                return Decoded(Form.ALU_IMM, self._immediate[0], 2, 2, 0, _sign(bits, 10))
            return Decoded(Form.LUI, 0, rd, 0, 0, imm << 12)
        if funct3 >= 6:
            distance = (
                (h >> 12 & 1) << 8 | (h >> 10 & 3) << 3 | (h >> 5 & 3) << 6 | (h >> 3 & 3) << 1 | (h >> 2 & 1) << 5
            )
            branch = op("branch_eq") if funct3 == 6 else op("branch_not_eq")
            return Decoded(Form.BRANCH, branch, 0, 8 + (h >> 7 & 7), 0, _sign(distance, 9))
        return self._decode_quadrant_1_arithmetic(h, imm)

    def _decode_quadrant_1_arithmetic(self, h: int, imm: int) -> Decoded:
        rd, rs2, kind = 8 + (h >> 7 & 7), 8 + (h >> 2 & 7), h >> 10 & 3
        if kind < 2:
            if not self._is64 and imm < 0:
                raise self._short(h)
            return Decoded(Form.ALU_IMM, self._shifts[5][16 * kind], rd, rd, 0, imm & 63)
        if kind == 2:
            return Decoded(Form.ALU_IMM, self._immediate[7], rd, rd, 0, imm)
        wide, which = h >> 12 & 1, h >> 5 & 3
        if not wide:
            return Decoded(Form.ALU, self._register[(0x100, 4, 6, 7)[which]], rd, rd, rs2, 0)
        if which < 2 and self._is64:
            return Decoded(Form.ALU, self._word[(0x100, 0)[which]], rd, rd, rs2, 0)
        if which == 2:
            return Decoded(Form.ALU, self._register[0x008], rd, rd, rs2, 0)  # c.mul of Zcb
        if which == 3:
            return self._decode_zcb_unary(h, rd)
        raise self._short(h)

    def _decode_zcb_unary(self, h: int, rd: int) -> Decoded:
        kind = h >> 2 & 7
        if kind == 0:
            return Decoded(Form.ALU_IMM, self._immediate[7], rd, rd, 0, 0xFF)
        if kind == 5:
            return Decoded(Form.ALU_IMM, self._immediate[4], rd, rd, 0, -1)
        if kind == 4 and self._is64:  # zext.w
            return Decoded(Form.SHIFT_ADD, 1, rd, rd, 0, 0)
        names = {1: "sign_extend_8", 2: "zero_extend_16", 3: "sign_extend_16"}
        if kind not in names:
            raise self._short(h)
        return Decoded(Form.UNARY, op(names[kind]), rd, rd, 0, 0)

    def _decode_quadrant_2(self, h: int, funct3: int) -> Decoded:
        rd, rs2, high = h >> 7 & 31, h >> 2 & 31, h >> 12 & 1
        if funct3 == 0:
            if not self._is64 and high:
                raise self._short(h)
            return Decoded(Form.ALU_IMM, self._shifts[1][0], rd, rd, 0, high << 5 | rs2)
        if funct3 == 2 and rd:
            offset = high << 5 | (h >> 4 & 7) << 2 | (h >> 2 & 3) << 6
            return Decoded(Form.LOAD, self._loads[2], rd, 2, 0, offset)
        if funct3 == 3 and self._is64 and rd:
            offset = high << 5 | (h >> 5 & 3) << 3 | (h >> 2 & 7) << 6
            return Decoded(Form.LOAD, self._loads[3], rd, 2, 0, offset)
        if funct3 == 6:
            return Decoded(Form.STORE, self._stores[2], 0, 2, rs2, (h >> 9 & 15) << 2 | (h >> 7 & 3) << 6)
        if funct3 == 7 and self._is64:
            return Decoded(Form.STORE, self._stores[3], 0, 2, rs2, (h >> 10 & 7) << 3 | (h >> 7 & 7) << 6)
        if funct3 != 4:
            if funct3 in (2, 3) and not rd:
                raise self._short(h)
            raise UndecodableError(f"compressed floating-point instruction {h:#06x}", _FLOAT)
        if rs2:
            return Decoded(Form.ALU, self._register[0], rd, rd if high else 0, rs2, 0)
        if rd:
            return Decoded(Form.JALR, 0, high, rd, 0, 0)
        if high:
            return _TRAP  # c.ebreak
        raise self._short(h)
