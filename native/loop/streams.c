/* SPDX-License-Identifier: MIT */
#include "coroutine.h"
#include "stream.h"

/*
 * The native path of asyncio's streams. A transport feeds an asyncio.StreamReader itself, and read() and drain() are
 * coroutines in C. Everything is kept in the reader's own attributes, so that its other methods, all in Python, work
 * beside these; aioring._streams decides whose they are.
 */

/* ---- feeding -------------------------------------------------------------------------------------------------------- */

/* An attribute of a reader; NULL with an exception. */
static PyObject *get(PyObject *reader, PyObject *name)
{
    return PyObject_GetAttr(reader, name);
}

/* Truth of an attribute, or -1. */
static int is_true(PyObject *reader, PyObject *name)
{
    PyObject *value = get(reader, name);
    int result = value != NULL ? PyObject_IsTrue(value) : -1;

    Py_XDECREF(value);
    return result;
}

/* Wakes whoever waits in the reader: StreamReader._wakeup_waiter(). */
static int wake_waiter(PyObject *reader)
{
    PyObject *waiter = get(reader, loop_state.str__waiter);
    PyObject *done = NULL;
    int result = -1;

    if (waiter == Py_None) {
        Py_DECREF(waiter);
        return 0;
    }
    if (waiter == NULL || PyObject_SetAttr(reader, loop_state.str__waiter, Py_None) != 0)
        goto out;
    done = PyObject_CallMethodNoArgs(waiter, loop_state.str_cancelled);
    if (done == Py_False) {
        Py_DECREF(done);
        done = PyObject_CallMethodOneArg(waiter, loop_state.str_set_result, Py_None);
    }
    result = done != NULL ? 0 : -1;
out:
    Py_XDECREF(waiter);
    Py_XDECREF(done);
    return result;
}

int reader_feed(Stream *stream, const char *data, size_t size)
{
    PyObject *reader = weak_target(stream->reader);
    PyObject *buffer = NULL;
    PyObject *limit = NULL;
    Py_ssize_t before;
    int result = -1;

    if (reader == NULL)
        return PyErr_Occurred() ? -1 : 0; /* nobody reads any more */
    buffer = get(reader, loop_state.str__buffer);
    limit = get(reader, loop_state.str__limit);
    if (buffer == NULL || limit == NULL)
        goto out;
    if (!PyByteArray_CheckExact(buffer)) {
        PyErr_SetString(PyExc_TypeError, "the buffer of a StreamReader is a bytearray");
        goto out;
    }
    before = PyByteArray_GET_SIZE(buffer);
    if (PyByteArray_Resize(buffer, before + (Py_ssize_t)size) != 0)
        goto out;
    memcpy(PyByteArray_AS_STRING(buffer) + before, data, size);
    if (wake_waiter(reader) != 0)
        goto out;
    if ((size_t)before + size > 2 * PyLong_AsSize_t(limit) && !PyErr_Occurred()) {
        int paused = is_true(reader, loop_state.str__paused);

        if (paused < 0 || (paused == 0 && PyObject_SetAttr(reader, loop_state.str__paused, Py_True) != 0))
            goto out;
        stream->paused = true;
    }
    result = PyErr_Occurred() ? -1 : 0;
out:
    Py_DECREF(reader);
    Py_XDECREF(buffer);
    Py_XDECREF(limit);
    return result;
}

/* ---- coroutines ------------------------------------------------------------------------------------------------------ */

typedef struct StreamCall {
    COROUTINE_HEAD
    PyObject *stream; /* StreamReader of read(), StreamWriter of drain() */
    PyObject *inner; /* asyncio's coroutine, where the plain case is not given */
    Stream *source; /* of read(), while it waits: what feeds the reader; NULL: not ours, or it does not wait */
    Py_ssize_t size;
    bool drain;
    bool turn; /* it waits until others had theirs */
    bool woken; /* by reader_wake() */
} StreamCall;

