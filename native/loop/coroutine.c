/* SPDX-License-Identifier: MIT */
#include "coroutine.h"

#include <string.h>

Coroutine *coroutine_new(struct coroutines *coroutines, PyTypeObject *type, const char *name)
{
    Coroutine *coroutine;

    if (coroutines->count == 0) {
        coroutine = (Coroutine *)type->tp_alloc(type, 0);
        if (coroutine == NULL)
            return NULL;
    } else {
        coroutine = coroutines->kept[--coroutines->count];
        memset((char *)coroutine + sizeof(PyObject), 0, (size_t)type->tp_basicsize - sizeof(PyObject));
        _Py_NewReference((PyObject *)coroutine);
        PyObject_GC_Track(coroutine);
    }
    coroutine->name = name;
    return coroutine;
}

void coroutine_free(struct coroutines *coroutines, Coroutine *coroutine)
{
    PyTypeObject *type = Py_TYPE(coroutine);

    /* Kept with its reference to the type. */
    if (coroutines->count < COROUTINES_KEPT) {
        coroutines->kept[coroutines->count++] = coroutine;
        return;
    }
    type->tp_free(coroutine);
    Py_DECREF(type);
}

bool coroutine_check(const Coroutine *coroutine)
{
    if (coroutine->state == DONE)
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
    return coroutine->state != DONE;
}

/* ---- waiting --------------------------------------------------------------------------------------------------------- */

PyObject *coroutine_wait(Coroutine *coroutine, Core *core)
{
    PyObject *waiter = core_create_future(core, NULL);

    if (waiter == NULL)
        return NULL;
    /* What `await future` does before it yields the future to the task. */
    if (PyObject_SetAttr(waiter, loop_state.str__asyncio_future_blocking, Py_True) != 0) {
        Py_DECREF(waiter);
        return NULL;
    }
    Py_XSETREF(coroutine->waiter, Py_NewRef(waiter));
    return waiter;
}

void future_wake(PyObject *future)
{
    PyObject *done = PyObject_CallMethodOneArg(future, loop_state.str_set_result, Py_None);

    if (done == NULL)
        PyErr_Clear(); /* cancelled just now: throw() is to come */
    Py_XDECREF(done);
}

void coroutine_wake(Coroutine *coroutine)
{
    PyObject *waiter = coroutine->waiter;

    if (waiter != NULL) {
        coroutine->waiter = NULL;
        future_wake(waiter);
        Py_DECREF(waiter);
    }
}

/* ---- the methods ----------------------------------------------------------------------------------------------------- */

PyObject *coroutine_send(PyObject *coroutine, PyObject *value)
{
    PyObject *result;
    PyObject *error;

    if (Py_TYPE(coroutine)->tp_as_async->am_send(coroutine, value, &result) != PYGEN_RETURN)
        return result;
    error = PyObject_CallOneArg(PyExc_StopIteration, result);
    if (error != NULL)
        PyErr_SetObject(PyExc_StopIteration, error);
    Py_XDECREF(error);
    Py_DECREF(result);
    return NULL;
}

PyObject *coroutine_next(PyObject *coroutine)
{
    return coroutine_send(coroutine, Py_None);
}

PyObject *coroutine_raise(PyObject *const *args, Py_ssize_t count)
{
    PyObject *type = count > 0 ? args[0] : NULL;

    if (type == NULL)
        PyErr_SetString(PyExc_TypeError, "throw expected at least 1 argument, got 0");
    else if (PyExceptionInstance_Check(type))
        PyErr_SetObject((PyObject *)Py_TYPE(type), type);
    else if (PyExceptionClass_Check(type))
        PyErr_SetObject(type, count > 1 && args[1] != Py_None ? args[1] : NULL);
    else
        PyErr_SetString(PyExc_TypeError, "exceptions must be classes or instances deriving from BaseException");
    return NULL;
}

static PyObject *get_name(PyObject *coroutine, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(((Coroutine *)coroutine)->name);
}

static PyObject *get_await(PyObject *coroutine, void *Py_UNUSED(closure))
{
    PyObject *waiter = ((Coroutine *)coroutine)->waiter;

    return Py_NewRef(waiter != NULL ? waiter : Py_None);
}

static PyObject *get_running(PyObject *Py_UNUSED(coroutine), void *Py_UNUSED(closure))
{
    Py_RETURN_FALSE; /* Python code that asks never runs inside */
}

PyGetSetDef coroutine_getset[] = {
    {"__name__", get_name, NULL, NULL, NULL},
    {"__qualname__", get_name, NULL, NULL, NULL},
    {"cr_await", get_await, NULL, "What it waits for, or None.", NULL},
    {"cr_running", get_running, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

void coroutine_warn(const Coroutine *coroutine)
{
    PyObject *kind, *error, *traceback;

    if (coroutine->state != NEW)
        return;
    PyErr_Fetch(&kind, &error, &traceback);
    if (PyErr_WarnFormat(PyExc_RuntimeWarning, 1, "coroutine '%s' was never awaited", coroutine->name) != 0)
        PyErr_WriteUnraisable((PyObject *)Py_TYPE(coroutine));
    PyErr_Restore(kind, error, traceback);
}
