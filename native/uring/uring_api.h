/* SPDX-License-Identifier: MIT */
#ifndef AIORING_URING_API_H
#define AIORING_URING_API_H

/*
 * One io_uring instance as aioring sees it: operations are prepared under a number, and their completions come back in
 * batches under that number. This header is the only declaration of the interface: uring.c includes it, and
 * build_uring.py hands it to cffi without its preprocessor lines.
 *
 * Every function returns 0 or a count, or -errno. cffi drops the GIL around each call and none of them touches a Python
 * object. Buffers belong to the caller, who keeps them until the completion of their operation was seen. A ring is not
 * locked: one thread at a time, which the Python side checks.
 */
#include <stdint.h>

struct uring;

/*
 * A completion in a batch. Of an operation: its number, above 0, the result or -errno, and IORING_CQE_F_*. Of a watch:
 * the complement of the fd, below 0, and what of its mask is ready.
 */
struct uring_completion {
    int64_t number;
    int32_t result;
    uint32_t flags;
};

/* An operation this file can prepare: its name, the Linux version that brought it, and its opcode. */
struct uring_operation {
    const char *name;
    const char *since;
    uint8_t opcode;
};

/* What the kernel granted. */
struct uring_info {
    int fd;
    uint32_t features; /* IORING_FEAT_* */
    uint32_t completions; /* room in the completion queue */
};

/* Operation `index` of the table, NULL behind its end. */
const struct uring_operation *uring_operation(unsigned index);

/*
 * Makes a ring of `entries` SQEs and, unless 0, at least `completions` CQEs. A driving ring is waited on in
 * uring_wait() by the one thread that called uring_adopt(); any other is meant to be watched through its fd.
 */
int uring_open(struct uring **out, unsigned entries, unsigned completions, int driving);
void uring_info(const struct uring *ring, struct uring_info *out);
/* 1 where the kernel knows the operation, 0 where it does not. */
int uring_supports(const struct uring *ring, uint8_t opcode);

/* Frees the ring. Nothing with memory may be in flight: the kernel cancels what is left, but later. */
void uring_close(struct uring *ring);
/* Frees a ring inherited through fork() in the child, without touching what it shares with the parent. */
void uring_abandon(struct uring *ring);

/* The calling thread starts to drive the ring: enables it, and registers its fd with the thread; undone by leave. */
int uring_adopt(struct uring *ring);
void uring_leave(struct uring *ring);

/*
 * Arms the watches, submits what was prepared, waits up to `timeout` nanoseconds for a completion (0: not at all) and
 * copies up to `capacity` completions without consuming them: until uring_advance() the next call delivers them again
 * (of watches: the next poll). Returns how many; 0 after a timeout, a signal, or completions of no interest.
 */
int uring_wait(struct uring *ring, int64_t timeout, struct uring_completion *out, unsigned capacity);
void uring_advance(struct uring *ring);

/* The number under which an operation was prepared last: tells an interrupted caller whether it was. */
uint64_t uring_last(const struct uring *ring);

/*
 * Operations. Prepared only, except that a full submission queue is submitted first; -EBUSY: completions must be
 * consumed before the kernel accepts more; -EBADFD: a driving ring that no thread has adopted yet.
 */
int uring_nop(struct uring *ring, uint64_t number);
int uring_read(struct uring *ring, uint64_t number, int fd, void *buffer, uint32_t length, int64_t offset);
int uring_write(struct uring *ring, uint64_t number, int fd, const void *buffer, uint32_t length, int64_t offset);
int uring_timeout(struct uring *ring, uint64_t number, int64_t nanoseconds);
int uring_poll(struct uring *ring, uint64_t number, int fd, uint32_t mask);
int uring_futex_wait(struct uring *ring, uint64_t number, uint64_t address, uint32_t value, int shared);
int uring_futex_wake(struct uring *ring, uint64_t number, uint64_t address, uint32_t count, int shared);
/* Of files by descriptor. `fsync` with `data`: what is needed to read the data back, not times (fdatasync(2)). */
int uring_close_file(struct uring *ring, uint64_t number, int fd);
int uring_fsync(struct uring *ring, uint64_t number, int fd, int data);
int uring_fallocate(struct uring *ring, uint64_t number, int fd, int mode, uint64_t offset, uint64_t length);
int uring_ftruncate(struct uring *ring, uint64_t number, int fd, uint64_t length);
int uring_splice(
    struct uring *ring, uint64_t number, int in, int64_t in_offset, int out, int64_t out_offset, uint32_t length,
    uint32_t flags
);
/* Of files by name, which the caller keeps until it was submitted; relative to the directory `at`. */
int uring_openat(struct uring *ring, uint64_t number, int at, const char *path, int flags, uint32_t mode);
int uring_statx(
    struct uring *ring, uint64_t number, int at, const char *path, int flags, uint32_t mask, void *out
);
int uring_mkdirat(struct uring *ring, uint64_t number, int at, const char *path, uint32_t mode);
int uring_unlinkat(struct uring *ring, uint64_t number, int at, const char *path, int flags);
int uring_renameat(
    struct uring *ring, uint64_t number, int at, const char *path, int to_at, const char *to, uint32_t flags
);
int uring_linkat(
    struct uring *ring, uint64_t number, int at, const char *path, int to_at, const char *to, int flags
);
int uring_symlinkat(struct uring *ring, uint64_t number, const char *target, int at, const char *path);
/*
 * Sends on a socket without copying. Two completions: the count with IORING_CQE_F_MORE, and one when the kernel has let
 * go of the memory; one alone with an error.
 */
int uring_send_zc(struct uring *ring, uint64_t number, int fd, const void *data, uint32_t length, int flags);
/* waitid(2): `info` is a siginfo_t. */
int uring_waitid(struct uring *ring, uint64_t number, int kind, int id, void *info, int options);
/*
 * Operations prepared from here to uring_link_end() are linked: each starts when the one before it is done, and is
 * cancelled if that failed. `count`, how many there will be at most: room for them is made, so that they are submitted
 * together. -E2BIG: they never fit. Nothing else may be prepared or submitted in between.
 */
int uring_link_begin(struct uring *ring, unsigned count);
void uring_link_end(struct uring *ring);
/* Cancels operation `number`, which still completes by itself; the cancellation does not. */
int uring_cancel(struct uring *ring, uint64_t number);

/*
 * Watches, for an event loop: level-triggered readiness of `fd`. `mask` is POLLIN, POLLOUT or both. Watching again
 * replaces the mask, and the file if the fd stands for another one by now. A watched file is held open, unlike with
 * epoll: when unwatch returns it is not any more.
 */
int uring_watch(struct uring *ring, int fd, uint32_t mask);
int uring_unwatch(struct uring *ring, int fd);

#endif