static struct coroutines free_calls;

/* What read() returns from a buffer that is not empty, or at the end. */
static PyObject *take(StreamCall *call, PyObject *buffer)
{
    Py_ssize_t length = PyByteArray_GET_SIZE(buffer);
    Py_ssize_t size = call->size < length ? call->size : length;
    PyObject *data = PyBytes_FromStringAndSize(PyByteArray_AS_STRING(buffer), size);
    int paused;

    if (data == NULL)
        return NULL;
    if (size == length) {
        if (PyByteArray_Resize(buffer, 0) != 0)
            goto failed;
    } else {
        if (PySequence_DelSlice(buffer, 0, size) != 0)
            goto failed;
    }
    paused = is_true(call->stream, loop_state.str__paused);
    if (paused > 0) {
        PyObject *done = PyObject_CallMethodNoArgs(call->stream, loop_state.str__maybe_resume_transport);

        paused = done != NULL ? 0 : -1;
        Py_XDECREF(done);
    }
    if (paused == 0)
        return data;
failed:
    Py_DECREF(data);
    return NULL;
}

static PyObject *raise_waiting(void)
{
    PyErr_SetString(PyExc_RuntimeError, "read() called while another coroutine is already waiting for incoming data");
    return NULL;
}

/* StreamReader._wait_for_data(): the future to wait for. */
static PyObject *wait_for_data(StreamCall *call)
{
    PyObject *reader = call->stream;
    PyObject *waiter = get(reader, loop_state.str__waiter);
    PyObject *loop;
    int paused;

    if (waiter == NULL)
        return NULL;
    Py_DECREF(waiter);
    if (waiter != Py_None)
        return raise_waiting();
    paused = call->source != NULL && !call->source->paused ? 0 : is_true(reader, loop_state.str__paused);
    if (paused < 0)
        return NULL;
    if (paused) {
        PyObject *done = NULL;
        PyObject *transport = NULL;

        if (PyObject_SetAttr(reader, loop_state.str__paused, Py_False) == 0)
            transport = get(reader, loop_state.str__transport);
        if (transport != NULL)
            done = PyObject_CallMethod(transport, "resume_reading", NULL);
        Py_XDECREF(transport);
        Py_XDECREF(done);
        if (done == NULL)
            return NULL;
    }
    loop = get(reader, loop_state.str__loop);
    if (loop == NULL)
        return NULL;
    waiter = coroutine_wait((Coroutine *)call, (Core *)loop);
    Py_DECREF(loop);
    if (waiter != NULL && PyObject_SetAttr(reader, loop_state.str__waiter, waiter) != 0)
        Py_CLEAR(waiter);
    return waiter;
}

/* It is about to wait: finds what feeds the reader, if that goes on. 0, or -1 if another waits already. */
static int find_source(StreamCall *call)
{
    PyObject *transport = get(call->stream, loop_state.str__transport);
    Stream *stream = (Stream *)transport;
    PyObject *reader = NULL;

    if (transport == NULL)
        return -1;
    if (PyObject_TypeCheck(transport, loop_state.stream_type) && stream->reader != NULL && stream->core != NULL &&
        !stream->closing && !stream->read_ended)
        reader = weak_target(stream->reader);
    Py_XDECREF(reader);
    if (reader != call->stream) {
        Py_DECREF(transport);
        return PyErr_Occurred() ? -1 : 0;
    }
    if (stream->reading != NULL) {
        Py_DECREF(transport);
        (void)raise_waiting();
        return -1;
    }
    stream->reading = call;
    call->source = stream;
    return 0;
}

/* It does not wait any more. What it was woken for and did not read is the stream's to read. */
static void leave_source(StreamCall *call)
{
    Stream *stream = call->source;

    if (stream == NULL)
        return;
    call->source = NULL;
    if (stream->reading == call)
        stream->reading = NULL;
    if (stream->read_due && !stream->paused && stream->core != NULL && stream_queue(stream) != 0)
        PyErr_Clear();
    Py_DECREF(stream);
}

