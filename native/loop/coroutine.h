/* SPDX-License-Identifier: MIT */
#ifndef AIORING_LOOP_COROUTINE_H
#define AIORING_LOOP_COROUTINE_H

/*
 * What the coroutines in C have in common: SocketCall (socket.c), StreamCall (streams.c), Transfer (transfer.c). Each
 * begins with COROUTINE_HEAD, has its own Py_am_send, throw() and close(), and the rest from here.
 */
#include "core.h"

enum coroutine_state { NEW, RUNNING, DONE };

#define COROUTINE_HEAD                                                                                                \
    PyObject_HEAD                                                                                                     \
    const char *name; /* of the method that made it */                                                                \
    PyObject *waiter; /* the future that the awaiting task sees; NULL: none */                                        \
    enum coroutine_state state;

typedef struct Coroutine {
    COROUTINE_HEAD
} Coroutine;

/* Objects of one type kept for reuse: there is one for each call. */
#define COROUTINES_KEPT 64
struct coroutines {
    Coroutine *kept[COROUTINES_KEPT];
    unsigned count;
};

/* A new one, with zeros behind its name. */
Coroutine *coroutine_new(struct coroutines *coroutines, PyTypeObject *type, const char *name);
/* Its memory, when everything that it refers to is gone. */
void coroutine_free(struct coroutines *coroutines, Coroutine *coroutine);
/* Whether it can go on; else with an exception. */
bool coroutine_check(const Coroutine *coroutine);
/* A future of the loop for the awaiting task, to be returned with PYGEN_NEXT; NULL with an exception. */
PyObject *coroutine_wait(Coroutine *coroutine, Core *core);
/* Its waiter is done. Runs no code of the program's; keeps no exception. */
void coroutine_wake(Coroutine *coroutine);
/* Raises what throw() was given. NULL. */
PyObject *coroutine_raise(PyObject *const *args, Py_ssize_t count);
/* Warns, before it is deallocated, of one that was never awaited. */
void coroutine_warn(const Coroutine *coroutine);
/* Sets the result of a future that waits for nothing else, unless it was cancelled. */
void future_wake(PyObject *future);

/* __next__() and send(), by the type's Py_am_send. */
PyObject *coroutine_next(PyObject *coroutine);
PyObject *coroutine_send(PyObject *coroutine, PyObject *value);

extern PyGetSetDef coroutine_getset[];

#define COROUTINE_METHODS(throw, close)                                                                               \
    {                                                                                                                 \
        {"send", coroutine_send, METH_O, "send(value)\n--\n\nStart or go on."},                                       \
        {"throw", (PyCFunction)(void (*)(void))(throw), METH_FASTCALL,                                                \
         "throw(exception)\n--\n\nGive up, and raise it; where the kernel has memory, when it has let go."},          \
        {"close", (PyCFunction)(close), METH_NOARGS, "close()\n--\n\nGive up."},                                      \
        {NULL, NULL, 0, NULL},                                                                                        \
    }

#define COROUTINE_SLOTS                                                                                               \
    {Py_tp_getset, coroutine_getset}, {Py_am_await, PyObject_SelfIter}, {Py_tp_iter, PyObject_SelfIter},              \
        {Py_tp_iternext, coroutine_next}

#endif
