/* SPDX-License-Identifier: MIT
 *
 * What the recompiler makes of hostile input: random code, bitmasks and jump tables, buffers of every size,
 * the errors of its interface, and tables that come back changed from where they were stored. Nothing is run.
 * Built with sanitizers and assertions; every buffer has its exact size on the heap, so that one byte too far is
 * seen.
 *
 * usage: robustness SEED ROUNDS
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decode.h"
#include "execution.h"
#include "recompiler.h"
#include "tables.h"

#define CHECK(condition) ((condition) ? (void)0 : fail(#condition, __LINE__))
#define CODE_BASE UINT64_C(0x600000000000)

static uint64_t seed;

static void fail(const char *condition, int line)
{
    fprintf(stderr, "robustness.c:%d: %s\n", line, condition);
    abort();
}

/* xorshift64* */
static uint64_t random_bits(void)
{
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return seed * UINT64_C(0x2545f4914f6cdd1d);
}

static uint32_t below(uint32_t limit)
{
    return (uint32_t)((random_bits() >> 32) * limit >> 32);
}

static uint8_t *exactly(size_t size)
{
    uint8_t *data = malloc(size);
    CHECK(data || size == 0);
    return data;
}

static struct pvm_target near_target(void)
{
    return (struct pvm_target){
        .vmctx = -0x20000,
        .jump_table = 0x40000000,
        .exit = -0x10000,
        .gs_base = below(2),
        .cpu_features = PVM_CPU_REQUIRED | (below(2) ? PVM_CPU_BMI2 : 0),
    };
}

/* --- random programs --------------------------------------------------------------------------------------- */

static struct pvm_program random_program(void)
{
    static const uint32_t sizes[] = {1, 2, 30, 64, 65, 300, 5000};
    struct pvm_program program = {.isa = below(PVM_ISA_COUNT)};
    program.code_size = 1 + below(sizes[below(sizeof sizes / sizeof *sizes)]);
    uint8_t *code = exactly(program.code_size);
    for (uint32_t n = 0; n < program.code_size; n++)
        code[n] = (uint8_t)(below(3) ? below(256) : below(16));

    size_t bitmask_size = (program.code_size + 7) / 8;
    uint8_t *bitmask = exactly(bitmask_size);
    uint32_t density = 1 + below(40);
    memset(bitmask, 0, bitmask_size);
    for (uint32_t n = 0; n < 8 * bitmask_size; n++) /* the padding too: a parser may let it through */
        if (below(density) == 0)
            bitmask[n / 8] = (uint8_t)(bitmask[n / 8] | 1 << n % 8);

    program.jump_table_entry_size = below(5);
    program.jump_table_count = below(20);
    size_t table_size = (size_t)program.jump_table_count * program.jump_table_entry_size;
    uint8_t *table = exactly(table_size);
    for (size_t n = 0; n < table_size; n++)
        table[n] = (uint8_t)(below(2) ? 0 : random_bits());
    program.code = code;
    program.bitmask = bitmask;
    program.jump_table = table;
    return program;
}

static void free_program(struct pvm_program *program)
{
    free((void *)program->code);
    free((void *)program->bitmask);
    free((void *)program->jump_table);
}

static void check_tables(const struct pvm_program *program, const struct pvm_recompiled *recompiled)
{
    const struct pvm_instruction *all = recompiled->instructions;
    size_t count = recompiled->instruction_count, explicit_count = 0;
    CHECK(count > 0 && all[0].pc == 0);
    CHECK(pvm_find_native(recompiled, all[0].native - 1) == NULL);
    CHECK(pvm_find_native(recompiled, recompiled->code_size) == NULL);
    CHECK(pvm_find_native(recompiled, UINT64_MAX) == NULL);
    CHECK(pvm_find_pc(recompiled, UINT32_MAX) == NULL);
    CHECK(pvm_find_pc(recompiled, program->code_size + 1) == NULL);
    for (size_t n = 0; n < count; n++) {
        size_t end = n + 1 < count ? all[n + 1].native : recompiled->gas_stubs_at;
        CHECK(n == 0 || (all[n].pc > all[n - 1].pc && all[n].native >= all[n - 1].native));
        CHECK(pvm_find_pc(recompiled, all[n].pc) == &all[n]);
        if (end > all[n].native) {
            CHECK(pvm_find_native(recompiled, all[n].native) == &all[n]);
            CHECK(pvm_find_native(recompiled, end - 1) == &all[n]);
        }
        explicit_count += pvm_has_instruction(program, all[n].pc);
    }
    for (uint32_t pc = 0; pc < program->code_size; pc++) {
        const struct pvm_instruction *found = pvm_find_pc(recompiled, pc);
        CHECK(found ? found->pc == pc : !pvm_has_instruction(program, pc));
        explicit_count -= pvm_has_instruction(program, pc);
    }
    CHECK(explicit_count == 0);
}

