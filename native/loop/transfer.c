/* SPDX-License-Identifier: MIT */
#include "transfer.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <unistd.h>

/*
 * A read or write of a file: a coroutine in C. What the page cache has is read at once, with preadv2(RWF_NOWAIT), and
 * does not suspend; everything else goes to the ring, until all is moved, the file ends, or it fails. A task gets
 * INLINE_MAX such reads in a row, then the others have their turn.
 *
 * Memory: the kernel has that of the caller from submission to completion. So a cancellation is passed on to the kernel
 * and takes effect when it has answered, and a coroutine that is dropped lives until then (the operation holds it).
 */
#define INLINE_MAX 8
/* A larger read holds up the loop for longer than a submission does. */
#define INLINE_SIZE (256 * 1024)
/* A larger one is the kernel's workers', who copy while the loop goes on: io_uring itself would copy in the loop. */
#define ASYNC_SIZE (1024 * 1024)
/* What one read or write moves at most (MAX_RW_COUNT, read(2)). */
#define LONGEST 0x7ffff000u

/* ---- the system calls ------------------------------------------------------------------------------------------------ */

static int64_t next_offset(const Transfer *transfer)
{
    return transfer->offset < 0 ? -1 : transfer->offset + (int64_t)transfer->done;
}

static int vectors_left(const Transfer *transfer)
{
    Py_ssize_t left = transfer->count - transfer->first;

    return (int)(left < IOV_MAX ? left : IOV_MAX);
}

/* What the page cache has; -EAGAIN: nothing, the ring is to read it. Holds the GIL, for as long as a copy takes. */
static ssize_t read_cached(Transfer *transfer)
{
    File *file = transfer->file;
    ssize_t size;

    size = preadv2(
        file->fd, &transfer->vectors[transfer->first], vectors_left(transfer), next_offset(transfer), RWF_NOWAIT
    );
    if (size >= 0)
        return size;
    /* The file system cannot tell: it is not asked again. */
    if (errno == EOPNOTSUPP)
        file->inline_reads = false;
    return errno == EOPNOTSUPP || errno == EINTR ? -EAGAIN : -errno;
}

static void prepare(struct operation *operation, struct io_uring_sqe *sqe)
{
    Transfer *transfer = (Transfer *)(void *)((char *)operation - offsetof(Transfer, operation));
    File *file = transfer->file;
    Core *core = file->core;
    struct iovec *vector = &transfer->vectors[transfer->first];
    unsigned size = (unsigned)(vector->iov_len < LONGEST ? vector->iov_len : LONGEST);
    uint64_t offset = (uint64_t)next_offset(transfer);
    int left = vectors_left(transfer);

    if (transfer->polling) {
        io_uring_prep_poll_add(sqe, file->fd, transfer_is_read(transfer) ? POLLIN : POLLOUT);
        return;
    }
    if (left == 1) {
        int index = registered_find_buffer(&core->registered, vector->iov_base, size);

        if (index >= 0 && transfer_is_read(transfer))
            io_uring_prep_read_fixed(sqe, file->fd, vector->iov_base, size, offset, index);
        else if (index >= 0)
            io_uring_prep_write_fixed(sqe, file->fd, vector->iov_base, size, offset, index);
        else if (transfer_is_read(transfer))
            io_uring_prep_read(sqe, file->fd, vector->iov_base, size, offset);
        else
            io_uring_prep_write(sqe, file->fd, vector->iov_base, size, offset);
    } else if (transfer_is_read(transfer)) {
        io_uring_prep_readv(sqe, file->fd, vector, (unsigned)left, offset);
    } else {
        io_uring_prep_writev(sqe, file->fd, vector, (unsigned)left, offset);
    }
    if (file->slot >= 0 && file->generation == core->registered.generation) {
        sqe->fd = file->slot;
        sqe->flags |= IOSQE_FIXED_FILE;
    }
    if (file->regular && !file->direct && transfer->wanted - transfer->done > ASYNC_SIZE)
        sqe->flags |= IOSQE_ASYNC;
}

/* ---- waiting --------------------------------------------------------------------------------------------------------- */

static void count(Transfer *transfer)
{
    if (!transfer->counted) {
        transfer->counted = true;
        transfer->file->in_flight++;
    }
}

static void uncount(Transfer *transfer)
{
    if (transfer->counted) {
        transfer->counted = false;
        file_transfer_ended(transfer->file);
    }
}

