/* SPDX-License-Identifier: MIT */
#ifndef AIORING_LOOP_OPERATION_H
#define AIORING_LOOP_OPERATION_H

/*
 * Operations of native objects on the ring, found by their address in the completion's user_data. What has to outlive
 * the last completion is the struct, and for that the operation holds its owner. Only a transfer gives the kernel
 * memory, its owner's; the others poll, and accept, so that their owners may be done with them at any time.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>

struct Core;
struct io_uring_sqe;
struct operation;

/* A completion. `more`: there will be others; else the operation is idle again. Runs no Python code, does not fail. */
typedef void (*operation_done)(struct Core *core, struct operation *operation, int32_t result, bool more);

/* Fills in the SQE, but for its user_data. Runs no Python code. */
typedef void (*operation_prepare)(struct operation *operation, struct io_uring_sqe *sqe);

enum operation_kind { OPERATION_POLL, OPERATION_POLL_ONCE, OPERATION_ACCEPT, OPERATION_TRANSFER };

enum operation_state {
    OPERATION_IDLE,
    OPERATION_DUE, /* to be armed before the next wait */
    OPERATION_ARMED,
    OPERATION_UNWANTED, /* to be cancelled before the next wait */
    OPERATION_ENDING, /* cancelled: the last completion is to come */
    OPERATION_LOST, /* the last completion was to come when the ring went; of a transfer, and for good */
};

/* Embedded in its owner. All but `kind`, `prepare`, `fd`, `mask` and `done` belongs to operation.c. */
struct operation {
    struct operation *previous;
    struct operation *next;
    PyObject *owner; /* owned while not idle */
    operation_done done;
    operation_prepare prepare; /* of a transfer */
    uint32_t mask; /* of a poll: POLLIN, ... */
    int fd;
    enum operation_kind kind;
    enum operation_state state;
};

/* Those that wait for a submission, and those that the kernel has. */
struct operations {
    struct operation due;
    struct operation armed;
};

void operations_init(struct operations *operations);
/* Prepares what is due, as far as the queues have room. */
void operations_prepare(struct Core *core);
/* Starts an idle operation; does nothing if it runs. */
void operation_start(struct Core *core, struct operation *operation, PyObject *owner);
/* Ends it soon: the kernel holds the file until the next time it is entered. */
void operation_stop(struct Core *core, struct operation *operation);
/* Ends it now: when this returns, the kernel has let go of the file. 0 or -errno. */
int operation_stop_now(struct Core *core, struct operation *operation);
void operation_completed(struct Core *core, struct operation *operation, int32_t result, uint32_t flags);
/* There is a new ring: starts everything again. */
void operations_again(struct Core *core);
/* The loop closes: stops everything, and starts nothing more. */
void operations_stop(struct Core *core);
/* How many transfers were started and have not ended. */
Py_ssize_t operations_transfers(const struct operations *operations);
/* The ring is gone, and everything with it. */
void operations_forget(struct Core *core);
int operations_traverse(struct operations *operations, visitproc visit, void *arg);

#endif
