/* SPDX-License-Identifier: MIT
 *
 * tables: what the host keeps of a recompilation beside the native code, as bytes that can be stored.
 *
 *     u32 enter, trap, halt, gas_stubs_at       struct pvm_recompiled's
 *     u32 instruction_count, gas_stub_count
 *     u32 native[instruction_count]             of each guest instruction; their pcs follow from the program
 *     struct pvm_gas_stub[gas_stub_count]
 *
 * Little endian. Whoever reads them believes nothing: tables that were accepted lead no reader of struct
 * pvm_recompiled out of bounds, whatever the native code is. Pure; errors are -errno.
 */
#ifndef PVM_TABLES_H
#define PVM_TABLES_H

#include <stddef.h>
#include <stdint.h>

#include "execution.h"
#include "recompiler.h"

/* Bytes that pvm_tables_write writes. */
size_t pvm_tables_size(const struct pvm_recompiled *recompiled);
void pvm_tables_write(const struct pvm_recompiled *recompiled, uint8_t *out);

/* The tables of `code_size` bytes of native code, made of `program` with `execution`. Takes memory in proportion to
 * `size` and to the program. Returns 0, -ENOMEM, or -EBADMSG with *what saying what is wrong with them; after an error
 * `result` owns nothing. */
int pvm_tables_read(const struct pvm_program *program, const struct pvm_execution *execution, uint64_t code_size,
                    const uint8_t *data, size_t size, struct pvm_recompiled *result, const char **what);

#endif
