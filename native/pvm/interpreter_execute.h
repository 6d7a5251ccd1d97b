/* SPDX-License-Identifier: MIT
 *
 * The steps' C code (specification, sections 6 and 7), once for each width of registers: to be included with WIDTH
 * defined as 32 or 64. Each step jumps straight to the code of the next one.
 */
#include <string.h>

#include "interpreter_internal.h"

#if WIDTH == 32
#define EXECUTE pvm_execute_32
#define LOADED uint32_t /* a load as wide as registers, and a store */
typedef uint32_t word;
typedef int32_t signed_word;
#else
#define EXECUTE pvm_execute_64
#define LOADED uint64_t
typedef uint64_t word;
typedef int64_t signed_word;
#endif

static inline word to_word(signed_word value) { return (word)value; }

/* --- arithmetic -------------------------------------------------------------------------------------------- */

static inline uint32_t div_unsigned_32(uint32_t a, uint32_t b) { return b ? a / b : UINT32_MAX; }
static inline uint32_t rem_unsigned_32(uint32_t a, uint32_t b) { return b ? a % b : a; }

/* In 64 bits, so that the quotient of the most negative number and -1 is one; only its low half is wanted. */
static inline uint32_t div_signed_32(uint32_t a, uint32_t b)
{
    return b ? (uint32_t)((int64_t)(int32_t)a / (int32_t)b) : UINT32_MAX;
}

static inline uint32_t rem_signed_32(uint32_t a, uint32_t b)
{
    return b ? (uint32_t)((int64_t)(int32_t)a % (int32_t)b) : a;
}

static inline uint32_t rotate_right_32(uint32_t a, uint32_t n) { return a >> (n & 31) | a << (-n & 31); }
static inline uint32_t sar_32(uint32_t a, uint32_t n) { return (uint32_t)((int32_t)a >> (n & 31)); }
static inline uint32_t clz_32(uint32_t a) { return a ? (uint32_t)__builtin_clz(a) : 32; }
static inline uint32_t ctz_32(uint32_t a) { return a ? (uint32_t)__builtin_ctz(a) : 32; }

#if WIDTH == 32
static inline word reverse_bytes(word a) { return __builtin_bswap32(a); }
static inline word mul_upper_ss(word a, word b) { return (word)((int64_t)(int32_t)a * (int32_t)b >> 32); }
static inline word mul_upper_uu(word a, word b) { return (word)((uint64_t)a * b >> 32); }
static inline word mul_upper_su(word a, word b) { return (word)((int64_t)(int32_t)a * (int64_t)b >> 32); }
#else
static inline word reverse_bytes(word a) { return __builtin_bswap64(a); }
static inline word mul_upper_uu(word a, word b) { return (word)((unsigned __int128)a * b >> 64); }
static inline word mul_upper_ss(word a, word b) { return (word)((__int128)(int64_t)a * (int64_t)b >> 64); }
static inline word mul_upper_su(word a, word b) { return (word)((__int128)(int64_t)a * (__int128)b >> 64); }

static inline uint64_t div_unsigned_64(uint64_t a, uint64_t b) { return b ? a / b : UINT64_MAX; }
static inline uint64_t rem_unsigned_64(uint64_t a, uint64_t b) { return b ? a % b : a; }

static inline uint64_t div_signed_64(uint64_t a, uint64_t b)
{
    if (b + 1 <= 1) /* 0: all ones; -1: the quotient may not fit */
        return b ? -a : UINT64_MAX;
    return (uint64_t)((int64_t)a / (int64_t)b);
}

static inline uint64_t rem_signed_64(uint64_t a, uint64_t b)
{
    if (b + 1 <= 1)
        return b ? 0 : a;
    return (uint64_t)((int64_t)a % (int64_t)b);
}

static inline uint64_t rotate_right_64(uint64_t a, uint64_t n) { return a >> (n & 63) | a << (-n & 63); }
static inline uint64_t sar_64(uint64_t a, uint64_t n) { return (uint64_t)((int64_t)a >> (n & 63)); }
static inline uint64_t clz_64(uint64_t a) { return a ? (uint64_t)__builtin_clzll(a) : 64; }
static inline uint64_t ctz_64(uint64_t a) { return a ? (uint64_t)__builtin_ctzll(a) : 64; }
#endif

