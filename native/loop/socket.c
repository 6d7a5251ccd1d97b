/* SPDX-License-Identifier: MIT */
#include "coroutine.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

/*
 * loop.sock_recv() and its like: coroutines in C. Each tries the system call when it is first awaited, unless it is
 * likely to be in vain, and returns without suspending if that succeeds; else it polls the socket through the ring, and
 * tries again. The kernel never has the caller's memory, so a cancellation takes effect at once and loses no data.
 */
enum kind { RECV, RECV_INTO, SENDALL, ACCEPT, CALL_TO_READ, CALL_TO_WRITE };

typedef struct SocketCall {
    COROUTINE_HEAD
    Core *core;
    PyObject *sock;
    PyObject *method; /* for ACCEPT and CALL_*: the name of the socket's method, */
    PyObject *args; /* and its arguments */
    struct operation poll;
    Py_buffer view; /* of RECV_INTO and SENDALL */
    Py_ssize_t size; /* of RECV; sent so far, of SENDALL */
    int fd;
    enum kind kind;
    bool turn; /* the others have theirs first */
} SocketCall;

static struct coroutines free_calls;

/* ---- the attempts: 1 with a result, 0 to wait, -1 ----------------------------------------------------------------- */

static int failed(void)
{
    if (errno == EAGAIN || errno == EINTR)
        return 0;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

static struct guess *guess(const SocketCall *call)
{
    return &call->core->guesses[(unsigned)call->fd % GUESSES];
}

/*
 * Up to this much goes through the loop's hot buffer: an allocation of all that was asked for is dearer than a copy.
 * Where the last was larger the next may be: it is received where it stays.
 */
#define COPY_MAX (32 * 1024)

static int try_recv(SocketCall *call, PyObject **result)
{
    Core *core = call->core;
    ssize_t size;

    if (call->size <= COPY_MAX || !guess(call)->large) {
        if (core->hot == NULL && (core->hot = PyMem_Malloc(HOT_SIZE)) == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        size = recv(call->fd, core->hot, (size_t)(call->size < HOT_SIZE ? call->size : HOT_SIZE), MSG_DONTWAIT);
        if (size < 0)
            return failed();
        guess(call)->large = size > COPY_MAX;
        *result = PyBytes_FromStringAndSize(core->hot, size);
        return *result != NULL ? 1 : -1;
    }
    *result = PyBytes_FromStringAndSize(NULL, call->size);
    if (*result == NULL)
        return -1;
    size = recv(call->fd, PyBytes_AS_STRING(*result), (size_t)call->size, MSG_DONTWAIT);
    if (size < 0) {
        Py_CLEAR(*result);
        return failed();
    }
    guess(call)->large = size > COPY_MAX;
    return _PyBytes_Resize(result, size) == 0 ? 1 : -1;
}

static int try_recv_into(SocketCall *call, PyObject **result)
{
    ssize_t size = recv(call->fd, call->view.buf, (size_t)call->view.len, MSG_DONTWAIT);

    if (size < 0)
        return failed();
    *result = PyLong_FromSsize_t(size);
    return *result != NULL ? 1 : -1;
}

static int try_sendall(SocketCall *call, PyObject **result)
{
    while (call->size < call->view.len) {
        ssize_t size = send(
            call->fd, (const char *)call->view.buf + call->size, (size_t)(call->view.len - call->size),
            MSG_NOSIGNAL | MSG_DONTWAIT
        );

        if (size < 0)
            return failed();
        call->size += size;
    }
    *result = Py_NewRef(Py_None);
    return 1;
}

static int try_call(SocketCall *call, PyObject **result)
{
    PyObject *done;

    done = PyObject_GetAttr(call->sock, call->method);
    if (done == NULL)
        return -1;
    *result = PyObject_Call(done, call->args, NULL);
    Py_DECREF(done);
    if (*result == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_BlockingIOError) && !PyErr_ExceptionMatches(PyExc_InterruptedError))
            return -1;
        PyErr_Clear();
        return 0;
    }
    if (call->kind != ACCEPT)
        return 1;
    /* (connection, address) */
    done = PyObject_CallMethod(PyTuple_GetItem(*result, 0), "setblocking", "O", Py_False);
    if (done == NULL)
        Py_CLEAR(*result);
    Py_XDECREF(done);
    return done != NULL ? 1 : -1;
}

static int try(SocketCall *call, PyObject **result)
{
    switch (call->kind) {
    case RECV:
        return try_recv(call, result);
    case RECV_INTO:
        return try_recv_into(call, result);
    case SENDALL:
        return try_sendall(call, result);
    default:
        return try_call(call, result);
    }
}

