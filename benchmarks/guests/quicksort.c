/* SPDX-License-Identifier: MIT */
/* Quicksort of 200000 random integers, the middle of three as pivot. */
#include "kernel.h"

enum { SIZE = 200000 };
static uint32_t items[SIZE];

static void sort(uint32_t *low, uint32_t *high) {
    while (high - low > 12) {
        uint32_t x = *low, y = low[(high - low) / 2], z = *high;
        uint32_t pivot = x < y ? (y < z ? y : x < z ? z : x) : (x < z ? x : y < z ? z : y);
        uint32_t *i = low, *j = high;
        while (i <= j) {
            while (*i < pivot)
                i++;
            while (*j > pivot)
                j--;
            if (i <= j) {
                uint32_t kept = *i;
                *i++ = *j, *j-- = kept;
            }
        }
        if (j - low < high - i) {
            sort(low, j);
            low = i;
        } else {
            sort(i, high);
            high = j;
        }
    }
    for (uint32_t *i = low + 1; i <= high; i++) {
        uint32_t item = *i, *at = i;
        for (; at > low && at[-1] > item; at--)
            *at = at[-1];
        *at = item;
    }
}

uint64_t run(uint32_t rounds) {
    uint64_t result = 0;
    uint32_t state = 12345;
    for (uint32_t round = 0; round < rounds; round++) {
        for (int i = 0; i < SIZE; i++)
            items[i] = next_random(&state);
        sort(items, items + SIZE - 1);
        for (int i = 0; i < SIZE; i += 997)
            result = result * 31 + items[i];
    }
    return result;
}
