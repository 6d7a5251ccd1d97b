/* SPDX-License-Identifier: MIT
 *
 * Real threads through the parts of native/sandbox that have them, to be built with ThreadSanitizer: guests in this
 * process, interpreted ones, copies of a snapshot, a pager of many, the waits for futex words, the signal handlers.
 *
 * program.h has the guest program, by test_threads.py. What the argument names is run; a failed check ends the process.
 * As sandbox_api.h says, nothing is called for one object in two threads at once but what stops a guest.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "program.h"
#include "sandbox/sandbox_api.h"

enum { THREADS = 4, ROUNDS = 30, A0 = 7, A1 = 8, RA = 0, UNSUPPORTED = 77 };
#define RETURN_ADDRESS UINT32_C(0xffff0000)
#define TURN UINT64_C(300000) /* nanoseconds */

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "threads.c:%d: %s (errno %d)\n", __LINE__, #condition, errno); \
            exit(1); \
        } \
    } while (0)

static pthread_t start(void *(*run)(void *), void *argument)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, run, argument) == 0);
    return thread;
}

static sandbox_image *make_image(bool interpreted, bool paging)
{
    uint32_t *costs = calloc(sandbox_cost_count(), sizeof *costs);
    CHECK(costs != NULL);
    const struct sandbox_program program = {
        .isa = PROGRAM_ISA,
        .interpreted = interpreted,
        .in_process = !interpreted,
        .dynamic_paging = paging,
        .costs = costs,
        .code_size = sizeof program_code,
        .code = program_code,
        .bitmask = program_bitmask,
        .jump_table = program_bitmask,
        .ro_data = program_bitmask,
        .rw_data = program_bitmask,
        .map = PROGRAM_MAP,
    };
    sandbox_image *image;
    CHECK(sandbox_image_create(&program, &image) == 0);
    free(costs);
    return image;
}

static void call(struct sandbox_guest *guest, uint32_t pc, uint64_t a0, uint64_t a1)
{
    memset(guest->regs, 0, sizeof guest->regs);
    guest->regs[RA] = RETURN_ADDRESS;
    guest->regs[A0] = a0;
    guest->regs[A1] = a1;
    guest->next_pc = pc;
    guest->has_next_pc = 1;
    guest->entering = SANDBOX_ENTERS;
}

/* --- guests --- */

/* Where a thread is with its guest; atomic. */
enum phase { STARTING, RUNNING, SPINNING };

struct home {
    sandbox_generic_home *generic; /* NULL: guests are interpreted */
    sandbox_image *image;
    sandbox_pager *pager; /* NULL: there is no paging */
};

struct machine {
    const struct home *home;
    sandbox_generic *generic;
    sandbox_interpreted *interpreted;
    struct sandbox_guest *guest;
    sandbox_memory *memory;
    enum phase phase;
    bool over; /* atomic: an interpreted guest is to spin no longer */
};

static void machine_create(struct machine *self, const struct home *home)
{
    *self = (struct machine){.home = home};
    if (home->generic != NULL) {
        CHECK(sandbox_generic_create(home->image, &self->generic) == 0);
        self->guest = sandbox_generic_guest(self->generic);
        self->memory = sandbox_generic_memory(self->generic);
    } else {
        CHECK(sandbox_interpreted_create(home->image, false, &self->interpreted) == 0);
        self->guest = sandbox_interpreted_guest(self->interpreted);
        self->memory = sandbox_interpreted_memory(self->interpreted);
    }
    if (home->pager != NULL)
        sandbox_memory_set_pager(self->memory, home->pager);
}

static void machine_destroy(struct machine *self)
{
    sandbox_generic_destroy(self->generic);
    sandbox_interpreted_destroy(self->interpreted);
}

static void machine_restore(struct machine *self, sandbox_snapshot *snapshot, bool lazy)
{
    if (self->generic != NULL)
        CHECK(sandbox_generic_restore(self->generic, snapshot) == 0);
    else
        CHECK(sandbox_interpreted_restore(self->interpreted, snapshot, lazy) == 0);
}

