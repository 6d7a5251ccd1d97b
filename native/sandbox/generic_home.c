/* SPDX-License-Identifier: MIT
 *
 * generic_home: what the guests of one engine in this process share: the signal handlers, and a thread that pauses those
 * whose turn is over. To arm a timer for every run would take longer than most runs do, so the thread looks twice a
 * millisecond while there are any, and sleeps otherwise.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "sandbox/generic.h"
#include "sandbox/sandbox_api.h"
#include "sandbox/signals.h"

/* Nanoseconds between two looks. */
#define HOME_TICK UINT64_C(500000)
/* Looks without a new run before the thread sleeps. */
#define HOME_IDLE_LOOKS 40u

/* A guest that runs, on the stack of the thread that it runs in. */
struct home_run {
    sandbox_generic *guest;
    uint64_t end; /* of its turn; nanoseconds of CLOCK_MONOTONIC, as all times here */
    struct home_run *next;
    struct home_run **link; /* what points to it */
};

struct sandbox_generic_home {
    uint32_t generation;
    pthread_t watcher;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t woken;
    struct home_run *running;
    uint64_t started;   /* how many runs were */
    uint64_t next_look; /* UINT64_MAX: never */
    bool closing;
};

static uint64_t home_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Pauses every guest whose turn is over; returns when the next one's is. */
static uint64_t home_look(sandbox_generic_home *home, uint64_t now)
{
    uint64_t next = UINT64_MAX;
    for (struct home_run *run = home->running; run != NULL; run = run->next) {
        uint64_t end = run->end;
        if (end <= now) {
            sandbox_generic_pause(run->guest); /* with the lock: it lives. If it fails, the next look tries again */
            end = now + HOME_TICK;
        }
        next = end < next ? end : next;
    }
    return next;
}

static void *home_watch(void *argument)
{
    sandbox_generic_home *home = argument;
    unsigned idle = 0;
    uint64_t seen = 0;
    pthread_mutex_lock(&home->lock);
    while (!home->closing) {
        const uint64_t now = home_now();
        idle = home->started == seen ? idle + 1 : 0;
        seen = home->started;
        home->next_look = home_look(home, now);
        if (idle < HOME_IDLE_LOOKS && home->next_look > now + HOME_TICK)
            home->next_look = now + HOME_TICK; /* to wake the thread takes longer than a look */
        if (home->next_look == UINT64_MAX) {
            pthread_cond_wait(&home->woken, &home->lock);
        } else {
            const struct timespec until = {
                .tv_sec = (time_t)(home->next_look / 1000000000u),
                .tv_nsec = (long)(home->next_look % 1000000000u),
            };
            pthread_cond_timedwait(&home->woken, &home->lock, &until);
        }
    }
    pthread_mutex_unlock(&home->lock);
    return NULL;
}

/* A thread that no signal of the process goes to. */
static int home_start_watcher(sandbox_generic_home *home)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(&home->watcher, NULL, home_watch, home);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -error;
}

int sandbox_generic_open(sandbox_generic_home **result)
{
    sandbox_generic_home *home = calloc(1, sizeof *home);
    if (home == NULL)
        return -ENOMEM;
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&home->woken, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&home->lock, NULL);
    home->generation = generic_process();
    int error = signals_open();
    if (error == 0) {
        error = home_start_watcher(home);
        if (error < 0)
            signals_close();
    }
    if (error < 0) {
        free(home);
        return error;
    }
    *result = home;
    return 0;
}

void sandbox_generic_close(sandbox_generic_home *home)
{
    if (home == NULL)
        return;
    if (home->generation == generic_process()) {
        pthread_mutex_lock(&home->lock);
        home->closing = true;
        pthread_cond_signal(&home->woken);
        pthread_mutex_unlock(&home->lock);
        pthread_join(home->watcher, NULL);
        pthread_cond_destroy(&home->woken);
        pthread_mutex_destroy(&home->lock);
        signals_close();
    } /* a forked child has no such thread, and the lock may be its; the handlers do no harm there */
    free(home);
}

int sandbox_generic_run(sandbox_generic_home *home, sandbox_generic *guest, uint64_t turn_ns)
{
    if (home->generation != generic_process())
        return SANDBOX_DIED;
    struct home_run run = {.guest = guest, .end = home_now() + turn_ns};
    pthread_mutex_lock(&home->lock);
    run.next = home->running;
    run.link = &home->running;
    if (run.next != NULL)
        run.next->link = &run.next;
    home->running = &run;
    home->started++;
    if (home->next_look > run.end + HOME_TICK) /* otherwise it looks soon enough by itself */
        pthread_cond_signal(&home->woken);
    pthread_mutex_unlock(&home->lock);

    const int event = generic_turn(guest);

    pthread_mutex_lock(&home->lock);
    *run.link = run.next;
    if (run.next != NULL)
        run.next->link = run.link;
    pthread_mutex_unlock(&home->lock);
    return event;
}
