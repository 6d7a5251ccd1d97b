/* SPDX-License-Identifier: MIT
 *
 * bits: bitmaps of pages, 64 to a word.
 */
#ifndef SANDBOX_BITS_H
#define SANDBOX_BITS_H

#include <stdbool.h>
#include <stdint.h>

static inline bool bits_has(const uint64_t *bits, uint64_t n)
{
    return bits[n / 64] >> n % 64 & 1;
}

static inline void bits_set(uint64_t *bits, uint64_t first, uint64_t end, bool value)
{
    while (first < end) {
        const uint64_t count = 64 - first % 64 < end - first ? 64 - first % 64 : end - first;
        const uint64_t mask = UINT64_MAX >> (64 - count) << first % 64;
        bits[first / 64] = value ? bits[first / 64] | mask : bits[first / 64] & ~mask;
        first += count;
    }
}

/* The first of [first, end) that is `value`; `end` if none is. */
static inline uint64_t bits_find(const uint64_t *bits, uint64_t first, uint64_t end, bool value)
{
    while (first < end) {
        const uint64_t word = (value ? bits[first / 64] : ~bits[first / 64]) >> first % 64;
        if (word != 0) {
            first += (uint64_t)__builtin_ctzll(word);
            return first < end ? first : end;
        }
        first += 64 - first % 64;
    }
    return end;
}

#endif
