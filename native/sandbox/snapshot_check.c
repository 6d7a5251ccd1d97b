/* SPDX-License-Identifier: MIT
 *
 * snapshot_check: whether a snapshot that comes from a file is one that a guest of the program can have left behind, as
 * far as the machine depends on it. Fields that are numbers for the guest alone are Python's (vm/_snapshot_file.py).
 */
#include "sandbox/guest.h"
#include "sandbox/snapshot.h"

uint32_t sandbox_image_has_place(const sandbox_image *image, uint32_t pc, uint32_t progress)
{
    const bool exists = image->interpreter != NULL ? pvm_interpreter_has(image->interpreter, pc)
                                                   : pvm_find_pc(&image->recompiled, pc) != NULL;
    uint32_t block;
    switch (progress) {
    case PVM_PROGRESS_NONE:
        return exists;
    case PVM_PROGRESS_STEPPED:
        return exists && (image->execution.step_tracing || image->execution.gas_metering == PVM_GAS_SYNC);
    case PVM_PROGRESS_CHARGED: /* it faulted for a page, or is a memset in its middle */
        return exists && pvm_block_start(&image->program, pc, &block) &&
               guest_touches_memory(guest_instruction(image, pc).op);
    default:
        return false;
    }
}

/* Whether `size` bytes from `address` are in one region, whose accessible size is given, and that is there. */
static bool check_within(uint64_t address, uint64_t size, uint64_t start, uint64_t length)
{
    return length > 0 && address >= start && address - start < length && size <= length - (address - start);
}

static const char *check_run(const struct sandbox_image *image, const struct sandbox_run *run, uint64_t heap_end,
                             uint32_t aux_size, uint32_t shift)
{
    const struct sandbox_memory_map *map = &image->map;
    const uint64_t address = (uint64_t)run->first << shift, size = (uint64_t)run->count << shift;
    const uint32_t contents = run->kind & SANDBOX_RUN_CONTENTS;
    const bool guarded = (run->kind & SANDBOX_RUN_GUARDED) != 0;
    if ((run->kind & ~(uint32_t)(SANDBOX_RUN_CONTENTS | SANDBOX_RUN_GUARDED)) != 0 || contents > SANDBOX_RUN_INITIAL)
        return "its kind is unknown";
    if (run->count == 0)
        return "it has no pages";
    const bool in_rw = check_within(address, size, map->rw_address, heap_end - map->rw_address);
    const bool in_stack = check_within(address, size, map->stack_low, map->stack_size);
    if (!in_rw && !in_stack && !check_within(address, size, map->aux_address, aux_size))
        return "its pages are not all in one region of memory that the guest has";
    if (!image->dynamic_paging && (guarded || contents == SANDBOX_RUN_INITIAL))
        return "it goes with dynamic paging only";
    if (guarded && !in_rw && !in_stack)
        return "it protects pages that the guest cannot write";
    const uint64_t unit = UINT64_C(1) << shift;
    const uint64_t data_end = map->rw_address + ((image->rw_data_size + unit - 1) & ~(unit - 1));
    if (contents == SANDBOX_RUN_INITIAL && (!in_rw || address + size > data_end))
        return "its pages have no initial data";
    return NULL;
}

int64_t sandbox_snapshot_check_runs(const sandbox_image *image, uint32_t heap_size, uint32_t aux_size,
                                    const struct sandbox_run *runs, uint32_t count, uint64_t *data_size,
                                    const char **what)
{
    const struct sandbox_memory_map *map = &image->map;
    const uint32_t shift = snapshot_shift(image);
    const uint64_t page = map->page_size;
    uint64_t heap_end = map->rw_address + (uint64_t)map->rw_size;
    const uint64_t top = ((uint64_t)map->heap_base + heap_size + page - 1) & ~(page - 1);
    if (heap_size > 0 && top > heap_end)
        heap_end = top;
    *data_size = 0;
    uint64_t behind = 0;
    for (uint32_t n = 0; n < count; n++) {
        const struct sandbox_run *run = &runs[n];
        *what = run->first < behind ? "its pages do not come behind those of the run before"
                                    : check_run(image, run, heap_end, aux_size, shift);
        if (*what != NULL)
            return n;
        behind = (uint64_t)run->first + run->count;
        if ((run->kind & SANDBOX_RUN_CONTENTS) == SANDBOX_RUN_DATA)
            *data_size += (uint64_t)run->count << shift;
    }
    return -1;
}
