/* SPDX-License-Identifier: MIT */
#include "core.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

/* add_reader() and its like: handles by fd, over the ring's level-triggered watches (native/uring/watch.c). */

static bool make_room(Core *core, unsigned fd)
{
    unsigned size = core->watchers_size != 0 ? core->watchers_size : 64;
    struct watcher *watchers;

    if (fd < core->watchers_size)
        return true;
    while (size <= fd)
        size *= 2;
    watchers = PyMem_Realloc(core->watchers, size * sizeof(struct watcher));
    if (watchers == NULL) {
        PyErr_NoMemory();
        return false;
    }
    memset(watchers + core->watchers_size, 0, (size - core->watchers_size) * sizeof *watchers);
    core->watchers = watchers;
    core->watchers_size = size;
    return true;
}

static bool check_thread(Core *core)
{
    if (core->thread == 0 || core->thread == PyThread_get_thread_ident())
        return true;
    PyErr_SetString(loop_state.owner_error, "readers and writers are added and removed in the thread that runs the loop");
    return false;
}

static uint32_t mask_of(const struct watcher *watcher)
{
    return (watcher->reader != NULL ? POLLIN : 0u) | (watcher->writer != NULL ? POLLOUT : 0u);
}

/* Has the ring watch for `mask`. The file may be closed already when less is asked of it than before. */
static bool watch(Core *core, int fd, uint32_t mask, bool less)
{
    for (;;) {
        int error = -EBADF;
        PyObject *done;

        if (core->ring == NULL) {
            if (less)
                return true;
            core_raise_no_ring(core);
            return false;
        }
        error = mask != 0 ? uring_watch(core->ring, fd, mask) : uring_unwatch(core->ring, fd);
        if (error == 0 || (less && error == -EBADF))
            return true;
        /* Raises, or removes what is in the way: a full queue, a ring that no thread drives. */
        done = PyObject_CallMethod((PyObject *)core, "_make_way", "i", error);
        if (done == NULL)
            return false;
        Py_DECREF(done);
    }
}

static PyObject *add(Core *core, PyObject *const *args, Py_ssize_t count, bool writer)
{
    PyObject *handle;
    PyObject **place;
    PyObject *old;
    int fd;

    if (count < 2) {
        PyErr_SetString(PyExc_TypeError, "a file and a callback are required");
        return NULL;
    }
    if (core->closed) {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        return NULL;
    }
    fd = PyObject_AsFileDescriptor(args[0]);
    if (fd < 0 || !check_thread(core) || !make_room(core, (unsigned)fd))
        return NULL;
    handle = (PyObject *)handle_new(core, args[1], args + 2, count - 2, NULL, NULL);
    if (handle == NULL)
        return NULL;
    if (!watch(core, fd, mask_of(&core->watchers[fd]) | (writer ? POLLOUT : POLLIN), false)) {
        Py_DECREF(handle);
        return NULL;
    }
    place = writer ? &core->watchers[fd].writer : &core->watchers[fd].reader;
    old = *place;
    *place = Py_NewRef(handle);
    if (old != NULL) {
        PyObject *done = PyObject_CallMethodNoArgs(old, loop_state.str_cancel);

        Py_DECREF(old);
        Py_XDECREF(done);
        if (done == NULL)
            Py_CLEAR(handle);
    }
    return handle;
}

/* 1: removed, 0: there was none, -1. */
static int drop(Core *core, int fd, bool writer)
{
    PyObject **place;
    PyObject *handle;
    PyObject *done;

    if ((unsigned)fd >= core->watchers_size)
        return 0;
    place = writer ? &core->watchers[fd].writer : &core->watchers[fd].reader;
    handle = *place;
    if (handle == NULL)
        return 0;
    *place = NULL;
    if (!watch(core, fd, mask_of(&core->watchers[fd]), true)) {
        place = writer ? &core->watchers[fd].writer : &core->watchers[fd].reader;
        *place = handle;
        return -1;
    }
    done = PyObject_CallMethodNoArgs(handle, loop_state.str_cancel);
    Py_DECREF(handle);
    Py_XDECREF(done);
    return done != NULL ? 1 : -1;
}

static PyObject *take_away(Core *core, PyObject *file, bool writer)
{
    int fd;
    int dropped;

    if (core->closed)
        Py_RETURN_FALSE;
    fd = PyObject_AsFileDescriptor(file);
    if (fd < 0 || !check_thread(core))
        return NULL;
    dropped = drop(core, fd, writer);
    return dropped < 0 ? NULL : PyBool_FromLong(dropped);
}

PyObject *core_add_reader(Core *core, PyObject *const *args, Py_ssize_t count)
{
    return add(core, args, count, false);
}

PyObject *core_add_writer(Core *core, PyObject *const *args, Py_ssize_t count)
{
    return add(core, args, count, true);
}

PyObject *core_remove_reader(Core *core, PyObject *file)
{
    return take_away(core, file, false);
}

PyObject *core_remove_writer(Core *core, PyObject *file)
{
    return take_away(core, file, true);
}

/* What an fd is watched for, as the mask of the selectors module: EVENT_READ is 1, EVENT_WRITE 2. */
PyObject *core_watched(Core *core, PyObject *file)
{
    int fd = PyObject_AsFileDescriptor(file);

    if (fd < 0)
        return NULL;
    if ((unsigned)fd >= core->watchers_size)
        return PyLong_FromLong(0);
    return PyLong_FromLong((core->watchers[fd].reader != NULL ? 1 : 0) | (core->watchers[fd].writer != NULL ? 2 : 0));
}

int watchers_fired(Core *core, int fd, uint32_t events)
{
    for (int writer = 0; writer < 2; writer++) {
        PyObject *handle;

        if (!(events & (writer ? POLLOUT : POLLIN)) || (unsigned)fd >= core->watchers_size)
            continue;
        handle = writer ? core->watchers[fd].writer : core->watchers[fd].reader;
        /* What an exception left in the queue fires again, and is to be called once. */
        if (handle == NULL || (core->interrupted && ready_has(&core->ready, handle)))
            continue;
        /* A handle cancelled by itself takes its watch with it, as in asyncio. */
        if (handle_cancelled((Handle *)handle) ? drop(core, fd, writer != 0) < 0 : ready_push(&core->ready, handle) != 0)
            return -1;
    }
    return 0;
}

int watchers_again(Core *core)
{
    for (unsigned fd = 0; fd < core->watchers_size; fd++) {
        uint32_t mask = mask_of(&core->watchers[fd]);

        if (mask != 0 && !watch(core, (int)fd, mask, true))
            return -1;
    }
    return 0;
}

void watchers_clear(Core *core)
{
    struct watcher *watchers = core->watchers;
    unsigned size = core->watchers_size;

    core->watchers = NULL;
    core->watchers_size = 0;
    for (unsigned fd = 0; fd < size; fd++) {
        Py_XDECREF(watchers[fd].reader);
        Py_XDECREF(watchers[fd].writer);
    }
    PyMem_Free(watchers);
}

int watchers_traverse(Core *core, visitproc visit, void *arg)
{
    for (unsigned fd = 0; fd < core->watchers_size; fd++) {
        Py_VISIT(core->watchers[fd].reader);
        Py_VISIT(core->watchers[fd].writer);
    }
    return 0;
}
