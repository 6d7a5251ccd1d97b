/* SPDX-License-Identifier: MIT */
/* A register machine in a switch, with a memory and calls, that counts primes and sorts. */
#include "torture.h"

enum op { LOAD, MOVE, ADD, SUB, MUL, MOD, LESS, JUMP, JUMP_ZERO, READ, WRITE, CALL, RETURN, OUT, STOP };
struct instruction {
    uint8_t op, a, b, c;
    int16_t imm;
};

static int execute(const struct instruction *code) {
    int64_t r[8] = {0};
    static int64_t memory[256];
    int stack[16], depth = 0, at = 0, steps = 0;
    for (;; steps++) {
        struct instruction i = code[at++];
        switch ((enum op)i.op) {
        case LOAD: r[i.a] = i.imm; break;
        case MOVE: r[i.a] = r[i.b]; break;
        case ADD: r[i.a] = r[i.b] + r[i.c] + i.imm; break;
        case SUB: r[i.a] = r[i.b] - r[i.c]; break;
        case MUL: r[i.a] = r[i.b] * r[i.c]; break;
        case MOD: r[i.a] = r[i.c] ? r[i.b] % r[i.c] : -1; break;
        case LESS: r[i.a] = r[i.b] < r[i.c]; break;
        case JUMP: at = i.imm; break;
        case JUMP_ZERO:
            if (!r[i.a])
                at = i.imm;
            break;
        case READ: r[i.a] = memory[r[i.b] & 255]; break;
        case WRITE: memory[r[i.b] & 255] = r[i.a]; break;
        case CALL: stack[depth++ & 15] = at, at = i.imm; break;
        case RETURN: at = stack[--depth & 15]; break;
        case OUT: printf("%" PRId64 " ", r[i.a]); break;
        case STOP: return steps;
        }
    }
}

int main(void) {
    static const struct instruction primes[] = {
        {LOAD, 1, 0, 0, 2},   {LOAD, 2, 0, 0, 120},     {LOAD, 7, 0, 0, 0}, /* r1: candidate */
        {LESS, 3, 1, 2, 0},   {JUMP_ZERO, 3, 0, 0, 18}, {CALL, 0, 0, 0, 10}, {JUMP_ZERO, 4, 0, 0, 8},
        {OUT, 1, 0, 0, 0},    {ADD, 1, 1, 7, 1},        {JUMP, 0, 0, 0, 3},  {LOAD, 5, 0, 0, 2},
        {LOAD, 4, 0, 0, 1}, /* 10, r4: is r1 prime? r5: divisor */
        {LESS, 6, 5, 1, 0},   {JUMP_ZERO, 6, 0, 0, 17}, {MOD, 6, 1, 5, 0},   {JUMP_ZERO, 6, 0, 0, 19},
        {JUMP, 0, 0, 0, 21},  {RETURN, 0, 0, 0, 0},     {STOP, 0, 0, 0, 0},  {LOAD, 4, 0, 0, 0},
        {RETURN, 0, 0, 0, 0}, {ADD, 5, 5, 7, 1},        {JUMP, 0, 0, 0, 12},
    };
    printf("\n%d steps\n", execute(primes));
    static const struct instruction fill_and_sort[] = {
        {LOAD, 1, 0, 0, 0},  {LOAD, 2, 0, 0, 60},      {LOAD, 3, 0, 0, 37},      {LOAD, 4, 0, 0, 101},
        {LOAD, 7, 0, 0, 0},  {MUL, 5, 1, 3, 0},        {MOD, 5, 5, 4, 0},        {WRITE, 5, 1, 0, 0},
        {ADD, 1, 1, 7, 1},   {LESS, 6, 1, 2, 0},       {JUMP_ZERO, 6, 0, 0, 12}, {JUMP, 0, 0, 0, 5},
        {LOAD, 1, 0, 0, 0}, /* 12: a gnome sorts */
        {LESS, 6, 1, 2, 0},  {JUMP_ZERO, 6, 0, 0, 27}, {JUMP_ZERO, 1, 0, 0, 25}, {READ, 3, 1, 0, 0},
        {ADD, 4, 1, 7, -1},  {READ, 5, 4, 0, 0},       {LESS, 6, 3, 5, 0},       {JUMP_ZERO, 6, 0, 0, 25},
        {WRITE, 3, 4, 0, 0}, {WRITE, 5, 1, 0, 0},      {MOVE, 1, 4, 0, 0},       {JUMP, 0, 0, 0, 13},
        {ADD, 1, 1, 7, 1},   {JUMP, 0, 0, 0, 13},      {LOAD, 1, 0, 0, 0},       {READ, 3, 1, 0, 0},
        {OUT, 3, 0, 0, 0},   {ADD, 1, 1, 7, 1},        {SUB, 6, 2, 1, 0},        {JUMP_ZERO, 6, 0, 0, 34},
        {JUMP, 0, 0, 0, 28}, {STOP, 0, 0, 0, 0},
    };
    printf("\n%d steps\n", execute(fill_and_sort));
    return 0;
}
