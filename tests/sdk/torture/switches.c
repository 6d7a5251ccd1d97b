/* SPDX-License-Identifier: MIT */
/* Switches that become jump tables, trees of comparisons, bit tests and lookups. */
#include "torture.h"

static __attribute__((noinline)) int dense(int x) {
    switch (x) {
    case 0: return 10;
    case 1: return 7 * x + 3;
    case 2: x += 5; /* fall through */
    case 3: return x * x;
    case 4: return -x;
    case 5:
    case 6:
    case 7: return x << 3;
    case 8: return x ^ 0x55;
    case 9:
        while (x < 100)
            x *= 3;
        return x;
    case 10: return 1 / (x - 9);
    case 12: return 99;
    default: return x % 5;
    }
}
static __attribute__((noinline)) int shifted(int64_t x) {
    switch (x) {
    case -5: return 1;
    case -4: return 20;
    case -3: return 300;
    case -2: return 4;
    case -1: return 55;
    case 0: return 666;
    case 1: return 7;
    case 0x7fffffffffffffff: return 8;
    case (int64_t)0x8000000000000000: return 9;
    case 0x100000001: return 10;
    }
    return -1;
}
static __attribute__((noinline)) const char *sparse(unsigned x) {
    switch (x) {
    case 1: return "one";
    case 10: return "ten";
    case 100: return "hundred";
    case 1000 ... 1999: return "thousand";
    case 65536: return "64K";
    case 0x80000000: return "sign";
    case 0xffffffff: return "all";
    }
    return "other";
}
static __attribute__((noinline)) int letters(int c) {
    switch (c) {
    case 'a':
    case 'e':
    case 'i':
    case 'o':
    case 'u': return 1;
    case ' ':
    case '\t':
    case '\n': return 2;
    case '0' ... '9': return 3;
    default: return 0;
    }
}
static __attribute__((noinline)) int nested(uint8_t a, uint8_t b) {
    switch (a & 7) {
    case 0:
        switch (b & 3) {
        case 0: return 1;
        case 1: return 2;
        case 2: return 3;
        }
        return 4;
    case 1:
        for (;;) {
            switch (b) {
            case 0: return 5;
            case 1: b = 0; continue;
            default: b /= 2;
            }
        }
    case 2: return dense(b);
    case 3: a = 4; /* fall through */
    case 4: return a * b;
    case 5: return letters(b);
    }
    return shifted((int64_t)b - 8);
}

int main(void) {
    for (int i = -3; i < 20; i++)
        printf("%d ", dense(i));
    puts("");
    for (int i = -7; i < 4; i++)
        printf("%d ", shifted(i));
    for (size_t i = 0; i < COUNT(edges); i++)
        printf("%d ", shifted((int64_t)edges[i]));
    puts("");
    static const unsigned values[] = {0, 1, 10, 100, 999, 1000, 1500, 1999, 2000, 65536, 0x80000000, 0xffffffff};
    for (size_t i = 0; i < COUNT(values); i++)
        printf("%s ", sparse(values[i]));
    puts("");
    for (int c = 0; c < 128; c++)
        putchar('0' + letters(c));
    puts("");
    for (int i = 0; i < 65536; i += 3)
        feed((uint64_t)nested((uint8_t)(i >> 8), (uint8_t)i));
    tell("nested");
    return 0;
}