bool reader_wake(Stream *stream)
{
    StreamCall *call = stream->reading;

    if (call == NULL || call->waiter == NULL)
        return false;
    if (PyObject_SetAttr(call->stream, loop_state.str__waiter, Py_None) != 0) {
        PyErr_Clear();
        return false;
    }
    call->woken = true;
    coroutine_wake((Coroutine *)call);
    return true;
}

/*
 * What there is to read now, for a read() that waited and whose reader has nothing: after an event, or after a turn of
 * the others. That is in place of a future: on a busy loop the event has come by that time. NULL without an exception:
 * nothing.
 */
static PyObject *read_source(StreamCall *call)
{
    Stream *stream = call->source;
    PyObject *data = stream->reading == call ? stream_read_now(stream, call->size) : NULL;

    if (call->turn)
        trial_ended(&stream->turn, data != NULL);
    if (data == NULL && stream->read_due && !stream->paused && stream->core != NULL && !PyErr_Occurred())
        (void)stream_queue(stream);
    return data;
}

/* 0, or -1 with the exception that the reader was told of. */
static int check_exception(PyObject *reader)
{
    PyObject *error = get(reader, loop_state.str__exception);

    if (error == NULL)
        return -1;
    if (error != Py_None)
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_DECREF(error);
    return error != Py_None ? -1 : 0;
}

/* What read() gives if the buffer is empty: what is read now, the turn of others, its end, or a future. */
static PySendResult read_empty(StreamCall *call, PyObject **result)
{
    int eof;

    if (call->state == NEW) {
        call->state = RUNNING;
        if (find_source(call) != 0)
            return PYGEN_ERROR;
        call->turn = call->source != NULL && call->source->core->ready.count != 0 && trial_due(&call->source->turn);
        if (call->turn) {
            *result = Py_NewRef(Py_None);
            return PYGEN_NEXT;
        }
    } else {
        *result = read_source(call);
        if (*result != NULL)
            return PYGEN_RETURN;
        if (PyErr_Occurred() || check_exception(call->stream) != 0)
            return PYGEN_ERROR;
        call->turn = call->woken = false;
    }
    eof = is_true(call->stream, loop_state.str__eof);
    if (eof < 0)
        return PYGEN_ERROR;
    *result = eof != 0 ? PyBytes_FromStringAndSize(NULL, 0) : wait_for_data(call);
    return *result == NULL ? PYGEN_ERROR : eof != 0 ? PYGEN_RETURN : PYGEN_NEXT;
}

static PySendResult read_step(StreamCall *call, PyObject **result)
{
    PyObject *reader = call->stream;
    PyObject *buffer;
    PySendResult step;
    /* By the reader itself, which has what it waited for. */
    bool fed = call->state == RUNNING && !call->turn && !call->woken;

    if (call->state == NEW ? check_exception(reader) != 0
                           : fed && PyObject_SetAttr(reader, loop_state.str__waiter, Py_None) != 0)
        return PYGEN_ERROR;
    if (call->size == 0) {
        *result = PyBytes_FromStringAndSize(NULL, 0);
        return *result != NULL ? PYGEN_RETURN : PYGEN_ERROR;
    }
    buffer = get(reader, loop_state.str__buffer);
    if (buffer == NULL)
        return PYGEN_ERROR;
    if (!PyByteArray_CheckExact(buffer)) {
        PyErr_SetString(PyExc_TypeError, "the buffer of a StreamReader is a bytearray");
        step = PYGEN_ERROR;
    } else if (PyByteArray_GET_SIZE(buffer) == 0 && !fed) {
        step = read_empty(call, result);
    } else {
        *result = take(call, buffer);
        step = *result != NULL ? PYGEN_RETURN : PYGEN_ERROR;
    }
    Py_DECREF(buffer);
    return step;
}

