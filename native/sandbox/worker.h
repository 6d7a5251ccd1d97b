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
#include "sandbox/sandbox_api.h"

struct sandbox_worker {
    sandbox_image *image; /* borrowed */
    int32_t owner;        /* process that made it: a forked child of it leaves the sandbox alone */
    int pidfd;            /* -1 until the nursery answered */
    int ram_file;
    uint8_t *ram; /* the whole of the ram file and what the heap may add to it */
    uint64_t ram_size;
    struct vmctx *vmctx;    /* start of `ram`; hostile */
    uint64_t rw_accessible; /* bytes of read-write data and heap inside the file */
    uint32_t spin;
    uint32_t resume_native; /* native offset at which the guest goes on, if not where the host set */
    bool started; /* it reported VMCTX_IDLE once */
    bool dead;
    struct sandbox_guest guest;
};

#endif
