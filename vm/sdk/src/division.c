/* SPDX-License-Identifier: MIT */
/* Quotients too small to be normal, rounded as IEEE 754 says (2019, 4.3.1: to nearest, ties to even). compiler-rt's
   division, in Zig 0.17, cuts their last bits off. It is called first, as __divdf_ and __divsf_: all else that it returns
   is right, and it is fast. */
#include <stdint.h>

double __divdf_(double a, double b);
float __divsf_(float a, float b);

/* |a| / |b| in units of the least number there is, from the bits of numbers that are finite and not 0, with `fraction`
   bits behind the point; `least` is minus the exponent of that unit. The quotient has no more than fraction + 2 bits. */
static uint64_t divide(uint64_t a, uint64_t b, int fraction, int least) {
    uint64_t one = (uint64_t)1 << fraction;
    int exponent_a = (int)(a >> fraction), exponent_b = (int)(b >> fraction);
    int scale = least + (exponent_a ? exponent_a - 1 : 0) - (exponent_b ? exponent_b - 1 : 0);
    a = exponent_a ? (a & (one - 1)) | one : a;
    b = exponent_b ? (b & (one - 1)) | one : b;
    for (; a < one; a <<= 1)
        scale--;
    for (; b < one; b <<= 1)
        scale++;
    uint64_t quotient = 0; /* of a * 2^scale by b, where 1/2 < a / b < 2 */
    if (scale < -1)
        return 0;
    for (; scale >= 0; scale--) {
        int bit = a >= b;
        quotient = quotient << 1 | (uint64_t)bit;
        a = (a - (bit ? b : 0)) << 1;
    }
    return quotient + (a > b || (a == b && (quotient & 1))); /* a is twice what is left */
}

double __divdf3(double a, double b);
double __divdf3(double a, double b) {
    union {
        double value;
        uint64_t bits;
    } x = {a}, y = {b}, z = {__divdf_(a, b)};
    const uint64_t sign = (uint64_t)1 << 63, infinity = (uint64_t)0x7ff << 52;
    if (!(z.bits & infinity) && x.bits << 1 && (y.bits & infinity) != infinity)
        z.bits = (z.bits & sign) | divide(x.bits & ~sign, y.bits & ~sign, 52, 1074);
    return z.value;
}

float __divsf3(float a, float b);
float __divsf3(float a, float b) {
    union {
        float value;
        uint32_t bits;
    } x = {a}, y = {b}, z = {__divsf_(a, b)};
    const uint32_t sign = (uint32_t)1 << 31, infinity = (uint32_t)0xff << 23;
    if (!(z.bits & infinity) && x.bits << 1 && (y.bits & infinity) != infinity)
        z.bits = (z.bits & sign) | (uint32_t)divide(x.bits & ~sign, y.bits & ~sign, 23, 149);
    return z.value;
}
