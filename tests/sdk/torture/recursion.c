/* SPDX-License-Identifier: MIT */
/* Recursion: deep, mutual, with results that are needed behind the call, and tail calls. */
#include "torture.h"

static unsigned ackermann(unsigned m, unsigned n) {
    return !m ? n + 1 : !n ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}
static unsigned fibonacci(unsigned n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
static int is_odd(unsigned n);
static int is_even(unsigned n) { return n ? is_odd(n - 1) : 1; }
static int is_odd(unsigned n) { return n ? is_even(n - 1) : 0; }
static uint64_t gcd(uint64_t a, uint64_t b) { return b ? gcd(b, a % b) : a; }
static int hanoi(int n, int from, int to, int by) {
    if (!n)
        return 0;
    int moves = hanoi(n - 1, from, by, to);
    feed((uint64_t)(from * 10 + to));
    return moves + 1 + hanoi(n - 1, by, to, from);
}
static int permutations;
static void permute(char *text, int at) {
    if (!text[at]) {
        permutations++, feed_text(text);
        return;
    }
    for (int i = at; text[i]; i++) {
        char kept = text[at];
        text[at] = text[i], text[i] = kept;
        permute(text, at + 1);
        kept = text[at], text[at] = text[i], text[i] = kept;
    }
}
static int queens(int n, uint32_t columns, uint32_t left, uint32_t right) {
    if (columns == (1u << n) - 1)
        return 1;
    int count = 0;
    for (uint32_t free = ~(columns | left | right) & ((1u << n) - 1); free; free &= free - 1) {
        uint32_t bit = free & -free;
        count += queens(n, columns | bit, (left | bit) << 1, (right | bit) >> 1);
    }
    return count;
}
static int collatz(uint64_t n, int steps) { return n == 1 ? steps : collatz(n & 1 ? 3 * n + 1 : n / 2, steps + 1); }

int main(void) {
    printf("%u %u %d %d\n", ackermann(2, 9), fibonacci(18), is_even(1000), is_odd(777));
    printf("%" PRIu64 " %d\n", gcd(1071ull << 32, 462ull << 30), hanoi(10, 1, 3, 2));
    tell("hanoi");
    char text[] = "abcdef";
    permute(text, 0);
    printf("%d\n", permutations);
    tell("permutations");
    printf("%d %d %d\n", queens(6, 0, 0, 0), queens(8, 0, 0, 0), collatz(27, 0));
    return 0;
}