/* --- what steps are written with ----------------------------------------------------------------------------- */

#define DISPATCH goto *(base + at->code)
#define NEXT do { at++; DISPATCH; } while (0)

/* Registers as they are, and as 32 bits. */
#define A ((word)regs[at->a])
#define B ((word)regs[at->b])
#define A32 ((uint32_t)regs[at->a])
#define B32 ((uint32_t)regs[at->b])
#define SIGNED(value) ((signed_word)(value))
#define X ((word)at->x)
#define X32 ((uint32_t)at->x)

#define SET(register, value) (regs[register] = (word)(value))
#define EXTENDED(value) to_word((int32_t)(value)) /* of the result of a 32-bit operation */

/* The families of instructions that compute: D = f(A, B); A = f(B, X); D = f(A). */
#define REG_REG_REG(name, value) step_##name: SET(at->d, value); NEXT
#define REG_REG_IMM(name, value) step_##name: SET(at->a, value); NEXT
#define REG_REG(name, value) step_##name: SET(at->d, value); NEXT

/* On to the block at `next`: to look at the budget, and to pay. `index` is the same as a number. */
#define ENTER(next, index) \
    do { \
        budget -= at->length; \
        const uint32_t cost_ = costs[index]; \
        at = (next); \
        if (__builtin_expect(budget <= 0, 0)) \
            goto out_of_budget; \
        if (__builtin_expect(cost_ > gas, 0)) \
            goto out_of_gas; \
        gas -= cost_; \
        DISPATCH; \
    } while (0)

#define JUMP_TO(index) ENTER(steps + (index), index)
#define FALL_THROUGH ENTER(at + 1, at + 1 - steps)

#define BRANCH(name, condition) \
    step_##name: \
    if (condition) \
        JUMP_TO(at->y); \
    FALL_THROUGH;

/* The value of an access that is not simple has a variable of its own, so that the others stay in registers. */
#define LOAD(type, base, to) \
    do { \
        type value_; \
        address = (uint32_t)((base) + X); \
        const uint8_t *from_ = pvm_locate(&readable, address, sizeof value_); \
        if (__builtin_expect(from_ != NULL, 1)) { \
            memcpy(&value_, from_, sizeof value_); \
        } else { \
            uint64_t gathered_ = 0; \
            size = sizeof value_; \
            if (!pvm_gather(&readable, address, size, &gathered_)) \
                goto load_failed; \
            value_ = (type)gathered_; \
        } \
        SET(to, to_word((signed_word)value_)); \
    } while (0)

#define LOADS(kind, type) \
    step_load_##kind: LOAD(type, 0, at->a); NEXT; \
    step_load_indirect_##kind: LOAD(type, B, at->a); NEXT;

#define STORE(type, base, value) \
    do { \
        const type value_ = (type)(value); \
        address = (uint32_t)((base) + X); \
        uint8_t *to_ = pvm_locate(&writable, address, sizeof value_); \
        if (__builtin_expect(to_ != NULL, 1)) { \
            memcpy(to_, &value_, sizeof value_); \
        } else { \
            size = sizeof value_; \
            if (!pvm_scatter(&writable, address, size, (uint64_t)value_)) \
                goto store_failed; \
        } \
    } while (0)

#define STORES(kind, type) \
    step_store_##kind: STORE(type, 0, A); NEXT; \
    step_store_indirect_##kind: STORE(type, B, A); NEXT; \
    step_store_imm_##kind: STORE(type, 0, (int32_t)at->y); NEXT; \
    step_store_imm_indirect_##kind: STORE(type, A, (int32_t)at->y); NEXT;

/* What sequences of steps are made of. */
#define ADD_IMM SET(at->a, B + X)
#define ADD SET(at->d, A + B)
#define SHIFT_LEFT SET(at->d, A << (B & (WIDTH - 1)))
#define SHIFT_RIGHT SET(at->d, A >> (B & (WIDTH - 1)))
#define SHIFT_LEFT_IMM SET(at->a, B << (X & (WIDTH - 1)))
#define SHIFT_RIGHT_IMM SET(at->a, B >> (X & (WIDTH - 1)))
#define THEN do { at++; __asm__("" : "+r"(at)); } while (0) /* moves on; keeps it from being computed twice */

