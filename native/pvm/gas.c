/* SPDX-License-Identifier: MIT
 *
 * What a block costs: a table to add up, or a small out-of-order core to simulate.
 *
 * The simulation is exact to the cycle, but does no work for cycles in which nothing happens: an instruction
 * costs the same to simulate whether it takes one cycle or a hundred. The reorder buffer's entries are the bits
 * of 32-bit sets, so that "the oldest that may start" is a rotation and a count of zeros.
 */
#include "decode.h"
#include "gas.h"


/* --- what instructions need -------------------------------------------------------------------------------- */

enum { DECODE_SLOTS = 4, MOST_STARTS = 5, REFUND = 3, STORE_LATENCY = 25, CHEAP_BRANCH = 1, DEAR_BRANCH = 20 };

/* An execution unit, beside the ALU. */
enum unit { UNIT_NONE, UNIT_LOAD, UNIT_STORE, UNIT_MUL, UNIT_DIV, UNIT_COUNT };

/* When an instruction takes one more decode slot. */
enum copy {
    COPY_NEVER,
    COPY_UNLESS_SOURCE, /* the destination is none of the sources */
    COPY_UNLESS_FIRST,  /* the destination is not the first source */
};

struct need {
    uint8_t latency;
    uint8_t slots;  /* to decode */
    uint8_t copy;   /* enum copy */
    uint8_t widen;  /* slots and cycles more where registers are wider than 32 bits */
    uint8_t alu;
    uint8_t unit;   /* enum unit */
};

#define SIMPLE(latency, slots) {latency, slots, COPY_NEVER, 0, 1, UNIT_NONE}
#define COPYING(latency, slots) {latency, slots, COPY_UNLESS_SOURCE, 0, 1, UNIT_NONE}
#define COPYING_32(latency, slots) {latency, slots, COPY_UNLESS_SOURCE, 1, 1, UNIT_NONE}
#define SHIFT {1, 2, COPY_UNLESS_FIRST, 0, 1, UNIT_NONE}
#define SHIFT_32 {1, 2, COPY_UNLESS_FIRST, 1, 1, UNIT_NONE}
#define MUL(latency, slots) {latency, slots, COPY_UNLESS_SOURCE, 0, 1, UNIT_MUL}
#define MUL_UPPER(latency) {latency, 4, COPY_NEVER, 0, 1, UNIT_MUL}
#define DIV {60, 4, COPY_NEVER, 0, 1, UNIT_DIV}
#define LOAD {0, 1, COPY_NEVER, 0, 1, UNIT_LOAD} /* the latency is the model's */
#define STORE {STORE_LATENCY, 1, COPY_NEVER, 0, 1, UNIT_STORE}
#define BRANCH {DEAR_BRANCH, 1, COPY_NEVER, 0, 1, UNIT_NONE}
#define NO_ALU(latency, slots) {latency, slots, COPY_NEVER, 0, 0, UNIT_NONE}

