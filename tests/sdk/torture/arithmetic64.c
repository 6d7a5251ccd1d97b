/* SPDX-License-Identifier: MIT */
/* Every operation of 64-bit integers on pairs of edge cases. */
#include "torture.h"

static void pair(uint64_t a, uint64_t b) {
    int64_t c = (int64_t)a, d = (int64_t)b;
    feed(a + b), feed(a - b), feed(a * b), feed(a & b), feed(a | b), feed(a ^ b), feed(~a), feed(-a), feed(a & ~b);
    feed(a << (b & 63)), feed(a >> (b & 63)), feed((uint64_t)(c >> (b & 63)));
    if (b)
        feed(a / b), feed(a % b);
    if (d && !(c == INT64_MIN && d == -1))
        feed((uint64_t)(c / d)), feed((uint64_t)(c % d));
    feed(a < b), feed(a <= b), feed(c < d), feed(c <= d), feed(a == b), feed(c >= 0), feed(a > 100), feed(c < -7);
    feed(a > b ? a : b), feed((uint64_t)(c > d ? c : d)), feed(a > b ? a - b : b - a);
    int64_t result;
    feed(__builtin_add_overflow(c, d, &result)), feed((uint64_t)result);
    feed(__builtin_sub_overflow(c, d, &result)), feed((uint64_t)result);
    feed(__builtin_mul_overflow(c, d, &result)), feed((uint64_t)result);
    uint64_t unsigned_result;
    feed(__builtin_mul_overflow(a, b, &unsigned_result)), feed(unsigned_result);
    feed((uint64_t)(int32_t)a), feed((uint32_t)a), feed((uint64_t)(int16_t)a), feed((uint64_t)(int8_t)a);
}

int main(void) {
    for (size_t i = 0; i < COUNT(edges); i++) {
        for (size_t j = 0; j < COUNT(edges); j++)
            pair(edges[i], edges[j]);
        tell("edges");
    }
    for (int i = 0; i < 2000; i++) {
        uint64_t a = next_random();
        pair(a, random_size());
    }
    tell("random");
    return 0;
}
