/* SPDX-License-Identifier: MIT
 *
 * zygote: what its translation units share. There is no libc: -errno returns come from linux/linux.h.
 */
#ifndef ZYGOTE_ZYGOTE_H
#define ZYGOTE_ZYGOTE_H

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <ucontext.h>

#include "linux/linux.h"
#include "zygote/protocol.h"

/* Hidden: addresses are then relative to the instruction, and no global offset table is needed. */
#pragma GCC visibility push(hidden)

/* The control socket's descriptor, in launcher and nursery. */
#define CONTROL_FD 0

/* The flags of a worker's userfaultfd: it takes no privilege, and so does not see what the kernel touches by itself. */
#define ZYGOTE_USERFAULTFD_FLAGS (UFFD_USER_MODE_ONLY | O_CLOEXEC | O_NONBLOCK)

/* launcher.c */
_Noreturn void launcher_main(const uint64_t *initial_stack);

/* nursery.c */
_Noreturn void nursery_main(int host_pidfd, const struct zygote_boot *boot, uint64_t vdso);

/* worker.c */
_Noreturn void worker_main(const struct zygote_request *request, const int *files);
_Noreturn void worker_stopped(uint32_t state);

/* Waits until the host sets VMCTX_BUSY. */
void worker_await(void);

/* park.c. on_signal handles ZYGOTE_INTERRUPT_SIGNAL; on_step says whether a SIGTRAP was its own doing; leave: the guest
 * trapped with these registers; forget: it stopped. */
void park_prepare(const struct zygote_request *request);
void park_on_signal(int number, siginfo_t *info, void *context);
bool park_on_step(greg_t *registers);
void park_leave(greg_t *registers);
void park_forget(void);

/* message.c. receive returns how many descriptors came with the message, up to ZYGOTE_FILE_COUNT, and sets the
 * others to -1; or -errno: -ECONNRESET at the end of the stream, -EPROTO for a message of another size or magic or
 * with more descriptors. reply returns 0 or -errno. */
int message_receive(int socket, void *message, uint32_t size, int fds[ZYGOTE_FILE_COUNT]);
int message_reply(int socket, enum zygote_step step, int error, int fd);

/* start.S */
void zygote_sigreturn(void);
_Noreturn void zygote_enter_guest(uint64_t trampoline);

/* zygote.ld */
extern char zygote_begin[], zygote_end[];

#pragma GCC visibility pop

#endif
