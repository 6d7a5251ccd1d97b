/* SPDX-License-Identifier: MIT
 *
 * The native code of each guest instruction (specification, sections 6 and 7).
 *
 * Two rules hold for all of them. A guest register changes only when nothing in its instruction can fault
 * any more. And every instruction stands alone: the host may enter at any of them, so nothing is carried
 * from one to the next, neither in scratch registers nor in flags.
 */
#include "emitter.h"

#include <assert.h>
#include <stddef.h>

/* --- helpers ----------------------------------------------------------------------------------------------- */

/* The sign extension of a 32-bit value as the guest's register holds it. */
static int64_t constant(const struct pvm_emitter *e, int64_t value)
{
    return e->w == X86_64 ? value : (int64_t)(uint32_t)value;
}

static void move(struct pvm_emitter *e, enum x86_width w, unsigned d, unsigned s)
{
    if (d != s)
        x86_mov(&e->x86, w, d, s);
}

/* d = the result s of a w-bit operation: 32-bit results are sign-extended where registers are wider. */
static void widen(struct pvm_emitter *e, enum x86_width w, unsigned d, unsigned s)
{
    if (w < e->w)
        x86_movsxd(&e->x86, d, s);
    else
        move(e, w, d, s);
}

/* --- arithmetic -------------------------------------------------------------------------------------------- */

/* d = a op b */
static void arith(struct pvm_emitter *e, enum x86_width w, enum x86_alu op, unsigned d, unsigned a, unsigned b)
{
    if (d == a) {
        x86_alu(&e->x86, w, op, d, b);
    } else if (d == b && op == X86_SUB) {
        x86_unary(&e->x86, w, X86_NEG, d);
        x86_alu(&e->x86, w, X86_ADD, d, a);
    } else if (d == b) {
        x86_alu(&e->x86, w, op, d, a);
    } else if (op == X86_ADD) {
        x86_lea_sum(&e->x86, w, d, a, b);
    } else {
        x86_mov(&e->x86, w, d, a);
        x86_alu(&e->x86, w, op, d, b);
    }
    widen(e, w, d, d);
}

/* d = b + x. Where d is b, lea is as short as an addition, and the recompiler need not look. */
static void add_imm(struct pvm_emitter *e, enum x86_width w, unsigned d, unsigned b, int32_t x)
{
    if (x == 0) {
        widen(e, w, d, b);
        return;
    }
    x86_lea(&e->x86, w, d, b, x);
    widen(e, w, d, d);
}

/* d = x - b */
static void negate_and_add_imm(struct pvm_emitter *e, enum x86_width w, unsigned d, unsigned b, int32_t x)
{
    if (d == b || x == 0) {
        move(e, w, d, b);
        x86_unary(&e->x86, w, X86_NEG, d);
        if (x != 0)
            x86_alu_imm(&e->x86, w, X86_ADD, d, x);
    } else {
        x86_mov_imm(&e->x86, d, w == X86_64 ? (int64_t)x : (int64_t)(uint32_t)x);
        x86_alu(&e->x86, w, X86_SUB, d, b);
    }
    widen(e, w, d, d);
}

static void and_imm(struct pvm_emitter *e, unsigned d, unsigned b, int32_t x)
{
    if (x == 0) {
        x86_mov_imm(&e->x86, d, 0);
    } else if (x == -1) {
        move(e, e->w, d, b);
    } else if (x == 0xff) {
        x86_movzx8(&e->x86, d, b);
    } else if (x == 0xffff) {
        x86_movzx16(&e->x86, d, b);
    } else {
        enum x86_width w = x > 0 ? X86_32 : e->w; /* the upper half of the result is zero */
        move(e, w, d, b);
        x86_alu_imm(&e->x86, w, X86_AND, d, x);
    }
}

/* d = b op x, for or and xor */
static void logic_imm(struct pvm_emitter *e, enum x86_alu op, unsigned d, unsigned b, int32_t x)
{
    move(e, e->w, d, b);
    if (op == X86_XOR && x == -1)
        x86_unary(&e->x86, e->w, X86_NOT, d);
    else if (x != 0)
        x86_alu_imm(&e->x86, e->w, op, d, x);
}

static void multiply(struct pvm_emitter *e, enum x86_width w, unsigned d, unsigned a, unsigned b)
{
    if (d == b) {
        x86_imul(&e->x86, w, d, a);
    } else {
        move(e, w, d, a);
        x86_imul(&e->x86, w, d, b);
    }
    widen(e, w, d, d);
}

