/* SPDX-License-Identifier: MIT */
#ifndef AIORING_LOOP_CORE_H
#define AIORING_LOOP_CORE_H

/*
 * The native half of `aioring.EventLoop`. One iteration of the loop:
 *
 *     reap()    arms what is due, submits, waits and takes in completions: one io_uring_enter(2)     reap.c
 *     timers    whose time has come move to the ready queue                                           timers.c
 *     ready     what was in the queue when the iteration began is run, in order                       ready.c
 *
 * All of it holds the GIL, except while it waits in the kernel; the GIL is also the lock of all structures here.
 * A function that returns int and may run Python code returns -1 with an exception set, unless it says otherwise.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stddef.h>

#include "handle.h"
#include "operation.h"
#include "registered.h"
#include "trial.h"
#include "uring_ring.h"

/* A FIFO of handles (handle.h) and of transports and listeners that have something to do. Owns its items. */
struct ready {
    PyObject **items;
    size_t capacity; /* a power of two, or 0 */
    size_t head;
    size_t count;
};

/* A binary heap of timer handles, which it owns and which know their place in it. */
struct timer {
    double when;
    uint64_t number; /* first come, first served among equals */
    Handle *handle;
};

struct timers {
    struct timer *heap;
    size_t capacity;
    size_t count;
    uint64_t numbers;
};

/* Readers and writers of one fd, for add_reader() and add_writer(). Owned. */
struct watcher {
    PyObject *reader;
    PyObject *writer;
};

/* By fd, modulo a power of two: what the next receives of a socket are like (socket.c). */
#define GUESSES 1024
struct guess {
    struct trial look; /* at once */
    struct trial turn; /* of the others, and a look after it */
    bool large; /* the last was */
};

typedef struct Core {
    PyObject_HEAD
    struct uring *ring; /* of the LoopRing, which opens and closes it; NULL: not open */
    PyObject *in_flight; /* its dict of Operations by number; NULL with the ring */
    struct ready ready;
    struct timers timers;
    struct watcher *watchers; /* by fd */
    unsigned watchers_size;
    struct operations operations;
    struct registered registered;
    unsigned inlined; /* reads that the running callback has had from the page cache (transfer.c) */
    /* A completion of an Operation that an exception interrupted: delivered again first. */
    int64_t again_number;
    int32_t again_result;
    bool again_more;

    unsigned long thread; /* that runs the loop; 0: none does */
    int wake_fd; /* eventfd that ends a wait; -1: not made */
    struct operation wake;
    bool waiting; /* in the kernel, or about to: without the GIL no callback can be added unnoticed */
    bool woken; /* wake_fd was written in this wait */

    bool running; /* whoever runs it holds it, and it holds what is in its queue: handle_hide() */
    bool interrupted; /* an exception left callbacks in the ready queue */
    bool shutting; /* nothing is started any more */
    bool debug;
    char closed;
    char stopping;
    PyObject *thread_id; /* the attributes of these names that asyncio.BaseEventLoop sets */
    PyObject *task_factory;
    PyObject *current_handle;
    PyObject *options; /* {"loop": this}, for futures and tasks; NULL: not made */
    PyObject *transports; /* the dict of its WeakValueDictionary _transports; NULL: not known yet */

    char *hot; /* what is received goes here first; HOT_SIZE bytes, NULL: not made */
    struct guess guesses[GUESSES];
} Core;

/* As asyncio's transports: the most one recv() takes. */
#define HOT_SIZE (256 * 1024)

/* What the module holds for its one interpreter; filled once, on import (module.c). */
struct loop_state {
    PyTypeObject *handle_type;
    PyTypeObject *timer_type;
    PyTypeObject *core_type;
    PyTypeObject *stream_type;
    PyTypeObject *listener_type;
    PyTypeObject *socket_call_type;
    PyTypeObject *stream_call_type;
    PyTypeObject *file_type;
    PyTypeObject *transfer_type;
    PyObject *base_create_task; /* asyncio.BaseEventLoop.create_task */
    PyObject *base_read; /* asyncio.StreamReader.read */
    PyObject *base_drain; /* asyncio.StreamWriter.drain */
    PyObject *future_type; /* asyncio.Future */
    PyObject *task_type; /* asyncio.Task */
    PyObject *socket_type; /* socket.socket */
    PyObject *unsupported_error; /* io.UnsupportedOperation */
    PyObject *owner_error; /* aioring.RingOwnerError */
    PyObject *forked_error; /* aioring.RingForkedError */
    PyObject *task_keywords; /* ("loop", "name", "context") */
    PyObject *empty_tuple;
    /* Interned names, as str_NAME. */
#define LOOP_NAMES(X)                                                                                                 \
    X(_asyncio_future_blocking)                                                                                       \
    X(_buffer)                                                                                                        \
    X(_callback_failed)                                                                                               \
    X(_check_call)                                                                                                    \
    X(_complete)                                                                                                      \
    X(_eof)                                                                                                           \
    X(_exception)                                                                                                     \
    X(_limit)                                                                                                         \
    X(_loop)                                                                                                          \
    X(_maybe_resume_transport)                                                                                        \
    X(_more)                                                                                                          \
    X(_paused)                                                                                                        \
    X(_reader)                                                                                                        \
    X(_run_checked)                                                                                                   \
    X(_trace_handle)                                                                                                  \
    X(_transport)                                                                                                     \
    X(_waiter)                                                                                                        \
    X(add_note)                                                                                                       \
    X(buffer_updated)                                                                                                 \
    X(cancel)                                                                                                         \
    X(cancelled)                                                                                                      \
    X(characters_written)                                                                                             \
    X(context)                                                                                                        \
    X(data_received)                                                                                                  \
    X(fileno)                                                                                                         \
    X(get_buffer)                                                                                                     \
    X(loop)                                                                                                           \
    X(set_result)
#define DECLARE_NAME(name) PyObject *str_##name;
    LOOP_NAMES(DECLARE_NAME)
#undef DECLARE_NAME
};
extern struct loop_state loop_state;

