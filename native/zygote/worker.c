/* SPDX-License-Identifier: MIT
 *
 * worker: one sandbox. It maps its windows, gives up everything else, and from then on only waits, runs guest
 * code and reports how that ended.
 *
 * The state word is the whole conversation (vmctx.h). A stopped guest leaves nothing on the native stack: the
 * registers are in vmctx, and the host resumes at any instruction through the enter trampoline.
 */
#define _GNU_SOURCE /* REG_RIP */
#include "zygote/zygote.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <ucontext.h>

#include "pvm/vmctx.h"
#include "zygote/confine.h"
#include "zygote/filter.h"

_Static_assert(sizeof(struct vmctx) <= LAYOUT_VMCTX_SIZE, "vmctx is one page");
_Static_assert(LAYOUT_ZYGOTE_BASE == 0xff0000000, "zygote.ld repeats it");

static struct vmctx *const worker_vmctx = (struct vmctx *)LAYOUT_VMCTX_BASE;

/* The worker's own state: written once while it is set up. */
static struct {
    uint64_t enter; /* native addresses of the module's trampolines */
    uint64_t trap;
} worker;

/* On top of the nursery's. */
static const struct confine_limit worker_limits[] = {
    {RLIMIT_NPROC, 1},
    {RLIMIT_NOFILE, 0},
    /* A backstop in seconds, not a policy: limits that callers set are enforced by the host. */
    {RLIMIT_CPU, 7 * 24 * 3600},
};

static const int worker_trap_signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
#define TRAP_SIGNAL_COUNT (sizeof worker_trap_signals / sizeof worker_trap_signals[0])

/* --- set-up --- */

static _Noreturn void worker_fail(enum zygote_step step, int error)
{
    worker_vmctx->failed_step = step;
    worker_vmctx->failed_errno = (uint32_t)-error;
    __atomic_store_n(&worker_vmctx->state, VMCTX_FAILED, __ATOMIC_RELEASE);
    linux_futex(&worker_vmctx->state, FUTEX_WAKE, INT32_MAX);
    linux_exit(1);
}

static void worker_check(enum zygote_step step, long result)
{
    if (result < 0)
        worker_fail(step, (int)result);
}

/* MAP_FIXED_NOREPLACE: nothing may be there yet, and nothing is replaced by mistake. */
static long worker_map_file(const struct zygote_mapping *mapping, int protection, int fd)
{
    if (mapping->size == 0)
        return 0;
    return linux_mmap(mapping->address, mapping->size, protection, MAP_SHARED | MAP_NORESERVE | MAP_FIXED_NOREPLACE, fd,
                      mapping->offset);
}

static void worker_map_windows(const struct zygote_request *request, const int *files)
{
    static const struct {
        enum zygote_file file;
        int protection;
    } windows[WINDOW_COUNT] = {
        [WINDOW_JUMP_TABLE] = {ZYGOTE_FILE_IMAGE, PROT_READ},
        [WINDOW_RETURN] = {ZYGOTE_FILE_IMAGE, PROT_READ},
        [WINDOW_CODE] = {ZYGOTE_FILE_IMAGE, PROT_READ | PROT_EXEC},
        [WINDOW_RO] = {ZYGOTE_FILE_IMAGE, PROT_READ},
        [WINDOW_STACK] = {ZYGOTE_FILE_RAM, PROT_READ | PROT_WRITE},
        [WINDOW_AUX] = {ZYGOTE_FILE_AUX, PROT_READ},
        [WINDOW_RW] = {ZYGOTE_FILE_RAM, PROT_READ | PROT_WRITE},
    };
    for (unsigned i = 0; i < WINDOW_COUNT; i++)
        worker_check(ZYGOTE_STEP_MAP_WINDOWS,
                     worker_map_file(&request->windows[i], windows[i].protection, files[windows[i].file]));

    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    worker_check(ZYGOTE_STEP_MAP_STACKS,
                 linux_mmap(LAYOUT_WORKER_STACK, LAYOUT_WORKER_STACK_SIZE, PROT_READ | PROT_WRITE, flags, -1, 0));
    worker_check(ZYGOTE_STEP_MAP_STACKS,
                 linux_mmap(LAYOUT_SIGNAL_STACK, LAYOUT_SIGNAL_STACK_SIZE, PROT_READ | PROT_WRITE, flags, -1, 0));
}

/* The host does all that is ever done with it, from the outside: no system call for that is left to the worker. */
static void worker_pass_userfaultfd(int socket)
{
    const int fd = linux_userfaultfd(ZYGOTE_USERFAULTFD_FLAGS);
    worker_check(ZYGOTE_STEP_USERFAULTFD, fd);
    worker_check(ZYGOTE_STEP_USERFAULTFD, message_reply(socket, ZYGOTE_STEP_NONE, 0, fd));
}

/* --- traps --- */

/* Runs on the signal stack with all signals blocked. It does not stop the guest itself: it sends it to the
 * trap trampoline, which saves the registers, as if the guest had jumped there. */