static void check_jump_table(const struct pvm_program *program, const struct pvm_recompiled *recompiled)
{
    size_t count = 2 * ((size_t)program->jump_table_count + 1);
    uint64_t *slots = (uint64_t *)(void *)exactly(count * sizeof *slots);
    pvm_fill_jump_table(program, recompiled, CODE_BASE, slots);
    for (size_t address = 0; address < count; address++) {
        uint32_t pc = 0;
        size_t size = program->jump_table_entry_size;
        bool valid = address >= 2 && address % 2 == 0 && size > 0;
        if (valid)
            memcpy(&pc, program->jump_table + (address / 2 - 1) * size, size);
        if (valid && pvm_is_jump_target(program, pc))
            CHECK(slots[address] == CODE_BASE + pvm_find_pc(recompiled, pc)->native);
        else
            CHECK(slots[address] == PVM_INVALID_CODE_ADDRESS);
    }
    free(slots);
}

/* The gas stubs lead back to instructions, ascending; there are none without metering. */
static void check_gas_stubs(const struct pvm_execution *execution, const struct pvm_recompiled *recompiled)
{
    CHECK((recompiled->gas_stub_count != 0) == (execution->gas_metering != PVM_GAS_NONE));
    CHECK(recompiled->code_size == recompiled->gas_stubs_at + 2 * recompiled->gas_stub_count);
    CHECK(pvm_find_gas_stub(recompiled, recompiled->code_size) == NULL);
    CHECK(pvm_find_gas_stub(recompiled, UINT64_MAX) == NULL);
    for (size_t n = 0; n < recompiled->gas_stub_count; n++) {
        const struct pvm_gas_stub *stub = pvm_find_gas_stub(recompiled, recompiled->gas_stubs_at + 2 * n);
        CHECK(stub == &recompiled->gas_stubs[n]);
        CHECK(pvm_find_gas_stub(recompiled, recompiled->gas_stubs_at + 2 * n + 1) == NULL);
        CHECK(pvm_find_native(recompiled, recompiled->gas_stubs_at + 2 * n) == NULL);
        CHECK(pvm_find_native(recompiled, stub->native) != NULL);
        CHECK(n == 0 || stub->native >= recompiled->gas_stubs[n - 1].native);
    }
}

/* --- stored tables ----------------------------------------------------------------------------------------- */

/* All that the host relies on when it looks something up, whatever the native code does. */
static void check_accepted_tables(const struct pvm_program *program, const struct pvm_recompiled *tables)
{
    CHECK(tables->enter < tables->code_size && tables->trap < tables->code_size && tables->halt < tables->code_size);
    check_tables(program, tables);
    check_jump_table(program, tables);
    const struct pvm_instruction *end = tables->instructions + tables->instruction_count;
    for (const struct pvm_instruction *at = tables->instructions; at < end; at++) {
        /* a host call goes on at the instruction behind it: there has to be one */
        if (pvm_has_instruction(program, at->pc) && pvm_falls_through(pvm_op_at(program, at->pc)))
            CHECK(at + 1 < end && at[1].native < tables->code_size);
    }
    for (size_t n = 0; n < tables->gas_stub_count; n++) {
        const uint64_t native = tables->gas_stubs_at + (uint64_t)PVM_GAS_STUB_LENGTH * n;
        CHECK(pvm_find_gas_stub(tables, native) == &tables->gas_stubs[n]);
        CHECK(pvm_find_native(tables, tables->gas_stubs[n].native) != NULL);
        CHECK(tables->gas_stubs[n].cost <= INT32_MAX);
    }
}

