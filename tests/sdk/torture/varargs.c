/* SPDX-License-Identifier: MIT */
/* Variable arguments of every kind, more than registers hold, walked twice and passed on. */
#include <stdarg.h>
#include "torture.h"

struct pair {
    int32_t a;
    int64_t b;
};
struct big {
    int32_t at[9];
};

static __attribute__((noinline)) double take(const char *kinds, ...) {
    va_list list, again;
    va_start(list, kinds);
    va_copy(again, list);
    double total = 0;
    for (const char *kind = kinds; *kind; kind++)
        switch (*kind) {
        case 'i': total += va_arg(list, int); break;
        case 'u': total += va_arg(list, unsigned); break;
        case 'q': total += (double)va_arg(list, int64_t); break;
        case 'd': total += va_arg(list, double); break;
        case 's': total += (double)strlen(va_arg(list, const char *)); break;
        case 'p': {
            struct pair pair = va_arg(list, struct pair);
            total += pair.a * 2.0 + (double)pair.b;
            break;
        }
        case 'b': {
            struct big big = va_arg(list, struct big);
            for (int i = 0; i < 9; i++)
                total += big.at[i] * (i + 1);
            break;
        }
        }
    if (*kinds == 'i')
        total += 1000 * va_arg(again, int);
    va_end(again);
    va_end(list);
    return total;
}

static int pass_on(char *out, size_t size, const char *format, ...) {
    va_list list;
    va_start(list, format);
    int length = vsnprintf(out, size, format, list);
    va_end(list);
    return length;
}

static int64_t sum(int first, ...) {
    va_list list;
    va_start(list, first);
    int64_t total = 0;
    for (int i = first; i; i = va_arg(list, int))
        total = total * 3 + i;
    va_end(list);
    return total;
}

int main(void) {
    printf("%.2f\n", take("i", 5));
    printf("%.2f\n", take("idqs", -5, 2.5, (int64_t)1 << 40, "text"));
    printf("%.2f\n", take("qiqiqdid", (int64_t)-1, 2, (int64_t)3, 4, (int64_t)5, 6.5, 7, 8.25));
    printf("%.2f\n",
           take("ipdbq", 1, (struct pair){3, 1ll << 33}, 0.5, (struct big){{1, 2, 3, 4, 5, 6, 7, 8, 9}}, (int64_t)9));
    printf("%.2f\n", take("pppp", (struct pair){1, 2}, (struct pair){3, 4}, (struct pair){5, 6}, (struct pair){7, 8}));
    printf("%.2f\n", take("iiiiiiiiiiiiu", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 4000000000u));
    printf("%" PRId64 "\n", sum(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 0));
    char text[40];
    printf("%d ", pass_on(text, sizeof text, "%d %s %.3f %" PRId64 " %c", -1, "two", 3.0, (int64_t)4 << 33, '5'));
    puts(text);
    printf("%d ", pass_on(text, 8, "%d-%d-%d-%d-%d-%d", 11, 22, 33, 44, 55, 66));
    puts(text);
    return 0;
}
