/* SPDX-License-Identifier: MIT
 *
 * recompiled: see recompiled.h.
 */
#include "sandbox/recompiled.h"

#include <errno.h>
#include <string.h>

#include "pvm/decode.h"
#include "sandbox/guest.h"
#include "sandbox/pager.h"
#include "sandbox/snapshot.h"

/* --- going on --- */

/* There is an invalid instruction at the next pc. */
static int recompiled_trap(struct sandbox_guest *guest)
{
    guest->pc = guest->next_pc;
    guest->has_pc = 1;
    guest->has_next_pc = 0;
    guest->entering = 0;
    guest->signal = 0;
    return SANDBOX_TRAP;
}

/* The next pc comes from a snapshot. Returns as recompiled_enter. */
static int recompiled_return(struct recompiled_guest *self, uint32_t *native)
{
    const struct sandbox_image *image = self->image;
    const struct pvm_instruction *at = pvm_find_pc(&image->recompiled, self->guest.next_pc);
    if (at == NULL)
        return recompiled_trap(&self->guest);
    *native = pvm_native_after(&image->program, &image->execution, self->gs_base, at, self->guest.progress);
    return SANDBOX_BUSY;
}

/* The host set the next pc: charges the block around it, unless the code there does it. Returns the event with
 * which it ends at once, or SANDBOX_BUSY with *native set. */
static int recompiled_enter(struct recompiled_guest *self, uint32_t *native)
{
    struct sandbox_guest *guest = &self->guest;
    const struct sandbox_image *image = self->image;
    const struct pvm_instruction *at = pvm_find_pc(&image->recompiled, guest->next_pc);
    uint32_t start;
    if (at == NULL || !pvm_block_start(&image->program, guest->next_pc, &start))
        return recompiled_trap(guest); /* no instruction starts there, or no block holds it (sections 4 and 8) */
    *native = at->native;
    guest->progress = PVM_PROGRESS_NONE;
    if (image->execution.gas_metering == PVM_GAS_NONE || image->execution.per_instruction || start == guest->next_pc)
        return SANDBOX_BUSY;
    const uint32_t cost = pvm_block_cost(&image->program, &image->execution.cost, start);
    if (guest->gas >= cost) {
        guest->gas -= cost;
        return SANDBOX_BUSY;
    }
    if (image->execution.gas_metering == PVM_GAS_SYNC) {
        guest->pc = guest->next_pc;
        guest->has_pc = 1;
    } else {
        guest->gas -= cost;
        guest->has_pc = guest->has_next_pc = 0;
    }
    return SANDBOX_OUT_OF_GAS;
}

int recompiled_begin(struct recompiled_guest *self, uint32_t *native)
{
    struct sandbox_guest *guest = &self->guest;
    if (!guest->has_next_pc)
        return -EINVAL;
    if (guest_is_overdrawn(self->image, guest))
        return SANDBOX_OUT_OF_GAS; /* guest code counts on gas that is not negative */
    *native = self->resume_native;
    int event = SANDBOX_BUSY;
    if (guest->entering == SANDBOX_RETURNS)
        event = recompiled_return(self, native);
    else if (guest->entering != SANDBOX_GOES_ON)
        event = recompiled_enter(self, native);
    if (event == SANDBOX_BUSY)
        guest->has_next_pc = guest->entering = guest->has_pc = 0;
    return event;
}

void recompiled_put(struct recompiled_guest *self, uint32_t native)
{
    struct vmctx *vmctx = self->vmctx;
    const uint64_t mask = guest_word_mask(self->image);
    for (unsigned i = 0; i < PVM_REGISTER_COUNT; i++)
        vmctx->regs[i] = self->guest.regs[i] & mask;
    vmctx->gas = self->guest.gas;
    vmctx->next_native_pc = self->code_base + native;
}

/* --- stops --- */

