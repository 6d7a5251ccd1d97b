/* SPDX-License-Identifier: MIT */
/* With one thread, what happens in between is nothing. */
#define a_cas a_cas
static inline int a_cas(volatile int *p, int expected, int wanted) {
    int old = *p;
    if (old == expected)
        *p = wanted;
    return old;
}

#define a_cas_p a_cas_p
static inline void *a_cas_p(volatile void *p, void *expected, void *wanted) {
    void *volatile *place = (void *volatile *)p;
    void *old = *place;
    if (old == expected)
        *place = wanted;
    return old;
}

#define a_barrier a_barrier
static inline void a_barrier(void) {}

#define a_crash a_crash
static inline _Noreturn void a_crash(void) { __builtin_trap(); }
