/* SPDX-License-Identifier: MIT */
#include "stream.h"

#include <poll.h>
#include <structmember.h>

/* The type StreamTransport: its life, its attributes, and the methods that move no bytes. */

/* _open(loop, sock, fd, server): the transport takes over a connected, non-blocking socket. */
static PyObject *stream_open(Stream *stream, PyObject *const *args, Py_ssize_t count)
{
    int fd;

    if (count != 4 || !PyObject_TypeCheck(args[0], loop_state.core_type)) {
        PyErr_SetString(PyExc_TypeError, "_open(loop, sock, fd, server)");
        return NULL;
    }
    fd = PyObject_AsFileDescriptor(args[2]);
    if (fd < 0)
        return NULL;
    if (stream->core != NULL || stream->lost != 0) {
        PyErr_SetString(PyExc_RuntimeError, "the transport was opened before");
        return NULL;
    }
    stream->context = PyContext_CopyCurrent();
    if (stream->context == NULL)
        return NULL;
    stream->core = (Core *)Py_NewRef(args[0]);
    stream->sock = Py_NewRef(args[1]);
    stream->server = Py_NewRef(args[3]);
    stream->empty_waiter = Py_NewRef(Py_None);
    stream->fd = fd;
    stream->readable = (struct operation){
        .kind = OPERATION_POLL, .fd = fd, .mask = POLLIN | POLLRDHUP, .done = stream_readable};
    stream->writable = (struct operation){
        .kind = OPERATION_POLL_ONCE, .fd = fd, .mask = POLLOUT, .done = stream_writable};
    Py_RETURN_NONE;
}

/* _release(): the connection is lost and its protocol knows. What refers to others goes. */
static PyObject *stream_release(Stream *stream, PyObject *Py_UNUSED(unused))
{
    stream->lost += stream->lost == 0;
    stream->closing = true;
    if (stream->core != NULL) {
        operation_stop(stream->core, &stream->readable);
        operation_stop(stream->core, &stream->writable);
    }
    outgoing_clear(&stream->outgoing);
    Py_CLEAR(stream->core);
    Py_CLEAR(stream->sock);
    Py_CLEAR(stream->protocol);
    Py_CLEAR(stream->reader);
    Py_CLEAR(stream->server);
    Py_CLEAR(stream->context);
    Py_RETURN_NONE;
}

static PyObject *stream_set_protocol(Stream *stream, PyObject *const *args, Py_ssize_t count)
{
    int buffered;

    if (count != 3 || (args[2] != Py_None && !PyWeakref_Check(args[2]))) {
        PyErr_SetString(PyExc_TypeError, "_set_protocol(protocol, buffered, reader)");
        return NULL;
    }
    buffered = PyObject_IsTrue(args[1]);
    if (buffered < 0)
        return NULL;
    stream->buffered = buffered != 0;
    stream->reading = NULL; /* it gets no other reader's data */
    Py_XSETREF(stream->protocol, Py_NewRef(args[0]));
    Py_XSETREF(stream->reader, args[2] != Py_None ? Py_NewRef(args[2]) : NULL);
    Py_RETURN_NONE;
}

static PyObject *stream_pause_reading(Stream *stream, PyObject *Py_UNUSED(unused))
{
    /* The poll stays armed: it tells of the first event, after which nothing is due until someone reads. */
    if (!stream->closing)
        stream->paused = true;
    Py_RETURN_NONE;
}

