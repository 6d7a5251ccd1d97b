/* SPDX-License-Identifier: MIT
 *
 * From guest code to steps: one pass to decode, charge for and number the instructions, one to turn the targets of
 * jumps from pcs into indexes of steps.
 */
#include <errno.h>
#include <stdlib.h>

#include "decode.h"
#include "interpreter_internal.h"

/* Code bytes per entry of pvm_interpreter.index. */
#define INDEX_STRIDE 64

struct predecoder {
    struct pvm_interpreter *interpreter;
    const struct pvm_program *program;
    const struct pvm_execution *execution;
    const int32_t *codes;
    uint32_t indexed;     /* entries of the index that are filled */
    uint32_t block_cost;  /* of the block that is being decoded */
    uint32_t unchecked;   /* instructions since the budget was last looked at */
    unsigned kinds[2];    /* of the last two steps, the older one first */
};

uint32_t pvm_find_step(const struct pvm_interpreter *interpreter, uint64_t pc)
{
    if (pc > interpreter->program.code_size + PVM_MAX_INSTRUCTION_LENGTH)
        return NO_STEP;
    size_t stretch = (size_t)pc / INDEX_STRIDE;
    uint32_t first = interpreter->index[stretch], end = interpreter->index[stretch + 1];
    while (first < end) {
        uint32_t middle = first + (end - first) / 2;
        if (interpreter->pcs[middle] < pc)
            first = middle + 1;
        else
            end = middle;
    }
    return first < interpreter->count && interpreter->pcs[first] == pc ? first : NO_STEP;
}

/* --- steps ------------------------------------------------------------------------------------------------- */

static struct step *put(struct predecoder *p, uint32_t pc, unsigned kind, uint32_t cost)
{
    struct pvm_interpreter *interpreter = p->interpreter;
    while (p->indexed <= pc / INDEX_STRIDE)
        interpreter->index[p->indexed++] = interpreter->count;
    uint32_t n = interpreter->count++;
    interpreter->pcs[n] = pc;
    interpreter->costs[n] = cost;
    interpreter->steps[n] = (struct step){.code = p->codes[kind]};
    p->kinds[0] = p->kinds[1];
    p->kinds[1] = kind;
    return &interpreter->steps[n];
}

/* The kind of two steps done at once; PVM_OP_invalid if there is none. */
static unsigned pair(bool wide, unsigned first, unsigned second)
{
#define WIDEST(name) (wide ? PVM_OP_##name##_64 : PVM_OP_##name##_32)
    const unsigned add_imm = WIDEST(add_imm), add = WIDEST(add);
    const unsigned load = wide ? PVM_OP_load_indirect_u64 : PVM_OP_load_indirect_i32;
    const unsigned store = wide ? PVM_OP_store_indirect_u64 : PVM_OP_store_indirect_u32;
    if (first == add_imm) {
        switch (second) {
#define BRANCH(name, condition) case PVM_OP_##name: return STEP_ADD_IMM_##name;
            PVM_BRANCHES(BRANCH)
#undef BRANCH
        default:
            return second == add_imm ? STEP_ADD_IMM_ADD_IMM : (unsigned)PVM_OP_invalid;
        }
    }
    const struct {
        unsigned first, second, both;
    } pairs[] = {
        {PVM_OP_load_imm, add, STEP_LOAD_IMM_ADD},
        {load, add, STEP_LOAD_ADD},
        {load, load, STEP_LOAD_LOAD},
        {load, WIDEST(shift_logical_left), STEP_LOAD_SHIFT_LEFT},
        {load, WIDEST(shift_logical_right), STEP_LOAD_SHIFT_RIGHT},
        {PVM_OP_load_indirect_u8, WIDEST(shift_logical_left_imm), STEP_LOAD_U8_SHIFT_LEFT_IMM},
        {store, store, STEP_STORE_STORE},
        {PVM_OP_store_indirect_u8, add_imm, STEP_STORE_U8_ADD_IMM},
        {WIDEST(shift_logical_right), PVM_OP_store_indirect_u8, STEP_SHIFT_RIGHT_STORE_U8},
        {WIDEST(shift_logical_left_imm), WIDEST(shift_logical_right_imm), STEP_SHIFT_LEFT_IMM_SHIFT_RIGHT_IMM},
    };
    for (size_t n = 0; n < sizeof pairs / sizeof *pairs; n++)
        if (first == pairs[n].first && second == pairs[n].second)
            return pairs[n].both;
    return PVM_OP_invalid;
#undef WIDEST
}

