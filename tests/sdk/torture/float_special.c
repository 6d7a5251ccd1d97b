/* SPDX-License-Identifier: MIT */
/* NaN, infinities, signed zeros, subnormals: classified, compared, printed; exact functions of math.h. */
#include <float.h>
#include <math.h>
#include "torture.h"

int main(void) {
    static volatile const double values[] = {0.0,         -0.0,          1.0,     -1.5,     DBL_MIN,
                                             DBL_MIN / 4, -DBL_TRUE_MIN, DBL_MAX, INFINITY, -INFINITY,
                                             0.1,         2.5,           -3.5,    1e300,    123456789.125};
    for (size_t i = 0; i < COUNT(values); i++) {
        double x = values[i];
        printf("%.17g %d%d%d%d%d ", x, !!isnan(x), !!isinf(x), !!isfinite(x), !!isnormal(x), !!signbit(x));
        int exponent;
        double fraction = frexp(x, &exponent), whole, part = modf(x, &whole);
        printf("%.17g %d %.17g %.17g ", fraction, isfinite(x) ? exponent : 0, part, whole);
        printf("%.17g %.17g %.17g\n", ldexp(x, -3), nextafter(x, 10), isfinite(x) ? fmod(x, 0.7) : 0);
    }
    volatile double zero = 0.0, nan = zero / zero;
    printf("%d%d%d%d%d%d\n", nan == nan, nan != nan, nan < 1, nan > 1, nan <= nan, !(nan >= 1));
    printf("%d%d%d\n", !!isunordered(nan, 1.0), !!isless(1.0, nan), !!islessgreater(1.0, 2.0));
    printf("%g %g %d %d\n", 1 / zero, -1 / zero, 1 / zero == INFINITY, zero == -zero);
    printf("%g %g %g\n", fmax(nan, 3), fmin(2, nan), fdim(5, 3));
    printf("%d %d %d\n", !!isnan(INFINITY - INFINITY), !!isnan(zero * INFINITY), !!isnan(sqrt(-1.0)));
    volatile double smallest = DBL_TRUE_MIN;
    printf("%.17g %.17g %g %d\n", smallest, DBL_MIN - smallest, smallest / 2, ilogb(smallest));
    printf("%.17g %.17g\n", fma(0.1, 10, -1), fma(1e308, 10, -INFINITY));
    printf("%.17g %.17g %.17g\n", remainder(5.3, 2.0), cbrt(27.0), hypot(3, 4));
    printf("%ld %ld %d\n", lround(-2.5), lround(3.4999999999), (int)logb(1024.5));
    volatile float tiny = FLT_TRUE_MIN, huge = FLT_MAX;
    printf("%g %g %g %d\n", (double)(tiny / 2), (double)(huge * 2), (double)(tiny * huge),
           (double)huge == 3.4028234663852886e38);
    for (int i = -3; i < 8; i++)
        printf("%g %g %g %g; ", floor(i / 2.0), ceil(i / 2.0), round(i / 2.0), rint(i / 2.0));
    puts("");
    return 0;
}
