/* SPDX-License-Identifier: MIT */
/* Unions: one memory seen as several types, tagged values, unions by value. */
#include "torture.h"

union view {
    uint64_t u64;
    int64_t i64;
    uint32_t u32[2];
    uint16_t u16[4];
    int8_t i8[8];
    double f64;
    float f32[2];
    struct {
        uint8_t low;
        uint32_t middle __attribute__((packed));
        uint8_t rest[3];
    } parts;
};
struct value {
    enum { INTEGER, REAL, TEXT, LIST } kind;
    union {
        int64_t integer;
        double real;
        const char *text;
        struct {
            int count;
            const struct value *items;
        };
    };
};

static __attribute__((noinline)) union view mix(union view a, union view b) {
    a.u16[1] ^= b.u16[2], a.i8[7] = (int8_t)(b.i8[0] + a.i8[3]), a.parts.middle += b.u32[1];
    return a;
}
static double weigh(struct value value) {
    switch (value.kind) {
    case INTEGER: return (double)value.integer;
    case REAL: return value.real * 2;
    case TEXT: return (double)strlen(value.text);
    case LIST: {
        double total = 0;
        for (int i = 0; i < value.count; i++)
            total += weigh(value.items[i]);
        return total;
    }
    }
    return -1;
}

int main(void) {
    for (size_t i = 0; i < COUNT(edges); i++)
        for (size_t j = 0; j < COUNT(edges); j++) {
            union view a = {.u64 = edges[i]}, b = {.i64 = (int64_t)edges[j]}, c = mix(a, b);
            feed(c.u64), feed(c.u32[1]), feed((uint64_t)c.i8[3]), feed(c.u16[3]), feed(c.parts.low),
                feed(c.parts.rest[1]);
            feed_double(c.f64 + 1), feed_float(c.f32[1] * 2);
            c.f64 = (double)(int64_t)edges[j], feed(c.u64), c.f32[0] = 1.5f, feed(c.u64);
        }
    tell("views");
    const struct value inner[] = {{INTEGER, {.integer = -5}}, {TEXT, {.text = "seven.."}}};
    const struct value items[] = {
        {REAL, {.real = 0.125}}, {LIST, {.count = 2, .items = inner}}, {INTEGER, {.integer = 1ll << 40}}};
    struct value all = {.kind = LIST, .count = 3, .items = items};
    printf("%.3f\n", weigh(all));
    return 0;
}