static bool same_stretches(const struct pvm_recompiled *a, const struct pvm_recompiled *b)
{
    bool same = a->stretch_count == b->stretch_count;
    for (size_t n = 0; same && n < a->stretch_count; n++) {
        const struct pvm_stretch *one = &a->stretches[n], *other = &b->stretches[n];
        same = one->starts == other->starts && one->jump_targets == other->jump_targets && one->first == other->first;
    }
    return same;
}

static bool same_tables(const struct pvm_recompiled *a, const struct pvm_recompiled *b)
{
    return a->code_size == b->code_size && a->enter == b->enter && a->trap == b->trap && a->halt == b->halt &&
           a->gas_stubs_at == b->gas_stubs_at && a->instruction_count == b->instruction_count &&
           a->gas_stub_count == b->gas_stub_count && same_stretches(a, b) &&
           memcmp(a->instructions, b->instructions, a->instruction_count * sizeof *a->instructions) == 0 &&
           (a->gas_stub_count == 0 ||
            memcmp(a->gas_stubs, b->gas_stubs, a->gas_stub_count * sizeof *a->gas_stubs) == 0);
}

/* Reads `size` bytes of tables; whether they were accepted. */
static bool read_tables(const struct pvm_program *program, const struct pvm_execution *execution, uint64_t code_size,
                        const uint8_t *data, size_t size, const struct pvm_recompiled *expected)
{
    const char *what = NULL;
    struct pvm_recompiled tables;
    uint8_t *copy = exactly(size);
    if (size > 0)
        memcpy(copy, data, size);
    int status = pvm_tables_read(program, execution, code_size, copy, size, &tables, &what);
    free(copy);
    CHECK(status == 0 || status == -EBADMSG);
    CHECK((what != NULL) == (status != 0));
    if (status == 0)
        check_accepted_tables(program, &tables);
    else
        CHECK(tables.instructions == NULL && tables.stretches == NULL && tables.gas_stubs == NULL);
    if (expected)
        CHECK(status == 0 && same_tables(&tables, expected));
    pvm_recompiled_free(&tables);
    return status == 0;
}

static void check_stored_tables(const struct pvm_program *program, const struct pvm_execution *execution,
                                const struct pvm_recompiled *recompiled)
{
    const size_t size = pvm_tables_size(recompiled);
    uint8_t *data = exactly(size);
    pvm_tables_write(recompiled, data);
    read_tables(program, execution, recompiled->code_size, data, size, recompiled);

    CHECK(!read_tables(program, execution, recompiled->code_size, data, below((uint32_t)size), NULL));
    CHECK(!read_tables(program, execution, recompiled->code_size + 1 + below(9), data, size, NULL));
    CHECK(!read_tables(program, execution, random_bits(), data, size, NULL));

    /* every other value: near, far, of another place; in the header more often than by its share */
    for (unsigned round = 0; round < 8; round++) {
        const uint32_t words = (uint32_t)(size / sizeof(uint32_t));
        const size_t at = sizeof(uint32_t) * below(below(2) ? 6 : words);
        uint32_t before, now;
        memcpy(&before, data + at, sizeof before);
        memcpy(&now, data + sizeof(uint32_t) * below(words), sizeof now);
        const uint32_t values[] = {before + 1, before - 1, before ^ UINT32_C(1) << below(32), now,
                                   0,          UINT32_MAX, (uint32_t)random_bits()};
        now = values[below(sizeof values / sizeof *values)];
        memcpy(data + at, &now, sizeof now);
        read_tables(program, execution, recompiled->code_size, data, size, NULL);
        if (below(2))
            memcpy(data + at, &before, sizeof before);
    }
    free(data);
}

