# SPDX-License-Identifier: MIT
"""The instruction sets: every opcode's name, argument format and number, declared once.

The C side does not repeat this table: ``native/pvm/gen_opcodes.py`` turns it into ``opcodes.h`` when
the extension is built.  Names, numbers and formats are those of the PVM blob specification, sections
5 and 6; the four instruction sets are the values of byte 4 of a program blob (section 3).

This module is pure data and needs only the standard library, because the build loads it by its path.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class InstructionSet(enum.IntEnum):
    """Which opcodes a program may use; the value is the version byte of its blob."""

    REVIVE_V1 = 0
    LATEST32 = 1
    LATEST64 = 2
    JAM_V1 = 3

    @property
    def label(self) -> str:
        """The name used by the assembler's ``%isa`` directive, such as ``latest64``."""
        return self.name.lower()

    @property
    def word_bits(self) -> int:
        """Width of a guest register: 32 for latest32, 64 for the others."""
        return 32 if self is InstructionSet.LATEST32 else 64


class Format(enum.IntEnum):
    """How the argument bytes of an instruction are laid out (specification, section 5)."""

    NONE = 0
    IMM = 1
    OFFSET = 2
    IMM_IMM = 3
    REG_IMM = 4
    REG_IMM_IMM = 5
    REG_IMM_OFFSET = 6
    REG_REG_IMM = 7
    REG_REG_OFFSET = 8
    REG_REG_IMM_IMM = 9
    REG_IMM64 = 10
    REG_REG = 11
    REG_REG_REG = 12


@dataclass(frozen=True, slots=True)
class Opcode:
    """One operation; ``numbers[isa]`` is its opcode byte there, or None where it does not exist."""

    name: str
    format: Format
    numbers: tuple[int | None, int | None, int | None, int | None]

    @property
    def ends_block(self) -> bool:
        """Whether the instruction is a basic-block terminator (specification, section 4)."""
        return self.name in _TERMINATORS or self.name.startswith("branch_")


_TERMINATORS: Final = frozenset(
    {"trap", "fallthrough", "jump", "jump_indirect", "load_imm_and_jump", "load_imm_and_jump_indirect"}
)

#: Register names in the order of their numbers (specification, section 1).
REGISTERS: Final = ("ra", "sp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4", "a5")

#: Registers that carry arguments between host and guest, in order; results come back in the first two.
ARGUMENT_REGISTERS: Final = ("a0", "a1", "a2", "a3", "a4", "a5", "t0", "t1", "t2")

#: Most argument bytes an instruction can have.
MAX_SKIP: Final = 24
#: Distance between two valid code addresses; jump-table entry i has the address (i + 1) * 2.
CODE_ADDRESS_ALIGNMENT: Final = 2
#: Jumping here ends the call (the initial value of ra).
RETURN_TO_HOST: Final = 0xFFFF_0000

