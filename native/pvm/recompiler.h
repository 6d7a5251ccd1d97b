/* SPDX-License-Identifier: MIT
 *
 * Recompiler: turns guest bytecode into x86-64 machine code.
 *
 * One pass over the code emits, one pass over the fix-ups patches. The 13 guest registers live in 13 native
 * ones; a guest address is used as a native address, so that a load is one instruction. Semantics are those
 * of the PVM specification (sections 4 to 7). The guest's code is hostile: every input leads to code that
 * stays inside guest memory, or to an error.
 *
 * Pure: no I/O, no global state, the caller owns every buffer. Errors are -errno.
 */
#ifndef PVM_RECOMPILER_H
#define PVM_RECOMPILER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A jump to this address faults at the jumping instruction itself (it is not canonical, with 4 or 5 page
 * table levels), which is what gives an invalid dynamic jump its pc. */
#define PVM_INVALID_CODE_ADDRESS UINT64_C(0xdb00000000000000)

/* The program as the blob holds it; borrowed for the time of the call. Lengths are already checked against
 * the limits of specification section 1; everything else is untrusted. */
struct pvm_program {
    uint32_t isa; /* enum pvm_isa */
    const uint8_t *code;
    uint32_t code_size;
    const uint8_t *bitmask; /* ceil(code_size / 8) bytes */
    const uint8_t *jump_table;
    uint32_t jump_table_count;
    uint32_t jump_table_entry_size; /* 0..4 bytes; 0 means an empty table */
};

/* What the CPU can do beyond baseline x86-64. */
enum pvm_cpu_feature {
    PVM_CPU_POPCNT = 1 << 0,
    PVM_CPU_LZCNT = 1 << 1,
    PVM_CPU_BMI1 = 1 << 2,
    PVM_CPU_BMI2 = 1 << 3, /* optional: shorter shifts */
    PVM_CPU_REQUIRED = PVM_CPU_POPCNT | PVM_CPU_LZCNT | PVM_CPU_BMI1,
};

/* The features of the CPU that this runs on. */
uint32_t pvm_cpu_features(void);

/* Where the native code finds what it needs: signed distances in bytes from the first byte of the native
 * code, each within reach of a 32-bit displacement from every byte of it.
 *
 * Without `gs_base`, guest memory lies at its own addresses, and the native code uses every register: rsp is not a
 * stack pointer. With it, guest memory lies from the GS base on, and `vmctx` and `exit` are distances from there,
 * which have to be negative and fit 32 bits: one native code serves any number of guests in one process. rsp is then
 * left alone, so that any signal handler finds a stack; gas is charged in vmctx instead of in a register. */
struct pvm_target {
    int64_t vmctx;      /* struct vmctx */
    int64_t jump_table; /* native jump table: the slot of guest code address a is at a * 8 */
    int64_t exit;       /* worker code that ends the guest's turn: jumped to with the new state in edi; with
                           `gs_base`, a struct pvm_way_out */
    bool gs_base;
    uint32_t cpu_features; /* of the CPU that will run the code: pvm_cpu_features() */
};

struct pvm_way_out {
    uint64_t address; /* of the code that ends the guest's turn */
    uint64_t base;    /* the GS base */
};

/* One guest instruction; the table of them is ascending in `pc`, and in `native` except that instructions
 * without native code (such as fallthrough) share the offset of the next one. Places without an instruction
 * that control can fall into have their entry: there is an implicit trap. */
struct pvm_instruction {
    uint32_t pc;     /* byte offset in the guest's code */
    uint32_t native; /* byte offset in the native code */
};

/* Where a guest that ran out of gas stopped: its gas stub is reached with the cost already taken. */
struct pvm_gas_stub {
    uint32_t native; /* native offset at which it goes on once there is more */
    uint32_t cost;   /* to be given back; 0 for a memset in the middle */
};

#define PVM_GAS_STUB_LENGTH 2u /* bytes of native code: a ud2 */
#define PVM_STRETCH 64u        /* bytes of guest code */

/* A stretch of guest code: where in them instructions and jump targets are (bit n: at byte n), so that an
 * instruction is found by its pc with a count of bits. */
