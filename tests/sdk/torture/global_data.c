/* SPDX-License-Identifier: MIT */
/* Data that refers to data: pointers into the middle, to functions, to each other; alignment; zeros; constants. */
#include "torture.h"

struct item {
    const char *name;
    const struct item *next;
    const int32_t *middle;
    int (*call)(int);
    double weight;
};
static int up(int x) { return x + 1; }
static int down(int x) { return x - 1; }
static const int32_t numbers[] = {10, 20, 30, 40, 50};
static const struct item third = {"third", NULL, numbers + 4, up, 3.25},
                         second = {"second" + 2, &third, &numbers[2], down, 1e100};
static struct item first = {.name = "first", .next = &second, .middle = numbers, .call = up, .weight = -0.5};
static struct item *self = &first;
static struct item **to_self = &self;
extern const struct item *const forward[];
const struct item *const forward[] = {&third, &second, NULL, &first};
static char text[] = "changed";
static const char *const words[] = {"alpha", "beta", "gamma", "alphabet" + 5, text + 3};
static const char grid[3][4] = {"abc", "de", "f"};
static int32_t zeros[5000], counted = 7;
static _Alignas(256) unsigned char aligned[3] = {1, 2, 3};
static const uint64_t wide[] = {0x8000000000000000, 0x123456789abcdef, 1};
static const float single = 1.5f;
static const void *const mixed[] = {numbers + 1, words, &words[1], zeros + 4999, (const char *)&first + 8};
int32_t weak_value __attribute__((weak)) = 5;
extern int missing(int) __attribute__((weak));

int main(void) {
    for (const struct item *item = *to_self; item; item = item->next)
        printf("%s %d %d %g\n", item->name, *item->middle, item->call(*item->middle), item->weight);
    for (size_t i = 0; i < COUNT(forward); i++)
        printf("%s ", forward[i] ? forward[i]->name : "none");
    text[3] = 'N';
    for (size_t i = 0; i < COUNT(words); i++)
        printf("%s ", words[i]);
    printf("%s %s %c\n", grid[0], grid[1] + 1, grid[2][0]);
    zeros[4999] = 9, zeros[0]++;
    int32_t sum = 0;
    for (size_t i = 0; i < COUNT(zeros); i++)
        sum += zeros[i];
    counted++;
    printf("%d %d %d\n", sum, counted, (int)((uintptr_t)aligned % 256));
    printf("%d %s %d %d\n", *(const int32_t *)mixed[0], *(const char *const *)mixed[2], *(const int32_t *)mixed[3],
           mixed[1] == words);
    printf("%" PRIx64 " %g %d %d %d\n", wide[0] ^ wide[1], (double)single, weak_value, missing ? missing(1) : -1,
           aligned[2]);
    first.call = down, self = (struct item *)&first;
    static int persistent = 100;
    for (int i = 0; i < 3; i++)
        persistent += i, printf("%d %d ", persistent, (*to_self)->call(persistent));
    puts("");
    const struct item local = {"local", &first, &(const int32_t){77}, up, 2};
    printf("%s %d %s\n", local.name, *local.middle, local.next->name);
    return 0;
}
