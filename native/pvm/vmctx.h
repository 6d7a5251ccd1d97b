/* SPDX-License-Identifier: MIT
 *
 * vmctx: the page that a sandbox worker and its host share.
 *
 * This is the one declaration of its layout. The recompiler emits accesses to it (offsetof), the zygote
 * and the host include it, and VMCTX_MAGIC, which carries its size, is checked by the worker at start.
 *
 * The page is hostile input to the host: a guest that broke out of its code can write every word of it at
 * any time. The host reads each word once into its own memory and checks it there; nothing that the host
 * relies on lives only here.
 */
#ifndef PVM_VMCTX_H
#define PVM_VMCTX_H

#include <stdint.h>

#include "opcodes.h"

/* What the futex word says. The side that owns the worker's CPU changes it: host sets BUSY, worker the rest. */
enum vmctx_state {
    VMCTX_IDLE = 0,           /* worker waits; the last call returned, or nothing ran yet */
    VMCTX_BUSY = 1,           /* guest code runs, or is about to */
    VMCTX_GUEST_ECALLI = 2,   /* ecalli: `native_pc` is where it goes on; the host knows the call's number */
    VMCTX_GUEST_TRAP = 3,     /* a signal in guest code: `signal`, `native_pc` of the faulting instruction */
    VMCTX_GUEST_SIGNAL = 4,   /* the host's signal found the guest at `native_pc`, maybe in the middle of a guest
                                 instruction: the host says where that one begins and ends, and BUSY */
    VMCTX_GUEST_STEP = 5,     /* step tracing: `native_pc` is where the traced instruction goes on */
    VMCTX_GUEST_NOT_ENOUGH_GAS = 6, /* as the host reports it; a worker says VMCTX_GUEST_TRAP at a gas stub */
    VMCTX_GUEST_PAGEFAULT = 7,      /* as the host reports it; a worker says VMCTX_GUEST_TRAP */
    VMCTX_GUEST_SBRK = 8,     /* sbrk: `native_pc` is where it goes on; the host does the work */
    VMCTX_STARTING = 9,       /* the worker is being set up */
    VMCTX_FAILED = 10,        /* set-up failed: `failed_step` and `failed_errno` say where; the worker exits */
    VMCTX_DEAD = 11,          /* written by the host when it saw the worker's death, to wake its own waiter */
};

struct vmctx {
    /* --- the futex word; alone on its cache line, so that a spinning side disturbs nothing else --- */
    uint32_t state;
    uint32_t pad0[15];

    /* --- guest state: written by the host before BUSY, by the worker before it leaves BUSY --- */
    uint64_t regs[PVM_REGISTER_COUNT];
    int64_t gas;              /* what is left; lives in rsp while the guest runs */
    uint64_t tmp[2];          /* the recompiler's two scratch registers at a trap: rcx, r15 */
    uint64_t next_native_pc;  /* host -> worker: address at which the enter trampoline continues */
    uint64_t native_pc;       /* worker -> host: address where the guest stopped */
    uint32_t pad1;
    uint32_t signal;          /* worker -> host: signal number of a trap */

    /* --- host -> worker --- */
    uint32_t spin;            /* rounds a worker polls `state` before it sleeps on the futex */
    uint32_t interrupt;       /* 1: a signal that comes while BUSY is to stop the guest; 0: it comes too late */
    uint64_t instruction_begin; /* answer to VMCTX_GUEST_SIGNAL: native addresses of the instruction there */
    uint64_t instruction_end;

    /* --- worker -> host, with VMCTX_FAILED --- */
    uint32_t failed_step;     /* enum zygote_step */
    uint32_t failed_errno;

    uint64_t fault;           /* worker -> host: guest address that a trap was about, if any */
};

#endif
