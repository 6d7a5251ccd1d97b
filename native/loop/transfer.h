/* SPDX-License-Identifier: MIT */
#ifndef AIORING_LOOP_TRANSFER_H
#define AIORING_LOOP_TRANSFER_H

/* The inside of a transfer, shared by transfer.c and transfer_memory.c. */
#include "coroutine.h"
#include "file.h"

typedef struct Transfer {
    COROUTINE_HEAD
    File *file;
    PyObject *thrown; /* what cancelled it, raised when the kernel has let go; NULL: nothing did */
    PyObject *bytes; /* of READ */
    void *aligned; /* of READ, instead: O_DIRECT wants its memory aligned */
    Py_buffer *views; /* of the others; `one` if there is one */
    struct iovec *vectors; /* what is left to move; `vector` if there is one */
    Py_ssize_t count;
    Py_ssize_t first; /* of the vectors: those before it are done */
    struct operation operation;
    Py_buffer one;
    struct iovec vector;
    size_t wanted;
    size_t done;
    int64_t offset; /* where it began; -1: the file has no position */
    int32_t result; /* of the operation */
    enum transfer_kind kind;
    bool moves; /* the file's position */
    bool polling; /* the operation is a poll: the file said EAGAIN */
    bool counted; /* in file->in_flight */
    bool yielded; /* to the other tasks, for once */
} Transfer;

static inline bool transfer_is_read(const Transfer *transfer)
{
    return transfer->kind != TRANSFER_WRITE;
}

/* Makes the memory of a READ. 0, or -1 with an exception. */
int transfer_make_room(Transfer *transfer, Py_ssize_t size);
/* Takes the caller's buffer, or a sequence of them. 0, or -1 with an exception; may run Python code. */
int transfer_take_buffer(Transfer *transfer, PyObject *buffer);
int transfer_take_buffers(Transfer *transfer, PyObject *buffers);
/* Lets go of the memory; only while the kernel has none of it. May run Python code (__release_buffer__). */
void transfer_release(Transfer *transfer);
/* Takes in that so many bytes were moved. */
void transfer_advance(Transfer *transfer, size_t size);
/*
 * A read was cancelled when the kernel had read already, from a file that has no position to read it at again: the next
 * read gets it. Without memory for it it is lost, and an exception set.
 */
void transfer_keep(Transfer *transfer);
/* Takes what was kept. 1: there was something, 0: there was not, -1 with an exception. */
int transfer_take_kept(Transfer *transfer);

#endif
