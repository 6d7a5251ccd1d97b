/* SPDX-License-Identifier: MIT
 *
 * generic_enter: into guest code and back, on the caller's stack. Guest code changes every register but rsp.
 */
#include "sandbox/generic.h"

    .text

    .globl generic_enter
    .hidden generic_enter
    .type generic_enter, @function
generic_enter:
    .cfi_startproc
    push %rbp
    .cfi_adjust_cfa_offset 8
    push %rbx
    .cfi_adjust_cfa_offset 8
    push %r12
    .cfi_adjust_cfa_offset 8
    push %r13
    .cfi_adjust_cfa_offset 8
    push %r14
    .cfi_adjust_cfa_offset 8
    push %r15
    .cfi_adjust_cfa_offset 8
    cmpl $0, (%rsi)
    jne generic_not_entered

    /* A signal that comes before the look at *stop has set that before; one that comes here finds the address. */
    .globl generic_checked
    .hidden generic_checked
generic_checked:
    jmp *%rdi

generic_not_entered:
    mov $GENERIC_NOT_ENTERED, %edi

    /* native code jumps here, with the state in edi */
    .globl generic_exit
    .hidden generic_exit
generic_exit:
    mov %edi, %eax
    pop %r15
    .cfi_adjust_cfa_offset -8
    pop %r14
    .cfi_adjust_cfa_offset -8
    pop %r13
    .cfi_adjust_cfa_offset -8
    pop %r12
    .cfi_adjust_cfa_offset -8
    pop %rbx
    .cfi_adjust_cfa_offset -8
    pop %rbp
    .cfi_adjust_cfa_offset -8
    ret
    .cfi_endproc
    .size generic_enter, . - generic_enter

    .section .note.GNU-stack, "", @progbits