/* Counts and sizes that agree with each other and not with the program. */
static void check_sizes_of_tables(const struct pvm_program *program, const struct pvm_execution *execution,
                                  const struct pvm_recompiled *recompiled)
{
    enum { GAS_STUBS_AT = 3, INSTRUCTION_COUNT = 4, HEADER = 6 };
    const size_t size = pvm_tables_size(recompiled), word = sizeof(uint32_t);
    const uint64_t code_size = recompiled->code_size;
    uint32_t *data = (uint32_t *)(void *)exactly(size + word);
    pvm_tables_write(recompiled, (uint8_t *)data);
    data[size / word] = (uint32_t)code_size;
    CHECK(!read_tables(program, execution, code_size, (uint8_t *)data, size + word, NULL));
    data[INSTRUCTION_COUNT]++;
    CHECK(!read_tables(program, execution, code_size, (uint8_t *)data, size + word, NULL));
    CHECK(!read_tables(program, execution, code_size, (uint8_t *)data, size, NULL));
    data[INSTRUCTION_COUNT] -= 2;
    CHECK(!read_tables(program, execution, code_size, (uint8_t *)data, size - word, NULL));
    data[INSTRUCTION_COUNT]++;
    const uint64_t far = UINT64_C(1) << 31;
    data[GAS_STUBS_AT] += (uint32_t)far;
    CHECK(!read_tables(program, execution, code_size + far, (uint8_t *)data, size, NULL));
    data[GAS_STUBS_AT] -= (uint32_t)far;
    CHECK(read_tables(program, execution, code_size, (uint8_t *)data, size, recompiled));
    memmove(data + HEADER, data + HEADER + recompiled->instruction_count, recompiled->gas_stub_count * 2 * word);
    data[INSTRUCTION_COUNT] = 0;
    CHECK(!read_tables(program, execution, code_size, (uint8_t *)data,
                       size - recompiled->instruction_count * word, NULL));
    free(data);
}

/* Tables go with one program and one way to execute it. */
static void check_tables_of_others(const struct pvm_execution *execution, const struct pvm_recompiled *recompiled)
{
    struct pvm_program other = random_program();
    const size_t size = pvm_tables_size(recompiled);
    uint8_t *data = exactly(size);
    pvm_tables_write(recompiled, data);
    read_tables(&other, execution, recompiled->code_size, data, size, NULL);
    struct pvm_execution unlike = *execution;
    unlike.gas_metering = execution->gas_metering == PVM_GAS_NONE ? PVM_GAS_SYNC : PVM_GAS_NONE;
    CHECK(!read_tables(&other, &unlike, recompiled->code_size, data, size, NULL));
    free(data);
    free_program(&other);
}

static struct pvm_execution random_execution(void)
{
    struct pvm_execution execution = {
        .gas_metering = below(3),
        .per_instruction = below(8) == 0,
        .step_tracing = below(8) == 0,
        .cost = {.kind = below(2), .memory_latency = 25},
    };
    for (size_t n = 0; n < PVM_OP_COUNT; n++)
        execution.cost.costs[n] = below(4) ? below(200) : UINT32_MAX - below(2);
    return execution;
}

static void check_random_program(void)
{
    struct pvm_program program = random_program();
    struct pvm_target target = near_target();
    struct pvm_execution execution = random_execution();
    struct pvm_recompiled recompiled;
    size_t enough = 4096 + 256 * (size_t)program.code_size;
    uint8_t *out = exactly(enough);
    CHECK(pvm_recompile(&program, &execution, &target, out, enough, &recompiled) == 0);
    check_tables(&program, &recompiled);
    check_gas_stubs(&execution, &recompiled);
    check_jump_table(&program, &recompiled);
    check_stored_tables(&program, &execution, &recompiled);
    check_sizes_of_tables(&program, &execution, &recompiled);
    check_tables_of_others(&execution, &recompiled);

    /* any other capacity: the same code, or an error */
    size_t capacity = below((uint32_t)recompiled.code_size + 400);
    uint8_t *small = exactly(capacity);
    struct pvm_recompiled again;
    int status = pvm_recompile(&program, &execution, &target, small, capacity, &again);
    CHECK(status == 0 || status == -EFBIG);
    if (status == 0)
        CHECK(again.code_size == recompiled.code_size && memcmp(small, out, again.code_size) == 0);
    else
        CHECK(again.instructions == NULL && again.stretches == NULL && again.gas_stubs == NULL);
    free(small);
    free(out);
    pvm_recompiled_free(&again);
    pvm_recompiled_free(&recompiled);
    pvm_recompiled_free(&recompiled); /* harmless */
    free_program(&program);
}

