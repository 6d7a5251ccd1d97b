/* SPDX-License-Identifier: MIT
 *
 * paging: see paging.h.
 */
#define _GNU_SOURCE
#include "sandbox/paging.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "sandbox/bits.h"
#include "sandbox/pager.h"
#include "sandbox/snapshot.h"

/* --- life --- */

int paging_create(struct sandbox_memory *memory)
{
    struct sandbox_paging *paging = &memory->paging;
    const struct sandbox_memory_map *map = &memory->image->map;
    paging->shift = (uint32_t)__builtin_ctz(map->page_size);
    paging->aux_page = (memory->ram_size - LAYOUT_VMCTX_SIZE + map->page_size - 1) >> paging->shift;
    paging->words = (paging->aux_page + (map->aux_size >> paging->shift)) / 64 + 1;
    /* untouched parts of a large bitmap take no memory */
    paging->present = calloc(paging->words, sizeof *paging->present);
    return paging->present != NULL ? 0 : -ENOMEM;
}

void paging_destroy(struct sandbox_memory *memory)
{
    struct sandbox_paging *paging = &memory->paging;
    if (paging->uffd >= 0)
        close(paging->uffd);
    sandbox_pager_release(paging->pager);
    snapshot_detach(memory);
    free(paging->lazy);
    free(paging->present);
    free(paging->guarded);
    *paging = (struct sandbox_paging){.uffd = -1};
}

/* Bytes of read-write data in pages that hold initial data. */
static uint64_t paging_data_size(const struct sandbox_memory *memory)
{
    const uint64_t mask = memory->image->map.page_size - 1;
    return (memory->image->rw_data_size + mask) & ~mask;
}

/* Number of the first page of read-write data. */
static uint64_t paging_rw_page(const struct sandbox_memory *memory)
{
    return memory->image->map.stack_size >> memory->paging.shift;
}

void paging_make_data_present(struct sandbox_memory *memory)
{
    const struct sandbox_image *image = memory->image;
    const uint64_t size = paging_data_size(memory), page = paging_rw_page(memory);
    /* all of the page has to be in the file */
    memset(memory->ram + sandbox_image_rw_offset(image) + image->rw_data_size, 0, size - image->rw_data_size);
    bits_set(memory->paging.present, page, page + (size >> memory->paging.shift), true);
}

static int paging_register(const struct sandbox_paging *paging, uint64_t address, uint64_t size, uint64_t mode)
{
    struct uffdio_register region = {.range = {.start = paging->base + address, .len = size}, .mode = mode};
    return size == 0 || ioctl(paging->uffd, UFFDIO_REGISTER, &region) == 0 ? 0 : -errno;
}

/* The regions that the guest can write. */
static int paging_register_writable(const struct sandbox_memory *memory, uint64_t mode)
{
    const struct sandbox_memory_map *map = &memory->image->map;
    const struct sandbox_paging *paging = &memory->paging;
    const int error = paging_register(paging, map->rw_address, sandbox_image_rw_limit(memory->image), mode);
    return error < 0 ? error : paging_register(paging, map->stack_low, map->stack_size, mode);
}

int paging_attach(struct sandbox_memory *memory, int uffd, uint64_t base)
{
    const struct sandbox_memory_map *map = &memory->image->map;
    struct uffdio_api api = {.api = UFFD_API, .features = PAGING_FEATURES};
    memory->paging.uffd = uffd;
    memory->paging.base = base;
    if (ioctl(uffd, UFFDIO_API, &api) != 0)
        return -errno;
    const int error = paging_register_writable(memory, UFFDIO_REGISTER_MODE_MISSING);
    if (error < 0)
        return error;
    return paging_register(&memory->paging, map->aux_address, map->aux_size, UFFDIO_REGISTER_MODE_MISSING);
}

