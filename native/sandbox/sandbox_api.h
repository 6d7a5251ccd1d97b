/* SPDX-License-Identifier: MIT
 *
 * sandbox_api: what Python sees of the sandbox. cffi reads these declarations, and the C files include them.
 *
 * cffi releases the GIL around every call. No function here calls into Python, keeps a pointer that was passed
 * in (unless it says so), or is safe to call for one object from two threads at once; the caller sees to that.
 * Unless said otherwise a function returns 0 or -errno.
 */
#ifndef SANDBOX_API_H
#define SANDBOX_API_H

#include <stddef.h>
#include <stdint.h>

/* --- image: a recompiled module, shared by its workers --- */

/* Guest address space (specification, section 8). Sizes in bytes, multiples of the module's page size unless
 * noted; a size of 0 means that there is no such region. */
struct sandbox_memory_map {
    uint32_t page_size;
    uint32_t ro_address;
    uint32_t ro_size;
    uint32_t rw_address;
    uint32_t rw_size;       /* accessible at start */
    uint32_t heap_base;     /* first byte behind the program's data, unaligned */
    uint32_t heap_size_max; /* unaligned */
    uint32_t stack_low;
    uint32_t stack_size;
    uint32_t aux_address;
    uint32_t aux_size;
};

/* A program as its blob holds it, and how to execute it. Borrowed for the time of the call. */
struct sandbox_program {
    uint32_t isa;
    uint32_t interpreted;     /* 0: recompile; 1: prepare for the interpreter */
    uint32_t in_process;      /* recompile for this process (sandbox_generic), not for workers */
    uint32_t gas_metering;    /* enum pvm_gas_metering */
    uint32_t per_instruction; /* charge instructions instead of blocks */
    uint32_t step_tracing;
    uint32_t dynamic_paging;  /* memory is there by the page, when the host puts it there */
    uint32_t cost_kind;       /* enum pvm_cost_kind */
    uint32_t memory_latency;  /* of the full cost model, cycles */
    const uint32_t *costs;    /* of the table, sandbox_cost_count() of them */
    uint32_t code_size;
    uint32_t jump_table_count;
    uint32_t jump_table_entry_size;
    uint32_t ro_data_size;
    uint32_t rw_data_size;
    const uint8_t *code;
    const uint8_t *bitmask;
    const uint8_t *jump_table;
    const uint8_t *ro_data;
    const uint8_t *rw_data;
    struct sandbox_memory_map map;
};

/* Values for the fields above, for Python. */
enum sandbox_constant {
    SANDBOX_COST_TABLE = 0,
    SANDBOX_COST_FULL = 1,
    SANDBOX_ISA_REVIVE_V1_SBRK = 4, /* revive_v1 with opcode 101 as sbrk */
};

typedef struct sandbox_image sandbox_image;

/* Costs in a table: one per operation, `invalid` first, then in the order of vm.isa.OPCODES. */
uint32_t sandbox_cost_count(void);

/* Recompiles, or decodes for the interpreter. Errors: those of pvm_recompile (-EFBIG: native code over the limit), -ENOMEM, -EMFILE, -ENFILE,
 * -ENOSPC. */
int sandbox_image_create(const struct sandbox_program *program, sandbox_image **image);
/* Bytes of native code. */
uint64_t sandbox_image_code_size(const sandbox_image *image);
/* Copies up to `size` bytes of native code from `offset`; returns how many. */
uint64_t sandbox_image_read_code(const sandbox_image *image, uint64_t offset, uint8_t *out, uint64_t size);
/* Offset in the native code of what the instruction at `pc` became, or -1 if there is none (see pvm_find_pc) or the
 * image is for the interpreter. */
int64_t sandbox_image_native_offset(const sandbox_image *image, uint32_t pc);
/* Gas of the block that holds the instruction at `pc`, or -1 if there is no such block. */
int64_t sandbox_image_gas_cost(const sandbox_image *image, uint32_t pc);
/* Every worker made from it must have been destroyed. NULL is allowed. */
void sandbox_image_destroy(sandbox_image *image);

/* --- image file: an image as bytes, for a file that keeps it --- */

/* SHA-256, in hexadecimal digits, of the sources that decide what native code and tables mean: those of another build
 * are of no use to this one. */
const char *sandbox_build_id(void);
/* Bits of PVM_CPU_* of this processor: what the recompiler emits code for. */
uint32_t sandbox_cpu_features(void);
/* Bytes of the tables (pvm/tables.h) of an image that is not for the interpreter, and the tables. The native code is
 * what sandbox_image_read_code reads. */