/* --- errors ------------------------------------------------------------------------------------------------ */

static void check_errors(void)
{
    static const uint8_t code[] = {0}, bitmask[] = {1};
    enum { CAPACITY = 4096 };
    const struct pvm_program good = {.isa = PVM_ISA_LATEST64, .code = code, .code_size = 1, .bitmask = bitmask};
    const struct pvm_target target = near_target();
    const struct pvm_execution execution = {0};
    struct pvm_recompiled recompiled;
    uint8_t *out = exactly(CAPACITY);

    struct pvm_program program = good;
    CHECK(pvm_recompile(&program, &execution, &target, out, CAPACITY, &recompiled) == 0);
    CHECK(recompiled.instruction_count == 1 && pvm_find_pc(&recompiled, 0) && !pvm_find_pc(&recompiled, 1));
    pvm_recompiled_free(&recompiled);
    CHECK(pvm_recompile(&program, &execution, &target, out, 0, &recompiled) == -EFBIG);

    program.isa = PVM_ISA_COUNT;
    CHECK(pvm_recompile(&program, &execution, &target, out, CAPACITY, &recompiled) == -EINVAL);
    program = good;
    program.code_size = 0;
    CHECK(pvm_recompile(&program, &execution, &target, out, CAPACITY, &recompiled) == -EINVAL);
    CHECK(recompiled.instructions == NULL);

    for (uint32_t feature = 1; feature < PVM_CPU_BMI2; feature <<= 1) {
        struct pvm_target lacking = target;
        lacking.cpu_features &= ~feature;
        CHECK(pvm_recompile(&good, &execution, &lacking, out, CAPACITY, &recompiled) == -ENOTSUP);
    }
    static const int64_t far[] = {INT64_MAX, INT64_MIN, INT32_MAX, INT32_MIN, INT64_C(1) << 32};
    for (size_t n = 0; n < sizeof far / sizeof *far; n++) {
        struct pvm_target vmctx = target, jump_table = target, leave = target;
        vmctx.vmctx = jump_table.jump_table = leave.exit = far[n];
        CHECK(pvm_recompile(&good, &execution, &vmctx, out, CAPACITY, &recompiled) == -ERANGE);
        CHECK(pvm_recompile(&good, &execution, &jump_table, out, CAPACITY, &recompiled) == -ERANGE);
        CHECK(pvm_recompile(&good, &execution, &leave, out, CAPACITY, &recompiled) == -ERANGE);
    }
    /* an unsigned 32-bit offset from the GS base is guest memory's */
    struct pvm_target vmctx = target, leave = target;
    vmctx.gs_base = leave.gs_base = true;
    vmctx.vmctx = leave.exit = 0;
    CHECK(pvm_recompile(&good, &execution, &vmctx, out, CAPACITY, &recompiled) == -ERANGE);
    CHECK(pvm_recompile(&good, &execution, &leave, out, CAPACITY, &recompiled) == -ERANGE);
    free(out);
}

/* A program without instructions is one that traps at once. */
static void check_no_instructions(void)
{
    enum { SIZE = 1000, CAPACITY = 4096 };
    uint8_t *code = exactly(SIZE), *bitmask = exactly(SIZE / 8), *out = exactly(CAPACITY);
    memset(code, 1, SIZE);
    memset(bitmask, 0, SIZE / 8);
    const struct pvm_program program = {.isa = PVM_ISA_JAM_V1, .code = code, .code_size = SIZE, .bitmask = bitmask};
    const struct pvm_target target = near_target();
    const struct pvm_execution execution = {0};
    struct pvm_recompiled recompiled;
    CHECK(pvm_recompile(&program, &execution, &target, out, CAPACITY, &recompiled) == 0);
    CHECK(recompiled.instruction_count == 1 && pvm_find_pc(&recompiled, 0)->pc == 0);
    pvm_recompiled_free(&recompiled);
    free(code);
    free(bitmask);
    free(out);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    seed = strtoull(argv[1], NULL, 10) * 2 + 1; /* not 0 */
    check_errors();
    check_no_instructions();
    for (unsigned long round = strtoul(argv[2], NULL, 10); round > 0; round--)
        check_random_program();
    return 0;
}