void file_transfer_ended(File *file)
{
    if (--file->in_flight == 0 && file->idle != NULL) {
        PyObject *idle = file->idle;

        file->idle = NULL;
        future_wake(idle);
        Py_DECREF(idle);
    }
}

static void completed(Core *Py_UNUSED(core), struct operation *operation, int32_t result, bool Py_UNUSED(more))
{
    Transfer *transfer = (Transfer *)(void *)((char *)operation - offsetof(Transfer, operation));

    transfer->result = result;
    if (transfer->state == DONE) {
        /* Dropped while it was in flight: nobody is left to wake. */
        uncount(transfer);
        transfer_release(transfer);
        return;
    }
    coroutine_wake((Coroutine *)transfer);
}

static PyObject *submit(Transfer *transfer)
{
    Core *core = transfer->file->core;
    PyObject *waiter;

    if (core->ring == NULL || core->shutting) {
        if (core->shutting)
            PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        else
            core_raise_no_ring(core);
        return NULL;
    }
    waiter = coroutine_wait((Coroutine *)transfer, core);
    if (waiter != NULL) {
        count(transfer);
        operation_start(core, &transfer->operation, (PyObject *)transfer);
    }
    return waiter;
}

/* ---- from begin to end ----------------------------------------------------------------------------------------------- */

static void raise_closed(void)
{
    PyErr_SetString(PyExc_ValueError, "I/O operation on closed file");
}