int paging_reset(struct sandbox_memory *memory)
{
    struct sandbox_paging *paging = &memory->paging;
    const struct sandbox_memory_map *map = &memory->image->map;
    const uint64_t ends[][2] = {{map->rw_address, memory->rw_accessible}, {map->stack_low, map->stack_size}};
    int error = 0;
    for (unsigned n = 0; n < 2 && error == 0 && paging->guarded != NULL; n++) {
        struct memory_place place;
        if (memory_find(memory, ends[n][0], ends[n][1], SANDBOX_GUEST_WRITE, &place))
            error = paging_guard(memory, &place, ends[n][1], false);
    }
    const uint64_t stack = sandbox_image_stack_offset(memory->image), rw = sandbox_image_rw_offset(memory->image);
    const uint64_t heap = rw + paging_data_size(memory);
    if (error == 0 && rw > stack)
        error = memory_give_back(memory->ram_file, memory->ram, stack, rw);
    if (error == 0 && rw + memory->rw_accessible > heap)
        error = memory_give_back(memory->ram_file, memory->ram, heap, rw + memory->rw_accessible);
    if (error == 0 && memory->aux_accessible > 0)
        error = memory_give_back(memory->aux_file, memory->aux, 0, memory->aux_accessible);
    memset(paging->present, 0, paging->words * sizeof *paging->present);
    sandbox_pager_release(paging->pager);
    paging->pager = NULL;
    snapshot_detach(memory);
    paging->next_page = paging->read_ahead = 0;
    paging->faults_served = paging->pages_served = 0;
    return error;
}

/* --- what is there --- */

/* Number behind that of the last page which holds some of `size` bytes from `place`. */
static uint64_t paging_end(const struct sandbox_memory *memory, const struct memory_place *place, uint64_t size)
{
    const uint32_t shift = memory->paging.shift;
    return place->page + ((place->address + size - 1) >> shift) - (place->address >> shift) + 1;
}

/* The address at which page number `page` of the region of `place` begins. */
static uint64_t paging_address(const struct sandbox_memory *memory, const struct memory_place *place, uint64_t page)
{
    return ((place->address >> memory->paging.shift) + page - place->page) << memory->paging.shift;
}

int64_t paging_find_fault(const struct sandbox_memory *memory, const struct memory_place *place, uint64_t size,
                          bool for_writing)
{
    const struct sandbox_paging *paging = &memory->paging;
    if (size == 0)
        return -1;
    const uint64_t end = paging_end(memory, place, size);
    uint64_t page = bits_find(paging->present, place->page, end, false);
    if (for_writing && paging->guarded != NULL)
        page = bits_find(paging->guarded, place->page, page, true);
    return page < end ? (int64_t)paging_address(memory, place, page) : -1;
}

uint64_t paging_count_absent(const struct sandbox_memory *memory, const struct memory_place *place, uint64_t most)
{
    const uint64_t room = paging_end(memory, place, place->room) - place->page;
    uint64_t end = place->page + (most < room ? most : room);
    if (memory->paging.source != NULL)
        end = bits_find(memory->paging.lazy, place->page, end, true);
    return bits_find(memory->paging.present, place->page, end, true) - place->page;
}

/* --- what the host does --- */

/* Puts whole pages there that are not. The kernel puts them into file and guest at once; where there is no worker, and
 * for what it did not do (the worker is dying: ESRCH), they are written in the host's own mapping. */
static void paging_fill(struct sandbox_memory *memory, const struct memory_place *place, uint64_t address,
                        const uint8_t *data, uint64_t size)
{
    struct sandbox_paging *paging = &memory->paging;
    int64_t done = 0;
    if (paging->uffd >= 0 && data != NULL) {
        struct uffdio_copy copy = {.dst = paging->base + address, .src = (uint64_t)(uintptr_t)data, .len = size};
        ioctl(paging->uffd, UFFDIO_COPY, &copy);
        done = copy.copy;
    } else if (paging->uffd >= 0) {
        struct uffdio_zeropage zero = {.range = {.start = paging->base + address, .len = size}};
        ioctl(paging->uffd, UFFDIO_ZEROPAGE, &zero);
        done = zero.zeropage;
    }
    const uint64_t from = done > 0 ? (uint64_t)done : 0;
    uint8_t *target = place->base + (place->offset + (address - place->address));
    if (from < size && data != NULL)
        memcpy(target + from, data + from, size - from);
    else if (from < size && paging->uffd >= 0) /* else it reads as zeroes without */
        memset(target + from, 0, size - from);
    const uint64_t page = place->page + (address >> paging->shift) - (place->address >> paging->shift);
    bits_set(paging->present, page, page + (size >> paging->shift), true);
}