/* ---- waiting -------------------------------------------------------------------------------------------------------- */

static void polled(Core *Py_UNUSED(core), struct operation *operation, int32_t Py_UNUSED(result), bool Py_UNUSED(more))
{
    SocketCall *call = (SocketCall *)(void *)((char *)operation - offsetof(SocketCall, poll));

    coroutine_wake((Coroutine *)call);
}

/* Nobody else may read what is to come: a transport on the same socket does. */
static int check_no_transport(SocketCall *call)
{
    Core *core = call->core;
    PyObject *key;
    int taken;

    if (core->transports == NULL) {
        PyObject *transports = PyObject_GetAttrString((PyObject *)core, "_transports");

        core->transports = transports != NULL ? PyObject_GetAttrString(transports, "data") : NULL;
        Py_XDECREF(transports);
        if (core->transports == NULL)
            return -1;
    }
    key = PyLong_FromLong(call->fd);
    taken = key != NULL ? PyDict_Contains(core->transports, key) : -1;
    if (taken == 1) {
        PyObject *done = PyObject_CallMethod((PyObject *)core, "_ensure_fd_no_transport", "O", key);

        taken = done != NULL ? 0 : -1;
        Py_XDECREF(done);
    }
    Py_XDECREF(key);
    return taken;
}

static PyObject *wait_for_socket(SocketCall *call)
{
    Core *core = call->core;
    PyObject *waiter;

    if (check_no_transport(call) != 0)
        return NULL;
    if (core->ring == NULL) {
        core_raise_no_ring(core);
        return NULL;
    }
    waiter = coroutine_wait((Coroutine *)call, core);
    if (waiter == NULL)
        return NULL;
    call->poll.fd = call->fd;
    call->poll.mask = call->kind == SENDALL || call->kind == CALL_TO_WRITE ? POLLOUT : POLLIN;
    operation_start(core, &call->poll, (PyObject *)call);
    return waiter;
}

static void finish(SocketCall *call)
{
    call->state = DONE;
    Py_CLEAR(call->waiter);
    Py_CLEAR(call->method);
    Py_CLEAR(call->args);
    PyBuffer_Release(&call->view);
    if (call->core != NULL && call->core->ring != NULL && call->poll.state != OPERATION_IDLE) {
        /* Now: the caller may close the socket next, and expect it to be closed then. */
        if (call->core->thread == PyThread_get_thread_ident())
            (void)operation_stop_now(call->core, &call->poll);
        else
            operation_stop(call->core, &call->poll);
    }
}

/* The socket's fd; -1 with an exception. */
static int get_fd(const SocketCall *call)
{
    PyObject *number = PyObject_CallMethodNoArgs(call->sock, loop_state.str_fileno);
    int fd;

    if (number == NULL)
        return -1;
    fd = PyObject_AsFileDescriptor(number);
    Py_DECREF(number);
    if (fd < 0 && PyErr_ExceptionMatches(PyExc_ValueError)) {
        /* A closed socket: what its own methods would say. */
        PyErr_Clear();
        raise_errno(EBADF);
    }
    return fd;
}

/* Checks what can be known only when it is awaited, as in asyncio's coroutines. */
static int begin(SocketCall *call)
{
    if (!Py_IS_TYPE(call->sock, (PyTypeObject *)loop_state.socket_type) || call->core->debug) {
        PyObject *done = PyObject_CallMethod((PyObject *)call->core, "_check_socket", "O", call->sock);

        if (done == NULL)
            return -1;
        Py_DECREF(done);
    }
    call->fd = get_fd(call);
    return call->fd < 0 ? -1 : 0;
}

/* Others ran meanwhile. Closed, the socket's fd may be another's by now. */
static int check_open(const SocketCall *call)
{
    int fd = get_fd(call);

    if (fd >= 0 && fd != call->fd)
        raise_errno(EBADF);
    return fd == call->fd ? 0 : -1;
}

/*
 * Who answers requests finds nothing when it asks for the next one: a system call for EAGAIN. Where that was in vain,
 * the calls that follow let the others have their turn, if there are any, and look then: on a busy loop the request has
 * come by that time, and neither a poll nor a future is needed. Where that was in vain they poll at once. Guesses, by an
 * fd that may be another socket's by now: wrong, they cost a turn of the loop, as a poll of what is readable completes
 * at once.
 */

/* Not one of no bytes, which may have nothing to wait for. */
static bool is_receive(const SocketCall *call)
{
    return (call->kind == RECV && call->size != 0) || (call->kind == RECV_INTO && call->view.len != 0);
}

