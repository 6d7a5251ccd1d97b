/* SPDX-License-Identifier: MIT */
#include "handle.h"

#include "core.h"

#include <structmember.h>

/* Objects kept for reuse: callbacks come and go more often than anything else. Global, of the one interpreter. */
#define FREE_MAX 1024
struct free_list {
    Handle *items[FREE_MAX];
    unsigned count;
};
static struct free_list free_handles;
static struct free_list free_timers;

/* Where asyncio.TimerHandle has its slots, and our subtype its index; found on import. */
static Py_ssize_t when_offset;
static Py_ssize_t scheduled_offset;
Py_ssize_t handle_index_offset;

static PyObject **field(const Handle *handle, Py_ssize_t offset)
{
    return (PyObject **)((char *)handle + offset);
}

static bool is_timer(const Handle *handle)
{
    return Py_IS_TYPE(handle, loop_state.timer_type);
}

void handle_set_scheduled(Handle *handle, bool scheduled)
{
    Py_XSETREF(*field(handle, scheduled_offset), Py_NewRef(scheduled ? Py_True : Py_False));
}

/* ---- life ---------------------------------------------------------------------------------------------------------- */

Handle *handle_new(
    Core *core, PyObject *callback, PyObject *const *args, Py_ssize_t count, PyObject *context, PyObject *when
)
{
    PyTypeObject *type = when != NULL ? loop_state.timer_type : loop_state.handle_type;
    struct free_list *list = when != NULL ? &free_timers : &free_handles;
    PyObject *arguments;
    Handle *handle;

    if (count == 0) {
        arguments = Py_NewRef(loop_state.empty_tuple);
    } else {
        arguments = PyTuple_New(count);
        if (arguments == NULL)
            return NULL;
        for (Py_ssize_t i = 0; i < count; i++)
            PyTuple_SET_ITEM(arguments, i, Py_NewRef(args[i]));
    }
    context = context == NULL || context == Py_None ? PyContext_CopyCurrent() : Py_NewRef(context);
    if (context == NULL) {
        Py_DECREF(arguments);
        return NULL;
    }
    if (list->count != 0) {
        handle = list->items[--list->count];
        _Py_NewReference((PyObject *)handle);
        PyObject_GC_Track(handle);
    } else {
        handle = (Handle *)type->tp_alloc(type, 0);
        if (handle == NULL) {
            Py_DECREF(arguments);
            Py_DECREF(context);
            return NULL;
        }
    }
    handle->args = arguments;
    handle->callback = Py_NewRef(callback);
    handle->cancelled = Py_NewRef(Py_False);
    handle->context = context;
    handle->loop = Py_NewRef(core);
    handle->repr = Py_NewRef(Py_None);
    handle->source_traceback = Py_NewRef(Py_None);
    if (when != NULL) {
        *field(handle, when_offset) = Py_NewRef(when);
        *field(handle, scheduled_offset) = Py_NewRef(Py_False);
        *handle_heap_index(handle) = SIZE_MAX;
    }
    return handle;
}

static int handle_traverse(Handle *handle, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(handle));
    Py_VISIT(handle->args);
    Py_VISIT(handle->callback);
    Py_VISIT(handle->context);
    Py_VISIT(handle->loop);
    Py_VISIT(handle->repr);
    Py_VISIT(handle->source_traceback);
    return 0;
}

void handle_show(PyObject *item)
{
    if (Py_IS_TYPE(item, loop_state.handle_type) && !PyObject_GC_IsTracked(item))
        PyObject_GC_Track(item);
}

static int handle_clear(Handle *handle)
{
    Py_CLEAR(handle->args);
    Py_CLEAR(handle->callback);
    Py_CLEAR(handle->cancelled);
    Py_CLEAR(handle->context);
    Py_CLEAR(handle->loop);
    Py_CLEAR(handle->repr);
    Py_CLEAR(handle->source_traceback);
    return 0;
}

static void handle_dealloc(Handle *handle)
{
    PyTypeObject *type = Py_TYPE(handle);
    struct free_list *list = &free_handles;

    PyObject_GC_UnTrack(handle);
    PyObject_ClearWeakRefs((PyObject *)handle);
    handle_clear(handle);
    if (is_timer(handle)) {
        Py_CLEAR(*field(handle, when_offset));
        Py_CLEAR(*field(handle, scheduled_offset));
        list = &free_timers;
    }
    /* Kept with its reference to the type. */
    if (list->count < FREE_MAX) {
        list->items[list->count++] = handle;
        return;
    }
    type->tp_free(handle);
    Py_DECREF(type);
}

static void free_list_clear(struct free_list *list)
{
    while (list->count != 0) {
        Handle *handle = list->items[--list->count];
        PyTypeObject *type = Py_TYPE(handle);

        type->tp_free(handle);
        Py_DECREF(type);
    }
}

void handle_free_lists_clear(void)
{
    free_list_clear(&free_handles);
    free_list_clear(&free_timers);
}

/* ---- behaviour ----------------------------------------------------------------------------------------------------- */

static PyObject *handle_cancel(Handle *handle, PyObject *Py_UNUSED(unused))
{
    Core *core = (Core *)handle->loop;

    /* The slot can be written from Python. */
    if (handle_cancelled(handle) || core == NULL || !PyObject_TypeCheck(core, loop_state.core_type))
        Py_RETURN_NONE;
    if (core->debug) {
        /* Kept to be shown: the callback is about to be forgotten. */
        PyObject *repr = PyObject_Repr((PyObject *)handle);

        if (repr == NULL)
            return NULL;
        Py_XSETREF(handle->repr, repr);
    }
    Py_XSETREF(handle->cancelled, Py_NewRef(Py_True));
    Py_INCREF(handle);
    if (is_timer(handle))
        timers_remove(&core->timers, handle);
    Py_XSETREF(handle->callback, Py_NewRef(Py_None));
    Py_XSETREF(handle->args, Py_NewRef(Py_None));
    Py_DECREF(handle);
    Py_RETURN_NONE;
}

