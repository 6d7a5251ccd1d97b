/* SPDX-License-Identifier: MIT */
/* qsort and bsearch of items of several sizes, and sorts by hand. */
#include <stdlib.h>
#include "torture.h"

struct record {
    char name[11];
    uint16_t key;
    double weight;
};
static int by_i32(const void *a, const void *b) {
    return (*(const int32_t *)a > *(const int32_t *)b) - (*(const int32_t *)a < *(const int32_t *)b);
}
static int by_u8(const void *a, const void *b) { return *(const uint8_t *)a - *(const uint8_t *)b; }
static int by_key(const void *a, const void *b) {
    return ((const struct record *)a)->key - ((const struct record *)b)->key;
}
static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static void heap_sort(uint64_t *items, size_t count) {
    for (size_t end = count, start = count / 2; end > 1;) {
        uint64_t item;
        if (start)
            item = items[--start];
        else
            item = items[--end], items[end] = items[0];
        size_t at = start;
        for (size_t child; (child = 2 * at + 1) < end; at = child) {
            child += child + 1 < end && items[child] < items[child + 1];
            if (items[child] <= item)
                break;
            items[at] = items[child];
        }
        items[at] = item;
    }
}
static void merge_sort(int16_t *items, int16_t *spare, int count) {
    if (count < 2)
        return;
    int half = count / 2;
    merge_sort(items, spare, half), merge_sort(items + half, spare, count - half);
    for (int i = 0, a = 0, b = half; i < count; i++)
        spare[i] = b >= count || (a < half && items[a] <= items[b]) ? items[a++] : items[b++];
    memcpy(items, spare, (size_t)count * sizeof *items);
}

int main(void) {
    static int32_t numbers[3000];
    for (size_t i = 0; i < COUNT(numbers); i++)
        numbers[i] = (int32_t)next_random() >> (i % 3 * 10);
    qsort(numbers, COUNT(numbers), sizeof *numbers, by_i32);
    for (size_t i = 0; i < COUNT(numbers); i++)
        feed((uint64_t)numbers[i]);
    tell("int32");
    int found = 0;
    for (int i = 0; i < 500; i++) {
        int32_t wanted = i & 1 ? numbers[(unsigned)i * 5] : (int32_t)next_random();
        int32_t *at = bsearch(&wanted, numbers, COUNT(numbers), sizeof *numbers, by_i32);
        found += at && *at == wanted;
    }
    printf("%d\n", found);
    uint8_t bytes[777];
    for (size_t i = 0; i < COUNT(bytes); i++)
        bytes[i] = (uint8_t)next_random();
    qsort(bytes, COUNT(bytes), 1, by_u8);
    for (size_t i = 0; i < COUNT(bytes); i++)
        feed(bytes[i]);
    tell("bytes");
    struct record records[200];
    for (int i = 0; i < 200; i++) {
        snprintf(records[i].name, sizeof records[i].name, "r%d", i);
        records[i].key = (uint16_t)(i * 7919), records[i].weight = i / 3.0;
    }
    qsort(records, 200, sizeof *records, by_key);
    for (int i = 0; i < 200; i++)
        feed_text(records[i].name), feed(records[i].key), feed_double(records[i].weight);
    tell("records");
    const char *words[] = {"pear", "apple", "", "fig", "apples", "banana", "Zebra", "zebra", "a"};
    qsort(words, COUNT(words), sizeof *words, by_text);
    for (size_t i = 0; i < COUNT(words); i++)
        printf("%s,", words[i]);
    puts("");
    static uint64_t wide[1000];
    static int16_t halves[1000], spare[1000];
    for (int i = 0; i < 1000; i++)
        wide[i] = next_random(), halves[i] = (int16_t)next_random();
    heap_sort(wide, 1000), merge_sort(halves, spare, 1000);
    for (int i = 0; i < 1000; i++)
        feed(wide[i]), feed((uint64_t)halves[i]);
    tell("by hand");
    qsort(numbers, 0, 4, by_i32), qsort(numbers, 1, 4, by_i32);
    return 0;
}
