/* SPDX-License-Identifier: MIT */
#include "stream.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

/* asyncio's LOG_THRESHOLD_FOR_CONNLOST_WRITES. */
#define LOST_WRITES 5
/* What is not copied, and the room for it; below malloc()'s threshold for a mapping of its own (128 KiB). */
#define LARGE (32 * 1024)
#define LARGE_ROOM (96 * 1024)

/* ---- turns --------------------------------------------------------------------------------------------------------- */

int stream_queue(Stream *stream)
{
    if (stream->queued)
        return 0;
    stream->queued = true;
    return ready_push(&stream->core->ready, (PyObject *)stream);
}

void stream_readable(Core *core, struct operation *operation, int32_t result, bool more)
{
    Stream *stream = (Stream *)(void *)((char *)operation - offsetof(Stream, readable));

    if (stream->closing || stream->core == NULL)
        return;
    /* An error of the poll itself: the next recv() will find out. */
    if (result < 0 || (result & (POLLRDHUP | POLLHUP | POLLERR)) != 0)
        stream->hung_up = true;
    stream->read_due = true;
    if (!more && !stream->read_ended)
        operation_start(core, operation, (PyObject *)stream);
    /* An end, or an error, is for the stream itself. */
    if (!stream->paused && (stream->hung_up || !reader_wake(stream)))
        (void)stream_queue(stream);
}

void stream_writable(Core *Py_UNUSED(core), struct operation *operation, int32_t Py_UNUSED(result), bool Py_UNUSED(more))
{
    Stream *stream = (Stream *)(void *)((char *)operation - offsetof(Stream, writable));

    if (stream->lost != 0 || stream->core == NULL)
        return;
    stream->write_due = true;
    (void)stream_queue(stream);
}

int stream_start_reading(Stream *stream)
{
    if (!stream->closing && !stream->read_ended && stream->core != NULL)
        operation_start(stream->core, &stream->readable, (PyObject *)stream);
    return 0;
}

/* ---- errors and ends ------------------------------------------------------------------------------------------------ */

static int call_and_drop(PyObject *done)
{
    Py_XDECREF(done);
    return done != NULL ? 0 : -1;
}

/* Ends the connection with the exception that is set, unless that ends the loop. */
static int fail(Stream *stream, const char *message)
{
    PyObject *error;
    int result;

    if (exception_is_fatal())
        return -1;
    error = exception_take();
    if (error == NULL)
        return -1;
    result = call_and_drop(PyObject_CallMethod((PyObject *)stream, "_fatal_error", "Os", error, message));
    Py_DECREF(error);
    return result;
}

static int fail_errno(Stream *stream, int code, const char *message)
{
    raise_errno(code);
    return fail(stream, message);
}

static int lose_soon(Stream *stream, PyObject *error)
{
    PyObject *callback = PyObject_GetAttrString((PyObject *)stream, "_call_connection_lost");
    Handle *handle = callback != NULL ? handle_new(stream->core, callback, &error, 1, NULL, NULL) : NULL;
    int result = handle != NULL ? ready_push(&stream->core->ready, (PyObject *)handle) : -1;

    Py_XDECREF(callback);
    Py_XDECREF(handle);
    return result;
}

