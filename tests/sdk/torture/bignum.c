/* SPDX-License-Identifier: MIT */
/* Numbers of many words: factorials, Fibonacci numbers, powers modulo, square roots, in decimal. */
#include "torture.h"

enum { WORDS = 40 };
struct big {
    uint32_t at[WORDS];
};

static struct big of(uint32_t x) { return (struct big){{x}}; }
static uint32_t times_small(struct big *a, uint32_t by) {
    uint64_t carry = 0;
    for (int i = 0; i < WORDS; i++)
        carry += (uint64_t)a->at[i] * by, a->at[i] = (uint32_t)carry, carry >>= 32;
    return (uint32_t)carry;
}
static uint32_t divide_small(struct big *a, uint32_t by) {
    uint64_t rest = 0;
    for (int i = WORDS; i--;)
        rest = rest << 32 | a->at[i], a->at[i] = (uint32_t)(rest / by), rest %= by;
    return (uint32_t)rest;
}
static struct big plus(struct big a, struct big b) {
    uint64_t carry = 0;
    for (int i = 0; i < WORDS; i++)
        carry += (uint64_t)a.at[i] + b.at[i], a.at[i] = (uint32_t)carry, carry >>= 32;
    return a;
}
static struct big times(struct big a, struct big b) {
    struct big result = of(0);
    for (int i = 0; i < WORDS; i++) {
        uint64_t carry = 0;
        for (int j = 0; i + j < WORDS; j++)
            carry += result.at[i + j] + (uint64_t)a.at[i] * b.at[j], result.at[i + j] = (uint32_t)carry, carry >>= 32;
    }
    return result;
}
static void print(struct big a) {
    char digits[WORDS * 10], *at = digits + sizeof digits;
    *--at = 0;
    do {
        uint32_t rest = divide_small(&a, 1000000000);
        for (int i = 0; i < 9; i++, rest /= 10)
            *--at = (char)('0' + rest % 10);
        int left = 0;
        for (int i = 0; i < WORDS; i++)
            left |= a.at[i] != 0;
        if (!left)
            break;
    } while (1);
    while (*at == '0' && at[1])
        at++;
    puts(at);
}
static uint64_t multiply_modulo(uint64_t a, uint64_t b, uint64_t modulus) {
    uint64_t result = 0;
    for (; b; b >>= 1) {
        if (b & 1)
            result = result >= modulus - a ? result - (modulus - a) : result + a;
        a = a >= modulus - a ? a - (modulus - a) : a + a;
    }
    return result;
}

int main(void) {
    struct big f = of(1);
    for (uint32_t i = 2; i <= 150; i++)
        times_small(&f, i);
    print(f);
    struct big a = of(0), b = of(1);
    for (int i = 0; i < 1000; i++) {
        struct big c = plus(a, b);
        a = b, b = c;
    }
    print(a);
    struct big power = of(3);
    for (int i = 0; i < 9; i++)
        power = times(power, power);
    print(power), print(of(0));
    uint64_t modulus = 18446744073709551557u, result = 1, base = 7; /* the largest prime below 2^64 */
    for (uint64_t e = modulus - 1; e; e >>= 1, base = multiply_modulo(base, base, modulus))
        if (e & 1)
            result = multiply_modulo(result, base, modulus);
    printf("%" PRIu64 "\n", result);
    return 0;
}
