/* SPDX-License-Identifier: MIT */
/* One that takes what memory there is, and then uses more. */
#include <stdlib.h>
#include "plugin.h"

int64_t plugin(int64_t a, int64_t b, int64_t c) {
    for (;;) {
        volatile int64_t *memory = malloc(1 << 20);
        *memory = a + b + c;
    }
}
