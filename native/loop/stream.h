/* SPDX-License-Identifier: MIT */
#ifndef AIORING_LOOP_STREAM_H
#define AIORING_LOOP_STREAM_H

/*
 * The native half of a stream transport: aioring._transports derives from it what runs once per connection. Bytes are
 * moved by plain recv() and send() on the non-blocking socket (docs/event-loop.md says why); the ring tells when. A transport that has something to do takes its turn in the loop's ready queue.
 */
#include "core.h"
#include "outgoing.h"

typedef struct Stream {
    PyObject_HEAD
    /* The slots of asyncio's BaseTransport (_extra) and _FlowControlMixin (four, which members here stand before). */
    PyObject *base_slots[5];
    Core *core; /* NULL before _open() and when the connection is lost; owned */
    PyObject *sock;
    PyObject *protocol;
    PyObject *server;
    PyObject *reader; /* weak reference to the StreamReader that is fed in the protocol's place; NULL: none */
    PyObject *context; /* the protocol is called in */
    PyObject *empty_waiter;
    struct operation readable;
    struct operation writable;
    struct outgoing outgoing;
    Py_ssize_t high_water;
    Py_ssize_t low_water;
    int fd;
    int lost; /* > 0: nothing is read or written any more; counts writes to tell of */
    char closing;
    char eof; /* write_eof() was called */
    char paused;
    char protocol_paused;
    char connected; /* the protocol wants to know of its end */
    bool buffered; /* an asyncio.BufferedProtocol */
    bool large; /* what was received last */
    bool read_due; /* there may be something to read */
    bool read_ended; /* the peer said its last, and the protocol keeps the connection */
    bool hung_up; /* the end of what can be read was announced: no other event will come */
    bool write_due;
    bool queued; /* in the ready queue */
    struct StreamCall *reading; /* a read() that waits for what is to come (streams.c), which undoes it; NULL: none */
    struct trial turn; /* of others, in place of a future */
} Stream;

/* Its turn: writes, then reads what is due, in its context. */
int stream_turn(Stream *stream);
/* Lets it have a turn. */
int stream_queue(Stream *stream);
/*
 * What an event told of, up to `size` bytes, for a reader that has nothing: bytes; or NULL, perhaps with an exception,
 * and whatever else there is to know comes by the stream's own turn.
 */
PyObject *stream_read_now(Stream *stream, Py_ssize_t size);
/* Whether there is a read() that waits, which takes what there is: it is woken. Runs no code of the program's. */
bool reader_wake(Stream *stream);
/* Gives received bytes to the StreamReader (streams.c). */
int reader_feed(Stream *stream, const char *data, size_t size);
int stream_start_reading(Stream *stream);
PyObject *stream_write(Stream *stream, PyObject *data);
PyObject *stream_writelines(Stream *stream, PyObject *pieces);
PyObject *stream_write_eof(Stream *stream, PyObject *unused);
PyObject *stream_close(Stream *stream, PyObject *unused);
PyObject *stream_force_close(Stream *stream, PyObject *error);
void stream_readable(Core *core, struct operation *operation, int32_t result, bool more);
void stream_writable(Core *core, struct operation *operation, int32_t result, bool more);

#endif
