/* SPDX-License-Identifier: MIT
 *
 * execution: how a program is executed; the same for interpreter and recompiler.
 */
#ifndef PVM_EXECUTION_H
#define PVM_EXECUTION_H

#include <stdbool.h>
#include <stdint.h>

#include "gas.h"

enum pvm_gas_metering { PVM_GAS_NONE, PVM_GAS_SYNC, PVM_GAS_ASYNC };

/* How far the instruction has got at which a stopped guest goes on. */
enum pvm_progress {
    PVM_PROGRESS_NONE,
    PVM_PROGRESS_STEPPED, /* the stop of step tracing before it was made */
    PVM_PROGRESS_CHARGED, /* stepped, and its block is charged for, or itself */
};

struct pvm_execution {
    uint32_t gas_metering;     /* enum pvm_gas_metering */
    bool per_instruction;      /* charge 1 before each instruction instead of per block; the naive model only */
    bool step_tracing;         /* stop before each instruction */
    struct pvm_cost_model cost;
};

#endif
