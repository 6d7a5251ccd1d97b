/* SPDX-License-Identifier: MIT
 *
 * gas: what a basic block costs (specification, section 10). Pure; accepts any code.
 */
#ifndef PVM_GAS_H
#define PVM_GAS_H

#include <stdbool.h>
#include <stdint.h>

#include "opcodes.h"
#include "recompiler.h"

enum pvm_cost_kind {
    PVM_COST_TABLE, /* the sum of per-opcode costs; the naive model is a table of ones (10.1) */
    PVM_COST_FULL,  /* simulated cycles of an out-of-order core (10.2) */
};

struct pvm_cost_model {
    uint32_t kind;                 /* enum pvm_cost_kind */
    uint32_t memory_latency;       /* PVM_COST_FULL: cycles of a load, 4, 25 or 37 */
    uint32_t costs[PVM_OP_COUNT];  /* PVM_COST_TABLE: by enum pvm_op; the one of `invalid` too */
};

/* Cost of the block whose first instruction is at `start`: from there to its first terminator, inclusive; an
 * implicit invalid instruction counts, and is all there is where no instruction starts. Saturates at INT32_MAX.
 * Linear in the length of the block, whatever it holds: the full model takes less than 100 ns an instruction. */
uint32_t pvm_block_cost(const struct pvm_program *program, const struct pvm_cost_model *model, uint32_t start);

/* Start of the block that holds the instruction at `pc`, found by walking back (section 8, last paragraph). False
 * if there is none: no instruction at `pc`, or a gap of more than 25 bytes on the way. */
bool pvm_block_start(const struct pvm_program *program, uint32_t pc, uint32_t *start);

#endif
