/* SPDX-License-Identifier: MIT
 *
 * interpreted: a guest that runs in the interpreter, in this process, on whatever thread calls.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "pvm/interpreter.h"
#include "sandbox/guest.h"
#include "sandbox/image.h"
#include "sandbox/memory.h"
#include "sandbox/pager.h"
#include "sandbox/sandbox_api.h"
#include "sandbox/snapshot.h"

/* As many instructions as putting one page there takes the time of. */
#define INTERPRETED_PAGE UINT64_C(500)
/* Instructions between two looks at the stop flag: well below a millisecond. */
#define INTERPRETED_SLICE UINT64_C(100000)

struct sandbox_interpreted {
    sandbox_image *image; /* borrowed */
    struct sandbox_memory memory;
    bool interrupt; /* atomic: set by one thread while another runs the guest */
    bool busy; /* the machine stopped on its budget, or for the pager */
    bool paging_in; /* the pager would have blocked */
    struct pvm_pages pages[3]; /* of the regions below */
    struct pvm_machine machine;
    struct sandbox_guest guest;
};

static void interpreted_set_regions(sandbox_interpreted *self)
{
    const struct sandbox_image *image = self->image;
    const struct sandbox_memory_map *map = &image->map;
    const struct sandbox_memory *memory = &self->memory;
    const struct sandbox_paging *paging = &memory->paging;
    struct pvm_pages *pages = self->pages;
    for (unsigned n = 0; n < 3; n++)
        pages[n] = (struct pvm_pages){paging->present, paging->guarded, 0, paging->shift};
    pages[0].first = map->stack_size >> paging->shift;
    pages[2].first = paging->aux_page;
    const bool paged = paging->present != NULL;
    struct pvm_region *regions = self->machine.regions;
    regions[0] = (struct pvm_region){map->rw_address, memory->rw_accessible,
                                     memory->ram + sandbox_image_rw_offset(image), true, paged ? &pages[0] : NULL};
    regions[1] = (struct pvm_region){map->stack_low, map->stack_size, memory->ram + sandbox_image_stack_offset(image),
                                     true, paged ? &pages[1] : NULL};
    regions[2] = (struct pvm_region){map->ro_address, map->ro_size, (uint8_t *)(uintptr_t)image->ro, false, NULL};
    regions[3] = (struct pvm_region){map->aux_address, memory->aux_accessible, memory->aux, false,
                                     paged ? &pages[2] : NULL};
}

int sandbox_interpreted_create(sandbox_image *image, uint32_t in_files, sandbox_interpreted **result)
{
    struct sandbox_interpreted *self = calloc(1, sizeof *self);
    if (self == NULL)
        return -ENOMEM;
    self->image = image;
    const int error = memory_create(&self->memory, image, in_files != 0);
    if (error < 0) {
        sandbox_interpreted_destroy(self);
        return error;
    }
    *result = self;
    return 0;
}

void sandbox_interpreted_destroy(sandbox_interpreted *self)
{
    if (self == NULL)
        return;
    memory_destroy(&self->memory);
    free(self);
}

struct sandbox_guest *sandbox_interpreted_guest(sandbox_interpreted *self)
{
    return &self->guest;
}

void sandbox_interpreted_interrupt(sandbox_interpreted *self)
{
    __atomic_store_n(&self->interrupt, true, __ATOMIC_RELAXED);
}

int sandbox_interpreted_restore(sandbox_interpreted *self, sandbox_snapshot *snapshot, uint32_t lazy)
{
    return snapshot_restore(snapshot, &self->memory, &self->guest, true, lazy != 0);
}

sandbox_memory *sandbox_interpreted_memory(sandbox_interpreted *self)
{
    return &self->memory;
}

/* --- running --- */

static void interpreted_sbrk(sandbox_interpreted *self)
{
    const struct pvm_decoded sbrk = guest_instruction(self->image, (uint32_t)self->machine.pc);
    memcpy(self->guest.regs, self->machine.regs, sizeof self->guest.regs);
    guest_sbrk(&self->memory, &self->guest, &sbrk);
    interpreted_set_regions(self);
    memcpy(self->machine.regs, self->guest.regs, sizeof self->machine.regs);
}

static void interpreted_take(sandbox_interpreted *self)
{
    const struct pvm_machine *machine = &self->machine;
    struct sandbox_guest *guest = &self->guest;
    memcpy(guest->regs, machine->regs, sizeof guest->regs);
    guest->gas = machine->gas;
    guest->has_pc = machine->pc != PVM_NO_PC;
    guest->pc = (uint32_t)machine->pc;
    guest->has_next_pc = machine->next_pc != PVM_NO_PC;
    guest->next_pc = (uint32_t)machine->next_pc;
    guest->entering = machine->entering;
    guest->progress = machine->progress;
    guest->host_call = machine->host_call;
    guest->signal = 0;
}