/* From any thread. */
static void machine_pause(struct machine *self)
{
    if (self->generic != NULL)
        CHECK(sandbox_generic_pause(self->generic) == 0);
    else
        sandbox_interpreted_interrupt(self->interpreted);
}

/* From any thread. */
static void machine_stop(struct machine *self)
{
    if (self->generic != NULL)
        CHECK(sandbox_generic_stop(self->generic) == 0);
    __atomic_store_n(&self->over, true, __ATOMIC_RELAXED);
}

/* Until it stops by itself, or is stopped. */
static int machine_run(struct machine *self)
{
    int event;
    do
        event = self->generic != NULL ? sandbox_generic_run(self->home->generic, self->generic, TURN)
                                      : sandbox_interpreted_run(self->interpreted, 5000, true);
    while (event == SANDBOX_BUSY ||
           (event == SANDBOX_INTERRUPTED && !__atomic_load_n(&self->over, __ATOMIC_RELAXED)));
    return event;
}

static void machine_check(struct machine *self)
{
    call(self->guest, PROGRAM_COUNT, 20000, 0);
    CHECK(machine_run(self) == SANDBOX_HOST_CALL && self->guest->host_call == 3);
    CHECK(machine_run(self) == SANDBOX_FINISHED);
    call(self->guest, PROGRAM_FILL, PROGRAM_DATA, PROGRAM_DATA_END);
    CHECK(machine_run(self) == SANDBOX_FINISHED);
    call(self->guest, PROGRAM_LOAD, PROGRAM_DATA_END - 4096, 0);
    CHECK(machine_run(self) == SANDBOX_FINISHED && self->guest->regs[A0] == PROGRAM_DATA_END - 4096);
    call(self->guest, PROGRAM_GROW, 8192, 0);
    CHECK(machine_run(self) == SANDBOX_FINISHED);
    call(self->guest, PROGRAM_LOAD, 0, 0);
    CHECK(machine_run(self) == SANDBOX_TRAP);
}

static void *guests_thread(void *argument)
{
    struct machine *self = argument;
    __atomic_store_n(&self->phase, RUNNING, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < ROUNDS; i++)
        machine_check(self);
    call(self->guest, PROGRAM_SPIN, 0, 0);
    __atomic_store_n(&self->phase, SPINNING, __ATOMIC_RELAXED);
    CHECK(machine_run(self) == (self->generic != NULL ? SANDBOX_DIED : SANDBOX_INTERRUPTED));
    return NULL;
}

/* Threads run guests of one image and one pager, while this one pauses them at any time and stops them at last. */
static void test_guests(const struct home *home)
{
    struct machine machines[THREADS];
    pthread_t threads[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        machine_create(&machines[i], home);
        threads[i] = start(guests_thread, &machines[i]);
    }
    for (unsigned spinning = 0; spinning < THREADS;) {
        spinning = 0;
        for (unsigned i = 0; i < THREADS; i++) {
            machine_pause(&machines[i]);
            spinning += __atomic_load_n(&machines[i].phase, __ATOMIC_RELAXED) == SPINNING;
        }
        usleep(200); /* a guest that is paused all the time gets nowhere */
    }
    for (unsigned i = 0; i < THREADS; i++) {
        machine_stop(&machines[i]);
        do /* an interrupt that comes between two runs has no effect */
            machine_pause(&machines[i]);
        while (pthread_tryjoin_np(threads[i], NULL) != 0);
        machine_destroy(&machines[i]);
    }
}

/* --- copies --- */

struct copying {
    const struct home *home;
    sandbox_snapshot *snapshot;
    pthread_barrier_t restored;
};