/* d = ~(a ^ b) */
static void xnor(struct pvm_emitter *e, unsigned d, unsigned a, unsigned b)
{
    arith(e, e->w, X86_XOR, d, a, b);
    x86_unary(&e->x86, e->w, X86_NOT, d);
}

/* d = a | ~b */
static void or_inverted(struct pvm_emitter *e, unsigned d, unsigned a, unsigned b)
{
    unsigned inverted = d == a ? TMP0 : d;
    move(e, e->w, inverted, b);
    x86_unary(&e->x86, e->w, X86_NOT, inverted);
    x86_alu(&e->x86, e->w, X86_OR, d, d == a ? TMP0 : a);
}

static void reverse_byte(struct pvm_emitter *e, unsigned d, unsigned a)
{
    move(e, e->w, d, a);
    x86_bswap(&e->x86, e->w, d);
}

/* --- multiplication and division: rax and rdx are guest registers -------------------------------------------- */

/* Where the value of register r is once rax is saved in TMP0 and rdx in tmp1. */
static unsigned saved(const struct pvm_emitter *e, unsigned r)
{
    return r == X86_RAX ? TMP0 : r == X86_RDX ? e->tmp1 : r;
}

/* d = the upper 64 bits of a * b */
static void multiply_upper_64(struct pvm_emitter *e, unsigned d, unsigned a, unsigned b, bool a_signed, bool b_signed)
{
    struct x86 *x = &e->x86;
    x86_mov(x, X86_64, TMP0, X86_RAX);
    x86_mov(x, X86_64, e->tmp1, X86_RDX);
    move(e, X86_64, X86_RAX, a);
    x86_unary(x, X86_64, a_signed && b_signed ? X86_IMUL : X86_MUL, b == X86_RAX ? TMP0 : b);
    if (a_signed && !b_signed) { /* a negative a was taken for a + 2^64: 2^64 * b too much */
        move(e, X86_64, X86_RAX, saved(e, a));
        x86_shift_imm(x, X86_64, X86_SAR, X86_RAX, 63);
        x86_alu(x, X86_64, X86_AND, X86_RAX, saved(e, b));
        x86_alu(x, X86_64, X86_SUB, X86_RDX, X86_RAX);
    }
    move(e, X86_64, d, X86_RDX);
    if (d != X86_RAX)
        x86_mov(x, X86_64, X86_RAX, TMP0);
    if (d != X86_RDX)
        x86_mov(x, X86_64, X86_RDX, e->tmp1);
}

/* d = the upper 32 bits of a * b; latest32 */
static void multiply_upper_32(struct pvm_emitter *e, unsigned d, unsigned a, unsigned b, bool a_signed, bool b_signed)
{
    struct x86 *x = &e->x86;
    if (a_signed)
        x86_movsxd(x, TMP0, a);
    else
        x86_mov(x, X86_32, TMP0, a);
    if (b_signed) {
        x86_movsxd(x, e->tmp1, b);
        b = e->tmp1;
    }
    x86_imul(x, X86_64, TMP0, b);
    x86_shift_imm(x, X86_64, X86_SHR, TMP0, 32);
    x86_mov(x, X86_32, d, TMP0);
}

static void multiply_upper(struct pvm_emitter *e, unsigned d, unsigned a, unsigned b, bool a_signed, bool b_signed)
{
    if (e->w == X86_64)
        multiply_upper_64(e, d, a, b, a_signed, b_signed);
    else
        multiply_upper_32(e, d, a, b, a_signed, b_signed);
}

