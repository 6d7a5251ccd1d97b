/* SPDX-License-Identifier: MIT
 *
 * The ways in and out of guest code. They lie at the start of the native code.
 *
 * enter          all registers from vmctx, then to its next_native_pc
 * halt           the guest jumped to PVM_RETURN_TO_HOST
 * trap           the worker's signal handler sends a faulting guest here, its registers untouched
 * ecalli, sbrk, step   jumped to with the address at which the host resumes the guest in TMP0
 */
#include "emitter.h"

#include <stddef.h>

#define LOAD 0x8bu
#define STORE 0x89u
#define GROUP_FF 0xffu
#define JMP 4u /* of GROUP_FF */

static void load_registers(struct pvm_emitter *e)
{
    for (size_t n = 0; n < PVM_REGISTER_COUNT; n++)
        pvm_emit_vmctx(e, LOAD, X86_64, pvm_native_register[n], offsetof(struct vmctx, regs) + 8 * n);
    if (e->metered && !e->target->gs_base)
        pvm_emit_vmctx(e, LOAD, X86_64, GAS, offsetof(struct vmctx, gas));
}

static void save_registers(struct pvm_emitter *e)
{
    for (size_t n = 0; n < PVM_REGISTER_COUNT; n++)
        pvm_emit_vmctx(e, STORE, X86_64, pvm_native_register[n], offsetof(struct vmctx, regs) + 8 * n);
    if (e->metered && !e->target->gs_base)
        pvm_emit_vmctx(e, STORE, X86_64, GAS, offsetof(struct vmctx, gas));
}

/* Saves the registers and ends the guest's turn with the new state. */
static void leave(struct pvm_emitter *e, enum vmctx_state state)
{
    save_registers(e);
    x86_mov_imm(&e->x86, X86_RDI, (int64_t)state);
    if (e->target->gs_base) {
        pvm_emit_gs(e, GROUP_FF, X86_32, JMP, e->target->exit + (int64_t)offsetof(struct pvm_way_out, address));
        return;
    }
    x86_put(&e->x86, 0xe9, 1);
    x86_put(&e->x86, (uint32_t)(e->target->exit - (pvm_native_offset(e) + INT64_C(4))), 4);
}

/* A trampoline for pvm_emit_leave; returns its native offset. */
static uint32_t stop(struct pvm_emitter *e, enum vmctx_state state)
{
    uint32_t start = pvm_native_offset(e);
    pvm_emit_vmctx(e, STORE, X86_64, TMP0, offsetof(struct vmctx, native_pc));
    leave(e, state);
    return start;
}

void pvm_emit_leave(struct pvm_emitter *e, uint32_t trampoline)
{
    enum { JMP_LENGTH = 5 };
    struct x86 *x = &e->x86;
    x86_put(x, 0x0d8d48, 3); /* lea rcx, [rip + 5] */
    x86_put(x, JMP_LENGTH, 4);
    x86_put(x, 0xe9, 1);
    x86_put(x, trampoline - (pvm_native_offset(e) + 4), 4);
}

void pvm_emit_trampolines(struct pvm_emitter *e)
{
    e->result->enter = pvm_native_offset(e);
    load_registers(e);
    pvm_emit_vmctx(e, GROUP_FF, X86_32, JMP, offsetof(struct vmctx, next_native_pc));

    e->result->halt = pvm_native_offset(e);
    leave(e, VMCTX_IDLE);

    e->result->trap = pvm_native_offset(e);
    pvm_emit_vmctx(e, STORE, X86_64, TMP0, offsetof(struct vmctx, tmp));
    pvm_emit_vmctx(e, STORE, X86_64, e->tmp1, offsetof(struct vmctx, tmp) + 8);
    leave(e, VMCTX_GUEST_TRAP);

    e->ecalli = stop(e, VMCTX_GUEST_ECALLI);
    e->sbrk = stop(e, VMCTX_GUEST_SBRK);
    e->step = stop(e, VMCTX_GUEST_STEP);
}