/* The same for three, of which the last two are a pair already. */
static unsigned triple(bool wide, unsigned first, unsigned second_and_third)
{
    if (first != (wide ? PVM_OP_add_imm_64 : PVM_OP_add_imm_32))
        return PVM_OP_invalid;
    switch (second_and_third) {
#define BRANCH(name, condition) case STEP_ADD_IMM_##name: return STEP_ADD_IMM_ADD_IMM_##name;
        PVM_BRANCHES(BRANCH)
#undef BRANCH
    default:
        return PVM_OP_invalid;
    }
}

/* Has the steps before the last one do more, if they make a sequence with it. */
static void make_sequence(struct predecoder *p, unsigned oldest, unsigned previous, unsigned last)
{
    struct pvm_interpreter *interpreter = p->interpreter;
    bool wide = p->program->isa != PVM_ISA_LATEST32;
    unsigned both = pair(wide, previous, last);
    if (both == PVM_OP_invalid)
        return;
    interpreter->steps[interpreter->count - 2].code = p->codes[both];
    unsigned all = triple(wide, oldest, both);
    if (all != PVM_OP_invalid)
        interpreter->steps[interpreter->count - 3].code = p->codes[all];
}

/* Turns the step of an instruction that has to trap into that. Jumps have a pc as their target yet. */
static unsigned kind_of(const struct pvm_program *program, const struct pvm_decoded *i)
{
    switch (pvm_format_of_op[i->op]) {
    case PVM_FORMAT_OFFSET:
        return pvm_is_jump_target(program, i->target) ? i->op : (unsigned)PVM_OP_trap;
    case PVM_FORMAT_REG_IMM_OFFSET:
        if (i->op == PVM_OP_load_imm_and_jump)
            return pvm_is_jump_target(program, i->target) ? i->op : (unsigned)STEP_LOAD_IMM_AND_TRAP;
        /* fall through */
    case PVM_FORMAT_REG_REG_OFFSET:
        return pvm_is_jump_target(program, i->target) && pvm_is_jump_target(program, i->next) ? i->op
                                                                                              : (unsigned)PVM_OP_trap;
    default:
        return i->op;
    }
}

static void put_instruction(struct predecoder *p, const struct pvm_decoded *i, bool starts_block)
{
    const struct pvm_execution *execution = p->execution;
    if (p->interpreter->pauses) {
        struct step *pause = put(p, i->pc, STEP_PAUSE, 0);
        if (execution->per_instruction)
            pause->x = execution->gas_metering != PVM_GAS_NONE;
        else if (starts_block && p->block_cost != NO_BLOCK)
            pause->x = (int32_t)p->block_cost; /* saturated at INT32_MAX */
    }

    const unsigned kind = kind_of(p->program, i), kinds[2] = {p->kinds[0], p->kinds[1]};
    struct step *step = put(p, i->pc, kind, p->block_cost);
    if (kinds[1] != PVM_OP_invalid)
        make_sequence(p, kinds[0], kinds[1], kind);
    step->a = i->a;
    step->b = i->b;
    step->x = (int32_t)i->x;
    switch (pvm_format_of_op[i->op]) {
    case PVM_FORMAT_OFFSET:
    case PVM_FORMAT_REG_IMM_OFFSET:
    case PVM_FORMAT_REG_REG_OFFSET:
        step->y = i->target;
        break;
    case PVM_FORMAT_REG_IMM64:
        step->y = (uint32_t)((uint64_t)i->x >> 32);
        break;
    default:
        step->y = (uint32_t)i->y;
    }
    p->unchecked++;
    if (pvm_op_ends_block[i->op]) {
        step->length = (uint16_t)p->unchecked;
        p->unchecked = 0;
    } else {
        step->d = i->d;
        if (p->unchecked == MOST_UNCHECKED) {
            put(p, i->pc, STEP_CHECK, p->block_cost)->length = (uint16_t)p->unchecked;
            p->unchecked = 0;
        }
    }
}

static uint32_t cost_of_block(const struct predecoder *p, uint32_t pc)
{
    bool by_block = p->execution->gas_metering != PVM_GAS_NONE && !p->execution->per_instruction;
    return by_block ? pvm_block_cost(p->program, &p->execution->cost, pc) : 0;
}