/* d = a / b or a % b. The divisors for which the CPU may raise #DE, 0 and (signed) -1, take another path. */
static void divide(struct pvm_emitter *e, enum x86_width w, unsigned d, unsigned a, unsigned b, bool is_signed,
                   bool remainder)
{
    struct x86 *x = &e->x86;
    uint8_t *special, *done;
    if (is_signed) {
        x86_lea(x, w, TMP0, b, 1);
        x86_alu_imm(x, w, X86_CMP, TMP0, 1);
        special = x86_jcc_over(x, X86_BE);
    } else {
        x86_test(x, w, b, b);
        special = x86_jcc_over(x, X86_E);
    }

    if (d != X86_RAX || b == X86_RAX)
        x86_mov(x, X86_64, TMP0, X86_RAX);
    if (d != X86_RDX || b == X86_RDX)
        x86_mov(x, X86_64, e->tmp1, X86_RDX);
    move(e, w, X86_RAX, a);
    if (is_signed)
        x86_sign_into_rdx(x, w);
    else
        x86_mov_imm(x, X86_RDX, 0);
    x86_unary(x, w, is_signed ? X86_IDIV : X86_DIV, saved(e, b));
    widen(e, w, d, remainder ? X86_RDX : X86_RAX);
    if (d != X86_RAX)
        x86_mov(x, X86_64, X86_RAX, TMP0);
    if (d != X86_RDX)
        x86_mov(x, X86_64, X86_RDX, e->tmp1);
    done = x86_jmp_over(x);

    x86_land(x, special);
    if (is_signed && remainder) { /* TMP0 is 1 for a % 0 = a, 0 for a % -1 = 0 */
        x86_imul(x, w, TMP0, a);
        widen(e, w, d, TMP0);
    } else if (is_signed) { /* TMP0 is 1 for a / 0 = -1, 0 for a / -1 = -a */
        x86_mov(x, w, e->tmp1, a);
        x86_unary(x, w, X86_NEG, e->tmp1);
        widen(e, w, e->tmp1, e->tmp1);
        x86_test(x, X86_32, TMP0, TMP0);
        x86_mov_imm(x, d, constant(e, -1));
        x86_cmov(x, e->w, X86_E, d, e->tmp1);
    } else if (remainder) {
        widen(e, w, d, a);
    } else {
        x86_mov_imm(x, d, constant(e, -1));
    }
    x86_land(x, done);
}

/* --- shifts ------------------------------------------------------------------------------------------------ */

static bool has_shiftx(const struct pvm_emitter *e, enum x86_shift op)
{
    return e->bmi2 && (op == X86_SHL || op == X86_SHR || op == X86_SAR);
}

/* d = a shifted by b; the CPU masks the count */
static void shift(struct pvm_emitter *e, enum x86_width w, enum x86_shift op, unsigned d, unsigned a, unsigned b)
{
    if (has_shiftx(e, op)) {
        x86_shiftx(&e->x86, w, op, d, a, b);
    } else {
        x86_mov(&e->x86, X86_32, TMP0, b);
        move(e, w, d, a);
        x86_shift_cl(&e->x86, w, op, d);
    }
    widen(e, w, d, d);
}

/* d = b shifted by a constant */
static void shift_imm(struct pvm_emitter *e, enum x86_width w, enum x86_shift op, unsigned d, unsigned b, int64_t x)
{
    unsigned count = (unsigned)x & (w == X86_64 ? 63 : 31);
    if (count == 0) {
        widen(e, w, d, b);
    } else if (op == X86_SAR) { /* extending first is as good, and saves a move */
        widen(e, w, d, b);
        x86_shift_imm(&e->x86, e->w, op, d, count);
    } else if (op == X86_SHR) { /* the result is not negative */
        move(e, w, d, b);
        x86_shift_imm(&e->x86, w, op, d, count);
    } else {
        if (op == X86_ROR && e->bmi2 && d != b) {
            x86_rorx(&e->x86, w, d, b, count);
        } else if (op == X86_SHL && count == 1 && d != b) {
            x86_lea_sum(&e->x86, w, d, b, b);
        } else {
            move(e, w, d, b);
            x86_shift_imm(&e->x86, w, op, d, count);
        }
        widen(e, w, d, d);
    }
}

/* d = a constant shifted by b */
static void shift_imm_alt(struct pvm_emitter *e, enum x86_width w, enum x86_shift op, unsigned d, unsigned b, int64_t x)
{
    int64_t value = w == X86_64 ? x : (int64_t)(uint32_t)x;
    if (has_shiftx(e, op)) {
        unsigned source = d == b ? e->tmp1 : d;
        x86_mov_imm(&e->x86, source, value);
        x86_shiftx(&e->x86, w, op, d, source, b);
    } else {
        x86_mov(&e->x86, X86_32, TMP0, b);
        x86_mov_imm(&e->x86, d, value);
        x86_shift_cl(&e->x86, w, op, d);
    }
    widen(e, w, d, d);
}

/* --- comparisons ------------------------------------------------------------------------------------------- */

/* d = (a cc b) */
static void set(struct pvm_emitter *e, enum x86_cc cc, unsigned d, unsigned a, unsigned b)
{
    bool clear_first = d != a && d != b;
    if (clear_first)
        x86_mov_imm(&e->x86, d, 0);
    x86_alu(&e->x86, e->w, X86_CMP, a, b);
    x86_setcc(&e->x86, cc, d);
    if (!clear_first)
        x86_movzx8(&e->x86, d, d);
}

/* d = (b cc x) */
static void set_imm(struct pvm_emitter *e, enum x86_cc cc, unsigned d, unsigned b, int32_t x)
{
    if (d != b)
        x86_mov_imm(&e->x86, d, 0);
    x86_alu_imm(&e->x86, e->w, X86_CMP, b, x);
    x86_setcc(&e->x86, cc, d);
    if (d == b)
        x86_movzx8(&e->x86, d, d);
}

