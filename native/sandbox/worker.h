/* SPDX-License-Identifier: MIT
 *
 * worker: the host's record of one sandbox process.
 */
#ifndef SANDBOX_WORKER_H
#define SANDBOX_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include "pvm/vmctx.h"
#include "sandbox/image.h"
#include "sandbox/memory.h"
#include "sandbox/sandbox_api.h"

struct sandbox_worker {
    sandbox_image *image; /* borrowed */
    int32_t owner;        /* process that made it: a forked child of it leaves the sandbox alone */
    int pidfd;            /* -1 until the nursery answered */
    struct sandbox_memory memory;
    struct vmctx *vmctx; /* start of its ram; hostile */
    uint32_t spin;
    uint32_t resume_native; /* native offset at which the guest goes on, if not where the host set */
    bool started; /* it reported VMCTX_IDLE once */
    bool dead;
    struct sandbox_guest guest;
};

#endif
