/* SPDX-License-Identifier: MIT */
/* 8- and 16-bit integers: promotions, truncations, wrapping counters, arrays of them. */
#include "torture.h"

static int8_t add8(int8_t a, int8_t b) { return (int8_t)(a + b); }
static uint8_t mul8(uint8_t a, uint8_t b) { return (uint8_t)(a * b); }
static int16_t sub16(int16_t a, int16_t b) { return (int16_t)(a - b); }
static uint16_t mul16(uint16_t a, uint16_t b) { return (uint16_t)((uint32_t)a * b); }

int main(void) {
    for (int a = -128; a < 256; a += 5)
        for (int b = -128; b < 256; b += 3) {
            feed((uint64_t)add8((int8_t)a, (int8_t)b)), feed(mul8((uint8_t)a, (uint8_t)b));
            feed((uint64_t)sub16((int16_t)(a * 257), (int16_t)(b * 255))),
                feed(mul16((uint16_t)(a * 257), (uint16_t)(b * 255)));
            feed((int8_t)a < (int8_t)b), feed((uint8_t)a < (uint8_t)b), feed((int8_t)a == (uint8_t)b);
            feed((uint8_t)a >> (b & 7)), feed((uint64_t)((int8_t)a >> (b & 7))), feed((uint8_t)((uint8_t)a << (b & 7)));
            if ((int8_t)b)
                feed((uint64_t)((int8_t)a / (int8_t)b)), feed((uint64_t)((int8_t)a % (int8_t)b));
        }
    tell("pairs");
    uint8_t counter = 250;
    int16_t wide = 32760;
    for (int i = 0; i < 300; i++)
        counter++, wide = (int16_t)(wide + 1), feed(counter), feed((uint64_t)wide);
    tell("wrapping");
    signed char bytes[64];
    short halves[64];
    for (int i = 0; i < 64; i++)
        bytes[i] = (signed char)(i * 37), halves[i] = (short)(i * 4099);
    for (int i = 1; i < 64; i++)
        bytes[i] = (signed char)(bytes[i] ^ bytes[i - 1] << 1),
        halves[i] = (short)(halves[i] * halves[i - 1] + bytes[i]);
    for (int i = 0; i < 64; i++)
        feed((uint64_t)bytes[i]), feed((uint64_t)halves[i]);
    tell("arrays");
    return 0;
}
