/* SPDX-License-Identifier: MIT
 *
 * signals: see signals.h.
 */
#define _GNU_SOURCE
#include "sandbox/signals.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* How often different handlers can be put over ours. */
#define SIGNALS_LEVELS 8u

/* What lies below our handlers of one signal. Handlers read it without the lock: an entry is complete before its level
 * is installed, and stays as it is, but for the handler of one that is called once (SA_RESETHAND), which is atomic. */
struct signals_one {
    int number;
    unsigned levels; /* that are in use, also by others who may restore them */
    struct sigaction below[SIGNALS_LEVELS];
};

/* Global, as the handlers of a process are. The first three are those with which guest code traps. */
static struct signals_one signals_all[] = {{.number = SIGSEGV}, {.number = SIGBUS},  {.number = SIGILL},
                                           {.number = SIGFPE},  {.number = SIGTRAP}, {.number = SIGNALS_INTERRUPT}};
#define SIGNALS_COUNT (sizeof signals_all / sizeof signals_all[0])
#define SIGNALS_TRAPS 3u
static pthread_mutex_t signals_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned signals_users;

/* --- handlers --- */

static struct signals_one *signals_find(int number)
{
    for (unsigned i = 0; i < SIGNALS_COUNT; i++)
        if (signals_all[i].number == number)
            return &signals_all[i];
    return NULL;
}

/* As if there were no handler: this takes effect when ours returns, with the same information as now. */
static void signals_default(int number, siginfo_t *info)
{
    if (number == SIGNALS_INTERRUPT)
        return; /* ignored */
    const struct sigaction action = {.sa_handler = SIG_DFL};
    sigaction(number, &action, NULL);
    syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), number, info);
}

/* Does what the kernel would have done if `below` were installed (sigaction(2)). */
static void signals_chain(struct sigaction *below, int number, siginfo_t *info, void *context)
{
    const int flags = below->sa_flags;
    sighandler_t handler = __atomic_load_n(&below->sa_handler, __ATOMIC_RELAXED);
    const bool fault = info->si_code > 0; /* the kernel's: not to be ignored */
    if (handler == SIG_IGN && (!fault || number == SIGNALS_INTERRUPT))
        return;
    /* one that is to be called once: by the thread that takes it */
    if (handler != SIG_DFL && handler != SIG_IGN && ((unsigned)flags & (unsigned)SA_RESETHAND) != 0)
        handler = __atomic_exchange_n(&below->sa_handler, SIG_DFL, __ATOMIC_RELAXED);
    if (handler == SIG_DFL || handler == SIG_IGN) {
        signals_default(number, info);
        return;
    }
    sigset_t mask = ((ucontext_t *)context)->uc_sigmask;
    sigorset(&mask, &mask, &below->sa_mask);
    if ((flags & SA_NODEFER) == 0)
        sigaddset(&mask, number);
    pthread_sigmask(SIG_SETMASK, &mask, NULL); /* until ours returns */
    if ((flags & SA_SIGINFO) != 0)
        ((void (*)(int, siginfo_t *, void *))(void *)handler)(number, info, context);
    else
        handler(number);
}

static void signals_on(unsigned level, int number, siginfo_t *info, void *context)
{
    const int saved = errno;
    if (!signals_about_guest(number, info, context))
        signals_chain(&signals_find(number)->below[level], number, info, context);
    errno = saved;
}

#define LEVEL(n)                                                         \
    static void signals_on_##n(int number, siginfo_t *info, void *context) \
    {                                                                    \
        signals_on(n, number, info, context);                            \
    }
LEVEL(0) LEVEL(1) LEVEL(2) LEVEL(3) LEVEL(4) LEVEL(5) LEVEL(6) LEVEL(7)
#undef LEVEL

static void (*const signals_handlers[SIGNALS_LEVELS])(int, siginfo_t *, void *) = {
    signals_on_0, signals_on_1, signals_on_2, signals_on_3, signals_on_4, signals_on_5, signals_on_6, signals_on_7,
};

/* --- installing; the lock is held --- */

/* The level of a handler of ours, or SIGNALS_LEVELS. */
static unsigned signals_level(const struct sigaction *action)
{
    unsigned level = 0;
    while (level < SIGNALS_LEVELS &&
           !((action->sa_flags & SA_SIGINFO) != 0 && action->sa_sigaction == signals_handlers[level]))
        level++;
    return level;
}

#define SIGNALS_RESTORER 0x04000000 /* SA_RESTORER: the C library's own */
#define SIGNALS_MASK_SIZE 8u /* what the kernel fills in of a mask; the rest is whatever was on the C library's stack */

