/* SPDX-License-Identifier: MIT */
/* stb_image behind three functions: where to put a file, decode what is there, why that failed. */
#include <pvm.h>
#include <stdlib.h>

#define STBI_NO_STDIO
#define STBI_NO_HDR
#define STBI_NO_LINEAR
#define STB_IMAGE_IMPLEMENTATION
#include "stb_image.h"

struct picture {
    uint32_t width, height;
    unsigned char *pixels; /* 4 bytes each: red, green, blue, alpha */
};

PVM_EXPORT(void *, image_room, uint32_t);
PVM_EXPORT(const struct picture *, image_decode, uint32_t);
PVM_EXPORT(const char *, image_error);

static unsigned char *file;
static struct picture picture;

void *image_room(uint32_t size) { return file = malloc(size); }

const struct picture *image_decode(uint32_t size) {
    int width, height, channels;
    picture.pixels = stbi_load_from_memory(file, (int)size, &width, &height, &channels, 4);
    if (!picture.pixels)
        return NULL;
    picture.width = (uint32_t)width;
    picture.height = (uint32_t)height;
    return &picture;
}

const char *image_error(void) { return stbi_failure_reason(); }
