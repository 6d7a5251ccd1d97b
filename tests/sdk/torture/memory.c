/* SPDX-License-Identifier: MIT */
/* memcpy, memmove, memset, memcmp at all alignments and lengths, overlapping both ways; structures assigned. */
#include "torture.h"

static unsigned char room[1024], twin[1024];
static void fill(void) {
    for (int i = 0; i < 1024; i++)
        room[i] = twin[i] = (unsigned char)(i * 73 >> 2);
}
static void slow_move(int to, int from, int count) {
    if (to < from)
        for (int i = 0; i < count; i++)
            twin[to + i] = twin[from + i];
    else
        for (int i = count; i-- > 0;)
            twin[to + i] = twin[from + i];
}
struct block {
    uint64_t words[40];
    char last;
};

int main(void) {
    int wrong = 0;
    for (int count = 0; count < 70; count += count < 20 ? 1 : 7)
        for (int to = 100; to < 116; to += 3)
            for (int from = 92; from < 124; from++) {
                fill();
                memmove(room + to, room + from, (size_t)count), slow_move(to, from, count);
                wrong += memcmp(room, twin, sizeof room) != 0;
                memcpy(room + to + 400, room + from, (size_t)count), slow_move(to + 400, from, count);
                memset(room + from + 600, count, (size_t)to - 95);
                for (int i = 0; i < to - 95; i++)
                    twin[from + 600 + i] = (unsigned char)count;
                wrong += memcmp(room, twin, sizeof room) != 0;
            }
    printf("%d wrong\n", wrong);
    for (int i = 0; i < 1024; i++)
        feed(room[i]);
    tell("memory");
    memset(room, 0, sizeof room), memset(room + 1, 0xa5, 1000);
    feed(room[0]), feed(room[1]), feed(room[1000]), feed(room[1001]);
    int order = memcmp("\x80", "\x01", 1);
    printf("%d %d\n", order > 0, memcmp("same", "same", 5));
    struct block a, b;
    memset(&a, 0, sizeof a);
    for (int i = 0; i < 40; i++)
        a.words[i] = (uint64_t)i << i;
    b = a, b.last = 'x';
    struct block *volatile through = &b;
    a = *through;
    for (int i = 0; i < 40; i++)
        feed(a.words[i]);
    feed((uint64_t)a.last);
    tell("blocks");
    return 0;
}
