/* SPDX-License-Identifier: MIT
 *
 * Runs recompiled guest code in this process, for tests: guest memory at its own low addresses, native code,
 * vmctx and the native jump table at fixed places above. Faults come back as exits, through signal handlers.
 * No sandbox: what it runs is trusted to be what the recompiler promises, which is what the tests are about.
 *
 * Reads commands from standard input and answers on standard output, both in little-endian words; driver.py
 * is the other side. Whatever goes wrong ends the process with a message.
 */
#define _GNU_SOURCE /* REG_RIP: registers of a signal context */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "decode.h"
#include "execution.h"
#include "recompiler.h"
#include "vmctx.h"

#define CODE_BASE UINT64_C(0x600000000000)
#define CODE_CAPACITY UINT64_C(0x8000000)
#define VMCTX_BASE (CODE_BASE - 0x20000)
#define EXIT_BASE (CODE_BASE - 0x10000)
#define TABLE_BASE (CODE_BASE + 0x40000000)
#define TABLE_WINDOW (UINT64_C(8) << 32) /* one slot per 32-bit code address */
#define PAGE UINT64_C(4096)

enum { TIMED_OUT = 100, TIMEOUT_SECONDS = 10 };
enum { NO_PC = UINT32_MAX };

static struct vmctx *const vmctx = (struct vmctx *)VMCTX_BASE;
static struct pvm_program program;
static const struct pvm_execution execution; /* no gas, no tracing */
static struct pvm_recompiled recompiled;
static uint64_t fault_address; /* UINT64_MAX if it was no access to memory */

/* Calls the enter trampoline; returns the state that the guest left with. */
uint32_t enter_guest(uint64_t trampoline);
void leave_guest(void);
__asm__(".pushsection .text\n"
        ".globl enter_guest, leave_guest\n"
        "enter_guest:\n"
        "    push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        "    mov %rsp, host_stack(%rip)\n"
        "    jmp *%rdi\n"
        "leave_guest:\n"
        "    mov host_stack(%rip), %rsp\n"
        "    pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
        "    mov %edi, %eax\n"
        "    ret\n"
        ".local host_stack\n"
        ".comm host_stack, 8, 8\n"
        ".popsection\n");