static const struct need needs[PVM_OP_COUNT] = {
    [PVM_OP_and] = COPYING(1, 1),
    [PVM_OP_xor] = COPYING(1, 1),
    [PVM_OP_or] = COPYING(1, 1),
    [PVM_OP_add_64] = COPYING(1, 1),
    [PVM_OP_sub_64] = COPYING(1, 1),
    [PVM_OP_add_32] = COPYING_32(1, 1),
    [PVM_OP_sub_32] = COPYING_32(1, 1),
    [PVM_OP_and_imm] = COPYING(1, 1),
    [PVM_OP_or_imm] = COPYING(1, 1),
    [PVM_OP_xor_imm] = COPYING(1, 1),
    [PVM_OP_add_imm_64] = COPYING(1, 1),
    [PVM_OP_shift_logical_left_imm_64] = COPYING(1, 1),
    [PVM_OP_shift_logical_right_imm_64] = COPYING(1, 1),
    [PVM_OP_shift_arithmetic_right_imm_64] = COPYING(1, 1),
    [PVM_OP_rotate_right_imm_64] = COPYING(1, 1),
    [PVM_OP_reverse_byte] = COPYING(1, 1),
    [PVM_OP_add_imm_32] = COPYING_32(1, 1),
    [PVM_OP_shift_logical_left_imm_32] = COPYING_32(1, 1),
    [PVM_OP_shift_logical_right_imm_32] = COPYING_32(1, 1),
    [PVM_OP_shift_arithmetic_right_imm_32] = COPYING_32(1, 1),
    [PVM_OP_rotate_right_imm_32] = COPYING_32(1, 1),
    [PVM_OP_count_leading_zero_bits_32] = SIMPLE(1, 1),
    [PVM_OP_count_leading_zero_bits_64] = SIMPLE(1, 1),
    [PVM_OP_count_set_bits_32] = SIMPLE(1, 1),
    [PVM_OP_count_set_bits_64] = SIMPLE(1, 1),
    [PVM_OP_sign_extend_8] = SIMPLE(1, 1),
    [PVM_OP_sign_extend_16] = SIMPLE(1, 1),
    [PVM_OP_zero_extend_16] = SIMPLE(1, 1),
    [PVM_OP_count_trailing_zero_bits_32] = {2, 1, COPY_NEVER, 0, 2, UNIT_NONE},
    [PVM_OP_count_trailing_zero_bits_64] = {2, 1, COPY_NEVER, 0, 2, UNIT_NONE},
    [PVM_OP_shift_logical_left_64] = SHIFT,
    [PVM_OP_shift_logical_right_64] = SHIFT,
    [PVM_OP_shift_arithmetic_right_64] = SHIFT,
    [PVM_OP_rotate_left_64] = SHIFT,
    [PVM_OP_rotate_right_64] = SHIFT,
    [PVM_OP_shift_logical_left_32] = SHIFT_32,
    [PVM_OP_shift_logical_right_32] = SHIFT_32,
    [PVM_OP_shift_arithmetic_right_32] = SHIFT_32,
    [PVM_OP_rotate_left_32] = SHIFT_32,
    [PVM_OP_rotate_right_32] = SHIFT_32,
    [PVM_OP_shift_logical_left_imm_alt_64] = SIMPLE(1, 3),
    [PVM_OP_shift_logical_right_imm_alt_64] = SIMPLE(1, 3),
    [PVM_OP_shift_arithmetic_right_imm_alt_64] = SIMPLE(1, 3),
    [PVM_OP_rotate_right_imm_alt_64] = SIMPLE(1, 3),
    [PVM_OP_shift_logical_left_imm_alt_32] = SIMPLE(2, 4),
    [PVM_OP_shift_logical_right_imm_alt_32] = SIMPLE(2, 4),
    [PVM_OP_shift_arithmetic_right_imm_alt_32] = SIMPLE(2, 4),
    [PVM_OP_rotate_right_imm_alt_32] = SIMPLE(2, 4),
    [PVM_OP_set_less_than_unsigned] = SIMPLE(3, 3),
    [PVM_OP_set_less_than_signed] = SIMPLE(3, 3),
    [PVM_OP_set_less_than_unsigned_imm] = SIMPLE(3, 3),
    [PVM_OP_set_less_than_signed_imm] = SIMPLE(3, 3),
    [PVM_OP_set_greater_than_unsigned_imm] = SIMPLE(3, 3),
    [PVM_OP_set_greater_than_signed_imm] = SIMPLE(3, 3),
    [PVM_OP_cmov_if_zero] = SIMPLE(2, 2),
    [PVM_OP_cmov_if_not_zero] = SIMPLE(2, 2),
    [PVM_OP_cmov_if_zero_imm] = SIMPLE(2, 3),
    [PVM_OP_cmov_if_not_zero_imm] = SIMPLE(2, 3),
    [PVM_OP_maximum] = COPYING(3, 2),
    [PVM_OP_maximum_unsigned] = COPYING(3, 2),
    [PVM_OP_minimum] = COPYING(3, 2),
    [PVM_OP_minimum_unsigned] = COPYING(3, 2),
    [PVM_OP_and_inverted] = SIMPLE(2, 3),
    [PVM_OP_or_inverted] = SIMPLE(2, 3),
    [PVM_OP_xnor] = COPYING(2, 2),
    [PVM_OP_negate_and_add_imm_64] = SIMPLE(2, 3),
    [PVM_OP_negate_and_add_imm_32] = SIMPLE(3, 4),
    [PVM_OP_load_imm] = NO_ALU(1, 1),
    [PVM_OP_load_imm64] = NO_ALU(1, 2),
    [PVM_OP_move_reg] = NO_ALU(0, 1),
    [PVM_OP_mul_64] = MUL(3, 1),
    [PVM_OP_mul_imm_64] = MUL(3, 1),
    [PVM_OP_mul_32] = MUL(4, 2),
    [PVM_OP_mul_imm_32] = MUL(4, 2),
    [PVM_OP_mul_upper_signed_signed] = MUL_UPPER(4),
    [PVM_OP_mul_upper_unsigned_unsigned] = MUL_UPPER(4),
    [PVM_OP_mul_upper_signed_unsigned] = MUL_UPPER(6),
    [PVM_OP_div_unsigned_32] = DIV,
    [PVM_OP_div_signed_32] = DIV,
    [PVM_OP_rem_unsigned_32] = DIV,
    [PVM_OP_rem_signed_32] = DIV,
    [PVM_OP_div_unsigned_64] = DIV,
    [PVM_OP_div_signed_64] = DIV,
    [PVM_OP_rem_unsigned_64] = DIV,
    [PVM_OP_rem_signed_64] = DIV,
    [PVM_OP_load_u8] = LOAD,
    [PVM_OP_load_i8] = LOAD,
    [PVM_OP_load_u16] = LOAD,
    [PVM_OP_load_i16] = LOAD,
    [PVM_OP_load_u32] = LOAD,
    [PVM_OP_load_i32] = LOAD,
    [PVM_OP_load_u64] = LOAD,
    [PVM_OP_load_indirect_u8] = LOAD,
    [PVM_OP_load_indirect_i8] = LOAD,
    [PVM_OP_load_indirect_u16] = LOAD,
    [PVM_OP_load_indirect_i16] = LOAD,
    [PVM_OP_load_indirect_u32] = LOAD,
    [PVM_OP_load_indirect_i32] = LOAD,
    [PVM_OP_load_indirect_u64] = LOAD,
    [PVM_OP_store_u8] = STORE,
    [PVM_OP_store_u16] = STORE,
    [PVM_OP_store_u32] = STORE,
    [PVM_OP_store_u64] = STORE,
    [PVM_OP_store_imm_u8] = STORE,
    [PVM_OP_store_imm_u16] = STORE,
    [PVM_OP_store_imm_u32] = STORE,
    [PVM_OP_store_imm_u64] = STORE,
    [PVM_OP_store_indirect_u8] = STORE,
    [PVM_OP_store_indirect_u16] = STORE,
    [PVM_OP_store_indirect_u32] = STORE,
    [PVM_OP_store_indirect_u64] = STORE,
    [PVM_OP_store_imm_indirect_u8] = STORE,
    [PVM_OP_store_imm_indirect_u16] = STORE,
    [PVM_OP_store_imm_indirect_u32] = STORE,
    [PVM_OP_store_imm_indirect_u64] = STORE,
    [PVM_OP_branch_eq] = BRANCH,
    [PVM_OP_branch_not_eq] = BRANCH,
    [PVM_OP_branch_less_unsigned] = BRANCH,
    [PVM_OP_branch_less_signed] = BRANCH,
    [PVM_OP_branch_greater_or_equal_unsigned] = BRANCH,
    [PVM_OP_branch_greater_or_equal_signed] = BRANCH,
    [PVM_OP_branch_eq_imm] = BRANCH,
    [PVM_OP_branch_not_eq_imm] = BRANCH,
    [PVM_OP_branch_less_unsigned_imm] = BRANCH,
    [PVM_OP_branch_less_or_equal_unsigned_imm] = BRANCH,
    [PVM_OP_branch_greater_or_equal_unsigned_imm] = BRANCH,
    [PVM_OP_branch_greater_unsigned_imm] = BRANCH,
    [PVM_OP_branch_less_signed_imm] = BRANCH,
    [PVM_OP_branch_less_or_equal_signed_imm] = BRANCH,
    [PVM_OP_branch_greater_or_equal_signed_imm] = BRANCH,
    [PVM_OP_branch_greater_signed_imm] = BRANCH,
    [PVM_OP_jump] = NO_ALU(15, 1),
    [PVM_OP_load_imm_and_jump] = NO_ALU(15, 1),
    [PVM_OP_jump_indirect] = NO_ALU(22, 1),
    [PVM_OP_load_imm_and_jump_indirect] = NO_ALU(22, 1),
    [PVM_OP_invalid] = NO_ALU(2, 1),
    [PVM_OP_trap] = NO_ALU(2, 1),
    [PVM_OP_fallthrough] = NO_ALU(2, 1),
    [PVM_OP_unlikely] = NO_ALU(40, 1),
    [PVM_OP_ecalli] = SIMPLE(100, 4),
    [PVM_OP_memset] = SIMPLE(100, 4),
    [PVM_OP_sbrk] = SIMPLE(100, 4),
};

