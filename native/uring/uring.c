/* SPDX-License-Identifier: MIT */
#include "uring_ring.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

/* Versions: the man page io_uring_enter(2), and include/uapi/linux/io_uring.h for those since Linux 6.7. */
static const struct uring_operation operations[] = {
    {"nop", "5.1", IORING_OP_NOP},
    {"poll", "5.1", IORING_OP_POLL_ADD},
    {"timeout", "5.4", IORING_OP_TIMEOUT},
    {"cancel", "5.5", IORING_OP_ASYNC_CANCEL},
    {"read", "5.6", IORING_OP_READ},
    {"write", "5.6", IORING_OP_WRITE},
    {"fsync", "5.1", IORING_OP_FSYNC},
    {"openat", "5.6", IORING_OP_OPENAT},
    {"close", "5.6", IORING_OP_CLOSE},
    {"statx", "5.6", IORING_OP_STATX},
    {"fallocate", "5.6", IORING_OP_FALLOCATE},
    {"splice", "5.7", IORING_OP_SPLICE},
    {"send_zc", "6.0", IORING_OP_SEND_ZC},
    {"renameat", "5.11", IORING_OP_RENAMEAT},
    {"unlinkat", "5.11", IORING_OP_UNLINKAT},
    {"mkdirat", "5.15", IORING_OP_MKDIRAT},
    {"symlinkat", "5.15", IORING_OP_SYMLINKAT},
    {"linkat", "5.15", IORING_OP_LINKAT},
    {"waitid", "6.7", IORING_OP_WAITID},
    {"ftruncate", "6.9", IORING_OP_FTRUNCATE},
    {"futex_wait", "6.7", IORING_OP_FUTEX_WAIT},
    {"futex_wake", "6.7", IORING_OP_FUTEX_WAKE},
};

const struct uring_operation *uring_operation(unsigned index)
{
    return index < sizeof operations / sizeof *operations ? &operations[index] : NULL;
}

/* ---- set-up and tear-down ------------------------------------------------------------------------------------- */

/*
 * Set-up flags from the newest kernel's to the oldest's.
 * Driving: completions are run only inside our own wait (DEFER_TASKRUN, Linux 6.1). R_DISABLED leaves open which thread
 *   that is until uring_adopt(), because a loop is often made in one thread and run in another.
 * Watched: DEFER_TASKRUN would not wake a poller of the fd. COOP_TASKRUN (5.19) saves the inter-processor interrupt.
 * TASKRUN_FLAG tells without a system call whether entering the kernel would bring completions.
 */
static const unsigned driving_flags =
    IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
    IORING_SETUP_R_DISABLED;
static const unsigned watched_flags[] = {
    IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
    0,
};

static int set_up(struct uring *ring, unsigned entries, unsigned completions, unsigned flags)
{
    struct io_uring_params params = {.flags = flags | IORING_SETUP_CLAMP};

    if (completions != 0) {
        params.flags |= IORING_SETUP_CQSIZE;
        params.cq_entries = completions;
    }
    /* The kernel makes the fd O_CLOEXEC by itself. */
    return io_uring_queue_init_params(entries, &ring->ring, &params);
}

int uring_open(struct uring **out, unsigned entries, unsigned completions, int driving)
{
    struct uring *ring = calloc(1, sizeof *ring);
    int error = -EINVAL;

    if (ring == NULL)
        return -ENOMEM;
    if (driving) {
        error = set_up(ring, entries, completions, driving_flags);
        ring->disabled = error == 0;
    }
    for (size_t i = 0; error == -EINVAL && i < sizeof watched_flags / sizeof *watched_flags; i++)
        error = set_up(ring, entries, completions, watched_flags[i]);
    if (error != 0) {
        free(ring);
        return error;
    }
    /* EXT_ARG (5.11): a wait with a timeout that costs no SQE. NODROP (5.5): a full completion queue loses nothing. */
    if ((ring->ring.features & (IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP)) !=
        (IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP)) {
        uring_close(ring);
        return -EOPNOTSUPP;
    }
    /* A child of fork() must not see the queues: it would submit and consume in the parent's place. */
    error = io_uring_ring_dontfork(&ring->ring);
    ring->probe = io_uring_get_probe_ring(&ring->ring);
    ring->timeouts = calloc(ring->ring.sq.ring_entries, sizeof *ring->timeouts);
    if (error == 0 && (ring->probe == NULL || ring->timeouts == NULL))
        error = -ENOMEM;
    if (error != 0) {
        uring_close(ring);
        return error;
    }
    *out = ring;
    return 0;
}

