/* SPDX-License-Identifier: MIT */
/* How a kernel is exported: run(rounds) returns a checksum of what it computed. No libc: it would be another one each.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

#if defined(__PVM__)
#include <pvm.h>
PVM_EXPORT(uint64_t, run, uint32_t);
#elif defined(__wasm__)
__attribute__((export_name("run"))) uint64_t run(uint32_t rounds);
#else
__attribute__((visibility("default"))) uint64_t run(uint32_t rounds);
#endif

static inline uint32_t next_random(uint32_t *state) { /* xorshift */
    uint32_t x = *state;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return *state = x;
}
