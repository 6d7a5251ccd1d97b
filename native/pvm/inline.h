/* SPDX-License-Identifier: MIT
 *
 * inline: functions that are worth inlining everywhere, because with a constant operation little is left of them.
 */
#ifndef PVM_INLINE_H
#define PVM_INLINE_H

/* Not under a sanitizer, whose checks would be inlined as often and take the compiler minutes. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PVM_INLINE static inline
#else
#define PVM_INLINE static inline __attribute__((always_inline))
#endif

#endif
