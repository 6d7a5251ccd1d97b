/* SPDX-License-Identifier: MIT */
/* snprintf: flags, widths, precisions, of integers, floating point and text; what is cut off. */
#include <stdarg.h>
#include <stddef.h>
#include "torture.h"

static void show(const char *format, ...) {
    char text[120];
    va_list list;
    va_start(list, format);
    int length = vsnprintf(text, sizeof text, format, list);
    va_end(list);
    printf("[%s] %d\n", text, length);
}

int main(void) {
    static const int numbers[] = {0, 1, -1, 42, -12345, 2147483647, -2147483647 - 1};
    static const char *const integers[] = {"%d", "%5d", "%-8d|", "%08d", "%+d", "% d",   "%.3d", "%8.5d",
                                           "%x", "%#X", "%o",    "%#o",  "%u",  "%+.0d", "%hhd", "%hd"};
    for (size_t i = 0; i < COUNT(integers); i++)
        for (size_t j = 0; j < COUNT(numbers); j++)
            show(integers[i], numbers[j]);
    for (size_t i = 0; i < COUNT(edges); i += 3)
        show("%" PRId64 " %" PRIu64 " %" PRIx64, edges[i], edges[i], edges[i]);
    static const double reals[] = {0,        -0.0,      1,         -1.5, 0.1, 123456.789,
                                   1e-10,    1e21,      9.9999999, 2.5,  3.5, 1.7976931348623157e308,
                                   999999.5, 0.00012345};
    static const char *const formats[] = {"%f",    "%.0f",  "%.2f", "%10.3f",  "%-12.1f|", "%+.3e", "%E", "%g",
                                          "%.10g", "%#.3g", "%G",   "%012.4f", "%.17g",    "%.30f", "%a", "%.3a"};
    for (size_t i = 0; i < COUNT(formats); i++)
        for (size_t j = 0; j < COUNT(reals); j++)
            show(formats[i], reals[j]);
    show("%s|%10s|%-10s|%.2s|%*s|%-*s|%.*s", "text", "right", "left", "cut", 6, "star", 6, "neg", 3, "precise");
    show("%c%c%%%5c|%-3c|", 'a', 'b', 'c', 'd');
    show("%lld %jd %zu %td", -1ll, (intmax_t)-2, (size_t)3, (ptrdiff_t)-4);
    show("%2$s %1$s", "second", "first");
    show("%200s", "cut off at 119");
    int seen = 0;
    show("12345%n6789", &seen);
    printf("%d\n", seen);
    char tiny[4];
    int zero = snprintf(NULL, 0, "%d", 12345), three = snprintf(tiny, 4, "%s", "abcdef"),
        one = snprintf(tiny + 3, 1, "xyz");
    printf("%d %d %d %s\n", zero, three, one, tiny);
    return 0;
}
