/* SPDX-License-Identifier: MIT
 *
 * memory: one guest's memory as the host has it: in files that a worker maps too, or private to this process.
 *
 * The *ram* holds the vmctx page, the stack, and last the read-write data with the heap, whose whole range is mapped
 * from the start. Auxiliary data is apart. The ends of both move: what the guest may touch of them is what lies inside
 * their files, and touching what lies beyond raises SIGBUS, so every access of the host's is bounded by `rw_accessible`
 * and `aux_accessible` first.
 */
#ifndef SANDBOX_MEMORY_H
#define SANDBOX_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "sandbox/image.h"
#include "sandbox/sandbox_api.h"

struct sandbox_memory {
    const struct sandbox_image *image; /* borrowed */
    int ram_file;                      /* -1: private to this process */
    int aux_file;                      /* -1 also where there is no auxiliary data */
    uint8_t *ram;
    uint64_t ram_size; /* of the mapping */
    uint8_t *aux;      /* NULL if there is none */
    uint64_t aux_size; /* of the mapping */
    uint64_t rw_accessible;
    uint64_t aux_accessible;
};

/* Fills *memory with the program's initial memory. 0 or -errno; to be destroyed either way, before or after the image:
 * garbage has no order. */
int memory_create(struct sandbox_memory *memory, const struct sandbox_image *image, bool in_files);
void memory_destroy(struct sandbox_memory *memory);

/* Makes `accessible` bytes of read-write data and heap accessible, at least as many as there are. 0 or -errno. */
int memory_grow(struct sandbox_memory *memory, uint64_t accessible);

/* Makes it as it was at the start; the vmctx page is left alone. 0 or -errno. */
int memory_reset(struct sandbox_memory *memory);

#endif
