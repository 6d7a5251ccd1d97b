/* SPDX-License-Identifier: MIT */
#ifndef AIORING_LOOP_FILE_H
#define AIORING_LOOP_FILE_H

/*
 * Files on the ring. A File owns a descriptor and counts the transfers that are in flight on it; a Transfer
 * (transfer.c) is the coroutine that its methods return, and owns or exports the memory that the kernel has.
 */
#include "core.h"

#include <sys/uio.h>

typedef struct File {
    PyObject_HEAD
    Core *core;
    PyObject *idle; /* the future that close() waits for: done when nothing is in flight. NULL: nobody asks */
    PyObject *kept; /* bytes that a cancelled read had read already, where they cannot be read again; NULL: none */
    Py_ssize_t in_flight; /* transfers that wait for the kernel */
    uint32_t generation; /* of the core's tables (registered.c) that `slot` is an index of */
    int slot; /* in the table of fixed files; -1: none */
    int fd; /* -1: closed, or not open yet */
    char readable;
    char writable;
    char appending;
    char seekable;
    char regular; /* a transfer goes on until all is moved or the file ends */
    char direct; /* O_DIRECT: a read waits for the device, even if it was asked not to */
    char inline_reads; /* preadv2(RWF_NOWAIT) may succeed */
    char closing;
} File;

extern PyType_Spec file_spec;
extern PyType_Spec transfer_spec;

enum transfer_kind { TRANSFER_READ, TRANSFER_READ_INTO, TRANSFER_WRITE };

/*
 * A coroutine that moves bytes between a file and memory, at `offset`, or at the file's position if that is -1: READ
 * gives `size` bytes or fewer as bytes, the others take `buffers`, one object or (`many`) a sequence of them, and give
 * a count. NULL with an exception.
 */
PyObject *
transfer_new(File *file, const char *name, enum transfer_kind kind, Py_ssize_t size, PyObject *buffers, bool many,
             int64_t offset);
/* Cancels what is in flight on a file, without waiting. */
void transfers_stop(File *file);
/* The file's transfer ended; Python code that waits for the last one is told. */
void file_transfer_ended(File *file);

#endif
