/* SPDX-License-Identifier: MIT */
/* C11 atomics of 8 to 64 bits, flags and fences: with one thread, they are plain operations. */
#include <stdatomic.h>
#include <stdbool.h>
#include "torture.h"

#define TRY(name, type)                                                                                                \
    static __attribute__((noinline)) void name(uint64_t start, uint64_t operand) {                                     \
        static _Atomic type x;                                                                                         \
        type a = (type)start, b = (type)operand, expected = b;                                                         \
        atomic_store(&x, a);                                                                                           \
        feed((uint64_t)atomic_load(&x)), feed((uint64_t)atomic_exchange(&x, b)), feed((uint64_t)x);                    \
        feed((uint64_t)atomic_fetch_add(&x, a)), feed((uint64_t)x), feed((uint64_t)atomic_fetch_sub(&x, 3));           \
        feed((uint64_t)atomic_fetch_and(&x, a)), feed((uint64_t)atomic_fetch_or(&x, b)), feed((uint64_t)x);            \
        feed((uint64_t)atomic_fetch_xor(&x, 0x55)), feed((uint64_t)x);                                                 \
        feed(atomic_compare_exchange_strong(&x, &expected, a)), feed((uint64_t)expected), feed((uint64_t)x);           \
        feed(atomic_compare_exchange_strong(&x, &expected, b)), feed((uint64_t)x);                                     \
        atomic_store_explicit(&x, a, memory_order_release),                                                            \
            feed((uint64_t)atomic_load_explicit(&x, memory_order_acquire));                                            \
        feed((uint64_t)atomic_fetch_add_explicit(&x, b, memory_order_relaxed)), feed((uint64_t)++x),                   \
            feed((uint64_t)(x -= 7));                                                                                  \
    }
TRY(of_u8, uint8_t)
TRY(of_i8, int8_t)
TRY(of_u16, uint16_t)
TRY(of_i16, int16_t)
TRY(of_u32, uint32_t)
TRY(of_i32, int32_t)
TRY(of_u64, uint64_t)
TRY(of_i64, int64_t)

static void *_Atomic pointer;
static atomic_flag flag = ATOMIC_FLAG_INIT;
static atomic_bool ready;

int main(void) {
    for (size_t i = 0; i < COUNT(edges); i++)
        for (size_t j = 0; j < COUNT(edges); j += 2) {
            uint64_t a = edges[i], b = edges[j];
            of_u8(a, b), of_i8(a, b), of_u16(a, b), of_i16(a, b), of_u32(a, b), of_i32(a, b), of_u64(a, b),
                of_i64(a, b);
        }
    tell("atomics");
    int target;
    void *nothing = NULL;
    printf("%d ", atomic_compare_exchange_strong(&pointer, &nothing, &target));
    printf("%d %d ", atomic_load(&pointer) == &target, atomic_compare_exchange_strong(&pointer, &nothing, &target));
    printf("%d %d ", nothing == &target, atomic_flag_test_and_set(&flag));
    printf("%d\n", atomic_flag_test_and_set(&flag));
    atomic_flag_clear(&flag), atomic_thread_fence(memory_order_seq_cst), atomic_signal_fence(memory_order_acquire);
    atomic_store(&ready, true);
    printf("%d %d\n", atomic_flag_test_and_set(&flag), atomic_load(&ready));
    uint32_t plain = 5;
    printf("%u ", __sync_fetch_and_add(&plain, 3));
    printf("%d ", __sync_bool_compare_and_swap(&plain, 8, 9));
    printf("%u ", __sync_lock_test_and_set(&plain, 1)), printf("%u\n", plain);
    return 0;
}
