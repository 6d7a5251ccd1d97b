/* SPDX-License-Identifier: MIT
 *
 * paging: memory that is there by the page, when the host puts it there (dynamic paging).
 *
 * A bitmap in this process says which pages of stack, read-write data, heap and auxiliary data are present, and is the
 * only thing that does; those with initial data are from the start. A page that is not present is a hole of its file, or
 * untouched private memory: what puts it there finds zeroes.
 *
 * The worker makes a userfaultfd(2), hands it over before its last filter and keeps none; all that is done with it is
 * done here. It is set up to answer a touch of a hole, or a write to a protected page, with SIGBUS
 * (UFFD_FEATURE_SIGBUS), which the worker reports like any other trap: no message is read from the descriptor, no thread
 * of the guest ever sleeps in the kernel for a page, and a guest at a fault is a stopped guest. Which page it was is
 * worked out from the instruction and the registers, not from what the worker says. A guest in this process (generic.c)
 * has a userfaultfd of this process in the same way; one in the interpreter needs none.
 */
#ifndef SANDBOX_PAGING_H
#define SANDBOX_PAGING_H

#include <stdbool.h>
#include <stdint.h>

#include "sandbox/memory.h"

/* What is asked of userfaultfd(2); UFFDIO_API gives -1 with EINVAL where one is not known: the last, of Linux 5.19. */
#define PAGING_FEATURES                                                                                  \
    (UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_SIGBUS | UFFD_FEATURE_PAGEFAULT_FLAG_WP |                  \
     UFFD_FEATURE_WP_HUGETLBFS_SHMEM)

/* Begins with no page present. 0 or -ENOMEM; to be destroyed either way. */
int paging_create(struct sandbox_memory *memory);
/* Closes the userfaultfd: a guest that still ran would go on over pages of zeroes, so it has to be dead. */
void paging_destroy(struct sandbox_memory *memory);
/* Has the pages with initial data present, and what is behind the data in the last one zeroed. */
void paging_make_data_present(struct sandbox_memory *memory);
/* Takes the userfaultfd of the process that maps guest address 0 at `base`, in any case, and registers the regions with
 * it. 0 or -errno. */
int paging_attach(struct sandbox_memory *memory, int uffd, uint64_t base);
/* No page but those with initial data present, nothing protected, no pager. 0 or -errno. */
int paging_reset(struct sandbox_memory *memory);

/* Of the first page in `size` bytes from `place` that is not present or, `for_writing`, is protected: the address. -1 if
 * there is none. */
int64_t paging_find_fault(const struct sandbox_memory *memory, const struct memory_place *place, uint64_t size,
                          bool for_writing);
/* How many pages from that of `place` on are not present, nor lazy (snapshot.h), up to `most` and the end of the region. */
uint64_t paging_count_absent(const struct sandbox_memory *memory, const struct memory_place *place, uint64_t most);

/* What the host does to `size` bytes from `place`; sandbox_memory_write and so on describe it. `data` NULL: zeroes. All
 * return 0 or -errno. */
int paging_write(struct sandbox_memory *memory, const struct memory_place *place, const uint8_t *data, uint64_t size);
int paging_free(struct sandbox_memory *memory, const struct memory_place *place, uint64_t size);
int paging_guard(struct sandbox_memory *memory, const struct memory_place *place, uint64_t size, bool on);
/* Pages of auxiliary data from `size` on are gone with the end of the file. */
void paging_cut_aux(struct sandbox_memory *memory, uint64_t size);

#endif
