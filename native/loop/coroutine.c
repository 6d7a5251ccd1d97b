/* SPDX-License-Identifier: MIT */
#include "core.h"

/* What the coroutines in C (socket.c, streams.c) have in common. */

PyObject *stop_iteration(PyObject *value)
{
    PyObject *error = PyObject_CallOneArg(PyExc_StopIteration, value);

    if (error != NULL)
        PyErr_SetObject(PyExc_StopIteration, error);
    Py_XDECREF(error);
    Py_DECREF(value);
    return NULL;
}

PyObject *raise_thrown(PyObject *const *args, Py_ssize_t count)
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

void warn_never_awaited(PyTypeObject *type, const char *name)
{
    PyObject *kind, *error, *traceback;

    PyErr_Fetch(&kind, &error, &traceback);
    if (PyErr_WarnFormat(PyExc_RuntimeWarning, 1, "coroutine '%s' was never awaited", name) != 0)
        PyErr_WriteUnraisable((PyObject *)type);
    PyErr_Restore(kind, error, traceback);
}
