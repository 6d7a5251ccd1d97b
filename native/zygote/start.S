/* SPDX-License-Identifier: MIT
 *
 * The few places of the zygote that C cannot express: where it is entered and left.
 */
#define UINT64_C(number) number
#include "zygote/layout.h"

    /* At LAYOUT_EXIT, because native code jumps here. edi: the new state. rsp holds the guest's gas, which its
     * trampoline saved: a guest is resumed from its vmctx alone. */
    .section .text.entry, "ax"
    .globl zygote_exit_entry
zygote_exit_entry:
    movabs $(LAYOUT_WORKER_STACK + LAYOUT_WORKER_STACK_SIZE), %rsp
    cld
    call worker_stopped
    ud2

    .text
    .globl _start
_start:
    mov %rsp, %rdi
    lea start_stack_top(%rip), %rsp
    xor %ebp, %ebp
    call launcher_main
    ud2

    /* rdi: address of the enter trampoline. Guest code has no native stack. */
    .globl zygote_enter_guest
zygote_enter_guest:
    jmp *%rdi

    /* The kernel returns from a signal handler to here (SA_RESTORER). */
    .globl zygote_sigreturn
zygote_sigreturn:
    mov $15, %eax /* rt_sigreturn */
    syscall
    ud2

    .bss
    .balign 64
    .globl start_stack
start_stack:
    .skip 0x4000
start_stack_top:

    .section .note.GNU-stack, "", @progbits
