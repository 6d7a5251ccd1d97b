/* SPDX-License-Identifier: MIT */
/* Loops that optimizers rewrite: odd bounds, wrapping counters, exits in the middle, goto into them, Duff's device. */
#include "torture.h"

static __attribute__((noinline)) void duff(char *to, const char *from, int count) {
    int rounds = (count + 7) / 8;
    switch (count % 8) {
    case 0: do { *to++ = *from++; /* fall through */
        case 7: *to++ = *from++;  /* fall through */
        case 6: *to++ = *from++;  /* fall through */
        case 5: *to++ = *from++;  /* fall through */
        case 4: *to++ = *from++;  /* fall through */
        case 3: *to++ = *from++;  /* fall through */
        case 2: *to++ = *from++;  /* fall through */
        case 1: *to++ = *from++;
        } while (--rounds > 0);
    }
}
static __attribute__((noinline)) uint64_t sums(uint32_t n) {
    uint64_t total = 0;
    for (uint32_t i = 0; i < n; i++)
        total += (uint64_t)i * i;
    for (uint32_t i = n; i--;)
        total ^= i;
    for (uint8_t i = 250; i != 5; i++)
        total += i;
    for (int32_t i = -3; i <= (int32_t)n; i += 4)
        total += (uint64_t)(int64_t)i;
    for (uint64_t i = 1; i < n; i <<= 1)
        total = total << 1 ^ i;
    return total;
}
static __attribute__((noinline)) int search(const int *grid, int width, int height, int wanted) {
    int at = -1;
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++) {
            if (grid[y * width + x] < 0)
                goto next_row;
            if (grid[y * width + x] == wanted) {
                at = y * 100 + x;
                goto found;
            }
            if ((x ^ y) == 5)
                continue;
            feed((uint64_t)(x + y));
        }
        feed(1);
    next_row:;
    }
    return -2;
found:
    return at;
}
static __attribute__((noinline)) int irreducible(int n) { /* a loop with two entries */
    int total = 0;
    if (n & 1)
        goto inside;
    while (n > 0) {
        total += n;
    inside:
        n -= 3;
        total ^= n;
    }
    return total;
}

int main(void) {
    char to[64] = {0};
    for (int count = 1; count < 40; count++) {
        memset(to, '.', 63);
        duff(to, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", count);
        feed_text(to);
    }
    tell("duff");
    for (uint32_t n = 0; n < 300; n += 13)
        feed(sums(n));
    tell("sums");
    int grid[10 * 8];
    for (int i = 0; i < 80; i++)
        grid[i] = i * 37 % 91 - (i % 17 == 0 ? 100 : 0);
    for (int wanted = 0; wanted < 91; wanted += 5)
        printf("%d ", search(grid, 10, 8, wanted));
    puts("");
    tell("search");
    for (int n = 0; n < 40; n++)
        printf("%d ", irreducible(n));
    puts("");
    return 0;
}
