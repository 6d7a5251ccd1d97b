/* SPDX-License-Identifier: MIT
 *
 * filter: the seccomp policy as commented data.
 */
#include "zygote/filter.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <stddef.h>

#include "linux/linux.h"
#include "pvm/vmctx.h"
#include "zygote/zygote.h"

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
/* the low half of argument n; the kernel reads futex's operation as an int, so the high half means nothing */
#define LOAD_ARGUMENT(n) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args) + (n) * 8u)
#define LOAD_ARGUMENT_HIGH(n) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args) + (n) * 8u + 4u)
#define RETURN(action) BPF_STMT(BPF_RET | BPF_K, (action))
#define ALLOW RETURN(SECCOMP_RET_ALLOW)
#define KILL RETURN(SECCOMP_RET_KILL_PROCESS)
#define ALLOW_IF(value) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), 0, 1), ALLOW
#define KILL_UNLESS(value) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), 1, 0), KILL

#define CHECK_ARCHITECTURE LOAD(arch), KILL_UNLESS(AUDIT_ARCH_X86_64)

/* The guest phase. What a broken-out guest can still do: wait, wake, end itself. No filter is asked about uretprobe and
 * uprobe (Linux 6.14 and 6.18), which do nothing outside of the trampolines of probes. tests/security/test_machine_code.py
 * tries all numbers. */
static const struct sock_filter worker_filter[] = {
    CHECK_ARCHITECTURE,
    LOAD(nr),
    /* the end of a signal handler, which is how a trap gets back to the wait loop */
    ALLOW_IF(__NR_rt_sigreturn),
    /* the worker ends itself when it finds itself out of the rules */
    ALLOW_IF(__NR_exit),
    /* waiting for the host and waking it: the state word alone, because a futex in the image, which all workers of a
       module map, would be a way to each other */
    KILL_UNLESS(__NR_futex),
    LOAD_ARGUMENT(0),
    KILL_UNLESS((uint32_t)(LAYOUT_VMCTX_BASE + offsetof(struct vmctx, state))),
    LOAD_ARGUMENT_HIGH(0),
    KILL_UNLESS((uint32_t)(LAYOUT_VMCTX_BASE >> 32)),
    /* exactly these two operations, and not in their private form */
    LOAD_ARGUMENT(1),
    ALLOW_IF(FUTEX_WAIT),
    ALLOW_IF(FUTEX_WAKE),
    KILL,
};

/* The nursery, and a worker until it installs the filter above. */
static const struct sock_filter nursery_filter[] = {
    CHECK_ARCHITECTURE,
    LOAD(nr),
    /* the guest phase */
    ALLOW_IF(__NR_futex),
    ALLOW_IF(__NR_rt_sigreturn),
    ALLOW_IF(__NR_exit),
    /* the nursery's loop: wait for a request, clone a worker, answer with its pidfd */
    ALLOW_IF(__NR_ppoll),
    ALLOW_IF(__NR_recvmsg),
    ALLOW_IF(__NR_sendmsg),
    ALLOW_IF(__NR_clone3),
    ALLOW_IF(__NR_close),
    /* a worker's set-up */
    ALLOW_IF(__NR_mmap),
    ALLOW_IF(__NR_sigaltstack),
    ALLOW_IF(__NR_rt_sigaction),
    ALLOW_IF(__NR_rt_sigprocmask),
    ALLOW_IF(__NR_close_range),
    ALLOW_IF(__NR_prlimit64),
    ALLOW_IF(__NR_prctl),
    ALLOW_IF(__NR_capset),
    ALLOW_IF(__NR_seccomp),
    /* and of a worker with dynamic paging: one that catches nothing that the kernel does itself */
    KILL_UNLESS(__NR_userfaultfd),
    LOAD_ARGUMENT(0),
    ALLOW_IF(ZYGOTE_USERFAULTFD_FLAGS),
    KILL,
};

static int filter_install(const struct sock_filter *filter, size_t count)
{
    const struct sock_fprog program = {.len = (unsigned short)count, .filter = (struct sock_filter *)(uintptr_t)filter};
    return linux_seccomp(SECCOMP_SET_MODE_FILTER, 0, &program);
}

int filter_install_nursery(void)
{
    return filter_install(nursery_filter, sizeof nursery_filter / sizeof nursery_filter[0]);
}

int filter_install_worker(void)
{
    return filter_install(worker_filter, sizeof worker_filter / sizeof worker_filter[0]);
}