/* Registers that an instruction reads and writes, for the simulation; NOWHERE is a register that nobody writes. */
enum { NOWHERE = PVM_REGISTER_COUNT, REGISTER_SLOTS = 16 };

struct operands {
    uint8_t destination, first, second;
};

static struct operands operands_of(const struct pvm_decoded *i)
{
    const uint8_t unit = needs[i->op].unit;
    switch (pvm_format_of_op[i->op]) {
    case PVM_FORMAT_REG_IMM64:
        return (struct operands){i->a, NOWHERE, NOWHERE};
    case PVM_FORMAT_REG_IMM:
        if (i->op == PVM_OP_load_imm || unit == UNIT_LOAD)
            return (struct operands){i->a, NOWHERE, NOWHERE};
        return (struct operands){NOWHERE, i->a, NOWHERE};
    case PVM_FORMAT_REG_IMM_IMM:
        return (struct operands){NOWHERE, i->a, NOWHERE};
    case PVM_FORMAT_REG_IMM_OFFSET:
        return (struct operands){NOWHERE, i->op == PVM_OP_load_imm_and_jump ? NOWHERE : i->a, NOWHERE};
    case PVM_FORMAT_REG_REG_IMM:
        if (unit == UNIT_STORE)
            return (struct operands){NOWHERE, i->a, i->b};
        return (struct operands){i->a, i->b, NOWHERE};
    case PVM_FORMAT_REG_REG_OFFSET:
        return (struct operands){NOWHERE, i->a, i->b};
    case PVM_FORMAT_REG_REG_IMM_IMM:
        return (struct operands){NOWHERE, i->b, NOWHERE};
    case PVM_FORMAT_REG_REG:
        return (struct operands){i->d, i->a, NOWHERE};
    case PVM_FORMAT_REG_REG_REG:
        return (struct operands){i->d, i->a, i->b};
    default:
        return (struct operands){NOWHERE, NOWHERE, NOWHERE};
    }
}

