/* SPDX-License-Identifier: MIT
 *
 * generic: a guest in recompiled code in this process, on whatever thread calls.
 *
 * Native code shares the caller's stack without using it, so a signal in the middle of a guest finds all that it needs;
 * the handler does not stop the guest itself: it sends it to the trap trampoline, which saves the registers, as if the
 * guest had jumped there. A guest that runs is interrupted where nothing but registers is left behind: between two
 * instructions, to which the processor is single-stepped (the trap flag, Intel SDM volume 3, 18.3.1.4), or in the
 * middle of a memset.
 */
#define _GNU_SOURCE /* REG_RIP, REG_EFL, REG_RDI */
#include "sandbox/generic.h"

#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "sandbox/paging.h"
#include "sandbox/recompiled.h"
#include "sandbox/signals.h"

#define GENERIC_TRAP_FLAG ((greg_t)1 << 8)
#define GENERIC_HWCAP2_FSGSBASE (1u << 1) /* the kernel lets rdgsbase and wrgsbase through (Linux 5.9) */

enum generic_wish { GENERIC_PAUSE = 1 << 0, GENERIC_STOP = 1 << 1 };

struct sandbox_generic {
    struct recompiled_guest recompiled;
    uint8_t *reservation;
    uint64_t base; /* of guest memory */
    uint32_t generation;
    pthread_mutex_t lock; /* of `running` and `thread`, and of changes of `wish` */
    bool running;
    pthread_t thread;
    uint32_t wish; /* bits of enum generic_wish; atomic: read by native code's caller and by the handler */
    bool stepping; /* the trap flag is set where the handler returns to */
};

/* The guest in whose code, or close to it, this thread is. Initial-exec: reading it in a handler calls nothing. */
static __thread struct sandbox_generic *generic_here __attribute__((tls_model("initial-exec")));

/* --- processes --- */

/* Global, as forks are: how many lie between this process and the one that loaded this. */
static uint32_t generic_generation;

static void generic_on_fork(void)
{
    generic_generation++;
    generic_here = NULL;
}

static void generic_watch_forks(void)
{
    pthread_atfork(NULL, NULL, generic_on_fork);
}

uint32_t generic_process(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, generic_watch_forks);
    return generic_generation;
}

/* --- life --- */

/* Maps what the guest has, as a worker does (enum zygote_window), into the reservation. */
static int generic_map(const struct sandbox_generic *self)
{
    const struct sandbox_image *image = self->recompiled.image;
    const struct sandbox_memory *memory = &self->recompiled.memory;
    struct zygote_mapping windows[WINDOW_COUNT];
    sandbox_image_windows(image, windows);
    const struct {
        struct zygote_mapping window;
        int file;
        int protection;
    } mappings[] = {
        {{-GENERIC_BELOW, LAYOUT_VMCTX_SIZE, 0}, memory->ram_file, PROT_READ | PROT_WRITE},
        {windows[WINDOW_RO], image->file, PROT_READ},
        {windows[WINDOW_STACK], memory->ram_file, PROT_READ | PROT_WRITE},
        {windows[WINDOW_AUX], memory->aux_file, PROT_READ},
        {windows[WINDOW_RW], memory->ram_file, PROT_READ | PROT_WRITE},
    };
    for (unsigned i = 0; i < sizeof mappings / sizeof mappings[0]; i++) {
        const struct zygote_mapping *window = &mappings[i].window;
        if (window->size == 0)
            continue;
        void *at = (void *)(uintptr_t)(self->base + window->address);
        if (mmap(at, window->size, mappings[i].protection, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, mappings[i].file,
                 (off_t)window->offset) == MAP_FAILED)
            return -errno;
    }
    return 0;
}

/* The guest's mappings alone are registered: the host's of the same files go on as they are. */
static int generic_attach_paging(struct sandbox_generic *self)
{
    const int uffd = (int)syscall(SYS_userfaultfd, UFFD_USER_MODE_ONLY | O_CLOEXEC | O_NONBLOCK);
    return uffd >= 0 ? paging_attach(&self->recompiled.memory, uffd, self->base) : -errno;
}

