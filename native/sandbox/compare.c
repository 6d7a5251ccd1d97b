/* SPDX-License-Identifier: MIT
 *
 * compare: whether two guests of one program have the same memory.
 *
 * Both lie in files, most of which are holes. What is a hole in both is equal and is not looked at; what is a hole in
 * one must be zero in the other. A hole itself is never read, because that would fill it with pages.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "sandbox/memory.h"

/* A stretch of a file that is all data or all hole. */
struct compare_run {
    int file;
    const uint8_t *base;
    uint64_t end;
    bool data;
};

/* Finds the run at `offset`, if the one that was found is over. */
static int compare_next(struct compare_run *run, uint64_t offset)
{
    if (offset < run->end)
        return 0;
    off_t next = lseek(run->file, (off_t)offset, SEEK_DATA);
    if (next < 0 && errno != ENXIO)
        return -errno;
    run->data = next == (off_t)offset;
    if (run->data) {
        next = lseek(run->file, next, SEEK_HOLE);
        if (next < 0)
            return -errno;
    }
    run->end = next < 0 ? UINT64_MAX : (uint64_t)next; /* ENXIO: only a hole is left */
    return 0;
}

/* Index of the first byte that is not equal; `size` if there is none. NULL stands for zeroes. */
static uint64_t compare_bytes(const uint8_t *first, const uint8_t *second, uint64_t size)
{
    static const uint8_t zeroes[LAYOUT_PAGE];
    for (uint64_t at = 0, length; at < size; at += length) {
        length = size - at < LAYOUT_PAGE ? size - at : LAYOUT_PAGE;
        const uint8_t *left = first != NULL ? first + at : zeroes;
        const uint8_t *right = second != NULL ? second + at : zeroes;
        if (memcmp(left, right, length) == 0)
            continue;
        uint64_t equal = 0;
        while (left[equal] == right[equal])
            equal++;
        return at + equal;
    }
    return size;
}

static uint8_t compare_value(const uint8_t *data)
{
    return data != NULL ? *data : 0;
}

/* Compares [offset, end) of two files; `address` is that of `offset`. */
static int compare_region(struct compare_run first, struct compare_run second, uint64_t offset, uint64_t end,
                          uint64_t address, struct sandbox_difference *difference)
{
    const uint64_t begin = offset;
    while (offset < end) {
        int error = compare_next(&first, offset);
        if (error == 0)
            error = compare_next(&second, offset);
        if (error < 0)
            return error;
        uint64_t stop = first.end < second.end ? first.end : second.end;
        if (stop > end)
            stop = end;
        if (first.data || second.data) {
            const uint8_t *left = first.data ? first.base + offset : NULL;
            const uint8_t *right = second.data ? second.base + offset : NULL;
            const uint64_t equal = compare_bytes(left, right, stop - offset);
            if (equal < stop - offset) {
                difference->address = address + (offset - begin) + equal;
                difference->first = compare_value(left != NULL ? left + equal : NULL);
                difference->second = compare_value(right != NULL ? right + equal : NULL);
                return 1;
            }
        }
        offset = stop;
    }
    return 0;
}

int sandbox_memory_compare(const sandbox_memory *first, const sandbox_memory *second,
                           struct sandbox_difference *difference)
{
    const struct sandbox_memory_map *map = &first->image->map;
    if (first->ram_file < 0 || second->ram_file < 0 || memcmp(map, &second->image->map, sizeof *map) != 0 ||
        first->rw_accessible != second->rw_accessible || first->aux_accessible != second->aux_accessible)
        return -EINVAL;
    const struct compare_run ram[2] = {{.file = first->ram_file, .base = first->ram},
                                       {.file = second->ram_file, .base = second->ram}};
    const uint64_t rw = sandbox_image_rw_offset(first->image);
    const uint64_t stack = sandbox_image_stack_offset(first->image);
    int result = compare_region(ram[0], ram[1], rw, rw + first->rw_accessible, map->rw_address, difference);
    if (result == 0)
        result = compare_region(ram[0], ram[1], stack, stack + map->stack_size, map->stack_low, difference);
    if (result == 0 && first->aux_accessible > 0) {
        const struct compare_run aux[2] = {{.file = first->aux_file, .base = first->aux},
                                           {.file = second->aux_file, .base = second->aux}};
        result = compare_region(aux[0], aux[1], 0, first->aux_accessible, map->aux_address, difference);
    }
    return result;
}
