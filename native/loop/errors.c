/* SPDX-License-Identifier: MIT */
#include "core.h"

#include <errno.h>

PyObject *exception_take(void)
{
#if PY_VERSION_HEX >= 0x030c0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *error, *traceback;

    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(error, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return error;
#endif
}

PyObject *weak_target(PyObject *weak)
{
#if PY_VERSION_HEX >= 0x030d0000
    PyObject *target;

    return PyWeakref_GetRef(weak, &target) > 0 ? target : NULL;
#else
    PyObject *target = PyWeakref_GetObject(weak);

    return target == NULL || target == Py_None ? NULL : Py_NewRef(target);
#endif
}

bool exception_is_fatal(void)
{
    return PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) || PyErr_ExceptionMatches(PyExc_SystemExit);
}

void core_raise_no_ring(Core *core)
{
    if (core->closed)
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
    else
        PyErr_SetString(
            loop_state.forked_error, "this loop was made before a fork() and belongs to the parent: make one here"
        );
}

PyObject *raise_errno(int code)
{
    errno = code;
    return PyErr_SetFromErrno(PyExc_OSError);
}
