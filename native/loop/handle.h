/* SPDX-License-Identifier: MIT */
#ifndef AIORING_LOOP_HANDLE_H
#define AIORING_LOOP_HANDLE_H

/*
 * Handle and TimerHandle: native subtypes of asyncio.Handle and asyncio.TimerHandle. Their fields are the base classes'
 * own slots, read here by position (checked on import), so that all Python code about handles works on them, and the
 * loop runs plain asyncio.Handle objects as well.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stddef.h>

/* The slots of asyncio.Handle as CPython lays them out: by name. Any of them may be NULL. */
typedef struct Handle {
    PyObject_HEAD
    PyObject *args;
    PyObject *callback;
    PyObject *cancelled;
    PyObject *context;
    PyObject *loop;
    PyObject *repr;
    PyObject *source_traceback;
} Handle;

struct Core;

/* Adds the two types to the module. */
int handle_types_init(PyObject *module);
/* Frees the objects kept for reuse. */
void handle_free_lists_clear(void);

/* `context` NULL or None: a copy of the current one. A timer without `when` (NULL) is no timer. */
Handle *handle_new(
    struct Core *core, PyObject *callback, PyObject *const *args, Py_ssize_t count, PyObject *context, PyObject *when
);
/* The place of a timer handle in its loop's heap, behind the slots of asyncio.TimerHandle; SIZE_MAX: in none. */
extern Py_ssize_t handle_index_offset;
static inline size_t *handle_heap_index(Handle *handle)
{
    return (size_t *)(void *)((char *)handle + handle_index_offset);
}
/* `_scheduled`, of a timer handle. */
void handle_set_scheduled(Handle *handle, bool scheduled);

static inline bool handle_cancelled(const Handle *handle)
{
    return handle->cancelled == Py_True;
}

/*
 * What waits in the queue of a loop that runs is alive, and the garbage collector, which comes once in some hundred
 * call_soon(), need not go through it: hidden when it is added, and shown again when the loop stops or somebody still
 * has it after its turn. handle_show() takes whatever the queue holds.
 */
static inline void handle_hide(Handle *handle)
{
    PyObject_GC_UnTrack(handle);
}
void handle_show(PyObject *item);

/* Runs the callback in its context. Its exceptions go to the loop's exception handler; fatal ones return -1. */
int handle_run(Handle *handle, struct Core *core);

#endif