/* 1: there is nothing to wait for, nor to raise; 0: asyncio's coroutine is to find out; -1. */
static int drained(PyObject *writer)
{
    PyObject *reader = get(writer, loop_state.str__reader);
    PyObject *transport = reader != NULL ? get(writer, loop_state.str__transport) : NULL;
    PyObject *error = NULL;
    int result = transport != NULL ? 0 : -1;

    if (transport != NULL && PyObject_TypeCheck(transport, loop_state.stream_type) && reader != Py_None) {
        Stream *stream = (Stream *)transport;

        error = get(reader, loop_state.str__exception);
        if (error == NULL)
            result = -1;
        else if (error == Py_None && !stream->closing && !stream->protocol_paused && stream->core != NULL)
            result = 1;
    }
    Py_XDECREF(error);
    Py_XDECREF(reader);
    Py_XDECREF(transport);
    return result;
}

static PySendResult drain_step(StreamCall *call, PyObject *value, PyObject **result)
{
    if (call->inner == NULL) {
        int done = drained(call->stream);

        if (done < 0)
            return PYGEN_ERROR;
        if (done > 0) {
            *result = Py_NewRef(Py_None);
            return PYGEN_RETURN;
        }
        call->inner = PyObject_CallOneArg(loop_state.base_drain, call->stream);
        if (call->inner == NULL)
            return PYGEN_ERROR;
    }
    call->state = RUNNING;
    return PyIter_Send(call->inner, value, result);
}

static void finish(StreamCall *call)
{
    call->state = DONE;
    leave_source(call);
    Py_CLEAR(call->waiter);
}

static PySendResult call_send(StreamCall *call, PyObject *value, PyObject **result)
{
    PySendResult step;

    *result = NULL;
    if (!coroutine_check((Coroutine *)call))
        return PYGEN_ERROR;
    step = call->drain ? drain_step(call, value, result) : read_step(call, result);
    if (step != PYGEN_NEXT)
        finish(call);
    return step;
}

/* Nobody waits in the reader any more. */
static int give_up(StreamCall *call)
{
    bool waited = call->state == RUNNING && !call->drain && !call->turn && !call->woken;

    finish(call);
    return waited ? PyObject_SetAttr(call->stream, loop_state.str__waiter, Py_None) : 0;
}

static PyObject *call_throw(StreamCall *call, PyObject *const *args, Py_ssize_t count)
{
    if (call->inner != NULL && call->state != DONE) {
        PyObject *throw = PyObject_GetAttrString(call->inner, "throw");
        PyObject *result = throw != NULL ? PyObject_Vectorcall(throw, args, (size_t)count, NULL) : NULL;

        Py_XDECREF(throw);
        if (result == NULL)
            finish(call);
        return result;
    }
    return give_up(call) == 0 ? coroutine_raise(args, count) : NULL;
}

static PyObject *call_close(StreamCall *call, PyObject *Py_UNUSED(unused))
{
    if (give_up(call) != 0)
        return NULL;
    if (call->inner != NULL)
        return PyObject_CallMethod(call->inner, "close", NULL);
    Py_RETURN_NONE;
}

static int call_traverse(StreamCall *call, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(call));
    Py_VISIT(call->waiter);
    Py_VISIT(call->stream);
    Py_VISIT(call->inner);
    Py_VISIT(call->source);
    return 0;
}

static int call_clear(StreamCall *call)
{
    leave_source(call);
    Py_CLEAR(call->waiter);
    Py_CLEAR(call->stream);
    Py_CLEAR(call->inner);
    return 0;
}

static void call_dealloc(StreamCall *call)
{
    PyObject_GC_UnTrack(call);
    coroutine_warn((Coroutine *)call);
    call_clear(call);
    coroutine_free(&free_calls, (Coroutine *)call);
}

static PyMethodDef call_methods[] = COROUTINE_METHODS(call_throw, call_close);

