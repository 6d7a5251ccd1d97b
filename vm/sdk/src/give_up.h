/* SPDX-License-Identifier: MIT */
/* A panic for the library itself. Its text needs pvm_write: it is there in programs that write anything at all, and
   others do not get an import for it, but trap without. */
#ifndef GIVE_UP_H
#define GIVE_UP_H

#include "pvm.h"

PVM__C __attribute__((weak, noreturn)) void pvm_panic(const char *text);

__attribute__((noreturn, cold)) static inline void give_up(const char *text) {
    if (pvm_panic)
        pvm_panic(text);
    __builtin_trap();
}

#endif
