/* SPDX-License-Identifier: MIT
 *
 * layout: the address space of a worker. Only macros, so that C (with <stdint.h>) and assembly can include it.
 */
#ifndef ZYGOTE_LAYOUT_H
#define ZYGOTE_LAYOUT_H

/*
 *   0 .. 4 GiB           guest memory at its own addresses
 *   ZYGOTE_BASE          the zygote's own text and data (set by zygote.ld)
 *   WORKER_STACK         native stack, unmapped pages around it
 *   SIGNAL_STACK         alternate signal stack, unmapped pages around it
 *   VMCTX_BASE           the shared page
 *   CODE_BASE            native code, read and execute only
 *   JUMP_TABLE_BASE      native jump table, read only: slot of guest code address a at a * 8, up to 32 GiB
 *
 * Native code reaches VMCTX_BASE, JUMP_TABLE_BASE and ZYGOTE_BASE with 32-bit displacements.
 */
#define LAYOUT_ZYGOTE_BASE UINT64_C(0xff0000000)
#define LAYOUT_WORKER_STACK UINT64_C(0xfffe00000)
#define LAYOUT_WORKER_STACK_SIZE UINT64_C(0x4000)
#define LAYOUT_SIGNAL_STACK UINT64_C(0xfffe80000)
/* A signal frame with AVX-512 and AMX state is about 11 KiB; the kernel refuses an alternate stack below it. */
#define LAYOUT_SIGNAL_STACK_SIZE UINT64_C(0x10000)
#define LAYOUT_VMCTX_BASE UINT64_C(0xffff00000)
#define LAYOUT_VMCTX_SIZE UINT64_C(0x1000)
#define LAYOUT_CODE_BASE UINT64_C(0x1000000000)
#define LAYOUT_CODE_LIMIT UINT64_C(0x20000000) /* 512 MiB */
#define LAYOUT_JUMP_TABLE_BASE UINT64_C(0x1040000000)
#define LAYOUT_JUMP_TABLE_LIMIT UINT64_C(0x20000000) /* 512 MiB: twice the largest table */
/* where the slot of PVM_RETURN_TO_HOST falls; a page of its own */
#define LAYOUT_RETURN_PAGE (LAYOUT_JUMP_TABLE_BASE + UINT64_C(0xffff0000) * 8)

#define LAYOUT_PAGE UINT64_C(0x1000)

/* The zygote's first bytes are a jump to the code that ends the guest's turn (struct pvm_target.exit). */
#define LAYOUT_EXIT LAYOUT_ZYGOTE_BASE

#endif
