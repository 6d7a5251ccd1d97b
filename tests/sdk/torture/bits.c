/* SPDX-License-Identifier: MIT */
/* Counting, reversing and finding bits, by the compiler's builtins and by hand. */
#include "torture.h"

static int count_by_hand(uint64_t x) {
    int count = 0;
    for (; x; x &= x - 1)
        count++;
    return count;
}

static uint32_t reverse_by_hand(uint32_t x) {
    uint32_t result = 0;
    for (int i = 0; i < 32; i++)
        result = result << 1 | (x >> i & 1);
    return result;
}

static void look(uint64_t x) {
    uint32_t half = (uint32_t)x;
    feed((uint64_t)__builtin_popcountll(x)), feed((uint64_t)count_by_hand(x)), feed((uint64_t)__builtin_popcount(half));
    feed((uint64_t)__builtin_parityll(x)), feed((uint64_t)__builtin_ffsll((long long)x)), feed(reverse_by_hand(half));
    if (x)
        feed((uint64_t)__builtin_clzll(x)), feed((uint64_t)__builtin_ctzll(x));
    if (half)
        feed((uint64_t)__builtin_clz(half)), feed((uint64_t)__builtin_ctz(half)),
            feed((uint64_t)__builtin_ffs((int)half));
    feed(__builtin_bswap64(x)), feed(__builtin_bswap32(half)), feed(__builtin_bswap16((uint16_t)x));
    feed(x & -x), feed(x & (x - 1)), feed(x | (x + 1)), feed((x & 1ull << 45) != 0), feed(x ^ 1ull << 33),
        feed(x & ~(1ull << 5));
    feed((half >> (x & 31)) & 1), feed(half | 1u << (x & 31)), feed(half & ~(1u << (x & 31)));
}

int main(void) {
    for (size_t i = 0; i < COUNT(edges); i++)
        look(edges[i]), look(~edges[i]);
    tell("edges");
    for (int i = 0; i < 3000; i++)
        look(random_size());
    tell("random");
    return 0;
}
