/* SPDX-License-Identifier: MIT */
#include "core.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* The end of a wait from another thread: an eventfd under a poll that is always armed. */

static void woken(Core *core, struct operation *Py_UNUSED(wake), int32_t Py_UNUSED(result), bool more)
{
    /* Ending the wait was all. The counter is never read: each write is an event to an edge-triggered poll. */
    /* The kernel ends a multishot poll when the completion queue is full: the next wait needs another. */
    if (!more)
        core_wake_arm(core);
}

int core_wake_open(Core *core)
{
    if (core->wake_fd < 0) {
        core->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (core->wake_fd < 0)
            return -1;
        core->wake.kind = OPERATION_POLL;
        core->wake.fd = core->wake_fd;
        core->wake.mask = POLLIN;
        core->wake.done = woken;
    }
    return 0;
}

void core_wake_arm(Core *core)
{
    /* Also after the kernel dropped it, as it may for want of memory. It lives in the core: no owner to hold. */
    operation_start(core, &core->wake, Py_None);
}

void core_wake(Core *core)
{
    if (core->waiting && !core->woken) {
        static const uint64_t one = 1;

        core->woken = true;
        /* Fails only when 2**64 - 2 waits have been ended. */
        while (write(core->wake_fd, &one, sizeof one) < 0 && errno == EINTR)
            ;
    }
}

void core_wake_close(Core *core)
{
    if (core->wake_fd >= 0)
        close(core->wake_fd);
    core->wake_fd = -1;
}