void uring_info(const struct uring *ring, struct uring_info *out)
{
    *out = (struct uring_info){
        .fd = ring->ring.ring_fd,
        .features = ring->ring.features,
        .completions = ring->ring.cq.ring_entries,
    };
}

int uring_supports(const struct uring *ring, uint8_t opcode)
{
    return io_uring_opcode_supported(ring->probe, opcode) != 0;
}

static void release(struct uring *ring)
{
    io_uring_free_probe(ring->probe);
    free(ring->timeouts);
    free(ring->watches);
    free(ring->due);
    free(ring);
}

void uring_close(struct uring *ring)
{
    io_uring_queue_exit(&ring->ring);
    release(ring);
}

void uring_abandon(struct uring *ring)
{
    /* The queues are not mapped here (DONTFORK), something else may be: the fd is all there is to give up. */
    close(ring->ring.ring_fd);
    release(ring);
}

int uring_adopt(struct uring *ring)
{
    if (ring->disabled) {
        int error = io_uring_enable_rings(&ring->ring);
        if (error < 0)
            return error;
        ring->disabled = false;
    }
    /* A registered fd spares io_uring_enter() its look-up (5.18). A kernel without it, or full, costs only that. */
    (void)io_uring_register_ring_fd(&ring->ring);
    return 0;
}

void uring_leave(struct uring *ring)
{
    /* The registration is the thread's and holds the ring: it must not outlive the time this thread drives it. */
    if (ring->ring.enter_ring_fd != ring->ring.ring_fd)
        (void)io_uring_unregister_ring_fd(&ring->ring);
}

/* ---- submitting and reaping ------------------------------------------------------------------------------------ */

