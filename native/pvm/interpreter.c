/* SPDX-License-Identifier: MIT
 *
 * An interpreter's life, and how a machine enters it.
 */
#include "decode.h"
#include "interpreter.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "interpreter_internal.h"

/* --- memory, where it is not simple -------------------------------------------------------------------------- */

/* How many of `size` bytes from `offset` in a region are in pages that may be accessed. */
static uint32_t accessible_in_pages(const struct pvm_pages *pages, bool for_writing, uint32_t offset, uint32_t size)
{
    uint64_t end = offset + (uint64_t)size, at = offset;
    while (at < end) {
        uint64_t page = pages->first + (at >> pages->shift), bit = UINT64_C(1) << page % 64;
        if (!(pages->present[page / 64] & bit))
            break;
        if (for_writing && pages->guarded && pages->guarded[page / 64] & bit)
            break;
        at = ((at >> pages->shift) + 1) << pages->shift;
    }
    return (uint32_t)((at < end ? at : end) - offset);
}

/* The same as pvm_locate_run for regions that come by the page. */
static uint8_t *locate_paged(const struct view *view, uint32_t address, uint32_t *room)
{
    for (uint32_t n = 0; n < PVM_REGION_COUNT; n++) {
        const struct pvm_region *region = &view->paged[n];
        uint32_t offset = address - region->address;
        if (!region->pages || offset >= region->size || (view->for_writing && !region->writable))
            continue;
        uint64_t most = region->size - offset, below_end = (UINT64_C(1) << 32) - address;
        most = most < below_end ? most : below_end;
        uint32_t size = *room < most ? *room : (uint32_t)most;
        *room = accessible_in_pages(region->pages, view->for_writing, offset, size);
        return *room ? region->memory + offset : NULL;
    }
    return NULL;
}

uint8_t *pvm_locate_further(const struct view *view, uint32_t address, uint32_t size)
{
    uint8_t *found = NULL;
    for (uint32_t n = 2; n < PVM_REGION_COUNT && !found; n++)
        found = pvm_locate_in(view, n, address, size);
    if (!found && view->paged) {
        uint32_t room = size;
        found = locate_paged(view, address, &room);
        if (room < size)
            found = NULL;
    }
    return found;
}

uint8_t *pvm_locate_run(const struct view *view, uint32_t address, uint32_t *room)
{
    for (uint32_t n = 0; n < PVM_REGION_COUNT; n++) {
        uint32_t offset = address - view->regions[n].address;
        if (offset >= view->regions[n].size)
            continue;
        if (*room > view->regions[n].size - offset)
            *room = (uint32_t)(view->regions[n].size - offset);
        return view->regions[n].memory + offset;
    }
    return view->paged ? locate_paged(view, address, room) : NULL;
}

static uint64_t accessible_bytes(const struct view *view, uint32_t address, uint32_t size)
{
    uint64_t end = address + (uint64_t)size, at = address;
    while (at < end && at <= UINT32_MAX && pvm_locate(view, (uint32_t)at, 1))
        at++;
    return at - address;
}

bool pvm_gather(const struct view *view, uint32_t address, uint32_t size, uint64_t *value)
{
    if (accessible_bytes(view, address, size) < size)
        return false;
    *value = 0;
    for (uint32_t n = 0; n < size; n++)
        *value |= (uint64_t)*pvm_locate(view, address + n, 1) << 8 * n;
    return true;
}

bool pvm_scatter(const struct view *view, uint32_t address, uint32_t size, uint64_t value)
{
    if (accessible_bytes(view, address, size) < size)
        return false;
    for (uint32_t n = 0; n < size; n++)
        *pvm_locate(view, address + n, 1) = (uint8_t)(value >> 8 * n);
    return true;
}

uint64_t pvm_first_missing(const struct view *view, uint32_t address, uint32_t size)
{
    uint64_t missing = address + accessible_bytes(view, address, size);
    return missing <= UINT32_MAX ? missing : PVM_NO_ADDRESS;
}

/* --- life ---------------------------------------------------------------------------------------------------- */

static int resolve_jump_table(struct pvm_interpreter *interpreter)
{
    const struct pvm_program *program = &interpreter->program;
    uint32_t entry_size = program->jump_table_entry_size;
    if (entry_size == 0)
        interpreter->program.jump_table_count = 0;
    if (program->jump_table_count == 0)
        return 0;
    interpreter->table = malloc(program->jump_table_count * sizeof *interpreter->table);
    if (!interpreter->table)
        return -ENOMEM;
    for (uint32_t n = 0; n < program->jump_table_count; n++) {
        uint32_t pc = 0;
        memcpy(&pc, program->jump_table + (size_t)n * entry_size, entry_size);
        interpreter->table[n] = pvm_is_jump_target(program, pc) ? pvm_find_step(interpreter, pc) : NO_STEP;
    }
    return 0;
}

