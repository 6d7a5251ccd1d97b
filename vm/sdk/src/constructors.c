/* SPDX-License-Identifier: MIT */
/* Static constructors, in front of the first call of any export. Linked into programs that have some. */
#include <stdbool.h>

typedef void constructor(void);
extern constructor *const __init_array_start[] __attribute__((visibility("hidden")));
extern constructor *const __init_array_end[] __attribute__((visibility("hidden")));

__attribute__((used)) static void construct(void) {
    static bool done;
    if (done)
        return;
    done = true;
    for (constructor *const *each = __init_array_start; each != __init_array_end; each++)
        (*each)();
}

#if __riscv_xlen == 64
#define STORE "sd"
#define LOAD "ld"
#define WORD "8"
#else
#define STORE "sw"
#define LOAD "lw"
#define WORD "4"
#endif
#define EACH(instruction) \
    instruction " ra, 0*" WORD "(sp)\n" instruction " t1, 1*" WORD "(sp)\n" instruction " a0, 2*" WORD "(sp)\n" \
    instruction " a1, 3*" WORD "(sp)\n" instruction " a2, 4*" WORD "(sp)\n" instruction " a3, 5*" WORD "(sp)\n" \
    instruction " a4, 6*" WORD "(sp)\n" instruction " a5, 7*" WORD "(sp)\n"

/* Called by the first instructions of every export (pvm.h), which want back everything but t0: the export's arguments
   are in the registers. The way back is in t1. */
__attribute__((naked)) void __pvm_constructors(void) {
    __asm__("addi sp, sp, -8*" WORD "\n" EACH(STORE)
            "call construct\n" EACH(LOAD)
            "addi sp, sp, 8*" WORD "\n"
            "jr t1\n");
}
