/* SPDX-License-Identifier: MIT */
#include "core.h"

#include <structmember.h>

/* The type that aioring.EventLoop derives from, before asyncio.SelectorEventLoop. */

static PyObject *core_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(keywords))
{
    Core *core = (Core *)type->tp_alloc(type, 0);

    if (core == NULL)
        return NULL;
    operations_init(&core->operations);
    core->wake_fd = -1;
    core->closed = true; /* until BaseEventLoop.__init__ says otherwise: __del__ may come before */
    core->thread_id = Py_NewRef(Py_None);
    core->task_factory = Py_NewRef(Py_None);
    core->current_handle = Py_NewRef(Py_None);
    return (PyObject *)core;
}

static int core_traverse(Core *core, visitproc visit, void *arg)
{
    int result = 0;

    Py_VISIT(Py_TYPE(core));
    Py_VISIT(core->in_flight);
    Py_VISIT(core->thread_id);
    Py_VISIT(core->task_factory);
    Py_VISIT(core->current_handle);
    Py_VISIT(core->options);
    Py_VISIT(core->transports);
    if ((result = ready_traverse(&core->ready, visit, arg)) != 0 ||
        (result = timers_traverse(&core->timers, visit, arg)) != 0 ||
        (result = watchers_traverse(core, visit, arg)) != 0)
        return result;
    return operations_traverse(&core->operations, visit, arg);
}

static int core_clear(Core *core)
{
    ready_clear(&core->ready);
    timers_clear(&core->timers);
    watchers_clear(core);
    /* The kernel may still have operations while the ring is open; its completions are found through them. */
    if (core->ring == NULL)
        operations_forget(core);
    Py_CLEAR(core->in_flight);
    Py_CLEAR(core->task_factory);
    Py_CLEAR(core->current_handle);
    Py_CLEAR(core->thread_id);
    Py_CLEAR(core->options);
    Py_CLEAR(core->transports);
    return 0;
}

static void core_dealloc(Core *core)
{
    PyTypeObject *type = Py_TYPE(core);

    PyObject_GC_UnTrack(core);
    core->ring = NULL; /* whoever opened it closes it: nobody reaps here any more */
    core_clear(core);
    core_wake_close(core);
    PyMem_Free(core->hot);
    type->tp_free(core);
    Py_DECREF(type);
}

/* ---- the ring ------------------------------------------------------------------------------------------------------ */

/* _attach(address, in_flight): the ring is open, or a new one takes the place of the one before. */
static PyObject *core_attach(Core *core, PyObject *const *args, Py_ssize_t count)
{
    struct uring *ring;

    if (count != 2 || !PyDict_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "_attach(address, in_flight)");
        return NULL;
    }
    ring = PyLong_AsVoidPtr(args[0]);
    if (ring == NULL) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "no ring");
        return NULL;
    }
    /* What the old ring has to tell is lost with it. */
    if (core->ring != NULL && core_dispatch(core) != 0)
        return NULL;
    if (core_wake_open(core) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    core->ring = ring;
    Py_XSETREF(core->in_flight, Py_NewRef(args[1]));
    operations_again(core);
    registered_reset(&core->registered);
    if (watchers_again(core) != 0)
        return NULL;
    Py_RETURN_NONE;
}

/* How long a loop that closes waits before it asks again to cancel what is left. Nanoseconds. */
#define PATIENCE 100000000

/* _quiesce(): the loop is about to be closed, in the thread of its ring. What the kernel accepted meanwhile is closed. */
static PyObject *core_quiesce(Core *core, PyObject *Py_UNUSED(unused))
{
    if (core->ring == NULL)
        Py_RETURN_NONE;
    operations_stop(core);
    if (core_reap(core, 0) != 0)
        return NULL;
    /* The kernel has their memory. Asked again each time: one of its workers can miss a cancellation between waits. */
    while (operations_transfers(&core->operations) != 0) {
        if (core_reap(core, PATIENCE) != 0)
            return NULL;
        operations_stop(core);
    }
    Py_RETURN_NONE;
}

/* _transfers(): how many are in flight. */
static PyObject *core_transfers(Core *core, PyObject *Py_UNUSED(unused))
{
    return PyLong_FromSsize_t(operations_transfers(&core->operations));
}