/* For the exception that is set, in a call of `handle`. */
static int callback_failed(Handle *handle, Core *core)
{
    PyObject *error;
    PyObject *done;

    if (exception_is_fatal())
        return -1;
    error = exception_take();
    if (error == NULL)
        return -1;
    done = PyObject_CallMethodObjArgs(
        (PyObject *)core, loop_state.str__callback_failed, (PyObject *)handle, error, NULL
    );
    Py_DECREF(error);
    Py_XDECREF(done);
    return done != NULL ? 0 : -1;
}

int handle_run(Handle *handle, Core *core)
{
    PyObject *callback = handle->callback;
    PyObject *context = handle->context;
    PyObject *args = handle->args;
    PyObject *result = NULL;

    if (handle_cancelled(handle))
        return 0;
    if (core->debug) {
        result = PyObject_CallMethodOneArg((PyObject *)core, loop_state.str__run_checked, (PyObject *)handle);
        Py_XDECREF(result);
        return result != NULL ? 0 : -1;
    }
    if (callback == NULL || context == NULL || args == NULL || !PyTuple_CheckExact(args))
        return 0; /* taken apart by the garbage collector */
    /* The callback may cancel its own handle, which forgets them. */
    Py_INCREF(callback);
    Py_INCREF(context);
    Py_INCREF(args);
    if (PyContext_Enter(context) == 0) {
        result = PyObject_Vectorcall(
            callback, ((PyTupleObject *)args)->ob_item, (size_t)PyTuple_GET_SIZE(args), NULL
        );
        if (PyContext_Exit(context) != 0)
            Py_CLEAR(result);
    }
    Py_DECREF(callback);
    Py_DECREF(context);
    Py_DECREF(args);
    if (result == NULL)
        return callback_failed(handle, core);
    Py_DECREF(result);
    return 0;
}

/* ---- types --------------------------------------------------------------------------------------------------------- */

static PyMethodDef handle_methods[] = {
    {"cancel", (PyCFunction)handle_cancel, METH_NOARGS, "Cancel the callback: it will not be called."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot handle_slots[] = {
    {Py_tp_doc, "A callback of an aioring.EventLoop, as call_soon() returns it."},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_traverse, handle_traverse},
    {Py_tp_clear, handle_clear},
    {Py_tp_methods, handle_methods},
    {0, NULL},
};

static Py_ssize_t slot_offset(PyObject *type, const char *name)
{
    PyObject *member = PyObject_GetAttrString(type, name);
    Py_ssize_t offset = -1;

    if (member == NULL)
        return -1;
    if (Py_IS_TYPE(member, &PyMemberDescr_Type))
        offset = ((PyMemberDescrObject *)member)->d_member->offset;
    else
        PyErr_Format(PyExc_ImportError, "%R is not a slot of %R, as aioring needs it", member, type);
    Py_DECREF(member);
    return offset;
}

static int check_layout(PyObject *type)
{
    static const struct {
        const char *name;
        size_t offset;
    } fields[] = {
        {"_args", offsetof(Handle, args)},           {"_callback", offsetof(Handle, callback)},
        {"_cancelled", offsetof(Handle, cancelled)}, {"_context", offsetof(Handle, context)},
        {"_loop", offsetof(Handle, loop)},           {"_repr", offsetof(Handle, repr)},
        {"_source_traceback", offsetof(Handle, source_traceback)},
    };

    for (size_t i = 0; i < Py_ARRAY_LENGTH(fields); i++) {
        Py_ssize_t offset = slot_offset(type, fields[i].name);

        if (offset < 0)
            return -1;
        if ((size_t)offset != fields[i].offset) {
            PyErr_Format(PyExc_ImportError, "%R has its slot %s at %zd", type, fields[i].name, offset);
            return -1;
        }
    }
    return 0;
}

static PyTypeObject *make_type(PyObject *module, const char *name, PyObject *base, size_t extra)
{
    PyType_Spec spec = {
        .name = name,
        .basicsize = (int)(((PyTypeObject *)base)->tp_basicsize + (Py_ssize_t)extra),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
        .slots = handle_slots,
    };
    PyObject *type = PyType_FromModuleAndSpec(module, &spec, base);

    if (type != NULL && PyModule_AddType(module, (PyTypeObject *)type) != 0)
        Py_CLEAR(type);
    return (PyTypeObject *)type;
}

int handle_types_init(PyObject *module)
{
    PyObject *events = PyImport_ImportModule("asyncio.events");
    PyObject *handle = events != NULL ? PyObject_GetAttrString(events, "Handle") : NULL;
    PyObject *timer = events != NULL ? PyObject_GetAttrString(events, "TimerHandle") : NULL;
    int result = -1;

    if (handle == NULL || timer == NULL || check_layout(handle) != 0)
        goto done;
    when_offset = slot_offset(timer, "_when");
    scheduled_offset = slot_offset(timer, "_scheduled");
    if (when_offset < 0 || scheduled_offset < 0)
        goto done;
    handle_index_offset = ((PyTypeObject *)timer)->tp_basicsize;
    loop_state.handle_type = make_type(module, "aioring._loop.Handle", handle, 0);
    loop_state.timer_type = make_type(module, "aioring._loop.TimerHandle", timer, sizeof(size_t));
    if (loop_state.handle_type != NULL && loop_state.timer_type != NULL)
        result = 0;
done:
    Py_XDECREF(events);
    Py_XDECREF(handle);
    Py_XDECREF(timer);
    return result;
}
