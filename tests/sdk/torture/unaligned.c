/* SPDX-License-Identifier: MIT */
/* Loads and stores at every alignment, by packed structures and by memcpy; both byte orders. */
#include "torture.h"

struct __attribute__((packed, may_alias)) record {
    uint8_t a;
    uint16_t b;
    uint32_t c;
    uint64_t d;
    int16_t e;
    double f;
    float g;
    int32_t h;
};

static uint32_t big32(const unsigned char *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}
static uint64_t little64(const unsigned char *at) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--)
        value = value << 8 | at[i];
    return value;
}
static void put_big64(unsigned char *at, uint64_t value) {
    for (int i = 0; i < 8; i++)
        at[i] = (unsigned char)(value >> (56 - 8 * i));
}

int main(void) {
    static unsigned char room[4096 * 2 + 64];
    for (size_t i = 0; i < sizeof room; i++)
        room[i] = (unsigned char)(i * 131 >> 3);
    for (int offset = 4060; offset < 4132; offset++) { /* across a page, too */
        struct record *r = (struct record *)(room + offset);
        feed(r->a), feed(r->b), feed(r->c), feed(r->d), feed((uint64_t)r->e), feed((uint64_t)r->h);
        r->f = offset / 3.0, r->g = (float)offset, r->d += r->c, r->e = (int16_t)-offset, r->h -= 100000;
        feed_double(r->f), feed_float(r->g);
        feed(big32(room + offset + 3)), feed(little64(room + offset + 5));
        put_big64(room + offset + 9, r->d);
        uint64_t wide;
        uint16_t half;
        memcpy(&wide, room + offset + 1, 8), memcpy(&half, room + offset + 7, 2);
        wide ^= half;
        memcpy(room + offset + 2, &wide, 8);
        feed(wide);
    }
    tell("records");
    for (size_t i = 0; i < sizeof room; i++)
        feed(room[i]);
    tell("memory");
    printf("%d\n", (int)sizeof(struct record));
    return 0;
}
