/* SPDX-License-Identifier: MIT */
/* Stack frames beyond what an immediate of 12 bits reaches, variable-length arrays, alloca, alignment on the stack. */
#include <alloca.h>
#include "torture.h"

static __attribute__((noinline)) uint64_t large(int seed) {
    uint32_t room[15000];
    char tail[5000];
    for (int i = 0; i < 15000; i++)
        room[i] = (uint32_t)(seed * i);
    for (int i = 0; i < 5000; i++)
        tail[i] = (char)(room[i * 3] >> 3);
    uint64_t sum = 0;
    for (int i = 0; i < 5000; i += 7)
        sum += room[14999 - i] ^ (unsigned char)tail[i];
    return sum;
}
static __attribute__((noinline)) uint64_t exactly(int n) { /* frames around 2 KiB, where the immediate ends */
    volatile char room[2000];
    volatile uint64_t before = 1, after = 2;
    for (int i = 0; i < 2000; i++)
        room[i] = (char)(i * n);
    uint64_t sum = before + after;
    for (int i = 0; i < 2000; i++)
        sum = sum * 31 + (unsigned char)room[i];
    return sum;
}
static __attribute__((noinline)) uint64_t variable(int n) {
    uint16_t items[n], other[n * 2];
    uint8_t *more = alloca((size_t)n + 1);
    for (int i = 0; i < n; i++)
        items[i] = (uint16_t)(i * i), other[2 * i] = (uint16_t)i, other[2 * i + 1] = 7, more[i] = (uint8_t)(i ^ 0x5a);
    uint64_t sum = sizeof items;
    for (int i = 0; i < n; i++)
        sum = sum * 33 + items[i] + other[i] + more[i];
    return sum + (n > 1 ? variable(n / 2) : 0);
}
static __attribute__((noinline)) int aligned(int depth) {
    _Alignas(64) char line[64];
    _Alignas(32) volatile int counter = depth;
    memset(line, depth, sizeof line);
    int wrong = ((uintptr_t)line % 64 != 0) + ((uintptr_t)&counter % 32 != 0) + (line[63] != (char)depth);
    return wrong + (depth ? aligned(depth - 1) : 0);
}
static __attribute__((noinline)) uint64_t deep(int n) {
    volatile uint64_t room[30] = {(uint64_t)n};
    return n ? room[0] + deep(n - 1) : 0;
}

int main(void) {
    for (int i = 1; i < 5; i++)
        printf("%" PRIu64 " %" PRIu64 " %" PRIu64 "\n", large(i * 77777), exactly(i), variable(i * 100));
    printf("%d %" PRIu64 "\n", aligned(20), deep(400));
    return 0;
}
