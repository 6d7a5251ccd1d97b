/* SPDX-License-Identifier: MIT
 *
 * Runs the fuzz target on files, without libFuzzer: for compilers that lack it, and for a debugger.
 *
 * usage: replay FILE...
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The whole file in a buffer of its exact size, so that reading too far is seen; exits if there is none. */
static uint8_t *read_whole(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    long length = file && fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    uint8_t *data = length >= 0 ? malloc((size_t)length) : NULL;
    if (length < 0 || (length > 0 && !data) || fseek(file, 0, SEEK_SET) != 0 ||
        fread(data, 1, (size_t)length, file) != (size_t)length) {
        perror(path);
        exit(2);
    }
    fclose(file);
    *size = (size_t)length;
    return data;
}

int main(int argc, char **argv)
{
    for (int n = 1; n < argc; n++) {
        size_t size;
        uint8_t *data = read_whole(argv[n], &size);
        fprintf(stderr, "%s\n", argv[n]); /* the last one is the one that fails */
        LLVMFuzzerTestOneInput(data, size);
        free(data);
    }
    return 0;
}