/* --- the core ---------------------------------------------------------------------------------------------- */

enum { ROB_SIZE = 32 };

/* An entry of the reorder buffer is in one of these sets of entries, in this order; in `running` and, in the cycle
 * after its result is there, in `finished`. */
struct core {
    uint64_t cycle;
    uint32_t slots;           /* decode slots left in this cycle */
    uint32_t head, in_flight; /* the oldest entry; how many there are */

    uint32_t decoding;
    uint32_t blocked;         /* waits for results of others; may be decoding still */
    uint32_t waiting;
    uint32_t running;
    uint32_t finished;
    uint32_t executed;

    uint32_t alu_free, free[UNIT_COUNT];
    uint32_t needs_alu, needs_two_alus, needs_unit[UNIT_COUNT]; /* sets */

    uint64_t next_end;                  /* earliest of the ends of `running` */
    uint64_t end[ROB_SIZE];             /* the cycle in which the result is there */
    uint32_t latency[ROB_SIZE];
    uint32_t depends_on[ROB_SIZE];      /* sets */
    uint32_t writer_of[REGISTER_SLOTS]; /* sets of at most one: the pending entry that writes the register last */
    uint8_t alu[ROB_SIZE], unit[ROB_SIZE];
};

static uint32_t rotate_right(uint32_t set, uint32_t count)
{
    return set >> (count & 31) | set << (-count & 31);
}

static void retire(struct core *core)
{
    uint32_t oldest_first = rotate_right(core->executed, core->head);
    uint32_t count = ~oldest_first ? (uint32_t)__builtin_ctz(~oldest_first) : ROB_SIZE;
    uint32_t retired = count < ROB_SIZE ? (UINT32_C(1) << count) - 1 : UINT32_MAX;
    core->executed &= ~rotate_right(retired, -core->head);
    core->head = (core->head + count) % ROB_SIZE;
    core->in_flight -= count;
}

