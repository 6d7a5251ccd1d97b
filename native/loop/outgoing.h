/* SPDX-License-Identifier: MIT */
#ifndef AIORING_LOOP_OUTGOING_H
#define AIORING_LOOP_OUTGOING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <sys/types.h>

/* What a socket did not take yet: bytes objects in order, held rather than copied. */
struct piece {
    PyObject *bytes;
    const char *at;
    size_t left;
};

struct outgoing {
    struct piece *pieces;
    size_t head;
    size_t count;
    size_t capacity;
    size_t size; /* bytes in all */
};

/* Appends what follows the first `skip` bytes of `data`; bytes are held, anything else is copied, as it may change. */
int outgoing_add(struct outgoing *outgoing, PyObject *data, const char *at, size_t size, size_t skip);
/* One sendmsg(2) of as much as there is: how much was sent, or -errno. */
ssize_t outgoing_send(struct outgoing *outgoing, int fd);
void outgoing_clear(struct outgoing *outgoing);
int outgoing_traverse(struct outgoing *outgoing, visitproc visit, void *arg);

#endif
