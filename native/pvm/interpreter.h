/* SPDX-License-Identifier: MIT
 *
 * interpreter: runs guest bytecode without machine code of its own. Portable C, memory-safe by construction: every
 * guest access is checked against the regions. It is the fallback where nothing can be recompiled, and the judge
 * of the recompiler.
 *
 * The caller owns program, memory and machine. Nothing here allocates after creation, blocks, or runs longer than
 * it is told to.
 */
#ifndef PVM_INTERPRETER_H
#define PVM_INTERPRETER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gas.h"
#include "recompiler.h"

enum pvm_gas_metering { PVM_GAS_NONE, PVM_GAS_SYNC, PVM_GAS_ASYNC };

/* How a program is executed; the same for interpreter and recompiler. */
struct pvm_execution {
    uint32_t gas_metering;     /* enum pvm_gas_metering */
    bool per_instruction;      /* charge 1 before each instruction instead of per block; the naive model only */
    bool step_tracing;         /* stop before each instruction */
    bool legacy_sbrk;          /* revive_v1: opcode 101 is sbrk, as older tools emitted it */
    struct pvm_cost_model cost;
};

/* A stretch of accessible guest memory. */
struct pvm_region {
    uint32_t address;
    uint64_t size;
    uint8_t *memory;
    bool writable;
};

enum pvm_exit {
    PVM_EXIT_BUDGET,         /* the step budget is used up; go on by calling again */
    PVM_EXIT_FINISHED,       /* returned to host */
    PVM_EXIT_ECALLI,         /* pc is the ecalli's, next_pc behind it */
    PVM_EXIT_SBRK,           /* the caller decodes, does it (specification 7.6) and goes on at next_pc */
    PVM_EXIT_TRAP,           /* pc trapped; there is no next pc */
    PVM_EXIT_STEP,           /* before the instruction at pc == next_pc */
    PVM_EXIT_NOT_ENOUGH_GAS, /* sync: pc == next_pc, resumable after topping up; async: no pc */
};

#define PVM_NO_PC UINT64_MAX

struct pvm_machine {
    uint64_t regs[PVM_REGISTER_COUNT]; /* latest32: zero-extended */
    int64_t gas;
    uint64_t pc;      /* where it stopped, or PVM_NO_PC */
    uint64_t next_pc; /* where it goes on, or PVM_NO_PC */
    bool entering;    /* the caller set next_pc: the whole containing block is charged (specification, section 8) */
    uint32_t host_call;
    struct pvm_region regions[4];
};

struct pvm_interpreter;

/* Decodes the program ahead. `program`'s buffers must outlive the interpreter. 0, -ENOMEM or -EINVAL. One
 * interpreter serves any number of machines, from any number of threads at once. */
int pvm_interpreter_create(const struct pvm_program *program, const struct pvm_execution *execution,
                           struct pvm_interpreter **interpreter);
void pvm_interpreter_destroy(struct pvm_interpreter *interpreter);

/* Runs from next_pc for about `budget` instructions at most (memset counts by its length). */
enum pvm_exit pvm_interpreter_run(const struct pvm_interpreter *interpreter, struct pvm_machine *machine,
                                  uint64_t budget);

#endif
