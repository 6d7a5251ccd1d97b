/* SPDX-License-Identifier: MIT
 *
 * park: stops the guest where the host's signal found it, and leaves nothing behind but registers in vmctx, as any
 * other stop does.
 *
 * That needs a place between two guest instructions, where scratch registers and flags mean nothing. The signal may
 * come in the middle of one, in a trampoline, or on the way from the wait loop to the guest or back. From there the
 * processor is taken through single steps (the trap flag, Intel SDM volume 3, 18.3.1.4) until the guest is between
 * two instructions, or has stopped by itself. Where the instruction begins and ends only the host knows: it is asked.
 *
 * A memset is left in its middle, at its one repeated instruction, which may take long: its registers say how far it is.
 */
#define _GNU_SOURCE /* REG_RIP, REG_EFL */
#include "zygote/zygote.h"

#include <linux/futex.h>
#include <stdbool.h>
#include <stddef.h>
#include <ucontext.h>

#include "pvm/vmctx.h"

#define TRAP_FLAG ((greg_t)1 << 8)

static struct vmctx *const park_vmctx = (struct vmctx *)LAYOUT_VMCTX_BASE;

static struct {
    uint64_t trap; /* native addresses: the trampoline, and the guest's own code */
    uint64_t guest_begin;
    uint64_t guest_end;
    uint64_t instruction_begin; /* what the host answered; 0: not asked yet */
    uint64_t instruction_end;
    bool stepping; /* the trap flag is set where the handler returns to */
} park;

void park_prepare(const struct zygote_request *request)
{
    park.trap = LAYOUT_CODE_BASE + request->trap;
    park.guest_begin = LAYOUT_CODE_BASE + request->guest_begin;
    park.guest_end = LAYOUT_CODE_BASE + request->guest_end;
}

void park_forget(void)
{
    park.instruction_begin = 0;
}

static bool park_at_repetition(uint64_t rip)
{
    const uint8_t *code = (const uint8_t *)rip;
    return park.guest_end - rip >= 3 && code[0] == 0x67 && code[1] == 0xf3 && code[2] == 0xaa; /* addr32 rep stosb */
}

static void park_ask(uint64_t rip)
{
    park_vmctx->native_pc = rip;
    /* release: the address before it */
    __atomic_store_n(&park_vmctx->state, VMCTX_GUEST_SIGNAL, __ATOMIC_RELEASE);
    linux_futex(&park_vmctx->state, FUTEX_WAKE, INT32_MAX);
    worker_await();
    park.instruction_begin = park_vmctx->instruction_begin;
    park.instruction_end = park_vmctx->instruction_end;
}

static bool park_is_between_instructions(uint64_t rip)
{
    if (rip < park.guest_begin || rip >= park.guest_end)
        return false;
    if (park.instruction_begin == 0)
        park_ask(rip);
    return rip <= park.instruction_begin || rip >= park.instruction_end || park_at_repetition(rip);
}

void park_leave(greg_t *registers)
{
    registers[REG_EFL] &= ~TRAP_FLAG;
    park.stepping = false;
    park_forget();
}

/* Decides what follows on the native instruction that is next. */
static void park_advance(greg_t *registers)
{
    const uint64_t rip = (uint64_t)registers[REG_RIP];
    /* The state changes when the guest stops by itself, and the host clears the request before it resumes one. */
    if (__atomic_load_n(&park_vmctx->state, __ATOMIC_ACQUIRE) != VMCTX_BUSY ||
        __atomic_load_n(&park_vmctx->interrupt, __ATOMIC_RELAXED) == 0) {
        park_leave(registers);
    } else if (park_is_between_instructions(rip)) {
        park_leave(registers);
        park_vmctx->native_pc = rip;
        park_vmctx->signal = ZYGOTE_INTERRUPT_SIGNAL;
        registers[REG_RIP] = (greg_t)park.trap;
    } else {
        registers[REG_EFL] |= TRAP_FLAG;
        park.stepping = true;
    }
}

void park_on_signal(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)info;
    park_advance(((ucontext_t *)context)->uc_mcontext.gregs);
}

bool park_on_step(greg_t *registers)
{
    if (!park.stepping)
        return false;
    park_advance(registers);
    return true;
}