static void *copies_thread(void *argument)
{
    struct copying *copying = argument;
    struct machine machine;
    for (unsigned i = 0; i < ROUNDS; i++) {
        machine_create(&machine, copying->home);
        machine_restore(&machine, copying->snapshot, i % 2 == 0);
        CHECK(machine.guest->host_call == 3 && machine_run(&machine) == SANDBOX_FINISHED);
        if (i < ROUNDS - 1)
            machine_destroy(&machine);
    }
    machine_restore(&machine, copying->snapshot, true);
    pthread_barrier_wait(&copying->restored); /* the snapshot's maker lets go of it; a lazy memory has it still */
    call(machine.guest, PROGRAM_LOAD, PROGRAM_DATA_END - 4096, 0);
    CHECK(machine_run(&machine) == SANDBOX_FINISHED && machine.guest->regs[A0] == PROGRAM_DATA_END - 4096);
    machine_destroy(&machine);
    return NULL;
}

static void test_copies(const struct home *home)
{
    struct copying copying = {.home = home};
    struct machine machine;
    machine_create(&machine, home);
    call(machine.guest, PROGRAM_FILL, PROGRAM_DATA, PROGRAM_DATA_END);
    CHECK(machine_run(&machine) == SANDBOX_FINISHED);
    call(machine.guest, PROGRAM_COUNT, 1, 0);
    CHECK(machine_run(&machine) == SANDBOX_HOST_CALL);
    CHECK(sandbox_snapshot_take(machine.memory, machine.guest, &copying.snapshot) == 0);
    machine_destroy(&machine);
    CHECK(pthread_barrier_init(&copying.restored, NULL, THREADS + 1) == 0);
    pthread_t threads[THREADS];
    for (unsigned i = 0; i < THREADS; i++)
        threads[i] = start(copies_thread, &copying);
    pthread_barrier_wait(&copying.restored);
    sandbox_snapshot_release(copying.snapshot);
    for (unsigned i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    pthread_barrier_destroy(&copying.restored);
}

static void test_home(bool interpreted, bool paging)
{
    struct home home = {.image = make_image(interpreted, paging)};
    if (!interpreted)
        CHECK(sandbox_generic_open(&home.generic) == 0);
    if (paging)
        CHECK(sandbox_pager_create(-1, 0, 0, 0, 16384, &home.pager) == 0);
    test_guests(&home);
    test_copies(&home);
    sandbox_pager_release(home.pager);
    sandbox_generic_close(home.generic);
    sandbox_image_destroy(home.image);
}

/* --- images --- */

static void *images_thread(void *argument)
{
    (void)argument;
    for (unsigned i = 0; i < ROUNDS; i++)
        sandbox_image_destroy(make_image(i % 2 != 0, i % 4 < 2));
    return NULL;
}

static void test_images(void)
{
    pthread_t threads[THREADS];
    for (unsigned i = 0; i < THREADS; i++)
        threads[i] = start(images_thread, NULL);
    for (unsigned i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

/* --- waits --- */

enum { WORDS = 300 }; /* of three groups */

struct changing {
    uint32_t *words;        /* in memory as guests share it with their host */
    unsigned written[WORDS]; /* before the word: plain */
    unsigned first;
    pthread_barrier_t *added;
};

static void *waits_thread(void *argument)
{
    struct changing *self = argument;
    for (unsigned round = 1; round <= ROUNDS; round++) {
        pthread_barrier_wait(self->added);
        for (unsigned i = self->first; i < WORDS; i += THREADS) {
            self->written[i] = round;
            __atomic_store_n(&self->words[i], round, __ATOMIC_RELEASE);
            syscall(SYS_futex, &self->words[i], FUTEX_WAKE, 1, NULL, NULL, 0);
        }
        pthread_barrier_wait(self->added);
    }
    return NULL;
}

static void take_all(sandbox_waits *waits, const struct changing *changing, const uint32_t *word_of, unsigned round,
                     unsigned left)
{
    while (left > 0) {
        struct pollfd poll_event = {.fd = sandbox_waits_event(waits), .events = POLLIN};
        CHECK(poll(&poll_event, 1, 10000) == 1);
        uint32_t tickets[64];
        const int count = sandbox_waits_take(waits, tickets, 64);
        CHECK(count >= 0 && (unsigned)count <= left);
        left -= (unsigned)count;
        for (int i = 0; i < count; i++) {
            const uint32_t word = word_of[tickets[i]];
            CHECK(changing[word % THREADS].written[word] == round);
        }
    }
}

static void test_waits(void)
{
    sandbox_waits *waits;
    if (sandbox_probe_futex_waitv() < 0)
        exit(UNSUPPORTED);
    CHECK(sandbox_waits_open(&waits) == 0);
    uint32_t *words =
        mmap(NULL, WORDS * sizeof *words, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(words != MAP_FAILED);
    static struct changing changing[THREADS];
    pthread_t threads[THREADS];
    pthread_barrier_t added;
    CHECK(pthread_barrier_init(&added, NULL, THREADS + 1) == 0);
    for (unsigned i = 0; i < THREADS; i++) {
        changing[i] = (struct changing){.words = words, .first = i, .added = &added};
        threads[i] = start(waits_thread, &changing[i]);
    }
    for (unsigned round = 1; round <= ROUNDS; round++) {
        uint32_t word_of[4 * WORDS], ticket_of[WORDS];
        for (uint32_t i = 0; i < WORDS; i++) {
            const int ticket = sandbox_waits_add(waits, &words[i], round - 1);
            CHECK(ticket >= 0 && ticket < 4 * WORDS);
            word_of[ticket] = i;
            ticket_of[i] = (uint32_t)ticket;
        }
        CHECK(sandbox_waits_threads(waits) == 3);
        pthread_barrier_wait(&added);
        unsigned left = WORDS;
        for (unsigned i = round % 10; i < WORDS; i += 10, left--)
            sandbox_waits_remove(waits, ticket_of[i]); /* changed or not */
        take_all(waits, changing, word_of, round, left);
        pthread_barrier_wait(&added);
    }
    for (unsigned i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    sandbox_waits_close(waits);
    pthread_barrier_destroy(&added);
    munmap(words, WORDS * sizeof *words);
}

/* --- signal handlers --- */

static uint32_t foreign_calls; /* atomic */

static void foreign(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info, (void)context;
    __atomic_add_fetch(&foreign_calls, 1, __ATOMIC_RELAXED);
}

static void install_foreign(void)
{
    struct sigaction action = {.sa_sigaction = foreign, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGFPE, &action, NULL) == 0);
}

static void *opening_thread(void *argument)
{
    (void)argument;
    for (unsigned i = 0; i < 10 * ROUNDS; i++) {
        sandbox_generic_home *home;
        CHECK(sandbox_generic_open(&home) == 0);
        CHECK(raise(SIGFPE) == 0); /* likely to find ours, which hands it on */
        sandbox_generic_close(home);
    }
    return NULL;
}

static void *installing_thread(void *argument)
{
    (void)argument;
    for (unsigned i = 0; i < 10 * ROUNDS; i++) {
        install_foreign();
        CHECK(raise(SIGFPE) == 0);
        sched_yield();
    }
    return NULL;
}

/* Homes open and close, while other threads install a handler again and again, and get signals that belong to it. */
static void test_handlers(void)
{
    install_foreign();
    opening_thread(NULL); /* what the kernel orders: a handler is told of what it was put over, and installed after */
    pthread_t threads[THREADS];
    for (unsigned i = 0; i < THREADS; i++)
        threads[i] = start(i % 2 == 0 ? opening_thread : installing_thread, NULL);
    for (unsigned i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(foreign_calls == (THREADS + 1) * 10 * ROUNDS); /* none is lost */
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    const char *name = arguments[1];
    if (strcmp(name, "generic") == 0)
        test_home(false, false);
    else if (strcmp(name, "generic-paging") == 0 && sandbox_probe_userfaultfd() < 0)
        return UNSUPPORTED;
    else if (strcmp(name, "generic-paging") == 0)
        test_home(false, true);
    else if (strcmp(name, "interpreted") == 0)
        test_home(true, false);
    else if (strcmp(name, "interpreted-paging") == 0)
        test_home(true, true);
    else if (strcmp(name, "images") == 0)
        test_images();
    else if (strcmp(name, "waits") == 0)
        test_waits();
    else if (strcmp(name, "handlers") == 0)
        test_handlers();
    else
        CHECK(!"a test of that name");
    return 0;
}
