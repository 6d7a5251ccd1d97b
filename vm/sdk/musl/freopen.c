/* SPDX-License-Identifier: MIT */
/* musl's own puts the new file in the old one's descriptor, with dup3, which the host has not: here the stream gets
   another descriptor. */
#include <errno.h>

#include "stdio_impl.h"

FILE *freopen(const char *restrict path, const char *restrict mode, FILE *restrict stream) {
    FILE *other = path ? fopen(path, mode) : NULL;
    if (!path)
        errno = EBADF; /* only another mode: there is no fcntl either */
    fflush(stream);
    if (!other) {
        fclose(stream);
        return NULL;
    }
    stream->close(stream);
    stream->fd = other->fd;
    stream->flags = (stream->flags & F_PERM) | other->flags;
    stream->read = other->read;
    stream->write = other->write;
    stream->seek = other->seek;
    stream->close = other->close;
    stream->rpos = stream->rend = stream->wpos = stream->wbase = stream->wend = NULL;
    stream->mode = 0;
    stream->locale = NULL;
    other->fd = -1; /* the stream has it now */
    fclose(other);
    return stream;
}
