/* SPDX-License-Identifier: MIT */
/* What programs need that are built without a libc, by a system's clang. */
#include "pvm.h"

_Noreturn void _Exit(int status);

_Noreturn void exit(int status) { _Exit(status); }

_Noreturn void abort(void) { __builtin_trap(); }

/* Nothing runs at exit. */
int __cxa_atexit(void (*function)(void *), void *argument, void *object) {
    (void)function;
    (void)argument;
    (void)object;
    return 0;
}
