/* SPDX-License-Identifier: MIT
 *
 * The passes of a recompilation, and the tables that come out of it.
 */
#include "recompiler.h"

#include <assert.h>
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>

#include "emitter.h"

/* Guest code bytes per entry of pvm_recompiled.index. */
#define INDEX_STRIDE 64

/* A gas stub is a ud2. */
#define GAS_STUB_LENGTH 2u

/* The trampolines are well below this. */
#define PVM_MAX_TRAMPOLINES_LENGTH 1024

/* --- tables ------------------------------------------------------------------------------------------------ */

/* The instruction at `pc` among instructions[first .. end), which are ascending; NULL if it is not there. */
static const struct pvm_instruction *find_between(const struct pvm_instruction *instructions, size_t first, size_t end,
                                                  uint32_t pc)
{
    while (first < end) {
        size_t middle = first + (end - first) / 2;
        if (instructions[middle].pc < pc)
            first = middle + 1;
        else if (instructions[middle].pc > pc)
            end = middle;
        else
            return &instructions[middle];
    }
    return NULL;
}

const struct pvm_instruction *pvm_find_pc(const struct pvm_recompiled *recompiled, uint32_t pc)
{
    size_t stretch = pc / INDEX_STRIDE;
    if (stretch + 1 >= recompiled->index_count)
        return NULL;
    return find_between(recompiled->instructions, recompiled->index[stretch], recompiled->index[stretch + 1], pc);
}

const struct pvm_instruction *pvm_find_native(const struct pvm_recompiled *recompiled, uint64_t native)
{
    const struct pvm_instruction *instructions = recompiled->instructions;
    size_t first = 0, end = recompiled->instruction_count; /* the first one behind `native` is in [first, end] */
    if (native >= recompiled->gas_stubs_at)
        return NULL;
    while (first < end) {
        size_t middle = first + (end - first) / 2;
        if (instructions[middle].native <= native)
            first = middle + 1;
        else
            end = middle;
    }
    return first == 0 ? NULL : &instructions[first - 1];
}

const struct pvm_gas_stub *pvm_find_gas_stub(const struct pvm_recompiled *recompiled, uint64_t native)
{
    if (native < recompiled->gas_stubs_at || (native - recompiled->gas_stubs_at) % GAS_STUB_LENGTH != 0)
        return NULL;
    uint64_t stub = (native - recompiled->gas_stubs_at) / GAS_STUB_LENGTH;
    return stub < recompiled->gas_stub_count ? &recompiled->gas_stubs[stub] : NULL;
}

void pvm_fill_jump_table(const struct pvm_program *program, const struct pvm_recompiled *recompiled,
                         uint64_t code_base, uint64_t *slots)
{
    uint32_t entry_size = program->jump_table_entry_size;
    *slots++ = PVM_INVALID_CODE_ADDRESS;
    *slots++ = PVM_INVALID_CODE_ADDRESS;
    for (uint32_t n = 0; n < program->jump_table_count; n++) {
        uint32_t pc = 0;
        const struct pvm_instruction *instruction = NULL;
        if (entry_size != 0) {
            memcpy(&pc, program->jump_table + (size_t)n * entry_size, entry_size);
            if (pvm_is_jump_target(program, pc))
                instruction = pvm_find_pc(recompiled, pc);
        }
        *slots++ = instruction ? code_base + instruction->native : PVM_INVALID_CODE_ADDRESS;
        *slots++ = PVM_INVALID_CODE_ADDRESS;
    }
}

void pvm_recompiled_free(struct pvm_recompiled *result)
{
    free(result->instructions);
    free(result->gas_stubs);
    free(result->index);
    *result = (struct pvm_recompiled){0};
}

/* --- jumps ------------------------------------------------------------------------------------------------- */

/* Emits a jump whose short form is `near8` with an 8-bit displacement, and whose long form is the
 * `opcode_size` bytes of `near32` with a 32-bit one. */
