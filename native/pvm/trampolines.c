/* SPDX-License-Identifier: MIT
 *
 * The ways in and out of guest code. They lie at the start of the native code.
 *
 * enter          all registers from vmctx, then to its next_native_pc
 * halt           the guest jumped to PVM_RETURN_TO_HOST
 * trap           the worker's signal handler sends a faulting guest here, its registers untouched
 * ecalli, sbrk   called by the instruction of that name; the return address is where the host resumes it
 */
#include "emitter.h"

#include <stddef.h>

#define LOAD 0x8bu
#define STORE 0x89u
#define GROUP_FF 0xffu /* /4: jmp */
#define POP 0x8fu      /* /0 */

static void load_registers(struct pvm_emitter *e)
{
    for (size_t n = 0; n < PVM_REGISTER_COUNT; n++)
        pvm_emit_vmctx(e, LOAD, X86_64, pvm_native_register[n], offsetof(struct vmctx, regs) + 8 * n);
}

static void save_registers(struct pvm_emitter *e)
{
    for (size_t n = 0; n < PVM_REGISTER_COUNT; n++)
        pvm_emit_vmctx(e, STORE, X86_64, pvm_native_register[n], offsetof(struct vmctx, regs) + 8 * n);
}

/* Saves the registers and ends the guest's turn with the new state. */
static void leave(struct pvm_emitter *e, enum vmctx_state state)
{
    save_registers(e);
    x86_mov_imm(&e->x86, X86_RDI, (int64_t)state);
    x86_put(&e->x86, 0xe9, 1);
    x86_put(&e->x86, (uint32_t)(e->target->exit - (pvm_native_offset(e) + INT64_C(4))), 4);
}

void pvm_emit_trampolines(struct pvm_emitter *e)
{
    e->result->enter = pvm_native_offset(e);
    load_registers(e);
    pvm_emit_vmctx(e, GROUP_FF, X86_32, 4, offsetof(struct vmctx, next_native_pc));

    e->result->halt = pvm_native_offset(e);
    leave(e, VMCTX_IDLE);

    e->result->trap = pvm_native_offset(e);
    pvm_emit_vmctx(e, STORE, X86_64, TMP0, offsetof(struct vmctx, tmp));
    pvm_emit_vmctx(e, STORE, X86_64, TMP1, offsetof(struct vmctx, tmp) + 8);
    leave(e, VMCTX_GUEST_TRAP);

    e->ecalli = pvm_native_offset(e);
    pvm_emit_vmctx(e, POP, X86_32, 0, offsetof(struct vmctx, native_pc));
    pvm_emit_vmctx(e, STORE, X86_32, TMP0, offsetof(struct vmctx, arg));
    leave(e, VMCTX_GUEST_ECALLI);

    e->sbrk = pvm_native_offset(e);
    pvm_emit_vmctx(e, POP, X86_32, 0, offsetof(struct vmctx, native_pc));
    leave(e, VMCTX_GUEST_SBRK);
}
