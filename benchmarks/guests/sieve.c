/* SPDX-License-Identifier: MIT */
/* The sieve of Eratosthenes over a million bytes. */
#include "kernel.h"

enum { SIZE = 1000000 };
static unsigned char composite[SIZE];

uint64_t run(uint32_t rounds) {
    uint64_t result = 0;
    for (uint32_t round = 0; round < rounds; round++) {
        for (uint32_t i = 0; i < SIZE; i++)
            composite[i] = 0;
        for (uint32_t i = 2; i * i < SIZE; i++)
            if (!composite[i])
                for (uint32_t k = i * i; k < SIZE; k += i)
                    composite[k] = 1;
        for (uint32_t i = 2; i < SIZE; i++)
            result += !composite[i];
    }
    return result;
}
