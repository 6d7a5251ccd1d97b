/* SPDX-License-Identifier: MIT */
/* There is one thread. */
#define LOCK(x) ((void)(x))
#define UNLOCK(x) ((void)(x))
