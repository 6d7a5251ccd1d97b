/* SPDX-License-Identifier: MIT */
/* An interpreter whose instructions jump to the next one's label. */
#include "torture.h"

enum { PUSH, ADD, SUB, MUL, DUP, OVER, SWAP, JUMP_IF, PRINT, HALT };

static int64_t execute(const int32_t *code) {
    static void *const labels[] = {&&push, &&add, &&sub, &&mul, &&dup, &&over, &&swap, &&jump_if, &&print, &&halt};
    int64_t stack[16], *top = stack, spare;
    const int32_t *at = code;
#define NEXT goto *labels[*at++]
    NEXT;
push:
    *top++ = *at++;
    NEXT;
add:
    top--, top[-1] += top[0];
    NEXT;
sub:
    top--, top[-1] -= top[0];
    NEXT;
mul:
    top--, top[-1] = (int64_t)((uint64_t)top[-1] * (uint64_t)top[0]);
    NEXT;
dup:
    *top = top[-1], top++;
    NEXT;
over:
    *top = top[-2], top++;
    NEXT;
swap:
    spare = top[-1], top[-1] = top[-2], top[-2] = spare;
    NEXT;
jump_if:
    at = *--top ? code + *at : at + 1;
    NEXT;
print:
    printf("%" PRId64 " ", top[-1]);
    NEXT;
halt:
    return top[-1];
}

int main(void) {
    static const int32_t factorial[] = {PUSH, 1,   PUSH,  20,  SWAP,    OVER, MUL,  SWAP, PUSH,
                                        -1,   ADD, PRINT, DUP, JUMP_IF, 4,    SWAP, HALT};
    printf("\n%" PRId64 "\n", execute(factorial));
    static const int32_t power[] = {PUSH, 3, PUSH, 40,  SWAP,    PUSH, 3,    MUL, SWAP,
                                    PUSH, 1, SUB,  DUP, JUMP_IF, 4,    SWAP, HALT};
    printf("%" PRId64 "\n", execute(power));
    return 0;
}