static int begin(Transfer *transfer)
{
    File *file = transfer->file;

    if (file->fd < 0 || file->closing) {
        raise_closed();
        return -1;
    }
    if (file->core->thread != PyThread_get_thread_ident()) {
        PyErr_SetString(loop_state.owner_error, "this file belongs to another loop, or its loop does not run here");
        return -1;
    }
    if (transfer->moves && file->seekable && !(file->appending && !transfer_is_read(transfer))) {
        transfer->offset = lseek(file->fd, 0, SEEK_CUR);
        if (transfer->offset < 0) {
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
    } else if (!transfer->moves && !file->seekable) {
        raise_errno(ESPIPE);
        return -1;
    }
    return 0;
}

/* Takes in a result of the kernel. 1: the transfer is over, 0: it goes on, -1: it failed, with an exception. */
static int take(Transfer *transfer, ssize_t result)
{
    File *file = transfer->file;
    PyObject *error;

    if (transfer->polling) {
        transfer->polling = false;
        if (result >= 0)
            return 0;
    }
    if (result > 0) {
        transfer_advance(transfer, (size_t)result);
        /* Behind a short read nothing is aligned any more. */
        return transfer->done == transfer->wanted || !file->regular || file->direct;
    }
    if (result == 0)
        return 1;
    if (result == -ECANCELED && transfer->thrown == NULL) {
        if (file->closing || file->fd < 0)
            raise_closed();
        else
            PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        return -1;
    }
    /* A worker of the kernel was interrupted. */
    if (result == -EINTR)
        return 0;
    if (result == -EAGAIN) {
        transfer->polling = true;
        return 0;
    }
    /* What was read is given; the next read meets the error again. */
    if (transfer->kind == TRANSFER_READ && transfer->done != 0)
        return 1;
    raise_errno((int)-result);
    if (transfer->done != 0 && (error = exception_take()) != NULL) {
        PyObject *done = PyLong_FromSize_t(transfer->done);

        if (done != NULL && PyObject_SetAttr(error, loop_state.str_characters_written, done) == 0)
            PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_XDECREF(done);
        Py_DECREF(error);
    }
    return -1;
}

/* Tells in the exception that cancelled a write how much of it was written. */
static void annotate(Transfer *transfer)
{
    PyObject *done = PyLong_FromSize_t(transfer->done);
    PyObject *note;
    PyObject *added = NULL;

    if (done == NULL || PyObject_SetAttr(transfer->thrown, loop_state.str_characters_written, done) != 0)
        PyErr_Clear();
    Py_XDECREF(done);
    note = PyUnicode_FromFormat("%zu of %zu bytes were written", transfer->done, transfer->wanted);
    if (note != NULL)
        added = PyObject_CallMethodOneArg(transfer->thrown, loop_state.str_add_note, note);
    if (added == NULL)
        PyErr_Clear(); /* what cannot be annotated is raised as it is */
    Py_XDECREF(added);
    Py_XDECREF(note);
}

/* It is over, or given up. What the kernel still has stays until its completion. Keeps an exception that is set. */
static void finish(Transfer *transfer)
{
    File *file = transfer->file;
    PyObject *kind, *error, *traceback;

    PyErr_Fetch(&kind, &error, &traceback);

    if (transfer->state == RUNNING && transfer->moves && file->seekable && file->fd >= 0) {
        /* Behind what was read, and not behind what a cancelled read took along; behind what was written. */
        if (transfer->offset < 0) {
            if (transfer->done != 0)
                (void)lseek(file->fd, 0, SEEK_END);
        } else if (transfer->thrown == NULL || !transfer_is_read(transfer)) {
            (void)lseek(file->fd, next_offset(transfer), SEEK_SET);
        }
    }
    transfer->state = DONE;
    Py_CLEAR(transfer->waiter);
    if (transfer->operation.state != OPERATION_IDLE && file->core->ring != NULL)
        operation_stop(file->core, &transfer->operation);
    if (transfer->operation.state == OPERATION_IDLE) {
        uncount(transfer);
        transfer_release(transfer);
    }
    PyErr_Restore(kind, error, traceback);
}

static PyObject *make_result(Transfer *transfer)
{
    if (transfer->kind != TRANSFER_READ)
        return PyLong_FromSize_t(transfer->done);
    if (transfer->aligned != NULL)
        return PyBytes_FromStringAndSize(transfer->aligned, (Py_ssize_t)transfer->done);
    if (transfer->done != transfer->wanted && _PyBytes_Resize(&transfer->bytes, (Py_ssize_t)transfer->done) != 0)
        return NULL;
    return Py_NewRef(transfer->bytes);
}

/* Everything that can be done without waiting. As take(); YIELD: it may be more, but others have waited long enough. */
#define YIELD 2
static int go_on(Transfer *transfer)
{
    File *file = transfer->file;

    if (file->closing && !file->regular) {
        raise_closed();
        return -1;
    }
    while (transfer_is_read(transfer) && file->inline_reads && !transfer->polling &&
           transfer->wanted - transfer->done <= INLINE_SIZE) {
        ssize_t size;
        int over;

        if (file->core->inlined == INLINE_MAX)
            return YIELD;
        file->core->inlined++;
        size = read_cached(transfer);
        if (size == -EAGAIN)
            return 0;
        over = take(transfer, size);
        if (over != 0)
            return over;
    }
    return 0;
}

static PySendResult call_send(Transfer *transfer, PyObject *Py_UNUSED(value), PyObject **result)
{
    int over;

    *result = NULL;
    if (!coroutine_check((Coroutine *)transfer))
        return PYGEN_ERROR;
    if (transfer->operation.state == OPERATION_LOST) {
        finish(transfer);
        core_raise_no_ring(transfer->file->core);
        return PYGEN_ERROR;
    }
    if (transfer->operation.state != OPERATION_IDLE) {
        /* Woken by somebody else: it waits again. */
        *result = coroutine_wait((Coroutine *)transfer, transfer->file->core);
        return *result != NULL ? PYGEN_NEXT : PYGEN_ERROR;
    }
    if (transfer->state == NEW) {
        over = begin(transfer);
        if (over == 0) {
            transfer->state = RUNNING;
            over = transfer->wanted == 0 ? 1 : transfer_take_kept(transfer);
        }
    } else if (transfer->yielded) {
        transfer->yielded = false;
        over = 0;
    } else {
        over = take(transfer, transfer->result);
    }
    if (transfer->thrown != NULL) {
        PyErr_Clear();
        if (!transfer_is_read(transfer))
            annotate(transfer);
        transfer_keep(transfer);
        PyErr_Clear();
        finish(transfer);
        PyErr_SetObject((PyObject *)Py_TYPE(transfer->thrown), transfer->thrown);
        return PYGEN_ERROR;
    }
    if (over == 0)
        over = go_on(transfer);
    if (over == YIELD) {
        transfer->yielded = true;
        *result = Py_NewRef(Py_None);
        return PYGEN_NEXT;
    }
    if (over == 0) {
        *result = submit(transfer);
        if (*result != NULL)
            return PYGEN_NEXT;
        over = -1;
    }
    if (over == 1)
        *result = make_result(transfer);
    finish(transfer);
    return *result != NULL ? PYGEN_RETURN : PYGEN_ERROR;
}

/* ---- a coroutine ----------------------------------------------------------------------------------------------------- */

/* Raises what was thrown when the kernel has let go of the memory, which is at once if it never had it. */
static PyObject *call_throw(Transfer *transfer, PyObject *const *args, Py_ssize_t count)
{
    Core *core = transfer->file->core;

    (void)coroutine_raise(args, count);
    if (transfer->state != RUNNING || PyErr_ExceptionMatches(PyExc_GeneratorExit) || core->ring == NULL) {
        finish(transfer);
        return NULL;
    }
    if (transfer->thrown == NULL)
        transfer->thrown = exception_take();
    else
        PyErr_Clear();
    if (transfer->thrown == NULL)
        return NULL;
    operation_stop(core, &transfer->operation);
    if (transfer->operation.state != OPERATION_IDLE)
        return coroutine_wait((Coroutine *)transfer, core);
    /* Over: completed together with the cancellation, or never submitted. */
    if (transfer->waiter != NULL)
        transfer->result = -ECANCELED;
    return coroutine_next((PyObject *)transfer);
}

static PyObject *call_close(Transfer *transfer, PyObject *Py_UNUSED(unused))
{
    finish(transfer);
    Py_RETURN_NONE;
}

static int call_traverse(Transfer *transfer, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(transfer));
    Py_VISIT(transfer->file);
    Py_VISIT(transfer->waiter);
    Py_VISIT(transfer->thrown);
    for (Py_ssize_t i = 0; i < transfer->count && transfer->views != NULL; i++)
        Py_VISIT(transfer->views[i].obj);
    return 0;
}