int sandbox_generic_create(sandbox_image *image, sandbox_generic **result)
{
    if (image->here == NULL)
        return -EINVAL;
    struct sandbox_generic *self = calloc(1, sizeof *self);
    if (self == NULL)
        return -ENOMEM;
    pthread_mutex_init(&self->lock, NULL);
    self->generation = generic_process();
    struct recompiled_guest *recompiled = &self->recompiled;
    recompiled->image = image;
    recompiled->code_base = sandbox_image_code_base(image);
    recompiled->gs_base = true;
    recompiled->interrupt = SIGNALS_INTERRUPT;
    int error = memory_create(&recompiled->memory, image, true);
    if (error == 0) {
        void *reserved = mmap(NULL, GENERIC_RESERVATION, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        error = reserved == MAP_FAILED ? -errno : 0;
        self->reservation = error == 0 ? reserved : NULL;
        self->base = (uint64_t)(uintptr_t)self->reservation + GENERIC_BELOW;
    }
    if (error == 0)
        error = generic_map(self);
    if (error == 0 && image->dynamic_paging)
        error = generic_attach_paging(self);
    if (error < 0) {
        sandbox_generic_destroy(self);
        return error;
    }
    recompiled->vmctx = (struct vmctx *)(void *)recompiled->memory.ram;
    struct pvm_way_out *out = (struct pvm_way_out *)(void *)(recompiled->memory.ram + GENERIC_WAY_OUT);
    *out = (struct pvm_way_out){.address = (uint64_t)(uintptr_t)generic_exit, .base = self->base};
    *result = self;
    return 0;
}

void sandbox_generic_destroy(sandbox_generic *self)
{
    if (self == NULL)
        return;
    if (self->reservation != NULL)
        munmap(self->reservation, GENERIC_RESERVATION);
    memory_destroy(&self->recompiled.memory);
    pthread_mutex_destroy(&self->lock);
    free(self);
}

struct sandbox_guest *sandbox_generic_guest(sandbox_generic *self)
{
    return &self->recompiled.guest;
}

sandbox_memory *sandbox_generic_memory(sandbox_generic *self)
{
    return &self->recompiled.memory;
}

int sandbox_generic_restore(sandbox_generic *self, sandbox_snapshot *snapshot)
{
    return recompiled_restore(&self->recompiled, snapshot, true, true);
}

int sandbox_generic_reset(sandbox_generic *self)
{
    return recompiled_reset(&self->recompiled);
}

/* --- the GS base --- */

/* Makes `base` the GS base of this thread; returns what it was. */
static uint64_t generic_swap_gs_base(uint64_t base)
{
    uint64_t before = 0;
    if ((getauxval(AT_HWCAP2) & GENERIC_HWCAP2_FSGSBASE) != 0) {
        __asm__ volatile("rdgsbase %0" : "=r"(before));
        __asm__ volatile("wrgsbase %0" : : "r"(base));
    } else {
        syscall(SYS_arch_prctl, ARCH_GET_GS, &before);
        syscall(SYS_arch_prctl, ARCH_SET_GS, base); /* fails for addresses of the kernel only */
    }
    return before;
}

/* --- signals --- */

/* Sends the guest from where it is to the trap trampoline. */
static void generic_leave(const struct sandbox_generic *self, greg_t *registers, int signal, uint64_t fault)
{
    const struct recompiled_guest *recompiled = &self->recompiled;
    const uint8_t *code = (const uint8_t *)registers[REG_RIP];
    if (code[0] == 0xf3 && code[1] == 0xaa) /* rep stosb, which no other instruction begins with: at a host address */
        registers[REG_RDI] -= (greg_t)self->base;
    recompiled->vmctx->native_pc = (uint64_t)registers[REG_RIP];
    recompiled->vmctx->signal = (uint32_t)signal;
    recompiled->vmctx->fault = fault - self->base;
    registers[REG_RIP] = (greg_t)(recompiled->code_base + recompiled->image->recompiled.trap);
}

/* Whether an interrupt is to wait for the native instruction at offset `native` to be executed. */
static bool generic_is_on_its_way(const struct sandbox_generic *self, uint64_t native)
{
    const struct pvm_recompiled *recompiled = &self->recompiled.image->recompiled;
    return native < recompiled->gas_stubs_at
               ? native < recompiled->halt || native >= recompiled->instructions[0].native
               : native + self->recompiled.code_base == (uint64_t)(uintptr_t)generic_checked;
}

/* Decides what follows for a guest that is to be interrupted. */
static void generic_advance(struct sandbox_generic *self, greg_t *registers)
{
    const struct pvm_recompiled *recompiled = &self->recompiled.image->recompiled;
    const uint64_t native = (uint64_t)registers[REG_RIP] - self->recompiled.code_base;
    registers[REG_EFL] &= ~GENERIC_TRAP_FLAG;
    self->stepping = false;
    if (__atomic_load_n(&self->wish, __ATOMIC_RELAXED) == 0 || !generic_is_on_its_way(self, native))
        return; /* it is not there yet, and will see the wish, or it stops by itself */
    if (native >= recompiled->instructions[0].native && native < recompiled->gas_stubs_at) {
        const uint8_t *code = (const uint8_t *)registers[REG_RIP];
        if (pvm_find_native(recompiled, native)->native == native || (code[0] == 0xf3 && code[1] == 0xaa)) {
            generic_leave(self, registers, SIGNALS_INTERRUPT, 0);
            return;
        }
    }
    registers[REG_EFL] |= GENERIC_TRAP_FLAG;
    self->stepping = true;
}

bool signals_about_guest(int number, siginfo_t *info, void *context)
{
    struct sandbox_generic *self = generic_here;
    const bool interrupt = signals_is_interrupt(number, info);
    if (self == NULL)
        return interrupt; /* one that comes late */
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    if (interrupt || (number == SIGTRAP && info->si_code > 0 && self->stepping)) {
        generic_advance(self, registers);
        return true;
    }
    const struct pvm_recompiled *recompiled = &self->recompiled.image->recompiled;
    const uint64_t native = (uint64_t)registers[REG_RIP] - self->recompiled.code_base;
    if (info->si_code <= 0 || native < recompiled->instructions[0].native || native >= recompiled->code_size)
        return false; /* sent by somebody, or not the guest's */
    registers[REG_EFL] &= ~GENERIC_TRAP_FLAG;
    self->stepping = false;
    generic_leave(self, registers, number, (uint64_t)(uintptr_t)info->si_addr);
    return true;
}

/* --- running --- */

/* Runs the guest from `native` on. SANDBOX_INTERRUPTED: it was, and goes on at resume_native. */
static int generic_execute(struct sandbox_generic *self, uint32_t native)
{
    struct recompiled_guest *recompiled = &self->recompiled;
    const uint64_t enter = recompiled->code_base + recompiled->image->recompiled.enter;
    int event;
    do {
        recompiled_put(recompiled, native);
        const uint32_t state = generic_enter(enter, &self->wish);
        if (state == GENERIC_NOT_ENTERED) {
            recompiled->guest.has_next_pc = 1;
            recompiled->resume_native = native;
            return SANDBOX_INTERRUPTED;
        }
        event = recompiled_take(recompiled, state);
        native = recompiled->resume_native;
    } while (event == SANDBOX_BUSY);
    return event;
}

/* What generic_turn does once this thread is known to those who interrupt. */
static int generic_run(struct sandbox_generic *self)
{
    uint32_t native;
    int event = SANDBOX_BUSY;
    if (self->recompiled.guest.entering)
        self->recompiled.paging_in = false; /* it was interrupted there, and goes on somewhere else */
    if (self->recompiled.paging_in) {
        event = recompiled_page_in(&self->recompiled, true);
        self->recompiled.guest.has_next_pc = 1;
    }
    if (event == SANDBOX_BUSY)
        event = recompiled_begin(&self->recompiled, &native);
    if (event != SANDBOX_BUSY)
        return event;
    sigset_t blocked;
    const int error = signals_enter(&blocked);
    if (error < 0) {
        self->recompiled.guest.has_next_pc = 1;
        self->recompiled.resume_native = native;
        return error;
    }
    generic_here = self;
    const uint64_t gs_base = generic_swap_gs_base(self->base);
    event = generic_execute(self, native);
    generic_swap_gs_base(gs_base);
    generic_here = NULL;
    signals_leave(&blocked);
    return event;
}

int generic_turn(struct sandbox_generic *self)
{
    pthread_mutex_lock(&self->lock);
    self->wish &= GENERIC_STOP; /* a pause that was meant for an earlier run */
    self->thread = pthread_self();
    self->running = true;
    pthread_mutex_unlock(&self->lock);
    const int event = generic_run(self);
    pthread_mutex_lock(&self->lock);
    self->running = false;
    const bool stopped = (self->wish & GENERIC_STOP) != 0;
    pthread_mutex_unlock(&self->lock);
    return stopped ? SANDBOX_DIED : event == SANDBOX_INTERRUPTED ? SANDBOX_BUSY : event;
}

static int generic_ask(struct sandbox_generic *self, enum generic_wish wish)
{
    int error = 0;
    if (self->generation != generic_process())
        return 0; /* and the lock may be another thread's that is not here */
    pthread_mutex_lock(&self->lock);
    __atomic_or_fetch(&self->wish, wish, __ATOMIC_RELAXED); /* the kernel orders it before the signal */
    if (self->running)
        error = signals_interrupt(self->thread);
    pthread_mutex_unlock(&self->lock);
    return error;
}

int sandbox_generic_pause(sandbox_generic *self)
{
    return generic_ask(self, GENERIC_PAUSE);
}

int sandbox_generic_stop(sandbox_generic *self)
{
    return generic_ask(self, GENERIC_STOP);
}
