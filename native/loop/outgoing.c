/* SPDX-License-Identifier: MIT */
#include "outgoing.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* As many pieces as one sendmsg() gets; the kernel takes up to 1024 (IOV_MAX). */
#define PIECES 128

static int make_room(struct outgoing *outgoing)
{
    size_t capacity;
    struct piece *pieces;

    if (outgoing->head + outgoing->count < outgoing->capacity)
        return 0;
    if (outgoing->head != 0 && outgoing->count <= outgoing->capacity / 2) {
        memmove(outgoing->pieces, outgoing->pieces + outgoing->head, outgoing->count * sizeof *outgoing->pieces);
        outgoing->head = 0;
        return 0;
    }
    capacity = outgoing->capacity != 0 ? 2 * outgoing->capacity : 8;
    pieces = PyMem_Realloc(outgoing->pieces, capacity * sizeof(struct piece));
    if (pieces == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    outgoing->pieces = pieces;
    outgoing->capacity = capacity;
    return 0;
}

int outgoing_add(struct outgoing *outgoing, PyObject *data, const char *at, size_t size, size_t skip)
{
    PyObject *bytes;

    if (make_room(outgoing) != 0)
        return -1;
    at += skip;
    size -= skip;
    if (PyBytes_Check(data)) {
        bytes = Py_NewRef(data);
    } else {
        bytes = PyBytes_FromStringAndSize(at, (Py_ssize_t)size);
        if (bytes == NULL)
            return -1;
        at = PyBytes_AS_STRING(bytes);
    }
    outgoing->pieces[outgoing->head + outgoing->count++] = (struct piece){bytes, at, size};
    outgoing->size += size;
    return 0;
}

static void sent(struct outgoing *outgoing, size_t size)
{
    outgoing->size -= size;
    while (size != 0) {
        struct piece *piece = &outgoing->pieces[outgoing->head];

        if (size < piece->left) {
            piece->at += size;
            piece->left -= size;
            return;
        }
        size -= piece->left;
        outgoing->head++;
        outgoing->count--;
        Py_DECREF(piece->bytes); /* bytes: runs no code */
    }
    if (outgoing->count == 0)
        outgoing->head = 0;
}

ssize_t outgoing_send(struct outgoing *outgoing, int fd)
{
    struct iovec parts[PIECES];
    struct msghdr message = {.msg_iov = parts};
    ssize_t size;

    while (message.msg_iovlen < PIECES && message.msg_iovlen < outgoing->count) {
        struct piece *piece = &outgoing->pieces[outgoing->head + message.msg_iovlen];

        parts[message.msg_iovlen++] = (struct iovec){(void *)(uintptr_t)piece->at, piece->left};
    }
    size = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (size < 0)
        return -errno;
    sent(outgoing, (size_t)size);
    return size;
}

void outgoing_clear(struct outgoing *outgoing)
{
    for (size_t i = 0; i < outgoing->count; i++)
        Py_DECREF(outgoing->pieces[outgoing->head + i].bytes);
    PyMem_Free(outgoing->pieces);
    *outgoing = (struct outgoing){0};
}

int outgoing_traverse(struct outgoing *outgoing, visitproc visit, void *arg)
{
    for (size_t i = 0; i < outgoing->count; i++)
        Py_VISIT(outgoing->pieces[outgoing->head + i].bytes);
    return 0;
}