static int call_clear(Transfer *transfer)
{
    Py_CLEAR(transfer->waiter);
    Py_CLEAR(transfer->thrown);
    if (transfer->operation.state == OPERATION_IDLE && transfer->state != NEW) {
        transfer->state = DONE;
        transfer_release(transfer);
    }
    return 0;
}

static void call_dealloc(Transfer *transfer)
{
    PyTypeObject *type = Py_TYPE(transfer);

    PyObject_GC_UnTrack(transfer);
    coroutine_warn((Coroutine *)transfer);
    if (transfer->file != NULL)
        finish(transfer);
    call_clear(transfer);
    Py_CLEAR(transfer->file);
    type->tp_free(transfer);
    Py_DECREF(type);
}

static PyMethodDef call_methods[] = COROUTINE_METHODS(call_throw, call_close);

static PyType_Slot call_slots[] = {
    {Py_tp_doc, "A coroutine: a read or write of a file."},
    {Py_tp_dealloc, call_dealloc},
    {Py_tp_traverse, call_traverse},
    {Py_tp_clear, call_clear},
    {Py_tp_methods, call_methods},
    {Py_am_send, call_send},
    COROUTINE_SLOTS,
    {0, NULL},
};

PyType_Spec transfer_spec = {
    .name = "aioring._loop.Transfer",
    .basicsize = sizeof(Transfer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = call_slots,
};

/* ---- for file.c ------------------------------------------------------------------------------------------------------ */

PyObject *
transfer_new(File *file, const char *name, enum transfer_kind kind, Py_ssize_t size, PyObject *buffers, bool many,
             int64_t offset)
{
    Transfer *transfer = (Transfer *)loop_state.transfer_type->tp_alloc(loop_state.transfer_type, 0);
    int error = 0;

    if (transfer == NULL)
        return NULL;
    transfer->file = (File *)Py_NewRef(file);
    transfer->name = name;
    transfer->kind = kind;
    transfer->offset = offset;
    transfer->moves = offset < 0;
    transfer->operation = (struct operation){.kind = OPERATION_TRANSFER, .prepare = prepare, .done = completed};
    transfer->views = &transfer->one;
    transfer->vectors = &transfer->vector;
    if (many) {
        error = transfer_take_buffers(transfer, buffers);
    } else if (kind != TRANSFER_READ) {
        error = transfer_take_buffer(transfer, buffers);
    } else {
        error = transfer_make_room(transfer, size);
    }
    if (error != 0) {
        transfer->state = DONE; /* one that failed to be made is not one that was never awaited */
        Py_CLEAR(transfer);
    }
    return (PyObject *)transfer;
}

void transfers_stop(File *file)
{
    struct operations *operations = &file->core->operations;
    struct operation *heads[] = {&operations->armed, &operations->due};

    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        struct operation *next;

        for (struct operation *each = heads[i]->next; each != heads[i]; each = next) {
            next = each->next;
            if (each->kind == OPERATION_TRANSFER && ((Transfer *)(void *)each->owner)->file == file &&
                each->state == OPERATION_ARMED)
                operation_stop(file->core, each);
        }
    }
}
