/* SPDX-License-Identifier: MIT
 *
 * linux: the raw system calls that the zygote (no libc) and the host (a child that shares its parent's
 * memory until exec, where libc must not be entered) have in common, and the names of errno values.
 *
 * Each wrapper returns the kernel's own value: a result, or -errno. Numbers come from the kernel's headers.
 */
#ifndef LINUX_LINUX_H
#define LINUX_LINUX_H

#include <asm/unistd.h>
#include <stddef.h>
#include <stdint.h>

/* --- entry --- */

static inline long linux_syscall6(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static inline long linux_syscall3(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

static inline long linux_syscall4(long number, long a, long b, long c, long d)
{
    register long r10 __asm__("r10") = d;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
                     : "rcx", "r11", "memory");
    return result;
}

static inline long linux_syscall5(long number, long a, long b, long c, long d, long e)
{
    return linux_syscall6(number, a, b, c, d, e, 0);
}

static inline long linux_syscall2(long number, long a, long b)
{
    return linux_syscall3(number, a, b, 0);
}

static inline long linux_syscall1(long number, long a)
{
    return linux_syscall3(number, a, 0, 0);
}

#define LINUX_PTR(pointer) ((long)(uintptr_t)(pointer))

/* --- files --- */

static inline int linux_openat(int directory, const char *path, int flags)
{
    return (int)linux_syscall4(__NR_openat, directory, LINUX_PTR(path), flags, 0);
}

static inline long linux_write(int fd, const void *data, size_t size)
{
    return linux_syscall3(__NR_write, fd, LINUX_PTR(data), (long)size);
}

static inline int linux_close(int fd)
{
    return (int)linux_syscall1(__NR_close, fd);
}

static inline int linux_close_range(unsigned first, unsigned last, unsigned flags)
{
    return (int)linux_syscall3(__NR_close_range, first, last, (long)flags);
}

static inline int linux_dup3(int from, int to, int flags)
{
    return (int)linux_syscall3(__NR_dup3, from, to, flags);
}

/* Waits without end. Not poll: that one goes on after a stop (SIGSTOP, a frozen cgroup, a suspended machine) by another
 * system call, restart_syscall(2), which a seccomp filter would have to allow. */
static inline int linux_ppoll(void *fds, unsigned count)
{
    return (int)linux_syscall5(__NR_ppoll, LINUX_PTR(fds), count, 0, 0, 0);
}

static inline long linux_recvmsg(int fd, void *message, int flags)
{
    return linux_syscall3(__NR_recvmsg, fd, LINUX_PTR(message), flags);
}

static inline long linux_sendmsg(int fd, const void *message, int flags)
{
    return linux_syscall3(__NR_sendmsg, fd, LINUX_PTR(message), flags);
}

/* --- mounts (the file-descriptor based interface, Linux 5.2) --- */

static inline int linux_mount(const char *source, const char *target, const char *type, unsigned long flags)
{
    return (int)linux_syscall5(__NR_mount, LINUX_PTR(source), LINUX_PTR(target), LINUX_PTR(type), (long)flags, 0);
}

static inline int linux_umount2(const char *target, int flags)
{
    return (int)linux_syscall2(__NR_umount2, LINUX_PTR(target), flags);
}

static inline int linux_fsopen(const char *type, unsigned flags)
{
    return (int)linux_syscall2(__NR_fsopen, LINUX_PTR(type), flags);
}

static inline int linux_fsconfig(int fd, unsigned command, const char *key, const char *value)
{
    return (int)linux_syscall5(__NR_fsconfig, fd, command, LINUX_PTR(key), LINUX_PTR(value), 0);
}

static inline int linux_fsmount(int fd, unsigned flags, unsigned attributes)
{
    return (int)linux_syscall3(__NR_fsmount, fd, flags, attributes);
}

static inline int linux_move_mount(int from, const char *from_path, int to, const char *to_path, unsigned flags)
{
    return (int)linux_syscall5(__NR_move_mount, from, LINUX_PTR(from_path), to, LINUX_PTR(to_path), flags);
}

static inline int linux_pivot_root(const char *new_root, const char *put_old)
{
    return (int)linux_syscall2(__NR_pivot_root, LINUX_PTR(new_root), LINUX_PTR(put_old));
}

static inline int linux_fchdir(int fd)
{
    return (int)linux_syscall1(__NR_fchdir, fd);
}

static inline int linux_chdir(const char *path)
{
    return (int)linux_syscall1(__NR_chdir, LINUX_PTR(path));
}

static inline int linux_sethostname(const char *name, size_t size)
{
    return (int)linux_syscall2(__NR_sethostname, LINUX_PTR(name), (long)size);
}

static inline int linux_setdomainname(const char *name, size_t size)
{
    return (int)linux_syscall2(__NR_setdomainname, LINUX_PTR(name), (long)size);
}

/* --- memory --- */

static inline int linux_userfaultfd(int flags)
{
    return (int)linux_syscall1(__NR_userfaultfd, flags);
}

static inline long linux_mmap(uint64_t address, size_t size, int protection, int flags, int fd, uint64_t offset)
{
    return linux_syscall6(__NR_mmap, (long)address, (long)size, protection, flags, fd, (long)offset);
}

static inline int linux_munmap(uint64_t address, uint64_t size)
{
    return (int)linux_syscall2(__NR_munmap, (long)address, (long)size);
}

static inline int linux_futex(uint32_t *word, int operation, uint32_t value)
{
    return (int)linux_syscall4(__NR_futex, LINUX_PTR(word), operation, value, 0);
}

/* --- processes, credentials, limits, signals --- */

static inline long linux_clone3(void *arguments, size_t size)
{
    return linux_syscall2(__NR_clone3, LINUX_PTR(arguments), (long)size);
}

static inline int linux_execveat(int fd, const char *path, char *const *argv, char *const *envp, int flags)
{
    return (int)linux_syscall5(__NR_execveat, fd, LINUX_PTR(path), LINUX_PTR(argv), LINUX_PTR(envp), flags);
}

static inline int linux_setgroups(size_t count, const uint32_t *groups)
{
    return (int)linux_syscall2(__NR_setgroups, (long)count, LINUX_PTR(groups));
}

static inline int linux_setresgid(uint32_t gid)
{
    return (int)linux_syscall3(__NR_setresgid, gid, gid, gid);
}

static inline int linux_setresuid(uint32_t uid)
{
    return (int)linux_syscall3(__NR_setresuid, uid, uid, uid);
}

static inline int linux_prctl(int option, unsigned long argument)
{
    /* the unused arguments must be zero: several options check it */
    return (int)linux_syscall5(__NR_prctl, option, (long)argument, 0, 0, 0);
}

static inline int linux_capset(void *header, const void *data)
{
    return (int)linux_syscall2(__NR_capset, LINUX_PTR(header), LINUX_PTR(data));
}

static inline int linux_prlimit(int resource, const void *limit)
{
    return (int)linux_syscall4(__NR_prlimit64, 0, resource, LINUX_PTR(limit), 0);
}

static inline int linux_seccomp(unsigned operation, unsigned flags, const void *argument)
{
    return (int)linux_syscall3(__NR_seccomp, operation, flags, LINUX_PTR(argument));
}

static inline int linux_rt_sigaction(int signal, const void *action)
{
    return (int)linux_syscall4(__NR_rt_sigaction, signal, LINUX_PTR(action), 0, 8);
}

static inline int linux_rt_sigprocmask(int how, const uint64_t *set)
{
    return (int)linux_syscall4(__NR_rt_sigprocmask, how, LINUX_PTR(set), 0, 8);
}

static inline int linux_sigaltstack(const void *stack)
{
    return (int)linux_syscall2(__NR_sigaltstack, LINUX_PTR(stack), 0);
}

__attribute__((noreturn)) static inline void linux_exit(int status)
{
    for (;;)
        linux_syscall1(__NR_exit, status);
}

/* --- names --- */

/* The symbolic name of a positive errno value that the calls above can give; "?" for others. */
static inline const char *linux_errno_name(int number)
{
    switch (number) {
#define LINUX_NAME(value, name) \
    case value:                 \
        return name
        LINUX_NAME(1, "EPERM");
        LINUX_NAME(2, "ENOENT");
        LINUX_NAME(3, "ESRCH");
        LINUX_NAME(4, "EINTR");
        LINUX_NAME(5, "EIO");
        LINUX_NAME(7, "E2BIG");
        LINUX_NAME(8, "ENOEXEC");
        LINUX_NAME(9, "EBADF");
        LINUX_NAME(10, "ECHILD");
        LINUX_NAME(11, "EAGAIN");
        LINUX_NAME(12, "ENOMEM");
        LINUX_NAME(13, "EACCES");
        LINUX_NAME(14, "EFAULT");
        LINUX_NAME(16, "EBUSY");
        LINUX_NAME(17, "EEXIST");
        LINUX_NAME(19, "ENODEV");
        LINUX_NAME(20, "ENOTDIR");
        LINUX_NAME(22, "EINVAL");
        LINUX_NAME(23, "ENFILE");
        LINUX_NAME(24, "EMFILE");
        LINUX_NAME(26, "ETXTBSY");
        LINUX_NAME(27, "EFBIG");
        LINUX_NAME(28, "ENOSPC");
        LINUX_NAME(30, "EROFS");
        LINUX_NAME(32, "EPIPE");
        LINUX_NAME(34, "ERANGE");
        LINUX_NAME(38, "ENOSYS");
        LINUX_NAME(71, "EPROTO");
        LINUX_NAME(75, "EOVERFLOW");
        LINUX_NAME(87, "EUSERS");
        LINUX_NAME(90, "EMSGSIZE");
        LINUX_NAME(95, "EOPNOTSUPP");
        LINUX_NAME(104, "ECONNRESET");
        LINUX_NAME(110, "ETIMEDOUT");
        LINUX_NAME(111, "ECONNREFUSED");
#undef LINUX_NAME
    default:
        return "?";
    }
}

#endif
