/* SPDX-License-Identifier: MIT
 *
 * nursery: first process of its pid namespace, one per engine. It makes the empty house once, then clones a
 * worker per request; each gets user and pid namespaces of its own on top.
 *
 * It ends, and the kernel with it every worker, when the control socket closes or the host process dies
 * (both are watched: a forked child of the host may hold the socket open).
 */
#include "zygote/zygote.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "zygote/confine.h"
#include "zygote/filter.h"

#define TASK_SIZE_47 UINT64_C(0x7ffffffff000)

/* Inherited by workers, which lower some further. */
static const struct confine_limit nursery_limits[] = {
    {RLIMIT_CORE, 0},
    {RLIMIT_FSIZE, 0},
    {RLIMIT_LOCKS, 0},
    {RLIMIT_MEMLOCK, 0},
    {RLIMIT_MSGQUEUE, 0},
    {RLIMIT_STACK, 16 << 10},
    {RLIMIT_DATA, UINT64_C(8) << 30},
};

static _Noreturn void nursery_fail(enum zygote_step step, int error)
{
    message_reply(CONTROL_FD, step, error, -1);
    linux_exit(1);
}

static void nursery_check(enum zygote_step step, int result)
{
    if (result < 0)
        nursery_fail(step, result);
}

/* --- user namespace --- */

static void nursery_write_proc(const char *path, const char *text, size_t size)
{
    const int fd = linux_openat(AT_FDCWD, path, O_WRONLY | O_CLOEXEC);
    nursery_check(ZYGOTE_STEP_ID_MAP, fd);
    const long written = linux_write(fd, text, size);
    linux_close(fd);
    nursery_check(ZYGOTE_STEP_ID_MAP, (int)written);
}

static void nursery_map_id(const char *path, uint32_t outside)
{
    char text[32]; /* "0 4294967295 1\n" */
    size_t end = sizeof text;
    text[--end] = '\n';
    text[--end] = '1';
    text[--end] = ' ';
    do {
        text[--end] = (char)('0' + outside % 10);
        outside /= 10;
    } while (outside != 0);
    text[--end] = ' ';
    text[--end] = '0';
    nursery_write_proc(path, text + end, sizeof text - end);
}

/* --- mount and UTS namespaces --- */

static void nursery_empty_root(void)
{
    nursery_check(ZYGOTE_STEP_PRIVATE_MOUNTS, linux_mount(NULL, "/", NULL, MS_REC | MS_PRIVATE));

    const int context = linux_fsopen("tmpfs", FSOPEN_CLOEXEC);
    nursery_check(ZYGOTE_STEP_TMPFS, context);
    nursery_check(ZYGOTE_STEP_TMPFS, linux_fsconfig(context, FSCONFIG_SET_STRING, "mode", "0555"));
    nursery_check(ZYGOTE_STEP_TMPFS, linux_fsconfig(context, FSCONFIG_SET_STRING, "nr_inodes", "2"));
    nursery_check(ZYGOTE_STEP_TMPFS, linux_fsconfig(context, FSCONFIG_SET_STRING, "size", "4096"));
    nursery_check(ZYGOTE_STEP_TMPFS, linux_fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL));
    const unsigned attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    const int root = linux_fsmount(context, FSMOUNT_CLOEXEC, attributes);
    nursery_check(ZYGOTE_STEP_TMPFS, root);

    /* Attached over "/", which is the one directory that is always there; then root and old root trade
     * places in the same directory (pivot_root(2), "pivot_root(".", ".")"), and the old one is let go. */
    nursery_check(ZYGOTE_STEP_ATTACH_ROOT, linux_move_mount(root, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH));
    nursery_check(ZYGOTE_STEP_PIVOT_ROOT, linux_fchdir(root));
    nursery_check(ZYGOTE_STEP_PIVOT_ROOT, linux_pivot_root(".", "."));
    nursery_check(ZYGOTE_STEP_DETACH_ROOT, linux_umount2(".", MNT_DETACH));
    nursery_check(ZYGOTE_STEP_DETACH_ROOT, linux_chdir("/"));
    linux_close(root);
    linux_close(context);
}

/* --- memory --- */

/* Leaves nothing mapped but the zygote itself: not the start-up stack, which would tell of the host, and not
 * the vDSO. A kernel that seals the vDSO (CONFIG_MSEAL_SYSTEM_MAPPINGS, 6.16) refuses that part alone. */
