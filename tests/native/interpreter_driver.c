/* SPDX-License-Identifier: MIT
 *
 * The interpreter and the gas models as a library of plain functions, for tests: interpreter_driver.py loads it.
 */
#include <stdlib.h>
#include <string.h>

#include "gas.h"
#include "interpreter.h"

#define EXPORT __attribute__((visibility("default")))

struct guest {
    struct pvm_program program;
    struct pvm_execution execution;
    struct pvm_interpreter *interpreter;
    struct pvm_machine machine;
};

EXPORT struct guest *guest_new(void);
EXPORT void guest_free(struct guest *guest);
EXPORT int guest_load(struct guest *guest, const uint32_t *numbers, const uint8_t *code, const uint8_t *bitmask,
                      const uint8_t *jump_table, const uint32_t *costs);
EXPORT size_t guest_size(const struct guest *guest);
EXPORT uint32_t guest_block_cost(const struct guest *guest, uint32_t pc);
EXPORT int64_t guest_block_start(const struct guest *guest, uint32_t pc);
EXPORT int guest_map(struct guest *guest, uint32_t address, uint64_t size, int writable);
EXPORT void guest_protect(struct guest *guest, uint32_t address);
EXPORT void guest_unmap_all(struct guest *guest);
EXPORT uint8_t *guest_memory(struct guest *guest, uint32_t address);
EXPORT int guest_run(struct guest *guest, uint64_t *state, uint64_t budget);

struct guest *guest_new(void)
{
    return calloc(1, sizeof(struct guest));
}

static void unload(struct guest *guest)
{
    pvm_interpreter_destroy(guest->interpreter);
    guest->interpreter = NULL;
    free((void *)guest->program.code);
    free((void *)guest->program.bitmask);
    free((void *)guest->program.jump_table);
    guest->program = (struct pvm_program){0};
}

void guest_unmap_all(struct guest *guest)
{
    for (size_t n = 0; n < PVM_REGION_COUNT; n++)
        free(guest->machine.regions[n].memory);
    memset(guest->machine.regions, 0, sizeof guest->machine.regions);
}

void guest_free(struct guest *guest)
{
    unload(guest);
    guest_unmap_all(guest);
    free(guest);
}

/* A copy of its exact size, so that sanitizers see what is read behind it. */
static uint8_t *copy(const uint8_t *data, size_t size)
{
    uint8_t *copied = malloc(size);
    if (size != 0 && !copied)
        abort();
    if (size != 0)
        memcpy(copied, data, size);
    return copied;
}

/* `numbers`: isa, code size, jump table entries, their size, gas metering, per instruction, step tracing, legacy
 * sbrk, cost kind, memory latency. 0 or -errno; it then has no program. */
int guest_load(struct guest *guest, const uint32_t *numbers, const uint8_t *code, const uint8_t *bitmask,
               const uint8_t *jump_table, const uint32_t *costs)
{
    unload(guest);
    guest->program = (struct pvm_program){
        .isa = numbers[7] && numbers[0] == PVM_ISA_REVIVE_V1 ? (uint32_t)PVM_ISA_REVIVE_V1_SBRK : numbers[0],
        .code = copy(code, numbers[1]),
        .code_size = numbers[1],
        .bitmask = copy(bitmask, (numbers[1] + 7) / 8),
        .jump_table = copy(jump_table, (size_t)numbers[2] * numbers[3]),
        .jump_table_count = numbers[2],
        .jump_table_entry_size = numbers[3],
    };
    guest->execution = (struct pvm_execution){
        .gas_metering = numbers[4],
        .per_instruction = numbers[5],
        .step_tracing = numbers[6],
        .cost = {.kind = numbers[8], .memory_latency = numbers[9]},
    };
    memcpy(guest->execution.cost.costs, costs, sizeof guest->execution.cost.costs);
    return pvm_interpreter_create(&guest->program, &guest->execution, &guest->interpreter);
}

size_t guest_size(const struct guest *guest)
{
    return pvm_interpreter_size(guest->interpreter);
}

uint32_t guest_block_cost(const struct guest *guest, uint32_t pc)
{
    return pvm_block_cost(&guest->program, &guest->execution.cost, pc);
}

int64_t guest_block_start(const struct guest *guest, uint32_t pc)
{
    uint32_t start;
    return pvm_block_start(&guest->program, pc, &start) ? (int64_t)start : -1;
}

/* Maps zeroed memory; -1 if there is no place left for it. */
int guest_map(struct guest *guest, uint32_t address, uint64_t size, int writable)
{
    for (size_t n = 0; n < PVM_REGION_COUNT; n++) {
        struct pvm_region *region = &guest->machine.regions[n];
        if (region->memory)
            continue;
        *region = (struct pvm_region){.address = address, .size = size, .memory = calloc(1, size), .writable = writable};
        return region->memory ? 0 : -1;
    }
    return -1;
}

static struct pvm_region *find_region(struct guest *guest, uint32_t address)
{
    for (size_t n = 0; n < PVM_REGION_COUNT; n++) {
        struct pvm_region *region = &guest->machine.regions[n];
        if (region->memory && (uint64_t)address - region->address < region->size)
            return region;
    }
    return NULL;
}

/* Makes the region that holds `address` read-only. */
void guest_protect(struct guest *guest, uint32_t address)
{
    find_region(guest, address)->writable = false;
}

/* NULL where nothing is mapped. */
uint8_t *guest_memory(struct guest *guest, uint32_t address)
{
    const struct pvm_region *region = find_region(guest, address);
    return region ? region->memory + (address - region->address) : NULL;
}

/* `state`, in and out: 13 registers, gas, pc, next pc, fault, entering, progress, host call. */
int guest_run(struct guest *guest, uint64_t *state, uint64_t budget)
{
    struct pvm_machine *machine = &guest->machine;
    const size_t at = PVM_REGISTER_COUNT;
    memcpy(machine->regs, state, sizeof machine->regs);
    machine->gas = (int64_t)state[at];
    machine->pc = state[at + 1];
    machine->next_pc = state[at + 2];
    machine->fault = state[at + 3];
    machine->entering = state[at + 4];
    machine->progress = (uint8_t)state[at + 5];
    int end = (int)pvm_interpreter_run(guest->interpreter, machine, budget);
    memcpy(state, machine->regs, sizeof machine->regs);
    state[at] = (uint64_t)machine->gas;
    state[at + 1] = machine->pc;
    state[at + 2] = machine->next_pc;
    state[at + 3] = machine->fault;
    state[at + 4] = machine->entering;
    state[at + 5] = machine->progress;
    state[at + 6] = machine->host_call;
    return end;
}
