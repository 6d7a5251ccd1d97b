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

/* --- page faults --- */

struct guest_access {
    uint64_t address; /* below 2^32 */
    uint32_t size;    /* 0: none */
    bool write;
};

/* What an instruction touches in memory. A memset stores byte after byte, and a0 is where it has got to. */
static struct guest_access guest_access(const uint64_t *regs, const struct pvm_decoded *i)
{
    const struct guest_access none = {0};
    const uint32_t at_x = (uint32_t)i->x, at_b = (uint32_t)(regs[i->b] + (uint64_t)i->x);
    const uint32_t at_a = (uint32_t)(regs[i->a] + (uint64_t)i->x);
    switch ((enum pvm_op)i->op) {
    case PVM_OP_load_u8:
    case PVM_OP_load_i8:
        return (struct guest_access){at_x, 1, false};
    case PVM_OP_load_u16:
    case PVM_OP_load_i16:
        return (struct guest_access){at_x, 2, false};
    case PVM_OP_load_u32:
    case PVM_OP_load_i32:
        return (struct guest_access){at_x, 4, false};
    case PVM_OP_load_u64:
        return (struct guest_access){at_x, 8, false};
    case PVM_OP_load_indirect_u8:
    case PVM_OP_load_indirect_i8:
        return (struct guest_access){at_b, 1, false};
    case PVM_OP_load_indirect_u16:
    case PVM_OP_load_indirect_i16:
        return (struct guest_access){at_b, 2, false};
    case PVM_OP_load_indirect_u32:
    case PVM_OP_load_indirect_i32:
        return (struct guest_access){at_b, 4, false};
    case PVM_OP_load_indirect_u64:
        return (struct guest_access){at_b, 8, false};
    case PVM_OP_store_u8:
    case PVM_OP_store_imm_u8:
        return (struct guest_access){at_x, 1, true};
    case PVM_OP_store_u16:
    case PVM_OP_store_imm_u16:
        return (struct guest_access){at_x, 2, true};
    case PVM_OP_store_u32:
    case PVM_OP_store_imm_u32:
        return (struct guest_access){at_x, 4, true};
    case PVM_OP_store_u64:
    case PVM_OP_store_imm_u64:
        return (struct guest_access){at_x, 8, true};
    case PVM_OP_store_indirect_u8:
        return (struct guest_access){at_b, 1, true};
    case PVM_OP_store_indirect_u16:
        return (struct guest_access){at_b, 2, true};
    case PVM_OP_store_indirect_u32:
        return (struct guest_access){at_b, 4, true};
    case PVM_OP_store_indirect_u64:
        return (struct guest_access){at_b, 8, true};
    case PVM_OP_store_imm_indirect_u8:
        return (struct guest_access){at_a, 1, true};
    case PVM_OP_store_imm_indirect_u16:
        return (struct guest_access){at_a, 2, true};
    case PVM_OP_store_imm_indirect_u32:
        return (struct guest_access){at_a, 4, true};
    case PVM_OP_store_imm_indirect_u64:
        return (struct guest_access){at_a, 8, true};
    case PVM_OP_memset:
        return (struct guest_access){(uint32_t)regs[PVM_REG_A0], 1, true};
    default:
        return none;
    }
}

bool guest_touches_memory(uint32_t op)
{
    const uint64_t regs[PVM_REGISTER_COUNT] = {0};
    const struct pvm_decoded instruction = {.op = (uint8_t)op};
    return guest_access(regs, &instruction).size > 0;
}

bool guest_page_fault(const struct sandbox_memory *memory, struct sandbox_guest *guest,
                      const struct pvm_decoded *instruction)
{
    if (memory->paging.present == NULL)
        return false;
    const struct guest_access access = guest_access(guest->regs, instruction);
    if (access.size == 0)
        return false;
    const int64_t page = memory_fault(memory, access.address, access.size, access.write);
    if (page < 0)
        return false;
    guest->fault_address = (uint32_t)page;
    guest->fault_write = access.write;
    guest->fault_errno = 0;
    return true;
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
    /* one of size 0 only asks, also where a limit keeps a part of the data from the guest */
    if (size > 0 && accessible > memory->rw_accessible &&
        (accessible > memory->rw_limit || memory_grow(memory, accessible) < 0))
        return;
    guest->heap_size = (uint32_t)heap_size;
    guest->regs[sbrk->d] = (uint64_t)(int64_t)(int32_t)(uint32_t)top & guest_word_mask(image);
}
