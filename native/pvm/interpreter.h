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

#include "execution.h"
#include "recompiler.h"

/* Which pages of a region are there, a bit each: those of the region from bit `first` on. */
struct pvm_pages {
    const uint64_t *present;
    const uint64_t *guarded; /* not to be written; NULL: none */
    uint64_t first;
    uint32_t shift; /* of the page size */
};

/* A stretch of accessible guest memory. What lies beyond address 2^32 - 1 counts for nothing. */
struct pvm_region {
    uint32_t address;
    uint64_t size; /* 0: not there */
    uint8_t *memory;
    bool writable;
    const struct pvm_pages *pages; /* NULL: all of it is there; otherwise every access takes longer */
};

enum pvm_exit {
    PVM_EXIT_BUDGET,         /* the step budget is used up; go on by calling again */
    PVM_EXIT_FINISHED,       /* returned to host: pc is the jump's, there is no next pc */
    PVM_EXIT_ECALLI,         /* pc is the ecalli's, next_pc behind it */
    PVM_EXIT_SBRK,           /* the caller decodes, does it (specification 7.6) and goes on at next_pc */
    PVM_EXIT_TRAP,           /* pc trapped; there is no next pc. After curing a fault of memory, set next_pc to pc to
                                try again: nothing is charged twice */
    PVM_EXIT_STEP,           /* before the instruction at pc == next_pc; at a block's start: before it is charged */
    PVM_EXIT_NOT_ENOUGH_GAS, /* sync: pc == next_pc, resumable after topping up; async: no pc */
};

#define PVM_NO_PC UINT64_MAX
#define PVM_NO_ADDRESS UINT64_MAX

/* Regions of a machine; accesses try them in their order: put what is used most first. They must not overlap. */
#define PVM_REGION_COUNT 4

struct pvm_machine {
    uint64_t regs[PVM_REGISTER_COUNT]; /* latest32: zero-extended */
    int64_t gas;      /* untouched without metering */
    uint64_t pc;      /* where it stopped, or PVM_NO_PC */
    uint64_t next_pc; /* where it goes on, or PVM_NO_PC: to run then traps */
    uint64_t fault;   /* after a trap: the first byte that an access to memory failed at, or PVM_NO_ADDRESS */
    bool entering;    /* the caller set next_pc: the whole containing block is charged (specification, section 8) */
    uint8_t progress; /* enum pvm_progress of the instruction at next_pc; at first 0 */
    uint32_t host_call;
    struct pvm_region regions[PVM_REGION_COUNT];
};

struct pvm_interpreter;

/* Decodes the program ahead, and computes what its blocks cost. `program`'s buffers must outlive the interpreter. 0,
 * -ENOMEM or -EINVAL. One interpreter serves any number of machines, from any number of threads at once.
 *
 * Linear in the size of the code, and so is the memory, of at most 25 bytes per byte of code and 4 per entry of the
 * jump table; twice that with step tracing or metering by the instruction. Real programs take about 8. */
int pvm_interpreter_create(const struct pvm_program *program, const struct pvm_execution *execution,
                           struct pvm_interpreter **interpreter);
void pvm_interpreter_destroy(struct pvm_interpreter *interpreter);

/* Whether control can be at `pc`: an instruction, or a place without one that control can run into. */
bool pvm_interpreter_has(const struct pvm_interpreter *interpreter, uint32_t pc);

/* Bytes that it takes, its program's buffers not counted. */
size_t pvm_interpreter_size(const struct pvm_interpreter *interpreter);

/* Runs from next_pc for about `budget` instructions at most (memset counts by its length): to the end of the block in
 * which they are used up, which it looks at every 2^15 instructions in. Always gets on, even with a budget of 0. */
enum pvm_exit pvm_interpreter_run(const struct pvm_interpreter *interpreter, struct pvm_machine *machine,
                                  uint64_t budget);

#endif