uint64_t sandbox_image_tables_size(const sandbox_image *image);
void sandbox_image_write_tables(const sandbox_image *image, uint8_t *out);
/* As sandbox_image_create, with native code and tables that were written before instead of the recompiler. `program` is
 * not to be for the interpreter. Whatever they hold, host memory stays safe; what the code does in the sandbox is
 * another matter. -EBADMSG: they are unusable, and *what says why. */
int sandbox_image_load(const struct sandbox_program *program, const uint8_t *code, uint64_t code_size,
                       const uint8_t *tables, uint64_t tables_size, sandbox_image **image, const char **what);

/* --- nursery: the process in empty namespaces that clones workers --- */

typedef struct sandbox_nursery sandbox_nursery;

/* Starts it; blocks for a few milliseconds. `drop`: become user `uid` and group `gid` first (the host is root);
 * otherwise they are the host's own. On error *step says where (enum zygote_step). */
int sandbox_nursery_start(uint32_t drop, uint32_t uid, uint32_t gid, sandbox_nursery **nursery, uint32_t *step);
/* Readable when a reply can be received, or when the nursery is gone. Owned by the nursery. */
int sandbox_nursery_control(const sandbox_nursery *nursery);
/* Owned by the nursery. */
int sandbox_nursery_pidfd(const sandbox_nursery *nursery);
/* Kills it, and with it every worker. */
void sandbox_nursery_kill(sandbox_nursery *nursery);
/* Kills, waits for the death (milliseconds), reaps and frees. NULL is allowed. */
void sandbox_nursery_destroy(sandbox_nursery *nursery);
/* What a step of the set-up was for, and an errno's name. */
const char *sandbox_step_text(uint32_t step);
const char *sandbox_errno_name(int number);

/* --- memory: one guest's; only while the guest is stopped --- */

typedef struct sandbox_memory sandbox_memory;

enum sandbox_access {
    SANDBOX_READ,        /* by guest or host */
    SANDBOX_HOST_WRITE,  /* not read-only data */
    SANDBOX_GUEST_WRITE, /* nor auxiliary data */
};

/* Guest memory [address, address + size) in the host's address space; NULL if not all of it, in one region, is there
 * for `access` (enum sandbox_access). Valid until the guest goes on or is reset, and to be used as asked for.
 * Not for SANDBOX_HOST_WRITE with dynamic paging: the functions below see to the pages. */
uint8_t *sandbox_memory_at(sandbox_memory *memory, uint64_t address, uint64_t size, uint32_t access);
/* What the host does to [address, address + size): copies `data` there; fills it with zeroes; gives whole pages of the
 * module's size back, which then read as zeroes. -EFAULT: not all of it is there to be written by the host.
 *
 * With dynamic paging the first two put pages there that are not, with zeroes around what is written, and after the
 * third they are there no more. */
int sandbox_memory_write(sandbox_memory *memory, uint64_t address, const uint8_t *data, uint64_t size);
int sandbox_memory_zero(sandbox_memory *memory, uint64_t address, uint64_t size);
int sandbox_memory_free(sandbox_memory *memory, uint64_t address, uint64_t size);
/* Has writes of the guest to whole pages fault (`on`), or no longer. -EFAULT: not all of it is there to be written by the
 * guest; -EINVAL: not whole pages; -ENOTSUP: there is no dynamic paging; -ENOMEM, or what userfaultfd says. */
int sandbox_memory_protect(sandbox_memory *memory, uint64_t address, uint64_t size, uint32_t on);
/* The address of the first page at which the guest would fault if it read, or wrote, [address, address + size): one that
 * is not there or, if it writes, is protected. -1: there is none, or the range is not in one region. */
int64_t sandbox_memory_fault(sandbox_memory *memory, uint64_t address, uint64_t size, uint32_t write);
/* Bytes of auxiliary data that are accessible, whole pages of the module's size. What is cut off reads as zeroes if it
 * comes back. -EINVAL: more than the module has, or not whole pages. */
uint32_t sandbox_memory_aux_size(const sandbox_memory *memory);
int sandbox_memory_set_aux_size(sandbox_memory *memory, uint32_t size);
/* Lets stack, read-write data and heap together be at most `size` bytes: sbrk fails beyond, and data beyond is not there,
 * until the next reset. Before the guest ran. -ENOMEM: less than its stack and the data that it comes with. */
