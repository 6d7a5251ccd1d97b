/* SPDX-License-Identifier: MIT */
#include "core.h"

/* call_soon() and its like, futures and tasks: what programs call most. */

/* The value of `context`, the one keyword that the calls take; NULL without. Borrowed. False with an exception. */
static bool read_context(const char *name, PyObject *const *args, Py_ssize_t count, PyObject *keywords, PyObject **out)
{
    *out = NULL;
    if (keywords == NULL)
        return true;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(keywords); i++) {
        PyObject *key = PyTuple_GET_ITEM(keywords, i);

        if (key != loop_state.str_context && PyUnicode_Compare(key, loop_state.str_context) != 0) {
            if (!PyErr_Occurred())
                PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", name, key);
            return false;
        }
        *out = args[count + i];
    }
    return true;
}

static bool check_arguments(Core *core, const char *name, Py_ssize_t count, Py_ssize_t least)
{
    if (count < least) {
        PyErr_Format(PyExc_TypeError, "%s() missing %zd required positional argument(s)", name, least - count);
        return false;
    }
    if (core->closed) {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        return false;
    }
    return true;
}

/* In debug mode: a callback that is none, a call from another thread. */
static bool check_debug(Core *core, PyObject *callback, const char *name)
{
    PyObject *text;
    PyObject *done;

    if (!core->debug)
        return true;
    text = PyUnicode_FromString(name);
    if (text == NULL)
        return false;
    done = PyObject_CallMethodObjArgs((PyObject *)core, loop_state.str__check_call, callback, text, NULL);
    Py_DECREF(text);
    Py_XDECREF(done);
    return done != NULL;
}

/* In debug mode: where the handle was made. Takes the reference, gives it back. */
static PyObject *traced(Core *core, Handle *handle)
{
    if (handle != NULL && core->debug) {
        PyObject *done = PyObject_CallMethodOneArg((PyObject *)core, loop_state.str__trace_handle, (PyObject *)handle);

        if (done == NULL)
            Py_CLEAR(handle);
        Py_XDECREF(done);
    }
    return (PyObject *)handle;
}

static PyObject *
add_call(Core *core, const char *name, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    PyObject *context;
    PyObject *handle;

    if (!read_context(name, args, count, keywords, &context) || !check_arguments(core, name, count, 1) ||
        !check_debug(core, args[0], name))
        return NULL;
    handle = (PyObject *)handle_new(core, args[0], args + 1, count - 1, context, NULL);
    handle = traced(core, (Handle *)handle);
    if (handle != NULL && ready_push(&core->ready, handle) != 0)
        Py_CLEAR(handle);
    if (handle != NULL && core->running)
        handle_hide((Handle *)handle);
    return handle;
}

PyObject *core_call_soon(Core *core, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    return add_call(core, "call_soon", args, count, keywords);
}

PyObject *core_call_soon_threadsafe(Core *core, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    PyObject *handle = add_call(core, "call_soon_threadsafe", args, count, keywords);

    /* The GIL was held since the callback was added: a loop that is not waiting will see it before it waits. */
    if (handle != NULL)
        core_wake(core);
    return handle;
}

/* `when`, a number of any kind, is kept as it is: handle.when() returns it. */
static PyObject *add_timer(
    Core *core, const char *name, PyObject *when, double time, PyObject *const *args, Py_ssize_t count,
    PyObject *keywords
)
{
    PyObject *context;
    PyObject *handle;

    if (!read_context(name, args, count, keywords, &context) || !check_debug(core, args[1], name))
        return NULL;
    if (time != time) {
        PyErr_Format(PyExc_ValueError, "%s(): the time must not be NaN", name);
        return NULL;
    }
    handle = (PyObject *)handle_new(core, args[1], args + 2, count - 2, context, when);
    handle = traced(core, (Handle *)handle);
    if (handle != NULL && timers_add(&core->timers, (Handle *)handle, time) != 0)
        Py_CLEAR(handle);
    return handle;
}

static bool read_time(PyObject *value, const char *none, double *out)
{
    if (value == Py_None) {
        PyErr_SetString(PyExc_TypeError, none);
        return false;
    }
    *out = PyFloat_AsDouble(value);
    return *out != -1.0 || !PyErr_Occurred();
}

PyObject *core_call_later(Core *core, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    double when;
    PyObject *object;
    PyObject *handle;

    if (!check_arguments(core, "call_later", count, 2) || !read_time(args[0], "delay must not be None", &when))
        return NULL;
    when += clock_now();
    object = PyFloat_FromDouble(when);
    if (object == NULL)
        return NULL;
    handle = add_timer(core, "call_later", object, when, args, count, keywords);
    Py_DECREF(object);
    return handle;
}

PyObject *core_call_at(Core *core, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    double when;

    if (!check_arguments(core, "call_at", count, 2) || !read_time(args[0], "when cannot be None", &when))
        return NULL;
    return add_timer(core, "call_at", args[0], when, args, count, keywords);
}

/* A future or task of this loop. These types have no vectorcall, which would make the dict each time. */
static PyObject *make(Core *core, PyObject *type, PyObject *args)
{
    if (core->options == NULL) {
        core->options = Py_BuildValue("{OO}", loop_state.str_loop, (PyObject *)core);
        if (core->options == NULL)
            return NULL;
    }
    return PyObject_Call(type, args, core->options);
}

PyObject *core_create_future(Core *core, PyObject *Py_UNUSED(unused))
{
    return make(core, loop_state.future_type, loop_state.empty_tuple);
}

/* Everything but the plain case is asyncio's own, as it differs between versions. */
static PyObject *create_task_slowly(Core *core, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    size_t total = (size_t)(count + (keywords != NULL ? PyTuple_GET_SIZE(keywords) : 0));
    PyObject **stack = PyMem_New(PyObject *, total + 1);
    PyObject *task;

    if (stack == NULL)
        return PyErr_NoMemory();
    stack[0] = (PyObject *)core;
    for (size_t i = 0; i < total; i++)
        stack[i + 1] = args[i];
    task = PyObject_Vectorcall(loop_state.base_create_task, stack, (size_t)count + 1, keywords);
    PyMem_Free(stack);
    return task;
}

PyObject *core_create_task(Core *core, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    PyObject *stack[] = {NULL, (PyObject *)core, Py_None, Py_None};

    if (core->closed || core->debug || count != 1 || core->task_factory != Py_None)
        return create_task_slowly(core, args, count, keywords);
    stack[0] = args[0];
    for (Py_ssize_t i = 0; keywords != NULL && i < PyTuple_GET_SIZE(keywords); i++) {
        PyObject *key = PyTuple_GET_ITEM(keywords, i);

        if (PyUnicode_CompareWithASCIIString(key, "name") == 0)
            stack[2] = args[count + i];
        else if (PyUnicode_CompareWithASCIIString(key, "context") == 0)
            stack[3] = args[count + i];
        else
            return create_task_slowly(core, args, count, keywords);
    }
    if (keywords == NULL) {
        PyObject *coroutine = PyTuple_Pack(1, args[0]);
        PyObject *task = coroutine != NULL ? make(core, loop_state.task_type, coroutine) : NULL;

        Py_XDECREF(coroutine);
        return task;
    }
    return PyObject_Vectorcall(loop_state.task_type, stack, 1, loop_state.task_keywords);
}
