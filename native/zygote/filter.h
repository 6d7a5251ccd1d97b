/* SPDX-License-Identifier: MIT
 *
 * filter: the seccomp policy, the one place that says which system calls are left.
 *
 * Two filters stack: the nursery's is inherited by every worker, and the worker adds its own. Both kill the
 * process on anything that is not listed (SECCOMP_RET_KILL_PROCESS), and on a call from another architecture;
 * x32 numbers carry bit 30 and so match nothing.
 */
#ifndef ZYGOTE_FILTER_H
#define ZYGOTE_FILTER_H

/* Both return 0 or -errno, and need no_new_privs. */
int filter_install_nursery(void);
int filter_install_worker(void);

#endif