static void nursery_unmap(uint64_t vdso)
{
    const uint64_t begin = (uint64_t)(uintptr_t)zygote_begin;
    const uint64_t end = (uint64_t)(uintptr_t)zygote_end;
    nursery_check(ZYGOTE_STEP_UNMAP, linux_munmap(0, begin));
    const int error = linux_munmap(end, TASK_SIZE_47 - end);
    if (error == -EPERM && vdso > end) {
        const uint64_t around = 16 * LAYOUT_PAGE; /* covers the data pages below the vDSO and its code above */
        nursery_check(ZYGOTE_STEP_UNMAP, linux_munmap(end, vdso - around - end));
        nursery_check(ZYGOTE_STEP_UNMAP, linux_munmap(vdso + around, TASK_SIZE_47 - vdso - around));
        return;
    }
    nursery_check(ZYGOTE_STEP_UNMAP, error);
}

/* --- the loop --- */

static void nursery_clone_worker(const struct zygote_request *request, const int *files)
{
    int worker = -1;
    struct clone_args arguments = {
        .flags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_PIDFD,
        .pidfd = (uint64_t)(uintptr_t)&worker,
        .exit_signal = SIGCHLD, /* ignored, so that the kernel reaps workers by itself */
    };
    const long pid = linux_clone3(&arguments, sizeof arguments);
    if (pid == 0)
        worker_main(request, files);
    if (pid < 0) {
        message_reply(CONTROL_FD, ZYGOTE_STEP_CLONE_WORKER, (int)pid, -1);
        return;
    }
    message_reply(CONTROL_FD, ZYGOTE_STEP_NONE, 0, worker);
    linux_close(worker);
}

/* Moves the `count` files that came to their places. Whether they are those that the request says. */
static int nursery_sort_files(const struct zygote_request *request, int count, int *files)
{
    for (int i = ZYGOTE_FILE_COUNT - 1, last = 0; i >= 0; i--) {
        int place = 0; /* among those that came */
        for (int before = 0; before < i; before++)
            place += zygote_request_has(request, (enum zygote_file)before);
        const int has = zygote_request_has(request, (enum zygote_file)i);
        if (last == 0 && has && place != count - 1)
            return 0;
        last |= has;
        files[i] = has ? files[place] : -1;
    }
    return 1;
}

static _Noreturn void nursery_serve(int host)
{
    for (;;) {
        struct pollfd fds[2] = {{.fd = CONTROL_FD, .events = POLLIN}, {.fd = host, .events = POLLIN}};
        const int ready = linux_ppoll(fds, 2);
        if (ready == -EINTR)
            continue;
        if (ready < 0 || fds[1].revents != 0)
            linux_exit(0);
        struct zygote_request request;
        int files[ZYGOTE_FILE_COUNT];
        const int count = message_receive(CONTROL_FD, &request, sizeof request, files);
        if (count == -ECONNRESET)
            linux_exit(0);
        if (count < 0 || !nursery_sort_files(&request, count, files))
            linux_exit(1);
        nursery_clone_worker(&request, files);
        for (int i = 0; i < ZYGOTE_FILE_COUNT; i++)
            if (files[i] >= 0)
                linux_close(files[i]);
    }
}

_Noreturn void nursery_main(int host, const struct zygote_boot *boot, uint64_t vdso)
{
    /* setgroups must be denied before an unprivileged gid_map (user_namespaces(7)) */
    nursery_write_proc("/proc/self/setgroups", "deny", 4);
    nursery_map_id("/proc/self/uid_map", boot->uid);
    nursery_map_id("/proc/self/gid_map", boot->gid);
    nursery_empty_root();
    nursery_check(ZYGOTE_STEP_HOSTNAME, linux_sethostname("sandbox", 7));
    nursery_check(ZYGOTE_STEP_HOSTNAME, linux_setdomainname("sandbox", 7));
    nursery_unmap(vdso);

    /* struct kernel_sigaction: handler, flags, restorer, mask */
    const uint64_t ignore[4] = {(uint64_t)(uintptr_t)SIG_IGN, 0, 0, 0};
    nursery_check(ZYGOTE_STEP_SIGNALS, linux_rt_sigaction(SIGCHLD, ignore));
    nursery_check(ZYGOTE_STEP_RLIMITS,
                  confine_limits(nursery_limits, sizeof nursery_limits / sizeof nursery_limits[0]));
    nursery_check(ZYGOTE_STEP_CAPABILITIES, confine_drop_capabilities());
    nursery_check(ZYGOTE_STEP_NO_NEW_PRIVS, linux_prctl(PR_SET_NO_NEW_PRIVS, 1));
    nursery_check(ZYGOTE_STEP_DUMPABLE, linux_prctl(PR_SET_DUMPABLE, 0));
    nursery_check(ZYGOTE_STEP_NURSERY_FILTER, filter_install_nursery());
    message_reply(CONTROL_FD, ZYGOTE_STEP_NONE, 0, -1);
    nursery_serve(host);
}
