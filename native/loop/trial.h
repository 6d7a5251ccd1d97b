/* SPDX-License-Identifier: MIT */
#ifndef AIORING_LOOP_TRIAL_H
#define AIORING_LOOP_TRIAL_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Something that is worth trying where it mostly succeeds. Each time in a row that it was in vain doubles how often it
 * is not tried then, up to TRIAL_SKIPPED.
 */
#define TRIAL_SKIPPED 127
struct trial {
    uint8_t skipped;
    uint8_t left;
};

/* Whether to try now; trial_ended() is told how it went. */
static inline bool trial_due(struct trial *trial)
{
    if (trial->left == 0)
        return true;
    trial->left--;
    return false;
}

static inline void trial_ended(struct trial *trial, bool successful)
{
    if (successful)
        trial->skipped = 0;
    else if (trial->skipped < TRIAL_SKIPPED)
        trial->skipped = (uint8_t)(2 * trial->skipped + 1);
    trial->left = trial->skipped;
}

#endif
