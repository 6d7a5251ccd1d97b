/* SPDX-License-Identifier: MIT
 *
 * waits: futex words of guests that threads wait on, where no io_uring does it (futex_waitv(2), Linux 5.16).
 *
 * A thread serves a group of 127 words; the 128th, the most that one call takes, is the group's own, by which it hears
 * of words to wait on as well. A word is looked at before every sleep, and the kernel compares once more what it is
 * told to sleep on, so a change is seen whenever it comes. Only that counts: a wake of a word that still holds its
 * value means nothing, and a guest that sends many of them costs this thread and not the event loop.
 *
 * The threads never touch Python. They count on an eventfd, which the event loop polls.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "linux/linux.h"
#include "sandbox/sandbox_api.h"

/* From linux/futex.h of Linux 5.16, which older headers lack. */
#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif
struct waits_futex {
    uint64_t value;
    uint64_t address;
    uint32_t flags;
    uint32_t reserved;
};
_Static_assert(sizeof(struct waits_futex) == 24, "struct futex_waitv");
#define WAITS_FUTEX_32 2u
#define WAITS_FUTEX_PRIVATE 128u
#define WAITS_MOST 128 /* FUTEX_WAITV_MAX */

#define WAITS_SLOTS (WAITS_MOST - 1)
/* Virtual; what a thread touches of it is two pages. */
#define WAITS_STACK (256u << 10)

enum waits_state { WAITS_FREE, WAITS_WAITING, WAITS_CHANGED };

struct waits_slot {
    uint32_t *word; /* mapped while the slot is not free */
    uint32_t value;
    enum waits_state state;
};

struct waits_group {
    pthread_t thread;
    int event;            /* the eventfd of all groups */
    pthread_mutex_t lock; /* of all below but `futexes`, which is the thread's */
    uint32_t news;        /* futex: changes when the thread is to look again */
    bool asleep;          /* the thread is to be told, by `news` */
    bool ending;
    int error;            /* what futex_waitv said; the thread has ended */
    uint32_t used;        /* slots that are not free */
    struct waits_slot slots[WAITS_SLOTS];
    struct waits_futex futexes[WAITS_MOST];
};

struct sandbox_waits {
    int event;
    pid_t owner; /* a forked child has no such threads, and perhaps locks that nobody will open */
    uint32_t count;
    struct waits_group **groups;
};

/* --- a group's thread --- */

static long waits_futex_waitv(const struct waits_futex *futexes, unsigned count)
{
    return syscall(SYS_futex_waitv, futexes, count, 0, NULL, 0) < 0 ? -errno : 0;
}

/* Under the lock: notes what has changed, and gives the thread what it is to sleep on. */
static unsigned waits_look(struct waits_group *group, bool *changed)
{
    group->futexes[0] = (struct waits_futex){
        .value = group->news,
        .address = (uintptr_t)&group->news,
        .flags = WAITS_FUTEX_32 | WAITS_FUTEX_PRIVATE,
    };
    unsigned count = 1;
    for (uint32_t i = 0, left = group->used; left > 0; i++) {
        struct waits_slot *slot = &group->slots[i];
        left -= slot->state != WAITS_FREE;
        if (slot->state != WAITS_WAITING)
            continue;
        /* acquire: whoever hears of the change sees what was written before it */
        if (__atomic_load_n(slot->word, __ATOMIC_ACQUIRE) != slot->value) {
            slot->state = WAITS_CHANGED;
            *changed = true;
            continue;
        }
        /* not private: the word is in a file that another process maps */
        group->futexes[count++] = (struct waits_futex){
            .value = slot->value, .address = (uintptr_t)slot->word, .flags = WAITS_FUTEX_32};
    }
    return count;
}

static void waits_tell(int event)
{
    const uint64_t one = 1;
    /* fails if 2^64-2 were not read: then there is enough to read */
    (void)!write(event, &one, sizeof one);
}

static void *waits_run(void *argument)
{
    struct waits_group *group = argument;
    pthread_mutex_lock(&group->lock);
    while (!group->ending) {
        bool changed = false;
        const unsigned count = waits_look(group, &changed);
        group->asleep = true;
        pthread_mutex_unlock(&group->lock);
        if (changed)
            waits_tell(group->event);
        const long error = waits_futex_waitv(group->futexes, count);
        pthread_mutex_lock(&group->lock);
        group->asleep = false;
        /* EAGAIN: one has changed. EFAULT: one was removed since, and unmapped. EINTR: a debugger. */
        if (error != 0 && error != -EAGAIN && error != -EFAULT && error != -EINTR) {
            group->error = (int)error;
            break;
        }
    }
    const bool failed = group->error != 0;
    pthread_mutex_unlock(&group->lock);
    if (failed)
        waits_tell(group->event);
    return NULL;
}

/* --- the loop's side --- */

/* Has the thread look again. With the lock, which it opens. */
static void waits_wake(struct waits_group *group)
{
    const bool asleep = group->asleep;
    group->asleep = false; /* until it has looked: what comes meanwhile need not tell it again */
    if (asleep)
        __atomic_fetch_add(&group->news, 1, __ATOMIC_RELAXED); /* the lock and the kernel order it */
    pthread_mutex_unlock(&group->lock);
    if (asleep)
        linux_futex(&group->news, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1);
}

