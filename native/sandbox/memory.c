/* SPDX-License-Identifier: MIT
 *
 * memory: see memory.h.
 */
#define _GNU_SOURCE
#include "sandbox/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sandbox/memfd.h"
#include "sandbox/paging.h"
#include "sandbox/snapshot.h"

/* --- life --- */

/* Maps `size` bytes of a new file that is `length` bytes long, or of private memory. */
static int memory_map(const char *name, bool in_file, uint64_t length, uint64_t size, int *file, uint8_t **mapping)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    if (in_file) {
        /* Not sealed: its end moves, and F_SEAL_FUTURE_WRITE would forbid punching holes, which is how pages go back.
         * A worker maps it once, before its last filter, and closes it; what it maps read-only stays so, because no
         * system call is left that could change it. */
        *file = memfd_make(name, 0);
        if (*file < 0)
            return *file;
        if (ftruncate(*file, (off_t)length) != 0)
            return -errno;
        flags = MAP_SHARED;
    }
    void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, *file, 0);
    if (mapped == MAP_FAILED)
        return -errno;
    *mapping = mapped;
    return 0;
}

static void memory_load_data(struct sandbox_memory *memory)
{
    const struct sandbox_image *image = memory->image;
    if (memory->paging.present != NULL)
        paging_make_data_present(memory);
    if (image->rw_data_size > 0)
        memcpy(memory->ram + sandbox_image_rw_offset(image), image->rw_data, image->rw_data_size);
}

int memory_create(struct sandbox_memory *memory, const struct sandbox_image *image, bool in_files)
{
    const struct sandbox_memory_map *map = &image->map;
    const uint64_t rw_offset = sandbox_image_rw_offset(image);
    *memory = (struct sandbox_memory){
        .image = image,
        .ram_file = -1,
        .aux_file = -1,
        .ram_size = rw_offset + sandbox_image_rw_limit(image),
        .rw_accessible = map->rw_size,
        .aux_size = map->aux_size,
        .rw_limit = UINT64_MAX,
        .rw_needed = image->rw_data_size,
        .aux_accessible = map->aux_size,
        .paging = {.uffd = -1},
    };
    int error =
        memory_map("pvm-ram", in_files, rw_offset + map->rw_size, memory->ram_size, &memory->ram_file, &memory->ram);
    if (error == 0 && map->aux_size > 0)
        error = memory_map("pvm-aux", in_files, map->aux_size, map->aux_size, &memory->aux_file, &memory->aux);
    if (error == 0 && image->dynamic_paging)
        error = paging_create(memory);
    if (error == 0)
        memory_load_data(memory);
    return error;
}

void memory_destroy(struct sandbox_memory *memory)
{
    paging_destroy(memory);
    if (memory->ram != NULL)
        munmap(memory->ram, memory->ram_size);
    if (memory->aux != NULL)
        munmap(memory->aux, memory->aux_size);
    if (memory->ram_file >= 0)
        close(memory->ram_file);
    if (memory->aux_file >= 0)
        close(memory->aux_file);
}

/* --- regions --- */

/* Whether [address, address + size) lies in a region of `length` bytes, at least one, at `start`; *offset is where. */
static bool memory_within(uint64_t address, uint64_t size, uint64_t start, uint64_t length, uint64_t *offset)
{
    if (length == 0 || address < start || address - start > length || size > length - (address - start))
        return false;
    *offset = address - start;
    return true;
}

bool memory_find(const struct sandbox_memory *memory, uint64_t address, uint64_t size, enum sandbox_access access,
                 struct memory_place *place)
{
    const struct sandbox_image *image = memory->image;
    const struct sandbox_memory_map *map = &image->map;
    const uint32_t shift = memory->paging.shift;
    uint64_t offset;
    *place = (struct memory_place){.file = memory->ram_file,
                                   .base = memory->ram,
                                   .address = address,
                                   .paged = memory->paging.present != NULL};
    if (memory_within(address, size, map->rw_address, memory->rw_accessible, &offset)) {
        place->offset = sandbox_image_rw_offset(image) + offset;
        place->room = memory->rw_accessible - offset;
        place->page = (place->offset - LAYOUT_VMCTX_SIZE) >> shift;
        return true;
    }
    if (memory_within(address, size, map->stack_low, map->stack_size, &offset)) {
        place->offset = sandbox_image_stack_offset(image) + offset;
        place->room = map->stack_size - offset;
        place->page = (place->offset - LAYOUT_VMCTX_SIZE) >> shift;
        return true;
    }
    if (access != SANDBOX_GUEST_WRITE &&
        memory_within(address, size, map->aux_address, memory->aux_accessible, &offset)) {
        place->file = memory->aux_file;
        place->base = memory->aux;
        place->offset = offset;
        place->room = memory->aux_accessible - offset;
        place->page = memory->paging.aux_page + (offset >> shift);
        return true;
    }
    if (access == SANDBOX_READ && memory_within(address, size, map->ro_address, map->ro_size, &offset)) {
        place->file = -1;
        place->base = (uint8_t *)(uintptr_t)image->ro;
        place->offset = offset;
        place->room = map->ro_size - offset;
        place->paged = false;
        return true;
    }
    return false;
}

