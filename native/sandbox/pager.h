/* SPDX-License-Identifier: MIT
 *
 * pager: serves page faults with zeroes or with a file, without a stop that Python sees.
 */
#ifndef SANDBOX_PAGER_H
#define SANDBOX_PAGER_H

#include <stdbool.h>
#include <stdint.h>

#include "sandbox/memory.h"

/* Has the pager of `memory` put the page at `address` there, and if faults come in sequence those behind it. 0 or -errno;
 * -EAGAIN: that would block, and it may not; -ENOENT: there is no pager, or the page is there (and protected). */
int pager_serve(struct sandbox_memory *memory, uint64_t address, bool may_block);

#endif