static int waits_start(struct sandbox_waits *waits)
{
    struct waits_group **groups = realloc(waits->groups, (waits->count + 1) * sizeof *groups);
    if (groups == NULL)
        return -ENOMEM;
    waits->groups = groups;
    struct waits_group *group = calloc(1, sizeof *group);
    if (group == NULL)
        return -ENOMEM;
    group->event = waits->event;
    pthread_mutex_init(&group->lock, NULL);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, WAITS_STACK);
    /* signals are for threads that know Python */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(&group->thread, &attributes, waits_run, group);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (error != 0) {
        pthread_mutex_destroy(&group->lock);
        free(group);
        return -error;
    }
    pthread_setname_np(group->thread, "vm-waits");
    waits->groups[waits->count++] = group;
    return 0;
}

int sandbox_probe_futex_waitv(void)
{
    /* no futexes at all are invalid, to a kernel that has the call and to one that lets us make it */
    const long error = waits_futex_waitv(NULL, 0);
    return error == -EINVAL ? 0 : (int)error;
}

int sandbox_waits_open(sandbox_waits **result)
{
    int error = sandbox_probe_futex_waitv();
    if (error < 0)
        return error;
    struct sandbox_waits *waits = calloc(1, sizeof *waits);
    if (waits == NULL)
        return -ENOMEM;
    waits->owner = getpid();
    waits->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    error = waits->event < 0 ? -errno : waits_start(waits);
    if (error < 0) {
        sandbox_waits_close(waits);
        return error;
    }
    *result = waits;
    return 0;
}

int sandbox_waits_event(const sandbox_waits *waits)
{
    return waits->event;
}

int sandbox_waits_add(sandbox_waits *waits, uint32_t *word, uint32_t value)
{
    if (waits->owner != getpid())
        return -ESRCH;
    for (uint32_t number = 0;; number++) {
        if (number == waits->count) {
            const int error = waits_start(waits);
            if (error < 0)
                return error;
        }
        struct waits_group *group = waits->groups[number];
        pthread_mutex_lock(&group->lock);
        if (group->error != 0 || group->used == WAITS_SLOTS) {
            const int error = group->error;
            pthread_mutex_unlock(&group->lock);
            if (error != 0)
                return error;
            continue;
        }
        uint32_t at = 0;
        while (group->slots[at].state != WAITS_FREE)
            at++;
        group->slots[at] = (struct waits_slot){.word = word, .value = value, .state = WAITS_WAITING};
        group->used++;
        waits_wake(group);
        return (int)(number * WAITS_SLOTS + at);
    }
}

void sandbox_waits_remove(sandbox_waits *waits, uint32_t ticket)
{
    if (waits->owner != getpid() || ticket / WAITS_SLOTS >= waits->count)
        return;
    struct waits_group *group = waits->groups[ticket / WAITS_SLOTS];
    struct waits_slot *slot = &group->slots[ticket % WAITS_SLOTS];
    /* The thread looks at words under the lock only. In its sleep the kernel may have this one for a while yet, by the
     * file that it lies in; the thread need not hear of it. */
    pthread_mutex_lock(&group->lock);
    group->used -= slot->state != WAITS_FREE;
    slot->state = WAITS_FREE;
    pthread_mutex_unlock(&group->lock);
}

int sandbox_waits_take(sandbox_waits *waits, uint32_t *tickets, uint32_t count)
{
    if (waits->owner != getpid())
        return -ESRCH;
    uint64_t events;
    /* before the groups: what changes after that counts again. Nothing to read is fine. */
    (void)!read(waits->event, &events, sizeof events);
    uint32_t taken = 0;
    for (uint32_t number = 0; number < waits->count; number++) {
        struct waits_group *group = waits->groups[number];
        pthread_mutex_lock(&group->lock);
        const int error = group->error;
        for (uint32_t at = 0, left = group->used; left > 0 && taken < count; at++) {
            struct waits_slot *slot = &group->slots[at];
            left -= slot->state != WAITS_FREE;
            if (slot->state != WAITS_CHANGED)
                continue;
            slot->state = WAITS_FREE;
            group->used--;
            tickets[taken++] = number * WAITS_SLOTS + at;
        }
        pthread_mutex_unlock(&group->lock);
        if (error != 0 && taken == 0)
            return error;
    }
    if (taken == count)
        waits_tell(waits->event); /* there may be more */
    return (int)taken;
}

uint32_t sandbox_waits_threads(const sandbox_waits *waits)
{
    return waits->count;
}

void sandbox_waits_close(sandbox_waits *waits)
{
    if (waits == NULL)
        return;
    const bool ours = waits->owner == getpid();
    for (uint32_t number = 0; number < waits->count; number++) {
        struct waits_group *group = waits->groups[number];
        if (ours) {
            pthread_mutex_lock(&group->lock);
            group->ending = true;
            waits_wake(group);
            pthread_join(group->thread, NULL);
            pthread_mutex_destroy(&group->lock);
        }
        free(group);
    }
    if (waits->event >= 0)
        close(waits->event);
    free(waits->groups);
    free(waits);
}
