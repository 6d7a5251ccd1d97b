/* SPDX-License-Identifier: MIT
 *
 * The passes of a recompilation, and the tables that come out of it.
 */
#define _DEFAULT_SOURCE
#include "recompiler.h"

#include <assert.h>
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "emitter.h"

/* The trampolines are well below this. */
#define PVM_MAX_TRAMPOLINES_LENGTH 1024

/* --- tables ------------------------------------------------------------------------------------------------ */

static const struct pvm_stretch *find_stretch(const struct pvm_recompiled *recompiled, uint32_t pc)
{
    return pc / PVM_STRETCH < recompiled->stretch_count ? &recompiled->stretches[pc / PVM_STRETCH] : NULL;
}

static uint32_t count_bits(uint64_t bits)
{
    uint64_t count; /* an instruction of its own, without asking for it in all that is compiled here */
    __asm__("popcnt %1, %0" : "=r"(count) : "r"(bits) : "cc");
    return (uint32_t)count;
}

/* The instruction at `pc`, which is one. */
static const struct pvm_instruction *instruction_at(const struct pvm_recompiled *recompiled,
                                                    const struct pvm_stretch *stretch, uint32_t pc)
{
    const uint64_t below = (UINT64_C(1) << pc % PVM_STRETCH) - 1;
    return &recompiled->instructions[stretch->first + count_bits(stretch->starts & below)];
}

const struct pvm_instruction *pvm_find_pc(const struct pvm_recompiled *recompiled, uint32_t pc)
{
    const struct pvm_stretch *stretch = find_stretch(recompiled, pc);
    if (!stretch || !(stretch->starts >> pc % PVM_STRETCH & 1))
        return NULL;
    return instruction_at(recompiled, stretch, pc);
}

/* The same if a jump may land there. Holds for all pcs once everything is emitted, before that for those behind
 * which code was emitted already. */
static const struct pvm_instruction *find_jump_target(const struct pvm_recompiled *recompiled, uint32_t pc)
{
    const struct pvm_stretch *stretch = find_stretch(recompiled, pc);
    if (!stretch || !(stretch->jump_targets >> pc % PVM_STRETCH & 1))
        return NULL;
    return instruction_at(recompiled, stretch, pc);
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
    if (native < recompiled->gas_stubs_at || (native - recompiled->gas_stubs_at) % PVM_GAS_STUB_LENGTH != 0)
        return NULL;
    uint64_t stub = (native - recompiled->gas_stubs_at) / PVM_GAS_STUB_LENGTH;
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
            instruction = find_jump_target(recompiled, pc);
        }
        *slots++ = instruction ? code_base + instruction->native : PVM_INVALID_CODE_ADDRESS;
        *slots++ = PVM_INVALID_CODE_ADDRESS;
    }
}

void pvm_recompiled_free(struct pvm_recompiled *result)
{
    free(result->instructions);
    free(result->gas_stubs);
    free(result->stretches);
    *result = (struct pvm_recompiled){0};
}

/* --- jumps ------------------------------------------------------------------------------------------------- */

/* Emits a jump whose short form is `near8` with an 8-bit displacement, and whose long form is the
 * `opcode_size` bytes of `near32` with a 32-bit one. A jump ahead may turn out to lead nowhere: then
 * resolve_fixups puts a trap where its instruction begins. */
