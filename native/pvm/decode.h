/* SPDX-License-Identifier: MIT
 *
 * Reading guest code: where instructions begin and end, what their arguments are, and where a jump may land
 * (specification, sections 4 and 5). Every function accepts any code and any bitmask.
 */
#ifndef PVM_DECODE_H
#define PVM_DECODE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "inline.h"
#include "opcodes.h"
#include "recompiler.h"

/* No instruction is longer, and none is looked for further back than this. */
#define PVM_MAX_INSTRUCTION_LENGTH (PVM_MAX_SKIP + 1u)

/* More bytes than are read of any instruction's arguments. */
#define PVM_ARGS_SIZE 16u

struct pvm_decoded {
    uint32_t pc;
    uint32_t next;    /* pc of the instruction after it */
    uint32_t target;  /* of a static jump; formats with an offset */
    uint8_t op;       /* enum pvm_op */
    uint8_t a, b, d;  /* registers, below PVM_REGISTER_COUNT */
    int32_t y;
    int64_t x;        /* a 32-bit immediate but for load_imm64 */
};

/* --- bitmask ----------------------------------------------------------------------------------------------- */

static inline bool pvm_has_instruction(const struct pvm_program *program, uint32_t pc)
{
    return pc < program->code_size && (program->bitmask[pc >> 3] >> (pc & 7) & 1);
}

/* At least 57 bits of the bitmask from bit `pc` on; zeros behind its last byte. */
static inline uint64_t pvm_bitmask_window(const struct pvm_program *program, uint32_t pc)
{
    uint32_t first = pc >> 3, size = (program->code_size + 7) >> 3;
    uint64_t bits = 0;
    if (first + sizeof bits <= size)
        memcpy(&bits, program->bitmask + first, sizeof bits);
    else if (first < size)
        memcpy(&bits, program->bitmask + first, size - first);
    return bits >> (pc & 7);
}

/* The 64 bits of the bitmask from bit `pc`, a multiple of 64, on; zeros behind the code. */
static inline uint64_t pvm_bitmask_word(const struct pvm_program *program, uint32_t pc)
{
    uint64_t bits = pvm_bitmask_window(program, pc);
    if (pc >= program->code_size)
        return 0;
    const uint32_t rest = program->code_size - pc;
    return rest < 64 ? bits & ((UINT64_C(1) << rest) - 1) : bits;
}

/* The pc of the first instruction at or after `pc`, or code_size. */
static inline uint32_t pvm_seek_instruction(const struct pvm_program *program, uint32_t pc)
{
    while (pc < program->code_size) {
        uint64_t bits = pvm_bitmask_window(program, pc);
        if (bits) {
            pc += (uint32_t)__builtin_ctzll(bits);
            return pc < program->code_size ? pc : program->code_size;
        }
        pc += 57;
    }
    return program->code_size;
}

/* --- instructions ------------------------------------------------------------------------------------------ */

static inline enum pvm_op pvm_op_at(const struct pvm_program *program, uint32_t pc)
{
    return (enum pvm_op)pvm_op_of_byte[program->isa][program->code[pc]];
}

struct pvm_extent {
    uint32_t skip; /* argument bytes */
    bool goes_on;  /* whether an instruction follows */
};

static inline struct pvm_extent pvm_extent(const struct pvm_program *program, uint32_t pc)
{
    const uint64_t bits = pvm_bitmask_window(program, pc + 1);
    const uint32_t skip = (uint32_t)__builtin_ctzll(bits | UINT64_C(1) << PVM_MAX_SKIP);
    const uint32_t rest = program->code_size - pc - 1;
    if (skip < rest)
        return (struct pvm_extent){skip, bits >> skip & 1};
    return (struct pvm_extent){rest, false};
}

/* Argument bytes of the instruction at `pc`. */
static inline uint32_t pvm_skip(const struct pvm_program *program, uint32_t pc)
{
    return pvm_extent(program, pc).skip;
}

static inline uint8_t pvm_register(uint32_t nibble)
{
    nibble &= 15;
    return (uint8_t)(nibble < PVM_REGISTER_COUNT ? nibble : PVM_REGISTER_COUNT - 1);
}

/* Sign-extended immediate of `length` (0..4) bytes. */
static inline int32_t pvm_immediate(const uint8_t *bytes, uint32_t length)
{
    uint32_t value, unused = 32 - 8 * length;
    memcpy(&value, bytes, sizeof value);
    return (int32_t)((int64_t)((uint64_t)value << 32 << unused) >> 32 >> unused); /* two steps: 64 is too far */
}

static inline uint32_t pvm_clamp_length(int32_t length)
{
    length = length < 0 ? 0 : length;
    return length > 4 ? 4 : (uint32_t)length;
}

/* Where the immediates of a format are. */
struct pvm_layout {
    uint8_t first;   /* argument bytes before the first immediate */
    uint8_t shift;   /* of its length in the first two argument bytes, if there are two immediates */
    bool two;
    bool offset_is_y; /* the jump offset is the second immediate */
    bool d_first;     /* the low register is the destination, the high one a */
};

