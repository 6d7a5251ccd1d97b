/* SPDX-License-Identifier: MIT */
/* Soft float, 64 bits: bits of every operation on pairs of special and random values. */
#include <math.h>
#include "torture.h"

static double of_bits(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void pair(double a, double b) {
    feed_double(a + b), feed_double(a - b), feed_double(a * b), feed_double(a / b), feed_double(-a);
    feed(a < b), feed(a <= b), feed(a > b), feed(a >= b), feed(a == b), feed(a != b), feed(!(a < b)), feed(a ? 1 : 0);
    feed_double(sqrt(fabs(a))), feed_double(a < b ? a : b), feed_double(floor(a)), feed_double(copysign(a, b));
    feed_float((float)a), feed_double(a * b + 1.0);
}

int main(void) {
    static const uint64_t special[] = {0,
                                       1ull << 63,
                                       1,
                                       0x8000000000000001,
                                       0xfffffffffffff,
                                       0x10000000000000,
                                       0x10000000000001,
                                       0x3ff0000000000000,
                                       0xbff0000000000000,
                                       0x3ff0000000000001,
                                       0x3fefffffffffffff,
                                       0x7fefffffffffffff,
                                       0xffefffffffffffff,
                                       0x7ff0000000000000,
                                       0xfff0000000000000,
                                       0x7ff8000000000000,
                                       0x400921fb54442d18,
                                       0x4340000000000000,
                                       0x433fffffffffffff,
                                       0x3ca0000000000000,
                                       0x3690000000000000,
                                       0x47efffffffffffff};
    for (size_t i = 0; i < COUNT(special); i++)
        for (size_t j = 0; j < COUNT(special); j++)
            pair(of_bits(special[i]), of_bits(special[j]));
    tell("special");
    for (int i = 0; i < 1500; i++) {
        uint64_t bits = next_random();
        pair(of_bits(bits), of_bits(next_random()));
    }
    tell("random");
    for (int i = 0; i < 2000; i++) { /* quotients and products around the smallest numbers */
        uint64_t bits = next_random();
        pair(of_bits(bits & 0x801fffffffffffff), of_bits(0x3fc0000000000000 | (next_random() & 0x803fffffffffffff)));
    }
    tell("tiny");
    for (int i = 0; i < 1500; i++) {
        double x = (double)(int64_t)next_random() / 1e9;
        pair(x, (double)(next_random() & 0xffff) / 7);
    }
    tell("moderate");
    double pi = 0;
    for (int i = 0; i < 3000; i++)
        pi += (i & 1 ? -4.0 : 4.0) / (2 * i + 1);
    printf("%.17g\n", pi);
    return 0;
}
