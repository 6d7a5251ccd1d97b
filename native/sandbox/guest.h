/* SPDX-License-Identifier: MIT
 *
 * guest: what both backends do for a stopped guest, from the module's own data.
 */
#ifndef SANDBOX_GUEST_H
#define SANDBOX_GUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "pvm/decode.h"
#include "sandbox/image.h"
#include "sandbox/memory.h"
#include "sandbox/sandbox_api.h"

/* All bits of a register: 32 of them in latest32. */
uint64_t guest_word_mask(const struct sandbox_image *image);

/* Whether it is metered and has less than nothing, which async metering leaves behind: it runs no instruction then. */
bool guest_is_overdrawn(const struct sandbox_image *image, const struct sandbox_guest *guest);

/* Whether an operation (enum pvm_op) loads or stores. */
bool guest_touches_memory(uint32_t op);

/* The instruction at `pc`; an invalid one behind an over-long instruction and at the end of the code. */
struct pvm_decoded guest_instruction(const struct sandbox_image *image, uint32_t pc);

/* Whether `instruction`, which cannot be executed with the registers as they are, faults for a page that is not there or
 * is protected, all that it touches being within one region: guest->fault_address and fault_write. What this says follows
 * from module, registers and host memory alone. */
bool guest_page_fault(const struct sandbox_memory *memory, struct sandbox_guest *guest,
                      const struct pvm_decoded *instruction);

/* sbrk (specification 7.6): a request that cannot be met leaves 0 in the destination. */
void guest_sbrk(struct sandbox_memory *memory, struct sandbox_guest *guest, const struct pvm_decoded *sbrk);

#endif
