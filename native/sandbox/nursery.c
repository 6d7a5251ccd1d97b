/* SPDX-License-Identifier: MIT
 *
 * nursery: starts the zygote and talks to it over the control socket (zygote/protocol.h).
 *
 * The Python process is never forked: a child with its own stack borrows its memory for the few system calls
 * up to execveat(2) while the calling thread stands still (CLONE_VM | CLONE_VFORK).
 */
#define _GNU_SOURCE
#include "sandbox/nursery.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "linux/linux.h"
#include "pvm/vmctx.h"
#include "sandbox/memfd.h"
#include "zygote/protocol.h"
#include "zygote_blob.h"

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif

#define NURSERY_STACK_SIZE ((size_t)64 << 10)
/* The start takes milliseconds; this only keeps a broken kernel from hanging the caller for good. */
#define NURSERY_START_SECONDS 10

struct sandbox_nursery {
    pid_t owner; /* process that started it: a forked child of it leaves the nursery alone */
    int control; /* our end of the socket; closing it ends the nursery */
    int pidfd;
};

/* --- messages --- */

int nursery_send(const sandbox_nursery *nursery, const void *message, size_t size, const int *fds, unsigned fd_count)
{
    union {
        struct cmsghdr header; /* for alignment */
        char bytes[CMSG_SPACE(ZYGOTE_FILE_COUNT * sizeof(int))];
    } control = {.bytes = {0}};
    struct iovec vector = {.iov_base = (void *)(uintptr_t)message, .iov_len = size};
    struct msghdr header = {
        .msg_iov = &vector,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = CMSG_SPACE(fd_count * sizeof(int)),
    };
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(fd_count * sizeof(int));
    memcpy(CMSG_DATA(&control.header), fds, fd_count * sizeof(int));
    ssize_t sent;
    do
        sent = sendmsg(nursery->control, &header, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : 0;
}

int nursery_receive(const sandbox_nursery *nursery, uint32_t *step, int *fd)
{
    return nursery_receive_from(nursery->control, step, fd);
}

int nursery_receive_from(int socket, uint32_t *step, int *fd)
{
    struct zygote_reply reply;
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec vector = {.iov_base = &reply, .iov_len = sizeof reply};
    struct msghdr header = {
        .msg_iov = &vector,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof control,
    };
    ssize_t received;
    do
        received = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
    while (received < 0 && errno == EINTR);
    if (received < 0)
        return errno == EAGAIN ? -ENOMSG : -errno;
    *fd = -1;
    const struct cmsghdr *ancillary = CMSG_FIRSTHDR(&header);
    if (ancillary != NULL && ancillary->cmsg_level == SOL_SOCKET && ancillary->cmsg_type == SCM_RIGHTS &&
        ancillary->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(fd, CMSG_DATA(ancillary), sizeof *fd);
    int error = 0;
    if (received == 0)
        error = -ECONNRESET;
    else if ((header.msg_flags & MSG_CTRUNC) != 0)
        error = -EMFILE; /* a descriptor came, and this process has no room for it (unix(7)) */
    else if (received != (ssize_t)sizeof reply || reply.magic != ZYGOTE_MAGIC || reply.step >= ZYGOTE_STEP_COUNT ||
             reply.error > 0)
        error = -EPROTO;
    else if (reply.error != 0) {
        *step = reply.step;
        error = reply.error;
    }
    if (error != 0 && *fd >= 0) {
        close(*fd);
        *fd = -1;
    }
    return error;
}

/* --- start --- */

struct nursery_child {
    int control;
    int zygote;
    int error;
};

/* Runs in the host's memory while its thread waits: raw system calls only, no libc, no signals. */
static int nursery_exec(void *argument)
{
    struct nursery_child *child = argument;
    char *const none[] = {NULL};
    char *const argv[] = {(char[]){"zygote"}, NULL};
    /* everything but the socket ends with the exec, whatever the host forgot to mark */
    int error = linux_dup3(child->control, 0, 0);
    if (error >= 0)
        error = linux_close_range(1, ~0u, CLOSE_RANGE_CLOEXEC);
    if (error >= 0)
        error = linux_execveat(child->zygote, "", argv, none, AT_EMPTY_PATH);
    child->error = error;
    linux_exit(127);
}

/* A file descriptor above the standard ones, so that nursery_exec's dup3 hits nothing it needs. */
static int nursery_move_up(int fd)
{
    if (fd < 0 || fd > 2)
        return fd;
    const int moved = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    const int error = errno;
    close(fd);
    errno = error;
    return moved;
}

/* A sealed file that holds the zygote's ELF. */
static int nursery_zygote_file(void)
{
    const int fd = nursery_move_up(memfd_make("pvm-zygote", MFD_ALLOW_SEALING | MFD_EXEC));
    if (fd < 0)
        return fd;
    size_t done = 0;
    while (done < sizeof zygote_blob) {
        const ssize_t written = write(fd, zygote_blob + done, sizeof zygote_blob - done);
        if (written < 0 && errno != EINTR) {
            const int error = -errno;
            close(fd);
            return error;
        }
        if (written > 0)
            done += (size_t)written;
    }
    /* nobody changes the program between here and its exec */
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        const int error = -errno;
        close(fd);
        return error;
    }
    return fd;
}

static int nursery_spawn(struct nursery_child *child)
{
    /* The heap's, which also AddressSanitizer gives to others afresh: the child leaves frames there that never end. An
     * unmapped page below would be kinder to an overflow, but nothing here recurses. */
    char *stack = malloc(NURSERY_STACK_SIZE);
    if (stack == NULL)
        return -ENOMEM;
    /* A handler of the host's must not run in the child, on its memory. The mask is inherited over the exec. */
    sigset_t all, previous;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &previous);
    const pid_t pid = clone(nursery_exec, stack + NURSERY_STACK_SIZE, CLONE_VM | CLONE_VFORK | SIGCHLD, child);
    int error = pid < 0 ? -errno : child->error;
    pthread_sigmask(SIG_SETMASK, &previous, NULL);
    free(stack);
    if (pid > 0 && error < 0)
        waitpid(pid, NULL, __WALL);
    return error < 0 ? error : pid;
}

