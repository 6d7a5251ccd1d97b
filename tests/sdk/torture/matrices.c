/* SPDX-License-Identifier: MIT */
/* Arrays of two and three dimensions, of doubles, floats and integers; pointers to rows; Gauss's elimination. */
#include <math.h>
#include "torture.h"

enum { N = 24 };
static double a[N][N], b[N][N], c[N][N];
static float cube[5][7][9];
static int8_t board[16][16];

static void multiply(double (*x)[N], double (*y)[N], double (*z)[N]) {
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            double sum = 0;
            for (int k = 0; k < N; k++)
                sum += x[i][k] * y[k][j];
            z[i][j] = sum;
        }
}
static double determinant(double m[N][N]) {
    double result = 1;
    for (int i = 0; i < N; i++) {
        int best = i;
        for (int r = i + 1; r < N; r++)
            if (fabs(m[r][i]) > fabs(m[best][i]))
                best = r;
        if (best != i)
            for (int k = 0; k < N; k++) {
                double kept = m[i][k];
                m[i][k] = m[best][k], m[best][k] = kept;
            }
        result *= best == i ? m[i][i] : -m[i][i];
        for (int r = i + 1; r < N; r++) {
            double by = m[r][i] / m[i][i];
            for (int k = i; k < N; k++)
                m[r][k] -= by * m[i][k];
        }
    }
    return result;
}
static int alive(int y, int x) { return board[(y + 16) % 16][(x + 16) % 16]; }

int main(void) {
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            a[i][j] = (i * 7 + j * 3) % 11 - 5 + (i == j) * 9.5, b[i][j] = 1.0 / (i + j + 1);
    multiply(a, b, c), multiply(c, a, b);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            feed_double(b[i][j]);
    tell("product");
    printf("%.17g\n", determinant(a));
    for (int i = 0; i < 5 * 7 * 9; i++)
        (&cube[0][0][0])[i] = (float)i / 3;
    float sum = 0;
    for (int z = 0; z < 9; z++)
        for (int x = 4; x >= 0; x--)
            for (int y = 0; y < 7; y += 2)
                sum = sum * 0.75f + cube[x][y][z];
    printf("%.9g\n", (double)sum);
    for (int y = 0; y < 16; y++)
        for (int x = 0; x < 16; x++)
            board[y][x] = (int8_t)((x * y + x) % 3 == 0);
    for (int round = 0; round < 30; round++) {
        int8_t next[16][16];
        for (int y = 0; y < 16; y++)
            for (int x = 0; x < 16; x++) {
                int count = -alive(y, x);
                for (int k = 0; k < 9; k++)
                    count += alive(y + k / 3 - 1, x + k % 3 - 1);
                next[y][x] = count == 3 || (count == 2 && board[y][x]);
            }
        memcpy(board, next, sizeof board);
    }
    for (int y = 0; y < 16; y++) {
        for (int x = 0; x < 16; x++)
            putchar(board[y][x] ? '#' : '.');
        puts("");
    }
    return 0;
}