/* As an attempt; TURN: after the others. */
#define TURN 2
static int begin_receive(SocketCall *call, PyObject **result)
{
    int tried;

    if (trial_due(&guess(call)->look)) {
        tried = try(call, result);
        trial_ended(&guess(call)->look, tried != 0);
        return tried;
    }
    return call->core->ready.count != 0 && trial_due(&guess(call)->turn) ? TURN : 0;
}

static int go_on(SocketCall *call, PyObject **result)
{
    int tried;

    if (call->state == NEW) {
        tried = begin(call);
        return tried != 0 ? tried : is_receive(call) ? begin_receive(call, result) : try(call, result);
    }
    if (check_open(call) != 0)
        return -1;
    tried = try(call, result);
    if (call->turn)
        trial_ended(&guess(call)->turn, tried != 0);
    return tried;
}

static PySendResult call_send(SocketCall *call, PyObject *Py_UNUSED(value), PyObject **result)
{
    int tried;

    *result = NULL;
    if (!coroutine_check((Coroutine *)call))
        return PYGEN_ERROR;
    tried = go_on(call, result);
    call->state = RUNNING;
    call->turn = tried == TURN;
    if (tried == TURN) {
        *result = Py_NewRef(Py_None);
        return PYGEN_NEXT;
    }
    if (tried == 0) {
        *result = wait_for_socket(call);
        if (*result != NULL)
            return PYGEN_NEXT;
        tried = -1;
    }
    finish(call);
    return tried == 1 ? PYGEN_RETURN : PYGEN_ERROR;
}

/* ---- a coroutine ---------------------------------------------------------------------------------------------------- */

static PyObject *call_throw(SocketCall *call, PyObject *const *args, Py_ssize_t count)
{
    finish(call);
    return coroutine_raise(args, count);
}

static PyObject *call_close(SocketCall *call, PyObject *Py_UNUSED(unused))
{
    finish(call);
    Py_RETURN_NONE;
}

static int call_traverse(SocketCall *call, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(call));
    Py_VISIT(call->core);
    Py_VISIT(call->sock);
    Py_VISIT(call->method);
    Py_VISIT(call->args);
    Py_VISIT(call->waiter);
    Py_VISIT(call->view.obj);
    return 0;
}

static int call_clear(SocketCall *call)
{
    Py_CLEAR(call->core);
    Py_CLEAR(call->sock);
    Py_CLEAR(call->method);
    Py_CLEAR(call->args);
    Py_CLEAR(call->waiter);
    PyBuffer_Release(&call->view);
    return 0;
}

static void call_dealloc(SocketCall *call)
{
    PyObject_GC_UnTrack(call);
    coroutine_warn((Coroutine *)call);
    call_clear(call);
    coroutine_free(&free_calls, (Coroutine *)call);
}

static PyMethodDef call_methods[] = COROUTINE_METHODS(call_throw, call_close);

static PyType_Slot call_slots[] = {
    {Py_tp_doc, "A coroutine: a system call on a socket, which waits until it can be made."},
    {Py_tp_dealloc, call_dealloc},
    {Py_tp_traverse, call_traverse},
    {Py_tp_clear, call_clear},
    {Py_tp_methods, call_methods},
    {Py_am_send, call_send},
    COROUTINE_SLOTS,
    {0, NULL},
};

PyType_Spec socket_call_spec = {
    .name = "aioring._loop.SocketCall",
    .basicsize = sizeof(SocketCall),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = call_slots,
};

/* ---- the methods of the loop ---------------------------------------------------------------------------------------- */

static SocketCall *new_call(Core *core, const char *name, enum kind kind, PyObject *sock)
{
    SocketCall *call = (SocketCall *)coroutine_new(&free_calls, loop_state.socket_call_type, name);

    if (call == NULL)
        return NULL;
    call->core = (Core *)Py_NewRef(core);
    call->sock = Py_NewRef(sock);
    call->kind = kind;
    call->fd = -1;
    call->poll = (struct operation){.kind = OPERATION_POLL_ONCE, .done = polled};
    return call;
}

static bool count_is(const char *name, Py_ssize_t count, Py_ssize_t least, Py_ssize_t most)
{
    if (count >= least && count <= most)
        return true;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd to %zd arguments (%zd given)", name, least, most, count);
    return false;
}

/* A call that failed to be made is not one that was never awaited. */
static PyObject *give_up(SocketCall *call)
{
    if (call != NULL)
        call->state = DONE;
    Py_XDECREF(call);
    return NULL;
}

