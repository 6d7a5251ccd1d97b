/* SPDX-License-Identifier: MIT */
/* Parsing JSON: a document of 200 KB is written once, then read again and again by recursive descent. */
#include "kernel.h"

enum { SIZE = 200000 };
static char text[SIZE + 400];
static const char *at;
static uint64_t hash;

static char *put(char *to, const char *from) {
    while (*from)
        *to++ = *from++;
    return to;
}
static char *put_number(char *to, uint32_t n) {
    char digits[10];
    int count = 0;
    do
        digits[count++] = (char)('0' + n % 10);
    while (n /= 10);
    while (count)
        *to++ = digits[--count];
    return to;
}
static void write_document(void) {
    uint32_t state = 99;
    char *to = put(text, "[");
    while (to < text + SIZE) {
        to = put(to, "{\"id\": "), to = put_number(to, next_random(&state));
        to = put(to, ", \"name\": \"user \\\"number\\\" "), to = put_number(to, next_random(&state) % 1000);
        to = put(to, "\", \"tags\": [\"alpha\", \"beta\\n\", null, true, false], \"position\": {\"x\": -");
        to = put_number(to, next_random(&state) % 10000), to = put(to, ", \"y\": "),
        to = put_number(to, next_random(&state) % 77);
        to = put(to, "}}, ");
    }
    *put(to, "{}]") = 0;
}

static void space(void) {
    while (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r')
        at++;
}
static int word(const char *expected) {
    while (*expected)
        if (*at++ != *expected++)
            return 0;
    hash = hash * 31 + 7;
    return 1;
}
static int string(void) {
    if (*at++ != '"')
        return 0;
    while (*at != '"') {
        if ((unsigned char)*at < 0x20)
            return 0;
        if (*at == '\\')
            at++;
        hash = hash * 31 + (unsigned char)*at++;
    }
    at++;
    return 1;
}
static int number(void) {
    int negative = *at == '-';
    at += negative;
    if (*at < '0' || *at > '9')
        return 0;
    int64_t n = 0;
    while (*at >= '0' && *at <= '9')
        n = n * 10 + (*at++ - '0');
    hash = hash * 31 + (uint64_t)(negative ? -n : n);
    return 1;
}
static int value(int depth) {
    if (depth > 100)
        return 0;
    space();
    switch (*at) {
    case '{':
    case '[': {
        int is_object = *at++ == '{';
        char last = is_object ? '}' : ']';
        space();
        if (*at == last) {
            at++;
            return 1;
        }
        for (;;) {
            space();
            if (is_object) {
                if (!string())
                    return 0;
                space();
                if (*at++ != ':')
                    return 0;
            }
            if (!value(depth + 1))
                return 0;
            space();
            if (*at == last) {
                at++;
                hash += (uint64_t)depth;
                return 1;
            }
            if (*at++ != ',')
                return 0;
        }
    }
    case '"': return string();
    case 't': return word("true");
    case 'f': return word("false");
    case 'n': return word("null");
    default: return number();
    }
}

uint64_t run(uint32_t rounds) {
    write_document();
    hash = 0;
    for (uint32_t round = 0; round < rounds; round++) {
        at = text;
        if (!value(0) || *at)
            return 0;
    }
    return hash;
}
