/* SPDX-License-Identifier: MIT */
#include "core.h"

#include <time.h>

double clock_now(void)
{
    struct timespec now;

    /* From the vDSO: no system call. */
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- the heap: the earliest first, and each handle knows its index ----------------------------------------------- */

static bool before(const struct timer *a, const struct timer *b)
{
    return a->when < b->when || (a->when == b->when && a->number < b->number);
}

static void place(struct timers *timers, size_t index, struct timer timer)
{
    timers->heap[index] = timer;
    *handle_heap_index(timer.handle) = index;
}

static void sift_up(struct timers *timers, size_t index, struct timer timer)
{
    while (index > 0) {
        size_t parent = (index - 1) / 2;

        if (!before(&timer, &timers->heap[parent]))
            break;
        place(timers, index, timers->heap[parent]);
        index = parent;
    }
    place(timers, index, timer);
}

static void sift_down(struct timers *timers, size_t index, struct timer timer)
{
    for (;;) {
        size_t child = 2 * index + 1;

        if (child >= timers->count)
            break;
        if (child + 1 < timers->count && before(&timers->heap[child + 1], &timers->heap[child]))
            child++;
        if (!before(&timers->heap[child], &timer))
            break;
        place(timers, index, timers->heap[child]);
        index = child;
    }
    place(timers, index, timer);
}

/* Takes the timer out; its reference goes to the caller. */
static Handle *take(struct timers *timers, size_t index)
{
    Handle *handle = timers->heap[index].handle;
    struct timer last = timers->heap[--timers->count];

    *handle_heap_index(handle) = SIZE_MAX;
    handle_set_scheduled(handle, false);
    if (index < timers->count) {
        if (index > 0 && before(&last, &timers->heap[(index - 1) / 2]))
            sift_up(timers, index, last);
        else
            sift_down(timers, index, last);
    }
    return handle;
}

/* ---- what the loop asks of it ------------------------------------------------------------------------------------ */

int timers_add(struct timers *timers, Handle *handle, double when)
{
    if (timers->count == timers->capacity) {
        size_t capacity = timers->capacity != 0 ? 2 * timers->capacity : 64;
        struct timer *heap = PyMem_Realloc(timers->heap, capacity * sizeof(struct timer));

        if (heap == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        timers->heap = heap;
        timers->capacity = capacity;
    }
    Py_INCREF(handle);
    handle_set_scheduled(handle, true);
    timers->count++;
    sift_up(timers, timers->count - 1, (struct timer){when, timers->numbers++, handle});
    return 0;
}

void timers_remove(struct timers *timers, Handle *handle)
{
    size_t index = *handle_heap_index(handle);

    if (index < timers->count && timers->heap[index].handle == handle)
        Py_DECREF(take(timers, index));
}

int timers_expire(struct timers *timers, double now, struct ready *ready)
{
    /* A nanosecond's grace: the wait was computed from the difference, which rounds. */
    while (timers->count != 0 && timers->heap[0].when <= now + 1e-9) {
        Handle *handle = take(timers, 0);
        int error = ready_push(ready, (PyObject *)handle);

        Py_DECREF(handle);
        if (error != 0)
            return -1;
    }
    return 0;
}

void timers_clear(struct timers *timers)
{
    while (timers->count != 0)
        Py_DECREF(take(timers, timers->count - 1));
    PyMem_Free(timers->heap);
    timers->heap = NULL;
    timers->capacity = 0;
}

int timers_traverse(struct timers *timers, visitproc visit, void *arg)
{
    for (size_t i = 0; i < timers->count; i++)
        Py_VISIT(timers->heap[i].handle);
    return 0;
}
