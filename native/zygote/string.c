/* SPDX-License-Identifier: MIT
 *
 * string: the functions that the compiler may call in freestanding code (GCC manual, "Standards").
 */
#include <stddef.h>

void *memcpy(void *restrict destination, const void *restrict source, size_t size);
void *memset(void *destination, int byte, size_t size);

void *memcpy(void *restrict destination, const void *restrict source, size_t size)
{
    void *result = destination;
    __asm__ volatile("rep movsb" : "+D"(destination), "+S"(source), "+c"(size) : : "memory");
    return result;
}

void *memset(void *destination, int byte, size_t size)
{
    void *result = destination;
    __asm__ volatile("rep stosb" : "+D"(destination), "+c"(size) : "a"(byte) : "memory");
    return result;
}
