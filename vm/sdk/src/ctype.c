/* SPDX-License-Identifier: MIT */
/* Those of Zig 0.17 make 255 of EOF. */
#include <ctype.h>

#undef toupper
#undef tolower

int toupper(int c) { return c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c; }

int tolower(int c) { return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c; }