/* The entries that could start now. */
static uint32_t startable(const struct core *core)
{
    uint32_t set = core->waiting & ~core->blocked;
    if (core->alu_free < 2)
        set &= ~core->needs_two_alus;
    if (core->alu_free < 1)
        set &= ~core->needs_alu;
    for (uint32_t unit = UNIT_LOAD; unit < UNIT_COUNT; unit++)
        if (core->free[unit] == 0)
            set &= ~core->needs_unit[unit];
    return set;
}

static void start(struct core *core)
{
    for (uint32_t n = 0; n < MOST_STARTS; n++) {
        uint32_t set = startable(core);
        if (set == 0)
            return;
        uint32_t at = ((uint32_t)__builtin_ctz(rotate_right(set, core->head)) + core->head) % ROB_SIZE;
        core->waiting &= ~(UINT32_C(1) << at);
        core->running |= UINT32_C(1) << at;
        core->alu_free -= core->alu[at];
        core->free[core->unit[at]] -= core->unit[at] != UNIT_NONE;
        core->end[at] = core->cycle + core->latency[at] - 1;
        if (core->end[at] < core->next_end)
            core->next_end = core->end[at];
    }
}

/* Moves entries whose result is there to `finished`, and lets others have what they held. */
static void finish(struct core *core)
{
    uint64_t next_end = UINT64_MAX;
    uint32_t done = 0;
    for (uint32_t set = core->running; set; set &= set - 1) {
        uint32_t at = (uint32_t)__builtin_ctz(set);
        if (core->end[at] == core->cycle) {
            done |= UINT32_C(1) << at;
            core->alu_free += core->alu[at];
            core->free[core->unit[at]] += core->unit[at] != UNIT_NONE;
        } else if (core->end[at] < next_end) {
            next_end = core->end[at];
        }
    }
    core->next_end = next_end;
    core->running &= ~done;
    core->finished = done;
    for (uint32_t r = 0; r < REGISTER_SLOTS; r++)
        core->writer_of[r] &= ~done;
    for (uint32_t set = core->blocked; set; set &= set - 1) {
        uint32_t at = (uint32_t)__builtin_ctz(set);
        core->depends_on[at] &= ~done;
        if (core->depends_on[at] == 0)
            core->blocked &= ~(UINT32_C(1) << at);
    }
}

static void tick(struct core *core)
{
    retire(core);
    start(core);
    core->executed |= core->finished;
    core->finished = 0;
    if (core->next_end == core->cycle)
        finish(core);
    core->waiting |= core->decoding;
    core->decoding = 0;
    core->slots = DECODE_SLOTS;
    core->cycle++;
}

static void tick_until(struct core *core, uint32_t most_in_flight)
{
    tick(core);
    while (core->in_flight > most_in_flight) {
        bool idle = core->finished == 0 && (core->executed >> core->head & 1) == 0 && startable(core) == 0;
        if (idle) /* nothing happens until a result is there */
            core->cycle = core->next_end;
        tick(core);
    }
}

static void dispatch(struct core *core, const struct need *need, struct operands operands, uint32_t latency,
                     uint32_t slots)
{
    uint32_t at = (core->head + core->in_flight++) % ROB_SIZE, bit = UINT32_C(1) << at;
    core->slots -= slots;
    core->decoding |= bit;
    core->latency[at] = latency;
    core->alu[at] = need->alu;
    core->unit[at] = need->unit;
    core->needs_alu = (core->needs_alu & ~bit) | (need->alu ? bit : 0);
    core->needs_two_alus = (core->needs_two_alus & ~bit) | (need->alu == 2 ? bit : 0);
    for (uint32_t unit = UNIT_LOAD; unit < UNIT_COUNT; unit++)
        core->needs_unit[unit] = (core->needs_unit[unit] & ~bit) | (need->unit == unit ? bit : 0);
    core->depends_on[at] = core->writer_of[operands.first] | core->writer_of[operands.second];
    core->blocked |= core->depends_on[at] ? bit : 0;
    if (operands.destination != NOWHERE)
        core->writer_of[operands.destination] = bit;
}

/* --- blocks ------------------------------------------------------------------------------------------------ */

/* Whether a branch to `pc`, or past itself to `pc`, is expected to be predicted: the opcode byte there says that it
 * is rarely run. Any byte counts, not only one where an instruction starts. */
static bool looks_unlikely(const struct pvm_program *program, uint32_t pc)
{
    if (pc >= program->code_size)
        return true;
    enum pvm_op op = pvm_op_at(program, pc);
    return op == PVM_OP_trap || op == PVM_OP_unlikely;
}