static const struct pvm_layout pvm_layout_of_format[] = {
    [PVM_FORMAT_NONE] = {0},
    [PVM_FORMAT_IMM] = {.first = 0},
    [PVM_FORMAT_OFFSET] = {.first = 0},
    [PVM_FORMAT_IMM_IMM] = {.first = 1, .shift = 0, .two = true},
    [PVM_FORMAT_REG_IMM] = {.first = 1},
    [PVM_FORMAT_REG_IMM_IMM] = {.first = 1, .shift = 4, .two = true},
    [PVM_FORMAT_REG_IMM_OFFSET] = {.first = 1, .shift = 4, .two = true, .offset_is_y = true},
    [PVM_FORMAT_REG_REG_IMM] = {.first = 1},
    [PVM_FORMAT_REG_REG_OFFSET] = {.first = 1},
    [PVM_FORMAT_REG_REG_IMM_IMM] = {.first = 2, .shift = 8, .two = true},
    [PVM_FORMAT_REG_IMM64] = {.first = 1},
    [PVM_FORMAT_REG_REG] = {.first = 1, .d_first = true},
    [PVM_FORMAT_REG_REG_REG] = {.first = 2},
};

/* Decodes the arguments of an instruction of operation `op`: `skip` bytes at `args`, from where PVM_ARGS_SIZE bytes
 * may be read. Fields that its format lacks hold anything. Inlined with a constant `op`, nothing is left of the
 * tables but the loads and shifts of that one format. */
PVM_INLINE struct pvm_decoded pvm_decode_as(enum pvm_op op, const uint8_t *args, uint32_t pc, uint32_t skip)
{
    const struct pvm_layout layout = pvm_layout_of_format[pvm_format_of_op[op]];
    uint32_t head = args[0] | (uint32_t)args[1] << 8;
    uint32_t all = pvm_clamp_length((int32_t)skip - layout.first);
    uint32_t some = pvm_clamp_length((int32_t)(head >> layout.shift & 7));
    uint32_t x_length = layout.two ? some : all;
    uint32_t y_length = pvm_clamp_length((int32_t)skip - layout.first - (int32_t)x_length);
    int32_t x = pvm_immediate(args + layout.first, x_length);
    int32_t y = pvm_immediate(args + layout.first + x_length, y_length);
    uint8_t low = pvm_register(head), high = pvm_register(head >> 4), third = pvm_register(head >> 8);

    struct pvm_decoded i = {
        .pc = pc,
        .next = pc + 1 + skip,
        .target = pc + (uint32_t)(layout.offset_is_y ? y : x),
        .op = (uint8_t)op,
        .a = layout.d_first ? high : low,
        .b = high,
        .d = layout.d_first ? low : third,
        .x = x,
        .y = y,
    };
    if (op == PVM_OP_load_imm64)
        memcpy(&i.x, args + 1, sizeof i.x);
    return i;
}

/* The argument bytes of the instruction at `pc`, where PVM_ARGS_SIZE bytes may be read: in `padded` if the code
 * ends before. */
static inline const uint8_t *pvm_args(const struct pvm_program *program, uint32_t pc, uint8_t padded[PVM_ARGS_SIZE])
{
    const uint8_t *args = program->code + pc + 1;
    uint32_t rest = program->code_size - pc - 1;
    if (__builtin_expect(rest >= PVM_ARGS_SIZE, true))
        return args;
    memset(padded, 0, PVM_ARGS_SIZE);
    memcpy(padded, args, rest);
    return padded;
}

/* Decodes the instruction at `pc`, where there must be one. */
static inline struct pvm_decoded pvm_decode(const struct pvm_program *program, uint32_t pc)
{
    uint8_t padded[PVM_ARGS_SIZE];
    return pvm_decode_as(pvm_op_at(program, pc), pvm_args(program, pc, padded), pc, pvm_skip(program, pc));
}

/* Whether control passes from an instruction to the one behind it, in any case. */
static inline bool pvm_falls_through(enum pvm_op op)
{
    switch (op) {
    case PVM_OP_invalid:
    case PVM_OP_trap:
    case PVM_OP_jump:
    case PVM_OP_jump_indirect:
    case PVM_OP_load_imm_and_jump:
    case PVM_OP_load_imm_and_jump_indirect:
        return false;
    default:
        return true;
    }
}

/* Whether a jump may land at `pc`: an instruction that starts a basic block. */
static inline bool pvm_is_jump_target(const struct pvm_program *program, uint32_t pc)
{
    if (!pvm_has_instruction(program, pc))
        return false;
    if (pc == 0)
        return true;
    uint32_t first = pc > PVM_MAX_INSTRUCTION_LENGTH ? pc - PVM_MAX_INSTRUCTION_LENGTH : 0;
    uint64_t bits = pvm_bitmask_window(program, first) & ((UINT64_C(1) << (pc - first)) - 1);
    if (bits == 0)
        return false;
    enum pvm_op op = pvm_op_at(program, first + 63 - (uint32_t)__builtin_clzll(bits));
    return op != PVM_OP_invalid && pvm_op_ends_block[op];
}

#endif