static void emit_jump(struct pvm_emitter *e, unsigned near8, unsigned near32, unsigned opcode_size, uint32_t pc)
{
    const struct pvm_recompiled *result = e->result;
    const struct pvm_instruction *known = NULL;
    if (pc <= result->instructions[result->instruction_count - 1].pc) {
        size_t stretch = pc / INDEX_STRIDE;
        size_t end = stretch + 1 < e->indexed ? result->index[stretch + 1] : result->instruction_count;
        known = find_between(result->instructions, result->index[stretch], end, pc);
    }
    if (known) {
        int64_t distance = (int64_t)known->native - pvm_native_offset(e);
        if (x86_fits_i8(distance - 2)) {
            x86_put(&e->x86, near8, 1);
            x86_put(&e->x86, (uint8_t)(distance - 2), 1);
        } else {
            x86_put(&e->x86, near32, opcode_size);
            x86_put(&e->x86, (uint32_t)(distance - opcode_size - 4), 4);
        }
    } else {
        x86_put(&e->x86, near32, opcode_size);
        e->fixups[e->fixup_count++] = (struct pvm_fixup){.at = pvm_native_offset(e), .pc = pc};
        x86_put(&e->x86, 0, 4);
    }
}

void pvm_emit_jump(struct pvm_emitter *e, uint32_t pc)
{
    emit_jump(e, 0xeb, 0xe9, 1, pc);
}

void pvm_emit_jump_if(struct pvm_emitter *e, enum x86_cc cc, uint32_t pc)
{
    emit_jump(e, 0x70u | cc, 0x0fu | (0x80u | cc) << 8, 2, pc);
}

/* Patches the jumps that were emitted before their targets. */
static void resolve_fixups(struct pvm_emitter *e)
{
    for (size_t n = 0; n < e->fixup_count; n++) {
        const struct pvm_fixup *fixup = &e->fixups[n];
        const struct pvm_instruction *target = pvm_find_pc(e->result, fixup->pc);
        assert(target); /* pvm_is_jump_target: its bit is set, and the walk visits every set bit */
        uint32_t displacement = target->native - (fixup->at + 4);
        memcpy(e->start + fixup->at, &displacement, sizeof displacement);
    }
}

/* --- gas --------------------------------------------------------------------------------------------------- */

void pvm_emit_gas_stub_if(struct pvm_emitter *e, enum x86_cc cc, struct pvm_gas_stub stub)
{
    x86_put(&e->x86, 0x0fu | (0x80u | cc) << 8, 2);
    e->stubs[e->stub_count++] = (struct pvm_stub_fixup){.at = pvm_native_offset(e), .stub = stub};
    x86_put(&e->x86, 0, 4);
}

/* Takes `cost`, or leads to a stub if there is less than that: sub and jl, one micro-operation. */
static void emit_charge(struct pvm_emitter *e, uint32_t cost)
{
    const uint32_t start = pvm_native_offset(e);
    x86_alu_imm(&e->x86, X86_64, X86_SUB, GAS, (int32_t)cost);
    pvm_emit_gas_stub_if(e, X86_L, (struct pvm_gas_stub){.native = start, .cost = cost});
}

/* Emits the stubs, out of the way of the code, and makes the table of them. */
static int emit_gas_stubs(struct pvm_emitter *e, const uint8_t *end)
{
    struct pvm_recompiled *result = e->result;
    result->gas_stubs_at = pvm_native_offset(e);
    if (e->stub_count == 0)
        return 0;
    if ((size_t)(end - e->x86.at) < e->stub_count * GAS_STUB_LENGTH + X86_SLACK)
        return -EFBIG;
    result->gas_stubs = malloc(e->stub_count * sizeof *result->gas_stubs);
    if (!result->gas_stubs)
        return -ENOMEM;
    for (size_t n = 0; n < e->stub_count; n++) {
        const uint32_t displacement = pvm_native_offset(e) - (e->stubs[n].at + 4);
        memcpy(e->start + e->stubs[n].at, &displacement, sizeof displacement);
        result->gas_stubs[n] = e->stubs[n].stub;
        x86_ud2(&e->x86);
    }
    result->gas_stub_count = e->stub_count;
    return 0;
}

/* --- the walk ---------------------------------------------------------------------------------------------- */