static bool signals_equal(const struct sigaction *current, const struct sigaction *below)
{
    /* the handlers are in a union: one of them is as good as the other */
    if (current->sa_handler != __atomic_load_n(&below->sa_handler, __ATOMIC_RELAXED))
        return false;
    return current->sa_handler == SIG_DFL || current->sa_handler == SIG_IGN ||
           (((current->sa_flags ^ below->sa_flags) & ~SIGNALS_RESTORER) == 0 &&
            memcmp(&current->sa_mask, &below->sa_mask, SIGNALS_MASK_SIZE) == 0);
}

static sigset_t signals_set(void)
{
    sigset_t set;
    sigemptyset(&set);
    for (unsigned i = 0; i < SIGNALS_COUNT; i++)
        sigaddset(&set, signals_all[i].number);
    return set;
}

/* Makes our handler the one of `one`, over whatever is there. */
static int signals_install(struct signals_one *one)
{
    struct sigaction current;
    if (sigaction(one->number, NULL, &current) != 0)
        return -errno;
    if (signals_level(&current) < SIGNALS_LEVELS)
        return 0;
    unsigned level = 0; /* the one over the same handler, or a new one */
    while (level < one->levels && !signals_equal(&current, &one->below[level]))
        level++;
    if (level == SIGNALS_LEVELS)
        return -EMLINK;
    if (level == one->levels) {
        one->below[level] = current;
        one->levels++;
    }
    /* On the alternate stack, if the thread has one: who put it there wants to see the end of the other. */
    struct sigaction action = {
        .sa_mask = signals_set(), /* none of ours while one is handled: a guest is in one state at a time */
        .sa_sigaction = signals_handlers[level],
        .sa_flags = SA_SIGINFO | SA_ONSTACK | (current.sa_handler == SIG_DFL || current.sa_handler == SIG_IGN
                                                   ? SA_RESTART
                                                   : current.sa_flags & SA_RESTART),
    };
    return sigaction(one->number, &action, NULL) == 0 ? 0 : -errno;
}

static void signals_restore(struct signals_one *one)
{
    struct sigaction current;
    if (sigaction(one->number, NULL, &current) != 0)
        return;
    const unsigned level = signals_level(&current);
    if (level < SIGNALS_LEVELS)
        sigaction(one->number, &one->below[level], NULL);
}

static int signals_install_all(unsigned count)
{
    int error = 0;
    for (unsigned i = 0; i < count && error == 0; i++)
        error = signals_install(&signals_all[i]);
    return error;
}

/* --- the others' side --- */

int signals_open(void)
{
    pthread_mutex_lock(&signals_lock);
    const int error = signals_install_all(SIGNALS_COUNT);
    if (error == 0)
        signals_users++;
    else if (signals_users == 0)
        for (unsigned i = 0; i < SIGNALS_COUNT; i++)
            signals_restore(&signals_all[i]);
    pthread_mutex_unlock(&signals_lock);
    return error;
}

void signals_close(void)
{
    pthread_mutex_lock(&signals_lock);
    if (--signals_users == 0)
        for (unsigned i = 0; i < SIGNALS_COUNT; i++)
            signals_restore(&signals_all[i]);
    pthread_mutex_unlock(&signals_lock);
}

int signals_enter(sigset_t *blocked)
{
    /* asked without the lock: nearly always they are */
    bool ours = true;
    for (unsigned i = 0; i < SIGNALS_TRAPS && ours; i++) {
        struct sigaction current;
        ours = sigaction(signals_all[i].number, NULL, &current) == 0 && signals_level(&current) < SIGNALS_LEVELS;
    }
    if (!ours) {
        pthread_mutex_lock(&signals_lock);
        const int error = signals_install_all(SIGNALS_TRAPS);
        pthread_mutex_unlock(&signals_lock);
        if (error < 0)
            return error;
    }
    const sigset_t needed = signals_set();
    return -pthread_sigmask(SIG_UNBLOCK, &needed, blocked);
}

void signals_leave(const sigset_t *blocked)
{
    for (unsigned i = 0; i < SIGNALS_COUNT; i++) {
        if (sigismember(blocked, signals_all[i].number)) {
            pthread_sigmask(SIG_SETMASK, blocked, NULL);
            return;
        }
    }
}

int signals_interrupt(pthread_t thread)
{
    pthread_mutex_lock(&signals_lock);
    int error = signals_install_all(SIGNALS_COUNT);
    pthread_mutex_unlock(&signals_lock);
    if (error == 0)
        error = -pthread_sigqueue(thread, SIGNALS_INTERRUPT, (union sigval){.sival_ptr = signals_all});
    return error;
}

bool signals_is_interrupt(int number, const siginfo_t *info)
{
    return number == SIGNALS_INTERRUPT && info->si_code == SI_QUEUE && info->si_value.sival_ptr == signals_all;
}
