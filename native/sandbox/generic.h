/* SPDX-License-Identifier: MIT
 *
 * generic: what the files of the generic sandbox share: its address space, and the way into guest code. Only macros up
 * to the first #ifndef of the assembler, so that assembly can include it.
 */
#ifndef SANDBOX_GENERIC_H
#define SANDBOX_GENERIC_H

/* The state with which generic_enter returns if it did not enter: VMCTX_BUSY. */
#define GENERIC_NOT_ENTERED 1

#ifndef __ASSEMBLER__

#include <stddef.h>
#include <stdint.h>

#include "pvm/recompiler.h"
#include "pvm/vmctx.h"
#include "zygote/layout.h"

/*
 * A guest's reservation, all of it inaccessible but for what is mapped into it:
 *
 *   0                   the vmctx page, with the way out behind vmctx
 *   BELOW               guest address 0, where the GS base points
 *   BELOW + 4 GiB       nothing, up to the end: an access from the last guest address on ends here
 *
 * An access is at the base plus an unsigned 32-bit offset, and up to 8 bytes long.
 */
#define GENERIC_BELOW UINT64_C(0x10000)
#define GENERIC_ABOVE UINT64_C(0x10000)
#define GENERIC_RESERVATION (GENERIC_BELOW + (UINT64_C(1) << 32) + GENERIC_ABOVE)
#define GENERIC_WAY_OUT (LAYOUT_VMCTX_SIZE - sizeof(struct pvm_way_out))
_Static_assert(sizeof(struct vmctx) <= GENERIC_WAY_OUT, "both are in the vmctx page");

/* Distances from the GS base (struct pvm_target). */
#define GENERIC_TARGET_VMCTX (-(int64_t)GENERIC_BELOW)
#define GENERIC_TARGET_EXIT (GENERIC_TARGET_VMCTX + (int64_t)GENERIC_WAY_OUT)

/*
 * A module's reservation has native code, jump table and return page where a worker has them, from LAYOUT_CODE_BASE on,
 * and nothing else, up to where the slot of the last guest code address would end.
 */
#define GENERIC_JUMP_TABLE (LAYOUT_JUMP_TABLE_BASE - LAYOUT_CODE_BASE)
#define GENERIC_RETURN_PAGE (LAYOUT_RETURN_PAGE - LAYOUT_CODE_BASE)
#define GENERIC_CODE_RESERVATION (GENERIC_JUMP_TABLE + (UINT64_C(1) << 35) + LAYOUT_PAGE)

/* Counts the forks between this process and the one that loaded this: what another one made is not to be run. */
uint32_t generic_process(void);

struct sandbox_generic;

/* Runs it on the calling thread until it stops or is paused: see sandbox_generic_run. */
int generic_turn(struct sandbox_generic *self);

/* Runs native code from the trampoline `enter` on, with the GS base set; returns the state that it left with. Does not
 * if *stop is not 0. In assembly. */
uint32_t generic_enter(uint64_t enter, const uint32_t *stop);
/* Where it leads to (struct pvm_way_out). */
extern const uint8_t generic_exit[];
/* The one instruction behind its look at *stop. */
extern const uint8_t generic_checked[];

#endif
#endif
