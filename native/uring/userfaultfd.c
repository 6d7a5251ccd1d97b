/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "userfaultfd_api.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* How often an ioctl is tried that gets nowhere, as another thread is changing the same mappings. */
#define TRIES 1000

/* ---- the fd ---------------------------------------------------------------------------------------------------- */

#define CLOSED (UINT32_C(1) << 31)

/*
 * Calls come from any thread, without the GIL: while one uses the fd its number must not come to stand for another
 * file. Acquire and release order what was done with the fd before its being closed.
 */
static bool enter(struct userfaultfd *uffd)
{
    uint32_t users = __atomic_load_n(&uffd->users, __ATOMIC_RELAXED);

    do
        if (users & CLOSED)
            return false;
    while (!__atomic_compare_exchange_n(&uffd->users, &users, users + 1, true, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED));
    return true;
}

static void leave(struct userfaultfd *uffd)
{
    if (__atomic_sub_fetch(&uffd->users, 1, __ATOMIC_ACQ_REL) == CLOSED)
        close(uffd->fd);
}

static int open_file(int flags)
{
    int fd = (int)syscall(SYS_userfaultfd, flags);
    int device;

    if (fd >= 0 || errno != EPERM)
        return fd >= 0 ? fd : -errno;
    /* Who may not make the system call may be let to the device (Linux 6.1), whose file permissions decide. */
    device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (device < 0)
        return -EPERM;
    fd = ioctl(device, USERFAULTFD_IOC_NEW, flags);
    if (fd < 0)
        fd = -errno;
    close(device);
    return fd;
}

int userfaultfd_open(struct userfaultfd *uffd, int user_mode_only)
{
    /* O_NONBLOCK: it cannot be polled otherwise (userfaultfd(2)). */
    int fd = open_file(O_CLOEXEC | O_NONBLOCK | (user_mode_only ? UFFD_USER_MODE_ONLY : 0));

    *uffd = (struct userfaultfd){.fd = fd, .users = fd >= 0 ? 1 : CLOSED};
    return fd >= 0 ? 0 : fd;
}

void userfaultfd_close(struct userfaultfd *uffd)
{
    if (!(__atomic_fetch_or(&uffd->users, CLOSED, __ATOMIC_ACQ_REL) & CLOSED))
        leave(uffd);
}

void userfaultfd_abandon(struct userfaultfd *uffd)
{
    /* The threads of the calls that were under way are the parent's; the count of one that closed it may be left. */
    if (__atomic_exchange_n(&uffd->users, CLOSED, __ATOMIC_ACQ_REL) != CLOSED)
        close(uffd->fd);
}

/* An ioctl, which nothing closes the fd under; what it returned or -errno. */
static int control(struct userfaultfd *uffd, unsigned long request, void *argument)
{
    int result;

    if (!enter(uffd))
        return -EBADF;
    result = ioctl(uffd->fd, request, argument);
    if (result < 0)
        result = -errno;
    leave(uffd);
    return result;
}

int userfaultfd_api(struct userfaultfd *uffd, uint64_t features, uint64_t *available)
{
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    int error = control(uffd, UFFDIO_API, &api);

    *available = error == 0 ? api.features : 0;
    return error;
}

/* ---- faults ---------------------------------------------------------------------------------------------------- */

int userfaultfd_read(struct userfaultfd *uffd, struct userfaultfd_fault *out)
{
    struct uffd_msg message;
    ssize_t length;
    int error;

    if (!enter(uffd))
        return -EBADF;
    length = read(uffd->fd, &message, sizeof message);
    error = length < 0 ? -errno : 0;
    leave(uffd);
    if (error != 0)
        return error;
    /* Other events were not asked for. */
    if (length != sizeof message || message.event != UFFD_EVENT_PAGEFAULT)
        return -EPROTO;
    *out = (struct userfaultfd_fault){
        .address = message.arg.pagefault.address,
        .flags = message.arg.pagefault.flags,
        .thread = message.arg.pagefault.feat.ptid,
    };
    return 0;
}

/* ---- memory ---------------------------------------------------------------------------------------------------- */

int userfaultfd_register(struct userfaultfd *uffd, uint64_t address, uint64_t length, int missing, int write_protect)
{
    struct uffdio_register range = {.range = {.start = address, .len = length}};

    if (missing)
        range.mode |= UFFDIO_REGISTER_MODE_MISSING;
    if (write_protect)
        range.mode |= UFFDIO_REGISTER_MODE_WP;
    return control(uffd, UFFDIO_REGISTER, &range);
}

int userfaultfd_unregister(struct userfaultfd *uffd, uint64_t address, uint64_t length)
{
    struct uffdio_range range = {.start = address, .len = length};
    int error = control(uffd, UFFDIO_UNREGISTER, &range);

    /* It wakes who waits for a missing page itself, and not who waits to write (fs/userfaultfd.c). */
    return error != 0 ? error : userfaultfd_wake(uffd, address, length);
}

int userfaultfd_wake(struct userfaultfd *uffd, uint64_t address, uint64_t length)
{
    struct uffdio_range range = {.start = address, .len = length};

    return control(uffd, UFFDIO_WAKE, &range);
}

/* After an ioctl that said `error` and got `moved` bytes further, or -errno: whether to go on, else what to return. */
static bool goes_on(int *error, int64_t moved, unsigned *tries)
{
    if (*error != -EAGAIN) /* done, or nothing was moved */
        return false;
    if (moved > 0)
        *tries = 0;
    else if (++*tries == TRIES)
        return false;
    else
        sched_yield();
    *error = 0;
    return true;
}

int userfaultfd_copy(
    struct userfaultfd *uffd, uint64_t address, const void *data, uint64_t length, int wake, int write_protect,
    uint64_t *done
)
{
    unsigned tries = 0;
    int error;

    *done = 0;
    do {
        struct uffdio_copy copy = {
            .dst = address + *done,
            .src = (uint64_t)(uintptr_t)data + *done,
            .len = length - *done,
            .mode = (wake ? 0 : UFFDIO_COPY_MODE_DONTWAKE) | (write_protect ? UFFDIO_COPY_MODE_WP : 0),
        };
        error = control(uffd, UFFDIO_COPY, &copy);
        *done += copy.copy > 0 ? (uint64_t)copy.copy : 0;
        if (!goes_on(&error, copy.copy, &tries))
            return error;
    } while (true);
}

int userfaultfd_zero(struct userfaultfd *uffd, uint64_t address, uint64_t length, uint64_t *done)
{
    unsigned tries = 0;
    int error;

    *done = 0;
    do {
        struct uffdio_zeropage zero = {.range = {.start = address + *done, .len = length - *done}};
        error = control(uffd, UFFDIO_ZEROPAGE, &zero);
        *done += zero.zeropage > 0 ? (uint64_t)zero.zeropage : 0;
        if (!goes_on(&error, zero.zeropage, &tries))
            return error;
    } while (true);
}

int userfaultfd_write_protect(struct userfaultfd *uffd, uint64_t address, uint64_t length, int on)
{
    struct uffdio_writeprotect protect = {
        .range = {.start = address, .len = length},
        .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
    };
    unsigned tries = 0;
    int error;

    do
        error = control(uffd, UFFDIO_WRITEPROTECT, &protect);
    while (goes_on(&error, 0, &tries));
    return error;
}
