/* SPDX-License-Identifier: MIT */
/* Structures of all sizes as arguments and results: in registers, in pairs of them, on the stack, by reference. */
#include "torture.h"

#define SIZED(n)                                                                                                       \
    struct s##n {                                                                                                      \
        unsigned char at[n];                                                                                           \
    };                                                                                                                 \
    static __attribute__((noinline)) struct s##n turn##n(struct s##n x, int by, struct s##n y) {                       \
        for (int i = 0; i < n; i++)                                                                                    \
            x.at[i] = (unsigned char)(x.at[i] * by + y.at[n - 1 - i]);                                                 \
        return x;                                                                                                      \
    }                                                                                                                  \
    static void try##n(void) {                                                                                         \
        struct s##n x, y;                                                                                              \
        for (int i = 0; i < n; i++)                                                                                    \
            x.at[i] = (unsigned char)(i * 7 + n), y.at[i] = (unsigned char)(i ^ n);                                    \
        struct s##n (*volatile through)(struct s##n, int, struct s##n) = turn##n;                                      \
        struct s##n z = through(turn##n(x, 3, y), 5, turn##n(y, 9, x));                                                \
        for (int i = 0; i < n; i++)                                                                                    \
            feed(z.at[i]), feed(x.at[i]);                                                                              \
        tell(#n);                                                                                                      \
    }
SIZED(1)
SIZED(2)
SIZED(3)
SIZED(4)
SIZED(5)
SIZED(7)
SIZED(8)
SIZED(9)
SIZED(12)
SIZED(15)
SIZED(16)
SIZED(17)
SIZED(24)
SIZED(33)
SIZED(100)

struct mixed {
    int32_t i;
    double d;
};
struct floats {
    float a, b;
};
struct nested {
    struct floats f;
    int64_t n;
    int16_t h[3];
};
struct empty_tail {
    int32_t count;
    int32_t items[];
};

static __attribute__((noinline)) struct mixed swap(struct floats f, struct mixed m, struct nested n, int8_t last) {
    struct mixed result = {(int32_t)(m.d + f.a + n.h[2]), m.i + f.b + (double)n.n + last};
    return result;
}

int main(void) {
    try1(), try2(), try3(), try4(), try5(), try7(), try8(), try9(), try12(), try15(), try16(), try17(), try24();
    try33(), try100();
    struct nested n = {{1.5f, 2.5f}, -9000000000, {1, 2, 3}};
    struct mixed m = swap((struct floats){0.25f, 0.5f}, (struct mixed){-7, 100.75}, n, -3);
    printf("%d %.3f\n", m.i, m.d);
    m = swap(n.f, m, n, 4);
    printf("%d %.3f\n", m.i, m.d);
    struct nested copies[3] = {n, n, n};
    copies[1].h[1] = 50;
    copies[2] = copies[1];
    printf("%d %d %d\n", copies[0].h[1], copies[2].h[1], memcmp(&copies[1], &copies[2], sizeof n));
    return 0;
}
