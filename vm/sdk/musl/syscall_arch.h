/* SPDX-License-Identifier: MIT */
/* musl's system calls become calls of the SDK's functions (src/posix.c). The number is a constant wherever musl makes
   one, so that of the switch one call remains, and a program imports nothing that it does not reach. */
union __pvm_halves {
    long long whole;
    long half[2];
};
#define __SYSCALL_LL_E(x) ((union __pvm_halves){.whole = x}).half[0], ((union __pvm_halves){.whole = x}).half[1]
#define __SYSCALL_LL_O(x) __SYSCALL_LL_E((x))

#define PVM__INLINE static inline __attribute__((always_inline, unused))

long __pvm_sys_close(long), __pvm_sys_read(long, long, long), __pvm_sys_readv(long, long, long),
    __pvm_sys_write(long, long, long), __pvm_sys_writev(long, long, long), __pvm_sys_lseek(long, long, long),
    __pvm_sys_llseek(long, long, long, long, long), __pvm_sys_openat(long, long, long),
    __pvm_sys_ioctl(long, long, long), __pvm_sys_unlinkat(long, long, long), __pvm_sys_renameat(long, long, long, long),
    __pvm_sys_readlinkat(long, long), __pvm_sys_clock_gettime(long, long), __pvm_sys_getrandom(long, long, long);

PVM__INLINE long __pvm_syscall(long n, long a, long b, long c, long d, long e) {
    switch (n) {
    case SYS_close: return __pvm_sys_close(a);
    case SYS_read: return __pvm_sys_read(a, b, c);
    case SYS_readv: return __pvm_sys_readv(a, b, c);
    case SYS_write: return __pvm_sys_write(a, b, c);
    case SYS_writev: return __pvm_sys_writev(a, b, c);
#ifdef SYS_lseek
    case SYS_lseek: return __pvm_sys_lseek(a, b, c);
#else
    case SYS__llseek: return __pvm_sys_llseek(a, b, c, d, e);
#endif
    case SYS_openat: return __pvm_sys_openat(a, b, c);
    case SYS_ioctl: return __pvm_sys_ioctl(a, b, c);
    case SYS_unlinkat: return __pvm_sys_unlinkat(a, b, c);
    case SYS_renameat2: return __pvm_sys_renameat(a, b, c, d);
    case SYS_readlinkat: return __pvm_sys_readlinkat(a, b);
#ifdef SYS_clock_gettime64
    case SYS_clock_gettime64: return __pvm_sys_clock_gettime(a, b);
#else
    case SYS_clock_gettime: return __pvm_sys_clock_gettime(a, b);
#endif
    case SYS_getrandom: return __pvm_sys_getrandom(a, b, c);
    default: return -ENOSYS;
    }
}

PVM__INLINE long __syscall0(long n) { return __pvm_syscall(n, 0, 0, 0, 0, 0); }
PVM__INLINE long __syscall1(long n, long a) { return __pvm_syscall(n, a, 0, 0, 0, 0); }
PVM__INLINE long __syscall2(long n, long a, long b) { return __pvm_syscall(n, a, b, 0, 0, 0); }
PVM__INLINE long __syscall3(long n, long a, long b, long c) { return __pvm_syscall(n, a, b, c, 0, 0); }
PVM__INLINE long __syscall4(long n, long a, long b, long c, long d) { return __pvm_syscall(n, a, b, c, d, 0); }
PVM__INLINE long __syscall5(long n, long a, long b, long c, long d, long e) { return __pvm_syscall(n, a, b, c, d, e); }
PVM__INLINE long __syscall6(long n, long a, long b, long c, long d, long e, long f) {
    (void)f;
    return __pvm_syscall(n, a, b, c, d, e);
}
/* musl declares it later, without "static": it stays what it is here (C11 6.2.2). There is nothing to cancel. */
PVM__INLINE long __syscall_cp(long n, long a, long b, long c, long d, long e, long f) {
    (void)f;
    return __pvm_syscall(n, a, b, c, d, e);
}
