/* SPDX-License-Identifier: MIT */
#include "uring_ring.h"

/* Operations of files, sockets and processes that take a while: all but reading and writing. */

int uring_close_file(struct uring *ring, uint64_t number, int fd)
{
    struct io_uring_sqe *sqe;
    int error = uring_take(ring, number, &sqe);

    if (error == 0)
        io_uring_prep_close(sqe, fd);
    return error;
}

int uring_fsync(struct uring *ring, uint64_t number, int fd, int data)
{
    struct io_uring_sqe *sqe;
    int error = uring_take(ring, number, &sqe);

    if (error == 0)
        io_uring_prep_fsync(sqe, fd, data ? IORING_FSYNC_DATASYNC : 0);
    return error;
}

int uring_fallocate(struct uring *ring, uint64_t number, int fd, int mode, uint64_t offset, uint64_t length)
{
    struct io_uring_sqe *sqe;
    int error = uring_take(ring, number, &sqe);

    if (error == 0) {
        /* By hand: the parameters of io_uring_prep_fallocate() differ between versions of liburing. */
        io_uring_prep_rw(IORING_OP_FALLOCATE, sqe, fd, NULL, (unsigned)mode, offset);
        sqe->addr = length;
    }
    return error;
}

int uring_ftruncate(struct uring *ring, uint64_t number, int fd, uint64_t length)
{
    struct io_uring_sqe *sqe;
    int error = uring_take(ring, number, &sqe);

    if (error == 0)
        io_uring_prep_rw(IORING_OP_FTRUNCATE, sqe, fd, NULL, 0, length);
    return error;
}

int uring_splice(
    struct uring *ring, uint64_t number, int in, int64_t in_offset, int out, int64_t out_offset, uint32_t length,
    uint32_t flags
)
{
    struct io_uring_sqe *sqe;
    int error = uring_take(ring, number, &sqe);

    if (error == 0)
        io_uring_prep_splice(sqe, in, in_offset, out, out_offset, length, flags);
    return error;
}

int uring_openat(struct uring *ring, uint64_t number, int at, const char *path, int flags, uint32_t mode)
{
    struct io_uring_sqe *sqe;
    int error = uring_take(ring, number, &sqe);

    if (error == 0)
        io_uring_prep_openat(sqe, at, path, flags, mode);
    return error;
}

int uring_statx(struct uring *ring, uint64_t number, int at, const char *path, int flags, uint32_t mask, void *out)
{
    struct io_uring_sqe *sqe;
    int error = uring_take(ring, number, &sqe);

    if (error == 0)
        io_uring_prep_statx(sqe, at, path, flags, mask, out);
    return error;
}

int uring_mkdirat(struct uring *ring, uint64_t number, int at, const char *path, uint32_t mode)
{
    struct io_uring_sqe *sqe;
    int error = uring_take(ring, number, &sqe);

    if (error == 0)
        io_uring_prep_mkdirat(sqe, at, path, mode);
    return error;
}

int uring_unlinkat(struct uring *ring, uint64_t number, int at, const char *path, int flags)
{
    struct io_uring_sqe *sqe;
    int error = uring_take(ring, number, &sqe);

    if (error == 0)
        io_uring_prep_unlinkat(sqe, at, path, flags);
    return error;
}

int uring_renameat(
    struct uring *ring, uint64_t number, int at, const char *path, int to_at, const char *to, uint32_t flags
)
{
    struct io_uring_sqe *sqe;
    int error = uring_take(ring, number, &sqe);

    if (error == 0) {
        /* By hand: whether the flags are signed differs between versions of liburing. */
        io_uring_prep_rw(IORING_OP_RENAMEAT, sqe, at, path, (uint32_t)to_at, (uint64_t)(uintptr_t)to);
        sqe->rename_flags = flags;
    }
    return error;
}

int uring_linkat(
    struct uring *ring, uint64_t number, int at, const char *path, int to_at, const char *to, int flags
)
{
    struct io_uring_sqe *sqe;
    int error = uring_take(ring, number, &sqe);

    if (error == 0)
        io_uring_prep_linkat(sqe, at, path, to_at, to, flags);
    return error;
}

int uring_symlinkat(struct uring *ring, uint64_t number, const char *target, int at, const char *path)
{
    struct io_uring_sqe *sqe;
    int error = uring_take(ring, number, &sqe);

    if (error == 0)
        io_uring_prep_symlinkat(sqe, target, at, path);
    return error;
}

/* The SQE of IORING_OP_WAITID (Linux 6.7, io_uring/waitid.c): the kind of id in len, the options in file_index. */
int uring_waitid(struct uring *ring, uint64_t number, int kind, int id, void *info, int options)
{
    struct io_uring_sqe *sqe;
    int error = uring_take(ring, number, &sqe);

    if (error == 0) {
        io_uring_prep_rw(IORING_OP_WAITID, sqe, id, NULL, (unsigned)kind, 0);
        sqe->file_index = (uint32_t)options;
        sqe->addr2 = (uint64_t)(uintptr_t)info;
    }
    return error;
}

int uring_send_zc(struct uring *ring, uint64_t number, int fd, const void *data, uint32_t length, int flags)
{
    struct io_uring_sqe *sqe;
    int error = uring_take(ring, number, &sqe);

    if (error == 0)
        io_uring_prep_send_zc(sqe, fd, data, length, flags, 0);
    return error;
}