static PyObject *stream_resume_reading(Stream *stream, PyObject *Py_UNUSED(unused))
{
    if (stream->closing || !stream->paused || stream->core == NULL)
        Py_RETURN_NONE;
    stream->paused = false;
    if (stream->read_due && stream_queue(stream) != 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *stream_begin(Stream *stream, PyObject *Py_UNUSED(unused))
{
    stream_start_reading(stream);
    Py_RETURN_NONE;
}

static PyObject *stream_is_reading(Stream *stream, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(!stream->closing && !stream->paused);
}

static PyObject *stream_is_closing(Stream *stream, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(stream->closing);
}

static PyObject *stream_can_write_eof(PyObject *Py_UNUSED(stream), PyObject *Py_UNUSED(unused))
{
    Py_RETURN_TRUE;
}

static PyObject *stream_get_write_buffer_size(Stream *stream, PyObject *Py_UNUSED(unused))
{
    return PyLong_FromSize_t(stream->outgoing.size);
}

static PyObject *stream_turn_method(Stream *stream, PyObject *Py_UNUSED(unused))
{
    if (stream_turn(stream) != 0)
        return NULL;
    Py_RETURN_NONE;
}

/* ---- life ----------------------------------------------------------------------------------------------------------- */

static int stream_traverse(Stream *stream, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(stream));
    for (size_t i = 0; i < Py_ARRAY_LENGTH(stream->base_slots); i++)
        Py_VISIT(stream->base_slots[i]);
    Py_VISIT(stream->core);
    Py_VISIT(stream->sock);
    Py_VISIT(stream->protocol);
    Py_VISIT(stream->reader);
    Py_VISIT(stream->server);
    Py_VISIT(stream->context);
    Py_VISIT(stream->empty_waiter);
    return outgoing_traverse(&stream->outgoing, visit, arg);
}

static int stream_clear(Stream *stream)
{
    for (size_t i = 0; i < Py_ARRAY_LENGTH(stream->base_slots); i++)
        Py_CLEAR(stream->base_slots[i]);
    Py_CLEAR(stream->core);
    Py_CLEAR(stream->sock);
    Py_CLEAR(stream->protocol);
    Py_CLEAR(stream->reader);
    Py_CLEAR(stream->server);
    Py_CLEAR(stream->context);
    Py_CLEAR(stream->empty_waiter);
    return 0;
}

static void stream_dealloc(Stream *stream)
{
    PyTypeObject *type = Py_TYPE(stream);

    /* No operation is in flight: it would hold the transport. */
    PyObject_GC_UnTrack(stream);
    stream_clear(stream);
    outgoing_clear(&stream->outgoing);
    type->tp_free(stream);
    Py_DECREF(type);
}

#define FAST(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef stream_methods[] = {
    {"write", (PyCFunction)stream_write, METH_O,
     "write(data)\n--\n\nSend bytes, a bytearray or a memoryview: at once as far as the socket takes them."},
    {"writelines", (PyCFunction)stream_writelines, METH_O,
     "writelines(list_of_data)\n--\n\nSend all of an iterable, gathered in one sendmsg(2) where possible."},
    {"write_eof", (PyCFunction)stream_write_eof, METH_NOARGS,
     "write_eof()\n--\n\nClose the sending half, when everything is sent."},
    {"can_write_eof", stream_can_write_eof, METH_NOARGS, "can_write_eof()\n--\n\nTrue."},
    {"close", (PyCFunction)stream_close, METH_NOARGS,
     "close()\n--\n\nClose when everything is sent. Nothing is received any more."},
    {"is_closing", (PyCFunction)stream_is_closing, METH_NOARGS, "is_closing()\n--\n\nWhether it closes or is closed."},
    {"pause_reading", (PyCFunction)stream_pause_reading, METH_NOARGS, "pause_reading()\n--\n\nReceive nothing."},
    {"resume_reading", (PyCFunction)stream_resume_reading, METH_NOARGS, "resume_reading()\n--\n\nReceive again."},
    {"is_reading", (PyCFunction)stream_is_reading, METH_NOARGS, "is_reading()\n--\n\nWhether it receives."},
    {"get_write_buffer_size", (PyCFunction)stream_get_write_buffer_size, METH_NOARGS,
     "get_write_buffer_size()\n--\n\nHow many bytes wait to be sent."},
    {"_open", FAST(stream_open), METH_FASTCALL, "_open(loop, sock, fd, server)"},
    {"_release", (PyCFunction)stream_release, METH_NOARGS, "The end: drop everything."},
    {"_set_protocol", FAST(stream_set_protocol), METH_FASTCALL, "_set_protocol(protocol, buffered, reader)"},
    {"_begin", (PyCFunction)stream_begin, METH_NOARGS, "Start to receive."},
    {"_run", (PyCFunction)stream_turn_method, METH_NOARGS, "A turn in the loop: write and read what is due."},
    {"_force_close", (PyCFunction)stream_force_close, METH_O, "_force_close(exc): close now; what waits is dropped."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef stream_members[] = {
    {"_loop", T_OBJECT, offsetof(Stream, core), READONLY, NULL},
    {"_sock", T_OBJECT, offsetof(Stream, sock), READONLY, NULL},
    {"_sock_fd", T_INT, offsetof(Stream, fd), READONLY, NULL},
    {"_server", T_OBJECT, offsetof(Stream, server), READONLY, NULL},
    {"_protocol", T_OBJECT, offsetof(Stream, protocol), READONLY, NULL},
    {"_empty_waiter", T_OBJECT, offsetof(Stream, empty_waiter), 0, NULL},
    {"_high_water", T_PYSSIZET, offsetof(Stream, high_water), 0, NULL},
    {"_low_water", T_PYSSIZET, offsetof(Stream, low_water), 0, NULL},
    {"_protocol_paused", T_BOOL, offsetof(Stream, protocol_paused), 0, NULL},
    {"_protocol_connected", T_BOOL, offsetof(Stream, connected), 0, NULL},
    {"_closing", T_BOOL, offsetof(Stream, closing), READONLY, NULL},
    {"_paused", T_BOOL, offsetof(Stream, paused), READONLY, NULL},
    {"_eof", T_BOOL, offsetof(Stream, eof), READONLY, NULL},
    {"_conn_lost", T_INT, offsetof(Stream, lost), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot stream_slots[] = {
    {Py_tp_doc, "The native half of a stream transport."},
    {Py_tp_dealloc, stream_dealloc},
    {Py_tp_traverse, stream_traverse},
    {Py_tp_clear, stream_clear},
    {Py_tp_methods, stream_methods},
    {Py_tp_members, stream_members},
    {0, NULL},
};

PyTypeObject *stream_type_new(PyObject *module, PyObject *flow_control)
{
    PyType_Spec spec = {
        .name = "aioring._loop.StreamTransport",
        .basicsize = sizeof(Stream),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
        .slots = stream_slots,
    };
    PyObject *type;

    if (((PyTypeObject *)flow_control)->tp_basicsize != offsetof(Stream, core)) {
        PyErr_Format(PyExc_ImportError, "%R is not laid out as aioring knows it", flow_control);
        return NULL;
    }
    type = PyType_FromModuleAndSpec(module, &spec, flow_control);
    if (type != NULL && PyModule_AddType(module, (PyTypeObject *)type) != 0)
        Py_CLEAR(type);
    return (PyTypeObject *)type;
}
