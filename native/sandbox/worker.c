/* SPDX-License-Identifier: MIT
 *
 * worker: the host's side of one sandbox process. What the shared page says is judged in recompiled.c.
 */
#define _GNU_SOURCE
#include "sandbox/worker.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "linux/linux.h"
#include "sandbox/nursery.h"
#include "sandbox/paging.h"

/* A killed process is dead in a tenth of a millisecond; this only keeps a broken kernel from hanging the caller. */
#define WORKER_DEATH_MS 1000
/* Longest time for which page faults are served one after the other before the event loop gets a turn. */
#define WORKER_PAGING_NS UINT64_C(1000000)

/* --- life --- */

int sandbox_worker_create(sandbox_image *image, sandbox_worker **result)
{
    struct sandbox_worker *worker = calloc(1, sizeof *worker);
    if (worker == NULL)
        return -ENOMEM;
    worker->recompiled.image = image;
    worker->recompiled.code_base = LAYOUT_CODE_BASE;
    worker->recompiled.interrupt = ZYGOTE_INTERRUPT_SIGNAL;
    worker->owner = getpid();
    worker->pidfd = worker->paging_socket = -1;
    const int error = memory_create(&worker->recompiled.memory, image, true);
    if (error < 0) {
        sandbox_worker_destroy(worker);
        return error;
    }
    worker->recompiled.vmctx = (struct vmctx *)(void *)worker->recompiled.memory.ram;
    worker->recompiled.vmctx->state = VMCTX_STARTING;
    *result = worker;
    return 0;
}

int sandbox_worker_request(sandbox_worker *worker, sandbox_nursery *nursery)
{
    struct zygote_request request = {
        .magic = ZYGOTE_MAGIC,
        .size = sizeof request,
        .enter = worker->recompiled.image->recompiled.enter,
        .trap = worker->recompiled.image->recompiled.trap,
        .dynamic_paging = worker->recompiled.image->dynamic_paging,
        .guest_begin = worker->recompiled.image->recompiled.instructions[0].native,
        .guest_end = worker->recompiled.image->recompiled.gas_stubs_at,
    };
    sandbox_image_windows(worker->recompiled.image, request.windows);
    /* a socket of its own: what a worker says there mixes with nobody else's */
    int sockets[2] = {-1, -1};
    if (request.dynamic_paging && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sockets) != 0)
        return -errno;
    const int all[ZYGOTE_FILE_COUNT] = {
        [ZYGOTE_FILE_RAM] = worker->recompiled.memory.ram_file,
        [ZYGOTE_FILE_IMAGE] = worker->recompiled.image->file,
        [ZYGOTE_FILE_AUX] = worker->recompiled.memory.aux_file,
        [ZYGOTE_FILE_PAGING] = sockets[1],
    };
    int files[ZYGOTE_FILE_COUNT];
    unsigned count = 0;
    for (unsigned file = 0; file < ZYGOTE_FILE_COUNT; file++)
        if (zygote_request_has(&request, (enum zygote_file)file))
            files[count++] = all[file];
    const int error = nursery_send(nursery, &request, sizeof request, files, count);
    if (sockets[1] >= 0)
        close(sockets[1]);
    if (error < 0 && sockets[0] >= 0)
        close(sockets[0]);
    else
        worker->paging_socket = sockets[0];
    return error;
}

/* Takes the userfaultfd that a worker which is ready has sent. */
static int worker_attach_paging(sandbox_worker *worker)
{
    uint32_t step;
    int uffd = -1;
    int error = nursery_receive_from(worker->paging_socket, &step, &uffd);
    close(worker->paging_socket);
    worker->paging_socket = -1;
    if (error == 0)
        error = uffd >= 0 ? paging_attach(&worker->recompiled.memory, uffd, 0) : -EPROTO;
    return error;
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
    if (worker->paging_socket >= 0)
        close(worker->paging_socket);
    if (worker->pidfd >= 0 && worker->recompiled.memory.paging.uffd >= 0 && !worker->dead &&
        worker->owner == getpid()) {
        /* once the userfaultfd is closed, a guest that still ran would find zeroes in the place of its pages */
        struct pollfd death = {.fd = worker->pidfd, .events = POLLIN};
        poll(&death, 1, WORKER_DEATH_MS);
    }
    if (worker->pidfd >= 0)
        close(worker->pidfd);
    else if (worker->recompiled.vmctx != NULL)
        sandbox_worker_mark_dead(worker); /* a process whose pidfd got lost on the way ends itself on this */
    memory_destroy(&worker->recompiled.memory);
    free(worker);
}

