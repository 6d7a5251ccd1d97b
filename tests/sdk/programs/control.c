/* SPDX-License-Identifier: MIT */
/* setjmp and longjmp, varargs, assert, signals, locales, time, thread-local variables, constructors. */
#include <assert.h>
#include <errno.h>
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static jmp_buf outer, inner;
static int order;
static _Thread_local int counter = 5;
static _Thread_local char zeros[100];

__attribute__((constructor)) static void early(void) { order = 1; }

static void deep(int n) {
    volatile char room[100];
    room[n % 100] = (char)n;
    if (!n)
        longjmp(outer, 42);
    deep(n - 1);
    room[0]++;
}

static long sum(int count, ...) {
    va_list list, copy;
    va_start(list, count);
    va_copy(copy, list);
    long total = 0;
    for (int i = 0; i < count; i++)
        total += va_arg(list, int);
    for (int i = 0; i < count; i++)
        total += 100 * va_arg(copy, int);
    va_end(list);
    va_end(copy);
    return total;
}

static double mixed(const char *kinds, ...) {
    va_list list;
    va_start(list, kinds);
    double total = 0;
    for (; *kinds; kinds++)
        total += *kinds == 'd'   ? va_arg(list, double)
                 : *kinds == 'q' ? (double)va_arg(list, long long)
                                 : va_arg(list, int);
    va_end(list);
    return total;
}

int main(void) {
    printf("constructed: %d\n", order);
    volatile int kept = 1;
    int code = setjmp(outer);
    if (!code) {
        kept = 2;
        deep(50);
    }
    printf("%d %d\n", code, kept);
    if (!setjmp(inner))
        longjmp(inner, 0);
    else
        printf("zero becomes one\n");
    for (volatile int i = 0; i < 3;) {
        int round = setjmp(inner);
        printf("round %d\n", round);
        if (++i < 3)
            longjmp(inner, i * 10);
    }
    printf("%ld %g\n", sum(8, 1, 2, 3, 4, 5, 6, 7, 8), mixed("idqidq", 1, 2.5, 3LL, 4, 5.25, 6LL));
    counter += 2;
    zeros[99] = 1;
    printf("%d %d %d\n", counter, zeros[0], zeros[99]);
    errno = 0;
    printf("%s %s\n", setlocale(LC_ALL, NULL), setlocale(LC_ALL, "no-such-locale") ? "some" : "none");
    printf("%s <%s>\n", localeconv()->decimal_point, localeconv()->thousands_sep);

    char text[64];
    time_t moment = 1700000000;
    struct tm *parts = gmtime(&moment);
    strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S %a %j %U %p %y", parts);
    printf("%s ", text);
    printf("%ld\n", (long)mktime(parts));
    struct tm date = {.tm_year = 124, .tm_mon = 13, .tm_mday = -3, .tm_hour = 30};
    long seconds = (long)mktime(&date);
    printf("%ld %d-%d-%d %d\n", seconds, date.tm_year, date.tm_mon, date.tm_mday, date.tm_wday);
    printf("%s", asctime(gmtime(&moment)));
    printf("%.0f\n", difftime(moment, moment - 5));
    printf("%d\n", system(NULL) != 0 && 0);
    assert(order == 1);
    return 0;
}