uint8_t *sandbox_memory_at(sandbox_memory *memory, uint64_t address, uint64_t size, uint32_t access)
{
    struct memory_place place;
    if (!memory_find(memory, address, size, access, &place))
        return NULL;
    if (place.paged) {
        snapshot_settle(memory, &place, size);
        if (paging_find_fault(memory, &place, size, access == SANDBOX_GUEST_WRITE) >= 0)
            return NULL;
    }
    return place.base + place.offset;
}

int sandbox_memory_write(sandbox_memory *memory, uint64_t address, const uint8_t *data, uint64_t size)
{
    struct memory_place place;
    if (!memory_find(memory, address, size, SANDBOX_HOST_WRITE, &place))
        return -EFAULT;
    if (place.paged) {
        snapshot_settle(memory, &place, size);
        return paging_write(memory, &place, data, size);
    }
    memcpy(place.base + place.offset, data, size);
    return 0;
}

int64_t sandbox_memory_fault(sandbox_memory *memory, uint64_t address, uint64_t size, uint32_t write)
{
    struct memory_place place;
    if (memory_find(memory, address, size, SANDBOX_READ, &place) && place.paged)
        snapshot_settle(memory, &place, size);
    return memory_fault(memory, address, size, write != 0);
}

int64_t memory_fault(const struct sandbox_memory *memory, uint64_t address, uint64_t size, bool write)
{
    struct memory_place place;
    if (!memory_find(memory, address, size, write ? SANDBOX_GUEST_WRITE : SANDBOX_READ, &place) || !place.paged)
        return -1;
    return paging_find_fault(memory, &place, size, write);
}

int sandbox_memory_protect(sandbox_memory *memory, uint64_t address, uint64_t size, uint32_t on)
{
    struct memory_place place;
    if (memory->paging.present == NULL)
        return -ENOTSUP;
    if (((address | size) & (memory->image->map.page_size - 1)) != 0)
        return -EINVAL;
    if (!memory_find(memory, address, size, SANDBOX_GUEST_WRITE, &place))
        return -EFAULT;
    snapshot_settle(memory, &place, size);
    if (paging_find_fault(memory, &place, size, false) >= 0)
        return -EFAULT;
    return paging_guard(memory, &place, size, on != 0);
}

/* --- zeroes --- */

/* Up to here zeroes are written without a look at what is there. */
#define MEMORY_ZERO_AT_ONCE (UINT64_C(64) << 10)
/* Up to here clearing pages in place is cheaper than giving them back and faulting them in again. */
#define MEMORY_CLEAR_IN_PLACE (UINT64_C(256) << 10)

int memory_give_back(int file, uint8_t *base, uint64_t from, uint64_t to)
{
    int failed;
    if (file >= 0)
        failed = fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)(to - from));
    else
        failed = madvise(base + from, to - from, MADV_DONTNEED);
    return failed != 0 ? -errno : 0;
}

/* Zeroes what is there of [from, to), or gives it back. */
static int memory_clear_stretch(int file, uint8_t *base, uint64_t from, uint64_t to)
{
    const uint64_t first = sandbox_page_up(from);
    const uint64_t last = to & ~(LAYOUT_PAGE - 1);
    if (to - from <= MEMORY_CLEAR_IN_PLACE || last <= first) {
        memset(base + from, 0, to - from);
        return 0;
    }
    memset(base + from, 0, first - from);
    memset(base + last, 0, to - last);
    return memory_give_back(file, base, first, last);
}

int memory_clear(int file, uint8_t *base, uint64_t from, uint64_t to)
{
    if (file < 0)
        return memory_clear_stretch(file, base, from, to);
    while (from < to) {
        const off_t data = lseek(file, (off_t)from, SEEK_DATA);
        if (data < 0)
            return errno == ENXIO ? 0 : -errno; /* ENXIO: only a hole is left */
        if ((uint64_t)data >= to)
            return 0;
        const off_t hole = lseek(file, data, SEEK_HOLE);
        if (hole < 0)
            return -errno;
        from = (uint64_t)hole;
        const int error = memory_clear_stretch(file, base, (uint64_t)data, from < to ? from : to);
        if (error < 0)
            return error;
    }
    return 0;
}