bool uring_enter_is_due(const struct uring *ring)
{
    unsigned flags = IO_URING_READ_ONCE(*ring->ring.sq.kflags);

    return io_uring_sq_ready(&ring->ring) != 0 || (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

int uring_enter(struct uring *ring, int64_t timeout)
{
    struct io_uring_cqe *cqe;
    int error = 0;

    if (timeout > 0) {
        struct __kernel_timespec span = {.tv_sec = timeout / 1000000000, .tv_nsec = timeout % 1000000000};
        /*
         * Always with a timeout: without one liburing enters a second time after a wait that a signal ended, and the
         * signal's Python handler would have to wait for a completion.
         */
        error = io_uring_submit_and_wait_timeout(&ring->ring, &cqe, 1, &span, NULL);
    } else if (uring_enter_is_due(ring)) {
        /* Again after a bad SQE, at which kernels without SUBMIT_ALL stop. */
        do
            error = io_uring_submit_and_get_events(&ring->ring);
        while (error > 0 && io_uring_sq_ready(&ring->ring) != 0);
    }
    /* EBUSY and EAGAIN: the kernel wants completions consumed or memory freed first, and keeps what was prepared. */
    if (error >= 0 || error == -ETIME || error == -EINTR || error == -EBUSY || error == -EAGAIN)
        return 0;
    return error;
}

int uring_wait(struct uring *ring, int64_t timeout, struct uring_completion *out, unsigned capacity)
{
    struct io_uring_cqe *cqe;
    unsigned head;
    unsigned count = 0;
    int error;

    uring_arm_watches(ring);
    error = uring_enter(ring, timeout);
    ring->seen = 0;
    io_uring_for_each_cqe(&ring->ring, head, cqe) {
        if (count == capacity)
            break;
        ring->seen++;
        if (cqe->user_data & WATCH_BIT)
            count += uring_watch_fired(ring, cqe, &out[count]);
        else if (cqe->user_data != 0)
            out[count++] = (struct uring_completion){(int64_t)cqe->user_data, cqe->res, cqe->flags};
    }
    if (count == 0)
        uring_advance(ring);
    return count != 0 ? (int)count : error;
}

void uring_advance(struct uring *ring)
{
    io_uring_cq_advance(&ring->ring, ring->seen);
    ring->seen = 0;
}

uint64_t uring_last(const struct uring *ring)
{
    return ring->last;
}

/* ---- operations ------------------------------------------------------------------------------------------------ */

int uring_take(struct uring *ring, uint64_t number, struct io_uring_sqe **sqe)
{
    *sqe = io_uring_get_sqe(&ring->ring);
    if (*sqe == NULL) {
        int submitted;

        if (ring->chain != NULL)
            return -E2BIG; /* submitting would cut the chain */
        submitted = io_uring_submit(&ring->ring);
        if (submitted < 0)
            return submitted;
        *sqe = io_uring_get_sqe(&ring->ring);
        if (*sqe == NULL)
            return -EBUSY;
    }
    (*sqe)->user_data = number;
    ring->last = number;
    if (ring->linking) {
        /* Of the one before, which is filled in by now. */
        if (ring->chain != NULL)
            ring->chain->flags |= IOSQE_IO_LINK;
        ring->chain = *sqe;
    }
    return 0;
}

int uring_link_begin(struct uring *ring, unsigned count)
{
    if (count > ring->ring.sq.ring_entries)
        return -E2BIG;
    if (io_uring_sq_space_left(&ring->ring) < count) {
        int submitted = io_uring_submit(&ring->ring);

        if (submitted < 0)
            return submitted;
        if (io_uring_sq_space_left(&ring->ring) < count)
            return -EBUSY;
    }
    ring->linking = true;
    return 0;
}

void uring_link_end(struct uring *ring)
{
    ring->linking = false;
    ring->chain = NULL;
}

int uring_nop(struct uring *ring, uint64_t number)
{
    struct io_uring_sqe *sqe;
    int error = uring_take(ring, number, &sqe);

    if (error == 0)
        io_uring_prep_nop(sqe);
    return error;
}

int uring_read(struct uring *ring, uint64_t number, int fd, void *buffer, uint32_t length, int64_t offset)
{
    struct io_uring_sqe *sqe;
    int error = uring_take(ring, number, &sqe);

    if (error == 0)
        io_uring_prep_read(sqe, fd, buffer, length, (uint64_t)offset);
    return error;
}

int uring_write(struct uring *ring, uint64_t number, int fd, const void *buffer, uint32_t length, int64_t offset)
{
    struct io_uring_sqe *sqe;
    int error = uring_take(ring, number, &sqe);

    if (error == 0)
        io_uring_prep_write(sqe, fd, buffer, length, (uint64_t)offset);
    return error;
}

int uring_timeout(struct uring *ring, uint64_t number, int64_t nanoseconds)
{
    struct io_uring_sqe *sqe;
    int error = uring_take(ring, number, &sqe);

    if (error == 0) {
        struct __kernel_timespec *span = &ring->timeouts[sqe - ring->ring.sq.sqes];

        span->tv_sec = nanoseconds / 1000000000;
        span->tv_nsec = nanoseconds % 1000000000;
        /* Count 0: only time ends it, not other completions. */
        io_uring_prep_timeout(sqe, span, 0, 0);
    }
    return error;
}

int uring_poll(struct uring *ring, uint64_t number, int fd, uint32_t mask)
{
    struct io_uring_sqe *sqe;
    int error = uring_take(ring, number, &sqe);

    if (error == 0)
        io_uring_prep_poll_add(sqe, fd, mask);
    return error;
}

/* The SQE of IORING_OP_FUTEX_WAIT and _WAKE (Linux 6.7, io_uring/futex.c): futex2 flags in fd, the mask in addr3. */
static void prepare_futex(struct io_uring_sqe *sqe, int opcode, uint64_t address, uint32_t value, int shared)
{
    io_uring_prep_rw(opcode, sqe, FUTEX2_SIZE_U32 | (shared ? 0 : FUTEX2_PRIVATE), NULL, 0, value);
    sqe->addr = address;
    sqe->addr3 = FUTEX_BITSET_MATCH_ANY;
}

int uring_futex_wait(struct uring *ring, uint64_t number, uint64_t address, uint32_t value, int shared)
{
    struct io_uring_sqe *sqe;
    int error = uring_take(ring, number, &sqe);

    if (error == 0)
        prepare_futex(sqe, IORING_OP_FUTEX_WAIT, address, value, shared);
    return error;
}

int uring_futex_wake(struct uring *ring, uint64_t number, uint64_t address, uint32_t count, int shared)
{
    struct io_uring_sqe *sqe;
    int error = uring_take(ring, number, &sqe);

    if (error == 0)
        prepare_futex(sqe, IORING_OP_FUTEX_WAKE, address, count, shared);
    return error;
}

int uring_cancel(struct uring *ring, uint64_t number)
{
    struct io_uring_sqe *sqe;
    int error = uring_take(ring, 0, &sqe);

    if (error == 0)
        io_uring_prep_cancel64(sqe, number, 0);
    return error;
}
