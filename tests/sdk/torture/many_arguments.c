/* SPDX-License-Identifier: MIT */
/* More arguments than registers, of mixed widths: RV64E and RV32E have six registers for them. */
#include "torture.h"

static __attribute__((noinline)) double all(int8_t a, int64_t b, float c, uint16_t d, double e, uint32_t f, int64_t g,
                                            int8_t h, double i, float j, uint64_t k, int16_t l, const char *m,
                                            int64_t n, uint8_t o, double p) {
    feed((uint64_t)a), feed((uint64_t)b), feed_float(c), feed(d), feed_double(e), feed(f), feed((uint64_t)g),
        feed((uint64_t)h);
    feed_double(i), feed_float(j), feed(k), feed((uint64_t)l), feed_text(m), feed((uint64_t)n), feed(o), feed_double(p);
    return a + (double)b + c + d + e + f + (double)g + h + i + j + (double)k + l + (double)strlen(m) + (double)n + o +
           p;
}
static __attribute__((noinline)) int64_t straddling(int32_t a, int64_t b, int32_t c, int64_t d, int32_t e, int64_t f) {
    return a + 3 * b + 5 * c + 7 * d + 11 * e + 13 * f;
}
static __attribute__((noinline)) uint64_t twelve(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f,
                                                 uint64_t g, uint64_t h, uint64_t i, uint64_t j, uint64_t k,
                                                 uint64_t l) {
    return (a ^ l) + (b ^ k) * 3 + (c ^ j) * 5 + (d ^ i) * 7 + (e ^ h) * 11 + (f ^ g) * 13;
}
static __attribute__((noinline)) uint64_t turned(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f,
                                                 uint64_t g, uint64_t h) {
    return h ? turned(h - 1, a, b, c, d, e, f, g % 3 ? g : 0) + a : b + c + d;
}

int main(void) {
    double (*volatile through)(int8_t, int64_t, float, uint16_t, double, uint32_t, int64_t, int8_t, double, float,
                               uint64_t, int16_t, const char *, int64_t, uint8_t, double) = all;
    for (int x = -2; x < 3; x++) {
        double direct = all((int8_t)x, (int64_t)x << 35, (float)x / 4, (uint16_t)x, x * 0.125, (uint32_t)x, -x, 5, 6.5,
                            7.25f, 8, -9, "ten", 11, (uint8_t)x, 13.75);
        double indirect = through((int8_t)x, (int64_t)x << 35, (float)x / 4, (uint16_t)x, x * 0.125, (uint32_t)x, -x, 5,
                                  6.5, 7.25f, 8, -9, "ten", 11, (uint8_t)x, 13.75);
        printf("%.6f %d\n", direct, direct == indirect);
    }
    tell("all");
    printf("%" PRId64 "\n", straddling(-1, 1ll << 33, 3, -(1ll << 34), -5, 1ll << 35));
    printf("%" PRIu64 "\n", twelve(1, 2, 3ull << 40, 4, 5, 6, 7, 8, 9ull << 50, 10, 11, 12));
    printf("%" PRIu64 "\n", turned(10, 9, 8, 7, 6, 5, 4, 3));
    return 0;
}