int paging_write(struct sandbox_memory *memory, const struct memory_place *place, const uint8_t *data, uint64_t size)
{
    const struct sandbox_paging *paging = &memory->paging;
    const uint64_t page_size = UINT64_C(1) << paging->shift;
    uint64_t done = 0;
    while (done < size) {
        const uint64_t address = place->address + done, begin = address & ~(page_size - 1);
        const uint64_t page = place->page + (address >> paging->shift) - (place->address >> paging->shift);
        const bool present = bits_has(paging->present, page);
        const uint64_t end = bits_find(paging->present, page, paging_end(memory, place, size), !present);
        uint64_t length = paging_address(memory, place, end) - address;
        if (length > size - done)
            length = size - done;
        if (!present && (address != begin || length < page_size)) {
            paging_fill(memory, place, begin, NULL, page_size); /* zeroes around what comes next */
            continue;
        }
        uint8_t *target = place->base + place->offset + done;
        if (!present)
            paging_fill(memory, place, address, data != NULL ? data + done : NULL, length &= ~(page_size - 1));
        else if (data != NULL)
            memcpy(target, data + done, length);
        else
            memset(target, 0, length);
        done += length;
    }
    return 0;
}

int paging_free(struct sandbox_memory *memory, const struct memory_place *place, uint64_t size)
{
    if (size == 0)
        return 0;
    int error = 0;
    if (memory->paging.guarded != NULL && place->page < memory->paging.aux_page)
        error = paging_guard(memory, place, size, false);
    if (error == 0)
        error = memory_give_back(place->file, place->base, place->offset, place->offset + size);
    if (error == 0)
        bits_set(memory->paging.present, place->page, paging_end(memory, place, size), false);
    if (error == 0)
        snapshot_forget(memory, place->page, paging_end(memory, place, size));
    return error;
}

int paging_guard(struct sandbox_memory *memory, const struct memory_place *place, uint64_t size, bool on)
{
    struct sandbox_paging *paging = &memory->paging;
    if (size == 0 || (!on && paging->guarded == NULL))
        return 0;
    if (paging->guarded == NULL && (paging->guarded = calloc(paging->words, sizeof *paging->guarded)) == NULL)
        return -ENOMEM;
    const uint64_t last = paging_end(memory, place, size);
    int registered = 0, error = 0;
    if (paging->uffd >= 0 && !paging->guards) {
        /* Not from the start: the kernel maps no neighbours of a page in a region that has it. */
        registered = paging_register_writable(memory, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
        paging->guards = registered == 0;
    }
    for (uint64_t page = place->page; error == 0 && page < last;) {
        page = bits_find(paging->guarded, page, last, !on);
        const uint64_t end = bits_find(paging->guarded, page, last, on);
        struct uffdio_writeprotect change = {
            .range = {.start = paging->base + paging_address(memory, place, page), .len = (end - page) << paging->shift},
            .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
        };
        /* ESRCH: the worker is dying, which registering calls ENOMEM */
        if (paging->uffd >= 0 && end > page && ioctl(paging->uffd, UFFDIO_WRITEPROTECT, &change) != 0 && errno != ESRCH)
            error = registered < 0 ? registered : -errno;
        if (error == 0)
            bits_set(paging->guarded, page, end, on);
        page = end;
    }
    return error;
}

void paging_cut_aux(struct sandbox_memory *memory, uint64_t size)
{
    struct sandbox_paging *paging = &memory->paging;
    const uint64_t first = paging->aux_page + (size >> paging->shift);
    const uint64_t end = paging->aux_page + (memory->aux_accessible >> paging->shift);
    bits_set(paging->present, first, end > first ? end : first, false);
    snapshot_forget(memory, first, end > first ? end : first);
}
