/* SPDX-License-Identifier: MIT */
#include "transfer.h"

#include <stdlib.h>
#include <string.h>

/* The memory that a transfer moves bytes from and to: bytes of its own, or the caller's buffers. */

/* Enough for every device: none has larger blocks than a page. */
#define DIRECT_ALIGNMENT 4096

void transfer_release(Transfer *transfer)
{
    Py_buffer *views = transfer->views;
    Py_ssize_t count = transfer->count;

    if (transfer->vectors != &transfer->vector)
        PyMem_Free(transfer->vectors);
    transfer->vectors = NULL;
    transfer->views = NULL;
    transfer->count = 0;
    for (Py_ssize_t i = 0; views != NULL && i < count; i++)
        PyBuffer_Release(&views[i]);
    if (views != &transfer->one)
        PyMem_Free(views);
    Py_CLEAR(transfer->bytes);
    free(transfer->aligned);
    transfer->aligned = NULL;
}

int transfer_make_room(Transfer *transfer, Py_ssize_t size)
{
    void *start;

    if (transfer->file->direct) {
        if (posix_memalign(&transfer->aligned, DIRECT_ALIGNMENT, (size_t)size + 1) != 0) {
            transfer->aligned = NULL;
            PyErr_NoMemory();
            return -1;
        }
        start = transfer->aligned;
    } else {
        transfer->bytes = PyBytes_FromStringAndSize(NULL, size);
        if (transfer->bytes == NULL)
            return -1;
        start = PyBytes_AS_STRING(transfer->bytes);
    }
    transfer->vector = (struct iovec){.iov_base = start, .iov_len = (size_t)size};
    transfer->count = 1; /* no view: `one` stays empty */
    transfer->wanted = (size_t)size;
    return 0;
}

static int take_one(Transfer *transfer, Py_ssize_t index, PyObject *object)
{
    Py_buffer *view = &transfer->views[index];

    if (PyObject_GetBuffer(object, view, transfer_is_read(transfer) ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0)
        return -1;
    transfer->count = index + 1;
    transfer->vectors[index] = (struct iovec){.iov_base = view->buf, .iov_len = (size_t)view->len};
    transfer->wanted += (size_t)view->len;
    return 0;
}

int transfer_take_buffer(Transfer *transfer, PyObject *buffer)
{
    return take_one(transfer, 0, buffer);
}

int transfer_take_buffers(Transfer *transfer, PyObject *buffers)
{
    PyObject *items = PySequence_Fast(buffers, "a sequence of buffers is required");
    int error = -1;

    if (items == NULL)
        return -1;
    transfer->views = PyMem_New(Py_buffer, (size_t)PySequence_Fast_GET_SIZE(items) + 1);
    transfer->vectors = PyMem_New(struct iovec, (size_t)PySequence_Fast_GET_SIZE(items) + 1);
    if (transfer->views == NULL || transfer->vectors == NULL) {
        PyErr_NoMemory();
        goto out;
    }
    /* A list may change while an object is asked for its buffer. Py_buffers stay where they are: it is not regrown. */
    for (Py_ssize_t i = 0, count = PySequence_Fast_GET_SIZE(items); i < count; i++) {
        PyObject *item = i < PySequence_Fast_GET_SIZE(items) ? Py_NewRef(PySequence_Fast_GET_ITEM(items, i)) : NULL;

        if (item == NULL)
            break;
        error = take_one(transfer, i, item);
        Py_DECREF(item);
        if (error != 0)
            goto out;
    }
    error = 0;
out:
    Py_DECREF(items);
    return error;
}

void transfer_advance(Transfer *transfer, size_t size)
{
    transfer->done += size;
    while (transfer->first < transfer->count) {
        struct iovec *vector = &transfer->vectors[transfer->first];

        if (size < vector->iov_len) {
            vector->iov_base = (char *)vector->iov_base + size;
            vector->iov_len -= size;
            return;
        }
        size -= vector->iov_len;
        transfer->first++;
    }
}

/* The start of the memory of a transfer at the position, which has one vector. */
static char *start_of(const Transfer *transfer)
{
    if (transfer->aligned != NULL)
        return transfer->aligned;
    return transfer->bytes != NULL ? PyBytes_AS_STRING(transfer->bytes) : transfer->one.buf;
}

void transfer_keep(Transfer *transfer)
{
    File *file = transfer->file;
    PyObject *data;

    if (!transfer_is_read(transfer) || file->seekable || transfer->done == 0)
        return;
    data = PyBytes_FromStringAndSize(start_of(transfer), (Py_ssize_t)transfer->done);
    if (file->kept == NULL)
        file->kept = data;
    else
        PyBytes_ConcatAndDel(&file->kept, data);
}

int transfer_take_kept(Transfer *transfer)
{
    File *file = transfer->file;
    PyObject *kept = file->kept;
    PyObject *rest = NULL;
    Py_ssize_t left;
    size_t size;

    if (kept == NULL || !transfer_is_read(transfer) || transfer->wanted == 0)
        return 0;
    left = PyBytes_GET_SIZE(kept) - (Py_ssize_t)transfer->wanted;
    size = left < 0 ? (size_t)PyBytes_GET_SIZE(kept) : transfer->wanted;
    if (left > 0 && (rest = PyBytes_FromStringAndSize(PyBytes_AS_STRING(kept) + size, left)) == NULL)
        return -1;
    memcpy(start_of(transfer), PyBytes_AS_STRING(kept), size);
    transfer->done = size;
    file->kept = rest;
    Py_DECREF(kept);
    return 1;
}