/* if (b cc 0) d = a */
static void cmov(struct pvm_emitter *e, enum x86_cc cc, unsigned d, unsigned a, unsigned b)
{
    x86_test(&e->x86, e->w, b, b);
    x86_cmov(&e->x86, e->w, cc, d, a);
}

static void cmov_imm(struct pvm_emitter *e, enum x86_cc cc, unsigned d, unsigned b, int64_t x)
{
    x86_mov_imm(&e->x86, e->tmp1, constant(e, x));
    cmov(e, cc, d, e->tmp1, b);
}

/* d = (a cc b) ? b : a */
static void select_by(struct pvm_emitter *e, enum x86_cc cc, unsigned d, unsigned a, unsigned b)
{
    unsigned other = b;
    if (d == b)
        other = a; /* minima and maxima commute */
    else
        move(e, e->w, d, a);
    x86_alu(&e->x86, e->w, X86_CMP, d, other);
    x86_cmov(&e->x86, e->w, cc, d, other);
}

/* --- control flow ------------------------------------------------------------------------------------------ */

static void trap(struct pvm_emitter *e)
{
    x86_ud2(&e->x86);
}

/* A branch with nothing behind it panics even if it is not taken. */
static bool branch_traps(struct pvm_emitter *e)
{
    if (!e->goes_on)
        trap(e);
    return !e->goes_on;
}

/* A jump to nowhere panics with the register written. */
static void load_imm_and_jump(struct pvm_emitter *e, unsigned a, const struct pvm_decoded *i)
{
    x86_mov_imm(&e->x86, a, constant(e, i->x));
    e->body = pvm_native_offset(e);
    pvm_emit_jump(e, i->target);
}

static void branch(struct pvm_emitter *e, enum x86_cc cc, const struct pvm_decoded *i)
{
    if (branch_traps(e))
        return;
    x86_alu(&e->x86, e->w, X86_CMP, pvm_native_register[i->a], pvm_native_register[i->b]);
    pvm_emit_jump_if(e, cc, i->target);
}

static void branch_imm(struct pvm_emitter *e, enum x86_cc cc, const struct pvm_decoded *i)
{
    if (branch_traps(e))
        return;
    x86_alu_imm(&e->x86, e->w, X86_CMP, pvm_native_register[i->a], (int32_t)i->x);
    pvm_emit_jump_if(e, cc, i->target);
}

/* TMP0 = the code address (base + x) mod 2^32 */
static void code_address(struct pvm_emitter *e, unsigned base, int32_t x)
{
    if (x == 0)
        x86_mov(&e->x86, X86_32, TMP0, base);
    else
        x86_lea(&e->x86, X86_32, TMP0, base, x);
}

/* Jumps to the code address in TMP0. What is not in the native jump table holds PVM_INVALID_CODE_ADDRESS
 * or is not mapped; either way it is this jump that faults. */
static void jump_to_code_address(struct pvm_emitter *e)
{
    enum { JMP = 4 };
    x86_rip(&e->x86, 0x8d, X86_64, e->tmp1, e->start, e->target->jump_table);
    x86_rm(&e->x86, 0xff, X86_32, JMP, (struct x86_mem){.base = e->tmp1, .index = TMP0, .scale = 3});
}

/* --- memory ------------------------------------------------------------------------------------------------ */

#define STORE_8 (0x88u | X86_REG8)
#define STORE_16 (0x89u | X86_66)
#define STORE 0x89u
#define LOAD 0x8bu
#define LOAD_U8 (X86_0F | 0xb6u)
#define LOAD_U16 (X86_0F | 0xb7u)
#define LOAD_I8 (X86_0F | 0xbeu)
#define LOAD_I16 (X86_0F | 0xbfu)
#define LOAD_I32 0x63u /* movsxd */

/* A constant of 1, 2 or 4 bytes, or of 8 bytes by sign extension. */
static void store_imm(struct pvm_emitter *e, unsigned bytes, unsigned base, int32_t disp, int32_t value)
{
    uint32_t op = bytes == 1 ? 0xc6u : bytes == 2 ? 0xc7u | X86_66 : 0xc7u;
    pvm_emit_access(e, op, bytes == 8 ? X86_64 : X86_32, 0, base, disp);
    x86_put(&e->x86, (uint32_t)value, bytes == 8 ? 4 : bytes);
}

