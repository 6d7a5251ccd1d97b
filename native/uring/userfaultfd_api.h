/* SPDX-License-Identifier: MIT */
#ifndef AIORING_USERFAULTFD_API_H
#define AIORING_USERFAULTFD_API_H

/*
 * One userfaultfd(2): page faults of registered memory, resolved by this process. As uring_api.h this is the only
 * declaration of the interface, and what cffi gets. It has no ring: that a fault is there to be read is told by a poll.
 *
 * Every function returns 0, or -errno; -EBADF once it is closed. cffi drops the GIL around each call, and none of them
 * touches a Python object. Addresses and lengths are in bytes and whole pages, which the kernel checks. Any thread may
 * call any function at any time but userfaultfd_abandon().
 */
#include <stdint.h>

/* In memory of the caller, who keeps it while a call is under way and changes nothing in it. */
struct userfaultfd {
    int fd;
    uint32_t users; /* calls that use the fd, and one for its being open; the topmost bit: it is closed for new ones */
};

/* Who waits for which page. */
struct userfaultfd_fault {
    uint64_t address;
    uint64_t flags; /* UFFD_PAGEFAULT_FLAG_* */
    uint32_t thread; /* 0 without UFFD_FEATURE_THREAD_ID */
};

/* Opens it, non-blocking and close-on-exec; `user_mode_only`: faults of the kernel's own accesses fail (EFAULT). */
int userfaultfd_open(struct userfaultfd *uffd, int user_mode_only);
/* Has to come first: asks for UFFD_FEATURE_* `features` (-EINVAL: one is not known) and tells which are `available`. */
int userfaultfd_api(struct userfaultfd *uffd, uint64_t features, uint64_t *available);
/* Again does nothing. The fd is closed by the last call that uses it, and closing it wakes whoever waits for a page. */
void userfaultfd_close(struct userfaultfd *uffd);
/* Gives it up in the child of a fork(), where it would act on the parent's memory. */
void userfaultfd_abandon(struct userfaultfd *uffd);

/* The next fault; -EAGAIN: there is none. */
int userfaultfd_read(struct userfaultfd *uffd, struct userfaultfd_fault *out);

int userfaultfd_register(struct userfaultfd *uffd, uint64_t address, uint64_t length, int missing, int write_protect);
int userfaultfd_unregister(struct userfaultfd *uffd, uint64_t address, uint64_t length);
/*
 * Copies pages from `data`, or zeroes, to where none are. Those before a page that failed stay: `done` bytes. -EEXIST:
 * there is a page.
 */
int userfaultfd_copy(
    struct userfaultfd *uffd, uint64_t address, const void *data, uint64_t length, int wake, int write_protect,
    uint64_t *done
);
int userfaultfd_zero(struct userfaultfd *uffd, uint64_t address, uint64_t length, uint64_t *done);
/* Write-protects the pages that are there, or has writes go on and wakes who waits. */
int userfaultfd_write_protect(struct userfaultfd *uffd, uint64_t address, uint64_t length, int on);
/* Wakes who waits for a page of these; a page that is still not there faults again. */
int userfaultfd_wake(struct userfaultfd *uffd, uint64_t address, uint64_t length);

#endif
