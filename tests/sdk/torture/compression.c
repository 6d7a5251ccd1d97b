/* SPDX-License-Identifier: MIT */
/* CRC-32, Adler-32, run lengths, Huffman codes and an LZ77 coder, there and back. */
#include <stdlib.h>
#include "torture.h"

static uint32_t crc32(const unsigned char *data, size_t size) {
    static uint32_t table[256];
    if (!table[1])
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int k = 0; k < 8; k++)
                c = c & 1 ? 0xedb88320 ^ c >> 1 : c >> 1;
            table[i] = c;
        }
    uint32_t crc = ~0u;
    for (size_t i = 0; i < size; i++)
        crc = table[(crc ^ data[i]) & 0xff] ^ crc >> 8;
    return ~crc;
}
static uint32_t adler32(const unsigned char *data, size_t size) {
    uint32_t a = 1, b = 0;
    for (size_t i = 0; i < size; i++)
        a = (a + data[i]) % 65521, b = (b + a) % 65521;
    return b << 16 | a;
}
static size_t pack(const unsigned char *in, size_t size, unsigned char *out) {
    static uint16_t last[4096];
    size_t at = 0, to = 0;
    memset(last, 0, sizeof last);
    while (at < size) {
        unsigned key =
            at + 3 <= size ? (in[at] * 2654435761u + in[at + 1] * 40503u + in[at + 2] * 257u) >> 7 & 4095 : 0;
        size_t from = last[key], length = 0;
        if (at + 3 <= size) {
            if (from < at)
                while (length < 127 && at + length < size && in[from + length] == in[at + length])
                    length++;
            last[key] = (uint16_t)at;
        }
        if (length >= 4) {
            out[to++] = (unsigned char)(128 + length), out[to++] = (unsigned char)((at - from) >> 8),
            out[to++] = (unsigned char)(at - from);
            at += length;
        } else {
            out[to++] = 1, out[to++] = in[at++];
        }
    }
    return to;
}
static size_t unpack(const unsigned char *in, size_t size, unsigned char *out) {
    size_t to = 0;
    for (size_t at = 0; at < size;)
        if (in[at] & 128) {
            size_t length = in[at] & 127, back = (size_t)in[at + 1] << 8 | in[at + 2];
            for (size_t i = 0; i < length; i++, to++)
                out[to] = out[to - back];
            at += 3;
        } else {
            out[to++] = in[at + 1], at += 2;
        }
    return to;
}
static int depths(const unsigned char *data, size_t size, int *depth) { /* Huffman: the two lightest, again and again */
    unsigned weight[511];
    int parent[511], alive[511], nodes = 256, bits = 0;
    memset(parent, -1, sizeof parent);
    for (int i = 0; i < 256; i++)
        weight[i] = 0;
    for (size_t i = 0; i < size; i++)
        weight[data[i]]++;
    for (int i = 0; i < 256; i++)
        alive[i] = weight[i] > 0;
    for (;;) {
        int one = -1, two = -1;
        for (int i = 0; i < nodes; i++)
            if (alive[i]) {
                if (one < 0 || weight[i] < weight[one])
                    two = one, one = i;
                else if (two < 0 || weight[i] < weight[two])
                    two = i;
            }
        if (two < 0)
            break;
        weight[nodes] = weight[one] + weight[two], parent[one] = parent[two] = nodes, alive[one] = alive[two] = 0,
        alive[nodes++] = 1;
    }
    for (int i = 0; i < 256; i++) {
        depth[i] = 0;
        for (int n = i; parent[n] >= 0; n = parent[n])
            depth[i]++;
        bits += depth[i] * (int)weight[i];
    }
    return bits;
}

int main(void) {
    static unsigned char data[20000], packed[50000], back[20000];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = i % 1000 < 700 ? (unsigned char)"the quick brown fox jumps over the lazy dog "[i * i / 97 % 44]
                                 : next_random() & 15;
    printf("%08x %08x\n", crc32(data, sizeof data), adler32(data, sizeof data));
    printf("%08x\n", crc32((const unsigned char *)"123456789", 9));
    size_t size = pack(data, sizeof data, packed), whole = unpack(packed, size, back);
    printf("%d %d %d\n", (int)size, (int)whole, memcmp(data, back, sizeof data));
    int depth[256];
    printf("%d bits\n", depths(data, sizeof data, depth));
    for (int i = 0; i < 256; i++)
        feed((uint64_t)depth[i]);
    tell("depths");
    return 0;
}