#define ADD_IMM_BRANCH(name, condition) \
    step_add_imm_add_imm_##name: \
    ADD_IMM; \
    THEN; \
    step_add_imm_##name: \
    ADD_IMM; \
    THEN; \
    if (condition) \
        JUMP_TO(at->y); \
    FALL_THROUGH;

/* Every name that has code; for the table of their addresses. */
#define STEPS_OF_BOTH(S) \
    S(trap) S(fallthrough) S(memset) S(unlikely) S(ecalli) S(sbrk) S(jump) S(jump_indirect) S(load_imm) \
    S(load_imm_and_jump) S(load_imm_and_jump_indirect) S(move_reg) \
    S(store_imm_u8) S(store_imm_u16) S(store_imm_u32) S(store_imm_indirect_u8) S(store_imm_indirect_u16) \
    S(store_imm_indirect_u32) S(store_u8) S(store_u16) S(store_u32) S(store_indirect_u8) S(store_indirect_u16) \
    S(store_indirect_u32) S(load_u8) S(load_i8) S(load_u16) S(load_i16) S(load_i32) S(load_indirect_u8) \
    S(load_indirect_i8) S(load_indirect_u16) S(load_indirect_i16) S(load_indirect_i32) \
    S(count_set_bits_32) S(count_leading_zero_bits_32) S(count_trailing_zero_bits_32) S(sign_extend_8) \
    S(sign_extend_16) S(zero_extend_16) S(reverse_byte) \
    S(add_imm_32) S(and_imm) S(xor_imm) S(or_imm) S(mul_imm_32) S(set_less_than_unsigned_imm) \
    S(set_less_than_signed_imm) S(shift_logical_left_imm_32) S(shift_logical_right_imm_32) \
    S(shift_arithmetic_right_imm_32) S(negate_and_add_imm_32) S(set_greater_than_unsigned_imm) \
    S(set_greater_than_signed_imm) S(shift_logical_left_imm_alt_32) S(shift_logical_right_imm_alt_32) \
    S(shift_arithmetic_right_imm_alt_32) S(cmov_if_zero_imm) S(cmov_if_not_zero_imm) S(rotate_right_imm_32) \
    S(rotate_right_imm_alt_32) \
    S(add_32) S(sub_32) S(mul_32) S(div_unsigned_32) S(div_signed_32) S(rem_unsigned_32) S(rem_signed_32) \
    S(shift_logical_left_32) S(shift_logical_right_32) S(shift_arithmetic_right_32) S(and) S(xor) S(or) \
    S(mul_upper_signed_signed) S(mul_upper_unsigned_unsigned) S(mul_upper_signed_unsigned) \
    S(set_less_than_unsigned) S(set_less_than_signed) S(cmov_if_zero) S(cmov_if_not_zero) S(rotate_left_32) \
    S(rotate_right_32) S(and_inverted) S(or_inverted) S(xnor) S(maximum) S(maximum_unsigned) S(minimum) \
    S(minimum_unsigned)

#if WIDTH == 32
#define STEPS_OF_THIS(S)
#else
#define STEPS_OF_THIS(S) \
    S(load_imm64) S(store_imm_u64) S(store_imm_indirect_u64) S(store_u64) S(store_indirect_u64) S(load_u32) \
    S(load_u64) S(load_indirect_u32) S(load_indirect_u64) \
    S(count_set_bits_64) S(count_leading_zero_bits_64) S(count_trailing_zero_bits_64) \
    S(add_imm_64) S(mul_imm_64) S(shift_logical_left_imm_64) S(shift_logical_right_imm_64) \
    S(shift_arithmetic_right_imm_64) S(negate_and_add_imm_64) S(shift_logical_left_imm_alt_64) \
    S(shift_logical_right_imm_alt_64) S(shift_arithmetic_right_imm_alt_64) S(rotate_right_imm_64) \
    S(rotate_right_imm_alt_64) \
    S(add_64) S(sub_64) S(mul_64) S(div_unsigned_64) S(div_signed_64) S(rem_unsigned_64) S(rem_signed_64) \
    S(shift_logical_left_64) S(shift_logical_right_64) S(shift_arithmetic_right_64) S(rotate_left_64) \
    S(rotate_right_64)
#endif

/* --- execution --------------------------------------------------------------------------------------------- */

