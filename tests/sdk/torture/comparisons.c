/* SPDX-License-Identifier: MIT */
/* All comparisons of all types, as values, as branches, and as selections. */
#include "torture.h"

#define COMPARE(name, type)                                                                                            \
    static __attribute__((noinline)) unsigned name(type a, type b) {                                                   \
        unsigned seen = 0;                                                                                             \
        if (a < b)                                                                                                     \
            seen |= 1;                                                                                                 \
        if (a <= b)                                                                                                    \
            seen |= 2;                                                                                                 \
        if (a > b)                                                                                                     \
            seen |= 4;                                                                                                 \
        if (a >= b)                                                                                                    \
            seen |= 8;                                                                                                 \
        if (a == b)                                                                                                    \
            seen |= 16;                                                                                                \
        if (a != b)                                                                                                    \
            seen |= 32;                                                                                                \
        seen |= (unsigned)(a < b) << 6 | (unsigned)(a <= b) << 7 | (unsigned)(a > b) << 8 | (unsigned)(a >= b) << 9;   \
        seen |= (unsigned)(a == b) << 10 | (unsigned)(a != b) << 11 | (unsigned)!a << 12 | (unsigned)(a && b) << 13;   \
        type least = a < b ? a : b, most = a < b ? b : a, either = a ? a : b, zero = a == b ? 0 : a;                   \
        feed((uint64_t)least), feed((uint64_t)most), feed((uint64_t)either), feed((uint64_t)zero);                     \
        feed((uint64_t)(a == 5 ? 77 : b)), feed((uint64_t)(b > 100 ? a : 3)), feed((uint64_t)(a <= 2 ? 0 : b));        \
        return seen;                                                                                                   \
    }
COMPARE(of_u8, uint8_t)
COMPARE(of_i8, int8_t)
COMPARE(of_u16, uint16_t)
COMPARE(of_i16, int16_t)
COMPARE(of_u32, uint32_t)
COMPARE(of_i32, int32_t)
COMPARE(of_u64, uint64_t)
COMPARE(of_i64, int64_t)

int main(void) {
    for (size_t i = 0; i < COUNT(edges); i++)
        for (size_t j = 0; j < COUNT(edges); j++) {
            uint64_t a = edges[i], b = edges[j];
            feed(of_u8((uint8_t)a, (uint8_t)b)), feed(of_i8((int8_t)a, (int8_t)b));
            feed(of_u16((uint16_t)a, (uint16_t)b)), feed(of_i16((int16_t)a, (int16_t)b));
            feed(of_u32((uint32_t)a, (uint32_t)b)), feed(of_i32((int32_t)a, (int32_t)b));
            feed(of_u64(a, b)), feed(of_i64((int64_t)a, (int64_t)b));
            feed((int32_t)a < (int64_t)b), feed((uint32_t)a < (uint64_t)b), feed((int8_t)a < (int32_t)b);
            feed((uint32_t)a < (uint32_t)(int8_t)b), feed((int64_t)(int32_t)a == (int64_t)(uint32_t)b);
        }
    tell("comparisons");
    return 0;
}
