/* SPDX-License-Identifier: MIT */
/* malloc, calloc, realloc, aligned_alloc and free in random order: blocks keep what is in them. */
#include <stdlib.h>
#include "torture.h"

static struct {
    unsigned char *at;
    size_t size;
    unsigned char mark;
} blocks[300];

static int intact(int i) {
    for (size_t k = 0; k < blocks[i].size; k++)
        if (blocks[i].at[k] != (unsigned char)(blocks[i].mark + k))
            return 0;
    return 1;
}
static void mark(int i, size_t size) {
    blocks[i].size = size, blocks[i].mark = (unsigned char)next_random();
    for (size_t k = 0; k < size; k++)
        blocks[i].at[k] = (unsigned char)(blocks[i].mark + k);
}

int main(void) {
    int broken = 0, unaligned = 0, not_zero = 0;
    uint64_t allocated = 0;
    for (int round = 0; round < 20000; round++) {
        int i = (int)(next_random() % 300);
        size_t size = next_random() % (round % 50 ? 120 : 9000);
        broken += !intact(i);
        switch (next_random() % 5) {
        case 0:
        case 1: free(blocks[i].at), blocks[i].at = malloc(size), mark(i, size); break;
        case 2:
            free(blocks[i].at), blocks[i].at = calloc(size / 4 + 1, 4), size = (size / 4 + 1) * 4;
            for (size_t k = 0; k < size; k++)
                not_zero += blocks[i].at[k] != 0;
            mark(i, size);
            break;
        case 3: {
            size_t kept = blocks[i].size < size ? blocks[i].size : size;
            blocks[i].at = realloc(blocks[i].at, size + 1), blocks[i].size = kept;
            broken += !intact(i);
            mark(i, size);
            break;
        }
        case 4: {
            size_t alignment = (size_t)16 << next_random() % 6;
            size = (size + alignment) / alignment * alignment;
            free(blocks[i].at), blocks[i].at = aligned_alloc(alignment, size), mark(i, size);
            unaligned += (uintptr_t)blocks[i].at % alignment != 0;
            break;
        }
        }
        unaligned += (uintptr_t)blocks[i].at % sizeof(double) != 0;
        allocated += size;
    }
    for (int i = 0; i < 300; i++)
        broken += !intact(i), free(blocks[i].at);
    printf("%d broken, %d unaligned, %d not zero, %" PRIu64 " bytes\n", broken, unaligned, not_zero, allocated);
    free(NULL);
    char *large = malloc(5 << 20);
    memset(large, 7, 5 << 20);
    large = realloc(large, 6 << 20);
    printf("%d %d\n", large[0], large[(5 << 20) - 1]);
    free(large);
    return 0;
}