int sandbox_memory_set_limit(sandbox_memory *memory, uint64_t size);
/* Bytes that its files hold; 0 of memory that is private to this process. */
uint64_t sandbox_memory_resident(const sandbox_memory *memory);

/* Where two memories are not equal, and the bytes there. */
struct sandbox_difference {
    uint64_t address;
    uint8_t first;
    uint8_t second;
};

/* Compares all that guest or host can write: 0 if it is equal, 1 with the difference at the lowest address, or -errno.
 * -EINVAL: not both are in files, or not the same is accessible in both. Takes time by what is resident. */
int sandbox_memory_compare(const sandbox_memory *first, const sandbox_memory *second,
                           struct sandbox_difference *difference);

/* --- pager: puts pages there that guests fault at, without a stop that Python sees --- */

typedef struct sandbox_pager sandbox_pager;

/* A pager of zeroes (`file` is -1), or of the bytes of `file` from `offset` on, `size` of them, at guest addresses from
 * `address` on, and of zeroes elsewhere and behind the end of the file. Keeps a duplicate of the descriptor. Guests that
 * fault at page after page get up to `read_ahead` bytes at once. -EBADF, -EMFILE, -ENOMEM. */
int sandbox_pager_create(int file, uint64_t address, uint64_t offset, uint64_t size, uint64_t read_ahead,
                         sandbox_pager **pager);
/* Lets go of it; it is freed when no memory uses it any more. NULL is allowed. */
void sandbox_pager_release(sandbox_pager *pager);
/* Gives the memory a pager, until it is reset; NULL takes it away. */
void sandbox_memory_set_pager(sandbox_memory *memory, sandbox_pager *pager);
/* Faults that its pager served since it was created or reset, and pages that it put there. */
uint64_t sandbox_memory_faults_served(const sandbox_memory *memory);
uint64_t sandbox_memory_pages_served(const sandbox_memory *memory);

/* --- worker: one sandbox process --- */

typedef struct sandbox_worker sandbox_worker;

enum sandbox_event {
    SANDBOX_BUSY,      /* it runs (or starts): wait on the futex word for a value other than `futex_value` */
    SANDBOX_FINISHED,  /* the guest returned to its host, or the worker is ready for the first time */
    SANDBOX_HOST_CALL, /* guest.host_call is the number */
    SANDBOX_TRAP,      /* guest.pc trapped */
    SANDBOX_STEP,      /* step tracing: before the instruction at guest.pc */
    SANDBOX_OUT_OF_GAS, /* sync metering: guest.pc is where it goes on with more; async: there is no pc */
    SANDBOX_INTERRUPTED, /* asked to, it stopped before the instruction at guest.pc */
    SANDBOX_OVER_LIMIT, /* guest.pc needed memory that the program has and its limit does not allow */
    SANDBOX_FAILED,    /* set-up failed: guest.failed_step, guest.failed_errno; the worker ends itself */
    SANDBOX_DIED,      /* the worker process is dead */
    SANDBOX_FORGED,    /* the shared page says what guest code cannot have done: kill the worker */
    SANDBOX_PAGE_FAULT, /* the instruction at guest.pc == guest.next_pc touched a page that is not there or is protected:
                           guest.fault_address, guest.fault_write; guest.fault_errno: why the pager did not serve it */
    SANDBOX_PAGING,    /* the memory's pager would block: call sandbox_worker_page_in */
};

enum sandbox_entering {
    SANDBOX_GOES_ON, /* where it stopped */
    SANDBOX_ENTERS,  /* next_pc was set by the host: the block around it is charged (specification, section 8) */
    SANDBOX_RETURNS, /* where another guest stopped, of which this is a copy */
};

/* The host's own copy of the guest's state. Python reads and writes it while the worker is not busy. */
struct sandbox_guest {
    uint64_t regs[13];
    int64_t gas;
    uint32_t pc;            /* where it stopped; valid if has_pc */
    uint32_t next_pc;       /* where it goes on; valid if has_next_pc */
    uint32_t has_pc;
    uint32_t has_next_pc;
    uint32_t entering;      /* enum sandbox_entering: how it goes on at next_pc */
    uint32_t progress;      /* enum pvm_progress of the instruction at next_pc, unless it is entered */
    uint32_t host_call;
    uint32_t signal;        /* with SANDBOX_TRAP: the signal number, 0 if the pc is no instruction */
    uint32_t heap_size;     /* bytes, unaligned */
    uint32_t failed_step;
    uint32_t failed_errno;
    uint32_t fault_address; /* of the page; its size is the module's */
    uint32_t fault_write;
    uint32_t fault_errno;   /* 0: there is no pager */
};

