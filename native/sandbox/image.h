/* SPDX-License-Identifier: MIT
 *
 * image: a recompiled module in a file sealed against every write: native jump table, return page, read-only
 * data, native code. All workers of the module map the same pages.
 */
#ifndef SANDBOX_IMAGE_H
#define SANDBOX_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "pvm/execution.h"
#include "pvm/interpreter.h"
#include "pvm/recompiler.h"
#include "sandbox/sandbox_api.h"
#include "zygote/protocol.h"

struct sandbox_image {
    int file;
    struct pvm_recompiled recompiled;       /* of an image for processes */
    struct pvm_interpreter *interpreter;    /* of one for the interpreter: NULL otherwise */
    struct pvm_execution execution;
    struct sandbox_memory_map map;
    struct pvm_program program; /* own copies of code and bitmask, to decode what a guest stopped at */
    uint8_t *code;
    uint8_t *bitmask;
    bool dynamic_paging;
    uint32_t rw_data_size;
    uint8_t *rw_data;
    uint8_t *here;        /* reservation with native code and tables in this process (generic.h); NULL: for workers */
    const uint8_t *ro; /* host mapping of the read-only data, map.ro_size bytes; NULL if there is none */
    uint64_t ro_offset;
    uint64_t code_offset;
    uint64_t jump_table_size;
};

/* `size` rounded up to the pages of the machine. */
static inline uint64_t sandbox_page_up(uint64_t size)
{
    return (size + LAYOUT_PAGE - 1) & ~(LAYOUT_PAGE - 1);
}

/* What an earlier recompilation of the same program made; borrowed. */
struct sandbox_stored {
    const uint8_t *code;
    uint64_t code_size;
    const uint8_t *tables;
    uint64_t tables_size;
    const char *what; /* with -EBADMSG: what is wrong with it */
};

/* Makes an image: of what is stored, or by recompiling (`stored` is NULL). */
int sandbox_image_make(const struct sandbox_program *program, struct sandbox_stored *stored, sandbox_image **result);

/* Puts stored native code into `out`, which has room for it, and its tables into the image (image_file.c). */
int sandbox_image_restore(struct sandbox_image *image, struct sandbox_stored *stored, uint8_t *out);

/* Address of the native code where it runs. */
static inline uint64_t sandbox_image_code_base(const struct sandbox_image *image)
{
    return image->here != NULL ? (uint64_t)(uintptr_t)image->here : LAYOUT_CODE_BASE;
}

/* The windows of a worker of this image into its files. */
void sandbox_image_windows(const struct sandbox_image *image, struct zygote_mapping windows[WINDOW_COUNT]);

/* Size of the read-write window when the heap is at its largest. */
uint64_t sandbox_image_rw_limit(const struct sandbox_image *image);
/* Where the read-write data starts in the ram file. */
uint64_t sandbox_image_rw_offset(const struct sandbox_image *image);
/* Likewise for the stack. */
uint64_t sandbox_image_stack_offset(const struct sandbox_image *image);

#endif