static void fail(const char *what)
{
    fprintf(stderr, "driver: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void take(void *data, size_t size)
{
    if (size != 0 && fread(data, size, 1, stdin) != 1)
        fail("input ends within a command");
}

static uint32_t take_u32(void)
{
    uint32_t value;
    take(&value, sizeof value);
    return value;
}

static void *take_bytes(size_t size)
{
    void *data = malloc(size ? size : 1);
    if (!data)
        fail("malloc");
    take(data, size);
    return data;
}

static void give(const void *data, size_t size)
{
    if (size != 0 && fwrite(data, size, 1, stdout) != 1)
        fail("write");
}

static void map_at(uint64_t address, uint64_t size, int protection)
{
    void *place = (void *)address;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE;
    if (mmap(place, size, protection, flags, -1, 0) != place)
        fail("mmap");
}

/* --- signals ----------------------------------------------------------------------------------------------- */

/* Sends a faulting guest to the trap trampoline, as a worker does. */
static void on_signal(int number, siginfo_t *info, void *context)
{
    greg_t *gregs = ((ucontext_t *)context)->uc_mcontext.gregs;
    uint64_t rip = (uint64_t)gregs[REG_RIP];
    if (rip - CODE_BASE >= recompiled.code_size) {
        if (number == SIGALRM)
            return;
        signal(number, SIG_DFL); /* not the guest's: die of it on return */
        return;
    }
    vmctx->native_pc = rip;
    vmctx->signal = (uint32_t)number;
    bool page_fault = number == SIGSEGV && (info->si_code == SEGV_MAPERR || info->si_code == SEGV_ACCERR);
    fault_address = page_fault ? (uint64_t)info->si_addr : UINT64_MAX;
    gregs[REG_RIP] = (greg_t)(CODE_BASE + recompiled.trap);
}

static void install_handlers(void)
{
    static uint8_t stack[1 << 16];
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGALRM};
    /* SS_AUTODISARM: guest code uses rsp for what it likes */
    stack_t alternate = {.ss_sp = stack, .ss_flags = (int)(1u << 31), .ss_size = sizeof stack};
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    if (sigaltstack(&alternate, NULL) < 0)
        fail("sigaltstack");
    for (size_t n = 0; n < sizeof numbers / sizeof *numbers; n++)
        if (sigaction(numbers[n], &action, NULL) < 0)
            fail("sigaction");
}

/* --- commands ---------------------------------------------------------------------------------------------- */

static int64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void build_jump_table(void)
{
    static uint64_t mapped;
    if (mapped && munmap((void *)TABLE_BASE, mapped) < 0)
        fail("munmap");
    uint64_t size = 16 * ((uint64_t)program.jump_table_count + 1);
    mapped = (size + PAGE - 1) & -PAGE;
    map_at(TABLE_BASE, mapped, PROT_READ | PROT_WRITE);
    uint64_t *slots = (uint64_t *)TABLE_BASE;
    pvm_fill_jump_table(&program, &recompiled, CODE_BASE, slots);
    for (uint64_t n = size / 8; n < mapped / 8; n++)
        slots[n] = PVM_INVALID_CODE_ADDRESS;

    uint64_t *halt = (uint64_t *)(TABLE_BASE + UINT64_C(8) * PVM_RETURN_TO_HOST);
    for (size_t n = 0; n < PAGE / 8; n++)
        halt[n] = PVM_INVALID_CODE_ADDRESS;
    halt[0] = CODE_BASE + recompiled.halt;
}

static void load_program(void)
{
    free((void *)program.code);
    free((void *)program.bitmask);
    free((void *)program.jump_table);
    pvm_recompiled_free(&recompiled);
    program.isa = take_u32();
    uint32_t without_features = take_u32();
    program.code_size = take_u32();
    program.jump_table_count = take_u32();
    program.jump_table_entry_size = take_u32();
    program.code = take_bytes(program.code_size);
    program.bitmask = take_bytes((program.code_size + 7) / 8);
    program.jump_table = take_bytes((size_t)program.jump_table_count * program.jump_table_entry_size);

    struct pvm_target target = {
        .vmctx = (int64_t)(VMCTX_BASE - CODE_BASE),
        .jump_table = (int64_t)(TABLE_BASE - CODE_BASE),
        .exit = (int64_t)(EXIT_BASE - CODE_BASE),
        .cpu_features = pvm_cpu_features() & ~without_features,
    };
    int64_t start = nanoseconds();
    int status = pvm_recompile(&program, &execution, &target, (uint8_t *)CODE_BASE, CODE_CAPACITY, &recompiled);
    int64_t duration = nanoseconds() - start;
    if (status == 0)
        build_jump_table();
    struct {
        int64_t duration;
        int32_t status;
        uint32_t code_size, instruction_count;
    } __attribute__((packed)) answer = {duration, status, (uint32_t)recompiled.code_size,
                                        (uint32_t)recompiled.instruction_count};
    give(&answer, sizeof answer);
}

static void run(void)
{
    uint32_t pc = take_u32();
    take(vmctx->regs, sizeof vmctx->regs);
    struct {
        uint64_t regs[PVM_REGISTER_COUNT], fault_address;
        uint32_t state, pc, arg, signal;
    } __attribute__((packed)) answer = {.pc = NO_PC};

    if (pc == NO_PC) {
        vmctx->next_native_pc = vmctx->native_pc;
    } else {
        const struct pvm_instruction *first = pvm_find_pc(&recompiled, pc);
        if (!first) {
            errno = EINVAL;
            fail("no instruction at the entry");
        }
        vmctx->next_native_pc = CODE_BASE + first->native;
    }
    struct itimerval limit = {.it_value.tv_sec = TIMEOUT_SECONDS}, off = {0};
    setitimer(ITIMER_REAL, &limit, NULL);
    answer.state = enter_guest(CODE_BASE + recompiled.enter);
    if (answer.state == VMCTX_GUEST_TRAP && vmctx->signal == SIGALRM)
        answer.state = TIMED_OUT;
    setitimer(ITIMER_REAL, &off, NULL);

    if (answer.state != VMCTX_IDLE) {
        uint64_t back = answer.state == VMCTX_GUEST_ECALLI || answer.state == VMCTX_GUEST_SBRK;
        const struct pvm_instruction *last = pvm_find_native(&recompiled, vmctx->native_pc - CODE_BASE - back);
        if (last) {
            answer.pc = last->pc;
            if (answer.state == VMCTX_GUEST_ECALLI)
                answer.arg = (uint32_t)pvm_decode(&program, last->pc).x;
            if (answer.state == VMCTX_GUEST_TRAP && pvm_has_instruction(&program, last->pc) &&
                pvm_op_at(&program, last->pc) == PVM_OP_memset)
                pvm_fixup_memset(program.isa, vmctx->regs, vmctx->tmp);
        }
    }
    memcpy(answer.regs, vmctx->regs, sizeof answer.regs);
    answer.signal = vmctx->signal;
    answer.fault_address = answer.state == VMCTX_GUEST_TRAP ? fault_address : UINT64_MAX;
    give(&answer, sizeof answer);
}

int main(void)
{
    static const uint8_t jump_to_leave_guest[] = {0xff, 0x25, 0, 0, 0, 0}; /* jmp [rip + 0] */
    map_at(CODE_BASE, CODE_CAPACITY, PROT_READ | PROT_WRITE | PROT_EXEC);
    map_at(VMCTX_BASE, PAGE, PROT_READ | PROT_WRITE);
    map_at(EXIT_BASE, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
    map_at(TABLE_BASE + UINT64_C(8) * PVM_RETURN_TO_HOST, PAGE, PROT_READ | PROT_WRITE);
    uint64_t leave = (uint64_t)(uintptr_t)leave_guest;
    memcpy((void *)EXIT_BASE, jump_to_leave_guest, sizeof jump_to_leave_guest);
    memcpy((void *)(EXIT_BASE + sizeof jump_to_leave_guest), &leave, sizeof leave);
    install_handlers();

    for (int command; (command = getchar()) != EOF;) {
        uint32_t address, size;
        uint8_t *data;
        switch (command) {
        case 'P': /* recompile a program */
            load_program();
            break;
        case 'R': /* run it from a pc, or from where a host call left it */
            run();
            break;
        case 'I': /* the table of instructions */
            give(recompiled.instructions, recompiled.instruction_count * sizeof *recompiled.instructions);
            break;
        case 'C': /* the native code */
            give((void *)CODE_BASE, recompiled.code_size);
            break;
        case 'M': /* map guest memory; it must be free */
            address = take_u32();
            size = take_u32();
            map_at(address, size, PROT_READ | PROT_WRITE);
            break;
        case 'U': /* unmap guest memory */
            address = take_u32();
            size = take_u32();
            if (munmap((void *)(uint64_t)address, size) < 0)
                fail("munmap");
            break;
        case 'A': /* access: 1 read-only, 3 read and write */
            address = take_u32();
            size = take_u32();
            if (mprotect((void *)(uint64_t)address, size, (int)take_u32()) < 0)
                fail("mprotect");
            break;
        case 'W': /* write guest memory */
            address = take_u32();
            size = take_u32();
            data = take_bytes(size);
            memcpy((void *)(uint64_t)address, data, size);
            free(data);
            break;
        case 'G': /* get guest memory */
            address = take_u32();
            size = take_u32();
            give((void *)(uint64_t)address, size);
            break;
        default:
            errno = EINVAL;
            fail("unknown command");
        }
        if (fflush(stdout) != 0)
            fail("write");
    }
    return 0;
}
