/* SPDX-License-Identifier: MIT */
/* strtol and its kin. Those of Zig 0.17 forget where a number ends that is too large. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>

static unsigned digit(char c) {
    if (c >= '0' && c <= '9')
        return (unsigned)(c - '0');
    c |= 0x20;
    return c >= 'a' && c <= 'z' ? (unsigned)(c - 'a') + 10 : 99;
}

/* C11 7.22.1.4. The value is at most `most`, or if there is a minus sign at most `least`, and then negated. */
static unsigned long long scan(const char *text, char **end, int base, unsigned long long most,
                               unsigned long long least) {
    const char *at = text, *after = text;
    unsigned long long value = 0;
    int overflow = 0;
    if (base < 0 || base == 1 || base > 36) {
        errno = EINVAL;
        if (end)
            *end = (char *)text;
        return 0;
    }
    while (*at == ' ' || (*at >= '\t' && *at <= '\r'))
        at++;
    int negative = *at == '-';
    at += *at == '-' || *at == '+';
    if ((base == 0 || base == 16) && at[0] == '0' && (at[1] | 0x20) == 'x' && digit(at[2]) < 16) {
        at += 2;
        base = 16;
    } else if (base == 0) {
        base = *at == '0' ? 8 : 10;
    }
    for (; digit(*at) < (unsigned)base; after = ++at)
        overflow |= __builtin_mul_overflow(value, (unsigned)base, &value) ||
                    __builtin_add_overflow(value, digit(*at), &value);
    if (end)
        *end = (char *)after;
    unsigned long long limit = negative ? least : most;
    if (overflow || value > limit) {
        errno = ERANGE;
        value = limit;
        /* The largest unsigned number stands for any that is too large, whatever its sign. */
        negative &= least != most;
    }
    return negative ? -value : value;
}

long strtol(const char *restrict text, char **restrict end, int base) {
    return (long)scan(text, end, base, LONG_MAX, (unsigned long long)LONG_MAX + 1);
}

long long strtoll(const char *restrict text, char **restrict end, int base) {
    return (long long)scan(text, end, base, LLONG_MAX, (unsigned long long)LLONG_MAX + 1);
}

unsigned long strtoul(const char *restrict text, char **restrict end, int base) {
    return (unsigned long)scan(text, end, base, ULONG_MAX, ULONG_MAX);
}

unsigned long long strtoull(const char *restrict text, char **restrict end, int base) {
    return scan(text, end, base, ULLONG_MAX, ULLONG_MAX);
}

intmax_t strtoimax(const char *restrict text, char **restrict end, int base) { return strtoll(text, end, base); }

uintmax_t strtoumax(const char *restrict text, char **restrict end, int base) { return strtoull(text, end, base); }
