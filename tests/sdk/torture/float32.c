/* SPDX-License-Identifier: MIT */
/* Soft float, 32 bits: bits of every operation on pairs of special and random values. */
#include <math.h>
#include "torture.h"

static float of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void pair(float a, float b) {
    feed_float(a + b), feed_float(a - b), feed_float(a * b), feed_float(a / b), feed_float(-a);
    feed(a < b), feed(a <= b), feed(a > b), feed(a >= b), feed(a == b), feed(a != b), feed(!(a < b)), feed(a ? 1 : 0);
    feed_float(sqrtf(fabsf(a))), feed_float(a < b ? a : b), feed_float(floorf(a)), feed_float(copysignf(a, b));
    feed_double((double)a * b), feed_float(a * b + 1.0f);
}

int main(void) {
    static const uint32_t special[] = {0,          0x80000000, 1,          0x80000001, 0x7fffff,   0x800000,
                                       0x800001,   0x3f800000, 0xbf800000, 0x3f800001, 0x3f7fffff, 0x7f7fffff,
                                       0xff7fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0x40490fdb, 0x4b800000,
                                       0x4b7fffff, 0x5f000000, 0x33800000};
    for (size_t i = 0; i < COUNT(special); i++)
        for (size_t j = 0; j < COUNT(special); j++)
            pair(of_bits(special[i]), of_bits(special[j]));
    tell("special");
    for (int i = 0; i < 1500; i++) {
        uint64_t bits = next_random();
        pair(of_bits((uint32_t)bits), of_bits((uint32_t)(bits >> 32)));
    }
    tell("random");
    for (int i = 0; i < 2000; i++) { /* quotients and products around the smallest numbers */
        uint64_t bits = next_random();
        pair(of_bits((uint32_t)bits & 0x81ffffff), of_bits(0x3e000000 | ((uint32_t)(bits >> 32) & 0x83ffffff)));
    }
    tell("tiny");
    float total = 0, product = 1;
    for (int i = 1; i < 500; i++)
        total += 1.0f / (float)i, product *= 1.0f + 1.0f / (float)(i * i);
    printf("%.9g %.9g\n", (double)total, (double)product);
    return 0;
}
