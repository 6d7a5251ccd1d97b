/* SPDX-License-Identifier: MIT
 *
 * nursery: the control socket, for worker.c. All return 0 or -errno.
 */
#ifndef SANDBOX_NURSERY_H
#define SANDBOX_NURSERY_H

#include <stddef.h>
#include <stdint.h>

#include "sandbox/sandbox_api.h"

/* Sends one message with 1 to ZYGOTE_FILE_COUNT descriptors. */
int nursery_send(const sandbox_nursery *nursery, const void *message, size_t size, const int *fds, unsigned fd_count);

/* Receives one reply. *fd is the descriptor that came with it, -1 if none; *step is set where the zygote reports
 * an error. -ECONNRESET: the other side is gone. -ENOMSG: nothing is there yet; not EAGAIN, which clone3 has, too. */
int nursery_receive(const sandbox_nursery *nursery, uint32_t *step, int *fd);
/* The same from a socket that a worker was given. */
int nursery_receive_from(int socket, uint32_t *step, int *fd);

#endif