static PyObject *sock_recv(Core *core, PyObject *const *args, Py_ssize_t count)
{
    SocketCall *call;
    Py_ssize_t size;

    if (!count_is("sock_recv", count, 2, 2))
        return NULL;
    size = PyNumber_AsSsize_t(args[1], PyExc_OverflowError);
    if (size == -1 && PyErr_Occurred())
        return NULL;
    if (size < 0) {
        PyErr_SetString(PyExc_ValueError, "negative buffersize in recv");
        return NULL;
    }
    call = new_call(core, "sock_recv", RECV, args[0]);
    if (call != NULL)
        call->size = size;
    return (PyObject *)call;
}

static PyObject *with_view(Core *core, const char *name, enum kind kind, PyObject *const *args, Py_ssize_t count)
{
    SocketCall *call;

    if (!count_is(name, count, 2, 2))
        return NULL;
    call = new_call(core, name, kind, args[0]);
    if (call == NULL ||
        PyObject_GetBuffer(args[1], &call->view, kind == RECV_INTO ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0)
        return give_up(call);
    return (PyObject *)call;
}

static PyObject *sock_recv_into(Core *core, PyObject *const *args, Py_ssize_t count)
{
    return with_view(core, "sock_recv_into", RECV_INTO, args, count);
}

static PyObject *sock_sendall(Core *core, PyObject *const *args, Py_ssize_t count)
{
    return with_view(core, "sock_sendall", SENDALL, args, count);
}

/* By the socket's own method of that name. */
static PyObject *
with_method(Core *core, const char *name, enum kind kind, PyObject *sock, PyObject *const *args, Py_ssize_t count)
{
    SocketCall *call = new_call(core, name, kind, sock);

    if (call == NULL)
        return NULL;
    call->method = PyUnicode_InternFromString(name + sizeof "sock_" - 1);
    call->args = PyTuple_New(count);
    if (call->method == NULL || call->args == NULL)
        return give_up(call);
    for (Py_ssize_t i = 0; i < count; i++)
        PyTuple_SET_ITEM(call->args, i, Py_NewRef(args[i]));
    return (PyObject *)call;
}

static PyObject *sock_accept(Core *core, PyObject *const *args, Py_ssize_t count)
{
    return count_is("sock_accept", count, 1, 1)
               ? with_method(core, "sock_accept", ACCEPT, args[0], NULL, 0)
               : NULL;
}

static PyObject *sock_recvfrom(Core *core, PyObject *const *args, Py_ssize_t count)
{
    return count_is("sock_recvfrom", count, 2, 2)
               ? with_method(core, "sock_recvfrom", CALL_TO_READ, args[0], args + 1, 1)
               : NULL;
}

static PyObject *sock_recvfrom_into(Core *core, PyObject *const *args, Py_ssize_t count)
{
    /* asyncio's nbytes of 0 is the socket's, too: all of the buffer. */
    return count_is("sock_recvfrom_into", count, 2, 3)
               ? with_method(core, "sock_recvfrom_into", CALL_TO_READ, args[0], args + 1, count - 1)
               : NULL;
}

static PyObject *sock_sendto(Core *core, PyObject *const *args, Py_ssize_t count)
{
    return count_is("sock_sendto", count, 3, 3)
               ? with_method(core, "sock_sendto", CALL_TO_WRITE, args[0], args + 1, 2)
               : NULL;
}

#define FAST(function) (PyCFunction)(void (*)(void))(function)

PyMethodDef socket_methods[] = {
    {"sock_recv", FAST(sock_recv), METH_FASTCALL, "sock_recv(sock, nbytes)\n--\n\nReceive up to nbytes; b'' at the end."},
    {"sock_recv_into", FAST(sock_recv_into), METH_FASTCALL,
     "sock_recv_into(sock, buf)\n--\n\nReceive into a writable buffer; how many bytes."},
    {"sock_sendall", FAST(sock_sendall), METH_FASTCALL, "sock_sendall(sock, data)\n--\n\nSend all of data."},
    {"sock_accept", FAST(sock_accept), METH_FASTCALL,
     "sock_accept(sock)\n--\n\nA connection of a listening socket, non-blocking, and its address."},
    {"sock_recvfrom", FAST(sock_recvfrom), METH_FASTCALL,
     "sock_recvfrom(sock, bufsize)\n--\n\nA datagram of up to bufsize bytes, and its address."},
    {"sock_recvfrom_into", FAST(sock_recvfrom_into), METH_FASTCALL,
     "sock_recvfrom_into(sock, buf, nbytes=0)\n--\n\nReceive a datagram into a buffer; its size and address."},
    {"sock_sendto", FAST(sock_sendto), METH_FASTCALL,
     "sock_sendto(sock, data, address)\n--\n\nSend a datagram; how many bytes."},
    {NULL, NULL, 0, NULL},
};