PyObject *stream_close(Stream *stream, PyObject *Py_UNUSED(unused))
{
    if (stream->closing || stream->core == NULL)
        Py_RETURN_NONE;
    stream->closing = true;
    operation_stop(stream->core, &stream->readable);
    if (stream->outgoing.size == 0) {
        stream->lost++;
        operation_stop(stream->core, &stream->writable);
        if (lose_soon(stream, Py_None) != 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *stream_force_close(Stream *stream, PyObject *error)
{
    if (stream->lost != 0 || stream->core == NULL)
        Py_RETURN_NONE;
    outgoing_clear(&stream->outgoing);
    operation_stop(stream->core, &stream->writable);
    stream->closing = true;
    operation_stop(stream->core, &stream->readable);
    stream->lost++;
    if (lose_soon(stream, error) != 0)
        return NULL;
    Py_RETURN_NONE;
}

/* ---- reading -------------------------------------------------------------------------------------------------------- */

static int read_eof(Stream *stream)
{
    PyObject *keep_open = PyObject_CallMethod(stream->protocol, "eof_received", NULL);
    int keep;

    if (keep_open == NULL)
        return fail(stream, "Fatal error: protocol.eof_received() call failed.");
    keep = PyObject_IsTrue(keep_open);
    Py_DECREF(keep_open);
    if (keep < 0)
        return fail(stream, "Fatal error: protocol.eof_received() call failed.");
    if (!keep)
        return call_and_drop(PyObject_CallMethod((PyObject *)stream, "close", NULL));
    stream->read_ended = true;
    if (stream->core != NULL)
        operation_stop(stream->core, &stream->readable);
    return 0;
}

/*
 * What follows a recv() of `size` bytes into room for `room`. A socket that gave less than was asked for has no more:
 * the next event tells of the next bytes. At an announced end none would.
 */
static int read_on(Stream *stream, size_t size, size_t room)
{
    if (stream->core == NULL || stream->closing || stream->read_ended)
        return 0;
    if (size < room && !stream->hung_up)
        return 0;
    stream->read_due = true;
    return stream->paused ? 0 : stream_queue(stream);
}

static int read_failed(Stream *stream, int code)
{
    if (code == EAGAIN || code == EINTR) {
        if (code == EINTR)
            return read_on(stream, 1, 1);
        stream->hung_up = false;
        return 0;
    }
    return fail_errno(stream, code, "Fatal read error on socket transport");
}

static int receive(Stream *stream, PyObject *data)
{
    PyObject *done = PyObject_CallMethodOneArg(stream->protocol, loop_state.str_data_received, data);

    Py_XDECREF(done);
    return done != NULL ? 0 : fail(stream, "Fatal error: protocol.data_received() call failed.");
}

/* read_failed() in the stream's context. */
static void fail_to_read(Stream *stream, int code)
{
    PyObject *context = Py_NewRef(stream->context);

    if (PyContext_Enter(context) == 0) {
        (void)read_failed(stream, code);
        (void)PyContext_Exit(context);
    }
    Py_DECREF(context);
}

/* Most of what comes is small, and is copied once from where the processor's cache already is. */
static int read_plain(Stream *stream)
{
    Core *core = stream->core;
    PyObject *data;
    ssize_t size;
    int result;

    if (core->hot == NULL) {
        core->hot = PyMem_Malloc(HOT_SIZE);
        if (core->hot == NULL) {
            PyErr_NoMemory();
            return -1;
        }
    }
    size = recv(stream->fd, core->hot, HOT_SIZE, MSG_DONTWAIT);
    if (size < 0)
        return read_failed(stream, errno);
    if (size == 0)
        return read_eof(stream);
    stream->large = size >= LARGE;
    if (stream->reader != NULL) {
        if (reader_feed(stream, core->hot, (size_t)size) != 0)
            return fail(stream, "Fatal error: protocol.data_received() call failed.");
        return read_on(stream, (size_t)size, HOT_SIZE);
    }
    data = PyBytes_FromStringAndSize(core->hot, size);
    if (data == NULL)
        return -1;
    result = receive(stream, data);
    Py_DECREF(data);
    return result != 0 ? result : read_on(stream, (size_t)size, HOT_SIZE);
}

PyObject *stream_read_now(Stream *stream, Py_ssize_t size)
{
    Core *core = stream->core;
    size_t room = size < HOT_SIZE ? (size_t)size : HOT_SIZE;
    PyObject *data;
    ssize_t got;

    if (core == NULL || core->hot == NULL || !stream->read_due || stream->hung_up || stream->paused ||
        stream->closing || stream->read_ended)
        return NULL;
    got = recv(stream->fd, core->hot, room, MSG_DONTWAIT);
    if (got <= 0) {
        int code = errno;

        /* An error is told once; an end, again. */
        if (got < 0 && code != EAGAIN && code != EINTR)
            fail_to_read(stream, code);
        return NULL;
    }
    data = PyBytes_FromStringAndSize(core->hot, got);
    stream->read_due = false;
    if (read_on(stream, (size_t)got, room) != 0)
        Py_CLEAR(data);
    return data;
}

/* Where the last was large the next may be: it is received where it stays. */
static int read_large(Stream *stream)
{
    PyObject *data = PyBytes_FromStringAndSize(NULL, LARGE_ROOM);
    ssize_t size;
    int result;

    if (data == NULL)
        return -1;
    size = recv(stream->fd, PyBytes_AS_STRING(data), LARGE_ROOM, MSG_DONTWAIT);
    if (size <= 0) {
        int code = errno;

        Py_DECREF(data);
        return size == 0 ? read_eof(stream) : read_failed(stream, code);
    }
    stream->large = size >= LARGE;
    if (size < LARGE_ROOM && _PyBytes_Resize(&data, size) != 0)
        return -1;
    result = receive(stream, data);
    Py_DECREF(data);
    return result != 0 ? result : read_on(stream, (size_t)size, LARGE_ROOM);
}

/* A method of the protocol that takes a number. */
static PyObject *call_with_number(PyObject *protocol, PyObject *method, Py_ssize_t number)
{
    PyObject *argument = PyLong_FromSsize_t(number);
    PyObject *result = argument != NULL ? PyObject_CallMethodOneArg(protocol, method, argument) : NULL;

    Py_XDECREF(argument);
    return result;
}

static int read_buffered(Stream *stream)
{
    PyObject *buffer = call_with_number(stream->protocol, loop_state.str_get_buffer, -1);
    Py_buffer view;
    PyObject *done;
    ssize_t size;
    int code;
    size_t room;

    if (buffer == NULL)
        return fail(stream, "Fatal error: protocol.get_buffer() call failed.");
    code = PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE);
    Py_DECREF(buffer);
    if (code == 0 && view.len == 0) {
        PyBuffer_Release(&view);
        PyErr_SetString(PyExc_RuntimeError, "get_buffer() returned an empty buffer");
        code = -1;
    }
    if (code != 0)
        return fail(stream, "Fatal error: protocol.get_buffer() call failed.");
    room = (size_t)view.len;
    size = recv(stream->fd, view.buf, room, MSG_DONTWAIT);
    code = errno;
    PyBuffer_Release(&view);
    if (size < 0)
        return read_failed(stream, code);
    if (size == 0)
        return read_eof(stream);
    done = call_with_number(stream->protocol, loop_state.str_buffer_updated, size);
    if (done == NULL)
        return fail(stream, "Fatal error: protocol.buffer_updated() call failed.");
    Py_DECREF(done);
    return read_on(stream, (size_t)size, room);
}

/* ---- writing -------------------------------------------------------------------------------------------------------- */

static const char write_failed[] = "Fatal write error on socket transport";

/* What could not be sent waits for room in the socket. */
static int write_later(Stream *stream)
{
    operation_start(stream->core, &stream->writable, (PyObject *)stream);
    if (stream->outgoing.size > (size_t)stream->high_water && !stream->protocol_paused)
        return call_and_drop(PyObject_CallMethod((PyObject *)stream, "_maybe_pause_protocol", NULL));
    return 0;
}

static int write_turn(Stream *stream)
{
    ssize_t size;

    if (stream->lost != 0 || stream->outgoing.size == 0)
        return 0;
    size = outgoing_send(&stream->outgoing, stream->fd);
    if (size < 0 && size != -EAGAIN && size != -EINTR) {
        PyObject *waiter = Py_XNewRef(stream->empty_waiter);
        int result;

        outgoing_clear(&stream->outgoing);
        if (waiter != NULL && waiter != Py_None) {
            PyObject *error;

            raise_errno((int)-size);
            error = exception_take();
            Py_XDECREF(error != NULL ? PyObject_CallMethod(waiter, "set_exception", "O", error) : NULL);
            Py_XDECREF(error);
            PyErr_Clear(); /* cancelled meanwhile: nobody waits */
        }
        Py_XDECREF(waiter);
        result = fail_errno(stream, (int)-size, write_failed);
        return result;
    }
    if (stream->protocol_paused && stream->outgoing.size <= (size_t)stream->low_water &&
        call_and_drop(PyObject_CallMethod((PyObject *)stream, "_maybe_resume_protocol", NULL)) != 0)
        return -1;
    if (stream->core == NULL || stream->lost != 0)
        return 0;
    if (stream->outgoing.size != 0) {
        operation_start(stream->core, &stream->writable, (PyObject *)stream);
        return 0;
    }
    if (stream->empty_waiter != NULL && stream->empty_waiter != Py_None &&
        call_and_drop(PyObject_CallMethod((PyObject *)stream, "_drained", NULL)) != 0)
        return -1;
    if (stream->closing) {
        stream->lost++;
        return call_and_drop(PyObject_CallMethod((PyObject *)stream, "_call_connection_lost", "O", Py_None));
    }
    if (stream->eof)
        (void)shutdown(stream->fd, SHUT_WR); /* fails only if the peer is gone, which reading tells */
    return 0;
}

/* 1: go on, 0: there is nothing to be done, -1. */
static int may_write(Stream *stream, const char *name)
{
    if (stream->eof)
        PyErr_Format(PyExc_RuntimeError, "Cannot call %s() after write_eof()", name);
    else if (stream->empty_waiter != NULL && stream->empty_waiter != Py_None)
        PyErr_Format(PyExc_RuntimeError, "unable to %s; sendfile is in progress", name);
    else
        return 1;
    return -1;
}

/* A write to a connection that is lost goes nowhere; who goes on for long is told. */
static PyObject *write_lost(Stream *stream)
{
    if (stream->lost >= LOST_WRITES && call_and_drop(PyObject_CallMethod((PyObject *)stream, "_warn_lost", NULL)) != 0)
        return NULL;
    stream->lost++;
    Py_RETURN_NONE;
}

PyObject *stream_write(Stream *stream, PyObject *data)
{
    Py_buffer view = {.obj = NULL};
    const char *at;
    size_t size;
    ssize_t done = 0;
    int result = 0;

    if (PyBytes_Check(data)) {
        at = PyBytes_AS_STRING(data);
        size = (size_t)PyBytes_GET_SIZE(data);
    } else if (PyByteArray_Check(data) || PyMemoryView_Check(data)) {
        if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) != 0)
            return NULL;
        at = view.buf;
        size = (size_t)view.len;
    } else {
        return PyErr_Format(
            PyExc_TypeError, "data argument must be a bytes-like object, not '%s'", Py_TYPE(data)->tp_name
        );
    }
    if (may_write(stream, "write") < 0) {
        result = -1;
    } else if (size == 0) {
        ;
    } else if (stream->lost != 0 || stream->core == NULL) {
        PyBuffer_Release(&view);
        return write_lost(stream);
    } else {
        if (stream->outgoing.size == 0) {
            done = send(stream->fd, at, size, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (done < 0 && errno != EAGAIN && errno != EINTR) {
                int code = errno;

                PyBuffer_Release(&view);
                if (fail_errno(stream, code, write_failed) != 0)
                    return NULL;
                Py_RETURN_NONE;
            }
            if (done < 0)
                done = 0;
        }
        if ((size_t)done < size) {
            result = outgoing_add(&stream->outgoing, data, at, size, (size_t)done);
            if (result == 0)
                result = write_later(stream);
        }
    }
    PyBuffer_Release(&view);
    if (result != 0)
        return NULL;
    Py_RETURN_NONE;
}

static int add_piece(Stream *stream, PyObject *data)
{
    Py_buffer view;
    int result = 0;

    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) != 0)
        return -1;
    if (view.len != 0)
        result = outgoing_add(&stream->outgoing, data, view.buf, (size_t)view.len, 0);
    PyBuffer_Release(&view);
    return result;
}

