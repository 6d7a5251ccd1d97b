/* SPDX-License-Identifier: MIT
 *
 * snapshot: the state of a stopped guest, for any number of other guests of the same program.
 *
 * It holds what is the guest's and nothing of the machine that ran it: registers and the place where it goes on, and of
 * memory the pages that are not as the program begins with them, in runs. Pages are counted by guest addresses, in
 * machine pages, with dynamic paging in the module's. Contents lie in private memory of this process, read-only once it
 * is made.
 *
 * They are copied into a guest's memory when that is made. A *lazy* memory, for which there has to be dynamic paging,
 * gets them one by one instead, when the guest or the host touches them: until then a page is absent for the machine,
 * and present for whoever asks what the guest has.
 */
#ifndef SANDBOX_SNAPSHOT_H
#define SANDBOX_SNAPSHOT_H

#include <stdbool.h>
#include <stdint.h>

#include "sandbox/memory.h"
#include "sandbox/sandbox_api.h"

struct sandbox_snapshot {
    uint32_t users; /* atomic: Python, and lazy memories */
    struct sandbox_memory_map map;
    bool paged;
    uint32_t shift; /* of the pages that runs count */
    struct sandbox_guest guest;
    uint32_t aux_size;
    uint64_t rw_accessible; /* what the heap takes, with the data before it */
    uint64_t rw_needed;     /* what of that a limit must not cut off */
    struct sandbox_run *runs;
    uint64_t *offsets; /* of each run's contents in `data` */
    uint32_t run_count;
    uint8_t *data;
    uint64_t data_size;
};

/* Of the pages that the runs of this program's snapshots count. */
static inline uint32_t snapshot_shift(const struct sandbox_image *image)
{
    return (uint32_t)__builtin_ctz(image->dynamic_paging ? image->map.page_size : (uint32_t)LAYOUT_PAGE);
}

/* Makes memory and guest those of the snapshot. `pristine`: the memory is as the program begins with it; otherwise it
 * may be in any state. `lazy`: where there is dynamic paging. 0 or -errno; -EINVAL: it is one of another program. */
int snapshot_restore(sandbox_snapshot *snapshot, struct sandbox_memory *memory, struct sandbox_guest *guest,
                     bool pristine, bool lazy);

/* Of a lazy memory: puts the pages there that hold some of `size` bytes from `place`; returns how many it put. */
uint64_t snapshot_settle(struct sandbox_memory *memory, const struct memory_place *place, uint64_t size);
/* Serves a fault at the page that holds `address`, with those around it and, if faults come in sequence, behind it.
 * False: the snapshot has no such page, or it was there already. */
bool snapshot_serve(struct sandbox_memory *memory, uint64_t address);
/* These pages have no contents in the snapshot any more. */
void snapshot_forget(struct sandbox_memory *memory, uint64_t first, uint64_t end);
/* The memory is lazy no longer. */
void snapshot_detach(struct sandbox_memory *memory);

#endif