/* --- snapshot: the state of a stopped guest, for other guests of the same program --- */

typedef struct sandbox_snapshot sandbox_snapshot;

/* Pages that are not as the program begins with them; with dynamic paging, all that are there. */
struct sandbox_run {
    uint32_t first; /* guest address of the first page by the size of one: the module's with dynamic paging, else 4096 */
    uint32_t count;
    uint32_t kind;
};

enum sandbox_run_kind {
    SANDBOX_RUN_DATA = 0,    /* there are contents */
    SANDBOX_RUN_ZERO = 1,
    SANDBOX_RUN_INITIAL = 2, /* what the program begins with; with dynamic paging only */
    SANDBOX_RUN_CONTENTS = 3,
    SANDBOX_RUN_GUARDED = 4, /* not to be written by the guest; with dynamic paging only */
};

/* Takes one of a stopped guest, which it leaves as it is. Time by what is resident; in memory that is private to this
 * process, by what is accessible. -ENOMEM, or what lseek(2) says. */
int sandbox_snapshot_take(sandbox_memory *memory, const struct sandbox_guest *guest, sandbox_snapshot **snapshot);
/* Makes one of parts that sandbox_snapshot_check_runs and sandbox_image_has_place have found to be good, and that are
 * copied. -ENOMEM. -EINVAL: `data_size` is not what the runs have. */
int sandbox_snapshot_make(const sandbox_image *image, const struct sandbox_guest *guest, uint32_t aux_size,
                          const struct sandbox_run *runs, uint32_t run_count, const uint8_t *data, uint64_t data_size,
                          sandbox_snapshot **snapshot);
/* The number of the first run that no snapshot of a guest with such a heap and so much auxiliary data has, and *what is
 * wrong with it; -1 if there is none, and the bytes of contents that they ask for. */
int64_t sandbox_snapshot_check_runs(const sandbox_image *image, uint32_t heap_size, uint32_t aux_size,
                                    const struct sandbox_run *runs, uint32_t count, uint64_t *data_size,
                                    const char **what);
/* Whether a guest of the program can have stopped at `pc` with so much `progress` (enum pvm_progress). */
uint32_t sandbox_image_has_place(const sandbox_image *image, uint32_t pc, uint32_t progress);
/* Its parts, owned by it. */
const struct sandbox_guest *sandbox_snapshot_guest(const sandbox_snapshot *snapshot);
uint32_t sandbox_snapshot_aux_size(const sandbox_snapshot *snapshot);
const struct sandbox_run *sandbox_snapshot_runs(const sandbox_snapshot *snapshot, uint32_t *count);
const uint8_t *sandbox_snapshot_data(const sandbox_snapshot *snapshot, uint64_t *size);
/* Bytes of stack, read-write data and heap that a copy of the guest has to be allowed (sandbox_memory_set_limit). */
uint64_t sandbox_snapshot_memory_needed(const sandbox_snapshot *snapshot);
/* Lets go of it; it is freed when no memory gets pages from it any more. NULL is allowed. */
void sandbox_snapshot_release(sandbox_snapshot *snapshot);

/* Makes guest memory and the shared page; no process yet. Keeps `image`. */
int sandbox_worker_create(sandbox_image *image, sandbox_worker **worker);
/* Asks the nursery for the process. -EAGAIN: the socket is full, wait until it is writable. */
int sandbox_worker_request(sandbox_worker *worker, sandbox_nursery *nursery);
/* Takes the nursery's reply to the oldest request that has none. -ENOMSG: not there yet. -ECONNRESET: the
 * nursery is gone. Otherwise an error of the step in *step. */
int sandbox_worker_receive(sandbox_worker *worker, sandbox_nursery *nursery, uint32_t *step);
/* Readable when the process is dead; -1 before there is one. Owned by the worker. */
int sandbox_worker_pidfd(const sandbox_worker *worker);
/* Whether the process is dead, as the kernel knows it; no event tells yet. */
int sandbox_worker_is_gone(const sandbox_worker *worker);
/* Process id as the host sees it, or -errno (-ENOTTY before Linux 6.13). */
int sandbox_worker_pid(const sandbox_worker *worker);
struct sandbox_guest *sandbox_worker_guest(sandbox_worker *worker);
/* The futex word to wait on while busy, and the value that it then has. Valid until the worker is destroyed. */
uint32_t *sandbox_worker_futex(sandbox_worker *worker);
uint32_t sandbox_worker_futex_value(const sandbox_worker *worker);