int pvm_interpreter_create(const struct pvm_program *program, const struct pvm_execution *execution,
                           struct pvm_interpreter **interpreter)
{
    bool unknown = program->isa >= PVM_ISA_COUNT || program->jump_table_entry_size > sizeof(uint32_t) ||
                   execution->gas_metering > PVM_GAS_ASYNC || execution->cost.kind > PVM_COST_FULL;
    *interpreter = NULL;
    if (unknown || program->code_size == 0)
        return -EINVAL;
    struct pvm_interpreter *made = calloc(1, sizeof *made);
    if (!made)
        return -ENOMEM;
    made->program = *program;
    made->execution = *execution;
    made->pauses = execution->step_tracing || (execution->per_instruction && execution->gas_metering != PVM_GAS_NONE);

    const int32_t *codes;
    if (program->isa == PVM_ISA_LATEST32)
        pvm_execute_32(NULL, NULL, 0, 0, &codes);
    else
        pvm_execute_64(NULL, NULL, 0, 0, &codes);
    int status = pvm_predecode(made, codes);
    if (status == 0)
        status = resolve_jump_table(made);
    if (status < 0)
        pvm_interpreter_destroy(made);
    else
        *interpreter = made;
    return status;
}

void pvm_interpreter_destroy(struct pvm_interpreter *interpreter)
{
    if (!interpreter)
        return;
    free(interpreter->steps);
    free(interpreter->pcs);
    free(interpreter->costs);
    free(interpreter->index);
    free(interpreter->table);
    free(interpreter);
}

bool pvm_interpreter_has(const struct pvm_interpreter *interpreter, uint32_t pc)
{
    return pvm_find_step(interpreter, pc) != NO_STEP;
}

size_t pvm_interpreter_size(const struct pvm_interpreter *interpreter)
{
    size_t of_step = sizeof *interpreter->steps + sizeof *interpreter->pcs + sizeof *interpreter->costs;
    return sizeof *interpreter + interpreter->count * of_step + interpreter->index_count * sizeof *interpreter->index +
           interpreter->program.jump_table_count * sizeof *interpreter->table;
}

/* --- entering ------------------------------------------------------------------------------------------------ */

/* Whether control gets to `step` only from the end of a block. */
static bool starts_block(const struct pvm_interpreter *interpreter, uint32_t step)
{
    if (step == 0)
        return true;
    const struct pvm_program *program = &interpreter->program;
    uint32_t previous = interpreter->pcs[step - 1];
    if (!pvm_has_instruction(program, previous))
        return true; /* an implicit invalid one */
    return pvm_op_ends_block[pvm_op_at(program, previous)];
}

static enum pvm_exit trap(struct pvm_machine *machine)
{
    machine->pc = machine->next_pc;
    machine->next_pc = PVM_NO_PC;
    machine->fault = PVM_NO_ADDRESS;
    machine->progress = PVM_PROGRESS_CHARGED;
    machine->entering = false;
    return PVM_EXIT_TRAP;
}

/* Takes `cost`, or has the machine stopped at the instruction that it is about to execute. */
static bool charge(const struct pvm_interpreter *interpreter, struct pvm_machine *machine, uint32_t cost)
{
    if (interpreter->execution.gas_metering == PVM_GAS_NONE || machine->gas >= cost) {
        machine->gas -= cost; /* 0 without metering */
        return true;
    }
    machine->pc = machine->next_pc;
    if (interpreter->execution.gas_metering == PVM_GAS_ASYNC) {
        machine->gas = pvm_overdraw(machine->gas, cost);
        machine->pc = machine->next_pc = PVM_NO_PC;
        machine->entering = false;
    }
    return false;
}

enum pvm_exit pvm_interpreter_run(const struct pvm_interpreter *interpreter, struct pvm_machine *machine,
                                  uint64_t budget)
{
    uint32_t step = machine->next_pc <= UINT32_MAX ? pvm_find_step(interpreter, machine->next_pc) : NO_STEP;
    if (step == NO_STEP)
        return trap(machine);

    bool pauses = interpreter->pauses, at_start = starts_block(interpreter, step);
    uint32_t cost = interpreter->costs[step + pauses]; /* of the block */
    if (cost == NO_BLOCK) {
        if (machine->entering)
            return trap(machine);
        cost = 0;
    }
    if (machine->entering) {
        if (!pvm_has_instruction(&interpreter->program, (uint32_t)machine->next_pc))
            return trap(machine);
        if (!at_start && !charge(interpreter, machine, cost))
            return PVM_EXIT_NOT_ENOUGH_GAS;
        machine->entering = false;
        machine->progress = PVM_PROGRESS_NONE;
    }

    /* get past what is paid for or stepped already: a pause, or else the step before, which would have charged */
    bool pay = pauses ? machine->progress == PVM_PROGRESS_STEPPED : machine->progress != PVM_PROGRESS_CHARGED && at_start;
    if (pay && !charge(interpreter, machine, pauses ? (uint32_t)interpreter->steps[step].x : cost))
        return PVM_EXIT_NOT_ENOUGH_GAS;
    if (pauses && machine->progress != PVM_PROGRESS_NONE)
        step++;
    int64_t most = budget == 0 ? 1 : budget < INT64_MAX ? (int64_t)budget : INT64_MAX;
    if (interpreter->program.isa == PVM_ISA_LATEST32)
        return pvm_execute_32(interpreter, machine, step, most, NULL);
    return pvm_execute_64(interpreter, machine, step, most, NULL);
}