/* _register_buffer(memory): (its index in the ring's table or -errno, the generation of that). */
static PyObject *core_register_buffer(Core *core, PyObject *memory)
{
    Py_buffer view;
    int index;

    if (PyObject_GetBuffer(memory, &view, PyBUF_WRITABLE) != 0)
        return NULL;
    index = registered_add_buffer(core, view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    return Py_BuildValue("iI", index, core->registered.generation);
}

static PyObject *core_unregister_buffer(Core *core, PyObject *const *args, Py_ssize_t count)
{
    long index = count == 2 ? PyLong_AsLong(args[0]) : -1;
    unsigned long generation = count == 2 ? PyLong_AsUnsignedLong(args[1]) : 0;

    if (PyErr_Occurred())
        return NULL;
    if (generation == core->registered.generation && index >= 0 && index < REGISTERED_BUFFERS)
        registered_remove_buffer(core, (int)index);
    Py_RETURN_NONE;
}

/* _detach(): the ring is about to be closed, or stayed with the parent of a fork. */
static PyObject *core_detach(Core *core, PyObject *Py_UNUSED(unused))
{
    core->ring = NULL;
    core->waiting = false;
    core->again_number = 0;
    Py_CLEAR(core->in_flight);
    Py_RETURN_NONE;
}

/* _close_native(): everything goes that is left. After _detach(). */
static PyObject *core_close(Core *core, PyObject *Py_UNUSED(unused))
{
    ready_clear(&core->ready);
    timers_clear(&core->timers);
    watchers_clear(core);
    operations_forget(core);
    core_wake_close(core);
    Py_CLEAR(core->options);
    PyMem_Free(core->hot);
    core->hot = NULL;
    Py_RETURN_NONE;
}

/* _driven_by(thread): get_ident() of the thread that runs the loop from now on, 0 for none. */
static PyObject *core_driven_by(Core *core, PyObject *thread)
{
    unsigned long ident = PyLong_AsUnsignedLong(thread);

    if (ident == (unsigned long)-1 && PyErr_Occurred())
        return NULL;
    core->thread = ident;
    if (ident != 0)
        core_wake_arm(core);
    Py_RETURN_NONE;
}

static PyObject *core_reap_method(Core *core, PyObject *timeout)
{
    int64_t nanoseconds = PyLong_AsLongLong(timeout);

    if ((nanoseconds == -1 && PyErr_Occurred()) || core_reap(core, nanoseconds) != 0)
        return NULL;
    Py_RETURN_NONE;
}

/* ---- the loop ------------------------------------------------------------------------------------------------------ */

static PyObject *core_run_once(Core *core, PyObject *Py_UNUSED(unused))
{
    if (core_run(core) != 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *core_add_callback(Core *core, PyObject *handle)
{
    PyTypeObject *base = loop_state.handle_type->tp_base;

    if (!PyObject_TypeCheck(handle, base))
        return PyErr_Format(PyExc_TypeError, "an asyncio.Handle is required, not %R", handle);
    if (!handle_cancelled((Handle *)handle) && ready_push(&core->ready, handle) != 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *core_timer_cancelled(PyObject *Py_UNUSED(core), PyObject *Py_UNUSED(handle))
{
    Py_RETURN_NONE; /* asyncio's count of those left in its heap; ours leave it */
}

static PyObject *core_time(PyObject *Py_UNUSED(core), PyObject *Py_UNUSED(unused))
{
    return PyFloat_FromDouble(clock_now());
}

static PyObject *core_is_running(Core *core, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(core->thread_id != Py_None && core->thread_id != NULL);
}

static PyObject *core_is_closed(Core *core, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(core->closed);
}

static PyObject *core_get_debug(Core *core, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(core->debug);
}

static PyObject *get_debug(Core *core, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(core->debug);
}

static int set_debug(Core *core, PyObject *value, void *Py_UNUSED(closure))
{
    int debug = value != NULL ? PyObject_IsTrue(value) : 0;

    if (debug < 0)
        return -1;
    core->debug = debug != 0;
    return 0;
}

/* _pending(): callbacks that are ready, timers, and native operations; for tests that count what is left. */
static PyObject *core_pending(Core *core, PyObject *Py_UNUSED(unused))
{
    Py_ssize_t operations = 0;

    for (struct operation *each = core->operations.due.next; each != &core->operations.due; each = each->next)
        operations++;
    for (struct operation *each = core->operations.armed.next; each != &core->operations.armed; each = each->next)
        operations++;
    return Py_BuildValue("nnn", (Py_ssize_t)core->ready.count, (Py_ssize_t)core->timers.count, operations);
}

#define FAST(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef core_methods[] = {
    {"call_soon", FAST(core_call_soon), METH_FASTCALL | METH_KEYWORDS,
     "call_soon(callback, *args, context=None)\n--\n\nCall back in the next iteration of the loop."},
    {"call_soon_threadsafe", FAST(core_call_soon_threadsafe), METH_FASTCALL | METH_KEYWORDS,
     "call_soon_threadsafe(callback, *args, context=None)\n--\n\n"
     "call_soon() from any thread, and from signal handlers. A system call only if the loop is waiting."},
    {"call_later", FAST(core_call_later), METH_FASTCALL | METH_KEYWORDS,
     "call_later(delay, callback, *args, context=None)\n--\n\nCall back after `delay` seconds."},
    {"call_at", FAST(core_call_at), METH_FASTCALL | METH_KEYWORDS,
     "call_at(when, callback, *args, context=None)\n--\n\nCall back when loop.time() is `when`; in order, if equal."},
    {"create_future", (PyCFunction)core_create_future, METH_NOARGS, "create_future()\n--\n\nA future of this loop."},
    {"create_task", FAST(core_create_task), METH_FASTCALL | METH_KEYWORDS,
     "create_task(coro, *, name=None, context=None)\n--\n\nA task of this loop, by its task factory if it has one."},
    {"time", core_time, METH_NOARGS, "time()\n--\n\nSeconds of CLOCK_MONOTONIC, as time.monotonic()."},
    {"is_running", (PyCFunction)core_is_running, METH_NOARGS, "is_running()\n--\n\nWhether the loop runs."},
    {"is_closed", (PyCFunction)core_is_closed, METH_NOARGS, "is_closed()\n--\n\nWhether the loop is closed."},
    {"get_debug", (PyCFunction)core_get_debug, METH_NOARGS, "get_debug()\n--\n\nWhether it is in debug mode."},
    {"_add_callback", (PyCFunction)core_add_callback, METH_O, "Let a handle be called in the next iteration."},
    {"_timer_handle_cancelled", core_timer_cancelled, METH_O, "Nothing: cancelled timers are gone at once."},
    {"_add_reader", FAST(core_add_reader), METH_FASTCALL, "_add_reader(fd, callback, *args): the handle."},
    {"_add_writer", FAST(core_add_writer), METH_FASTCALL, "_add_writer(fd, callback, *args): the handle."},
    {"_remove_reader", (PyCFunction)core_remove_reader, METH_O, "Whether there was one."},
    {"_remove_writer", (PyCFunction)core_remove_writer, METH_O, "Whether there was one."},
    {"_watched", (PyCFunction)core_watched, METH_O, "What a file is watched for: selectors.EVENT_READ, EVENT_WRITE."},
    {"_listen", FAST(core_listen), METH_FASTCALL,
     "_listen(fd, on_accepted, on_failed): a Listener. Calls on_accepted(fd) for each connection, on_failed(errno)."},
    {"_run_once", (PyCFunction)core_run_once, METH_NOARGS, "Iterations until stop(); what run_forever() repeats."},
    {"_reap", (PyCFunction)core_reap_method, METH_O, "Submit, wait up to so many nanoseconds, and dispatch."},
    {"_attach", FAST(core_attach), METH_FASTCALL, "_attach(address, in_flight): the ring to drive."},
    {"_quiesce", (PyCFunction)core_quiesce, METH_NOARGS, "Stop all native operations."},
    {"_transfers", (PyCFunction)core_transfers, METH_NOARGS, "How many transfers of files are in flight."},
    {"_register_buffer", (PyCFunction)core_register_buffer, METH_O,
     "_register_buffer(memory): (its index or -errno, the generation of the table)."},
    {"_unregister_buffer", FAST(core_unregister_buffer), METH_FASTCALL,
     "_unregister_buffer(index, generation): undoes it, if the ring is still the same."},
    {"_detach", (PyCFunction)core_detach, METH_NOARGS, "The ring is gone."},
    {"_close_native", (PyCFunction)core_close, METH_NOARGS, "Drop all callbacks, watches and operations."},
    {"_driven_by", (PyCFunction)core_driven_by, METH_O, "get_ident() of the thread that runs the loop; 0: none."},
    {"_pending", (PyCFunction)core_pending, METH_NOARGS, "How many (ready callbacks, timers, native operations)."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef core_members[] = {
    {"_closed", T_BOOL, offsetof(Core, closed), 0, NULL},
    {"_stopping", T_BOOL, offsetof(Core, stopping), 0, NULL},
    {"_thread_id", T_OBJECT, offsetof(Core, thread_id), 0, NULL},
    {"_task_factory", T_OBJECT, offsetof(Core, task_factory), 0, NULL},
    {"_current_handle", T_OBJECT, offsetof(Core, current_handle), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef core_getset[] = {
    {"_debug", (getter)get_debug, (setter)set_debug, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot core_slots[] = {
    {Py_tp_doc, "The native half of aioring.EventLoop."},
    {Py_tp_new, core_new},
    {Py_tp_dealloc, core_dealloc},
    {Py_tp_traverse, core_traverse},
    {Py_tp_clear, core_clear},
    {Py_tp_methods, core_methods},
    {Py_tp_members, core_members},
    {Py_tp_getset, core_getset},
    {0, NULL},
};

int core_add_socket_methods(void)
{
    PyObject *type = (PyObject *)loop_state.core_type;

    for (PyMethodDef *method = socket_methods; method->ml_name != NULL; method++) {
        PyObject *descriptor = PyDescr_NewMethod(loop_state.core_type, method);
        int error = descriptor != NULL ? PyObject_SetAttrString(type, method->ml_name, descriptor) : -1;

        Py_XDECREF(descriptor);
        if (error != 0)
            return -1;
    }
    return 0;
}

PyType_Spec core_spec = {
    .name = "aioring._loop.Core",
    .basicsize = sizeof(Core),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = core_slots,
};