PyObject *stream_writelines(Stream *stream, PyObject *pieces)
{
    PyObject *list;
    bool waiting = stream->outgoing.size != 0;
    ssize_t sent = 0;

    if (may_write(stream, "writelines") < 0)
        return NULL;
    /* A copy, in which nothing changes: bytes only from here on. All or nothing is taken over. */
    list = PySequence_List(pieces);
    if (list == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        PyObject *piece = PyList_GET_ITEM(list, i);

        if (!PyBytes_Check(piece)) {
            PyObject *copy = PyBytes_FromObject(piece);

            if (copy == NULL || !PyObject_CheckBuffer(piece)) {
                if (copy != NULL)
                    PyErr_Format(
                        PyExc_TypeError, "data argument must be a bytes-like object, not '%s'", Py_TYPE(piece)->tp_name
                    );
                Py_XDECREF(copy);
                Py_DECREF(list);
                return NULL;
            }
            PyList_SetItem(list, i, copy);
        }
    }
    if (PyList_GET_SIZE(list) != 0 && (stream->lost != 0 || stream->core == NULL)) {
        Py_DECREF(list);
        return write_lost(stream);
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        if (add_piece(stream, PyList_GET_ITEM(list, i)) != 0) {
            Py_DECREF(list);
            return NULL;
        }
    }
    Py_DECREF(list);
    if (!waiting && stream->outgoing.size != 0) {
        sent = outgoing_send(&stream->outgoing, stream->fd);
        if (sent < 0 && sent != -EAGAIN && sent != -EINTR) {
            outgoing_clear(&stream->outgoing);
            if (fail_errno(stream, (int)-sent, write_failed) != 0)
                return NULL;
            Py_RETURN_NONE;
        }
    }
    if (stream->outgoing.size != 0 && write_later(stream) != 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *stream_write_eof(Stream *stream, PyObject *Py_UNUSED(unused))
{
    if (stream->closing || stream->eof || stream->core == NULL)
        Py_RETURN_NONE;
    stream->eof = true;
    if (stream->outgoing.size == 0 && shutdown(stream->fd, SHUT_WR) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

/* ---- a turn --------------------------------------------------------------------------------------------------------- */

int stream_turn(Stream *stream)
{
    PyObject *context = stream->context;
    int result = 0;

    stream->queued = false;
    if (stream->core == NULL || context == NULL || !(stream->write_due || stream->read_due))
        return 0;
    Py_INCREF(context);
    if (PyContext_Enter(context) != 0) {
        Py_DECREF(context);
        return -1;
    }
    if (stream->write_due) {
        stream->write_due = false;
        result = write_turn(stream);
    }
    if (result == 0 && stream->read_due && !stream->paused && !stream->closing && !stream->read_ended &&
        stream->core != NULL) {
        stream->read_due = false;
        result = stream->buffered                                ? read_buffered(stream)
                 : stream->large && stream->reader == NULL ? read_large(stream)
                                                           : read_plain(stream);
    }
    if (PyContext_Exit(context) != 0)
        result = -1;
    Py_DECREF(context);
    return result;
}

int stream_run(PyObject *object, Core *core)
{
    Stream *stream = (Stream *)object;

    if (core->debug)
        return call_and_drop(PyObject_CallMethodOneArg((PyObject *)core, loop_state.str__run_checked, object));
    return stream_turn(stream);
}