static uint32_t latency_of(const struct pvm_program *program, const struct pvm_cost_model *model,
                           const struct pvm_decoded *i)
{
    const struct need *need = &needs[i->op];
    if (need->unit == UNIT_LOAD)
        return model->memory_latency ? model->memory_latency : 1;
    const uint8_t format = pvm_format_of_op[i->op];
    bool branch = format == PVM_FORMAT_REG_REG_OFFSET ||
                  (format == PVM_FORMAT_REG_IMM_OFFSET && i->op != PVM_OP_load_imm_and_jump);
    if (branch)
        return looks_unlikely(program, i->next) || looks_unlikely(program, i->target) ? CHEAP_BRANCH : DEAR_BRANCH;
    return need->latency + (program->isa == PVM_ISA_LATEST32 ? 0u : need->widen);
}

static uint32_t slots_of(const struct pvm_program *program, const struct need *need, struct operands operands)
{
    bool first = operands.destination == operands.first, second = operands.destination == operands.second;
    uint32_t slots = need->slots + (program->isa == PVM_ISA_LATEST32 ? 0u : need->widen);
    if (need->copy == COPY_UNLESS_SOURCE)
        slots += !first && !second;
    else if (need->copy == COPY_UNLESS_FIRST)
        slots += !first;
    return slots;
}

static uint64_t full_cost(const struct pvm_program *program, const struct pvm_cost_model *model, uint32_t pc)
{
    struct core core = {
        .slots = DECODE_SLOTS,
        .alu_free = 4,
        .free = {[UNIT_LOAD] = 4, [UNIT_STORE] = 4, [UNIT_MUL] = 1, [UNIT_DIV] = 1},
        .next_end = UINT64_MAX,
    };
    for (;;) {
        struct pvm_decoded i = {.pc = pc, .op = PVM_OP_invalid};
        if (pvm_has_instruction(program, pc))
            i = pvm_decode(program, pc);
        const struct need *need = &needs[i.op];
        struct operands operands = operands_of(&i);
        uint32_t slots = slots_of(program, need, operands);
        if (core.slots < slots || core.in_flight == ROB_SIZE)
            tick_until(&core, ROB_SIZE - 1);
        if (i.op == PVM_OP_move_reg) { /* renames */
            core.slots -= slots;
            core.writer_of[i.d] = core.writer_of[i.a];
        } else {
            dispatch(&core, need, operands, latency_of(program, model, &i), slots);
        }
        if (pvm_op_ends_block[i.op])
            break;
        pc = i.next;
    }
    tick_until(&core, 0);
    return core.cycle > REFUND ? core.cycle - REFUND : 1;
}

static uint64_t table_cost(const struct pvm_program *program, const struct pvm_cost_model *model, uint32_t pc)
{
    uint64_t cost = 0;
    enum pvm_op op;
    do {
        op = PVM_OP_invalid;
        if (pvm_has_instruction(program, pc)) {
            op = pvm_op_at(program, pc);
            pc += 1 + pvm_skip(program, pc);
        }
        cost += model->costs[op]; /* no overflow: at most 2^25 instructions of at most 2^32 */
    } while (!pvm_op_ends_block[op]);
    return cost;
}

uint32_t pvm_block_cost(const struct pvm_program *program, const struct pvm_cost_model *model, uint32_t start)
{
    uint64_t cost = model->kind == PVM_COST_FULL ? full_cost(program, model, start) : table_cost(program, model, start);
    return cost < INT32_MAX ? (uint32_t)cost : INT32_MAX;
}

bool pvm_block_start(const struct pvm_program *program, uint32_t pc, uint32_t *start)
{
    if (!pvm_has_instruction(program, pc))
        return false;
    while (pc != 0) {
        uint32_t first = pc > PVM_MAX_INSTRUCTION_LENGTH ? pc - PVM_MAX_INSTRUCTION_LENGTH : 0;
        uint64_t bits = pvm_bitmask_window(program, first) & ((UINT64_C(1) << (pc - first)) - 1);
        if (bits == 0)
            return false;
        uint32_t previous = first + 63 - (uint32_t)__builtin_clzll(bits);
        if (pvm_op_ends_block[pvm_op_at(program, previous)])
            break;
        pc = previous;
    }
    *start = pc;
    return true;
}
