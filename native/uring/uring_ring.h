/* SPDX-License-Identifier: MIT */
#ifndef AIORING_URING_RING_H
#define AIORING_URING_RING_H

/* The inside of a ring, shared by uring.c and watch.c. */
#include "uring_api.h"
#include "uring_compat.h"

#include <stdbool.h>

/*
 * What the user_data of a completion is: a watch's poll, the address of a native operation (native/loop/operation.h), or
 * the number of an operation of this interface. Those are counted from 1 and never get to the two bits; 0 is of no
 * interest.
 */
#define WATCH_BIT (1ull << 63)
#define NATIVE_BIT (1ull << 62)

/* Readiness of one file; watches are indexed by fd. */
struct watch {
    uint32_t mask;
    uint32_t generation; /* of the poll that is armed; completions of earlier ones mean nothing */
    enum { WATCH_IDLE, WATCH_DUE, WATCH_ARMED } state;
    bool listed; /* in the list of those due, perhaps no more for a reason */
};

struct uring {
    struct io_uring ring;
    struct io_uring_probe *probe;
    /* One per SQE: the kernel reads an operation's timeout when it is submitted, after which the SQE is reused. */
    struct __kernel_timespec *timeouts;
    uint64_t last;
    struct io_uring_sqe *chain; /* the last of the operations that are being linked; NULL: the first is to come */
    bool linking;
    unsigned seen; /* CQEs that the last batch came from */
    bool disabled; /* set up with R_DISABLED and not enabled yet */

    struct watch *watches;
    int *due; /* fds to arm before the next wait; room for every watch */
    unsigned watches_size;
    unsigned due_count;
    uint32_t generation;
};

/* Takes the next SQE under `number`, submitting a full queue first. The io_uring_prep_*() leave user_data alone. */
int uring_take(struct uring *ring, uint64_t number, struct io_uring_sqe **sqe);

/* Entering the kernel is due: something to submit, completions that wait for task work, or ones that overflowed. */
bool uring_enter_is_due(const struct uring *ring);
/*
 * Submits what was prepared and waits up to `timeout` nanoseconds for a completion; 0: does not wait, nor enter the
 * kernel if nothing calls for it. -errno only if that was not to be expected: a timeout, a signal and pressure are 0.
 */
int uring_enter(struct uring *ring, int64_t timeout);

/* Prepares a poll for every watch that is due. */
void uring_arm_watches(struct uring *ring);
/* Takes in the completion of a watch's poll. True if the file is ready: `out` then says so. */
bool uring_watch_fired(struct uring *ring, const struct io_uring_cqe *cqe, struct uring_completion *out);

#endif