/* ready.c */
int ready_push(struct ready *ready, PyObject *item); /* takes a reference of its own */
PyObject *ready_pop(struct ready *ready); /* gives its reference away; the queue must not be empty */
void ready_done(PyObject *item); /* takes back what ready_pop() gave */
void ready_show(struct ready *ready); /* handle_show() of all items */
bool ready_has(const struct ready *ready, const PyObject *item);
void ready_clear(struct ready *ready);
int ready_traverse(struct ready *ready, visitproc visit, void *arg);

/* timers.c. Times are seconds of CLOCK_MONOTONIC, as loop.time() gives them. */
double clock_now(void);
int timers_add(struct timers *timers, Handle *handle, double when);
void timers_remove(struct timers *timers, Handle *handle); /* which may have left it already */
int timers_expire(struct timers *timers, double now, struct ready *ready);
void timers_clear(struct timers *timers);
int timers_traverse(struct timers *timers, visitproc visit, void *arg);

/* reap.c: arms, submits, waits up to `timeout` nanoseconds, dispatches. 0: does not wait. */
int core_reap(Core *core, int64_t timeout);
/* Dispatches what has completed already, without entering the kernel. */
int core_dispatch(Core *core);

/* run.c: iterations until the loop is told to stop. */
int core_run(Core *core);

/* wake.c */
int core_wake_open(Core *core); /* 0, or -1 with errno */
void core_wake_arm(Core *core);
void core_wake(Core *core); /* from any thread that has the GIL */
void core_wake_close(Core *core);

/* calls.c: call_soon() and its like; debug checks. */
PyObject *core_call_soon(Core *core, PyObject *const *args, Py_ssize_t count, PyObject *keywords);
PyObject *core_call_soon_threadsafe(Core *core, PyObject *const *args, Py_ssize_t count, PyObject *keywords);
PyObject *core_call_later(Core *core, PyObject *const *args, Py_ssize_t count, PyObject *keywords);
PyObject *core_call_at(Core *core, PyObject *const *args, Py_ssize_t count, PyObject *keywords);
PyObject *core_create_future(Core *core, PyObject *unused);
PyObject *core_create_task(Core *core, PyObject *const *args, Py_ssize_t count, PyObject *keywords);

/* watchers.c */
PyObject *core_add_reader(Core *core, PyObject *const *args, Py_ssize_t count);
PyObject *core_add_writer(Core *core, PyObject *const *args, Py_ssize_t count);
PyObject *core_remove_reader(Core *core, PyObject *file);
PyObject *core_remove_writer(Core *core, PyObject *file);
PyObject *core_watched(Core *core, PyObject *file);
int watchers_fired(Core *core, int fd, uint32_t events);
int watchers_again(Core *core); /* there is a new ring */
void watchers_clear(Core *core);
int watchers_traverse(Core *core, visitproc visit, void *arg);

/* socket.c: the sock_*() methods. */
extern PyMethodDef socket_methods[];
/* core.c: puts them on the type. */
int core_add_socket_methods(void);

/* Types. */
extern PyType_Spec core_spec;
extern PyType_Spec listener_spec;
extern PyType_Spec socket_call_spec;
extern PyType_Spec stream_call_spec;
PyTypeObject *stream_type_new(PyObject *module, PyObject *flow_control);

/* stream.c, listener.c: their turn in the ready queue. */
int stream_run(PyObject *stream, Core *core);
int listener_run(PyObject *listener, Core *core);
/* Makes a Listener that accepts on the socket with the fd; -1 on failure. */
PyObject *core_listen(Core *core, PyObject *const *args, Py_ssize_t count);

/* streams.c */
int streams_init(PyObject *module, PyObject *reader, PyObject *writer);

/* errors.c */
/* What a weak reference refers to, with a reference of its own; NULL if it is gone. */
PyObject *weak_target(PyObject *weak);
/* The exception that is set, taken as an object with its traceback. */
PyObject *exception_take(void);
/* Whether the exception that is set ends the loop: KeyboardInterrupt or SystemExit. */
bool exception_is_fatal(void);
/* Raises what is wrong with a loop that is closed, forked or without a ring. */
void core_raise_no_ring(Core *core);
/* Raises the OSError of a positive errno. */
PyObject *raise_errno(int code);

#endif
