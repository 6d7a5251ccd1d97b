/* SPDX-License-Identifier: MIT
 *
 * pager: see pager.h. One pager may serve any number of guests, on any threads.
 */
#define _GNU_SOURCE
#include "sandbox/pager.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "sandbox/paging.h"
#include "sandbox/snapshot.h"

struct sandbox_pager {
    uint32_t users; /* atomic: Python, and memories that have it */
    int file;       /* -1: zeroes everywhere */
    uint64_t address; /* of the guest, where the file's bytes begin */
    uint64_t offset;
    uint64_t size;
    uint64_t read_ahead;
};

/* What is read of a file at once: stays in the processor's cache, and holds the largest page. */
#define PAGER_CHUNK (UINT64_C(64) << 10)
/* Pages that a second fault in sequence gets; each further one twice as many. */
#define PAGER_FIRST_READ_AHEAD 16u

/* --- life --- */

int sandbox_pager_create(int file, uint64_t address, uint64_t offset, uint64_t size, uint64_t read_ahead,
                         sandbox_pager **result)
{
    struct sandbox_pager *pager = calloc(1, sizeof *pager);
    if (pager == NULL)
        return -ENOMEM;
    *pager = (struct sandbox_pager){
        .users = 1, .file = -1, .address = address, .offset = offset, .size = size, .read_ahead = read_ahead};
    if (file >= 0 && (pager->file = fcntl(file, F_DUPFD_CLOEXEC, 3)) < 0) {
        const int error = -errno;
        free(pager);
        return error;
    }
    *result = pager;
    return 0;
}

void sandbox_pager_release(sandbox_pager *pager)
{
    /* acquire and release: what other users did comes before the end */
    if (pager == NULL || __atomic_sub_fetch(&pager->users, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    if (pager->file >= 0)
        close(pager->file);
    free(pager);
}

void sandbox_memory_set_pager(sandbox_memory *memory, sandbox_pager *pager)
{
    if (pager != NULL)
        __atomic_add_fetch(&pager->users, 1, __ATOMIC_RELAXED);
    sandbox_pager_release(memory->paging.pager);
    memory->paging.pager = pager;
}

uint64_t sandbox_memory_faults_served(const sandbox_memory *memory)
{
    return memory->paging.faults_served;
}

uint64_t sandbox_memory_pages_served(const sandbox_memory *memory)
{
    return memory->paging.pages_served;
}

/* --- contents --- */

/* Reads up to `size` bytes of the file, fewer at its end; and where more would block, -EAGAIN if that is at once. */
static int64_t pager_pread(const struct sandbox_pager *pager, uint8_t *out, uint64_t size, uint64_t offset,
                           bool may_block, bool *blocked)
{
    uint64_t done = 0;
    *blocked = false;
    while (done < size) {
        const struct iovec vector = {.iov_base = out + done, .iov_len = size - done};
        const ssize_t count =
            preadv2(pager->file, &vector, 1, (off_t)(offset + done), may_block ? 0 : RWF_NOWAIT);
        if (count > 0) {
            done += (uint64_t)count;
        } else if (count == 0) {
            break;
        } else if (errno == EAGAIN || errno == EOPNOTSUPP) {
            /* EOPNOTSUPP: this file system cannot say whether it would block */
            *blocked = true;
            break;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return (int64_t)done;
}

/* Fills `out` with what belongs to [address, address + size). Returns how many bytes it got to, in whole pages, or
 * -errno. */
static int64_t pager_read(const struct sandbox_pager *pager, uint8_t *out, uint64_t address, uint64_t size,
                          uint64_t page_size, bool may_block)
{
    const uint64_t begin = address > pager->address ? address : pager->address;
    const uint64_t last = pager->address + pager->size, end = address + size < last ? address + size : last;
    if (begin >= end) {
        memset(out, 0, size);
        return (int64_t)size;
    }
    bool blocked;
    const int64_t got = pager_pread(pager, out + (begin - address), end - begin,
                                    pager->offset + (begin - pager->address), may_block, &blocked);
    if (got < 0)
        return got;
    memset(out, 0, begin - address);
    if (!blocked) {
        memset(out + (begin - address) + got, 0, size - (begin - address) - (uint64_t)got);
        return (int64_t)size;
    }
    const uint64_t whole = (begin - address + (uint64_t)got) & ~(page_size - 1);
    return whole > 0 ? (int64_t)whole : -EAGAIN;
}

/* --- serving --- */

uint64_t pager_plan(struct sandbox_paging *paging, uint64_t page, uint64_t most)
{
    most >>= paging->shift;
    if (page != paging->next_page)
        paging->read_ahead = 1;
    else
        paging->read_ahead = paging->read_ahead < PAGER_FIRST_READ_AHEAD ? PAGER_FIRST_READ_AHEAD : 2 * paging->read_ahead;
    if (paging->read_ahead > most)
        paging->read_ahead = most > 0 ? most : 1;
    return paging->read_ahead;
}

int pager_serve(struct sandbox_memory *memory, uint64_t address, bool may_block)
{
    struct sandbox_paging *paging = &memory->paging;
    const struct sandbox_pager *pager = paging->pager;
    const uint64_t page_size = UINT64_C(1) << paging->shift;
    struct memory_place place;
    if (snapshot_serve(memory, address))
        return 0;
    if (pager == NULL || !memory_find(memory, address, page_size, SANDBOX_HOST_WRITE, &place))
        return -ENOENT;
    const uint64_t before = paging->read_ahead;
    if (paging_count_absent(memory, &place, 1) == 0)
        return -ENOENT;
    const uint64_t size = paging_count_absent(memory, &place, pager_plan(paging, place.page, pager->read_ahead)) << paging->shift;
    uint8_t chunk[PAGER_CHUNK];
    uint64_t done = 0;
    if (pager->file < 0) {
        paging_write(memory, &place, NULL, size);
        done = size;
    }
    while (done < size) {
        struct memory_place at = place;
        at.address += done;
        at.offset += done;
        at.room -= done;
        at.page += done >> paging->shift;
        const uint64_t wanted = size - done < PAGER_CHUNK ? size - done : PAGER_CHUNK;
        const int64_t got = pager_read(pager, chunk, at.address, wanted, page_size, may_block);
        if (got < 0 && done == 0) {
            paging->read_ahead = before; /* it is to be tried again */
            return (int)got;
        }
        if (got < 0)
            break; /* pages behind the one that was asked for wait until they are */
        paging_write(memory, &at, chunk, (uint64_t)got);
        done += (uint64_t)got;
        if ((uint64_t)got < wanted)
            break;
    }
    paging->next_page = place.page + (done >> paging->shift);
    paging->faults_served++;
    paging->pages_served += done >> paging->shift;
    return 0;
}
