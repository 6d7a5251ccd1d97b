/* SPDX-License-Identifier: MIT */
/* long double is double here: the compilers disagree with themselves on how lp64e passes a wider one to a variadic
   function, and its arithmetic would be slow. Zig's libc and compiler-rt have these functions with 128 bits. */
#include <math.h>

#define ONE(name) \
    long double name##l(long double x) { return name((double)x); }
#define TWO(name) \
    long double name##l(long double x, long double y) { return name((double)x, (double)y); }

ONE(atan) ONE(ceil) ONE(cos) ONE(exp) ONE(exp2) ONE(fabs) ONE(floor) ONE(log) ONE(log10) ONE(log2) ONE(rint) ONE(round)
ONE(sin) ONE(sqrt) ONE(tan) ONE(trunc)
TWO(copysign) TWO(fdim) TWO(fmax) TWO(fmin) TWO(fmod) TWO(hypot)

long double fmal(long double x, long double y, long double z) { return fma((double)x, (double)y, (double)z); }
long double frexpl(long double x, int *exponent) { return frexp((double)x, exponent); }
long double modfl(long double x, long double *whole) { return modf((double)x, (double *)whole); }
long double nanl(const char *text) { return nan(text); }
long lrintl(long double x) { return lrint((double)x); }
long lroundl(long double x) { return lround((double)x); }

void sincosl(long double x, long double *sine, long double *cosine) {
    *sine = sin((double)x);
    *cosine = cos((double)x);
}

_Static_assert(sizeof(long double) == sizeof(double), "the compiler is told so");