# name, format, then the opcode byte in revive_v1, latest32, latest64, jam_v1 ("-": not in that set)
_TABLE: Final = """
trap                                 NONE               0   0   0   0
fallthrough                          NONE               1   1   1   1
memset                               NONE               -   2   2   -
unlikely                             NONE               -   3   3   2
ecalli                               IMM               10  10  10  10
load_imm64                           REG_IMM64         20   -  20  20
store_imm_u8                         IMM_IMM           30  30  30  30
store_imm_u16                        IMM_IMM           31  31  31  31
store_imm_u32                        IMM_IMM           32  32  32  32
store_imm_u64                        IMM_IMM           33   -  33  33
jump                                 OFFSET            40  40  40  40
jump_indirect                        REG_IMM           50  50  50  50
load_imm                             REG_IMM           51  51  51  51
load_u8                              REG_IMM           52  52  52  52
load_i8                              REG_IMM           53  53  53  53
load_u16                             REG_IMM           54  54  54  54
load_i16                             REG_IMM           55  55  55  55
load_u32                             REG_IMM           56   -  56  56
load_i32                             REG_IMM           57  57  57  57
load_u64                             REG_IMM           58   -  58  58
store_u8                             REG_IMM           59  59  59  59
store_u16                            REG_IMM           60  60  60  60
store_u32                            REG_IMM           61  61  61  61
store_u64                            REG_IMM           62   -  62  62
store_imm_indirect_u8                REG_IMM_IMM       70  70  70  70
store_imm_indirect_u16               REG_IMM_IMM       71  71  71  71
store_imm_indirect_u32               REG_IMM_IMM       72  72  72  72
store_imm_indirect_u64               REG_IMM_IMM       73   -  73  73
load_imm_and_jump                    REG_IMM_OFFSET    80  80  80  80
branch_eq_imm                        REG_IMM_OFFSET    81  81  81  81
branch_not_eq_imm                    REG_IMM_OFFSET    82  82  82  82
branch_less_unsigned_imm             REG_IMM_OFFSET    83  83  83  83
branch_less_or_equal_unsigned_imm    REG_IMM_OFFSET    84  84  84  84
branch_greater_or_equal_unsigned_imm REG_IMM_OFFSET    85  85  85  85
branch_greater_unsigned_imm          REG_IMM_OFFSET    86  86  86  86
branch_less_signed_imm               REG_IMM_OFFSET    87  87  87  87
branch_less_or_equal_signed_imm      REG_IMM_OFFSET    88  88  88  88
branch_greater_or_equal_signed_imm   REG_IMM_OFFSET    89  89  89  89
branch_greater_signed_imm            REG_IMM_OFFSET    90  90  90  90
move_reg                             REG_REG          100 100 100 100
sbrk                                 REG_REG            - 101 101   -
count_set_bits_64                    REG_REG          102   - 102 101
count_set_bits_32                    REG_REG          103 103 103 102
count_leading_zero_bits_64           REG_REG          104   - 104 103
count_leading_zero_bits_32           REG_REG          105 105 105 104
count_trailing_zero_bits_64          REG_REG          106   - 106 105
count_trailing_zero_bits_32          REG_REG          107 107 107 106
sign_extend_8                        REG_REG          108 108 108 107
sign_extend_16                       REG_REG          109 109 109 108
zero_extend_16                       REG_REG          110 110 110 109
reverse_byte                         REG_REG          111 111 111 110
store_indirect_u8                    REG_REG_IMM      120 120 120 120
store_indirect_u16                   REG_REG_IMM      121 121 121 121
store_indirect_u32                   REG_REG_IMM      122 122 122 122
store_indirect_u64                   REG_REG_IMM      123   - 123 123
load_indirect_u8                     REG_REG_IMM      124 124 124 124
load_indirect_i8                     REG_REG_IMM      125 125 125 125
load_indirect_u16                    REG_REG_IMM      126 126 126 126
load_indirect_i16                    REG_REG_IMM      127 127 127 127
load_indirect_u32                    REG_REG_IMM      128   - 128 128
load_indirect_i32                    REG_REG_IMM      129 129 129 129
load_indirect_u64                    REG_REG_IMM      130   - 130 130
add_imm_32                           REG_REG_IMM      131 131 131 131
and_imm                              REG_REG_IMM      132 132 132 132
xor_imm                              REG_REG_IMM      133 133 133 133
or_imm                               REG_REG_IMM      134 134 134 134
mul_imm_32                           REG_REG_IMM      135 135 135 135
set_less_than_unsigned_imm           REG_REG_IMM      136 136 136 136
set_less_than_signed_imm             REG_REG_IMM      137 137 137 137
shift_logical_left_imm_32            REG_REG_IMM      138 138 138 138
shift_logical_right_imm_32           REG_REG_IMM      139 139 139 139
shift_arithmetic_right_imm_32        REG_REG_IMM      140 140 140 140
negate_and_add_imm_32                REG_REG_IMM      141 141 141 141
set_greater_than_unsigned_imm        REG_REG_IMM      142 142 142 142
set_greater_than_signed_imm          REG_REG_IMM      143 143 143 143
shift_logical_left_imm_alt_32        REG_REG_IMM      144 144 144 144
shift_logical_right_imm_alt_32       REG_REG_IMM      145 145 145 145
shift_arithmetic_right_imm_alt_32    REG_REG_IMM      146 146 146 146
cmov_if_zero_imm                     REG_REG_IMM      147 147 147 147
cmov_if_not_zero_imm                 REG_REG_IMM      148 148 148 148
add_imm_64                           REG_REG_IMM      149   - 149 149
mul_imm_64                           REG_REG_IMM      150   - 150 150
shift_logical_left_imm_64            REG_REG_IMM      151   - 151 151
shift_logical_right_imm_64           REG_REG_IMM      152   - 152 152
shift_arithmetic_right_imm_64        REG_REG_IMM      153   - 153 153
negate_and_add_imm_64                REG_REG_IMM      154   - 154 154
shift_logical_left_imm_alt_64        REG_REG_IMM      155   - 155 155
shift_logical_right_imm_alt_64       REG_REG_IMM      156   - 156 156
shift_arithmetic_right_imm_alt_64    REG_REG_IMM      157   - 157 157
rotate_right_imm_64                  REG_REG_IMM      158   - 158 158
rotate_right_imm_alt_64              REG_REG_IMM      159   - 159 159
rotate_right_imm_32                  REG_REG_IMM      160 160 160 160
rotate_right_imm_alt_32              REG_REG_IMM      161 161 161 161
branch_eq                            REG_REG_OFFSET   170 170 170 170
branch_not_eq                        REG_REG_OFFSET   171 171 171 171
branch_less_unsigned                 REG_REG_OFFSET   172 172 172 172
branch_less_signed                   REG_REG_OFFSET   173 173 173 173
branch_greater_or_equal_unsigned     REG_REG_OFFSET   174 174 174 174
branch_greater_or_equal_signed       REG_REG_OFFSET   175 175 175 175
load_imm_and_jump_indirect           REG_REG_IMM_IMM  180 180 180 180
add_32                               REG_REG_REG      190 190 190 190
sub_32                               REG_REG_REG      191 191 191 191
mul_32                               REG_REG_REG      192 192 192 192
div_unsigned_32                      REG_REG_REG      193 193 193 193
div_signed_32                        REG_REG_REG      194 194 194 194
rem_unsigned_32                      REG_REG_REG      195 195 195 195
rem_signed_32                        REG_REG_REG      196 196 196 196
shift_logical_left_32                REG_REG_REG      197 197 197 197
shift_logical_right_32               REG_REG_REG      198 198 198 198
shift_arithmetic_right_32            REG_REG_REG      199 199 199 199
add_64                               REG_REG_REG      200   - 200 200
sub_64                               REG_REG_REG      201   - 201 201
mul_64                               REG_REG_REG      202   - 202 202
div_unsigned_64                      REG_REG_REG      203   - 203 203
div_signed_64                        REG_REG_REG      204   - 204 204
rem_unsigned_64                      REG_REG_REG      205   - 205 205
rem_signed_64                        REG_REG_REG      206   - 206 206
shift_logical_left_64                REG_REG_REG      207   - 207 207
shift_logical_right_64               REG_REG_REG      208   - 208 208
shift_arithmetic_right_64            REG_REG_REG      209   - 209 209
and                                  REG_REG_REG      210 210 210 210
xor                                  REG_REG_REG      211 211 211 211
or                                   REG_REG_REG      212 212 212 212
mul_upper_signed_signed              REG_REG_REG      213 213 213 213
mul_upper_unsigned_unsigned          REG_REG_REG      214 214 214 214
mul_upper_signed_unsigned            REG_REG_REG      215 215 215 215
set_less_than_unsigned               REG_REG_REG      216 216 216 216
set_less_than_signed                 REG_REG_REG      217 217 217 217
cmov_if_zero                         REG_REG_REG      218 218 218 218
cmov_if_not_zero                     REG_REG_REG      219 219 219 219
rotate_left_64                       REG_REG_REG      220   - 220 220
rotate_left_32                       REG_REG_REG      221 221 221 221
rotate_right_64                      REG_REG_REG      222   - 222 222
rotate_right_32                      REG_REG_REG      223 223 223 223
and_inverted                         REG_REG_REG      224 224 224 224
or_inverted                          REG_REG_REG      225 225 225 225
xnor                                 REG_REG_REG      226 226 226 226
maximum                              REG_REG_REG      227 227 227 227
maximum_unsigned                     REG_REG_REG      228 228 228 228
minimum                              REG_REG_REG      229 229 229 229
minimum_unsigned                     REG_REG_REG      230 230 230 230
"""


def _parse(table: str) -> tuple[Opcode, ...]:
    opcodes = []
    for line in table.split("\n"):
        if line:
            name, fmt, *numbers = line.split()
            a, b, c, d = (None if n == "-" else int(n) for n in numbers)
            opcodes.append(Opcode(name, Format[fmt], (a, b, c, d)))
    return tuple(opcodes)


#: Every operation, in the order of the specification's table.
OPCODES: Final = _parse(_TABLE)
OPCODE_BY_NAME: Final = {opcode.name: opcode for opcode in OPCODES}


def _by_number(isa: InstructionSet) -> dict[int, Opcode]:
    return {number: opcode for opcode in OPCODES if (number := opcode.numbers[isa]) is not None}


#: ``OPCODE_BY_NUMBER[isa][byte]`` is the operation of that opcode byte; missing means invalid.
OPCODE_BY_NUMBER: Final = {isa: _by_number(isa) for isa in InstructionSet}
