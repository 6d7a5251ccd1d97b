/* SPDX-License-Identifier: MIT */
/* There is one thread, and its descriptor is a variable: a guest has no thread pointer. */
extern struct __pthread __pvm_thread __attribute__((visibility("hidden")));

static inline uintptr_t __get_tp(void) { return (uintptr_t)&__pvm_thread; }
