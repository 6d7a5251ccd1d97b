/* SPDX-License-Identifier: MIT */
#include "core.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * A listening socket under a multishot accept: the kernel accepts, and completions bring the fds. Those that come while
 * the listener stops, or that nobody asks for any more, are closed.
 */
typedef struct Listener {
    PyObject_HEAD
    Core *core;
    PyObject *on_accepted;
    PyObject *on_failed;
    PyObject *context; /* in which they are called */
    struct operation accept;
    int *accepted; /* not handed out yet */
    size_t count;
    size_t capacity;
    int failure; /* errno */
    bool stopped;
    bool queued;
} Listener;

static void accept_done(Core *core, struct operation *operation, int32_t result, bool more)
{
    Listener *listener = (Listener *)(void *)((char *)operation - offsetof(Listener, accept));

    if (listener->stopped || core->shutting) {
        if (result >= 0)
            close(result);
        return;
    }
    if (result >= 0) {
        if (listener->count == listener->capacity) {
            size_t capacity = listener->capacity != 0 ? 2 * listener->capacity : 16;
            int *accepted = PyMem_Realloc(listener->accepted, capacity * sizeof(int));

            if (accepted == NULL) {
                close(result);
                PyErr_NoMemory();
                return;
            }
            listener->accepted = accepted;
            listener->capacity = capacity;
        }
        listener->accepted[listener->count++] = result;
    } else if (result != -ECONNABORTED && result != -EINTR && result != -EAGAIN && result != -ECANCELED) {
        listener->failure = -result;
    }
    /* The kernel stops at every error, and when the completion queue is full. */
    if (!more && listener->failure == 0)
        operation_start(core, operation, (PyObject *)listener);
    if (!listener->queued && (listener->count != 0 || listener->failure != 0)) {
        listener->queued = true;
        (void)ready_push(&core->ready, (PyObject *)listener);
    }
}

static void close_accepted(Listener *listener)
{
    while (listener->count != 0)
        close(listener->accepted[--listener->count]);
}

int listener_run(PyObject *object, Core *core)
{
    Listener *listener = (Listener *)object;
    size_t count = listener->count;
    int *accepted = listener->accepted;
    int failure = listener->failure;
    PyObject *context = Py_NewRef(listener->context);
    int result = PyContext_Enter(context);

    listener->queued = false;
    listener->failure = 0;
    /* Taken out, as the callbacks may stop the listener, and raise. */
    listener->accepted = NULL;
    listener->count = listener->capacity = 0;
    for (size_t i = 0; i < count; i++) {
        PyObject *done;

        if (result != 0 || listener->stopped || core->closed) {
            close(accepted[i]);
            continue;
        }
        /* From here the fd is the callee's, whatever happens. */
        done = PyObject_CallFunction(listener->on_accepted, "i", accepted[i]);
        Py_XDECREF(done);
        if (done == NULL)
            result = -1;
    }
    PyMem_Free(accepted);
    if (result == 0 && failure != 0 && !listener->stopped) {
        PyObject *done = PyObject_CallFunction(listener->on_failed, "i", failure);

        Py_XDECREF(done);
        if (done == NULL)
            result = -1;
    }
    if (PyContext_Exit(context) != 0)
        result = -1;
    Py_DECREF(context);
    return result;
}

/* ---- the type ------------------------------------------------------------------------------------------------------- */

PyObject *core_listen(Core *core, PyObject *const *args, Py_ssize_t count)
{
    Listener *listener;
    int fd;

    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "_listen(fd, on_accepted, on_failed)");
        return NULL;
    }
    fd = PyObject_AsFileDescriptor(args[0]);
    if (fd < 0)
        return NULL;
    if (core->ring == NULL) {
        core_raise_no_ring(core);
        return NULL;
    }
    listener = (Listener *)loop_state.listener_type->tp_alloc(loop_state.listener_type, 0);
    if (listener == NULL)
        return NULL;
    listener->core = (Core *)Py_NewRef(core);
    listener->on_accepted = Py_NewRef(args[1]);
    listener->on_failed = Py_NewRef(args[2]);
    listener->context = PyContext_CopyCurrent();
    if (listener->context == NULL) {
        Py_DECREF(listener);
        return NULL;
    }
    listener->accept = (struct operation){.kind = OPERATION_ACCEPT, .fd = fd, .done = accept_done};
    operation_start(core, &listener->accept, (PyObject *)listener);
    return (PyObject *)listener;
}

static PyObject *listener_stop(Listener *listener, PyObject *Py_UNUSED(unused))
{
    int error = 0;

    if (listener->stopped)
        Py_RETURN_NONE;
    listener->stopped = true;
    close_accepted(listener);
    /* Now: the caller is about to close the socket, and its address is to be free when it did. */
    if (listener->core->ring != NULL)
        error = operation_stop_now(listener->core, &listener->accept);
    return error == 0 ? Py_NewRef(Py_None) : raise_errno(-error);
}

static PyObject *listener_again(Listener *listener, PyObject *Py_UNUSED(unused))
{
    if (!listener->stopped && listener->core->ring != NULL)
        operation_start(listener->core, &listener->accept, (PyObject *)listener);
    Py_RETURN_NONE;
}

static int listener_traverse(Listener *listener, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(listener));
    Py_VISIT(listener->core);
    Py_VISIT(listener->on_accepted);
    Py_VISIT(listener->on_failed);
    Py_VISIT(listener->context);
    return 0;
}

static int listener_clear(Listener *listener)
{
    Py_CLEAR(listener->on_accepted);
    Py_CLEAR(listener->on_failed);
    return 0;
}

static void listener_dealloc(Listener *listener)
{
    PyTypeObject *type = Py_TYPE(listener);

    PyObject_GC_UnTrack(listener);
    close_accepted(listener);
    PyMem_Free(listener->accepted);
    listener_clear(listener);
    Py_XDECREF(listener->context);
    Py_XDECREF(listener->core);
    type->tp_free(listener);
    Py_DECREF(type);
}

static PyMethodDef listener_methods[] = {
    {"stop", (PyCFunction)listener_stop, METH_NOARGS, "Accept nothing more; the kernel lets go of the socket."},
    {"again", (PyCFunction)listener_again, METH_NOARGS, "Accept again, after a failure."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot listener_slots[] = {
    {Py_tp_doc, "A listening socket whose connections the kernel accepts."},
    {Py_tp_dealloc, listener_dealloc},
    {Py_tp_traverse, listener_traverse},
    {Py_tp_clear, listener_clear},
    {Py_tp_methods, listener_methods},
    {0, NULL},
};

PyType_Spec listener_spec = {
    .name = "aioring._loop.Listener",
    .basicsize = sizeof(Listener),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = listener_slots,
};
