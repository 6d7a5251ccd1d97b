/* SPDX-License-Identifier: MIT */
#include "pvm_host.h"

static void say(const char *text) {
    uint32_t length = 0;
    while (text[length])
        length++;
    pvm_write(2, text, length);
}

void pvm_panic(const char *text) {
    say("panic: ");
    say(text);
    say("\n");
    __builtin_trap();
}