static void put_implicit(struct predecoder *p, uint32_t pc, bool starts_block)
{
    if (starts_block)
        p->block_cost = cost_of_block(p, pc);
    put_instruction(p, &(struct pvm_decoded){.pc = pc, .next = pc + 1, .op = PVM_OP_invalid}, starts_block);
}

static void walk(struct predecoder *p)
{
    const struct pvm_program *program = p->program;
    uint32_t pc = 0;
    bool starts_block = true, gap = false; /* what the instruction at pc does, and what lies before it */
    if (!pvm_has_instruction(program, 0)) {
        put_implicit(p, 0, true);
        pc = pvm_seek_instruction(program, 0);
        gap = true;
    }
    while (pc < program->code_size) {
        struct pvm_decoded i = pvm_decode(program, pc);
        if (gap)
            p->block_cost = NO_BLOCK;
        else if (starts_block)
            p->block_cost = cost_of_block(p, pc);
        put_instruction(p, &i, starts_block);
        starts_block = pvm_op_ends_block[i.op];
        pc = i.next;
        gap = !pvm_has_instruction(program, pc);
        if (gap) {
            if (pvm_falls_through((enum pvm_op)i.op))
                put_implicit(p, pc, starts_block);
            pc = pvm_seek_instruction(program, pc);
        }
    }
}

/* Targets are jump targets, so each has its step. */
static void resolve_jumps(struct predecoder *p)
{
    struct pvm_interpreter *interpreter = p->interpreter;
    for (uint32_t n = 0; n < interpreter->count; n++) {
        struct step *step = &interpreter->steps[n];
        uint32_t pc = interpreter->pcs[n];
        if (!pvm_has_instruction(p->program, pc))
            continue;
        enum pvm_op op = pvm_op_at(p->program, pc);
        uint8_t format = pvm_format_of_op[op];
        bool jump = format == PVM_FORMAT_OFFSET || format == PVM_FORMAT_REG_IMM_OFFSET ||
                    format == PVM_FORMAT_REG_REG_OFFSET;
        if (jump && step->code == p->codes[op])
            step->y = pvm_find_step(interpreter, step->y);
    }
}

static size_t count_instructions(const struct pvm_program *program)
{
    size_t count = 0;
    for (uint32_t n = 0; n < (program->code_size + 7) / 8; n++)
        count += (size_t)__builtin_popcount(program->bitmask[n]);
    return count;
}

static void *shrink(void *data, size_t count, size_t size)
{
    void *shrunk = realloc(data, count * size);
    return shrunk ? shrunk : data;
}

int pvm_predecode(struct pvm_interpreter *interpreter, const int32_t *codes)
{
    const struct pvm_program *program = &interpreter->program;
    /* one implicit instruction behind each gap of the bitmask, one at either end */
    size_t most = count_instructions(program) + program->code_size / PVM_MAX_INSTRUCTION_LENGTH + 2;
    most += (interpreter->pauses ? most : 0) + most / MOST_UNCHECKED;
    /* the pc of the last one may lie behind the code; one entry more to have the end of the last stretch */
    interpreter->index_count = (program->code_size + PVM_MAX_INSTRUCTION_LENGTH) / INDEX_STRIDE + 2;
    interpreter->steps = malloc(most * sizeof *interpreter->steps);
    interpreter->pcs = malloc(most * sizeof *interpreter->pcs);
    interpreter->costs = malloc(most * sizeof *interpreter->costs);
    interpreter->index = malloc(interpreter->index_count * sizeof *interpreter->index);
    if (!interpreter->steps || !interpreter->pcs || !interpreter->costs || !interpreter->index)
        return -ENOMEM;

    struct predecoder p = {
        .interpreter = interpreter,
        .program = program,
        .execution = &interpreter->execution,
        .codes = codes,
    };
    walk(&p);
    while (p.indexed < interpreter->index_count)
        interpreter->index[p.indexed++] = interpreter->count;
    resolve_jumps(&p);
    interpreter->steps = shrink(interpreter->steps, interpreter->count, sizeof *interpreter->steps);
    interpreter->pcs = shrink(interpreter->pcs, interpreter->count, sizeof *interpreter->pcs);
    interpreter->costs = shrink(interpreter->costs, interpreter->count, sizeof *interpreter->costs);
    return 0;
}
