/* SPDX-License-Identifier: MIT
 *
 * pager: serves page faults with zeroes or with a file, without a stop that Python sees.
 */
#ifndef SANDBOX_PAGER_H
#define SANDBOX_PAGER_H

#include <stdbool.h>
#include <stdint.h>

#include "sandbox/memory.h"

/* How many pages to put there, up to `most` bytes, for a fault at page number `page`: more, if faults come in a row. */
uint64_t pager_plan(struct sandbox_paging *paging, uint64_t page, uint64_t most);

/* Has the snapshot that the memory comes from, or else its pager, put the page at `address` there, and if faults come in
 * sequence those behind it. 0 or -errno;
 * -EAGAIN: that would block, and it may not; -ENOENT: there is no pager, or the page is there (and protected). */
int pager_serve(struct sandbox_memory *memory, uint64_t address, bool may_block);

#endif