/* Lets the guest run from guest.next_pc with guest.regs, and polls for up to `spin_ns` nanoseconds. The worker
 * itself polls `worker_rounds` rounds before it sleeps when it is done. Returns an enum sandbox_event, or
 * -EINVAL if there is no next pc. Only while not busy. */
int sandbox_worker_resume(sandbox_worker *worker, uint64_t spin_ns, uint32_t worker_rounds);
/* What the worker is doing: an enum sandbox_event. Serves sbrk on the way, and page faults if there is a pager: then it
 * polls for as long as sandbox_worker_resume did, but no longer than a millisecond. */
int sandbox_worker_poll(sandbox_worker *worker);
/* After SANDBOX_PAGING: has the pager serve the fault, which may block, and lets the guest go on. SANDBOX_BUSY, or
 * SANDBOX_PAGE_FAULT if the pager cannot. */
int sandbox_worker_page_in(sandbox_worker *worker);
/* Asks a guest that is busy to stop where it is: polls then give SANDBOX_INTERRUPTED, or what it stopped with by itself
 * before that. For one that is not busy it has no effect. -ESRCH: it is dead. */
int sandbox_worker_interrupt(sandbox_worker *worker);
/* Sends SIGKILL. The death is seen through the pidfd. Does nothing in a forked child of the process that made
 * the worker. */
void sandbox_worker_kill(sandbox_worker *worker);
/* To be called when the pidfd is readable: later polls give SANDBOX_DIED, and who waits on the futex wakes. */
void sandbox_worker_mark_dead(sandbox_worker *worker);
/* Wait status of the dead process as waitpid(2) has it, or -errno: -EAGAIN or -ESRCH until the kernel has reaped it,
 * a moment after the pidfd became readable and when it reports POLLHUP; -ENOTTY or -ESRCH before Linux 6.15. */
int sandbox_worker_wait_status(const sandbox_worker *worker);
/* Memory and state as they are in the snapshot, without a limit. `pristine`: they are as they were at the start;
 * otherwise they may be in any state. `lazy`: with dynamic paging, pages may be copied when they are touched, and the
 * snapshot is kept until the next reset; not to be asked for where memories are compared. Only while not busy and not
 * dead. -EINVAL: it is one of another program. */
int sandbox_worker_restore(sandbox_worker *worker, sandbox_snapshot *snapshot, uint32_t pristine, uint32_t lazy);
/* Memory and state as they were at the start. Only while not busy and not dead. */
int sandbox_worker_reset(sandbox_worker *worker);
/* Kills if alive, unmaps, closes, frees. NULL is allowed. */
void sandbox_worker_destroy(sandbox_worker *worker);

/* Owned by the worker. */
sandbox_memory *sandbox_worker_memory(sandbox_worker *worker);

/* --- waits: futex words of guests, watched by threads of this process where no io_uring does it --- */

typedef struct sandbox_waits sandbox_waits;

/* Starts the first thread. -ENOSYS, or -EPERM from a seccomp filter that is older: there is no futex_waitv (Linux 5.16);
 * -EMFILE, -ENFILE, -ENOMEM; -EAGAIN: no thread can be had. */
int sandbox_waits_open(sandbox_waits **waits);
/* An eventfd, readable when there is something to take. Owned by the waits. */
int sandbox_waits_event(const sandbox_waits *waits);
/* Waits for `word`, which is shared with another process, to hold anything but `value`, now or later. Returns a ticket,
 * below 2^31, or -errno. The word is to stay mapped until its ticket was taken or removed. */
int sandbox_waits_add(sandbox_waits *waits, uint32_t *word, uint32_t value);
/* Ends a wait. Nothing looks at its word any more. */
void sandbox_waits_remove(sandbox_waits *waits, uint32_t ticket);
/* The tickets, up to `count`, of words that changed; they are spent. Returns how many; -errno of a futex_waitv that
 * failed: whoever is left waits in vain. */
int sandbox_waits_take(sandbox_waits *waits, uint32_t *tickets, uint32_t count);
/* Threads that run; each waits on up to 127 words. */
uint32_t sandbox_waits_threads(const sandbox_waits *waits);
/* Ends the threads and frees. Every wait is gone. NULL is allowed. */
void sandbox_waits_close(sandbox_waits *waits);

/* --- interpreted: one guest in the interpreter, without a process of its own --- */

typedef struct sandbox_interpreted sandbox_interpreted;