struct pvm_stretch {
    uint64_t starts;       /* every instruction of the table */
    uint64_t jump_targets; /* those that a jump may land at: they start a basic block */
    uint32_t first;        /* number of the first instruction at or behind the stretch's first byte */
};

struct pvm_recompiled {
    size_t code_size;       /* bytes of native code written */
    uint32_t enter;         /* trampoline: loads regs from vmctx and jumps to its next_native_pc */
    uint32_t trap;          /* trampoline: saves regs and tmp as a fault left them, exits with VMCTX_GUEST_TRAP */
    uint32_t halt;          /* trampoline: the guest returned to its host; saves regs, exits with VMCTX_IDLE */
    struct pvm_instruction *instructions; /* owned; freed by pvm_recompiled_free */
    size_t instruction_count;
    uint32_t gas_stubs_at; /* native offset of the gas stubs, behind all instructions; they lie one behind the other */
    struct pvm_gas_stub *gas_stubs; /* owned */
    size_t gas_stub_count;
    struct pvm_stretch *stretches; /* owned; stretch n is of the code from byte n * PVM_STRETCH on */
    size_t stretch_count;
};

struct pvm_execution; /* execution.h */

/* Recompiles `program` into `out`, to be executed as `execution` says. Returns 0, or
 *   -ENOMEM  no memory for the tables
 *   -EFBIG   the native code does not fit `capacity`
 *   -ERANGE  `target` is out of reach
 *   -ENOTSUP the CPU lacks one of PVM_CPU_REQUIRED
 *   -EINVAL  the instruction set is not known, or the code is empty
 * After an error `result` owns nothing, and what `out` holds is of no use. */
int pvm_recompile(const struct pvm_program *program, const struct pvm_execution *execution,
                  const struct pvm_target *target, uint8_t *out, size_t capacity, struct pvm_recompiled *result);

/* Memory for a table of which all will be written, from malloc: to have all its pages in one call is cheaper than a
 * fault for each. */
void *pvm_allocate_table(size_t size);

void pvm_recompiled_free(struct pvm_recompiled *result);

/* Fills the native jump table, 2 * (count + 1) slots: the address `code_base + native offset` for each valid
 * entry, PVM_INVALID_CODE_ADDRESS for all others (entries that are no valid jump targets, odd addresses, 0). */
void pvm_fill_jump_table(const struct pvm_program *program, const struct pvm_recompiled *recompiled,
                         uint64_t code_base, uint64_t *slots);

/* The guest instruction that holds native offset `native`; NULL where there is none (trampolines, gas stubs). */
const struct pvm_instruction *pvm_find_native(const struct pvm_recompiled *recompiled, uint64_t native);

/* Makes registers saved by a fault in a memset those that the guest sees: the bytes before the fault are
 * stored and counted, so a0 has advanced and a2 has shrunk. `tmp` is that of vmctx, written by the trap
 * trampoline. Returns the gas to give back for the bytes that were paid and not stored. For a fault whose
 * instruction is a memset, or a guest that was interrupted at its rep stosb, and for nothing else. With a GS
 * base, a0 has to be made an offset from it before. */
uint32_t pvm_fixup_memset(uint32_t isa, uint64_t *regs, const uint64_t *tmp);

/* Where a memset that was interrupted at its rep stosb, at native offset `native`, goes on once its registers are fixed
 * up: at its beginning, behind the charge for its block. */
uint32_t pvm_memset_start(const struct pvm_execution *execution, bool gs_base, uint32_t native);

/* Where native code goes on with the instruction `at` that has got so far (enum pvm_progress). PVM_PROGRESS_CHARGED is
 * for one in a block (pvm_block_start). */
uint32_t pvm_native_after(const struct pvm_program *program, const struct pvm_execution *execution, bool gs_base,
                          const struct pvm_instruction *at, uint32_t progress);

/* The gas stub at native offset `native`; NULL where there is none. */
const struct pvm_gas_stub *pvm_find_gas_stub(const struct pvm_recompiled *recompiled, uint64_t native);

/* The guest instruction that starts at `pc`; NULL where none does. */
const struct pvm_instruction *pvm_find_pc(const struct pvm_recompiled *recompiled, uint32_t pc);

#endif
