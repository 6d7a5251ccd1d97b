/* SPDX-License-Identifier: MIT
 *
 * worker: the host's record of one sandbox process.
 */
#ifndef SANDBOX_WORKER_H
#define SANDBOX_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include "sandbox/recompiled.h"
#include "sandbox/sandbox_api.h"

struct sandbox_worker {
    struct recompiled_guest recompiled;
    int32_t owner;        /* process that made it: a forked child of it leaves the sandbox alone */
    int pidfd;            /* -1 until the nursery answered */
    uint32_t spin;
    bool interrupting; /* the guest was asked to stop, and has not yet */
    bool located;      /* and told which instruction it is in */
    bool started; /* it reported VMCTX_IDLE once */
    bool dead;
    int paging_socket; /* from which the userfaultfd comes; -1 once it did, or without dynamic paging */
    uint64_t spin_ns;  /* of the last resume */
};

#endif
