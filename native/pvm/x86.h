/* SPDX-License-Identifier: MIT
 *
 * Encoder of the x86-64 instructions that the recompiler uses: one function per instruction form, each
 * choosing the shortest encoding. An operation code is the opcode byte plus X86_* flags for what comes
 * before it, so that every instruction goes through one of three heads: x86_rr, x86_rm, x86_rip (or x86_vex).
 *
 * Nothing is checked: the caller keeps X86_SLACK bytes free behind the instruction it writes.
 */
#ifndef PVM_X86_H
#define PVM_X86_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "inline.h"

/* Instructions are stored eight bytes at a time, so up to this much is overwritten behind the last one. */
#define X86_SLACK 8

enum x86_reg {
    X86_RAX, X86_RCX, X86_RDX, X86_RBX, X86_RSP, X86_RBP, X86_RSI, X86_RDI,
    X86_R8, X86_R9, X86_R10, X86_R11, X86_R12, X86_R13, X86_R14, X86_R15,
    X86_NO_REG, /* in a memory operand: no index */
};

/* Operand width; the value is REX.W. A 32-bit write clears the upper half of its register. */
enum x86_width { X86_32 = 0, X86_64 = 1 };

/* Conditions, as encoded. */
enum x86_cc {
    X86_B = 2, X86_AE = 3, X86_E = 4, X86_NE = 5, X86_BE = 6, X86_A = 7,
    X86_L = 12, X86_GE = 13, X86_LE = 14, X86_G = 15,
};

/* Two-operand arithmetic, as encoded in the 00..3f opcodes and in /n of 81 and 83. */
enum x86_alu { X86_ADD = 0, X86_OR = 1, X86_AND = 4, X86_SUB = 5, X86_XOR = 6, X86_CMP = 7 };

/* Shifts, as encoded in /n of c1 and d3. */
enum x86_shift { X86_ROL = 0, X86_ROR = 1, X86_SHL = 4, X86_SHR = 5, X86_SAR = 7 };

/* /n of f7. */
enum x86_unary { X86_NOT = 2, X86_NEG = 3, X86_MUL = 4, X86_IMUL = 5, X86_DIV = 6, X86_IDIV = 7 };

#define X86_0F 0x100u    /* opcode map 0f */
#define X86_66 0x200u    /* operand-size prefix */
#define X86_F3 0x400u    /* mandatory prefix */
#define X86_REG8 0x800u  /* the register operand is a byte: rsp..rdi need a REX prefix to mean spl..dil */
#define X86_RM8 0x1000u  /* the same for a register in the r/m position */
#define X86_ADDR32 0x2000u /* address-size prefix: the effective address is computed modulo 2^32 */

struct x86 {
    uint8_t *at; /* where the next byte goes */
};

struct x86_mem {
    unsigned base, index; /* enum x86_reg; X86_NO_REG: no index */
    unsigned scale;       /* 0..3: index times 1, 2, 4, 8 */
    int32_t disp;
};

/* --- bytes ------------------------------------------------------------------------------------------------- */

struct x86_bytes {
    uint64_t bits;
    unsigned count;
};

PVM_INLINE void x86_add(struct x86_bytes *bytes, uint64_t value, unsigned count)
{
    bytes->bits |= value << (8 * bytes->count);
    bytes->count += count;
}

/* The same if `condition`, without a branch: what an instruction needs is hard to predict for the CPU. */
PVM_INLINE void x86_add_if(struct x86_bytes *bytes, bool condition, uint64_t value)
{
    bytes->bits |= (value & -(uint64_t)condition) << (8 * bytes->count);
    bytes->count += condition;
}

/* Eight bytes anywhere. Stored as a type of their own, not as characters: the compiler need not fear that they
 * overwrite what it holds in registers, `at` foremost. */
struct __attribute__((packed)) x86_word {
    uint64_t bits;
};

PVM_INLINE void x86_put(struct x86 *e, uint64_t bits, unsigned count)
{
    ((struct x86_word *)(void *)e->at)->bits = bits;
    e->at += count;
}

PVM_INLINE bool x86_fits_i8(int64_t value)
{
    return value == (int8_t)value;
}