int sandbox_worker_pidfd(const sandbox_worker *worker)
{
    return worker->pidfd;
}

struct sandbox_guest *sandbox_worker_guest(sandbox_worker *worker)
{
    return &worker->recompiled.guest;
}

/* --- death --- */

int sandbox_worker_is_gone(const sandbox_worker *worker)
{
    struct pollfd pidfd = {.fd = worker->pidfd, .events = POLLIN};
    return worker->dead || worker->pidfd < 0 || poll(&pidfd, 1, 0) != 0;
}

void sandbox_worker_mark_dead(sandbox_worker *worker)
{
    if (worker->owner != getpid())
        return;
    worker->dead = true;
    __atomic_store_n(&worker->recompiled.vmctx->state, VMCTX_DEAD, __ATOMIC_RELEASE);
    linux_futex(&worker->recompiled.vmctx->state, FUTEX_WAKE, INT32_MAX);
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
    return &worker->recompiled.vmctx->state;
}

uint32_t sandbox_worker_futex_value(const sandbox_worker *worker)
{
    return worker->started ? VMCTX_BUSY : VMCTX_STARTING;
}

static void worker_go(sandbox_worker *worker, uint32_t native)
{
    struct vmctx *vmctx = worker->recompiled.vmctx;
    recompiled_put(&worker->recompiled, native);
    vmctx->spin = worker->spin;
    /* an interrupt that was meant for an earlier run and comes only now is none */
    worker->interrupting = worker->located = false;
    __atomic_store_n(&vmctx->interrupt, 0, __ATOMIC_RELAXED);
    /* release: all above */
    __atomic_store_n(&vmctx->state, VMCTX_BUSY, __ATOMIC_RELEASE);
    linux_futex(&vmctx->state, FUTEX_WAKE, 1);
}

static int worker_forged(sandbox_worker *worker)
{
    sandbox_worker_kill(worker);
    return SANDBOX_FORGED;
}

/* The signal found the guest somewhere in an instruction: says where that begins and ends. Once for each interrupt. */
static int worker_locate(sandbox_worker *worker)
{
    const struct pvm_recompiled *recompiled = &worker->recompiled.image->recompiled;
    struct vmctx *vmctx = worker->recompiled.vmctx;
    const uint64_t native = ((const volatile struct vmctx *)vmctx)->native_pc - LAYOUT_CODE_BASE;
    const struct pvm_instruction *at = pvm_find_native(recompiled, native);
    if (at == NULL || !worker->interrupting || worker->located)
        return worker_forged(worker);
    const bool last = at + 1 == recompiled->instructions + recompiled->instruction_count;
    worker->located = true;
    vmctx->instruction_begin = LAYOUT_CODE_BASE + at->native;
    vmctx->instruction_end = LAYOUT_CODE_BASE + (last ? recompiled->gas_stubs_at : at[1].native);
    /* release: the two above */
    __atomic_store_n(&vmctx->state, VMCTX_BUSY, __ATOMIC_RELEASE);
    linux_futex(&vmctx->state, FUTEX_WAKE, 1);
    return SANDBOX_BUSY;
}

/* The guest stopped for something that was done for it at once, and goes on, unless it was told to stop: the signal may
 * come too late. */
static int worker_continue(sandbox_worker *worker)
{
    const uint32_t native = worker->recompiled.resume_native;
    if (!worker->interrupting) {
        worker_go(worker, native);
        return SANDBOX_BUSY;
    }
    struct sandbox_guest *guest = &worker->recompiled.guest;
    guest->pc = guest->next_pc = pvm_find_native(&worker->recompiled.image->recompiled, native)->pc;
    guest->has_pc = guest->has_next_pc = 1;
    return SANDBOX_INTERRUPTED;
}

/* The guest stopped in a state that carries registers. */
static int worker_take(sandbox_worker *worker, uint32_t state)
{
    const int event = recompiled_take(&worker->recompiled, state);
    if (event == SANDBOX_FORGED || (event == SANDBOX_INTERRUPTED && !worker->interrupting))
        return worker_forged(worker);
    return event == SANDBOX_BUSY ? worker_continue(worker) : event;
}

