/* SPDX-License-Identifier: MIT */
/* strtod, strtol and their kin, sscanf: what they take, where they stop, what is out of range, rounding of the last
 * bit. */
#include <errno.h>
#include <stdlib.h>
#include "torture.h"

int main(void) {
    static const char *const reals[] = {"0",
                                        "-0",
                                        "1",
                                        "  -1.5e3x",
                                        "1e",
                                        "1e+",
                                        ".5",
                                        "5.",
                                        ".",
                                        "",
                                        "inf",
                                        "-INFINITY",
                                        "nan",
                                        "0x1.8p3",
                                        "0x",
                                        "1e400",
                                        "-1e400",
                                        "1e-400",
                                        "4.9e-324",
                                        "2.47e-324",
                                        "2.4703282292062328e-324",
                                        "1.7976931348623157e308",
                                        "1.7976931348623159e308",
                                        "0.1",
                                        "9007199254740993",
                                        "9007199254740992.5000000000000000000000000000000000000000000001",
                                        "123456789012345678901234567890",
                                        "2.2250738585072011e-308",
                                        "1.00000000000000011102230246251565404236316680908203125",
                                        "1.00000000000000011102230246251565404236316680908203124",
                                        "3.14159265358979323846264338327950288",
                                        "8.5e+0007",
                                        "1_000"};
    for (size_t i = 0; i < COUNT(reals); i++) {
        char *end;
        errno = 0;
        double value = strtod(reals[i], &end);
        if (value != value)
            printf("nan %d\n", (int)(end - reals[i]));
        else
            printf("%.17g %d %d\n", value, (int)(end - reals[i]),
                   errno == ERANGE && value - value != 0); /* not: underflow */
        float narrow = strtof(reals[i], NULL);
        feed_float(narrow);
    }
    tell("float");
    static const char *const integers[] = {"0",
                                           "-1",
                                           "  42abc",
                                           "+7",
                                           "0x1F",
                                           "0777",
                                           "08",
                                           "",
                                           "-",
                                           "0x",
                                           "zz",
                                           "7fffffff",
                                           "9223372036854775807",
                                           "9223372036854775808",
                                           "-9223372036854775808",
                                           "-9223372036854775809",
                                           "18446744073709551615",
                                           "18446744073709551616",
                                           "-18446744073709551615"};
    static const int bases[] = {0, 2, 8, 10, 16, 36};
    for (size_t i = 0; i < COUNT(integers); i++)
        for (size_t j = 0; j < COUNT(bases); j++) {
            char *end;
            errno = 0;
            feed((uint64_t)strtoll(integers[i], &end, bases[j])), feed((uint64_t)(end - integers[i])),
                feed(errno == ERANGE);
            errno = 0;
            feed(strtoull(integers[i], &end, bases[j])), feed((uint64_t)(end - integers[i])), feed(errno == ERANGE);
        }
    tell("integers");
    for (int i = 0; i < 300; i++) { /* what is printed with 17 digits comes back */
        uint64_t bits = next_random();
        double value, back;
        memcpy(&value, &bits, sizeof value);
        if (value != value || value - value != 0)
            continue;
        char text[40];
        snprintf(text, sizeof text, "%.17g", value);
        back = strtod(text, NULL);
        feed(back == value), feed_text(text);
    }
    tell("there and back");
    int a, b, count;
    double d;
    char word[20], set[20], c;
    count = sscanf("12 -7 3.5e1 word [abc]x", "%d %d %lf %19s [%19[a-c]]%c", &a, &b, &d, word, set, &c);
    printf("%d %d %d %g %s %s %c\n", count, a, b, d, word, set, c);
    int64_t wide;
    unsigned hex;
    short half;
    count = sscanf("deadbeef:-9000000000:-5 99", "%x:%" SCNd64 ":%hd %*d%n", &hex, &wide, &half, &a);
    printf("%d %x %" PRId64 " %d %d\n", count, hex, wide, half, a);
    printf("%d %d %d\n", sscanf("x", "%d", &a), sscanf("", "%d", &a), sscanf("5,x", "%d,%d", &a, &b));
    printf("%d %.3f %d\n", atoi(" -99z"), atof("2.5"), abs(-3));
    return 0;
}
