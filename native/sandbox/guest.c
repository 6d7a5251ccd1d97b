/* SPDX-License-Identifier: MIT
 *
 * guest: see guest.h.
 */
#include "sandbox/guest.h"

uint64_t guest_word_mask(const struct sandbox_image *image)
{
    return image->program.isa == PVM_ISA_LATEST32 ? UINT32_MAX : UINT64_MAX;
}

bool guest_is_overdrawn(const struct sandbox_image *image, const struct sandbox_guest *guest)
{
    return image->execution.gas_metering != PVM_GAS_NONE && guest->gas < 0;
}

struct pvm_decoded guest_instruction(const struct sandbox_image *image, uint32_t pc)
{
    if (pvm_has_instruction(&image->program, pc))
        return pvm_decode(&image->program, pc);
    return (struct pvm_decoded){.pc = pc, .next = pc + 1, .op = PVM_OP_invalid};
}

/* --- sbrk --- */

void guest_sbrk(struct sandbox_memory *memory, struct sandbox_guest *guest, const struct pvm_decoded *sbrk)
{
    const struct sandbox_image *image = memory->image;
    const struct sandbox_memory_map *map = &image->map;
    const uint64_t size = guest->regs[sbrk->a];
    const uint64_t heap_size = guest->heap_size + size;
    guest->regs[sbrk->d] = 0;
    if (size > UINT32_MAX || heap_size > map->heap_size_max)
        return;
    const uint64_t page = map->page_size;
    const uint64_t top = map->heap_base + heap_size;
    const uint64_t accessible = (top - map->rw_address + page - 1) & ~(page - 1);
    if (accessible > memory->rw_accessible && memory_grow(memory, accessible) < 0)
        return;
    guest->heap_size = (uint32_t)heap_size;
    guest->regs[sbrk->d] = (uint64_t)(int64_t)(int32_t)(uint32_t)top & guest_word_mask(image);
}
