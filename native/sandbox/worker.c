/* SPDX-License-Identifier: MIT
 *
 * worker: the host's side of one sandbox process.
 *
 * What the guest says in the shared page is a hint; what the host believes is its own. Each word is read once.
 * The place where the guest stopped is looked up in the module's instruction table, and the instruction there
 * must be one that can stop in that way; its operands come from the module's code, not from the page.
 */
#define _GNU_SOURCE
#include "sandbox/worker.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "linux/linux.h"
#include "pvm/decode.h"
#include "sandbox/guest.h"
#include "sandbox/nursery.h"

/* --- life --- */

int sandbox_worker_create(sandbox_image *image, sandbox_worker **result)
{
    struct sandbox_worker *worker = calloc(1, sizeof *worker);
    if (worker == NULL)
        return -ENOMEM;
    worker->image = image;
    worker->owner = getpid();
    worker->pidfd = -1;
    const int error = memory_create(&worker->memory, image, true);
    if (error < 0) {
        sandbox_worker_destroy(worker);
        return error;
    }
    worker->vmctx = (struct vmctx *)(void *)worker->memory.ram;
    worker->vmctx->state = VMCTX_STARTING;
    *result = worker;
    return 0;
}

int sandbox_worker_request(sandbox_worker *worker, sandbox_nursery *nursery)
{
    struct zygote_request request = {
        .magic = ZYGOTE_MAGIC,
        .size = sizeof request,
        .enter = worker->image->recompiled.enter,
        .trap = worker->image->recompiled.trap,
    };
    sandbox_image_windows(worker->image, request.windows);
    const int files[ZYGOTE_FILE_COUNT] = {
        [ZYGOTE_FILE_RAM] = worker->memory.ram_file,
        [ZYGOTE_FILE_IMAGE] = worker->image->file,
        [ZYGOTE_FILE_AUX] = worker->memory.aux_file,
    };
    return nursery_send(nursery, &request, sizeof request, files, zygote_request_files(&request));
}

int sandbox_worker_receive(sandbox_worker *worker, sandbox_nursery *nursery, uint32_t *step)
{
    *step = ZYGOTE_STEP_NONE;
    const int error = nursery_receive(nursery, step, &worker->pidfd);
    if (error == 0 && worker->pidfd < 0)
        return -EPROTO;
    return error;
}

void sandbox_worker_kill(sandbox_worker *worker)
{
    if (worker->pidfd >= 0 && worker->owner == getpid())
        syscall(SYS_pidfd_send_signal, worker->pidfd, SIGKILL, NULL, 0);
}

void sandbox_worker_destroy(sandbox_worker *worker)
{
    if (worker == NULL)
        return;
    sandbox_worker_kill(worker);
    if (worker->pidfd >= 0)
        close(worker->pidfd);
    else if (worker->vmctx != NULL)
        sandbox_worker_mark_dead(worker); /* a process whose pidfd got lost on the way ends itself on this */
    memory_destroy(&worker->memory);
    free(worker);
}

int sandbox_worker_pidfd(const sandbox_worker *worker)
{
    return worker->pidfd;
}

struct sandbox_guest *sandbox_worker_guest(sandbox_worker *worker)
{
    return &worker->guest;
}

/* --- death --- */

void sandbox_worker_mark_dead(sandbox_worker *worker)
{
    if (worker->owner != getpid())
        return;
    worker->dead = true;
    __atomic_store_n(&worker->vmctx->state, VMCTX_DEAD, __ATOMIC_RELEASE);
    linux_futex(&worker->vmctx->state, FUTEX_WAKE, INT32_MAX);
}

/* From linux/pidfd.h of Linux 6.15, which older headers lack; PID since 6.13. */
struct worker_pidfd_info {
    uint64_t mask;
    uint64_t cgroup;
    uint32_t ids[11];
    int32_t exit_code;
};
_Static_assert(sizeof(struct worker_pidfd_info) == 64, "PIDFD_INFO_SIZE_VER0");
#define WORKER_PIDFD_GET_INFO _IOWR(0xFF, 11, struct worker_pidfd_info)
#define WORKER_PIDFD_INFO_PID (UINT64_C(1) << 0)
#define WORKER_PIDFD_INFO_EXIT (UINT64_C(1) << 3)

int sandbox_worker_pid(const sandbox_worker *worker)
{
    struct worker_pidfd_info info = {.mask = WORKER_PIDFD_INFO_PID};
    if (ioctl(worker->pidfd, WORKER_PIDFD_GET_INFO, &info) != 0)
        return -errno;
    return (int)info.ids[0];
}

int sandbox_worker_wait_status(const sandbox_worker *worker)
{
    struct worker_pidfd_info info = {.mask = WORKER_PIDFD_INFO_EXIT};
    if (ioctl(worker->pidfd, WORKER_PIDFD_GET_INFO, &info) != 0)
        return -errno;
    return (info.mask & WORKER_PIDFD_INFO_EXIT) != 0 ? info.exit_code : -EAGAIN;
}