static void store_imm_at(struct pvm_emitter *e, unsigned bytes, int32_t disp, int32_t value)
{
    uint32_t op = bytes == 1 ? 0xc6u : bytes == 2 ? 0xc7u | X86_66 : 0xc7u;
    pvm_emit_access_at(e, op, bytes == 8 ? X86_64 : X86_32, 0, disp);
    x86_put(&e->x86, (uint32_t)value, bytes == 8 ? 4 : bytes);
}

static void load_i32(struct pvm_emitter *e, unsigned reg, unsigned base, int32_t disp)
{
    pvm_emit_access(e, e->w == X86_64 ? LOAD_I32 : LOAD, e->w, reg, base, disp);
}

/* Takes as much gas as there is, up to TMP0, and leaves that in TMP0. */
static void charge_bytes(struct pvm_emitter *e)
{
    enum { LOAD_CMP = 0x3b, LOAD_CMOVG = X86_0F | 0x4f, STORE_SUB = 0x29 };
    struct x86 *x = &e->x86;
    if (e->target->gs_base) {
        pvm_emit_vmctx(e, LOAD_CMP, X86_64, TMP0, offsetof(struct vmctx, gas));
        pvm_emit_vmctx(e, LOAD_CMOVG, X86_64, TMP0, offsetof(struct vmctx, gas));
        pvm_emit_vmctx(e, STORE_SUB, X86_64, TMP0, offsetof(struct vmctx, gas));
    } else {
        x86_alu(x, X86_64, X86_CMP, TMP0, GAS);
        x86_cmov(x, X86_64, X86_G, TMP0, GAS);
        x86_alu(x, X86_64, X86_SUB, GAS, TMP0);
    }
}

/* The bytes from a0 on. The 32-bit rep stosb wraps at 4 GiB; a segment it ignores, so with a GS base it is the 64-bit
 * one, at the address that the base is added to: it faults behind the last byte, where the other would at address 0,
 * with as many bytes stored. */
static void store_bytes(struct pvm_emitter *e)
{
    enum { LOAD_ADD = 0x03, LOAD_SUB = 0x2b };
    const unsigned a0 = X86_RDI;
    const int64_t base = e->target->exit + (int64_t)offsetof(struct pvm_way_out, base);
    if (e->target->gs_base) {
        x86_mov(&e->x86, X86_32, a0, a0);
        pvm_emit_gs(e, LOAD_ADD, X86_64, a0, base);
        assert(pvm_native_offset(e) - e->body == PVM_MEMSET_LEAD_GS(e->metered));
        x86_put(&e->x86, 0xaaf3, 2); /* rep stosb */
        pvm_emit_gs(e, LOAD_SUB, X86_64, a0, base);
    } else {
        assert(pvm_native_offset(e) - e->body == PVM_MEMSET_LEAD(e->metered));
        x86_put(&e->x86, 0xaaf367, 3); /* addr32 rep stosb */
    }
}

/* store_bytes clears the upper half of a0, so tmp1 keeps a0; TMP0 counts down. A fault leaves the guest's a2 as it
 * was: pvm_fixup_memset makes a0 and a2 what the specification says. rep stosb is the only instruction here that can
 * fault on what the guest does, and it follows the writes of both. With gas, as many bytes as it pays for are paid
 * ahead; if that was not all, the rest waits for more gas. */
static void memset_bytes(struct pvm_emitter *e)
{
    struct x86 *x = &e->x86;
    const unsigned a0 = X86_RDI, a2 = X86_RSI;
    const uint32_t start = pvm_native_offset(e);
    x86_mov(x, X86_64, e->tmp1, a0);
    x86_mov(x, X86_32, TMP0, a2);
    if (e->metered)
        charge_bytes(e);
    store_bytes(e);
    x86_alu(x, X86_32, X86_SUB, a0, e->tmp1); /* the bytes stored */
    x86_alu(x, X86_32, X86_SUB, a2, a0);
    x86_alu(x, e->w, X86_ADD, a0, e->tmp1);
    if (e->metered) {
        x86_test(x, X86_32, a2, a2);
        pvm_emit_gas_stub_if(e, X86_NE, (struct pvm_gas_stub){.native = start, .cost = 0});
    }
}

/* --- dispatch ---------------------------------------------------------------------------------------------- */

/* A case of the dispatch: the instruction decoded as what it is, under short names. */
#define OP(name, ...)                                                                                                \
    case PVM_OP_##name: {                                                                                            \
        const struct pvm_decoded i = pvm_decode_as(PVM_OP_##name, args, pc, skip);                                   \
        const unsigned a = pvm_native_register[i.a], b = pvm_native_register[i.b], d = pvm_native_register[i.d];     \
        const int32_t imm = (int32_t)i.x, imm2 = i.y;                                                                \
        (void)a, (void)b, (void)d, (void)imm, (void)imm2;                                                            \
        __VA_ARGS__;                                                                                                 \
        break;                                                                                                       \
    }

