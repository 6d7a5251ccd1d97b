/* SPDX-License-Identifier: MIT */
/* <math.h>, <fenv.h>, <complex.h>: 13 digits, of which the last bits of different libraries take nothing away. */
#include <complex.h>
#include <float.h>
#include <math.h>
#include <stdio.h>

#define SHOW(f, ff) \
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) \
    printf(#f "(%g) = %.13g %.5g\n", values[i], f(values[i]) + 0.0, (double)ff((float)values[i]) + 0.0)
#define SHOW2(f) \
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) \
        for (size_t j = 0; j < sizeof values / sizeof *values; j += 3) \
    printf(#f "(%g, %g) = %.13g\n", values[i], values[j], f(values[i], values[j]) + 0.0)

static const double values[] = {0.0, 0.5, -0.5, 1.0, -1.0, 0.75, 2.0, 3.7, -2.5, 10.25, 100.0, 1e-5, 1e6};
/* In the domain of all of them. */
static const double positive[] = {0.5, 1.0, 1.5, 2.0, 10.25, 100.0, 1e-5, 1e6};

int main(void) {
    SHOW(sin, sinf);
    SHOW(cos, cosf);
    SHOW(tan, tanf);
    SHOW(atan, atanf);
    SHOW(sinh, sinhf);
    SHOW(tanh, tanhf);
    SHOW(cbrt, cbrtf);
    SHOW(fabs, fabsf);
    SHOW(floor, floorf);
    SHOW(ceil, ceilf);
    SHOW(trunc, truncf);
    SHOW(round, roundf);
    SHOW(rint, rintf);
    SHOW(nearbyint, nearbyintf);
    SHOW(erf, erff);
    SHOW(asinh, asinhf);
    SHOW2(atan2);
    SHOW2(hypot);
    SHOW2(fmax);
    SHOW2(fmin);
    SHOW2(fdim);
    SHOW2(copysign);
    for (size_t i = 0; i < sizeof positive / sizeof *positive; i++) {
        double x = positive[i];
        printf("%.13g %.13g %.13g %.13g %.13g ", sqrt(x), log(x), log2(x), log10(x), log1p(x));
        printf("%.13g %.13g %.13g %.13g\n", exp(-x), exp2(-x), expm1(-x), pow(x, 1.25));
        printf("%.13g %.13g %.13g %.13g\n", tgamma(x / 10 + 1), lgamma(x + 1), fmod(x, 0.3), remainder(x, 0.7));
    }
    for (double x = -1; x <= 1; x += 0.25)
        printf("%.13g %.13g %.13g\n", asin(x), acos(x), atanh(x / 2));
    printf("%.13g %.13g\n", acosh(1.5), cosh(2.0));
    int exponent;
    double whole, fraction = modf(-3.75, &whole);
    double mantissa = frexp(48.0, &exponent);
    printf("%g %g %g %d\n", fraction, whole, mantissa, exponent);
    printf("%g %g %d %g\n", ldexp(0.75, 5), scalbn(1.0, -3), ilogb(1000.0), logb(0.1));
    printf("%ld %lld %ld\n", lround(2.5), llround(-2.5), lrint(3.5));
    printf("%.17g %.17g %.17g\n", nextafter(1.0, 2.0), fma(0.1, 10.0, -1.0), DBL_EPSILON);
    printf("%d %d %d %d %d\n", isnan(NAN) != 0, isinf(-INFINITY) != 0, isfinite(1.0) != 0, signbit(-0.0) != 0,
           isnormal(DBL_MIN / 2));
    printf("%d %d\n", fpclassify(0.0) == FP_ZERO, fpclassify(DBL_MIN / 4) == FP_SUBNORMAL);
    printf("%g %g %g\n", sqrt(-1.0) == sqrt(-1.0) ? 1.0 : 0.0, log(0.0),
           pow(-8.0, 1.0 / 3) != pow(-8.0, 1.0 / 3) ? 1.0 : 0.0);
    printf("%.13Lg %.13Lg\n", sinl(0.5L), expl(1.0L));
    volatile double one = 1, three = 3;
    volatile float onef = 1, threef = 3;
    printf("%.17g %.9g %.17g\n", one / three, (double)(onef / threef), (double)(long long)(one * 1e18 / three));
    printf("%.17g %.17g\n", (double)0xffffffffffffffffull, (double)(float)16777217);
    volatile unsigned long long big = 0x123456789abcdefull;
    printf("%llu %llu %lld\n", big / 1000003, big % 1000003, -(long long)big / 7);
    return 0;
}
