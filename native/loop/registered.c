/* SPDX-License-Identifier: MIT */
#include "registered.h"

#include "core.h"

#include <errno.h>
#include <string.h>

void registered_reset(struct registered *registered)
{
    uint32_t generation = registered->generation + 1;

    *registered = (struct registered){.generation = generation};
}

int registered_add_file(Core *core, int fd)
{
    struct registered *registered = &core->registered;
    unsigned char *taken;
    int slot;
    int error;

    if (core->ring == NULL)
        return -EBADFD;
    if (!registered->has_files) {
        /* Linux 5.19 */
        error = io_uring_register_files_sparse(&core->ring->ring, REGISTERED_FILES);
        if (error < 0)
            return error;
        registered->has_files = 1;
    }
    taken = memchr(registered->files, 0, REGISTERED_FILES);
    if (taken == NULL)
        return -ENFILE;
    slot = (int)(taken - registered->files);
    error = io_uring_register_files_update(&core->ring->ring, (unsigned)slot, &fd, 1);
    if (error < 0)
        return error;
    *taken = 1;
    return slot;
}

void registered_remove_file(Core *core, int slot)
{
    int nothing = -1;

    if (core->ring == NULL)
        return;
    /* The table holds the file open. Operations that use it hold it by themselves. */
    (void)io_uring_register_files_update(&core->ring->ring, (unsigned)slot, &nothing, 1);
    core->registered.files[slot] = 0;
}

int registered_add_buffer(Core *core, char *start, size_t size)
{
    struct registered *registered = &core->registered;
    struct iovec memory = {.iov_base = start, .iov_len = size};
    __u64 tag = 0;
    int error;

    if (core->ring == NULL)
        return -EBADFD;
    if (!registered->has_buffers) {
        /* Linux 5.19 */
        error = io_uring_register_buffers_sparse(&core->ring->ring, REGISTERED_BUFFERS);
        if (error < 0)
            return error;
        registered->has_buffers = 1;
    }
    for (int index = 0; index < REGISTERED_BUFFERS; index++) {
        if (registered->buffers[index].start != NULL)
            continue;
        error = io_uring_register_buffers_update_tag(&core->ring->ring, (unsigned)index, &memory, &tag, 1);
        if (error < 0)
            return error;
        registered->buffers[index].start = start;
        registered->buffers[index].size = size;
        return index;
    }
    return -ENOBUFS;
}

void registered_remove_buffer(Core *core, int index)
{
    struct iovec nothing = {0};
    __u64 tag = 0;

    if (core->ring == NULL)
        return;
    /* Operations that use it hold its pages by themselves. */
    (void)io_uring_register_buffers_update_tag(&core->ring->ring, (unsigned)index, &nothing, &tag, 1);
    core->registered.buffers[index].start = NULL;
}

int registered_find_buffer(const struct registered *registered, const char *start, size_t size)
{
    for (int index = 0; registered->has_buffers && index < REGISTERED_BUFFERS; index++) {
        const char *first = registered->buffers[index].start;

        if (first != NULL && start >= first && start + size <= first + registered->buffers[index].size)
            return index;
    }
    return -1;
}
