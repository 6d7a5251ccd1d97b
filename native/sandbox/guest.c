/* SPDX-License-Identifier: MIT
 *
 * guest: see guest.h.
 */
#include "sandbox/guest.h"

#include <string.h>

uint64_t guest_word_mask(const struct sandbox_image *image)
{
    return image->program.isa == PVM_ISA_LATEST32 ? UINT32_MAX : UINT64_MAX;
}

struct pvm_decoded guest_instruction(const struct sandbox_image *image, uint32_t pc)
{
    if (pvm_has_instruction(&image->program, pc))
        return pvm_decode(&image->program, pc);
    return (struct pvm_decoded){.pc = pc, .next = pc + 1, .op = PVM_OP_invalid};
}

/* --- memory --- */

void guest_load_data(const struct sandbox_image *image, uint8_t *ram)
{
    if (image->rw_data_size > 0)
        memcpy(ram + sandbox_image_rw_offset(image), image->rw_data, image->rw_data_size);
}

/* Whether [address, address + size) lies in a region of `length` bytes, at least one, at `start`; *offset is where. */
static bool guest_within(uint64_t address, uint64_t size, uint64_t start, uint64_t length, uint64_t *offset)
{
    if (length == 0 || address < start || address - start > length || size > length - (address - start))
        return false;
    *offset = address - start;
    return true;
}

uint8_t *guest_memory(const struct sandbox_image *image, uint8_t *ram, uint64_t rw_accessible, uint64_t address,
                      uint64_t size, int write)
{
    const struct sandbox_memory_map *map = &image->map;
    uint64_t offset;
    if (guest_within(address, size, map->rw_address, rw_accessible, &offset))
        return ram + sandbox_image_rw_offset(image) + offset;
    if (guest_within(address, size, map->stack_low, map->stack_size, &offset))
        return ram + sandbox_image_stack_offset(image) + offset;
    if (guest_within(address, size, map->aux_address, map->aux_size, &offset))
        return ram + sandbox_image_aux_offset(image) + offset;
    if (!write && guest_within(address, size, map->ro_address, map->ro_size, &offset))
        return (uint8_t *)(uintptr_t)image->ro + offset;
    return NULL;
}

/* --- sbrk --- */

struct guest_sbrk guest_sbrk_begin(const struct sandbox_image *image, struct sandbox_guest *guest,
                                   const struct pvm_decoded *sbrk)
{
    const struct sandbox_memory_map *map = &image->map;
    const uint64_t size = guest->regs[sbrk->a];
    const uint64_t heap_size = guest->heap_size + size;
    guest->regs[sbrk->d] = 0;
    if (size > UINT32_MAX || heap_size > map->heap_size_max)
        return (struct guest_sbrk){0, UINT64_MAX};
    const uint64_t page = map->page_size;
    const uint64_t top = map->heap_base + heap_size;
    return (struct guest_sbrk){
        .accessible = (top - map->rw_address + page - 1) & ~(page - 1),
        .heap_size = heap_size,
    };
}

void guest_sbrk_commit(const struct sandbox_image *image, struct sandbox_guest *guest, const struct pvm_decoded *sbrk,
                       const struct guest_sbrk *request)
{
    if (request->heap_size == UINT64_MAX)
        return;
    const uint32_t top = image->map.heap_base + (uint32_t)request->heap_size;
    guest->heap_size = (uint32_t)request->heap_size;
    guest->regs[sbrk->d] = (uint64_t)(int64_t)(int32_t)top & guest_word_mask(image);
}
