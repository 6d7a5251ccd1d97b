/* SPDX-License-Identifier: MIT
 *
 * confine: capabilities and resource limits, given up for good. All return 0 or -errno.
 */
#ifndef ZYGOTE_CONFINE_H
#define ZYGOTE_CONFINE_H

#include <stdint.h>

struct confine_limit {
    int resource; /* RLIMIT_* */
    uint64_t value;
};

/* Empties all five capability sets of the calling thread and locks the secure bits. Needs CAP_SETPCAP, which
 * the first process of a user namespace has. */
int confine_drop_capabilities(void);

/* Sets soft and hard limit of each resource. */
int confine_limits(const struct confine_limit *limits, unsigned count);

#endif