/* Prefixes, REX and opcode. `reg`, `index` and `rm` are register numbers; only bit 3 of the latter two counts. */
PVM_INLINE struct x86_bytes x86_head(uint32_t op, enum x86_width w, unsigned reg, unsigned index, unsigned rm)
{
    struct x86_bytes bytes = {0, 0};
    x86_add_if(&bytes, op & X86_ADDR32, 0x67);
    x86_add_if(&bytes, op & X86_66, 0x66);
    x86_add_if(&bytes, op & X86_F3, 0xf3);
    unsigned rex = (unsigned)w << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | rm >> 3;
    bool byte_rex = (((op & X86_REG8) != 0) & (reg >= X86_RSP)) | (((op & X86_RM8) != 0) & (rm >= X86_RSP));
    x86_add_if(&bytes, (rex != 0) | byte_rex, 0x40 | rex);
    x86_add_if(&bytes, op & X86_0F, 0x0f);
    x86_add(&bytes, op & 0xff, 1);
    return bytes;
}

/* --- heads: opcode and operands ---------------------------------------------------------------------------- */

/* reg, r/m register. `reg` may be an opcode extension. */
PVM_INLINE void x86_rr(struct x86 *e, uint32_t op, enum x86_width w, unsigned reg, unsigned rm)
{
    struct x86_bytes bytes = x86_head(op, w, reg, 0, rm);
    x86_add(&bytes, 0xc0 | (reg & 7) << 3 | (rm & 7), 1);
    x86_put(e, bytes.bits, bytes.count);
}

/* reg, [base + index * 2^scale + disp]. Computed, not branched for. */
PVM_INLINE void x86_rm(struct x86 *e, uint32_t op, enum x86_width w, unsigned reg, struct x86_mem mem)
{
    const unsigned no_index = X86_RSP;
    unsigned index = mem.index == X86_NO_REG ? no_index : mem.index;
    struct x86_bytes bytes = x86_head(op, w, reg, index, mem.base);
    /* no displacement, one byte or four; r/m 101 without one means rip: rbp and r13 need one */
    unsigned mod = (unsigned)((mem.disp != 0) | ((mem.base & 7) == X86_RBP)) + (unsigned)!x86_fits_i8(mem.disp);
    /* r/m 100 means that a SIB byte follows: rsp and r12 need one, as does any index */
    unsigned sib = (unsigned)((index != no_index) | ((mem.base & 7) == X86_RSP));
    unsigned rm = (mem.base & 7 & (sib - 1)) | sib << 2;
    x86_add(&bytes, mod << 6 | (reg & 7) << 3 | rm, 1);
    x86_add_if(&bytes, sib, mem.scale << 6 | (index & 7) << 3 | (mem.base & 7));
    x86_put(e, bytes.bits, bytes.count);
    x86_put(e, (uint32_t)mem.disp, mod << mod >> 1); /* 0, 1 or 4 bytes */
}

/* reg, [disp], sign-extended: r/m 100 and a SIB byte with neither base nor index. */
PVM_INLINE void x86_rm_absolute(struct x86 *e, uint32_t op, enum x86_width w, unsigned reg, int32_t disp)
{
    struct x86_bytes bytes = x86_head(op, w, reg, 0, 0);
    x86_add(&bytes, (reg & 7) << 3 | 4, 1);
    x86_add(&bytes, X86_RSP << 3 | X86_RBP, 1);
    x86_put(e, bytes.bits, bytes.count);
    x86_put(e, (uint32_t)disp, 4);
}

/* reg, [rip + x], where `target` is the address meant. No immediate may follow. */
PVM_INLINE void x86_rip(struct x86 *e, uint32_t op, enum x86_width w, unsigned reg, const uint8_t *base, int64_t target)
{
    struct x86_bytes bytes = x86_head(op, w, reg, 0, 0);
    x86_add(&bytes, (reg & 7) << 3 | 5, 1);
    x86_put(e, bytes.bits, bytes.count);
    x86_put(e, (uint32_t)(target - (e->at + 4 - base)), 4);
}

/* VEX-encoded reg, r/m register and vvvv. `map` 2 is 0f38, 3 is 0f3a; `pp` 1 is 66, 2 is f3, 3 is f2. */
PVM_INLINE void x86_vex(struct x86 *e, unsigned map, unsigned pp, unsigned op, enum x86_width w, unsigned reg,
                           unsigned rm, unsigned vvvv)
{
    struct x86_bytes bytes = {0, 0};
    x86_add(&bytes, 0xc4, 1);
    x86_add(&bytes, (~reg >> 3 & 1) << 7 | 0x40 | (~rm >> 3 & 1) << 5 | map, 1);
    x86_add(&bytes, (unsigned)w << 7 | (~vvvv & 15) << 3 | pp, 1);
    x86_add(&bytes, op, 1);
    x86_add(&bytes, 0xc0 | (reg & 7) << 3 | (rm & 7), 1);
    x86_put(e, bytes.bits, bytes.count);
}