/* --- running --- */

uint32_t *sandbox_worker_futex(sandbox_worker *worker)
{
    return &worker->vmctx->state;
}

uint32_t sandbox_worker_futex_value(const sandbox_worker *worker)
{
    return worker->started ? VMCTX_BUSY : VMCTX_STARTING;
}

static void worker_go(sandbox_worker *worker, uint32_t native)
{
    struct vmctx *vmctx = worker->vmctx;
    const uint64_t mask = guest_word_mask(worker->image);
    for (unsigned i = 0; i < PVM_REGISTER_COUNT; i++)
        vmctx->regs[i] = worker->guest.regs[i] & mask;
    vmctx->gas = worker->guest.gas;
    vmctx->next_native_pc = LAYOUT_CODE_BASE + native;
    vmctx->spin = worker->spin;
    /* release: the registers above */
    __atomic_store_n(&vmctx->state, VMCTX_BUSY, __ATOMIC_RELEASE);
    linux_futex(&vmctx->state, FUTEX_WAKE, 1);
}

static int worker_forged(sandbox_worker *worker)
{
    sandbox_worker_kill(worker);
    return SANDBOX_FORGED;
}

static int worker_trapped(sandbox_worker *worker, uint32_t pc, uint32_t signal)
{
    worker->guest.pc = pc;
    worker->guest.has_pc = 1;
    worker->guest.signal = signal;
    return SANDBOX_TRAP;
}

/* The gas ran out at `stub`, with its cost taken. */
static int worker_out_of_gas(sandbox_worker *worker, const struct pvm_gas_stub *stub)
{
    struct sandbox_guest *guest = &worker->guest;
    if (worker->image->execution.gas_metering == PVM_GAS_ASYNC)
        return SANDBOX_OUT_OF_GAS;
    const struct pvm_instruction *at = pvm_find_native(&worker->image->recompiled, stub->native);
    guest->gas += stub->cost;
    guest->pc = guest->next_pc = at->pc;
    guest->has_pc = guest->has_next_pc = 1;
    worker->resume_native = stub->native;
    return SANDBOX_OUT_OF_GAS;
}

/* The guest stopped in a state that carries registers. */
static int worker_take(sandbox_worker *worker, uint32_t state)
{
    /* volatile: one read of each word, whatever the guest does meanwhile */
    const volatile struct vmctx *vmctx = worker->vmctx;
    struct sandbox_guest *guest = &worker->guest;
    const uint64_t mask = guest_word_mask(worker->image);
    for (unsigned i = 0; i < PVM_REGISTER_COUNT; i++)
        guest->regs[i] = vmctx->regs[i] & mask;
    guest->gas = vmctx->gas;
    guest->has_pc = 0;
    guest->has_next_pc = 0;
    guest->entering = 0;
    if (state == VMCTX_IDLE)
        return SANDBOX_FINISHED;

    /* a trap reports the instruction itself, the others the address behind the jump that left it */
    const uint64_t native = vmctx->native_pc - (state == VMCTX_GUEST_TRAP ? 0 : 1) - LAYOUT_CODE_BASE;
    if (state == VMCTX_GUEST_TRAP) {
        const struct pvm_gas_stub *stub = pvm_find_gas_stub(&worker->image->recompiled, native);
        if (stub != NULL)
            return worker_out_of_gas(worker, stub);
    }
    const struct pvm_instruction *at = pvm_find_native(&worker->image->recompiled, native);
    if (at == NULL)
        return worker_forged(worker);
    const struct pvm_decoded decoded = guest_instruction(worker->image, at->pc);
    guest->pc = at->pc;
    guest->has_pc = 1;
    if (state == VMCTX_GUEST_TRAP) {
        if (decoded.op == PVM_OP_memset) {
            const uint64_t tmp[2] = {vmctx->tmp[0], vmctx->tmp[1]};
            const uint32_t unused = pvm_fixup_memset(worker->image->program.isa, guest->regs, tmp);
            if (worker->image->execution.gas_metering != PVM_GAS_NONE)
                guest->gas += unused;
        }
        const uint32_t signal = vmctx->signal;
        return worker_trapped(worker, at->pc, signal < 65 ? signal : 0);
    }
    if (state == VMCTX_GUEST_STEP && worker->image->execution.step_tracing) {
        guest->next_pc = at->pc;
        guest->has_next_pc = 1;
        worker->resume_native = (uint32_t)native + 1;
        return SANDBOX_STEP;
    }
    const struct pvm_instruction *next = at + 1; /* neither ends a block, so the table has a next one */
    if (state == VMCTX_GUEST_ECALLI && decoded.op == PVM_OP_ecalli) {
        guest->host_call = (uint32_t)decoded.x;
        guest->next_pc = next->pc;
        guest->has_next_pc = 1;
        worker->resume_native = next->native;
        return SANDBOX_HOST_CALL;
    }
    if (state == VMCTX_GUEST_SBRK && decoded.op == PVM_OP_sbrk) {
        guest_sbrk(&worker->memory, guest, &decoded); /* only the host can move the end of the ram file */
        guest->has_pc = 0;
        worker_go(worker, next->native);
        return SANDBOX_BUSY;
    }
    return worker_forged(worker);
}

