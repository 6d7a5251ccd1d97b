/* SPDX-License-Identifier: MIT */
/*
 * The peer of benchmarks/files.py: transfers PATH read|direct|write CONCURRENCY COUNT
 *
 * Reads or writes blocks of 4 KiB at random places of a file, COUNT in all and CONCURRENCY at a time, through io_uring:
 * submits all that can be, waits for one, takes in all that ended. Prints the
 * nanoseconds that it took, by the clock and of processors.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <liburing.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define BLOCK 4096

static uint64_t state = 88172645463325252u;

static uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int64_t now(clockid_t clock)
{
    struct timespec time;

    clock_gettime(clock, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

int main(int argc, char **argv)
{
    struct io_uring_params parameters = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
    };
    struct io_uring ring;
    struct stat status;
    unsigned concurrency, count, begun = 0, ended = 0;
    bool writes;
    char *buffers;
    int64_t start, spent;
    int fd;

    if (argc != 5)
        return 2;
    writes = strcmp(argv[2], "write") == 0;
    concurrency = (unsigned)atoi(argv[3]);
    count = (unsigned)atoi(argv[4]);
    fd = open(argv[1], (writes ? O_RDWR : O_RDONLY) | (strcmp(argv[2], "direct") == 0 ? O_DIRECT : 0));
    if (fd < 0 || fstat(fd, &status) != 0)
        fail(argv[1]);
    if (posix_memalign((void **)&buffers, BLOCK, (size_t)concurrency * BLOCK) != 0)
        fail("memory");
    memset(buffers, 1, (size_t)concurrency * BLOCK);
    if (io_uring_queue_init_params(concurrency, &ring, &parameters) != 0)
        fail("io_uring_queue_init_params");
    start = now(CLOCK_MONOTONIC);
    spent = now(CLOCK_PROCESS_CPUTIME_ID);
    for (unsigned slot = 0; ended < count;) {
        struct io_uring_cqe *cqe;
        unsigned head, seen = 0;

        /* The first of each slot; then each that ended has put the next in its place. */
        for (; slot < concurrency && begun < count; slot++, begun++) {
            struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
            uint64_t offset = next() % (uint64_t)(status.st_size / BLOCK) * BLOCK;

            io_uring_prep_rw(writes ? IORING_OP_WRITE : IORING_OP_READ, sqe, fd, buffers + slot * BLOCK, BLOCK, offset);
            io_uring_sqe_set_data64(sqe, slot);
        }
        if (io_uring_submit_and_wait(&ring, 1) < 0)
            fail("io_uring_submit_and_wait");
        io_uring_for_each_cqe(&ring, head, cqe) {
            uint64_t its = cqe->user_data;

            if (cqe->res != BLOCK)
                fail("a short transfer");
            seen++;
            ended++;
            if (begun < count) {
                struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
                uint64_t offset = next() % (uint64_t)(status.st_size / BLOCK) * BLOCK;

                if (sqe == NULL)
                    fail("the queue is full");
                io_uring_prep_rw(
                    writes ? IORING_OP_WRITE : IORING_OP_READ, sqe, fd, buffers + its * BLOCK, BLOCK, offset
                );
                io_uring_sqe_set_data64(sqe, its);
                begun++;
            }
        }
        io_uring_cq_advance(&ring, seen);
    }
    printf(
        "%lld %lld\n", (long long)(now(CLOCK_MONOTONIC) - start), (long long)(now(CLOCK_PROCESS_CPUTIME_ID) - spent)
    );
    return 0;
}
