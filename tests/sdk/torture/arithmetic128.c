/* SPDX-License-Identifier: MIT */
/* 128-bit integers, where the compiler has them. */
#include "torture.h"

typedef unsigned __int128 u128;
typedef __int128 i128;

static void feed128(u128 value) { feed((uint64_t)value), feed((uint64_t)(value >> 64)); }

static void pair(u128 a, u128 b) {
    i128 c = (i128)a, d = (i128)b;
    feed128(a + b), feed128(a - b), feed128(a * b), feed128(-a), feed128(a ^ b);
    unsigned shift = (unsigned)b & 127;
    feed128(a << shift), feed128(a >> shift), feed128((u128)(c >> shift));
    if (b)
        feed128(a / b), feed128(a % b);
    if (d && !((uint64_t)(a >> 64) == 1ull << 63 && d == -1))
        feed128((u128)(c / d)), feed128((u128)(c % d));
    feed(a < b), feed(c < d), feed(a <= b), feed(a == b), feed(c < 0);
    feed_double((double)a), feed_double((double)c), feed_float((float)a), feed_float((float)c);
}

int main(void) {
    for (size_t i = 0; i < COUNT(edges); i += 3)
        for (size_t j = 0; j < COUNT(edges); j++) {
            pair((u128)edges[i] << 64 | edges[j], edges[(i + j) % COUNT(edges)]);
            pair((u128)edges[i] << 64 | edges[j], (u128)edges[j] << 64 | edges[i]);
            pair(edges[i], (u128)edges[j] << 32);
        }
    tell("edges");
    for (int i = 0; i < 1000; i++) {
        uint64_t a = next_random(), b = next_random(), c = next_random(), d = next_random();
        pair((u128)a << 64 | b, ((u128)c << 64 | d) >> (i & 127));
    }
    tell("random");
    for (double x = 1; x < 1e38; x *= 3.7)
        feed128((u128)x), feed128((u128)(i128)-x);
    tell("from double");
    return 0;
}
