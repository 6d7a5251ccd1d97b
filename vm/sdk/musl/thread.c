/* SPDX-License-Identifier: MIT */
/* musl's descriptor of the only thread: errno and the locale in use are in it. */
#include "locale_impl.h"
#include "pthread_impl.h"

struct pthread __pvm_thread = {.self = &__pvm_thread, .tid = 1, .locale = &libc.global_locale};
