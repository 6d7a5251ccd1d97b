/* SPDX-License-Identifier: MIT */
#include "uring_ring.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

/*
 * Watches: readiness of files, level-triggered as epoll's. A watch is armed with a one-shot poll; when that fired, the
 * next wait arms it again, where a file that is still ready fires again. Each poll has a generation in its user_data,
 * so that the completion of one that was given up is known for what it is, even if the fd stands for another file.
 */

static uint64_t poll_number(int fd, uint32_t generation)
{
    return WATCH_BIT | (uint64_t)generation << 32 | (uint32_t)fd;
}

static int make_room(struct uring *ring, unsigned fd)
{
    unsigned size = ring->watches_size != 0 ? ring->watches_size : 64;
    struct watch *watches;
    int *due;

    if (fd < ring->watches_size)
        return 0;
    while (size <= fd)
        size *= 2;
    watches = realloc(ring->watches, size * sizeof *watches);
    if (watches == NULL)
        return -ENOMEM;
    ring->watches = watches;
    due = realloc(ring->due, size * sizeof *due);
    if (due == NULL)
        return -ENOMEM;
    ring->due = due;
    memset(watches + ring->watches_size, 0, (size - ring->watches_size) * sizeof *watches);
    ring->watches_size = size;
    return 0;
}

static void make_due(struct uring *ring, int fd)
{
    struct watch *watch = &ring->watches[fd];

    watch->state = WATCH_DUE;
    if (!watch->listed) {
        watch->listed = true;
        ring->due[ring->due_count++] = fd;
    }
}

int uring_watch(struct uring *ring, int fd, uint32_t mask)
{
    struct watch *watch;
    int error;

    /* The poll would report a bad fd much later. */
    if (fcntl(fd, F_GETFD) < 0)
        return -errno;
    error = make_room(ring, (unsigned)fd);
    if (error != 0)
        return error;
    watch = &ring->watches[fd];
    /* Given up even if it asked for the same: the fd may stand for another file by now. */
    if (watch->state == WATCH_ARMED) {
        error = uring_cancel(ring, poll_number(fd, watch->generation));
        if (error != 0)
            return error;
    }
    watch->mask = mask;
    make_due(ring, fd);
    return 0;
}

int uring_unwatch(struct uring *ring, int fd)
{
    struct watch *watch;
    int error;

    if (fd < 0 || (unsigned)fd >= ring->watches_size)
        return 0;
    watch = &ring->watches[fd];
    if (watch->state == WATCH_ARMED) {
        error = uring_cancel(ring, poll_number(fd, watch->generation));
        if (error != 0)
            return error;
        /*
         * Not left for the next wait: the caller is about to close the file, and the poll holds it open. Submitting
         * runs the cancellation, and getting events the poll's own end, which puts the file.
         */
        error = io_uring_submit_and_get_events(&ring->ring);
        if (error < 0 && error != -EBUSY && error != -EAGAIN && error != -EINTR)
            return error;
    }
    watch->state = WATCH_IDLE;
    return 0;
}

void uring_arm_watches(struct uring *ring)
{
    while (ring->due_count != 0) {
        int fd = ring->due[ring->due_count - 1];
        struct watch *watch = &ring->watches[fd];

        if (watch->state == WATCH_DUE) {
            struct io_uring_sqe *sqe;
            uint32_t generation = (ring->generation + 1) & 0x7fffffff;

            /* No room, and the kernel takes nothing before completions were consumed: the rest stays due. */
            if (uring_take(ring, poll_number(fd, generation), &sqe) != 0)
                return;
            io_uring_prep_poll_add(sqe, fd, watch->mask);
            ring->generation = watch->generation = generation;
            watch->state = WATCH_ARMED;
        }
        watch->listed = false;
        ring->due_count--;
    }
}

bool uring_watch_fired(struct uring *ring, const struct io_uring_cqe *cqe, struct uring_completion *out)
{
    int fd = (int)(uint32_t)cqe->user_data;
    struct watch *watch = &ring->watches[fd];
    uint32_t ready = 0;

    if (watch->state != WATCH_ARMED || poll_number(fd, watch->generation) != cqe->user_data)
        return false;
    if (cqe->res == -EBADF) {
        /* Closed without being unregistered. epoll forgets such a file, and so do we. */
        watch->state = WATCH_IDLE;
        return false;
    }
    make_due(ring, fd);
    /* Not by us: the thread that armed it has ended, and the loop runs in another. */
    if (cqe->res == -ECANCELED)
        return false;
    /*
     * An error or a hang-up is for whoever is there, as in selectors.EpollSelector. So is a poll the kernel had no
     * memory for: the next system call on the file will find out.
     */
    if (cqe->res < 0 || (cqe->res & ~POLLOUT) != 0)
        ready |= POLLIN;
    if (cqe->res < 0 || (cqe->res & ~POLLIN) != 0)
        ready |= POLLOUT;
    *out = (struct uring_completion){.number = ~(int64_t)fd, .result = (int32_t)(ready & watch->mask)};
    return true;
}