/* --- moves ------------------------------------------------------------------------------------------------- */

PVM_INLINE void x86_mov(struct x86 *e, enum x86_width w, unsigned dst, unsigned src)
{
    x86_rr(e, 0x8b, w, dst, src);
}

/* dst = sign extension of the low half of src. */
PVM_INLINE void x86_movsxd(struct x86 *e, unsigned dst, unsigned src)
{
    x86_rr(e, 0x63, X86_64, dst, src);
}

/* dst = value, all 64 bits. Writes the flags if the value is 0. */
PVM_INLINE void x86_mov_imm(struct x86 *e, unsigned dst, int64_t value)
{
    if (value == (int64_t)(uint32_t)value) { /* mov r32, imm32; xor r32, r32 for 0 */
        const bool zero = value == 0;
        struct x86_bytes bytes = x86_head(zero ? 0x33 : 0xb8 | (dst & 7), X86_32, zero ? dst : 0, 0, dst);
        x86_add(&bytes, zero ? 0xc0 | (dst & 7) * 9 : (uint64_t)value, zero ? 1 : 4);
        x86_put(e, bytes.bits, bytes.count);
    } else if (value == (int32_t)value) {
        x86_rr(e, 0xc7, X86_64, 0, dst);
        x86_put(e, (uint32_t)value, 4);
    } else {
        struct x86_bytes bytes = x86_head(0xb8 | (dst & 7), X86_64, 0, 0, dst);
        x86_put(e, bytes.bits, bytes.count);
        x86_put(e, (uint64_t)value, 8);
    }
}

PVM_INLINE void x86_cmov(struct x86 *e, enum x86_width w, enum x86_cc cc, unsigned dst, unsigned src)
{
    x86_rr(e, X86_0F | 0x40 | cc, w, dst, src);
}

PVM_INLINE void x86_setcc(struct x86 *e, enum x86_cc cc, unsigned dst)
{
    x86_rr(e, X86_0F | X86_RM8 | 0x90 | cc, X86_32, 0, dst);
}

PVM_INLINE void x86_movzx8(struct x86 *e, unsigned dst, unsigned src)
{
    x86_rr(e, X86_0F | X86_RM8 | 0xb6, X86_32, dst, src);
}

PVM_INLINE void x86_movzx16(struct x86 *e, unsigned dst, unsigned src)
{
    x86_rr(e, X86_0F | 0xb7, X86_32, dst, src);
}

PVM_INLINE void x86_movsx8(struct x86 *e, enum x86_width w, unsigned dst, unsigned src)
{
    x86_rr(e, X86_0F | X86_RM8 | 0xbe, w, dst, src);
}

PVM_INLINE void x86_movsx16(struct x86 *e, enum x86_width w, unsigned dst, unsigned src)
{
    x86_rr(e, X86_0F | 0xbf, w, dst, src);
}

/* --- arithmetic -------------------------------------------------------------------------------------------- */

PVM_INLINE void x86_alu(struct x86 *e, enum x86_width w, enum x86_alu op, unsigned dst, unsigned src)
{
    x86_rr(e, (uint32_t)op << 3 | 3, w, dst, src);
}

PVM_INLINE void x86_test(struct x86 *e, enum x86_width w, unsigned a, unsigned b)
{
    x86_rr(e, 0x85, w, a, b);
}

/* A comparison with 0 is a test, which sets the same flags. */
PVM_INLINE void x86_alu_imm(struct x86 *e, enum x86_width w, enum x86_alu op, unsigned dst, int32_t imm)
{
    const bool test = (op == X86_CMP) & (imm == 0), small = x86_fits_i8(imm);
    x86_rr(e, test ? 0x85 : small ? 0x83 : 0x81, w, test ? dst : (unsigned)op, dst);
    x86_put(e, (uint32_t)imm, test ? 0 : small ? 1 : 4);
}

