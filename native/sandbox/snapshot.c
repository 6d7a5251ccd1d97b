/* SPDX-License-Identifier: MIT
 *
 * snapshot: see snapshot.h. What comes from a file is judged in snapshot_check.c.
 */
#define _GNU_SOURCE
#include "sandbox/snapshot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sandbox/bits.h"
#include "sandbox/pager.h"
#include "sandbox/paging.h"

/* Lazy above this (bytes of contents). To put a page there takes 0.4 to 0.7 us; a fault takes 5 us, and 60 where the
 * worker has to be woken on another processor. So up to here all of it takes no longer than a few faults. */
#define SNAPSHOT_LAZY (UINT64_C(256) << 10)
/* A fault gets the lazy pages of the whole stretch of this size (bytes) that it is in, which takes about as long as the
 * fault itself: a guest that touches everything pays hardly more than for a copy at the start. */
#define SNAPSHOT_AROUND (UINT64_C(64) << 10)
/* Most bytes that are put there at once where faults come in sequence. */
#define SNAPSHOT_READ_AHEAD (UINT64_C(1) << 20)

/* --- life --- */

void sandbox_snapshot_release(sandbox_snapshot *snapshot)
{
    /* acquire and release: what other users did comes before the end */
    if (snapshot == NULL || __atomic_sub_fetch(&snapshot->users, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    if (snapshot->data != NULL)
        munmap(snapshot->data, snapshot->data_size);
    free(snapshot->runs);
    free(snapshot->offsets);
    free(snapshot);
}

static sandbox_snapshot *snapshot_new(const struct sandbox_image *image)
{
    struct sandbox_snapshot *snapshot = calloc(1, sizeof *snapshot);
    if (snapshot == NULL)
        return NULL;
    snapshot->users = 1;
    snapshot->map = image->map;
    snapshot->paged = image->dynamic_paging;
    snapshot->shift = snapshot_shift(image);
    return snapshot;
}

static bool run_has_data(const struct sandbox_run *run)
{
    return (run->kind & SANDBOX_RUN_CONTENTS) == SANDBOX_RUN_DATA;
}

/* All but the contents is there: says where those go, and what follows from the rest. */
static int snapshot_complete(struct sandbox_snapshot *snapshot, const struct sandbox_image *image)
{
    const struct sandbox_memory_map *map = &snapshot->map;
    const uint64_t page = map->page_size, heap_size = snapshot->guest.heap_size;
    const uint64_t top = (uint64_t)map->heap_base + heap_size - map->rw_address;
    snapshot->rw_accessible = map->rw_size;
    if (heap_size > 0 && ((top + page - 1) & ~(page - 1)) > snapshot->rw_accessible)
        snapshot->rw_accessible = (top + page - 1) & ~(page - 1);
    snapshot->rw_needed = heap_size > 0 ? snapshot->rw_accessible : image->rw_data_size;
    snapshot->offsets = malloc((snapshot->run_count + 1) * sizeof *snapshot->offsets);
    if (snapshot->offsets == NULL)
        return -ENOMEM;
    for (uint32_t n = 0; n < snapshot->run_count; n++) {
        const struct sandbox_run *run = &snapshot->runs[n];
        const uint64_t end = ((uint64_t)run->first + run->count) << snapshot->shift;
        snapshot->offsets[n] = snapshot->data_size;
        if (run_has_data(run))
            snapshot->data_size += (uint64_t)run->count << snapshot->shift;
        if (end <= map->stack_low && end - map->rw_address > snapshot->rw_needed)
            snapshot->rw_needed = end - map->rw_address;
    }
    if (snapshot->data_size == 0)
        return 0;
    void *data = mmap(NULL, snapshot->data_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED)
        return -errno;
    snapshot->data = data;
    return 0;
}

/* Nobody writes to the contents from here on. */
static int snapshot_seal(struct sandbox_snapshot *snapshot)
{
    return snapshot->data == NULL || mprotect(snapshot->data, snapshot->data_size, PROT_READ) == 0 ? 0 : -errno;
}

/* --- taking --- */

static bool snapshot_is_zero(const uint8_t *page, uint64_t size)
{
    uint64_t first;
    memcpy(&first, page, sizeof first);
    return first == 0 && memcmp(page, page + sizeof first, size - sizeof first) == 0;
}

struct snapshot_scan {
    struct sandbox_memory *memory;
    struct sandbox_snapshot *snapshot;
    uint32_t capacity; /* of snapshot->runs */
};

static int scan_append(struct snapshot_scan *scan, uint32_t page, uint32_t kind)
{
    struct sandbox_snapshot *snapshot = scan->snapshot;
    struct sandbox_run *last = snapshot->run_count > 0 ? &snapshot->runs[snapshot->run_count - 1] : NULL;
    if (last != NULL && last->kind == kind && last->first + last->count == page) {
        last->count++;
        return 0;
    }
    if (snapshot->run_count == scan->capacity) {
        const uint32_t capacity = 2 * scan->capacity + 16;
        struct sandbox_run *runs = realloc(snapshot->runs, capacity * sizeof *runs);
        if (runs == NULL)
            return -ENOMEM;
        snapshot->runs = runs;
        scan->capacity = capacity;
    }
    snapshot->runs[snapshot->run_count++] = (struct sandbox_run){.first = page, .count = 1, .kind = kind};
    return 0;
}

/* What the page at `offset` of read-write data begins with is the program's data, as far as that goes. */
static bool snapshot_is_initial(const struct sandbox_image *image, const uint8_t *page, uint64_t offset, uint64_t size)
{
    const uint64_t data = image->rw_data_size - offset < size ? image->rw_data_size - offset : size;
    if (memcmp(page, image->rw_data + offset, data) != 0)
        return false;
    for (uint64_t at = data; at < size; at++)
        if (page[at] != 0)
            return false;
    return true;
}

/* One region, of `size` bytes that begin at `place`. A worker that is not as stopped as it says changes no more than
 * what is found: how many pages there are is settled before they are copied. */
static int scan_region(struct snapshot_scan *scan, const struct memory_place *place, uint64_t size, bool is_rw)
{
    const struct sandbox_memory *memory = scan->memory;
    const struct sandbox_image *image = memory->image;
    const uint32_t shift = scan->snapshot->shift;
    const uint64_t unit = UINT64_C(1) << shift, initial = is_rw ? image->rw_data_size : 0;
    uint64_t hole_until = 0;
    for (uint64_t offset = 0; offset < size; offset += unit) {
        const uint64_t page_number = place->page + (offset >> shift);
        if (place->paged) {
            const uint64_t next = bits_find(memory->paging.present, page_number, place->page + (size >> shift), true);
            offset += (next - page_number) << shift;
            if (offset >= size)
                break;
        } else if (place->file >= 0 && offset >= initial && offset >= hole_until) {
            /* a hole is not to be read, which would fill it */
            const off_t data = lseek(place->file, (off_t)(place->offset + offset), SEEK_DATA);
            if (data < 0)
                return errno == ENXIO ? 0 : -errno;
            offset = ((uint64_t)data - place->offset) & ~(unit - 1);
            if (offset >= size)
                break;
            const off_t hole = lseek(place->file, data, SEEK_HOLE);
            if (hole < 0)
                return -errno;
            hole_until = (uint64_t)hole - place->offset;
        }
        const uint8_t *page = place->base + place->offset + offset;
        const bool has_initial = offset < initial, paged = place->paged;
        uint32_t kind = snapshot_is_zero(page, unit) ? SANDBOX_RUN_ZERO : SANDBOX_RUN_DATA;
        if (has_initial && snapshot_is_initial(image, page, offset, unit))
            kind = SANDBOX_RUN_INITIAL;
        if (!paged && kind == (has_initial ? SANDBOX_RUN_INITIAL : SANDBOX_RUN_ZERO))
            continue; /* as the program begins with it */
        const uint64_t number = place->page + (offset >> shift);
        if (paged && memory->paging.guarded != NULL && bits_has(memory->paging.guarded, number))
            kind |= SANDBOX_RUN_GUARDED;
        const int error = scan_append(scan, (uint32_t)((place->address + offset) >> shift), kind);
        if (error < 0)
            return error;
    }
    return 0;
}

/* The regions by their addresses, as far as they are there. */
static unsigned snapshot_regions(struct sandbox_memory *memory, struct memory_place places[3], uint64_t sizes[3])
{
    const struct sandbox_memory_map *map = &memory->image->map;
    const uint64_t all[3][2] = {{map->rw_address, memory->rw_accessible},
                                {map->stack_low, map->stack_size},
                                {map->aux_address, memory->aux_accessible}};
    unsigned count = 0;
    for (unsigned n = 0; n < 3; n++) {
        if (memory_find(memory, all[n][0], all[n][1], SANDBOX_HOST_WRITE, &places[count]))
            sizes[count++] = all[n][1];
    }
    return count;
}

static int snapshot_scan_all(struct snapshot_scan *scan)
{
    struct memory_place places[3];
    uint64_t sizes[3];
    const unsigned count = snapshot_regions(scan->memory, places, sizes);
    int error = 0;
    for (unsigned n = 0; n < count && error == 0; n++) {
        if (places[n].paged)
            snapshot_settle(scan->memory, &places[n], sizes[n]);
        error = scan_region(scan, &places[n], sizes[n], places[n].address == scan->memory->image->map.rw_address);
    }
    return error;
}

int sandbox_snapshot_take(sandbox_memory *memory, const struct sandbox_guest *guest, sandbox_snapshot **result)
{
    struct sandbox_snapshot *snapshot = snapshot_new(memory->image);
    if (snapshot == NULL)
        return -ENOMEM;
    snapshot->guest = *guest;
    if (!guest->has_next_pc)
        snapshot->guest.entering = SANDBOX_GOES_ON;
    else if (guest->entering == SANDBOX_GOES_ON)
        snapshot->guest.entering = SANDBOX_RETURNS;
    if (snapshot->guest.entering != SANDBOX_RETURNS)
        snapshot->guest.progress = PVM_PROGRESS_NONE;
    snapshot->aux_size = (uint32_t)memory->aux_accessible;
    struct snapshot_scan scan = {.memory = memory, .snapshot = snapshot};
    int error = snapshot_scan_all(&scan);
    if (error == 0)
        error = snapshot_complete(snapshot, memory->image);
    for (uint32_t n = 0; n < snapshot->run_count && error == 0; n++) {
        const struct sandbox_run *run = &snapshot->runs[n];
        const uint64_t size = (uint64_t)run->count << snapshot->shift;
        struct memory_place place;
        if (!run_has_data(run))
            continue;
        if (memory_find(memory, (uint64_t)run->first << snapshot->shift, size, SANDBOX_HOST_WRITE, &place))
            memcpy(snapshot->data + snapshot->offsets[n], place.base + place.offset, size);
        else
            error = -EFAULT;
    }
    if (error == 0)
        error = snapshot_seal(snapshot);
    if (error < 0) {
        sandbox_snapshot_release(snapshot);
        return error;
    }
    *result = snapshot;
    return 0;
}

/* --- what it holds --- */

const struct sandbox_guest *sandbox_snapshot_guest(const sandbox_snapshot *snapshot)
{
    return &snapshot->guest;
}

uint32_t sandbox_snapshot_aux_size(const sandbox_snapshot *snapshot)
{
    return snapshot->aux_size;
}

const struct sandbox_run *sandbox_snapshot_runs(const sandbox_snapshot *snapshot, uint32_t *count)
{
    *count = snapshot->run_count;
    return snapshot->runs;
}

const uint8_t *sandbox_snapshot_data(const sandbox_snapshot *snapshot, uint64_t *size)
{
    *size = snapshot->data_size;
    return snapshot->data;
}

uint64_t sandbox_snapshot_memory_needed(const sandbox_snapshot *snapshot)
{
    return snapshot->map.stack_size + snapshot->rw_needed;
}

int sandbox_snapshot_make(const sandbox_image *image, const struct sandbox_guest *guest, uint32_t aux_size,
                          const struct sandbox_run *runs, uint32_t run_count, const uint8_t *data, uint64_t data_size,
                          sandbox_snapshot **result)
{
    struct sandbox_snapshot *snapshot = snapshot_new(image);
    if (snapshot == NULL)
        return -ENOMEM;
    snapshot->guest = *guest;
    snapshot->aux_size = aux_size;
    snapshot->run_count = run_count;
    snapshot->runs = malloc((run_count + 1) * sizeof *runs);
    int error = snapshot->runs != NULL ? 0 : -ENOMEM;
    if (error == 0) {
        if (run_count > 0)
            memcpy(snapshot->runs, runs, run_count * sizeof *runs);
        error = snapshot_complete(snapshot, image);
    }
    if (error == 0 && snapshot->data_size != data_size)
        error = -EINVAL;
    if (error == 0 && data_size > 0)
        memcpy(snapshot->data, data, data_size);
    if (error == 0)
        error = snapshot_seal(snapshot);
    if (error < 0) {
        sandbox_snapshot_release(snapshot);
        return error;
    }
    *result = snapshot;
    return 0;
}

/* --- restoring --- */

/* Puts what a run holds to where it belongs. In a file that nobody touched yet pwrite(2) takes 130 us for 1 MiB, and
 * copying 350, for the faults of the mapping; where the mapping has the pages, copying takes 30 us and pwrite 60. */
static int restore_contents(const struct memory_place *place, const uint8_t *data, uint64_t size, bool pristine)
{
    uint8_t *target = place->base + place->offset;
    uint64_t done = 0;
    if (!pristine || place->file < 0) {
        memcpy(target, data, size);
        return 0;
    }
    while (done < size) {
        const ssize_t count = pwrite(place->file, data + done, size - done, (off_t)(place->offset + done));
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return count < 0 ? -errno : -EIO;
        done += (uint64_t)count;
    }
    return 0;
}

/* Makes [from, to) of a region as the program begins with it. */
static int restore_initial(const struct sandbox_memory *memory, const struct memory_place *place, uint64_t from,
                           uint64_t to, bool is_rw)
{
    const struct sandbox_image *image = memory->image;
    const uint64_t data = is_rw ? image->rw_data_size : 0;
    const int error = memory_clear(place->file, place->base, place->offset + from, place->offset + to);
    if (error == 0 && from < data)
        memcpy(place->base + place->offset + from, image->rw_data + from, (to < data ? to : data) - from);
    return error;
}

/* The runs of a region without dynamic paging, from *run on, and what lies between them. */
static int restore_region(const struct sandbox_snapshot *snapshot, const struct sandbox_memory *memory,
                          const struct memory_place *place, uint64_t size, uint32_t *next, bool pristine)
{
    const bool is_rw = place->address == memory->image->map.rw_address;
    uint64_t done = 0;
    int error = 0;
    for (; *next < snapshot->run_count && error == 0; ++*next) {
        const struct sandbox_run *run = &snapshot->runs[*next];
        const uint64_t begin = ((uint64_t)run->first << snapshot->shift) - place->address;
        const uint64_t length = (uint64_t)run->count << snapshot->shift;
        if (begin >= size) /* of the next region; those of an earlier one were gone through */
            break;
        struct memory_place at = *place;
        at.offset += begin;
        if (!pristine && begin > done)
            error = restore_initial(memory, place, done, begin, is_rw);
        if (error == 0 && run_has_data(run))
            error = restore_contents(&at, snapshot->data + snapshot->offsets[*next], length, pristine);
        else if (error == 0)
            error = memory_clear(at.file, at.base, at.offset, at.offset + length);
        done = begin + length;
    }
    return error == 0 && !pristine && done < size ? restore_initial(memory, place, done, size, is_rw) : error;
}

/* Has a page with initial data gone, unless the snapshot has it. */
static int restore_absence(const struct sandbox_snapshot *snapshot, struct sandbox_memory *memory)
{
    const uint64_t unit = UINT64_C(1) << snapshot->shift;
    uint64_t address = memory->image->map.rw_address;
    const uint64_t end = address + ((memory->image->rw_data_size + unit - 1) & ~(unit - 1));
    int error = 0;
    for (uint32_t n = 0; n <= snapshot->run_count && address < end && error == 0; n++) {
        uint64_t begin = end, behind = end;
        if (n < snapshot->run_count && (uint64_t)snapshot->runs[n].first << snapshot->shift < end) {
            begin = (uint64_t)snapshot->runs[n].first << snapshot->shift;
            behind = begin + ((uint64_t)snapshot->runs[n].count << snapshot->shift);
        }
        if (begin > address)
            error = sandbox_memory_free(memory, address, begin - address);
        address = behind;
    }
    return error;
}

/* With dynamic paging; the memory is as the program begins with it. */
static int restore_paged(sandbox_snapshot *snapshot, struct sandbox_memory *memory, bool lazy)
{
    struct sandbox_paging *paging = &memory->paging;
    int error = restore_absence(snapshot, memory);
    if (error == 0 && lazy && snapshot->data_size > SNAPSHOT_LAZY) {
        if (paging->lazy == NULL && (paging->lazy = calloc(paging->words, sizeof *paging->lazy)) == NULL)
            return -ENOMEM;
        __atomic_add_fetch(&snapshot->users, 1, __ATOMIC_RELAXED);
        paging->source = snapshot;
    }
    for (uint32_t n = 0; n < snapshot->run_count && error == 0; n++) {
        const struct sandbox_run *run = &snapshot->runs[n];
        const uint64_t address = (uint64_t)run->first << snapshot->shift;
        const uint64_t size = (uint64_t)run->count << snapshot->shift;
        const uint32_t contents = run->kind & SANDBOX_RUN_CONTENTS;
        const bool guarded = (run->kind & SANDBOX_RUN_GUARDED) != 0;
        struct memory_place place;
        if (!memory_find(memory, address, size, SANDBOX_HOST_WRITE, &place))
            error = -EINVAL;
        else if (contents == SANDBOX_RUN_DATA && paging->source != NULL && !guarded &&
                 paging_count_absent(memory, &place, run->count) == run->count)
            bits_set(paging->lazy, place.page, place.page + run->count, true);
        else if (contents == SANDBOX_RUN_DATA)
            error = paging_write(memory, &place, snapshot->data + snapshot->offsets[n], size);
        else if (contents == SANDBOX_RUN_ZERO)
            error = paging_write(memory, &place, NULL, size);
        if (error == 0 && guarded)
            error = paging_guard(memory, &place, size, true);
    }
    return error;
}

int snapshot_restore(sandbox_snapshot *snapshot, struct sandbox_memory *memory, struct sandbox_guest *guest,
                     bool pristine, bool lazy)
{
    if (memcmp(&snapshot->map, &memory->image->map, sizeof snapshot->map) != 0 ||
        snapshot->paged != memory->image->dynamic_paging)
        return -EINVAL;
    int error = 0;
    if (snapshot->paged && !pristine)
        error = memory_reset(memory);
    memory->rw_limit = UINT64_MAX;
    if (error == 0 && memory->rw_accessible != snapshot->rw_accessible)
        error = memory_grow(memory, snapshot->rw_accessible);
    if (error == 0 && memory->aux_accessible != snapshot->aux_size)
        error = sandbox_memory_set_aux_size(memory, snapshot->aux_size);
    if (error == 0 && snapshot->paged)
        error = restore_paged(snapshot, memory, lazy);
    if (error == 0 && !snapshot->paged) {
        struct memory_place places[3];
        uint64_t sizes[3];
        uint32_t next = 0;
        const unsigned count = snapshot_regions(memory, places, sizes);
        for (unsigned n = 0; n < count && error == 0; n++)
            error = restore_region(snapshot, memory, &places[n], sizes[n], &next, pristine);
    }
    if (error < 0)
        return error;
    memory->rw_needed = snapshot->rw_needed;
    *guest = snapshot->guest;
    return 0;
}

/* --- lazy memories --- */

/* The contents of the page at `address`; there are *pages of them in one piece. */
static const uint8_t *lazy_contents(const struct sandbox_snapshot *snapshot, uint64_t address, uint64_t *pages)
{
    const uint32_t page = (uint32_t)(address >> snapshot->shift);
    uint32_t low = 0, high = snapshot->run_count; /* the run is the last that does not begin behind the page */
    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        if (snapshot->runs[middle].first <= page)
            low = middle;
        else
            high = middle;
    }
    const struct sandbox_run *run = &snapshot->runs[low];
    *pages = run->count - (page - run->first);
    return snapshot->data + snapshot->offsets[low] + ((uint64_t)(page - run->first) << snapshot->shift);
}

/* Puts lazy pages there: `count` at most from that of `place`, which is one, and as many as lie in one piece. */
static uint64_t lazy_put(struct sandbox_memory *memory, const struct memory_place *place, uint64_t count)
{
    struct sandbox_paging *paging = &memory->paging;
    uint64_t pages;
    const uint8_t *data = lazy_contents(paging->source, place->address, &pages);
    pages = bits_find(paging->lazy, place->page, place->page + (pages < count ? pages : count), false) - place->page;
    bits_set(paging->lazy, place->page, place->page + pages, false);
    paging_write(memory, place, data, pages << paging->shift);
    return pages;
}

static struct memory_place lazy_place(const struct sandbox_memory *memory, const struct memory_place *place,
                                      uint64_t page)
{
    const uint32_t shift = memory->paging.shift;
    struct memory_place at = *place;
    at.page = page;
    at.address = ((place->address >> shift) + page - place->page) << shift;
    at.offset = place->offset + at.address - place->address; /* wraps, if that is before it */
    at.room = place->room + place->address - at.address;
    return at;
}

uint64_t snapshot_settle(struct sandbox_memory *memory, const struct memory_place *place, uint64_t size)
{
    struct sandbox_paging *paging = &memory->paging;
    uint64_t pages = 0;
    if (paging->source == NULL || size == 0)
        return 0;
    const uint64_t last = (place->address + size - 1) >> paging->shift;
    const uint64_t end = place->page + last - (place->address >> paging->shift) + 1;
    uint64_t page = place->page;
    while ((page = bits_find(paging->lazy, page, end, true)) < end) {
        const struct memory_place at = lazy_place(memory, place, page);
        const uint64_t count = lazy_put(memory, &at, end - page);
        page += count;
        pages += count;
    }
    return pages;
}

bool snapshot_serve(struct sandbox_memory *memory, uint64_t address)
{
    struct sandbox_paging *paging = &memory->paging;
    const uint64_t page = address >> paging->shift << paging->shift, around = address & ~(SNAPSHOT_AROUND - 1);
    struct memory_place place, begin;
    if (paging->source == NULL ||
        !memory_find(memory, page, UINT64_C(1) << paging->shift, SANDBOX_HOST_WRITE, &place) ||
        !bits_has(paging->lazy, place.page))
        return false;
    uint64_t end = page + (pager_plan(paging, place.page, SNAPSHOT_READ_AHEAD) << paging->shift);
    if (end < around + SNAPSHOT_AROUND)
        end = around + SNAPSHOT_AROUND;
    if (end > page + place.room)
        end = page + place.room;
    if (!memory_find(memory, around, end - around, SANDBOX_HOST_WRITE, &begin)) /* the region begins in between */
        begin = place;
    paging->next_page = place.page + ((end - page) >> paging->shift);
    paging->faults_served++;
    paging->pages_served += snapshot_settle(memory, &begin, end - begin.address);
    return true;
}

void snapshot_forget(struct sandbox_memory *memory, uint64_t first, uint64_t end)
{
    if (memory->paging.source != NULL)
        bits_set(memory->paging.lazy, first, end, false);
}

void snapshot_detach(struct sandbox_memory *memory)
{
    struct sandbox_paging *paging = &memory->paging;
    if (paging->source == NULL)
        return;
    sandbox_snapshot_release(paging->source);
    paging->source = NULL;
    memset(paging->lazy, 0, paging->words * sizeof *paging->lazy);
}