static void worker_on_trap(int number, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    if (number == SIGTRAP && park_on_step(registers))
        return;
    const uint64_t rip = (uint64_t)registers[REG_RIP];
    if (rip - LAYOUT_CODE_BASE >= LAYOUT_CODE_LIMIT)
        linux_exit(1); /* a fault of the zygote, or of a guest that is out of its code: either way the end */
    park_leave(registers);
    worker_vmctx->native_pc = rip;
    worker_vmctx->signal = (uint32_t)number;
    worker_vmctx->fault = (uint64_t)(uintptr_t)info->si_addr;
    registers[REG_RIP] = (greg_t)worker.trap;
}

static void worker_install_handlers(void)
{
    /* Guest code keeps its gas in rsp, which can look like any address: without SS_AUTODISARM (Linux 4.7) the
     * kernel would take one inside the signal stack for a handler that runs already. */
    const stack_t stack = {
        .ss_sp = (void *)LAYOUT_SIGNAL_STACK,
        .ss_flags = (int)(1u << 31), /* SS_AUTODISARM */
        .ss_size = LAYOUT_SIGNAL_STACK_SIZE,
    };
    worker_check(ZYGOTE_STEP_SIGNALS, linux_sigaltstack(&stack));
    const unsigned long restorer_flag = 0x04000000; /* SA_RESTORER: there is no vDSO to return through */
    /* struct kernel_sigaction: handler, flags, restorer, mask */
    uint64_t action[4] = {
        (uint64_t)(uintptr_t)worker_on_trap,
        (uint64_t)(SA_SIGINFO | SA_ONSTACK) | restorer_flag,
        (uint64_t)(uintptr_t)zygote_sigreturn,
        UINT64_MAX,
    };
    uint64_t blocked = UINT64_MAX;
    for (unsigned i = 0; i < TRAP_SIGNAL_COUNT; i++) {
        worker_check(ZYGOTE_STEP_SIGNALS, linux_rt_sigaction(worker_trap_signals[i], action));
        blocked &= ~(UINT64_C(1) << (worker_trap_signals[i] - 1));
    }
    action[0] = (uint64_t)(uintptr_t)park_on_signal;
    worker_check(ZYGOTE_STEP_SIGNALS, linux_rt_sigaction(ZYGOTE_INTERRUPT_SIGNAL, action));
    blocked &= ~(UINT64_C(1) << (ZYGOTE_INTERRUPT_SIGNAL - 1));
    worker_check(ZYGOTE_STEP_SIGNALS, linux_rt_sigprocmask(SIG_SETMASK, &blocked));
}

/* --- the guest phase --- */

void worker_await(void)
{
    uint32_t rounds = worker_vmctx->spin;
    uint32_t state;
    /* acquire: what the host wrote before BUSY */
    while ((state = __atomic_load_n(&worker_vmctx->state, __ATOMIC_ACQUIRE)) != VMCTX_BUSY) {
        if (state == VMCTX_DEAD)
            linux_exit(0); /* the host gave up on this worker and cannot signal it */
        if (rounds > 0) {
            rounds--;
            __builtin_ia32_pause();
        } else {
            linux_futex(&worker_vmctx->state, FUTEX_WAIT, state);
        }
    }
}

static _Noreturn void worker_wait(void)
{
    worker_await();
    zygote_enter_guest(worker.enter);
}

/* Reached from guest code through zygote_exit_entry. */
_Noreturn void worker_stopped(uint32_t state)
{
    park_forget();
    /* release: the registers that the trampoline wrote before this */
    __atomic_store_n(&worker_vmctx->state, state, __ATOMIC_RELEASE);
    linux_futex(&worker_vmctx->state, FUTEX_WAKE, INT32_MAX);
    worker_wait();
}

_Noreturn void worker_main(const struct zygote_request *request, const int *files)
{
    const long vmctx = linux_mmap(LAYOUT_VMCTX_BASE, LAYOUT_VMCTX_SIZE, PROT_READ | PROT_WRITE,
                                  MAP_SHARED | MAP_FIXED_NOREPLACE, files[ZYGOTE_FILE_RAM], 0);
    if (vmctx < 0)
        linux_exit(1); /* no page to say so in; the host sees the death */
    worker.enter = LAYOUT_CODE_BASE + request->enter;
    worker.trap = LAYOUT_CODE_BASE + request->trap;
    park_prepare(request);
    worker_map_windows(request, files);
    if (request->dynamic_paging)
        worker_pass_userfaultfd(files[ZYGOTE_FILE_PAGING]);
    worker_install_handlers();
    worker_check(ZYGOTE_STEP_CLOSE_FILES, linux_close_range(0, ~0u, 0));
    worker_check(ZYGOTE_STEP_RLIMITS, confine_limits(worker_limits, sizeof worker_limits / sizeof worker_limits[0]));
    /* the new user namespace came with a full set of capabilities over itself */
    worker_check(ZYGOTE_STEP_CAPABILITIES, confine_drop_capabilities());
    worker_check(ZYGOTE_STEP_DUMPABLE, linux_prctl(PR_SET_DUMPABLE, 0));
    worker_check(ZYGOTE_STEP_WORKER_FILTER, filter_install_worker());
    uint32_t state = VMCTX_STARTING;
    if (!__atomic_compare_exchange_n(&worker_vmctx->state, &state, VMCTX_IDLE, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        linux_exit(0); /* the host gave up already */
    /* From here on the word is the host's: it may say BUSY by now. */
    linux_futex(&worker_vmctx->state, FUTEX_WAKE, INT32_MAX);
    worker_wait();
}
