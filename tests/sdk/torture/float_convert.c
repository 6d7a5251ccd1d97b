/* SPDX-License-Identifier: MIT */
/* Between floating point and integers of all widths, with all roundings. */
#include <math.h>
#include "torture.h"

static void from(uint64_t x) {
    feed_double((double)x), feed_double((double)(int64_t)x), feed_double((double)(uint32_t)x),
        feed_double((double)(int32_t)x);
    feed_float((float)x), feed_float((float)(int64_t)x), feed_float((float)(uint32_t)x), feed_float((float)(int32_t)x);
    feed_float((float)(double)x), feed_double((double)(float)(int16_t)x), feed_double((double)(uint8_t)x);
}

static void to(double x) { /* only what fits: anything else is undefined */
    double y = fabs(x);
    if (y < 18446744073709551616.0)
        feed((uint64_t)y);
    if (y < 9223372036854775808.0)
        feed((uint64_t)(int64_t)x);
    if (y < 4294967296.0)
        feed((uint32_t)y);
    if (y < 2147483648.0)
        feed((uint64_t)(int32_t)x), feed((uint64_t)(int32_t)(float)(x / 2)), feed((uint64_t)lrint(x));
    if (y < 128)
        feed((uint64_t)(int8_t)x), feed((uint8_t)y), feed((uint64_t)(int16_t)(x * 200));
    feed_double(trunc(x)), feed_double(round(x)), feed_double(rint(x)), feed_double(ceil(x)), feed_float((float)x);
    feed_double(nearbyint(x * 0.5)), feed((uint64_t)(x != 0.0));
}

int main(void) {
    for (size_t i = 0; i < COUNT(edges); i++)
        from(edges[i]), from(~edges[i] >> 11), from(edges[i] + 512), from((1ull << i) + (1ull << i / 2));
    tell("from");
    for (double x = 1e-5; x < 1e25; x *= 1.37)
        to(x), to(-x), to(floor(x) + 0.5), to(-floor(x) - 0.5);
    for (int i = -40; i < 40; i++)
        to(i * 0.25), to(i);
    to(2147483647.0), to(-2147483647.5), to(4294967295.5), to(9007199254740993.0);
    tell("to");
    for (int i = 0; i < 2000; i++) {
        int64_t x = (int64_t)random_size();
        from((uint64_t)x), to((double)x / (double)(1 + (next_random() & 1023)));
    }
    tell("random");
    return 0;
}
