/* SPDX-License-Identifier: MIT */
/* Numbers that are hard for arithmetic, random ones, and a hash of results. Nothing here depends on the width of long.
 */
#pragma once
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const uint64_t edges[] = {
    0,
    1,
    2,
    3,
    7,
    10,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x10000,
    0x7fffffff,
    0x80000000,
    0x80000001,
    0xfffffffe,
    0xffffffff,
    0x100000000,
    0x180000000,
    0x7fffffffffffffff,
    0x8000000000000000,
    0x8000000000000001,
    0xfffffffffffffff0,
    0xfffffffffffffffe,
    0xffffffffffffffff,
    0x123456789abcdef0,
    0xfedcba9876543210,
    0x5555555555555555,
};

/* splitmix64 */
static uint64_t torture_state = 1;
__attribute__((unused)) static uint64_t next_random(void) {
    uint64_t z = torture_state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

/* As many of its bits as another one says: small numbers and large ones, in an order that C defines */
__attribute__((unused)) static uint64_t random_size(void) {
    uint64_t x = next_random();
    return x >> (next_random() & 63);
}

/* FNV-1a over the bytes of what is fed */
static uint64_t torture_hash = 0xcbf29ce484222325;
__attribute__((unused)) static void feed(uint64_t value) {
    for (int i = 0; i < 64; i += 8)
        torture_hash = (torture_hash ^ (value >> i & 0xff)) * 0x100000001b3;
}
__attribute__((unused)) static void feed_text(const char *text) {
    for (; *text; text++)
        feed((unsigned char)*text);
}
__attribute__((unused)) static void feed_double(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    feed(value != value ? 0x7ff8000000000000 : bits); /* the sign and payload of a NaN are nobody's promise */
}
__attribute__((unused)) static void feed_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    feed(value != value ? 0x7fc00000 : bits);
}
/* Prints the hash since the last time. */
__attribute__((unused)) static void tell(const char *what) {
    printf("%s %016" PRIx64 "\n", what, torture_hash);
    torture_hash = 0xcbf29ce484222325;
}
