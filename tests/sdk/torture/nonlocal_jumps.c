/* SPDX-License-Identifier: MIT */
/* setjmp and longjmp: out of recursion, from signal-like callbacks, errors in a parser, loops that are taken again. */
#include <setjmp.h>
#include <stdlib.h>
#include "torture.h"

static jmp_buf buffers[3];
static __attribute__((noinline)) void descend(int depth, int which) {
    volatile uint64_t room[20];
    room[depth % 20] = (uint64_t)depth;
    if (!depth)
        longjmp(buffers[which], which + 10);
    descend(depth - 1, which);
    feed(room[depth % 20]);
}

struct parser {
    const char *at;
    jmp_buf failed;
};
static int expression(struct parser *p);
static int primary(struct parser *p) {
    if (*p->at == '(') {
        p->at++;
        int value = expression(p);
        if (*p->at++ != ')')
            longjmp(p->failed, ')');
        return value;
    }
    if (*p->at < '0' || *p->at > '9')
        longjmp(p->failed, *p->at ? *p->at : '$');
    return (int)strtol(p->at, (char **)&p->at, 10);
}
static int expression(struct parser *p) {
    int value = primary(p);
    while (*p->at == '+' || *p->at == '*' || *p->at == '/') {
        char operation = *p->at++;
        int other = primary(p);
        if (operation == '/' && !other)
            longjmp(p->failed, '0');
        value = operation == '+' ? value + other : operation == '*' ? value * other : value / other;
    }
    return value;
}
static int compare_or_leave(const void *a, const void *b) {
    static int calls;
    if (++calls == 10)
        longjmp(buffers[2], calls);
    return *(const int *)a - *(const int *)b;
}

int main(void) {
    for (volatile int which = 0; which < 2; which++) {
        int value = setjmp(buffers[which]);
        if (!value)
            descend(10 + 20 * which, which);
        printf("%d\n", value);
    }
    volatile int count = 0;
    volatile double kept = 1.5;
    if (setjmp(buffers[0]) < 5) {
        count++, kept *= 2;
        longjmp(buffers[0], count);
    }
    printf("%d %g\n", count, kept);
    if (!setjmp(buffers[1]))
        longjmp(buffers[1], 0); /* arrives as 1 */
    else
        puts("one");
    static const char *const texts[] = {"1+2*3", "(4+5)*(1+1)", "7/(1+", "8/0", "((2)", "3+x", "100/7/2"};
    for (volatile size_t i = 0; i < COUNT(texts); i++) {
        struct parser parser = {.at = texts[i]};
        int error = setjmp(parser.failed);
        if (error)
            printf("%s: error %c\n", texts[i], error);
        else
            printf("%s = %d\n", texts[i], expression(&parser));
    }
    int numbers[30];
    for (int i = 0; i < 30; i++)
        numbers[i] = i * 7 % 30;
    if (!setjmp(buffers[2]))
        qsort(numbers, 30, sizeof *numbers, compare_or_leave);
    else
        puts("left qsort");
    return 0;
}