static int interpreted_event(enum pvm_exit exit)
{
    switch (exit) {
    case PVM_EXIT_FINISHED:
        return SANDBOX_FINISHED;
    case PVM_EXIT_ECALLI:
        return SANDBOX_HOST_CALL;
    case PVM_EXIT_TRAP:
        return SANDBOX_TRAP;
    case PVM_EXIT_STEP:
        return SANDBOX_STEP;
    case PVM_EXIT_NOT_ENOUGH_GAS:
        return SANDBOX_OUT_OF_GAS;
    case PVM_EXIT_BUDGET:
    case PVM_EXIT_SBRK:
        break;
    }
    return SANDBOX_BUSY;
}

/* Whether the trap that the machine stopped at is a page fault. */
static bool interpreted_faulted(sandbox_interpreted *self)
{
    if (self->memory.paging.present == NULL || self->machine.fault == PVM_NO_ADDRESS)
        return false;
    const struct pvm_decoded at = guest_instruction(self->image, (uint32_t)self->machine.pc);
    memcpy(self->guest.regs, self->machine.regs, sizeof self->guest.regs);
    return guest_page_fault(&self->memory, &self->guest, &at);
}

/* Has the pager serve the page fault that the machine stopped at. */
static int interpreted_page_in(sandbox_interpreted *self, bool may_block)
{
    self->machine.next_pc = self->machine.pc; /* nothing is charged twice */
    const int error = pager_serve(&self->memory, self->guest.fault_address, may_block);
    self->paging_in = error == -EAGAIN;
    if (error == 0 || error == -EAGAIN)
        return SANDBOX_BUSY;
    self->guest.fault_errno = error == -ENOENT ? 0 : (uint32_t)-error;
    return SANDBOX_PAGE_FAULT;
}

/* SANDBOX_BUSY also if it stopped for what is served here. */
static int interpreted_slice(sandbox_interpreted *self, uint64_t budget, bool may_block)
{
    if (self->paging_in)
        return interpreted_page_in(self, may_block);
    const enum pvm_exit exit = pvm_interpreter_run(self->image->interpreter, &self->machine, budget);
    if (exit == PVM_EXIT_SBRK)
        interpreted_sbrk(self);
    else if (exit == PVM_EXIT_TRAP && interpreted_faulted(self))
        return interpreted_page_in(self, may_block);
    return interpreted_event(exit);
}

int sandbox_interpreted_run(sandbox_interpreted *self, uint64_t budget, uint32_t may_block)
{
    struct pvm_machine *machine = &self->machine;
    if (!self->busy) {
        const struct sandbox_guest *guest = &self->guest;
        if (!guest->has_next_pc)
            return -EINVAL;
        if (guest_is_overdrawn(self->image, guest))
            return SANDBOX_OUT_OF_GAS;
        const uint64_t mask = guest_word_mask(self->image);
        for (unsigned i = 0; i < PVM_REGISTER_COUNT; i++)
            machine->regs[i] = guest->regs[i] & mask;
        machine->gas = guest->gas;
        machine->next_pc = guest->next_pc;
        machine->entering = guest->entering == SANDBOX_ENTERS;
        machine->progress = (uint8_t)guest->progress;
        interpreted_set_regions(self); /* the host may have moved the end of the auxiliary data */
        self->busy = true;
        __atomic_store_n(&self->interrupt, false, __ATOMIC_RELAXED); /* one that was meant for an earlier run */
    }
    int event;
    do {
        const uint64_t slice = budget < INTERPRETED_SLICE ? budget : INTERPRETED_SLICE;
        const uint64_t pages = self->memory.paging.pages_served;
        event = interpreted_slice(self, slice, may_block != 0);
        const uint64_t work = (self->memory.paging.pages_served - pages) * INTERPRETED_PAGE;
        budget -= work > 0 && work < slice ? work : slice;
    } while (event == SANDBOX_BUSY && !self->paging_in && budget > 0 &&
             !__atomic_load_n(&self->interrupt, __ATOMIC_RELAXED));
    if (event == SANDBOX_BUSY && __atomic_load_n(&self->interrupt, __ATOMIC_RELAXED)) {
        machine->pc = machine->next_pc; /* where it is, also behind an sbrk */
        self->paging_in = false;        /* the guest faults again, if it goes on there */
        event = SANDBOX_INTERRUPTED;
    }
    if (event == SANDBOX_TRAP && memory_is_beyond_limit(&self->memory, machine->fault))
        event = SANDBOX_OVER_LIMIT;
    if (event != SANDBOX_BUSY) {
        self->busy = false;
        interpreted_take(self);
        if (event == SANDBOX_FINISHED)
            self->guest.has_pc = 0; /* as with the recompiler, which does not know the jump that ended it */
    }
    return event;
}
