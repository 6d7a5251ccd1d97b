/* SPDX-License-Identifier: MIT
 *
 * protocol: what the host and the zygote agree on besides layout.h and vmctx.h: the files that a worker maps,
 * the messages on the control socket, and the names of the set-up steps.
 *
 * The zygote is one program in three roles. The *launcher* is what the host executes; it gives up root and
 * clones the *nursery* into new namespaces. The nursery clones one *worker* per sandbox, on request.
 */
#ifndef ZYGOTE_PROTOCOL_H
#define ZYGOTE_PROTOCOL_H

#include <stdint.h>

#include "zygote/layout.h"

/* --- file layout and mappings of one worker ---
 *
 * The *image* belongs to a module and is sealed against every write: native jump table, return page, native
 * code, read-only data. The others belong to one worker. The *ram* holds vmctx page, stack, and last the
 * read-write data with the heap, because the heap grows with the file's end. Auxiliary data has a file of its
 * own, because its end moves too: a module without any has none.
 */
enum zygote_file {
    ZYGOTE_FILE_RAM,
    ZYGOTE_FILE_IMAGE,
    ZYGOTE_FILE_AUX,    /* if the module has auxiliary data */
    ZYGOTE_FILE_PAGING, /* for dynamic paging: a socket that the worker's userfaultfd goes to the host by */
    ZYGOTE_FILE_COUNT
};

/* A window may reach past the end of its file: touching that raises SIGBUS. */
enum zygote_window {
    WINDOW_JUMP_TABLE, /* image, r */
    WINDOW_RETURN,     /* image, r */
    WINDOW_CODE,       /* image, r x */
    WINDOW_RO,         /* image, r */
    WINDOW_STACK,      /* ram, r w */
    WINDOW_AUX,        /* aux, r */
    WINDOW_RW,         /* ram, r w */
    WINDOW_COUNT
};

struct zygote_mapping {
    uint64_t address;
    uint64_t size; /* a multiple of LAYOUT_PAGE; 0: not mapped */
    uint64_t offset;
};

/* With this the host stops a guest that runs (vmctx.interrupt), and a worker reports it as the signal of a stop. */
#define ZYGOTE_INTERRUPT_SIGNAL 10 /* SIGUSR1 */

/* --- control socket: one SOCK_SEQPACKET message each --- */

#define ZYGOTE_MAGIC 0x676e7270u

/* Host to launcher, once; carries a pidfd of the host. */
struct zygote_boot {
    uint32_t magic;
    uint32_t size;       /* sizeof(struct zygote_boot): both sides were built from one header */
    uint32_t vmctx_size; /* sizeof(struct vmctx) */
    uint32_t drop;       /* 1: become `uid` and `gid` first (the host is root) */
    uint32_t uid;
    uint32_t gid;
};

/* Host to nursery; carries those files of enum zygote_file that zygote_request_has names, in their order. */
struct zygote_request {
    uint32_t magic;
    uint32_t size; /* sizeof(struct zygote_request) */
    uint32_t enter; /* offsets of trampolines in the native code */
    uint32_t trap;
    uint32_t guest_begin; /* where in the native code the guest's own lies */
    uint32_t guest_end;
    uint32_t dynamic_paging; /* 0 or 1 */
    uint32_t pad;
    struct zygote_mapping windows[WINDOW_COUNT];
};

static inline int zygote_request_has(const struct zygote_request *request, enum zygote_file file)
{
    if (file == ZYGOTE_FILE_AUX)
        return request->windows[WINDOW_AUX].size > 0;
    return file != ZYGOTE_FILE_PAGING || request->dynamic_paging;
}

/* To the host, for each of the above, and from a worker with its userfaultfd. With error 0 it carries a pidfd: of the nursery, or of the worker. */
struct zygote_reply {
    uint32_t magic;
    uint32_t step; /* enum zygote_step, where error is not 0 */
    int32_t error; /* -errno */
    uint32_t pad;
};

/* --- set-up steps ---
 *
 * X(name, what it is for). The host turns a failed step into an error that names it.
 */
#define ZYGOTE_STEPS(X)                                                  \
    X(NONE, "nothing")                                                   \
    X(BOOT, "reading the boot message")                                  \
    X(SETGROUPS, "dropping supplementary groups (setgroups)")            \
    X(SETGID, "changing to an unused group (setresgid)")                 \
    X(SETUID, "changing to an unused user (setresuid)")                  \
    X(NAMESPACES, "creating namespaces (clone3)")                        \
    X(ID_MAP, "mapping its user (/proc/self/uid_map)")                   \
    X(PRIVATE_MOUNTS, "making mounts private (mount)")                   \
    X(TMPFS, "making an empty root (fsopen, fsmount)")                   \
    X(ATTACH_ROOT, "attaching the empty root (move_mount)")              \
    X(PIVOT_ROOT, "changing to the empty root (pivot_root)")             \
    X(DETACH_ROOT, "detaching the old root (umount2)")                   \
    X(HOSTNAME, "setting the host name (sethostname)")                   \
    X(UNMAP, "unmapping its start-up memory (munmap)")                   \
    X(RLIMITS, "setting resource limits (prlimit)")                      \
    X(CAPABILITIES, "dropping capabilities (capset)")                    \
    X(NO_NEW_PRIVS, "setting no_new_privs (prctl)")                      \
    X(DUMPABLE, "clearing the dumpable flag (prctl)")                    \
    X(NURSERY_FILTER, "installing the nursery's seccomp filter")         \
    X(CLONE_WORKER, "creating the worker (clone3)")                      \
    X(MAP_VMCTX, "mapping the shared page (mmap)")                       \
    X(MAP_STACKS, "mapping its stacks (mmap)")                           \
    X(MAP_WINDOWS, "mapping code and guest memory (mmap)")               \
    X(USERFAULTFD, "dynamic paging (userfaultfd)")                       \
    X(SIGNALS, "installing signal handlers (sigaltstack, rt_sigaction)") \
    X(CLOSE_FILES, "closing files (close_range)")                        \
    X(WORKER_FILTER, "installing the worker's seccomp filter")

enum zygote_step {
#define X(name, text) ZYGOTE_STEP_##name,
    ZYGOTE_STEPS(X)
#undef X
        ZYGOTE_STEP_COUNT
};

#endif