void pvm_emit_instruction(struct pvm_emitter *e, enum pvm_op op, const uint8_t *args, uint32_t pc, uint32_t skip)
{
    struct x86 *x = &e->x86;
    const enum x86_width w = e->w;

    switch (op) {
    /* control flow */
    OP(invalid, trap(e))
    OP(trap, trap(e))
    OP(fallthrough, )
    OP(unlikely, )
    OP(jump, pvm_emit_jump(e, i.target))
    OP(jump_indirect, code_address(e, a, imm); jump_to_code_address(e))
    OP(load_imm_and_jump, load_imm_and_jump(e, a, &i))
    /* the address before a, which may be b, is written */
    OP(load_imm_and_jump_indirect,
       code_address(e, b, imm2); x86_mov_imm(x, a, constant(e, imm)); jump_to_code_address(e))
    OP(branch_eq_imm, branch_imm(e, X86_E, &i))
    OP(branch_not_eq_imm, branch_imm(e, X86_NE, &i))
    OP(branch_less_unsigned_imm, branch_imm(e, X86_B, &i))
    OP(branch_less_or_equal_unsigned_imm, branch_imm(e, X86_BE, &i))
    OP(branch_greater_or_equal_unsigned_imm, branch_imm(e, X86_AE, &i))
    OP(branch_greater_unsigned_imm, branch_imm(e, X86_A, &i))
    OP(branch_less_signed_imm, branch_imm(e, X86_L, &i))
    OP(branch_less_or_equal_signed_imm, branch_imm(e, X86_LE, &i))
    OP(branch_greater_or_equal_signed_imm, branch_imm(e, X86_GE, &i))
    OP(branch_greater_signed_imm, branch_imm(e, X86_G, &i))
    OP(branch_eq, branch(e, X86_E, &i))
    OP(branch_not_eq, branch(e, X86_NE, &i))
    OP(branch_less_unsigned, branch(e, X86_B, &i))
    OP(branch_less_signed, branch(e, X86_L, &i))
    OP(branch_greater_or_equal_unsigned, branch(e, X86_AE, &i))
    OP(branch_greater_or_equal_signed, branch(e, X86_GE, &i))

    /* the host's part */
    OP(ecalli, pvm_emit_leave(e, e->ecalli))
    OP(sbrk, pvm_emit_leave(e, e->sbrk))
    OP(memset, memset_bytes(e))

    /* constants and moves */
    OP(load_imm, x86_mov_imm(x, a, constant(e, imm)))
    OP(load_imm64, x86_mov_imm(x, a, i.x))
    OP(move_reg, move(e, w, d, a))
    OP(cmov_if_zero, cmov(e, X86_E, d, a, b))
    OP(cmov_if_not_zero, cmov(e, X86_NE, d, a, b))
    OP(cmov_if_zero_imm, cmov_imm(e, X86_E, a, b, imm))
    OP(cmov_if_not_zero_imm, cmov_imm(e, X86_NE, a, b, imm))

    /* stores */
    OP(store_imm_u8, store_imm_at(e, 1, imm, imm2))
    OP(store_imm_u16, store_imm_at(e, 2, imm, imm2))
    OP(store_imm_u32, store_imm_at(e, 4, imm, imm2))
    OP(store_imm_u64, store_imm_at(e, 8, imm, imm2))
    OP(store_imm_indirect_u8, store_imm(e, 1, a, imm, imm2))
    OP(store_imm_indirect_u16, store_imm(e, 2, a, imm, imm2))
    OP(store_imm_indirect_u32, store_imm(e, 4, a, imm, imm2))
    OP(store_imm_indirect_u64, store_imm(e, 8, a, imm, imm2))
    OP(store_u8, pvm_emit_access_at(e, STORE_8, X86_32, a, imm))
    OP(store_u16, pvm_emit_access_at(e, STORE_16, X86_32, a, imm))
    OP(store_u32, pvm_emit_access_at(e, STORE, X86_32, a, imm))
    OP(store_u64, pvm_emit_access_at(e, STORE, X86_64, a, imm))
    OP(store_indirect_u8, pvm_emit_access(e, STORE_8, X86_32, a, b, imm))
    OP(store_indirect_u16, pvm_emit_access(e, STORE_16, X86_32, a, b, imm))
    OP(store_indirect_u32, pvm_emit_access(e, STORE, X86_32, a, b, imm))
    OP(store_indirect_u64, pvm_emit_access(e, STORE, X86_64, a, b, imm))

    /* loads */
    OP(load_u8, pvm_emit_access_at(e, LOAD_U8, X86_32, a, imm))
    OP(load_i8, pvm_emit_access_at(e, LOAD_I8, w, a, imm))
    OP(load_u16, pvm_emit_access_at(e, LOAD_U16, X86_32, a, imm))
    OP(load_i16, pvm_emit_access_at(e, LOAD_I16, w, a, imm))
    OP(load_u32, pvm_emit_access_at(e, LOAD, X86_32, a, imm))
    OP(load_i32, pvm_emit_access_at(e, w == X86_64 ? LOAD_I32 : LOAD, w, a, imm))
    OP(load_u64, pvm_emit_access_at(e, LOAD, X86_64, a, imm))
    OP(load_indirect_u8, pvm_emit_access(e, LOAD_U8, X86_32, a, b, imm))
    OP(load_indirect_i8, pvm_emit_access(e, LOAD_I8, w, a, b, imm))
    OP(load_indirect_u16, pvm_emit_access(e, LOAD_U16, X86_32, a, b, imm))
    OP(load_indirect_i16, pvm_emit_access(e, LOAD_I16, w, a, b, imm))
    OP(load_indirect_u32, pvm_emit_access(e, LOAD, X86_32, a, b, imm))
    OP(load_indirect_i32, load_i32(e, a, b, imm))
    OP(load_indirect_u64, pvm_emit_access(e, LOAD, X86_64, a, b, imm))

    /* bits */
    OP(count_set_bits_64, x86_rr(x, X86_F3 | X86_0F | 0xb8, X86_64, d, a))
    OP(count_set_bits_32, x86_rr(x, X86_F3 | X86_0F | 0xb8, X86_32, d, a))
    OP(count_leading_zero_bits_64, x86_rr(x, X86_F3 | X86_0F | 0xbd, X86_64, d, a))
    OP(count_leading_zero_bits_32, x86_rr(x, X86_F3 | X86_0F | 0xbd, X86_32, d, a))
    OP(count_trailing_zero_bits_64, x86_rr(x, X86_F3 | X86_0F | 0xbc, X86_64, d, a))
    OP(count_trailing_zero_bits_32, x86_rr(x, X86_F3 | X86_0F | 0xbc, X86_32, d, a))
    OP(sign_extend_8, x86_movsx8(x, w, d, a))
    OP(sign_extend_16, x86_movsx16(x, w, d, a))
    OP(zero_extend_16, x86_movzx16(x, d, a))
    OP(reverse_byte, reverse_byte(e, d, a))
    OP(and, arith(e, w, X86_AND, d, a, b))
    OP(xor, arith(e, w, X86_XOR, d, a, b))
    OP(or, arith(e, w, X86_OR, d, a, b))
    OP(and_inverted, x86_andn(x, w, d, a, b))
    OP(or_inverted, or_inverted(e, d, a, b))
    OP(xnor, xnor(e, d, a, b))
    OP(and_imm, and_imm(e, a, b, imm))
    OP(xor_imm, logic_imm(e, X86_XOR, a, b, imm))
    OP(or_imm, logic_imm(e, X86_OR, a, b, imm))

    /* sums and products */
    OP(add_32, arith(e, X86_32, X86_ADD, d, a, b))
    OP(sub_32, arith(e, X86_32, X86_SUB, d, a, b))
    OP(mul_32, multiply(e, X86_32, d, a, b))
    OP(add_64, arith(e, X86_64, X86_ADD, d, a, b))
    OP(sub_64, arith(e, X86_64, X86_SUB, d, a, b))
    OP(mul_64, multiply(e, X86_64, d, a, b))
    OP(add_imm_32, add_imm(e, X86_32, a, b, imm))
    OP(add_imm_64, add_imm(e, X86_64, a, b, imm))
    OP(negate_and_add_imm_32, negate_and_add_imm(e, X86_32, a, b, imm))
    OP(negate_and_add_imm_64, negate_and_add_imm(e, X86_64, a, b, imm))
    OP(mul_imm_32, x86_imul_imm(x, X86_32, a, b, imm); widen(e, X86_32, a, a))
    OP(mul_imm_64, x86_imul_imm(x, X86_64, a, b, imm))
    OP(mul_upper_signed_signed, multiply_upper(e, d, a, b, true, true))
    OP(mul_upper_unsigned_unsigned, multiply_upper(e, d, a, b, false, false))
    OP(mul_upper_signed_unsigned, multiply_upper(e, d, a, b, true, false))
    OP(div_unsigned_32, divide(e, X86_32, d, a, b, false, false))
    OP(div_signed_32, divide(e, X86_32, d, a, b, true, false))
    OP(rem_unsigned_32, divide(e, X86_32, d, a, b, false, true))
    OP(rem_signed_32, divide(e, X86_32, d, a, b, true, true))
    OP(div_unsigned_64, divide(e, X86_64, d, a, b, false, false))
    OP(div_signed_64, divide(e, X86_64, d, a, b, true, false))
    OP(rem_unsigned_64, divide(e, X86_64, d, a, b, false, true))
    OP(rem_signed_64, divide(e, X86_64, d, a, b, true, true))

    /* shifts and rotations */
    OP(shift_logical_left_32, shift(e, X86_32, X86_SHL, d, a, b))
    OP(shift_logical_right_32, shift(e, X86_32, X86_SHR, d, a, b))
    OP(shift_arithmetic_right_32, shift(e, X86_32, X86_SAR, d, a, b))
    OP(shift_logical_left_64, shift(e, X86_64, X86_SHL, d, a, b))
    OP(shift_logical_right_64, shift(e, X86_64, X86_SHR, d, a, b))
    OP(shift_arithmetic_right_64, shift(e, X86_64, X86_SAR, d, a, b))
    OP(rotate_left_32, shift(e, X86_32, X86_ROL, d, a, b))
    OP(rotate_right_32, shift(e, X86_32, X86_ROR, d, a, b))
    OP(rotate_left_64, shift(e, X86_64, X86_ROL, d, a, b))
    OP(rotate_right_64, shift(e, X86_64, X86_ROR, d, a, b))
    OP(shift_logical_left_imm_32, shift_imm(e, X86_32, X86_SHL, a, b, imm))
    OP(shift_logical_right_imm_32, shift_imm(e, X86_32, X86_SHR, a, b, imm))
    OP(shift_arithmetic_right_imm_32, shift_imm(e, X86_32, X86_SAR, a, b, imm))
    OP(shift_logical_left_imm_64, shift_imm(e, X86_64, X86_SHL, a, b, imm))
    OP(shift_logical_right_imm_64, shift_imm(e, X86_64, X86_SHR, a, b, imm))
    OP(shift_arithmetic_right_imm_64, shift_imm(e, X86_64, X86_SAR, a, b, imm))
    OP(rotate_right_imm_32, shift_imm(e, X86_32, X86_ROR, a, b, imm))
    OP(rotate_right_imm_64, shift_imm(e, X86_64, X86_ROR, a, b, imm))
    OP(shift_logical_left_imm_alt_32, shift_imm_alt(e, X86_32, X86_SHL, a, b, imm))
    OP(shift_logical_right_imm_alt_32, shift_imm_alt(e, X86_32, X86_SHR, a, b, imm))
    OP(shift_arithmetic_right_imm_alt_32, shift_imm_alt(e, X86_32, X86_SAR, a, b, imm))
    OP(shift_logical_left_imm_alt_64, shift_imm_alt(e, X86_64, X86_SHL, a, b, imm))
    OP(shift_logical_right_imm_alt_64, shift_imm_alt(e, X86_64, X86_SHR, a, b, imm))
    OP(shift_arithmetic_right_imm_alt_64, shift_imm_alt(e, X86_64, X86_SAR, a, b, imm))
    OP(rotate_right_imm_alt_32, shift_imm_alt(e, X86_32, X86_ROR, a, b, imm))
    OP(rotate_right_imm_alt_64, shift_imm_alt(e, X86_64, X86_ROR, a, b, imm))

    /* comparisons */
    OP(set_less_than_unsigned, set(e, X86_B, d, a, b))
    OP(set_less_than_signed, set(e, X86_L, d, a, b))
    OP(set_less_than_unsigned_imm, set_imm(e, X86_B, a, b, imm))
    OP(set_less_than_signed_imm, set_imm(e, X86_L, a, b, imm))
    OP(set_greater_than_unsigned_imm, set_imm(e, X86_A, a, b, imm))
    OP(set_greater_than_signed_imm, set_imm(e, X86_G, a, b, imm))
    OP(maximum, select_by(e, X86_L, d, a, b))
    OP(maximum_unsigned, select_by(e, X86_B, d, a, b))
    OP(minimum, select_by(e, X86_G, d, a, b))
    OP(minimum_unsigned, select_by(e, X86_A, d, a, b))

    case PVM_OP_COUNT:
        break;
    }
}
