/* SPDX-License-Identifier: MIT */
#include "core.h"

static int grow(struct ready *ready)
{
    size_t capacity = ready->capacity != 0 ? 2 * ready->capacity : 256;
    PyObject **items = PyMem_New(PyObject *, capacity);

    if (items == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < ready->count; i++)
        items[i] = ready->items[(ready->head + i) & (ready->capacity - 1)];
    PyMem_Free(ready->items);
    ready->items = items;
    ready->capacity = capacity;
    ready->head = 0;
    return 0;
}

int ready_push(struct ready *ready, PyObject *item)
{
    if (ready->count == ready->capacity && grow(ready) != 0)
        return -1;
    ready->items[(ready->head + ready->count++) & (ready->capacity - 1)] = Py_NewRef(item);
    return 0;
}

PyObject *ready_pop(struct ready *ready)
{
    PyObject *item = ready->items[ready->head];

    ready->head = (ready->head + 1) & (ready->capacity - 1);
    ready->count--;
    return item;
}

void ready_done(PyObject *item)
{
    if (Py_REFCNT(item) > 1)
        handle_show(item);
    Py_DECREF(item);
}

void ready_show(struct ready *ready)
{
    for (size_t i = 0; i < ready->count; i++)
        handle_show(ready->items[(ready->head + i) & (ready->capacity - 1)]);
}

bool ready_has(const struct ready *ready, const PyObject *item)
{
    for (size_t i = 0; i < ready->count; i++) {
        if (ready->items[(ready->head + i) & (ready->capacity - 1)] == item)
            return true;
    }
    return false;
}

void ready_clear(struct ready *ready)
{
    /* What an item's end adds is dropped too. */
    while (ready->count != 0)
        ready_done(ready_pop(ready));
    PyMem_Free(ready->items);
    *ready = (struct ready){0};
}

int ready_traverse(struct ready *ready, visitproc visit, void *arg)
{
    for (size_t i = 0; i < ready->count; i++)
        Py_VISIT(ready->items[(ready->head + i) & (ready->capacity - 1)]);
    return 0;
}
