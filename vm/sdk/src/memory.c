/* SPDX-License-Identifier: MIT */
/* The functions that compilers call by themselves. Guests may access memory unaligned, at no cost. Compiled with
   -fno-builtin, lest they become calls of themselves. */
#include <stddef.h>
#include <stdint.h>

typedef uintptr_t __attribute__((may_alias, aligned(1))) word;
#define WORD sizeof(word)

/* Copies from low addresses to high ones, four words read before they are written. */
static void forward(unsigned char *d, const unsigned char *s, size_t size) {
    for (; size >= 4 * WORD; d += 4 * WORD, s += 4 * WORD, size -= 4 * WORD) {
        word w0 = ((const word *)s)[0], w1 = ((const word *)s)[1], w2 = ((const word *)s)[2], w3 = ((const word *)s)[3];
        ((word *)d)[0] = w0;
        ((word *)d)[1] = w1;
        ((word *)d)[2] = w2;
        ((word *)d)[3] = w3;
    }
    for (; size >= WORD; d += WORD, s += WORD, size -= WORD)
        *(word *)d = *(const word *)s;
    for (; size; size--)
        *d++ = *s++;
}

void *memcpy(void *restrict to, const void *restrict from, size_t size) {
    forward(to, from, size);
    return to;
}

void *memmove(void *to, const void *from, size_t size) {
    unsigned char *d = to;
    const unsigned char *s = from;
    if ((uintptr_t)d - (uintptr_t)s >= size) { /* the end of the source is not overwritten before it is read */
        forward(d, s, size);
        return to;
    }
    for (; size >= WORD; size -= WORD)
        *(word *)(d + size - WORD) = *(const word *)(s + size - WORD);
    for (; size; size--)
        d[size - 1] = s[size - 1];
    return to;
}

/* PolkaVM has an instruction for it: a0 is where, a1 what, a2 how often. */
void *memset(void *to, int byte, size_t size) {
    register void *a0 __asm__("a0") = to;
    register int a1 __asm__("a1") = byte;
    register size_t a2 __asm__("a2") = size;
    __asm__ volatile(".insn r 0x0b, 2, 0, x0, x0, x0" : "+r"(a0), "+r"(a2) : "r"(a1) : "memory");
    return to;
}

int memcmp(const void *left, const void *right, size_t size) {
    const unsigned char *l = left, *r = right;
    for (; size >= WORD && *(const word *)l == *(const word *)r; l += WORD, r += WORD)
        size -= WORD;
    for (; size; l++, r++, size--)
        if (*l != *r)
            return *l - *r;
    return 0;
}

int bcmp(const void *left, const void *right, size_t size) { return memcmp(left, right, size); }

size_t strlen(const char *text) {
    const char *end = text;
    while (*end)
        end++;
    return (size_t)(end - text);
}
