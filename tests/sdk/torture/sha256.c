/* SPDX-License-Identifier: MIT */
/* SHA-256 (FIPS 180-4) of texts whose hashes are known, and of a long one. */
#include "torture.h"

static uint32_t k[64];
static uint32_t rotate(uint32_t x, int n) { return x >> n | x << (32 - n); }

static uint32_t root_bits(uint64_t prime, int cube) { /* the first 32 bits of the fraction of a root, by bisection */
    uint64_t low = 0, high = (uint64_t)1 << 38;
    while (high - low > 1) {
        uint64_t middle = (low + high) / 2;
        /* middle is the root times 2^32, compared in pieces that fit 64 bits */
        double value = (double)middle / 4294967296.0;
        double power = cube ? value * value * value : value * value;
        if (power <= (double)prime)
            low = middle;
        else
            high = middle;
    }
    return (uint32_t)low;
}
static void block(uint32_t *state, const unsigned char *data) {
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)data[4 * i] << 24 | (uint32_t)data[4 * i + 1] << 16 | (uint32_t)data[4 * i + 2] << 8 |
               data[4 * i + 3];
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + w[i - 7] + (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3) +
               (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(s, state, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t one = s[7] + (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)) +
                       ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
        uint32_t two =
            (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += one, s[0] = one + two;
    }
    for (int i = 0; i < 8; i++)
        state[i] += s[i];
}
static void hash(const unsigned char *data, size_t size) {
    uint32_t state[8];
    for (int i = 0, prime = 2; i < 8; prime++) {
        int composite = 0;
        for (int d = 2; d * d <= prime; d++)
            composite |= prime % d == 0;
        if (!composite)
            state[i++] = root_bits((uint64_t)prime, 0);
    }
    unsigned char tail[128] = {0};
    size_t whole = size / 64 * 64, rest = size - whole, end = rest < 56 ? 64 : 128;
    for (size_t i = 0; i < whole; i += 64)
        block(state, data + i);
    memcpy(tail, data + whole, rest);
    tail[rest] = 0x80;
    for (int i = 0; i < 8; i++)
        tail[end - 1 - (size_t)i] = (unsigned char)((uint64_t)size * 8 >> (8 * i));
    for (size_t i = 0; i < end; i += 64)
        block(state, tail + i);
    for (int i = 0; i < 8; i++)
        printf("%08x", state[i]);
    puts("");
}

int main(void) {
    for (int i = 0, prime = 2; i < 64; prime++) {
        int composite = 0;
        for (int d = 2; d * d <= prime; d++)
            composite |= prime % d == 0;
        if (!composite)
            k[i++] = root_bits((uint64_t)prime, 1);
    }
    hash((const unsigned char *)"", 0), hash((const unsigned char *)"abc", 3);
    hash((const unsigned char *)"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56);
    static unsigned char data[5000];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)(i * i >> 3);
    hash(data, sizeof data);
    return 0;
}
