/* SPDX-License-Identifier: MIT
 *
 * launcher: the role in which the host starts the zygote. It gives up root, if the host has it, clones the
 * nursery into seven new namespaces as the host's own child, passes the host a pidfd of it, and ends.
 *
 * Giving up root comes before the user namespace: limits that count per user have no effect on kernel uid 0.
 * It needs a process of its own, because a change of credentials would make the host undumpable.
 */
#include "zygote/zygote.h"

#include <elf.h>
#include <errno.h>
#include <linux/sched.h>
#include <sys/prctl.h>

#include "pvm/vmctx.h"

#define LAUNCHER_NAMESPACES                                                                              \
    (CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWCGROUP)

/* Where the vDSO is, from the auxiliary vector above argv and envp; 0 if the kernel mapped none. */
static uint64_t launcher_find_vdso(const uint64_t *stack)
{
    const uint64_t *word = stack + 1 + stack[0] + 1; /* argc, argv, NULL */
    while (*word != 0)
        word++;
    for (word++; word[0] != AT_NULL; word += 2)
        if (word[0] == AT_SYSINFO_EHDR)
            return word[1];
    return 0;
}

static _Noreturn void launcher_fail(enum zygote_step step, int error)
{
    message_reply(CONTROL_FD, step, error, -1);
    linux_exit(1);
}

static void launcher_drop_root(const struct zygote_boot *boot)
{
    int error = linux_setgroups(0, NULL);
    /* EPERM: a user namespace that denies it (rootless containers; user_namespaces(7)). The groups that are left
     * open nothing in an empty root without capabilities. A root without CAP_SETGID fails at the next step. */
    if (error < 0 && error != -EPERM)
        launcher_fail(ZYGOTE_STEP_SETGROUPS, error);
    error = linux_setresgid(boot->gid);
    if (error < 0)
        launcher_fail(ZYGOTE_STEP_SETGID, error);
    error = linux_setresuid(boot->uid);
    if (error < 0)
        launcher_fail(ZYGOTE_STEP_SETUID, error);
    /* The change of user made this process undumpable, and /proc/self/uid_map root's. */
    error = linux_prctl(PR_SET_DUMPABLE, 1);
    if (error < 0)
        launcher_fail(ZYGOTE_STEP_SETUID, error);
}

_Noreturn void launcher_main(const uint64_t *initial_stack)
{
    const uint64_t vdso = launcher_find_vdso(initial_stack);
    struct zygote_boot boot;
    int files[ZYGOTE_FILE_COUNT];
    int count = message_receive(CONTROL_FD, &boot, sizeof boot, files);
    if (count >= 0 && (count != 1 || boot.vmctx_size != sizeof(struct vmctx)))
        count = -EPROTO;
    if (count < 0)
        launcher_fail(ZYGOTE_STEP_BOOT, count);
    if (boot.drop)
        launcher_drop_root(&boot);

    int nursery = -1;
    struct clone_args arguments = {
        /* CLONE_PARENT: the host gets the nursery as its child and can reap it. The exit signal is then the
         * launcher's own, SIGCHLD since execve(2). */
        .flags = LAUNCHER_NAMESPACES | CLONE_PARENT | CLONE_PIDFD,
        .pidfd = (uint64_t)(uintptr_t)&nursery,
    };
    const long pid = linux_clone3(&arguments, sizeof arguments);
    if (pid < 0)
        launcher_fail(ZYGOTE_STEP_NAMESPACES, (int)pid);
    if (pid == 0)
        nursery_main(files[0], &boot, vdso);
    message_reply(CONTROL_FD, ZYGOTE_STEP_NONE, 0, nursery);
    linux_exit(0);
}