PVM_INLINE void x86_unary(struct x86 *e, enum x86_width w, enum x86_unary op, unsigned operand)
{
    x86_rr(e, 0xf7, w, op, operand);
}

PVM_INLINE void x86_imul(struct x86 *e, enum x86_width w, unsigned dst, unsigned src)
{
    x86_rr(e, X86_0F | 0xaf, w, dst, src);
}

PVM_INLINE void x86_imul_imm(struct x86 *e, enum x86_width w, unsigned dst, unsigned src, int32_t imm)
{
    bool small = x86_fits_i8(imm);
    x86_rr(e, small ? 0x6b : 0x69, w, dst, src);
    x86_put(e, (uint32_t)imm, small ? 1 : 4);
}

PVM_INLINE void x86_shift_imm(struct x86 *e, enum x86_width w, enum x86_shift op, unsigned dst, unsigned count)
{
    x86_rr(e, count == 1 ? 0xd1 : 0xc1, w, op, dst);
    if (count != 1)
        x86_put(e, count, 1);
}

/* Shift by cl. */
PVM_INLINE void x86_shift_cl(struct x86 *e, enum x86_width w, enum x86_shift op, unsigned dst)
{
    x86_rr(e, 0xd3, w, op, dst);
}

/* shlx, shrx, sarx: dst = value shifted by count; BMI2. */
PVM_INLINE void x86_shiftx(struct x86 *e, enum x86_width w, enum x86_shift op, unsigned dst, unsigned value,
                              unsigned count)
{
    x86_vex(e, 2, op == X86_SHL ? 1 : op == X86_SAR ? 2 : 3, 0xf7, w, dst, value, count);
}

/* dst = value rotated right; BMI2. */
PVM_INLINE void x86_rorx(struct x86 *e, enum x86_width w, unsigned dst, unsigned value, unsigned count)
{
    x86_vex(e, 3, 3, 0xf0, w, dst, value, 0);
    x86_put(e, count, 1);
}

/* dst = a & ~b; BMI1. */
PVM_INLINE void x86_andn(struct x86 *e, enum x86_width w, unsigned dst, unsigned a, unsigned b)
{
    x86_vex(e, 2, 0, 0xf2, w, dst, a, b);
}

PVM_INLINE void x86_bswap(struct x86 *e, enum x86_width w, unsigned dst)
{
    struct x86_bytes bytes = x86_head(X86_0F | 0xc8 | (dst & 7), w, 0, 0, dst);
    x86_put(e, bytes.bits, bytes.count);
}

/* dst = base + disp */
PVM_INLINE void x86_lea(struct x86 *e, enum x86_width w, unsigned dst, unsigned base, int32_t disp)
{
    x86_rm(e, 0x8d, w, dst, (struct x86_mem){.base = base, .index = X86_NO_REG, .disp = disp});
}

/* dst = a + b */
PVM_INLINE void x86_lea_sum(struct x86 *e, enum x86_width w, unsigned dst, unsigned a, unsigned b)
{
    bool swap = (a & 7) == X86_RBP; /* rbp and r13 as base cost a displacement, as index they do not */
    x86_rm(e, 0x8d, w, dst, (struct x86_mem){.base = swap ? b : a, .index = swap ? a : b});
}

/* Sign-extends rax into rdx: cdq or cqo. */
PVM_INLINE void x86_sign_into_rdx(struct x86 *e, enum x86_width w)
{
    struct x86_bytes bytes = x86_head(0x99, w, 0, 0, 0);
    x86_put(e, bytes.bits, bytes.count);
}

/* --- control flow ------------------------------------------------------------------------------------------ */

static const uint8_t x86_ud2_bytes[2] = {0x0f, 0x0b};

PVM_INLINE void x86_ud2(struct x86 *e)
{
    x86_put(e, 0x0b0f, 2);
}

/* Jumps over what comes next, until x86_land; returns what x86_land wants. */
PVM_INLINE uint8_t *x86_jcc_over(struct x86 *e, enum x86_cc cc)
{
    x86_put(e, 0x70u | cc, 2);
    return e->at;
}

PVM_INLINE uint8_t *x86_jmp_over(struct x86 *e)
{
    x86_put(e, 0xeb, 2);
    return e->at;
}

PVM_INLINE void x86_land(struct x86 *e, uint8_t *jump)
{
    jump[-1] = (uint8_t)(e->at - jump);
}

#endif
