/* SPDX-License-Identifier: MIT
 *
 * message: one datagram with descriptors, over the control socket.
 */
#include "zygote/zygote.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define MESSAGE_MAX_FDS 2u

union message_control {
    struct cmsghdr header; /* for alignment */
    char bytes[CMSG_SPACE(MESSAGE_MAX_FDS * sizeof(int))];
};

int message_receive(int socket, void *message, uint32_t size, int *fds, unsigned fd_count)
{
    union message_control control;
    struct iovec vector = {.iov_base = message, .iov_len = size};
    struct msghdr header = {
        .msg_iov = &vector,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof control,
    };
    long received;
    do
        received = linux_recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
    while (received == -EINTR);
    if (received < 0)
        return (int)received;
    if (received == 0)
        return -ECONNRESET;

    unsigned count = 0;
    const struct cmsghdr *ancillary = CMSG_FIRSTHDR(&header);
    if (ancillary != NULL && ancillary->cmsg_level == SOL_SOCKET && ancillary->cmsg_type == SCM_RIGHTS) {
        const unsigned given = (unsigned)((ancillary->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        const int *passed = (const int *)(const void *)CMSG_DATA(ancillary);
        for (unsigned i = 0; i < given; i++) {
            if (count < fd_count)
                fds[count++] = passed[i];
            else
                linux_close(passed[i]);
        }
    }
    const uint32_t *words = message;
    const int whole = received == (long)size && count == fd_count && (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0;
    if (!whole || words[0] != ZYGOTE_MAGIC || words[1] != size) {
        for (unsigned i = 0; i < count; i++)
            linux_close(fds[i]);
        return -EPROTO;
    }
    return 0;
}

int message_reply(int socket, enum zygote_step step, int error, int fd)
{
    struct zygote_reply reply = {.magic = ZYGOTE_MAGIC, .step = step, .error = error, .pad = 0};
    struct iovec vector = {.iov_base = &reply, .iov_len = sizeof reply};
    union message_control control = {.bytes = {0}};
    struct msghdr header = {.msg_iov = &vector, .msg_iovlen = 1};
    if (fd >= 0) {
        header.msg_control = &control;
        header.msg_controllen = CMSG_SPACE(sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        *(int *)(void *)CMSG_DATA(&control.header) = fd;
    }
    long sent;
    do
        sent = linux_sendmsg(socket, &header, MSG_NOSIGNAL);
    while (sent == -EINTR);
    return sent < 0 ? (int)sent : 0;
}