static size_t count_instructions(const struct pvm_program *program)
{
    size_t count = 0, size = (program->code_size + 7) / 8;
    uint64_t bits;
    size_t n = 0;
    for (; n + sizeof bits <= size; n += sizeof bits) {
        memcpy(&bits, program->bitmask + n, sizeof bits);
        count += (size_t)__builtin_popcountll(bits);
    }
    for (; n < size; n++)
        count += (size_t)__builtin_popcount(program->bitmask[n]);
    return count;
}

static int grow_fixups(struct pvm_emitter *e)
{
    size_t capacity = e->fixup_capacity ? 2 * e->fixup_capacity : 1024;
    struct pvm_fixup *fixups = realloc(e->fixups, capacity * sizeof *fixups);
    if (!fixups)
        return -ENOMEM;
    e->fixups = fixups;
    e->fixup_capacity = capacity;
    return 0;
}

static int grow_stubs(struct pvm_emitter *e)
{
    size_t capacity = e->stub_capacity ? 2 * e->stub_capacity : 1024;
    struct pvm_stub_fixup *stubs = realloc(e->stubs, capacity * sizeof *stubs);
    if (!stubs)
        return -ENOMEM;
    e->stubs = stubs;
    e->stub_capacity = capacity;
    return 0;
}

/* Enters the instruction at `pc`, about to be emitted, into the tables, and emits what comes before it: the
 * stop of step tracing, then the charge for its block if it is the first. */
static void begin_instruction(struct pvm_emitter *e, uint32_t pc, bool starts_block)
{
    struct pvm_recompiled *result = e->result;
    while (e->indexed <= pc / INDEX_STRIDE)
        result->index[e->indexed++] = (uint32_t)result->instruction_count;
    result->instructions[result->instruction_count++] =
        (struct pvm_instruction){.pc = pc, .native = pvm_native_offset(e)};
    if (e->execution->step_tracing)
        pvm_emit_leave(e, e->step);
    if (e->metered && e->execution->per_instruction)
        emit_charge(e, 1);
    else if (e->metered && starts_block)
        emit_charge(e, pvm_block_cost(e->program, &e->execution->cost, pc));
}

/* An invalid instruction that the bitmask does not show. */
static void emit_implicit(struct pvm_emitter *e, uint32_t pc, bool starts_block)
{
    begin_instruction(e, pc, starts_block);
    pvm_emit_instruction(e, &(struct pvm_decoded){.pc = pc, .next = pc + 1, .op = PVM_OP_invalid});
}

/* Emits everything from pc 0 on. The tables hold one entry per set bit, and one for each place without its
 * bit that control can fall into: pc 0, what is behind an over-long instruction, and the end of the code. */
static int emit_code(struct pvm_emitter *e, size_t capacity)
{
    const struct pvm_program *program = e->program;
    if (capacity < PVM_MAX_TRAMPOLINES_LENGTH)
        return -EFBIG;
    pvm_emit_trampolines(e);
    assert(pvm_native_offset(e) <= PVM_MAX_TRAMPOLINES_LENGTH - X86_SLACK);

    const uint8_t *limit = e->start + capacity - 2 * PVM_MAX_NATIVE_LENGTH; /* room for two, one may be implicit */
    uint32_t pc = 0;
    bool starts_block = true;
    if (grow_stubs(e) < 0)
        return -ENOMEM;
    if (!pvm_has_instruction(program, 0)) {
        emit_implicit(e, 0, true);
        pc = pvm_seek_instruction(program, 0);
    }
    while (pc < program->code_size) {
        if (e->x86.at > limit)
            return -EFBIG;
        if (e->fixup_count == e->fixup_capacity && grow_fixups(e) < 0)
            return -ENOMEM;
        /* one of the instruction's block, one of its own, one of an implicit instruction behind it */
        if (e->stub_capacity - e->stub_count < 3 && grow_stubs(e) < 0)
            return -ENOMEM;

        struct pvm_decoded i = pvm_decode(program, pc);
        const uint8_t *before = e->x86.at;
        begin_instruction(e, pc, starts_block);
        pvm_emit_instruction(e, &i);
        starts_block = pvm_op_ends_block[i.op];
        assert(e->x86.at - before <= PVM_MAX_NATIVE_LENGTH - X86_SLACK);
        (void)before;

        pc = i.next;
        if (!pvm_has_instruction(program, pc)) {
            if (pvm_falls_through((enum pvm_op)i.op))
                emit_implicit(e, pc, starts_block);
            starts_block = true;
            pc = pvm_seek_instruction(program, pc);
        }
    }
    while (e->indexed < e->result->index_count)
        e->result->index[e->indexed++] = (uint32_t)e->result->instruction_count;
    resolve_fixups(e);
    int status = emit_gas_stubs(e, e->start + capacity);
    e->result->code_size = pvm_native_offset(e);
    return status;
}