static int worker_look(sandbox_worker *worker)
{
    /* acquire: what the worker wrote before it changed the state */
    const uint32_t state = __atomic_load_n(&worker->vmctx->state, __ATOMIC_ACQUIRE);
    if (worker->dead)
        return SANDBOX_DIED;
    switch (state) {
    case VMCTX_STARTING:
        return worker->started ? worker_forged(worker) : SANDBOX_BUSY;
    case VMCTX_FAILED:
        if (worker->started)
            return worker_forged(worker);
        worker->guest.failed_step = worker->vmctx->failed_step;
        worker->guest.failed_errno = worker->vmctx->failed_errno;
        return SANDBOX_FAILED;
    case VMCTX_BUSY:
        return worker->started ? SANDBOX_BUSY : worker_forged(worker);
    case VMCTX_IDLE:
        if (!worker->started) {
            worker->started = true;
            return SANDBOX_FINISHED;
        }
        return worker_take(worker, state);
    case VMCTX_GUEST_ECALLI:
    case VMCTX_GUEST_TRAP:
    case VMCTX_GUEST_SBRK:
    case VMCTX_GUEST_STEP:
        return worker->started ? worker_take(worker, state) : worker_forged(worker);
    default:
        return worker_forged(worker);
    }
}

int sandbox_worker_poll(sandbox_worker *worker)
{
    return worker_look(worker);
}

static uint64_t worker_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The host set the next pc: charges the block around it, unless the code there does it. Returns the event with
 * which it ends at once, or SANDBOX_BUSY with *native set. */
static int worker_enter(sandbox_worker *worker, uint32_t *native)
{
    struct sandbox_guest *guest = &worker->guest;
    const struct sandbox_image *image = worker->image;
    const struct pvm_instruction *at = pvm_find_pc(&image->recompiled, guest->next_pc);
    uint32_t start;
    if (at == NULL || !pvm_block_start(&image->program, guest->next_pc, &start)) {
        /* no instruction starts there, or no block holds it: an invalid one, which traps (sections 4 and 8) */
        guest->has_next_pc = 0;
        guest->entering = 0;
        return worker_trapped(worker, guest->next_pc, 0);
    }
    *native = at->native;
    if (image->execution.gas_metering == PVM_GAS_NONE || image->execution.per_instruction || start == guest->next_pc)
        return SANDBOX_BUSY;
    const uint32_t cost = pvm_block_cost(&image->program, &image->execution.cost, start);
    if (guest->gas >= cost) {
        guest->gas -= cost;
        return SANDBOX_BUSY;
    }
    if (image->execution.gas_metering == PVM_GAS_SYNC) {
        guest->pc = guest->next_pc;
        guest->has_pc = 1;
    } else {
        guest->gas -= cost;
        guest->has_pc = guest->has_next_pc = 0;
    }
    return SANDBOX_OUT_OF_GAS;
}

int sandbox_worker_resume(sandbox_worker *worker, uint64_t spin_ns, uint32_t worker_spin)
{
    struct sandbox_guest *guest = &worker->guest;
    if (worker->dead)
        return SANDBOX_DIED;
    if (!guest->has_next_pc)
        return -EINVAL;
    if (guest_is_overdrawn(worker->image, guest))
        return SANDBOX_OUT_OF_GAS; /* guest code counts on gas that is not negative */
    uint32_t native = worker->resume_native;
    int event = guest->entering ? worker_enter(worker, &native) : SANDBOX_BUSY;
    if (event != SANDBOX_BUSY)
        return event;
    guest->has_next_pc = 0;
    guest->entering = 0;
    guest->has_pc = 0;
    worker->spin = worker_spin;
    worker_go(worker, native);

    event = worker_look(worker);
    if (event != SANDBOX_BUSY || spin_ns == 0)
        return event;
    const uint64_t end = worker_now() + spin_ns;
    do {
        for (unsigned i = 0; i < 64 && event == SANDBOX_BUSY; i++) {
            __builtin_ia32_pause();
            event = worker_look(worker);
        }
    } while (event == SANDBOX_BUSY && worker_now() < end);
    return event;
}

/* --- memory --- */

sandbox_memory *sandbox_worker_memory(sandbox_worker *worker)
{
    return &worker->memory;
}

int sandbox_worker_reset(sandbox_worker *worker)
{
    const int error = memory_reset(&worker->memory);
    if (error < 0)
        return error;
    memset(&worker->guest, 0, sizeof worker->guest);
    memset(worker->vmctx->regs, 0, sizeof worker->vmctx->regs);
    memset(worker->vmctx->tmp, 0, sizeof worker->vmctx->tmp);
    return 0;
}
