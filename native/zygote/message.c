/* SPDX-License-Identifier: MIT
 *
 * message: one datagram with descriptors, over the control socket.
 */
#include "zygote/zygote.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>

union message_control {
    struct cmsghdr header; /* for alignment */
    char bytes[CMSG_SPACE(ZYGOTE_FILE_COUNT * sizeof(int))];
};

int message_receive(int socket, void *message, uint32_t size, int fds[ZYGOTE_FILE_COUNT])
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

    for (unsigned i = 0; i < ZYGOTE_FILE_COUNT; i++)
        fds[i] = -1;
    unsigned count = 0;
    const struct cmsghdr *ancillary = CMSG_FIRSTHDR(&header);
    if (ancillary != NULL && ancillary->cmsg_level == SOL_SOCKET && ancillary->cmsg_type == SCM_RIGHTS) {
        const unsigned given = (unsigned)((ancillary->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        const int *passed = (const int *)(const void *)CMSG_DATA(ancillary);
        for (unsigned i = 0; i < given; i++) {
            if (count < ZYGOTE_FILE_COUNT)
                fds[count++] = passed[i];
            else
                linux_close(passed[i]);
        }
    }
    const uint32_t *words = message;
    const int whole = received == (long)size && (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0;
    if (!whole || words[0] != ZYGOTE_MAGIC || words[1] != size) {
        for (unsigned i = 0; i < count; i++)
            linux_close(fds[i]);
        return -EPROTO;
    }
    return (int)count;
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
