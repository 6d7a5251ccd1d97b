/* SPDX-License-Identifier: MIT */
/* <stdlib.h>, <inttypes.h>, <search.h>, <ctype.h> and <errno.h>. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wctype.h>

static int by_value(const void *left, const void *right) {
    int l = *(const int *)left, r = *(const int *)right;
    return (l > r) - (l < r);
}

static void integer(const char *text, int base) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, base);
    printf("%lld %d <%s>, ", value, errno == ERANGE, end);
    errno = 0;
    unsigned long long other = strtoull(text, &end, base);
    printf("%llu %d <%s> ", other, errno == ERANGE, end);
    printf("%d\n", strtoimax(text, NULL, base) == value);
}

static void number(const char *text) {
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    int range = errno == ERANGE && fabs(value) > 1; /* of a denormal number, libraries differ */
    printf("%.17g %d <%s> %.9g\n", value, range, end, (double)strtof(text, NULL));
}

static void bye(void) { printf("at exit\n"); }

int main(void) {
    static const char *const integers[] = {"0",
                                           "-42",
                                           "+7x",
                                           "  12 ",
                                           "0x1F",
                                           "0b1",
                                           "077",
                                           "",
                                           "-",
                                           "zz",
                                           "9223372036854775807",
                                           "9223372036854775808",
                                           "-9223372036854775809",
                                           "18446744073709551616",
                                           "0x",
                                           "\t\n8"};
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
        integer(integers[i], 0);
        integer(integers[i], 10);
        integer(integers[i], 36);
    }
    static const char *const numbers[] = {"0",
                                          "-0",
                                          "1.5",
                                          "3.14159265358979323846",
                                          "1e308",
                                          "1e309",
                                          "-1e-400",
                                          "4.9e-324",
                                          "2.2250738585072011e-308",
                                          "0x1.8p3",
                                          "inf",
                                          "-Infinity",
                                          "1e",
                                          "1e+",
                                          ".5.",
                                          "123456789012345678901234567890",
                                          "0.1e-5",
                                          "9007199254740993",
                                          "1.7976931348623158e308",
                                          " 12abc",
                                          "."};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        number(numbers[i]);
    printf("%d %ld %.3f %lld\n", atoi("-17x"), atol("99"), atof("2.5e3"), atoll("1234567890123"));
    printf("%" PRIdMAX " %" PRIuMAX "\n", strtoimax("-5", NULL, 10), strtoumax("12", NULL, 8));
    printf("%d %ld %lld\n", abs(-3), labs(-4L), llabs(-5LL));
    div_t q = div(-7, 2);
    lldiv_t r = lldiv(-7, 2);
    printf("%d %d %lld %lld\n", q.quot, q.rem, r.quot, r.rem);

    int values[1000];
    unsigned state = 1;
    for (int i = 0; i < 1000; i++)
        values[i] = (int)((state = state * 1103515245u + 12345u) >> 8) % 500;
    qsort(values, 1000, sizeof *values, by_value);
    int sorted = 1;
    for (int i = 1; i < 1000; i++)
        sorted &= values[i - 1] <= values[i];
    int key = values[321], *found = bsearch(&key, values, 1000, sizeof *values, by_value), none = 1000;
    printf("%d %d %d %d\n", sorted, values[0], *found == key,
           bsearch(&none, values, 1000, sizeof *values, by_value) == NULL);
    void *tree = NULL;
    for (int i = 0; i < 10; i++)
        tsearch(&values[i * 100], &tree, by_value);
    printf("%d\n", tfind(&values[300], &tree, by_value) != NULL);

    srand(7);
    int first = rand(), second = rand();
    srand(7);
    int again = rand();
    printf("%d %d %d\n", first == again, second == rand(), first >= 0 && first <= RAND_MAX);

    unsigned classes = 0;
    for (int c = -1; c < 256; c++)
        classes = classes * 31 +
                  (unsigned)(!!isalpha(c) | !!isdigit(c) << 1 | !!isspace(c) << 2 | !!ispunct(c) << 3 |
                             !!isupper(c) << 4 | !!islower(c) << 5 | !!isxdigit(c) << 6 | !!iscntrl(c) << 7 |
                             !!isprint(c) << 8 | !!isgraph(c) << 9 | !!isblank(c) << 10 | !!isalnum(c) << 11) +
                  (unsigned)(toupper(c) * 3 + tolower(c));
    printf("%x\n", classes);
    char *empty = getenv("SURELY_NOT_SET");
    printf("%d %d\n", empty == NULL, strtol("12", NULL, 1) == 0);
    atexit(bye);
    exit(3);
}
