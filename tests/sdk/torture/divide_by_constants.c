/* SPDX-License-Identifier: MIT */
/* Divisions by constants, which compilers turn into multiplications by magic numbers. */
#include "torture.h"

#define BY(type, x, n) feed((uint64_t)((type)(x) / (n))), feed((uint64_t)((type)(x) % (n)))
#define ALL(type, x)                                                                                                   \
    BY(type, x, 1), BY(type, x, 2), BY(type, x, 3), BY(type, x, 5), BY(type, x, 6), BY(type, x, 7), BY(type, x, 10),   \
        BY(type, x, 11), BY(type, x, 13), BY(type, x, 16), BY(type, x, 25), BY(type, x, 60), BY(type, x, 64),          \
        BY(type, x, 100), BY(type, x, 125)
#define LARGE(type, x)                                                                                                 \
    BY(type, x, 255), BY(type, x, 641), BY(type, x, 1000), BY(type, x, 1024), BY(type, x, 3600), BY(type, x, 10007),   \
        BY(type, x, 1000000), BY(type, x, 86400000), BY(type, x, 1000000007), BY(type, x, 0x7fffffff)
#define NEGATIVE(type, x) BY(type, x, -2), BY(type, x, -3), BY(type, x, -7), BY(type, x, -16), BY(type, x, -100)

static void divide(uint64_t x) {
    ALL(uint8_t, x), ALL(int8_t, x), NEGATIVE(int8_t, x), ALL(uint16_t, x), ALL(int16_t, x), NEGATIVE(int16_t, x);
    ALL(uint32_t, x), LARGE(uint32_t, x), ALL(int32_t, x), LARGE(int32_t, x), NEGATIVE(int32_t, x);
    ALL(uint64_t, x), LARGE(uint64_t, x), ALL(int64_t, x), LARGE(int64_t, x), NEGATIVE(int64_t, x);
    BY(uint64_t, x, 0x100000001), BY(int64_t, x, 1000000000000), BY(uint64_t, x, 0xfffffffffffffffe);
}

int main(void) {
    for (size_t i = 0; i < COUNT(edges); i++)
        divide(edges[i]), divide(edges[i] + 1000), divide(edges[i] * 3);
    tell("edges");
    for (int i = 0; i < 300; i++)
        divide(random_size());
    tell("random");
    return 0;
}
