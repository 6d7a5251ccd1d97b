/* SPDX-License-Identifier: MIT
 *
 * The state of one recompilation, and the few functions through which all emitted code reaches something
 * outside its own registers: guest memory, vmctx, and other guest instructions.
 */
#ifndef PVM_EMITTER_H
#define PVM_EMITTER_H

#include "decode.h"
#include "execution.h"
#include "recompiler.h"
#include "vmctx.h"
#include "x86.h"

/* Upper bound of the native code of one guest instruction (the longest is a signed division, 56 bytes,
 * behind a charge and the stop of step tracing, 13 and 12; with a GS base a memset, 71 bytes, behind 19 and 12). */
#define PVM_MAX_NATIVE_LENGTH 112

/* From the native code of a memset, behind its charge, to its rep stosb: without and with gas. */
#define PVM_MEMSET_LEAD(metered) ((metered) ? 15u : 5u)
#define PVM_MEMSET_LEAD_GS(metered) ((metered) ? 44u : 16u)

/* Scratch registers. No guest register lives there and nothing in them outlives an instruction. */
#define TMP0 X86_RCX /* also a shift count, and the count of rep */
/* The other is `tmp1` of the emitter: rsp, where nothing is pushed or called and signals have a stack of their own;
 * otherwise r15. */

/* Gas left: charging a block costs a subtraction and a branch that is never taken. With a GS base there is no
 * register left for it: it stays in vmctx. */
#define GAS X86_R15

/* Where the guest registers live. memset wants a0 in rdi and a1 in rax. */
static const uint8_t pvm_native_register[PVM_REGISTER_COUNT] = {
    [PVM_REG_RA] = X86_R10, [PVM_REG_SP] = X86_RBP, [PVM_REG_T0] = X86_R11, [PVM_REG_T1] = X86_R12,
    [PVM_REG_T2] = X86_R13, [PVM_REG_S0] = X86_RBX, [PVM_REG_S1] = X86_R14, [PVM_REG_A0] = X86_RDI,
    [PVM_REG_A1] = X86_RAX, [PVM_REG_A2] = X86_RSI, [PVM_REG_A3] = X86_RDX, [PVM_REG_A4] = X86_R8,
    [PVM_REG_A5] = X86_R9,
};

/* A 32-bit displacement that waits for the address of the instruction at `pc`. */
struct pvm_fixup {
    uint32_t at; /* native offset of the displacement */
    uint32_t pc;
    uint32_t body; /* native offset of where a trap goes if no jump may land at `pc` */
};

/* A gas stub to be: the 32-bit displacement that leads to it, and what the host will know of it. */
struct pvm_stub_fixup {
    uint32_t at; /* native offset of the displacement */
    struct pvm_gas_stub stub;
};

struct pvm_emitter {
    struct x86 x86;
    uint8_t *start; /* first byte of the native code; distances in `target` count from here */
    const struct pvm_program *program;
    const struct pvm_target *target;
    struct pvm_recompiled *result; /* its instructions up to the one being emitted */
    uint32_t stretches_begun;      /* entries of result->stretches that are filled */
    uint32_t pc;                   /* of the instruction being emitted */
    uint32_t body;                 /* where it begins behind its charge */
    bool goes_on;                  /* whether an instruction follows it */
    unsigned tmp1;                 /* the second scratch register */
    enum x86_width w;              /* width of the guest's registers; X86_32 keeps the upper halves zero */
    bool bmi2;
    bool metered;
    bool prefixed; /* whether anything is emitted before an instruction: a charge, the stop of step tracing */
    const struct pvm_execution *execution;
    uint32_t ecalli, sbrk, step; /* native offsets of the trampolines */
    struct pvm_fixup *fixups;
    size_t fixup_count, fixup_capacity;
    struct pvm_stub_fixup *stubs;
    size_t stub_count, stub_capacity;
};

/* Emits the native code of the instruction at `pc`, with `skip` bytes at `args` (see pvm_decode_as). */
void pvm_emit_instruction(struct pvm_emitter *e, enum pvm_op op, const uint8_t *args, uint32_t pc, uint32_t skip);

/* Emits the trampolines; recompiler.h says what they do. */
void pvm_emit_trampolines(struct pvm_emitter *e);

/* Emits a jump to a trampoline, with the address behind it in TMP0. */
void pvm_emit_leave(struct pvm_emitter *e, uint32_t trampoline);

/* Emits a conditional jump to a new gas stub. */
void pvm_emit_gas_stub_if(struct pvm_emitter *e, enum x86_cc cc, struct pvm_gas_stub stub);

/* Emits a jump to the guest instruction at `pc`, which there must be: jmp rel8/rel32, or jcc. */
void pvm_emit_jump(struct pvm_emitter *e, uint32_t pc);
void pvm_emit_jump_if(struct pvm_emitter *e, enum x86_cc cc, uint32_t pc);

static inline uint32_t pvm_native_offset(const struct pvm_emitter *e)
{
    return (uint32_t)(e->x86.at - e->start);
}

/* The prefix of an instruction that reaches guest memory. The segment's base is added to an address that is already
 * within 4 GiB. */
PVM_INLINE void pvm_emit_segment(struct pvm_emitter *e)
{
    x86_put(&e->x86, 0x65, e->target->gs_base);
}

/* Emits `op` on the register (or opcode extension) `reg` and guest memory at (base + disp) mod 2^32.
 * The address-size prefix makes the sum wrap and clears what is above it, so that no guest value reaches
 * beyond 4 GiB. */
PVM_INLINE void pvm_emit_access(struct pvm_emitter *e, uint32_t op, enum x86_width w, unsigned reg, unsigned base,
                                int32_t disp)
{
    pvm_emit_segment(e);
    x86_rm(&e->x86, op | X86_ADDR32, w, reg, (struct x86_mem){.base = base, .index = X86_NO_REG, .disp = disp});
}

/* The same at a constant address. One below 2 GiB needs no prefix. */
PVM_INLINE void pvm_emit_access_at(struct pvm_emitter *e, uint32_t op, enum x86_width w, unsigned reg, int32_t disp)
{
    pvm_emit_segment(e);
    x86_rm_absolute(&e->x86, op | (disp < 0 ? X86_ADDR32 : 0), w, reg, disp);
}

/* The same at a distance from the GS base. */
static inline void pvm_emit_gs(struct pvm_emitter *e, uint32_t op, enum x86_width w, unsigned reg, int64_t distance)
{
    pvm_emit_segment(e);
    x86_rm_absolute(&e->x86, op, w, reg, (int32_t)distance);
}

/* Emits `op` on the register (or opcode extension) `reg` and the field of vmctx at `offset`. */
static inline void pvm_emit_vmctx(struct pvm_emitter *e, uint32_t op, enum x86_width w, unsigned reg, size_t offset)
{
    if (e->target->gs_base)
        pvm_emit_gs(e, op, w, reg, e->target->vmctx + (int64_t)offset);
    else
        x86_rip(&e->x86, op, w, reg, e->start, e->target->vmctx + (int64_t)offset);
}

#endif
