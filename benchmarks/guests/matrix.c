/* SPDX-License-Identifier: MIT */
/* Products of matrices of 64-bit integers: guests have no floating point, and soft float is another benchmark. */
#include "kernel.h"

enum { N = 128 };
static int64_t a[N][N], b[N][N], c[N][N];

uint64_t run(uint32_t rounds) {
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            a[i][j] = i - j * 3, b[i][j] = i * j + 1;
    uint64_t result = 0;
    for (uint32_t round = 0; round < rounds; round++) {
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                int64_t sum = 0;
                for (int n = 0; n < N; n++)
                    sum += a[i][n] * b[n][j];
                c[i][j] = sum;
            }
        a[round % N][0] += c[7][round % N] & 3;
        result += (uint64_t)c[N - 1][N / 2];
    }
    return result;
}
