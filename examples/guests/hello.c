// SPDX-License-Identifier: MIT
// A C program as any other.
//
//     pvm build hello.c -o hello.polkavm
//     pvm run hello.polkavm -- you
#include <stdio.h>

int main(int argc, char **argv) {
    printf("Hello, %s: pi is about %.4f.\n", argc > 1 ? argv[1] : "world", 355.0 / 113.0);
    return 0;
}