static int worker_look(sandbox_worker *worker)
{
    /* acquire: what the worker wrote before it changed the state */
    const uint32_t state = __atomic_load_n(&worker->recompiled.vmctx->state, __ATOMIC_ACQUIRE);
    if (worker->dead)
        return SANDBOX_DIED;
    if (worker->recompiled.paging_in)
        return SANDBOX_PAGING;
    switch (state) {
    case VMCTX_STARTING:
        return worker->started ? worker_forged(worker) : SANDBOX_BUSY;
    case VMCTX_FAILED:
        if (worker->started)
            return worker_forged(worker);
        worker->recompiled.guest.failed_step = worker->recompiled.vmctx->failed_step;
        worker->recompiled.guest.failed_errno = worker->recompiled.vmctx->failed_errno;
        return SANDBOX_FAILED;
    case VMCTX_BUSY:
        return worker->started ? SANDBOX_BUSY : worker_forged(worker);
    case VMCTX_IDLE:
        if (!worker->started) {
            const int error = worker->recompiled.image->dynamic_paging ? worker_attach_paging(worker) : 0;
            worker->recompiled.guest.failed_step = ZYGOTE_STEP_USERFAULTFD;
            worker->recompiled.guest.failed_errno = (uint32_t)-error;
            worker->started = true;
            return error == 0 ? SANDBOX_FINISHED : SANDBOX_FAILED;
        }
        return worker_take(worker, state);
    case VMCTX_GUEST_SIGNAL:
        return worker_locate(worker);
    case VMCTX_GUEST_ECALLI:
    case VMCTX_GUEST_TRAP:
    case VMCTX_GUEST_SBRK:
    case VMCTX_GUEST_STEP:
        return worker->started ? worker_take(worker, state) : worker_forged(worker);
    default:
        return worker_forged(worker);
    }
}

int sandbox_worker_interrupt(sandbox_worker *worker)
{
    if (worker->dead || worker->pidfd < 0 || worker->owner != getpid())
        return -ESRCH;
    worker->interrupting = true;
    /* release, and seen before the signal, which the kernel orders */
    __atomic_store_n(&worker->recompiled.vmctx->interrupt, 1, __ATOMIC_RELEASE);
    return syscall(SYS_pidfd_send_signal, worker->pidfd, ZYGOTE_INTERRUPT_SIGNAL, NULL, 0) == 0 ? 0 : -errno;
}

static uint64_t worker_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Polls a busy worker for as long as the last resume said, and as long again after each page fault that was served. */
static int worker_spin(sandbox_worker *worker)
{
    const uint64_t *const count = &worker->recompiled.memory.paging.faults_served;
    const uint64_t start = worker_now();
    uint64_t served = *count, end = start + worker->spin_ns, now;
    int event = SANDBOX_BUSY;
    do {
        for (unsigned i = 0; i < 64 && event == SANDBOX_BUSY; i++) {
            __builtin_ia32_pause();
            event = worker_look(worker);
        }
        now = worker_now();
        if (served != *count) {
            served = *count;
            end = now + worker->spin_ns < start + WORKER_PAGING_NS ? now + worker->spin_ns : start + WORKER_PAGING_NS;
        }
    } while (event == SANDBOX_BUSY && now < end);
    return event;
}

int sandbox_worker_poll(sandbox_worker *worker)
{
    const uint64_t served = worker->recompiled.memory.paging.faults_served;
    const int event = worker_look(worker);
    const bool spin = served != worker->recompiled.memory.paging.faults_served && worker->spin_ns > 0;
    return event == SANDBOX_BUSY && spin ? worker_spin(worker) : event;
}

int sandbox_worker_page_in(sandbox_worker *worker)
{
    if (!worker->recompiled.paging_in)
        return -EINVAL;
    const int event = recompiled_page_in(&worker->recompiled, true);
    return event == SANDBOX_BUSY ? worker_continue(worker) : event;
}

int sandbox_worker_resume(sandbox_worker *worker, uint64_t spin_ns, uint32_t worker_rounds)
{
    if (worker->dead)
        return SANDBOX_DIED;
    uint32_t native;
    int event = recompiled_begin(&worker->recompiled, &native);
    if (event != SANDBOX_BUSY)
        return event;
    worker->spin = worker_rounds;
    worker->spin_ns = spin_ns;
    worker_go(worker, native);

    event = worker_look(worker);
    return event == SANDBOX_BUSY && spin_ns > 0 ? worker_spin(worker) : event;
}

/* --- memory --- */

sandbox_memory *sandbox_worker_memory(sandbox_worker *worker)
{
    return &worker->recompiled.memory;
}

int sandbox_worker_restore(sandbox_worker *worker, sandbox_snapshot *snapshot, uint32_t pristine, uint32_t lazy)
{
    return recompiled_restore(&worker->recompiled, snapshot, pristine != 0, lazy != 0);
}

int sandbox_worker_reset(sandbox_worker *worker)
{
    return recompiled_reset(&worker->recompiled);
}