enum pvm_exit EXECUTE(const struct pvm_interpreter *interpreter, struct pvm_machine *machine, uint32_t first,
                      int64_t budget, const int32_t **codes)
{
#define CODE(kind, name) [kind] = (int32_t)(&&step_##name - &&step_check),
#define CODE_OF_OP(name) CODE(PVM_OP_##name, name)
#define CODE_OF_BRANCH(name, condition) \
    CODE(PVM_OP_##name, name) \
    CODE(STEP_ADD_IMM_##name, add_imm_##name) \
    CODE(STEP_ADD_IMM_ADD_IMM_##name, add_imm_add_imm_##name)

    static const int32_t addresses[STEP_KINDS] = {
        STEPS_OF_BOTH(CODE_OF_OP)
        STEPS_OF_THIS(CODE_OF_OP)
        PVM_BRANCHES(CODE_OF_BRANCH)
        CODE(PVM_OP_invalid, trap)
        CODE(STEP_PAUSE, pause)
        CODE(STEP_CHECK, check)
        CODE(STEP_LOAD_IMM_AND_TRAP, load_imm_and_trap)
        CODE(STEP_ADD_IMM_ADD_IMM, add_imm_add_imm)
        CODE(STEP_LOAD_IMM_ADD, load_imm_add)
        CODE(STEP_LOAD_ADD, load_add)
        CODE(STEP_LOAD_LOAD, load_load)
        CODE(STEP_LOAD_SHIFT_LEFT, load_shift_left)
        CODE(STEP_LOAD_SHIFT_RIGHT, load_shift_right)
        CODE(STEP_LOAD_U8_SHIFT_LEFT_IMM, load_u8_shift_left_imm)
        CODE(STEP_STORE_STORE, store_store)
        CODE(STEP_STORE_U8_ADD_IMM, store_u8_add_imm)
        CODE(STEP_SHIFT_RIGHT_STORE_U8, shift_right_store_u8)
        CODE(STEP_SHIFT_LEFT_IMM_SHIFT_RIGHT_IMM, shift_left_imm_shift_right_imm)
    };
    if (codes) {
        *codes = addresses;
        return PVM_EXIT_TRAP;
    }

    const struct view readable = pvm_view(machine, false), writable = pvm_view(machine, true);
    const bool metered = interpreter->execution.gas_metering != PVM_GAS_NONE;
    const struct step *const steps = interpreter->steps;
    const uint32_t *const costs = interpreter->costs, *const pcs = interpreter->pcs;
    const struct step *at = steps + first;
    uint64_t *const regs = machine->regs;
    int64_t gas = metered ? machine->gas : 0; /* without metering, blocks cost 0 */
    uint32_t address, size; /* of a failed access */
    uint32_t cost;          /* of what there is not enough gas for */
    enum pvm_exit exit;
    const char *base = &&step_check; /* of the steps' code; in a register, not computed again for each step */
    __asm__("" : "+r"(base));
    DISPATCH;

    /* --- control --- */

step_unlikely:
    NEXT;
step_fallthrough:
    FALL_THROUGH;
step_jump:
    JUMP_TO(at->y);
step_load_imm_and_jump:
    SET(at->a, X);
    JUMP_TO(at->y);
step_load_imm_and_jump_indirect:
    address = (uint32_t)(B + (word)(int32_t)at->y);
    SET(at->a, X);
    goto jump_to_address;
step_jump_indirect:
    address = (uint32_t)(A + X);
jump_to_address: {
    uint32_t entry = address / PVM_CODE_ADDRESS_ALIGNMENT - 1; /* of address 0: beyond all */
    if (entry < interpreter->program.jump_table_count && address % PVM_CODE_ADDRESS_ALIGNMENT == 0) {
        uint32_t target = interpreter->table[entry];
        if (target == NO_STEP)
            goto step_trap;
        JUMP_TO(target);
    }
    if (address != PVM_RETURN_TO_HOST)
        goto step_trap;
    exit = PVM_EXIT_FINISHED;
    machine->progress = PVM_PROGRESS_NONE;
    machine->pc = pcs[at - steps];
    machine->next_pc = PVM_NO_PC;
    goto leave;
}

    PVM_BRANCHES(BRANCH)

    /* --- memory --- */

    LOADS(u8, uint8_t)
    LOADS(i8, int8_t)
    LOADS(u16, uint16_t)
    LOADS(i16, int16_t)
    LOADS(i32, int32_t)
    STORES(u8, uint8_t)
    STORES(u16, uint16_t)
    STORES(u32, uint32_t)
#if WIDTH == 64
    LOADS(u32, uint32_t)
    LOADS(u64, uint64_t)
    STORES(u64, uint64_t)
#endif

step_memset: { /* many bytes at a time, but as if it were one after the other */
    uint32_t left = (uint32_t)regs[PVM_REG_A2];
    regs[PVM_REG_A2] = left;
    while (left) {
        address = (uint32_t)regs[PVM_REG_A0];
        if (metered && gas <= 0)
            goto out_of_gas_within;
        if (budget <= 0)
            goto out_of_budget_within;
        uint32_t room = left;
        uint8_t *to = pvm_locate_run(&writable, address, &room);
        if (!to) {
            size = 1;
            goto store_failed;
        }
        if (room > budget)
            room = (uint32_t)budget;
        if (metered && room > gas)
            room = (uint32_t)gas;
        memset(to, (uint8_t)regs[PVM_REG_A1], room);
        SET(PVM_REG_A0, regs[PVM_REG_A0] + room);
        regs[PVM_REG_A2] = left -= room;
        budget -= room;
        gas -= metered ? room : 0;
    }
    NEXT;
}

    /* --- arithmetic --- */

step_load_imm:
    SET(at->a, X);
    NEXT;
step_move_reg:
    regs[at->d] = regs[at->a];
    NEXT;
step_cmov_if_zero:
    if (B == 0)
        regs[at->d] = regs[at->a];
    NEXT;
step_cmov_if_not_zero:
    if (B != 0)
        regs[at->d] = regs[at->a];
    NEXT;
step_cmov_if_zero_imm:
    if (B == 0)
        SET(at->a, X);
    NEXT;
step_cmov_if_not_zero_imm:
    if (B != 0)
        SET(at->a, X);
    NEXT;

    REG_REG(count_set_bits_32, __builtin_popcount(A32));
    REG_REG(count_leading_zero_bits_32, clz_32(A32));
    REG_REG(count_trailing_zero_bits_32, ctz_32(A32));
    REG_REG(sign_extend_8, to_word((int8_t)A));
    REG_REG(sign_extend_16, to_word((int16_t)A));
    REG_REG(zero_extend_16, (uint16_t)A);
    REG_REG(reverse_byte, reverse_bytes(A));

    REG_REG_IMM(add_imm_32, EXTENDED(B32 + X32));
    REG_REG_IMM(and_imm, B & X);
    REG_REG_IMM(xor_imm, B ^ X);
    REG_REG_IMM(or_imm, B | X);
    REG_REG_IMM(mul_imm_32, EXTENDED(B32 * X32));
    REG_REG_IMM(set_less_than_unsigned_imm, B < X);
    REG_REG_IMM(set_less_than_signed_imm, SIGNED(B) < SIGNED(X));
    REG_REG_IMM(set_greater_than_unsigned_imm, B > X);
    REG_REG_IMM(set_greater_than_signed_imm, SIGNED(B) > SIGNED(X));
    REG_REG_IMM(shift_logical_left_imm_32, EXTENDED(B32 << (X32 & 31)));
    REG_REG_IMM(shift_logical_right_imm_32, EXTENDED(B32 >> (X32 & 31)));
    REG_REG_IMM(shift_arithmetic_right_imm_32, EXTENDED(sar_32(B32, X32)));
    REG_REG_IMM(shift_logical_left_imm_alt_32, EXTENDED(X32 << (B32 & 31)));
    REG_REG_IMM(shift_logical_right_imm_alt_32, EXTENDED(X32 >> (B32 & 31)));
    REG_REG_IMM(shift_arithmetic_right_imm_alt_32, EXTENDED(sar_32(X32, B32)));
    REG_REG_IMM(negate_and_add_imm_32, EXTENDED(X32 - B32));
    REG_REG_IMM(rotate_right_imm_32, EXTENDED(rotate_right_32(B32, X32)));
    REG_REG_IMM(rotate_right_imm_alt_32, EXTENDED(rotate_right_32(X32, B32)));

    REG_REG_REG(add_32, EXTENDED(A32 + B32));
    REG_REG_REG(sub_32, EXTENDED(A32 - B32));
    REG_REG_REG(mul_32, EXTENDED(A32 * B32));
    REG_REG_REG(div_unsigned_32, EXTENDED(div_unsigned_32(A32, B32)));
    REG_REG_REG(div_signed_32, EXTENDED(div_signed_32(A32, B32)));
    REG_REG_REG(rem_unsigned_32, EXTENDED(rem_unsigned_32(A32, B32)));
    REG_REG_REG(rem_signed_32, EXTENDED(rem_signed_32(A32, B32)));
    REG_REG_REG(shift_logical_left_32, EXTENDED(A32 << (B32 & 31)));
    REG_REG_REG(shift_logical_right_32, EXTENDED(A32 >> (B32 & 31)));
    REG_REG_REG(shift_arithmetic_right_32, EXTENDED(sar_32(A32, B32)));
    REG_REG_REG(rotate_left_32, EXTENDED(rotate_right_32(A32, -B32)));
    REG_REG_REG(rotate_right_32, EXTENDED(rotate_right_32(A32, B32)));
    REG_REG_REG(and, A & B);
    REG_REG_REG(xor, A ^ B);
    REG_REG_REG(or, A | B);
    REG_REG_REG(and_inverted, A & ~B);
    REG_REG_REG(or_inverted, A | ~B);
    REG_REG_REG(xnor, ~(A ^ B));
    REG_REG_REG(mul_upper_signed_signed, mul_upper_ss(A, B));
    REG_REG_REG(mul_upper_unsigned_unsigned, mul_upper_uu(A, B));
    REG_REG_REG(mul_upper_signed_unsigned, mul_upper_su(A, B));
    REG_REG_REG(set_less_than_unsigned, A < B);
    REG_REG_REG(set_less_than_signed, SIGNED(A) < SIGNED(B));
    REG_REG_REG(maximum, SIGNED(A) > SIGNED(B) ? A : B);
    REG_REG_REG(maximum_unsigned, A > B ? A : B);
    REG_REG_REG(minimum, SIGNED(A) < SIGNED(B) ? A : B);
    REG_REG_REG(minimum_unsigned, A < B ? A : B);

#if WIDTH == 64
step_load_imm64:
    regs[at->a] = (uint64_t)at->y << 32 | X32;
    NEXT;

    REG_REG(count_set_bits_64, __builtin_popcountll(A));
    REG_REG(count_leading_zero_bits_64, clz_64(A));
    REG_REG(count_trailing_zero_bits_64, ctz_64(A));

    REG_REG_IMM(add_imm_64, B + X);
    REG_REG_IMM(mul_imm_64, B * X);
    REG_REG_IMM(shift_logical_left_imm_64, B << (X & 63));
    REG_REG_IMM(shift_logical_right_imm_64, B >> (X & 63));
    REG_REG_IMM(shift_arithmetic_right_imm_64, sar_64(B, X));
    REG_REG_IMM(shift_logical_left_imm_alt_64, X << (B & 63));
    REG_REG_IMM(shift_logical_right_imm_alt_64, X >> (B & 63));
    REG_REG_IMM(shift_arithmetic_right_imm_alt_64, sar_64(X, B));
    REG_REG_IMM(negate_and_add_imm_64, X - B);
    REG_REG_IMM(rotate_right_imm_64, rotate_right_64(B, X));
    REG_REG_IMM(rotate_right_imm_alt_64, rotate_right_64(X, B));

    REG_REG_REG(add_64, A + B);
    REG_REG_REG(sub_64, A - B);
    REG_REG_REG(mul_64, A * B);
    REG_REG_REG(div_unsigned_64, div_unsigned_64(A, B));
    REG_REG_REG(div_signed_64, div_signed_64(A, B));
    REG_REG_REG(rem_unsigned_64, rem_unsigned_64(A, B));
    REG_REG_REG(rem_signed_64, rem_signed_64(A, B));
    REG_REG_REG(shift_logical_left_64, A << (B & 63));
    REG_REG_REG(shift_logical_right_64, A >> (B & 63));
    REG_REG_REG(shift_arithmetic_right_64, sar_64(A, B));
    REG_REG_REG(rotate_left_64, rotate_right_64(A, -B));
    REG_REG_REG(rotate_right_64, rotate_right_64(A, B));
#endif

    /* --- sequences --- */

    PVM_BRANCHES(ADD_IMM_BRANCH)
step_add_imm_add_imm:
    ADD_IMM;
    THEN;
    ADD_IMM;
    NEXT;
step_load_imm_add:
    SET(at->a, X);
    THEN;
    ADD;
    NEXT;
step_load_add:
    LOAD(LOADED, B, at->a);
    THEN;
    ADD;
    NEXT;
step_load_load:
    LOAD(LOADED, B, at->a);
    THEN;
    LOAD(LOADED, B, at->a);
    NEXT;
step_load_shift_left:
    LOAD(LOADED, B, at->a);
    THEN;
    SHIFT_LEFT;
    NEXT;
step_load_shift_right:
    LOAD(LOADED, B, at->a);
    THEN;
    SHIFT_RIGHT;
    NEXT;
step_load_u8_shift_left_imm:
    LOAD(uint8_t, B, at->a);
    THEN;
    SHIFT_LEFT_IMM;
    NEXT;
step_store_store:
    STORE(LOADED, B, A);
    THEN;
    STORE(LOADED, B, A);
    NEXT;
step_store_u8_add_imm:
    STORE(uint8_t, B, A);
    THEN;
    ADD_IMM;
    NEXT;
step_shift_right_store_u8:
    SHIFT_RIGHT;
    THEN;
    STORE(uint8_t, B, A);
    NEXT;
step_shift_left_imm_shift_right_imm:
    SHIFT_LEFT_IMM;
    THEN;
    SHIFT_RIGHT_IMM;
    NEXT;

    /* --- the interpreter's own --- */

step_check:
    budget -= at->length;
    if (budget > 0)
        NEXT;
    at++;
    goto out_of_budget;

step_pause:
    if (interpreter->execution.step_tracing) {
        exit = PVM_EXIT_STEP;
        machine->progress = PVM_PROGRESS_STEPPED;
        machine->pc = machine->next_pc = pcs[at - steps];
        goto leave;
    }
    if (at->x > gas)
        goto out_of_gas;
    gas -= at->x;
    NEXT;

    /* --- exits --- */

step_ecalli:
    machine->host_call = X32;
    exit = PVM_EXIT_ECALLI;
    goto leave_for_host;
step_sbrk:
    exit = PVM_EXIT_SBRK;
leave_for_host:
    machine->progress = PVM_PROGRESS_NONE;
    machine->pc = pcs[at - steps];
    do
        at++;
    while (pcs[at - steps] == machine->pc); /* a check is not the next instruction */
    machine->next_pc = pcs[at - steps];
    goto leave;

load_failed:
    machine->fault = pvm_first_missing(&readable, address, size);
    goto trap;
store_failed:
    machine->fault = pvm_first_missing(&writable, address, size);
    goto trap;
step_load_imm_and_trap:
    SET(at->a, X);
step_trap:
    machine->fault = PVM_NO_ADDRESS;
trap:
    exit = PVM_EXIT_TRAP;
    machine->progress = PVM_PROGRESS_CHARGED;
    machine->pc = pcs[at - steps];
    machine->next_pc = PVM_NO_PC;
    goto leave;

out_of_budget_within:
    machine->progress = PVM_PROGRESS_CHARGED;
    goto stop_for_budget;
out_of_budget:
    machine->progress = PVM_PROGRESS_NONE;
stop_for_budget:
    exit = PVM_EXIT_BUDGET;
    machine->pc = machine->next_pc = pcs[at - steps];
    goto leave;

out_of_gas_within:
    machine->progress = PVM_PROGRESS_CHARGED;
    cost = 0;
    goto stop_for_gas;
out_of_gas:
    machine->progress = PVM_PROGRESS_STEPPED;
    cost = pvm_entry_cost(interpreter, (uint32_t)(at - steps));
stop_for_gas:
    exit = PVM_EXIT_NOT_ENOUGH_GAS;
    machine->pc = machine->next_pc = pcs[at - steps];
    if (interpreter->execution.gas_metering == PVM_GAS_ASYNC) {
        gas = pvm_overdraw(gas, cost);
        machine->pc = machine->next_pc = PVM_NO_PC;
    }
leave:
    if (metered)
        machine->gas = gas;
    return exit;
}