/* --- entry ------------------------------------------------------------------------------------------------- */

uint32_t pvm_cpu_features(void)
{
    unsigned a, b, c, d;
    uint32_t features = 0;
    if (__get_cpuid(1, &a, &b, &c, &d) && (c & bit_POPCNT))
        features |= PVM_CPU_POPCNT;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        features |= b & bit_BMI ? PVM_CPU_BMI1 : 0;
        features |= b & bit_BMI2 ? PVM_CPU_BMI2 : 0;
    }
    if (__get_cpuid(0x80000001, &a, &b, &c, &d) && (c & bit_LZCNT))
        features |= PVM_CPU_LZCNT;
    return features;
}

/* Whether a displacement reaches `place`, and the page behind it, from every byte of the native code. */
static bool in_reach(int64_t place, size_t capacity)
{
    return place <= INT32_MAX - 4096 && place >= INT32_MIN + (int64_t)capacity;
}

int pvm_recompile(const struct pvm_program *program, const struct pvm_execution *execution,
                  const struct pvm_target *target, uint8_t *out, size_t capacity, struct pvm_recompiled *result)
{
    *result = (struct pvm_recompiled){0};
    if (program->isa >= PVM_ISA_COUNT || program->code_size == 0)
        return -EINVAL;
    if (~target->cpu_features & PVM_CPU_REQUIRED)
        return -ENOTSUP;
    if (capacity > INT32_MAX)
        capacity = INT32_MAX; /* jumps within the code reach no further */
    if (!in_reach(target->vmctx, capacity) || !in_reach(target->jump_table, capacity) ||
        !in_reach(target->exit, capacity))
        return -ERANGE;

    /* one implicit instruction behind each gap of the bitmask, one at either end */
    size_t most = count_instructions(program) + program->code_size / PVM_MAX_INSTRUCTION_LENGTH + 2;
    result->index_count = program->code_size / INDEX_STRIDE + 2;
    result->instructions = malloc(most * sizeof *result->instructions);
    result->index = malloc(result->index_count * sizeof *result->index);

    struct pvm_emitter e = {
        .x86 = {.at = out},
        .start = out,
        .program = program,
        .target = target,
        .result = result,
        .w = program->isa == PVM_ISA_LATEST32 ? X86_32 : X86_64,
        .bmi2 = target->cpu_features & PVM_CPU_BMI2,
        .execution = execution,
        .metered = execution->gas_metering != PVM_GAS_NONE,
    };
    int status = result->instructions && result->index ? emit_code(&e, capacity) : -ENOMEM;
    free(e.fixups);
    free(e.stubs);
    if (status < 0) {
        pvm_recompiled_free(result);
        return status;
    }
    struct pvm_instruction *shrunk =
        realloc(result->instructions, result->instruction_count * sizeof *result->instructions);
    if (shrunk)
        result->instructions = shrunk;
    return 0;
}

uint32_t pvm_fixup_memset(uint32_t isa, uint64_t *regs, const uint64_t *tmp)
{
    uint64_t start = tmp[1];
    uint32_t stored = (uint32_t)regs[PVM_REG_A0] - (uint32_t)start;
    regs[PVM_REG_A0] = isa == PVM_ISA_LATEST32 ? (uint32_t)(start + stored) : start + stored;
    regs[PVM_REG_A2] = (uint32_t)regs[PVM_REG_A2] - stored;
    return (uint32_t)tmp[0];
}