/* What was charged and not used. Gas is what the guest says it is: the sum may be anything, but has to be defined. */
static void recompiled_give_back(struct recompiled_guest *self, uint32_t gas)
{
    self->guest.gas = (int64_t)((uint64_t)self->guest.gas + gas);
}

/* The gas ran out at `stub`, with its cost taken. */
static int recompiled_out_of_gas(struct recompiled_guest *self, const struct pvm_gas_stub *stub)
{
    struct sandbox_guest *guest = &self->guest;
    if (self->image->execution.gas_metering == PVM_GAS_ASYNC)
        return SANDBOX_OUT_OF_GAS;
    const struct pvm_instruction *at = pvm_find_native(&self->image->recompiled, stub->native);
    recompiled_give_back(self, stub->cost);
    guest->pc = guest->next_pc = at->pc;
    guest->has_pc = guest->has_next_pc = 1;
    guest->progress = stub->cost > 0 ? PVM_PROGRESS_STEPPED : PVM_PROGRESS_CHARGED; /* 0: in the middle of a memset */
    self->resume_native = stub->native;
    return SANDBOX_OUT_OF_GAS;
}

static void recompiled_fixup_memset(struct recompiled_guest *self)
{
    const volatile struct vmctx *vmctx = self->vmctx;
    const uint64_t tmp[2] = {vmctx->tmp[0], vmctx->tmp[1]};
    const uint32_t unused = pvm_fixup_memset(self->image->program.isa, self->guest.regs, tmp);
    if (self->image->execution.gas_metering != PVM_GAS_NONE)
        recompiled_give_back(self, unused);
}

int recompiled_page_in(struct recompiled_guest *self, bool may_block)
{
    struct sandbox_guest *guest = &self->guest;
    const int error = pager_serve(&self->memory, guest->fault_address, may_block);
    self->paging_in = error == -EAGAIN;
    if (error == -EAGAIN)
        return SANDBOX_PAGING;
    guest->fault_errno = error == -ENOENT ? 0 : (uint32_t)-error;
    if (error < 0)
        return SANDBOX_PAGE_FAULT;
    guest->has_pc = guest->has_next_pc = 0;
    return SANDBOX_BUSY;
}

/* Where a memset that stopped at native offset `native` goes on. False if that is before its beginning: its rep stosb,
 * where alone it can stop for anything that is served, does not lie there. */
static bool recompiled_find_memset_start(struct recompiled_guest *self, const struct pvm_instruction *at,
                                         uint64_t native)
{
    self->resume_native = pvm_memset_start(&self->image->execution, self->gs_base, (uint32_t)native);
    return self->resume_native >= at->native;
}

/* A signal came at native offset `native`, in the instruction `at`. */
static int recompiled_signalled(struct recompiled_guest *self, const struct pvm_instruction *at,
                                const struct pvm_decoded *decoded, uint64_t native)
{
    struct sandbox_guest *guest = &self->guest;
    const uint32_t signal = ((const volatile struct vmctx *)self->vmctx)->signal;
    const bool interrupted = signal == self->interrupt && signal != 0;
    const bool within = !interrupted || native != at->native;
    if (within && decoded->op == PVM_OP_memset)
        recompiled_fixup_memset(self);
    if (!interrupted && guest_page_fault(&self->memory, guest, decoded)) {
        guest->next_pc = at->pc;
        guest->has_next_pc = 1;
        guest->progress = PVM_PROGRESS_CHARGED;
        self->resume_native = (uint32_t)native; /* loads and stores are one native instruction each */
        if (decoded->op == PVM_OP_memset && !recompiled_find_memset_start(self, at, native))
            return SANDBOX_FORGED;
        return recompiled_page_in(self, false);
    }
    if (!interrupted) {
        guest->signal = signal < 65 ? signal : 0;
        const uint64_t fault = ((const volatile struct vmctx *)self->vmctx)->fault;
        return memory_is_beyond_limit(&self->memory, fault) ? SANDBOX_OVER_LIMIT : SANDBOX_TRAP;
    }
    self->resume_native = at->native;
    if (within && (decoded->op != PVM_OP_memset || !recompiled_find_memset_start(self, at, native)))
        return SANDBOX_FORGED;
    guest->next_pc = at->pc;
    guest->has_next_pc = 1;
    guest->progress = within ? PVM_PROGRESS_CHARGED : PVM_PROGRESS_NONE;
    return SANDBOX_INTERRUPTED;
}

