/* SPDX-License-Identifier: MIT */
/* LZ4's block format, compressed with a hash table and decompressed again. */
#include "kernel.h"

enum { SIZE = 1 << 18, TABLE = 1 << 13 };
static unsigned char data[SIZE], packed[SIZE + SIZE / 128 + 64], back[SIZE];
static uint32_t table[TABLE];

static inline uint32_t load32(const unsigned char *at) {
    uint32_t value;
    __builtin_memcpy(&value, at, 4);
    return value;
}
static unsigned char *put_length(unsigned char *to, size_t length) {
    for (; length >= 255; length -= 255)
        *to++ = 255;
    *to++ = (unsigned char)length;
    return to;
}
static unsigned char *put_sequence(unsigned char *to, const unsigned char *from, size_t literals, size_t offset,
                                   size_t match) {
    size_t extra = match ? match - 4 : 0;
    *to++ = (unsigned char)((literals < 15 ? literals : 15) << 4 | (extra < 15 ? extra : 15));
    if (literals >= 15)
        to = put_length(to, literals - 15);
    for (size_t i = 0; i < literals; i++)
        *to++ = from[i];
    if (match) {
        *to++ = (unsigned char)offset, *to++ = (unsigned char)(offset >> 8);
        if (extra >= 15)
            to = put_length(to, extra - 15);
    }
    return to;
}
static size_t pack(void) {
    const unsigned char *at = data, *anchor = data, *end = data + SIZE, *last = end - 12;
    unsigned char *to = packed;
    for (int i = 0; i < TABLE; i++)
        table[i] = 0;
    at++;
    while (at < last) {
        uint32_t word = load32(at), *slot = &table[word * 2654435761u >> 19];
        const unsigned char *from = data + *slot;
        *slot = (uint32_t)(at - data);
        if (at - from > 65535 || from >= at || load32(from) != word) {
            at++;
            continue;
        }
        const unsigned char *start = at, *match = from;
        at += 4, from += 4;
        while (at < end - 5 && *at == *from)
            at++, from++;
        to = put_sequence(to, anchor, (size_t)(start - anchor), (size_t)(start - match), (size_t)(at - start));
        anchor = at;
    }
    return (size_t)(put_sequence(to, anchor, (size_t)(end - anchor), 0, 0) - packed);
}
static size_t unpack(size_t size) {
    const unsigned char *at = packed, *end = packed + size;
    unsigned char *to = back;
    for (;;) {
        unsigned token = *at++;
        size_t literals = token >> 4, match = token & 15;
        if (literals == 15)
            do
                literals += *at;
            while (*at++ == 255);
        for (; literals; literals--)
            *to++ = *at++;
        if (at >= end)
            return (size_t)(to - back);
        size_t offset = at[0] | (size_t)at[1] << 8;
        at += 2;
        if (match == 15)
            do
                match += *at;
            while (*at++ == 255);
        const unsigned char *from = to - offset;
        for (match += 4; match; match--)
            *to++ = *from++;
    }
}

uint64_t run(uint32_t rounds) {
    static const char words[8][8] = {"the ", "quick ", "brown ", "fox ", "jumps ", "over ", "lazy ", "dog. "};
    uint32_t state = 7, at = 0;
    while (at < SIZE) {
        const char *word = words[next_random(&state) & 7];
        while (*word && at < SIZE)
            data[at++] = (unsigned char)*word++;
        if (!(next_random(&state) & 7) && at < SIZE)
            data[at++] = (unsigned char)next_random(&state);
    }
    uint64_t result = 0;
    for (uint32_t round = 0; round < rounds; round++) {
        data[round % SIZE] ^= 1;
        size_t size = pack(), whole = unpack(size);
        uint64_t wrong = whole != SIZE;
        for (uint32_t i = 0; i < SIZE; i++)
            wrong += back[i] != data[i];
        result = result * 31 + size + wrong * 1000003;
    }
    return result;
}