int sandbox_memory_zero(sandbox_memory *memory, uint64_t address, uint64_t size)
{
    struct memory_place place;
    if (!memory_find(memory, address, size, SANDBOX_HOST_WRITE, &place))
        return -EFAULT;
    if (place.paged) {
        snapshot_settle(memory, &place, size);
        return paging_write(memory, &place, NULL, size);
    }
    if (size > MEMORY_ZERO_AT_ONCE)
        return memory_clear(place.file, place.base, place.offset, place.offset + size);
    memset(place.base + place.offset, 0, size);
    return 0;
}

int sandbox_memory_free(sandbox_memory *memory, uint64_t address, uint64_t size)
{
    struct memory_place place;
    if (!memory_find(memory, address, size, SANDBOX_HOST_WRITE, &place))
        return -EFAULT;
    if (((address | size) & (memory->image->map.page_size - 1)) != 0)
        return -EINVAL;
    if (place.paged)
        return paging_free(memory, &place, size);
    return memory_give_back(place.file, place.base, place.offset, place.offset + size);
}

/* --- ends that move --- */

int memory_grow(struct sandbox_memory *memory, uint64_t accessible)
{
    if (memory->ram_file >= 0 &&
        ftruncate(memory->ram_file, (off_t)(sandbox_image_rw_offset(memory->image) + accessible)) != 0)
        return -errno;
    memory->rw_accessible = accessible;
    return 0;
}

int sandbox_memory_set_limit(sandbox_memory *memory, uint64_t size)
{
    const struct sandbox_memory_map *map = &memory->image->map;
    const uint64_t page = map->page_size;
    const uint64_t rw = size > map->stack_size ? (size - map->stack_size) & ~(page - 1) : 0;
    if (size < map->stack_size || rw < memory->rw_needed)
        return -ENOMEM;
    memory->rw_limit = rw;
    return memory->rw_accessible > rw ? memory_grow(memory, rw) : 0;
}

bool memory_is_beyond_limit(const struct sandbox_memory *memory, uint64_t address)
{
    const struct sandbox_memory_map *map = &memory->image->map;
    return address >= map->rw_address + memory->rw_accessible && address < (uint64_t)map->rw_address + map->rw_size;
}

uint32_t sandbox_memory_aux_size(const sandbox_memory *memory)
{
    return (uint32_t)memory->aux_accessible;
}

int sandbox_memory_set_aux_size(sandbox_memory *memory, uint32_t size)
{
    const struct sandbox_memory_map *map = &memory->image->map;
    if (size > map->aux_size || (size & (map->page_size - 1)) != 0)
        return -EINVAL;
    if (memory->aux_file >= 0) {
        if (ftruncate(memory->aux_file, (off_t)size) != 0)
            return -errno;
    } else if (size < memory->aux_accessible) {
        const int error = memory_give_back(-1, memory->aux, size, memory->aux_accessible);
        if (error < 0)
            return error;
    }
    if (memory->paging.present != NULL)
        paging_cut_aux(memory, size);
    memory->aux_accessible = size;
    return 0;
}

int memory_reset(struct sandbox_memory *memory)
{
    const struct sandbox_memory_map *map = &memory->image->map;
    const uint64_t end = sandbox_image_rw_offset(memory->image) + map->rw_size;
    int error = memory->paging.present != NULL ? paging_reset(memory) : 0;
    memory->rw_limit = UINT64_MAX;
    memory->rw_needed = memory->image->rw_data_size;
    /* Shrink first: pages of a grown heap go back at once, and touching them traps again. */
    if (error == 0 && memory->rw_accessible != map->rw_size)
        error = memory_grow(memory, map->rw_size);
    const bool cleared = memory->paging.present != NULL; /* what was there was given back, holes and all */
    if (error == 0 && !cleared)
        error = memory_clear(memory->ram_file, memory->ram, LAYOUT_VMCTX_SIZE, end);
    if (error == 0 && !cleared && map->aux_size > 0)
        error = memory_clear(memory->aux_file, memory->aux, 0, memory->aux_accessible);
    if (error == 0 && memory->aux_accessible != map->aux_size)
        error = sandbox_memory_set_aux_size(memory, map->aux_size);
    if (error == 0)
        memory_load_data(memory);
    return error;
}

static uint64_t memory_file_resident(int file)
{
    struct stat status;
    return file >= 0 && fstat(file, &status) == 0 ? (uint64_t)status.st_blocks * 512u : 0;
}

uint64_t sandbox_memory_resident(const sandbox_memory *memory)
{
    return memory_file_resident(memory->ram_file) + memory_file_resident(memory->aux_file);
}