static PyType_Slot call_slots[] = {
    {Py_tp_doc, "A coroutine: read() or drain() of a stream."},
    {Py_tp_dealloc, call_dealloc},
    {Py_tp_traverse, call_traverse},
    {Py_tp_clear, call_clear},
    {Py_tp_methods, call_methods},
    {Py_am_send, call_send},
    COROUTINE_SLOTS,
    {0, NULL},
};

PyType_Spec stream_call_spec = {
    .name = "aioring._loop.StreamCall",
    .basicsize = sizeof(StreamCall),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = call_slots,
};

/* ---- methods of the streams ------------------------------------------------------------------------------------------ */

static StreamCall *new_call(PyObject *stream, bool drain)
{
    const char *name = drain ? "StreamWriter.drain" : "StreamReader.read";
    StreamCall *call = (StreamCall *)coroutine_new(&free_calls, loop_state.stream_call_type, name);

    if (call != NULL) {
        call->stream = Py_NewRef(stream);
        call->drain = drain;
    }
    return call;
}

static PyObject *reader_read(PyObject *reader, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    Py_ssize_t total = count + (keywords != NULL ? PyTuple_GET_SIZE(keywords) : 0);
    Py_ssize_t size = -1;
    StreamCall *call;

    if (total > 1 || (keywords != NULL && total == 1 &&
                      PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(keywords, 0), "n") != 0)) {
        PyErr_SetString(PyExc_TypeError, "read() takes one argument: n");
        return NULL;
    }
    if (total == 1) {
        size = PyNumber_AsSsize_t(args[0], NULL);
        if (size == -1 && PyErr_Occurred())
            return NULL;
    }
    if (size < 0)
        return PyObject_CallOneArg(loop_state.base_read, reader); /* to the end: asyncio's, over this one */
    call = new_call(reader, false);
    if (call != NULL)
        call->size = size;
    return (PyObject *)call;
}

static PyObject *writer_drain(PyObject *writer, PyObject *Py_UNUSED(unused))
{
    return (PyObject *)new_call(writer, true);
}

static PyObject *writer_write(PyObject *writer, PyObject *data)
{
    PyObject *transport = get(writer, loop_state.str__transport);
    PyObject *result;

    if (transport == NULL)
        return NULL;
    result = PyObject_TypeCheck(transport, loop_state.stream_type) ? stream_write((Stream *)transport, data)
                                                                   : PyObject_CallMethod(transport, "write", "O", data);
    Py_DECREF(transport);
    return result;
}

#define FAST(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef read_method = {
    "read", FAST(reader_read), METH_FASTCALL | METH_KEYWORDS, "read(n=-1)\n--\n\nAs asyncio.StreamReader.read()."};
static PyMethodDef drain_method = {
    "drain", writer_drain, METH_NOARGS, "drain()\n--\n\nAs asyncio.StreamWriter.drain()."};
static PyMethodDef write_method = {
    "write", writer_write, METH_O, "write(data)\n--\n\nAs asyncio.StreamWriter.write()."};

static int add_method(PyObject *module, const char *name, PyObject *type, PyMethodDef *method)
{
    PyObject *descriptor = PyDescr_NewMethod((PyTypeObject *)type, method);
    int result = descriptor != NULL ? PyModule_AddObjectRef(module, name, descriptor) : -1;

    Py_XDECREF(descriptor);
    return result;
}

/* Adds the methods to the module, for the classes of aioring._streams to take. */
int streams_init(PyObject *module, PyObject *reader, PyObject *writer)
{
    loop_state.base_read = PyObject_GetAttrString(reader, "read");
    loop_state.base_drain = PyObject_GetAttrString(writer, "drain");
    if (loop_state.base_read == NULL || loop_state.base_drain == NULL)
        return -1;
    if (add_method(module, "stream_read", reader, &read_method) != 0 ||
        add_method(module, "stream_drain", writer, &drain_method) != 0)
        return -1;
    return add_method(module, "stream_write", writer, &write_method);
}
