/* SPDX-License-Identifier: MIT
 *
 * What the interpreter and the gas models make of hostile input: random code, bitmasks, jump tables, settings and
 * machines, run a while. Built with sanitizers; every buffer has its exact size on the heap, so that one byte too far
 * is seen.
 *
 * usage: interpreter_robustness SEED ROUNDS
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decode.h"
#include "gas.h"
#include "interpreter.h"

#define CHECK(condition) ((condition) ? (void)0 : fail(#condition, __LINE__))

static uint64_t seed;

static void fail(const char *condition, int line)
{
    fprintf(stderr, "interpreter_robustness.c:%d: %s\n", line, condition);
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

static uint8_t *random_bytes(size_t size)
{
    uint8_t *data = malloc(size);
    CHECK(data || size == 0);
    for (size_t n = 0; n < size; n++)
        data[n] = (uint8_t)(below(3) ? random_bits() : below(16));
    return data;
}

static struct pvm_program random_program(void)
{
    static const uint32_t sizes[] = {1, 2, 30, 65, 300, 3000};
    struct pvm_program program = {
        .isa = below(PVM_ISA_COUNT),
        .code_size = 1 + below(sizes[below(sizeof sizes / sizeof *sizes)]),
        .jump_table_entry_size = below(5),
        .jump_table_count = below(20),
    };
    size_t bitmask_size = (program.code_size + 7) / 8;
    uint8_t *bitmask = malloc(bitmask_size);
    CHECK(bitmask);
    memset(bitmask, 0, bitmask_size);
    uint32_t density = 1 + below(below(4) ? 5 : 40);
    for (uint32_t n = 0; n < 8 * bitmask_size; n++) /* the padding too: a parser may let it through */
        if (below(density) == 0)
            bitmask[n / 8] = (uint8_t)(bitmask[n / 8] | 1 << n % 8);
    program.code = random_bytes(program.code_size);
    program.bitmask = bitmask;
    program.jump_table = random_bytes((size_t)program.jump_table_count * program.jump_table_entry_size);
    return program;
}

static struct pvm_execution random_execution(void)
{
    struct pvm_execution execution = {
        .gas_metering = below(3),
        .per_instruction = below(4) == 0,
        .step_tracing = below(4) == 0,
        .cost = {.kind = below(2), .memory_latency = below(4) ? 25 : below(100)},
    };
    for (size_t n = 0; n < PVM_OP_COUNT; n++)
        execution.cost.costs[n] = below(8) ? below(5) : (uint32_t)random_bits();
    return execution;
}

static void random_regions(struct pvm_machine *machine)
{
    static const uint32_t addresses[] = {0, 0x10000, 0x20000, 0x80000000, 0xfffffff0};
    for (size_t n = 0; n < PVM_REGION_COUNT; n++) {
        uint32_t size = below(3) ? below(100) : 0;
        machine->regions[n] = (struct pvm_region){
            .address = addresses[below(5)] + below(8),
            .size = size,
            .memory = random_bytes(size),
            .writable = below(3),
        };
    }
}

static void random_registers(struct pvm_machine *machine, const struct pvm_program *program)
{
    for (size_t n = 0; n < PVM_REGISTER_COUNT; n++) {
        uint64_t value = below(3) == 0   ? random_bits() >> below(64)
                         : below(2)      ? machine->regions[below(PVM_REGION_COUNT)].address + below(100)
                                         : 2 * below(2 + program->jump_table_count);
        machine->regs[n] = program->isa == PVM_ISA_LATEST32 ? (uint32_t)value : value;
    }
}

static void check_exit(const struct pvm_program *program, const struct pvm_machine *machine, enum pvm_exit end)
{
    switch (end) {
    case PVM_EXIT_BUDGET:
    case PVM_EXIT_STEP:
        CHECK(machine->pc <= program->code_size && machine->next_pc == machine->pc);
        break;
    case PVM_EXIT_ECALLI:
    case PVM_EXIT_SBRK:
        CHECK(machine->pc < program->code_size && machine->next_pc > machine->pc);
        CHECK(machine->next_pc <= program->code_size);
        break;
    case PVM_EXIT_NOT_ENOUGH_GAS:
        CHECK(machine->next_pc == machine->pc);
        break;
    case PVM_EXIT_TRAP:
    case PVM_EXIT_FINISHED:
        CHECK(machine->next_pc == PVM_NO_PC);
        break;
    default:
        CHECK(!"an exit");
    }
    if (program->isa == PVM_ISA_LATEST32)
        for (size_t n = 0; n < PVM_REGISTER_COUNT; n++)
            CHECK(machine->regs[n] <= UINT32_MAX);
}

static void play(const struct pvm_program *program, const struct pvm_interpreter *interpreter)
{
    static const uint64_t budgets[] = {0, 1, 100, 5000};
    struct pvm_machine machine = {.gas = below(2) ? below(1000) : (int64_t)random_bits()};
    random_regions(&machine);
    random_registers(&machine, program);
    machine.next_pc = 0;
    machine.entering = true;
    for (uint32_t turn = 0; turn < 12; turn++) {
        enum pvm_exit end = pvm_interpreter_run(interpreter, &machine, budgets[below(4)]);
        check_exit(program, &machine, end);
        machine.gas = below(4) ? machine.gas : (int64_t)(random_bits() >> below(64));
        if (machine.next_pc == PVM_NO_PC || below(8) == 0) {
            machine.next_pc = below(8) ? pvm_seek_instruction(program, below(program->code_size)) : random_bits();
            machine.entering = below(4);
            machine.progress = machine.entering ? 0 : (uint8_t)below(3);
            random_registers(&machine, program);
        }
    }
    for (size_t n = 0; n < PVM_REGION_COUNT; n++)
        free(machine.regions[n].memory);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    seed = strtoull(argv[1], NULL, 10) * UINT64_C(0x9e3779b97f4a7c15) + 1;
    for (unsigned long rounds = strtoul(argv[2], NULL, 10); rounds; rounds--) {
        struct pvm_program program = random_program();
        struct pvm_execution execution = random_execution();
        struct pvm_interpreter *interpreter;
        CHECK(pvm_interpreter_create(&program, &execution, &interpreter) == 0);
        CHECK(pvm_interpreter_size(interpreter) < 10000 + 60 * (size_t)program.code_size);
        uint32_t pc = below(8) ? below(program.code_size) : (uint32_t)random_bits(), start;
        CHECK(pvm_block_cost(&program, &execution.cost, pc) <= INT32_MAX);
        CHECK(!pvm_block_start(&program, pc, &start) || start <= pc);
        play(&program, interpreter);
        pvm_interpreter_destroy(interpreter);
        free((void *)program.code);
        free((void *)program.bitmask);
        free((void *)program.jump_table);
    }
    return 0;
}