/* Keeps `image`, which was made for the interpreter. `in_files`: its memory can be compared, for a descriptor or two. */
int sandbox_interpreted_create(sandbox_image *image, uint32_t in_files, sandbox_interpreted **interpreted);
struct sandbox_guest *sandbox_interpreted_guest(sandbox_interpreted *interpreted);
/* Runs about `budget` instructions on the calling thread. Returns an enum sandbox_event: SANDBOX_BUSY if it has
 * to be called again, and -EINVAL if there is no next pc. While busy, guest state and memory are not to be used. A pager
 * that would block waits for a call that says that it `may_block`. */
int sandbox_interpreted_run(sandbox_interpreted *interpreted, uint64_t budget, uint32_t may_block);
/* Has a run return SANDBOX_INTERRUPTED within a millisecond, unless the guest stops by itself before that. Safe from
 * another thread; for one that is not busy it has no effect. */
void sandbox_interpreted_interrupt(sandbox_interpreted *interpreted);
/* As sandbox_worker_restore, for one that has not run yet. */
int sandbox_interpreted_restore(sandbox_interpreted *interpreted, sandbox_snapshot *snapshot, uint32_t lazy);
/* Owned by the interpreted guest. */
sandbox_memory *sandbox_interpreted_memory(sandbox_interpreted *interpreted);
/* NULL is allowed. */
void sandbox_interpreted_destroy(sandbox_interpreted *interpreted);

/* --- generic: one guest in recompiled code in this process ---
 *
 * Nothing but the recompiler keeps it in. Its memory is bounded by the GS base and inaccessible pages, its traps are
 * signals of this process (signals.h). No function here does anything to a guest that a parent process made.
 */

typedef struct sandbox_generic_home sandbox_generic_home;
typedef struct sandbox_generic sandbox_generic;

/* Installs the signal handlers, and starts a thread that pauses guests whose turn is over. Errors: those of
 * pthread_create; -EMLINK: others changed signal handlers too often. */
int sandbox_generic_open(sandbox_generic_home **home);
/* No guest runs any more. NULL is allowed. */
void sandbox_generic_close(sandbox_generic_home *home);

/* Keeps `image`, which was made for this process. Errors: those of memory_create; -ENOMEM also for too many mappings
 * (vm.max_map_count) or too little address space (RLIMIT_AS). */
int sandbox_generic_create(sandbox_image *image, sandbox_generic **generic);
struct sandbox_guest *sandbox_generic_guest(sandbox_generic *generic);
/* Owned by the guest. */
sandbox_memory *sandbox_generic_memory(sandbox_generic *generic);
/* Runs it on the calling thread until it stops or its turn is over, at most half a millisecond after `turn_ns`
 * nanoseconds. Returns an enum sandbox_event: SANDBOX_BUSY if it has to be called again, from any thread, SANDBOX_DIED
 * if it was stopped for good; or -EINVAL if there is no next pc, and -EMLINK as above. While busy, guest state and
 * memory are not to be used. */
int sandbox_generic_run(sandbox_generic_home *home, sandbox_generic *generic, uint64_t turn_ns);
/* Has a run in another thread return SANDBOX_BUSY, soon, unless the guest stops by itself before that; without one it has
 * no effect. The guest may be left there: its state is then that of a stopped one. Errors as of sandbox_generic_stop. */
int sandbox_generic_pause(sandbox_generic *generic);
/* Ends a run in another thread, soon, and any later one. Errors: -EMLINK as above, those of pthread_sigqueue. */
int sandbox_generic_stop(sandbox_generic *generic);
/* As sandbox_worker_restore, for one that has not run yet. */
int sandbox_generic_restore(sandbox_generic *generic, sandbox_snapshot *snapshot);
/* Memory and registers as they were at the start. Only while not busy. */
int sandbox_generic_reset(sandbox_generic *generic);
/* No thread runs it. NULL is allowed. */
void sandbox_generic_destroy(sandbox_generic *generic);

/* --- probes for `pvm doctor`: 0 or -errno --- */

int sandbox_probe_futex_waitv(void);
int sandbox_probe_userfaultfd(void);
int sandbox_probe_seccomp(void);
int sandbox_probe_memfd_seal(void);
/* Bits of PVM_CPU_* that are missing. */
uint32_t sandbox_probe_cpu(void);
/* Bits of PVM_CPU_* that the recompiler cannot do without. */
uint32_t sandbox_cpu_required(void);
/* Name of the feature with the one bit `feature`, for people; NULL if there is none. */
const char *sandbox_cpu_feature_name(uint32_t feature);

#endif
