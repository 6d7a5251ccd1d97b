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

/* Which pages are there (paging.h). */
struct sandbox_paging {
    uint64_t *present; /* a bit per page; NULL without dynamic paging: all are there */
    uint64_t *guarded; /* likewise: those that the guest may not write; NULL until there was one */
    uint64_t words;    /* of each */
    uint64_t aux_page; /* number of the first page of auxiliary data; those of the ram, from the stack on, come before */
    uint32_t shift;    /* of the page size */
    int uffd;          /* the userfaultfd of whoever maps the memory for the guest; -1: nobody does */
    uint64_t base;     /* where that maps guest address 0 */
    bool guards;       /* the regions are registered for write protection */
    struct sandbox_pager *pager;
    struct sandbox_snapshot *source; /* of lazy pages (snapshot.h); NULL: there are none */
    uint64_t *lazy;                  /* likewise a bit per page, that is not present yet; NULL until there was one */
    uint64_t next_page;  /* behind the pages that were put there last: a fault there is one of a sequence */
    uint64_t read_ahead; /* pages that were put there then */
    uint64_t faults_served;
    uint64_t pages_served;
};

struct sandbox_memory {
    const struct sandbox_image *image; /* borrowed */
    int ram_file;                      /* -1: private to this process */
    int aux_file;                      /* -1 also where there is no auxiliary data */
    uint8_t *ram;
    uint64_t ram_size; /* of the mapping */
    uint8_t *aux;      /* NULL if there is none */
    uint64_t aux_size; /* of the mapping */
    uint64_t rw_accessible;
    uint64_t rw_limit; /* of rw_accessible */
    uint64_t rw_needed; /* what a limit must not cut off: the data that the guest begins with */
    uint64_t aux_accessible;
    struct sandbox_paging paging;
};

/* A stretch of guest memory: where it is mapped, and where in which file. */
struct memory_place {
    int file;         /* -1: in none */
    uint8_t *base;
    uint64_t offset;
    uint64_t address; /* of the guest */
    uint64_t room;    /* bytes from there to the end of the region */
    uint64_t page;    /* number of the page that it begins in */
    bool paged;       /* whether its pages can be absent */
};

/* Finds [address, address + size) in one region that is there for `access`, whether or not its pages are. */
bool memory_find(const struct sandbox_memory *memory, uint64_t address, uint64_t size, enum sandbox_access access,
                 struct memory_place *place);

/* The address of the first page in [address, address + size) that is not there or, if it is written, is protected, as
 * the machine sees it: see sandbox_memory_fault, which looks at lazy pages (snapshot.h) as being there. */
int64_t memory_fault(const struct sandbox_memory *memory, uint64_t address, uint64_t size, bool write);

/* Zeroes [from, to) of a file, or of private memory (-1) at `base`, without touching holes. 0 or -errno. */
int memory_clear(int file, uint8_t *base, uint64_t from, uint64_t to);

/* Gives the machine's whole pages from `from` to `to` of a file, or of private memory (-1) at `base`, back. */
int memory_give_back(int file, uint8_t *base, uint64_t from, uint64_t to);

/* Fills *memory with the program's initial memory. 0 or -errno; to be destroyed either way, before or after the image:
 * garbage has no order. */
int memory_create(struct sandbox_memory *memory, const struct sandbox_image *image, bool in_files);
void memory_destroy(struct sandbox_memory *memory);

/* Makes `accessible` bytes of read-write data and heap accessible. 0 or -errno. */
int memory_grow(struct sandbox_memory *memory, uint64_t accessible);

/* Whether `address` lies in read-write data that the program has and its limit keeps from it. */
bool memory_is_beyond_limit(const struct sandbox_memory *memory, uint64_t address);

/* Makes it as it was at the start, without a limit; the vmctx page is left alone. 0 or -errno. */
int memory_reset(struct sandbox_memory *memory);

#endif
