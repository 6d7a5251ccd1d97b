/* SPDX-License-Identifier: MIT
 *
 * guest: what both backends do for a stopped guest, from the module's own data.
 */
#ifndef SANDBOX_GUEST_H
#define SANDBOX_GUEST_H

#include <stdint.h>

#include "pvm/decode.h"
#include "sandbox/image.h"
#include "sandbox/sandbox_api.h"

/* All bits of a register: 32 of them in latest32. */
uint64_t guest_word_mask(const struct sandbox_image *image);

/* The instruction at `pc`; an invalid one behind an over-long instruction and at the end of the code. */
struct pvm_decoded guest_instruction(const struct sandbox_image *image, uint32_t pc);

/* Copies the initial read-write data into a ram (its layout is image.h's). */
void guest_load_data(const struct sandbox_image *image, uint8_t *ram);

/* Guest memory [address, address + size) inside `ram` or the image; see sandbox_worker_memory. */
uint8_t *guest_memory(const struct sandbox_image *image, uint8_t *ram, uint64_t rw_accessible, uint64_t address,
                      uint64_t size, int write);

/* sbrk (specification 7.6), in two halves: between them the backend makes `accessible` bytes of read-write data
 * accessible. A request that cannot be met has accessible 0 and leaves 0 in the destination; so does one that is
 * not committed. */
struct guest_sbrk {
    uint64_t accessible;
    uint64_t heap_size;
};
struct guest_sbrk guest_sbrk_begin(const struct sandbox_image *image, struct sandbox_guest *guest,
                                   const struct pvm_decoded *sbrk);
void guest_sbrk_commit(const struct sandbox_image *image, struct sandbox_guest *guest, const struct pvm_decoded *sbrk,
                       const struct guest_sbrk *request);

#endif
