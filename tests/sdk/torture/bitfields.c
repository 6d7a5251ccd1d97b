/* SPDX-License-Identifier: MIT */
/* Bit fields of all widths, signed and not, across units, packed, of width 0, and assigned to each other. */
#include "torture.h"

struct small {
    unsigned a : 1, b : 3, c : 7;
    signed d : 5, e : 13;
    unsigned : 0;
    unsigned f : 31, g : 32;
};
struct wide {
    uint64_t a : 37, b : 27;
    int64_t c : 50, d : 14;
    uint64_t e : 1, f : 63;
};
struct __attribute__((packed)) packed {
    uint8_t a : 3;
    uint32_t b : 30;
    int16_t c : 9;
    uint64_t d : 41;
    int32_t e;
};
struct flags {
    uint8_t read : 1, write : 1, kind : 2, rest : 4;
    int8_t level : 4, other : 4;
};

int main(void) {
    printf("%d %d %d %d\n", (int)sizeof(struct small), (int)sizeof(struct wide), (int)sizeof(struct packed),
           (int)sizeof(struct flags));
    static struct small s;
    static struct wide w;
    static struct packed p;
    static struct flags f;
    for (int i = 0; i < 500; i++) {
        uint64_t x = next_random();
        s.a = x & 1, s.b = x >> 1 & 7, s.c += 3, s.d = (int)(x & 31) - 16, s.e = (int)(x >> 5 & 0x1fff) - 0x1000,
        s.f = x >> 9 & 0x7fffffff, s.g ^= (unsigned)x;
        w.a += x & 0x1fffffffff, w.b = x >> 37 & 0x7ffffff, w.c = (int64_t)x >> 14, w.d = (int64_t)x >> 50, w.e ^= 1,
                                 w.f = x >> 1;
        p.a++, p.b = x >> 20 & 0x3fffffff, p.c = (int16_t)((int)(x & 0x1ff) - 256), p.d = x >> 3 & 0x1ffffffffff,
               p.e -= (int32_t)(x >> 40);
        f.read = !f.read, f.write |= x & 1, f.kind++, f.rest = x >> 8 & 15, f.level = (int8_t)((int)(x & 15) - 8),
        f.other = (int8_t)(f.level >> 1);
        feed(s.a), feed(s.b), feed(s.c), feed((uint64_t)s.d), feed((uint64_t)s.e), feed(s.f), feed(s.g);
        feed(w.a), feed(w.b), feed((uint64_t)w.c), feed((uint64_t)w.d), feed(w.e), feed(w.f);
        feed(p.a), feed(p.b), feed((uint64_t)p.c), feed(p.d), feed((uint64_t)p.e), feed(f.read + 2 * f.kind + f.write),
            feed((uint64_t)(f.level * f.other));
        feed(s.c < s.b), feed(s.d < 0), feed(w.c > w.d), feed((uint64_t)(s.e = s.d)), feed(p.b & 0xff00);
    }
    tell("fields");
    for (size_t i = 0; i < sizeof p; i++)
        feed(((unsigned char *)&p)[i]);
    for (size_t i = 0; i < sizeof f; i++)
        feed(((unsigned char *)&f)[i]);
    tell("bytes");
    return 0;
}
