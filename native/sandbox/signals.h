/* SPDX-License-Identifier: MIT
 *
 * signals: the process-wide handlers that guests in this process need.
 *
 * A signal that is not about guest code goes where it would have gone without them. Others install handlers too,
 * before or after, and restore later what they found, which may be ours. So each time ours is put over a handler that
 * is new, it is another function (a *level*), which knows what it was put over: whoever calls or restores an older one
 * gets what lay below that one then, and no chain runs in a circle.
 */
#ifndef SANDBOX_SIGNALS_H
#define SANDBOX_SIGNALS_H

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

/* The signal that interrupts a guest: one that is ignored by default, so that one that comes late does no harm. */
#define SIGNALS_INTERRUPT SIGURG

/* Installs the handlers if nobody did; each to be followed by signals_close. 0 or -errno; -EMLINK: a signal was taken
 * over by others too often. Thread-safe, as all of these. */
int signals_open(void);
/* The last one restores what was there before, where a handler is still ours. */
void signals_close(void);

/* Makes the handlers of the signals with which guest code traps ours, whoever replaced them meanwhile, and lets them
 * through in this thread; `blocked` is what to give to signals_leave. As signals_open. */
int signals_enter(sigset_t *blocked);
void signals_leave(const sigset_t *blocked);

/* Interrupts the guest in `thread`, which is alive. As signals_open. */
int signals_interrupt(pthread_t thread);

/* Whether it was sent by signals_interrupt. */
bool signals_is_interrupt(int number, const siginfo_t *info);

/* Defined by whoever runs guests (generic.c): whether the signal is about guest code in this thread, and dealt with.
 * Called in a signal handler. */
bool signals_about_guest(int number, siginfo_t *info, void *context);

#endif