static void emit_jump(struct pvm_emitter *e, unsigned near8, unsigned near32, unsigned opcode_size, uint32_t pc)
{
    if (pc > e->pc) {
        x86_put(&e->x86, near32, opcode_size);
        e->fixups[e->fixup_count++] = (struct pvm_fixup){.at = pvm_native_offset(e), .pc = pc, .body = e->body};
        x86_put(&e->x86, 0, 4);
        return;
    }
    const struct pvm_instruction *known = find_jump_target(e->result, pc);
    if (!known) {
        e->x86.at = e->start + e->body;
        x86_ud2(&e->x86);
        return;
    }
    int64_t distance = (int64_t)known->native - pvm_native_offset(e);
    if (x86_fits_i8(distance - 2)) {
        x86_put(&e->x86, near8, 1);
        x86_put(&e->x86, (uint8_t)(distance - 2), 1);
    } else {
        x86_put(&e->x86, near32, opcode_size);
        x86_put(&e->x86, (uint32_t)(distance - opcode_size - 4), 4);
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
        const struct pvm_instruction *target = find_jump_target(e->result, fixup->pc);
        if (target) {
            uint32_t displacement = target->native - (fixup->at + 4);
            memcpy(e->start + fixup->at, &displacement, sizeof displacement);
        } else {
            memcpy(e->start + fixup->body, x86_ud2_bytes, sizeof x86_ud2_bytes);
        }
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
    if (e->target->gs_base) {
        enum { GROUP_81 = 0x81, GROUP_83 = 0x83 };
        const bool small = x86_fits_i8((int32_t)cost);
        pvm_emit_vmctx(e, small ? GROUP_83 : GROUP_81, X86_64, X86_SUB, offsetof(struct vmctx, gas));
        x86_put(&e->x86, cost, small ? 1 : 4);
    } else {
        x86_alu_imm(&e->x86, X86_64, X86_SUB, GAS, (int32_t)cost);
    }
    pvm_emit_gas_stub_if(e, X86_L, (struct pvm_gas_stub){.native = start, .cost = cost});
}

/* Emits the stubs, out of the way of the code, and makes the table of them. */
static int emit_gas_stubs(struct pvm_emitter *e, const uint8_t *end)
{
    struct pvm_recompiled *result = e->result;
    result->gas_stubs_at = pvm_native_offset(e);
    if (e->stub_count == 0)
        return 0;
    if ((size_t)(end - e->x86.at) < e->stub_count * PVM_GAS_STUB_LENGTH + X86_SLACK)
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

void *pvm_allocate_table(size_t size)
{
    uint8_t *table = malloc(size);
    const uintptr_t page = 4096, begin = ((uintptr_t)table + page - 1) & -page, end = ((uintptr_t)table + size) & -page;
    if (table && begin < end)
        madvise((void *)begin, end - begin, MADV_POPULATE_WRITE); /* Linux 5.14; if it fails, faults will do */
    return table;
}

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

/* Makes room for what `count` instructions, at most a stretch of them, and an implicit one behind each may need. */
static int make_room(struct pvm_emitter *e, uint32_t count, const uint8_t *end)
{
    enum { MOST = 2 * PVM_STRETCH };
    if (end - e->x86.at < (ptrdiff_t)(2 * count * PVM_MAX_NATIVE_LENGTH))
        return -EFBIG;
    if (e->fixup_capacity - e->fixup_count < MOST) {
        size_t capacity = e->fixup_capacity ? 2 * e->fixup_capacity : 1024;
        struct pvm_fixup *fixups = realloc(e->fixups, capacity * sizeof *fixups);
        if (!fixups)
            return -ENOMEM;
        e->fixups = fixups;
        e->fixup_capacity = capacity;
    }
    if (e->metered && e->stub_capacity - e->stub_count < 2 * MOST) { /* one of the block, one of the instruction */
        size_t capacity = e->stub_capacity ? 2 * e->stub_capacity : 1024;
        struct pvm_stub_fixup *stubs = realloc(e->stubs, capacity * sizeof *stubs);
        if (!stubs)
            return -ENOMEM;
        e->stubs = stubs;
        e->stub_capacity = capacity;
    }
    return 0;
}

/* Makes the stretches up to that of `pc`, which no instruction of is emitted yet. */
static void begin_stretches(struct pvm_emitter *e, uint32_t pc)
{
    struct pvm_recompiled *result = e->result;
    while (e->stretches_begun <= pc / PVM_STRETCH) {
        const uint32_t n = e->stretches_begun++;
        result->stretches[n] = (struct pvm_stretch){
            .starts = pvm_bitmask_word(e->program, n * PVM_STRETCH),
            .first = (uint32_t)result->instruction_count,
        };
    }
}

static inline void emit_step(struct pvm_emitter *e)
{
    if (e->execution->step_tracing)
        pvm_emit_leave(e, e->step);
}

static inline void emit_charge_before(struct pvm_emitter *e, uint32_t pc, bool starts_block)
{
    if (e->metered && e->execution->per_instruction)
        emit_charge(e, 1);
    else if (e->metered && starts_block)
        emit_charge(e, pvm_block_cost(e->program, &e->execution->cost, pc));
}

/* Enters the instruction at `pc`, about to be emitted, into the tables, and emits what comes before it: the
 * stop of step tracing, then the charge for its block if it is the first. */
static inline void begin_instruction(struct pvm_emitter *e, uint32_t pc, bool starts_block)
{
    struct pvm_recompiled *result = e->result;
    result->instructions[result->instruction_count++] =
        (struct pvm_instruction){.pc = pc, .native = pvm_native_offset(e)};
    if (e->prefixed) {
        emit_step(e);
        emit_charge_before(e, pc, starts_block);
    }
    e->pc = pc;
    e->body = pvm_native_offset(e);
}

/* An invalid instruction that the bitmask does not show. */
static void emit_implicit(struct pvm_emitter *e, uint32_t pc, bool starts_block)
{
    begin_stretches(e, pc);
    begin_instruction(e, pc, starts_block);
    e->result->stretches[pc / PVM_STRETCH].starts |= UINT64_C(1) << pc % PVM_STRETCH;
    pvm_emit_instruction(e, PVM_OP_invalid, (const uint8_t[PVM_ARGS_SIZE]){0}, pc, 0);
}

/* Emits everything from pc 0 on. The tables hold one entry per set bit, and one for each place without its
 * bit that control can fall into: pc 0, what is behind an over-long instruction, and the end of the code. */
static int emit_code(struct pvm_emitter *e, size_t capacity)
{
    const struct pvm_program copy = *e->program, *program = &copy; /* known not to change as code is written */
    const uint8_t *op_of_byte = pvm_op_of_byte[program->isa];
    const uint8_t *end = e->start + capacity;
    if (capacity < PVM_MAX_TRAMPOLINES_LENGTH)
        return -EFBIG;
    pvm_emit_trampolines(e);
    assert(pvm_native_offset(e) <= PVM_MAX_TRAMPOLINES_LENGTH - X86_SLACK);

    bool starts_block = true;                             /* of the next instruction: whether a block starts there */
    bool lands_jumps = pvm_has_instruction(program, 0);   /* and whether a jump may land there */
    int status = make_room(e, 1, end);
    if (status < 0)
        return status;
    if (!lands_jumps)
        emit_implicit(e, 0, true);
    for (uint32_t base = 0; base < program->code_size; base += PVM_STRETCH) {
        uint64_t left = pvm_bitmask_word(program, base), jump_targets = 0;
        begin_stretches(e, base);
        if ((status = make_room(e, count_bits(left), end)) < 0)
            return status;
        for (; left; left &= left - 1) {
            const uint32_t pc = base + (uint32_t)__builtin_ctzll(left);
            const enum pvm_op op = (enum pvm_op)op_of_byte[program->code[pc]];
            const struct pvm_extent extent = pvm_extent(program, pc);
            uint8_t padded[PVM_ARGS_SIZE];
            begin_instruction(e, pc, starts_block);
            jump_targets |= (uint64_t)lands_jumps << pc % PVM_STRETCH;
            e->result->stretches[base / PVM_STRETCH].jump_targets = jump_targets;
            e->goes_on = extent.goes_on;
            pvm_emit_instruction(e, op, pvm_args(program, pc, padded), pc, extent.skip);
            assert(pvm_native_offset(e) - e->body <= PVM_MAX_NATIVE_LENGTH);
            starts_block = pvm_op_ends_block[op];
            lands_jumps = starts_block & (op != PVM_OP_invalid) & extent.goes_on;
            if (!extent.goes_on) {
                if (pvm_falls_through(op))
                    emit_implicit(e, pc + 1 + extent.skip, starts_block);
                starts_block = true;
            }
        }
    }
    begin_stretches(e, program->code_size);
    resolve_fixups(e);
    status = emit_gas_stubs(e, end);
    e->result->code_size = pvm_native_offset(e);
    return status;
}

/* --- entry ------------------------------------------------------------------------------------------------- */

uint32_t pvm_cpu_features(void)
{
    /* global: asking takes 50 us in a virtual machine, and the answer stays the same */
    static _Atomic uint32_t known;
    const uint32_t asked = UINT32_C(1) << 31;
    uint32_t features = known;
    if (features != 0)
        return features & ~asked;
    unsigned a, b, c, d;
    if (__get_cpuid(1, &a, &b, &c, &d) && (c & bit_POPCNT))
        features |= PVM_CPU_POPCNT;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        features |= b & bit_BMI ? PVM_CPU_BMI1 : 0;
        features |= b & bit_BMI2 ? PVM_CPU_BMI2 : 0;
    }
    if (__get_cpuid(0x80000001, &a, &b, &c, &d) && (c & bit_LZCNT))
        features |= PVM_CPU_LZCNT;
    known = features | asked;
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
        !in_reach(target->exit, capacity) || (target->gs_base && (target->vmctx >= 0 || target->exit >= 0)))
        return -ERANGE;

    /* one implicit instruction behind each gap of the bitmask, one at either end */
    size_t most = count_instructions(program) + program->code_size / PVM_MAX_INSTRUCTION_LENGTH + 2;
    result->stretch_count = program->code_size / PVM_STRETCH + 1;
    result->instructions = pvm_allocate_table(most * sizeof *result->instructions);
    result->stretches = pvm_allocate_table(result->stretch_count * sizeof *result->stretches);

    struct pvm_emitter e = {
        .x86 = {.at = out},
        .start = out,
        .program = program,
        .target = target,
        .result = result,
        .tmp1 = target->gs_base ? X86_R15 : X86_RSP,
        .w = program->isa == PVM_ISA_LATEST32 ? X86_32 : X86_64,
        .bmi2 = target->cpu_features & PVM_CPU_BMI2,
        .execution = execution,
        .metered = execution->gas_metering != PVM_GAS_NONE,
        .prefixed = execution->gas_metering != PVM_GAS_NONE || execution->step_tracing,
    };
    int status = result->instructions && result->stretches ? emit_code(&e, capacity) : -ENOMEM;
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

uint32_t pvm_native_after(const struct pvm_program *program, const struct pvm_execution *execution, bool gs_base,
                          const struct pvm_instruction *at, uint32_t progress)
{
    /* emitted again, to see how long it is, which depends on the costs alone */
    uint8_t scratch[PVM_MAX_NATIVE_LENGTH];
    struct pvm_stub_fixup stub;
    const struct pvm_target target = {.vmctx = gs_base ? INT32_MIN : 0, .gs_base = gs_base};
    struct pvm_emitter e = {
        .x86 = {.at = scratch},
        .start = scratch,
        .program = program,
        .target = &target,
        .execution = execution,
        .metered = execution->gas_metering != PVM_GAS_NONE,
        .stubs = &stub,
    };
    uint32_t block;
    if (progress >= PVM_PROGRESS_STEPPED)
        emit_step(&e);
    if (progress >= PVM_PROGRESS_CHARGED && pvm_block_start(program, at->pc, &block))
        emit_charge_before(&e, at->pc, block == at->pc);
    return at->native + pvm_native_offset(&e);
}

uint32_t pvm_memset_start(const struct pvm_execution *execution, bool gs_base, uint32_t native)
{
    const bool metered = execution->gas_metering != PVM_GAS_NONE;
    return native - (gs_base ? PVM_MEMSET_LEAD_GS(metered) : PVM_MEMSET_LEAD(metered));
}

uint32_t pvm_fixup_memset(uint32_t isa, uint64_t *regs, const uint64_t *tmp)
{
    uint64_t start = tmp[1];
    uint32_t stored = (uint32_t)regs[PVM_REG_A0] - (uint32_t)start;
    regs[PVM_REG_A0] = isa == PVM_ISA_LATEST32 ? (uint32_t)(start + stored) : start + stored;
    regs[PVM_REG_A2] = (uint32_t)regs[PVM_REG_A2] - stored;
    return (uint32_t)tmp[0];
}
