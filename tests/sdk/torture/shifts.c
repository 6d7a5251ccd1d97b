/* SPDX-License-Identifier: MIT */
/* Shifts and rotations by variable and constant amounts, fields put together and taken apart. */
#include "torture.h"

static uint32_t rotl32(uint32_t x, unsigned n) { return x << (n & 31) | x >> (-n & 31); }
static uint64_t rotl64(uint64_t x, unsigned n) { return x << (n & 63) | x >> (-n & 63); }
static uint64_t rotr64(uint64_t x, unsigned n) { return x >> (n & 63) | x << (-n & 63); }

#define CONSTANT(n)                                                                                                    \
    feed(x << n), feed(x >> n), feed((uint64_t)((int64_t)x >> n)), feed(rotl64(x, n)), feed(rotl32((uint32_t)x, n)),   \
        feed((uint32_t)x << (n & 31)), feed((uint64_t)((int32_t)x >> (n & 31))), feed(x << n >> n),                    \
        feed((uint64_t)((int64_t)(x << n) >> n)), feed(x >> n << n), feed((uint32_t)x << (n & 31) >> (n & 31))

int main(void) {
    for (size_t i = 0; i < COUNT(edges); i++) {
        uint64_t x = edges[i];
        for (unsigned n = 0; n < 64; n++) {
            feed(x << n), feed(x >> n), feed((uint64_t)((int64_t)x >> n)), feed(rotl64(x, n)), feed(rotr64(x, n));
            feed(rotl32((uint32_t)x, n)), feed((uint64_t)(uint32_t)x << n), feed((uint64_t)((int64_t)(int32_t)x >> n));
        }
        CONSTANT(1), CONSTANT(7), CONSTANT(8), CONSTANT(16), CONSTANT(24), CONSTANT(31), CONSTANT(32), CONSTANT(33);
        CONSTANT(48), CONSTANT(56), CONSTANT(63);
        feed((x >> 5 & 0x3f) | (x & 0xff) << 9), feed(x >> 13 & 0x1ffff), feed((x & 0xffff0000) >> 16 | x << 48);
    }
    tell("shifts");
    return 0;
}
