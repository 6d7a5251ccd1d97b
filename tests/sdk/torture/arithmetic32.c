/* SPDX-License-Identifier: MIT */
/* Every operation of 32-bit integers on pairs of edge cases. */
#include "torture.h"

static void pair(uint32_t a, uint32_t b) {
    int32_t c = (int32_t)a, d = (int32_t)b;
    feed(a + b), feed(a - b), feed(a * b), feed(a & b), feed(a | b), feed(a ^ b), feed(~a), feed(-a);
    feed(a << (b & 31)), feed(a >> (b & 31)), feed((uint64_t)(c >> (b & 31)));
    feed((uint64_t)a * b), feed((uint64_t)((int64_t)c * d)), feed((uint64_t)((int64_t)c * b));
    if (b)
        feed(a / b), feed(a % b);
    if (d && !(c == INT32_MIN && d == -1))
        feed((uint64_t)(c / d)), feed((uint64_t)(c % d));
    feed(a < b), feed(a <= b), feed(c < d), feed(c <= d), feed(a == b), feed(c >= 0), feed(a > 100), feed(c < -7);
    feed(a > b ? a : b), feed((uint64_t)(c > d ? c : d)), feed((uint64_t)(c < 0 ? -(int64_t)c : c));
    int32_t sum;
    feed(__builtin_add_overflow(c, d, &sum)), feed((uint64_t)sum);
    feed(__builtin_sub_overflow(c, d, &sum)), feed((uint64_t)sum);
    feed(__builtin_mul_overflow(c, d, &sum)), feed((uint64_t)sum);
}

int main(void) {
    for (size_t i = 0; i < COUNT(edges); i++) {
        for (size_t j = 0; j < COUNT(edges); j++)
            pair((uint32_t)edges[i], (uint32_t)edges[j]), pair((uint32_t)(edges[i] >> 32), (uint32_t)edges[j]);
        tell("edges");
    }
    for (int i = 0; i < 2000; i++) {
        uint32_t a = (uint32_t)next_random();
        pair(a, (uint32_t)random_size());
    }
    tell("random");
    return 0;
}
