/* SPDX-License-Identifier: MIT */
/* One that never ends. */
#include "plugin.h"

int64_t plugin(int64_t a, int64_t b, int64_t c) {
    for (volatile int64_t i = a + b + c;; i++)
        ;
}
