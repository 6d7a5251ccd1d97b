/* SPDX-License-Identifier: MIT
 *
 * recompiled: a guest in recompiled code, wherever that runs: how it goes on, and what it means that it stopped.
 *
 * What vmctx says is a hint; what the host believes is its own. Each word is read once. The place where the guest
 * stopped is looked up in the module's instruction table, and the instruction there must be one that can stop in that
 * way; its operands come from the module's code, not from the page.
 */
#ifndef SANDBOX_RECOMPILED_H
#define SANDBOX_RECOMPILED_H

#include <stdbool.h>
#include <stdint.h>

#include "pvm/vmctx.h"
#include "sandbox/image.h"
#include "sandbox/memory.h"
#include "sandbox/sandbox_api.h"

struct recompiled_guest {
    sandbox_image *image; /* borrowed */
    struct sandbox_memory memory;
    struct vmctx *vmctx;    /* start of its ram; hostile */
    uint64_t code_base;     /* address of the native code where the guest runs */
    bool gs_base;           /* which native code it is (struct pvm_target) */
    uint32_t interrupt;     /* the signal of a trap that is an interrupt; 0: there are none */
    uint32_t resume_native; /* native offset at which the guest goes on, if not where the host set */
    bool paging_in;         /* the guest is at a page fault that the pager is to serve where it may block */
    struct sandbox_guest guest;
};

/* Whether the guest can go on, and *native where. SANDBOX_BUSY: it can. Otherwise the event with which it ends at once,
 * or -EINVAL if there is no next pc. A next pc that the host set has its block charged, unless the code there does it. */
int recompiled_begin(struct recompiled_guest *self, uint32_t *native);

/* Puts the guest's registers into vmctx, to go on at `native`. */
void recompiled_put(struct recompiled_guest *self, uint32_t native);

/* Makes an event of the state that native code left with, one that carries registers, and takes those over.
 * SANDBOX_BUSY: it was an sbrk, which is done, or a page fault that the pager served; the guest goes on at resume_native.
 * SANDBOX_PAGING: the pager would have blocked. SANDBOX_FORGED: no native code of the
 * module leaves that behind. An interrupt leaves at the beginning of an instruction, or at the rep stosb of a memset. */
int recompiled_take(struct recompiled_guest *self, uint32_t state);

/* Has the pager, if there is one, serve the page fault that the guest is at. SANDBOX_BUSY: the guest goes on at
 * resume_native; SANDBOX_PAGING: the pager would block, and it may not; SANDBOX_PAGE_FAULT. */
int recompiled_page_in(struct recompiled_guest *self, bool may_block);

/* Memory and registers as they are in the snapshot: see snapshot_restore. */
int recompiled_restore(struct recompiled_guest *self, sandbox_snapshot *snapshot, bool pristine, bool lazy);

/* Memory and registers as they were at the start. 0 or -errno. */
int recompiled_reset(struct recompiled_guest *self);

#endif
