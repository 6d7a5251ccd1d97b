/* SPDX-License-Identifier: MIT */
/* setjmp for RV32E and RV64E with a soft-float ABI: ra, sp, s0 and s1 are all that a function has to keep. */
#if __riscv_xlen == 64
#define STORE sd
#define LOAD ld
#define WORD 8
#else
#define STORE sw
#define LOAD lw
#define WORD 4
#endif

    .section .text.setjmp, "ax", @progbits
    .globl setjmp, _setjmp, sigsetjmp, __sigsetjmp
    .type setjmp, @function
setjmp:
_setjmp:
sigsetjmp: /* there are no signals: the second argument means nothing */
__sigsetjmp:
    STORE ra, 0*WORD(a0)
    STORE sp, 1*WORD(a0)
    STORE s0, 2*WORD(a0)
    STORE s1, 3*WORD(a0)
    li a0, 0
    ret

    .section .text.longjmp, "ax", @progbits
    .globl longjmp, _longjmp, siglongjmp
    .type longjmp, @function
longjmp:
_longjmp:
siglongjmp:
    LOAD ra, 0*WORD(a0)
    LOAD sp, 1*WORD(a0)
    LOAD s0, 2*WORD(a0)
    LOAD s1, 3*WORD(a0)
    seqz a0, a1 /* 0 becomes 1 */
    add a0, a0, a1
    ret
