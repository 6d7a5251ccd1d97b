/* SPDX-License-Identifier: MIT */
/* Functions in tables, in structures, as arguments and results, compared, and called through casts. */
#include <stdlib.h>
#include "torture.h"

typedef int32_t binary(int32_t, int32_t);
static int32_t plus(int32_t a, int32_t b) { return a + b; }
static int32_t minus(int32_t a, int32_t b) { return a - b; }
static int32_t times(int32_t a, int32_t b) { return (int32_t)((uint32_t)a * (uint32_t)b); }
static int32_t tiny(int32_t a, int32_t b) { return a < b; }
static binary *const table[] = {plus, minus, times, tiny, NULL};
static binary *changing[4] = {tiny, times, minus, plus};

struct shape {
    const struct methods *methods;
    int32_t width, height;
};
struct methods {
    const char *name;
    int32_t (*area)(const struct shape *);
    void (*grow)(struct shape *, int32_t);
};
static int32_t box_area(const struct shape *s) { return s->width * s->height; }
static int32_t flat_area(const struct shape *s) { return s->width * 2; }
static void grow_both(struct shape *s, int32_t by) { s->width += by, s->height += by; }
static void grow_width(struct shape *s, int32_t by) { s->width += by; }
static const struct methods box = {"box", box_area, grow_both}, flat = {"flat", flat_area, grow_width};

static binary *choose(int which) { return which & 1 ? (which & 2 ? times : plus) : (which & 2 ? minus : tiny); }
static int32_t fold(binary *function, int32_t start, const int32_t *items, int count) {
    for (int i = 0; i < count; i++)
        start = function(start, items[i]);
    return start;
}
static int32_t twice(binary *function, int32_t x) { return function(function(x, x), x); }
static int calls;
static void count_call(void) { calls++; }
static void at_end(void) { printf("at exit, %d calls\n", calls); }

int main(void) {
    atexit(at_end);
    static const int32_t items[] = {5, -3, 8, 1, 1, 2, 1000000, 77};
    for (int i = 0; table[i]; i++)
        printf("%d %d %d\n", fold(table[i], 1, items, COUNT(items)), twice(table[i], 9), table[i] == changing[3 - i]);
    binary *spare = changing[0];
    changing[0] = changing[2], changing[2] = spare;
    for (int i = 0; i < 4; i++)
        printf("%d %d ", changing[i](30, 12), choose(i)(30, 12));
    puts("");
    struct shape shapes[] = {{&box, 2, 3}, {&flat, 4, 5}, {&box, 6, 7}};
    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < COUNT(shapes); i++) {
            shapes[i].methods->grow(&shapes[i], round);
            printf("%s %d ", shapes[i].methods->name, shapes[i].methods->area(&shapes[i]));
        }
    puts("");
    void (*volatile hidden)(void) = count_call;
    for (int i = 0; i < 5; i++)
        hidden(), (*hidden)(), (**hidden)();
    uintptr_t address = (uintptr_t)hidden;
    ((void (*)(void))address)();
    printf("%d %d\n", calls, choose(3) == times && choose(1) != times && hidden != NULL);
    return 0;
}
