/* SPDX-License-Identifier: MIT */
#ifndef AIORING_URING_COMPAT_H
#define AIORING_URING_COMPAT_H

/*
 * What liburing 2.3 (Debian 12) does not know yet; numbers from include/uapi/linux/{io_uring,futex}.h of Linux 6.9.
 * Newer liburing has the opcodes as members of an enum, which #ifndef cannot see: a macro of the same name and value,
 * defined after the enum was read, changes nothing there.
 */
#include <liburing.h>

#ifndef IORING_OP_WAITID
#define IORING_OP_WAITID 50
#endif
#ifndef IORING_OP_FUTEX_WAIT
#define IORING_OP_FUTEX_WAIT 51
#endif
#ifndef IORING_OP_FUTEX_WAKE
#define IORING_OP_FUTEX_WAKE 52
#endif
#ifndef IORING_OP_FUTEX_WAITV
#define IORING_OP_FUTEX_WAITV 53
#endif

#ifndef IORING_OP_FTRUNCATE
#define IORING_OP_FTRUNCATE 55
#endif

#ifndef FUTEX2_SIZE_U32
#define FUTEX2_SIZE_U32 0x02
#endif
#ifndef FUTEX2_PRIVATE
#define FUTEX2_PRIVATE 128
#endif
#ifndef FUTEX_BITSET_MATCH_ANY
#define FUTEX_BITSET_MATCH_ANY 0xffffffffu
#endif

#endif