int recompiled_take(struct recompiled_guest *self, uint32_t state)
{
    /* volatile: one read of each word, whatever the guest does meanwhile */
    const volatile struct vmctx *vmctx = self->vmctx;
    const struct sandbox_image *image = self->image;
    struct sandbox_guest *guest = &self->guest;
    const uint64_t mask = guest_word_mask(image);
    for (unsigned i = 0; i < PVM_REGISTER_COUNT; i++)
        guest->regs[i] = vmctx->regs[i] & mask;
    guest->gas = vmctx->gas;
    guest->has_pc = 0;
    guest->has_next_pc = 0;
    guest->entering = 0;
    guest->progress = PVM_PROGRESS_NONE;
    if (state == VMCTX_IDLE)
        return SANDBOX_FINISHED;

    /* a trap reports the instruction itself, the others the address behind the jump that left it */
    const uint64_t native = vmctx->native_pc - (state == VMCTX_GUEST_TRAP ? 0 : 1) - self->code_base;
    if (state == VMCTX_GUEST_TRAP) {
        const struct pvm_gas_stub *stub = pvm_find_gas_stub(&image->recompiled, native);
        if (stub != NULL)
            return recompiled_out_of_gas(self, stub);
    }
    const struct pvm_instruction *at = pvm_find_native(&image->recompiled, native);
    if (at == NULL)
        return SANDBOX_FORGED;
    const struct pvm_decoded decoded = guest_instruction(image, at->pc);
    guest->pc = at->pc;
    guest->has_pc = 1;
    if (state == VMCTX_GUEST_TRAP)
        return recompiled_signalled(self, at, &decoded, native);
    if (state == VMCTX_GUEST_STEP && image->execution.step_tracing) {
        guest->next_pc = at->pc;
        guest->has_next_pc = 1;
        guest->progress = PVM_PROGRESS_STEPPED;
        self->resume_native = (uint32_t)native + 1;
        return SANDBOX_STEP;
    }
    const struct pvm_instruction *next = at + 1; /* neither ends a block, so the table has a next one */
    if (state == VMCTX_GUEST_ECALLI && decoded.op == PVM_OP_ecalli) {
        guest->host_call = (uint32_t)decoded.x;
        guest->next_pc = next->pc;
        guest->has_next_pc = 1;
        self->resume_native = next->native;
        return SANDBOX_HOST_CALL;
    }
    if (state == VMCTX_GUEST_SBRK && decoded.op == PVM_OP_sbrk) {
        guest_sbrk(&self->memory, guest, &decoded); /* only the host can move the end of the ram file */
        guest->has_pc = 0;
        self->resume_native = next->native;
        return SANDBOX_BUSY;
    }
    return SANDBOX_FORGED;
}

static void recompiled_wipe(struct vmctx *vmctx)
{
    memset(vmctx->regs, 0, sizeof vmctx->regs);
    memset(vmctx->tmp, 0, sizeof vmctx->tmp);
}

int recompiled_restore(struct recompiled_guest *self, sandbox_snapshot *snapshot, bool pristine, bool lazy)
{
    recompiled_wipe(self->vmctx);
    return snapshot_restore(snapshot, &self->memory, &self->guest, pristine, lazy);
}

int recompiled_reset(struct recompiled_guest *self)
{
    const int error = memory_reset(&self->memory);
    if (error < 0)
        return error;
    memset(&self->guest, 0, sizeof self->guest);
    recompiled_wipe(self->vmctx);
    return 0;
}
