/* SPDX-License-Identifier: MIT */
#ifndef AIORING_LOOP_REGISTERED_H
#define AIORING_LOOP_REGISTERED_H

/*
 * What is registered with a ring (io_uring_register(2)): files, which the kernel then need not look up, and memory,
 * which it need not pin for each operation. A new ring starts with nothing: the generation tells its entries from those
 * of the ring before, which are then used as if they were not registered.
 */
#include <stddef.h>
#include <stdint.h>

struct Core;

#define REGISTERED_FILES 1024
#define REGISTERED_BUFFERS 16

struct registered {
    uint32_t generation;
    int has_files; /* whether the kernel has a table of them yet */
    int has_buffers;
    unsigned char files[REGISTERED_FILES]; /* taken? */
    struct {
        const char *start; /* NULL: free */
        size_t size;
    } buffers[REGISTERED_BUFFERS];
};

/* There is a new ring. */
void registered_reset(struct registered *registered);
/* The slot that a file was given, or -errno; -ENFILE: all are taken. */
int registered_add_file(struct Core *core, int fd);
void registered_remove_file(struct Core *core, int slot);
/* The index that memory was given, or -errno; -ENOBUFS: all are taken. The caller keeps it mapped until removed. */
int registered_add_buffer(struct Core *core, char *start, size_t size);
void registered_remove_buffer(struct Core *core, int index);
/* The index of the registered memory that holds all of this, or -1. */
int registered_find_buffer(const struct registered *registered, const char *start, size_t size);

#endif