static void nursery_reap(pid_t pid)
{
    /* ECHILD: the host ignores SIGCHLD, or reaps every child itself */
    while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
        ;
}

static int nursery_boot(sandbox_nursery *nursery, const struct zygote_boot *boot, uint32_t *step)
{
    /* The nursery watches the host through it, since a forked child of the host may hold the socket open. */
    const int host = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (host < 0)
        return -errno;
    int error = nursery_send(nursery, boot, sizeof *boot, &host, 1);
    close(host);
    if (error < 0)
        return error;
    /* One reply from the launcher, which brings the pidfd, and one from the nursery, in whichever order they come.
     * Both are taken even after an error: with the pidfd a nursery that failed can be reaped. */
    int first_error = 0;
    for (unsigned i = 0; i < 2; i++) {
        int fd = -1;
        uint32_t failed = *step;
        error = nursery_receive(nursery, &failed, &fd);
        if (fd >= 0 && nursery->pidfd < 0)
            nursery->pidfd = fd;
        else if (fd >= 0)
            close(fd);
        if (error != 0 && first_error == 0) {
            first_error = error;
            *step = failed;
        }
        if (error == -ECONNRESET || error == -ENOMSG)
            break;
    }
    if (first_error == 0 && nursery->pidfd < 0)
        first_error = -EPROTO;
    return first_error;
}

int sandbox_nursery_start(uint32_t drop, uint32_t uid, uint32_t gid, sandbox_nursery **result, uint32_t *step)
{
    *step = ZYGOTE_STEP_NONE;
    sandbox_nursery *nursery = calloc(1, sizeof *nursery);
    if (nursery == NULL)
        return -ENOMEM;
    nursery->owner = getpid();
    nursery->pidfd = -1;
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) {
        const int error = -errno;
        free(nursery);
        return error;
    }
    nursery->control = sockets[0];
    struct nursery_child child = {.control = nursery_move_up(sockets[1]), .zygote = nursery_zygote_file(), .error = 0};

    int error = child.control < 0 ? -errno : child.zygote < 0 ? child.zygote : 0;
    pid_t launcher = 0;
    if (error == 0)
        launcher = nursery_spawn(&child);
    if (child.control >= 0)
        close(child.control); /* else the end of the stream would never come */
    if (child.zygote >= 0)
        close(child.zygote);
    if (launcher < 0)
        error = launcher;
    if (error == 0) {
        const struct timeval limit = {.tv_sec = NURSERY_START_SECONDS};
        if (setsockopt(nursery->control, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) != 0)
            error = -errno;
    }
    if (error == 0) {
        const struct zygote_boot boot = {
            .magic = ZYGOTE_MAGIC,
            .size = sizeof boot,
            .vmctx_size = sizeof(struct vmctx),
            .drop = drop,
            .uid = uid,
            .gid = gid,
        };
        error = nursery_boot(nursery, &boot, step);
        if (error == -ENOMSG)
            error = -ETIMEDOUT;
    }
    if (launcher > 0) {
        if (error != 0) {
            shutdown(nursery->control, SHUT_RDWR); /* whatever it waits for, it ends */
            if (error == -ETIMEDOUT)
                kill(launcher, SIGKILL);
        }
        nursery_reap(launcher);
    }
    if (error == 0 && fcntl(nursery->control, F_SETFL, O_NONBLOCK) != 0)
        error = -errno;
    if (error != 0) {
        sandbox_nursery_destroy(nursery);
        return error;
    }
    *result = nursery;
    return 0;
}

/* --- life and end --- */

int sandbox_nursery_control(const sandbox_nursery *nursery)
{
    return nursery->control;
}

int sandbox_nursery_pidfd(const sandbox_nursery *nursery)
{
    return nursery->pidfd;
}

void sandbox_nursery_kill(sandbox_nursery *nursery)
{
    if (nursery->pidfd >= 0 && nursery->owner == getpid())
        syscall(SYS_pidfd_send_signal, nursery->pidfd, SIGKILL, NULL, 0);
}

void sandbox_nursery_destroy(sandbox_nursery *nursery)
{
    if (nursery == NULL)
        return;
    if (nursery->pidfd >= 0) {
        sandbox_nursery_kill(nursery);
        siginfo_t info;
        /* in a forked child it is not our child: ECHILD */
        while (waitid(P_PIDFD, (id_t)nursery->pidfd, &info, WEXITED | __WALL) < 0 && errno == EINTR)
            ;
        close(nursery->pidfd);
    }
    close(nursery->control);
    free(nursery);
}

const char *sandbox_step_text(uint32_t step)
{
    static const char *const texts[] = {
#define X(name, text) text,
        ZYGOTE_STEPS(X)
#undef X
    };
    return step < ZYGOTE_STEP_COUNT ? texts[step] : "an unknown step";
}

const char *sandbox_errno_name(int number)
{
    return linux_errno_name(number);
}
