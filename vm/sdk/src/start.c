/* SPDX-License-Identifier: MIT */
/* main, as an export without arguments: they are the host's to give, through pvm_args. Linked into programs that define
   main. */
#include "give_up.h"
#include "pvm_host.h"

int main(int argc, char **argv);

PVM_EXPORT_AS(int32_t, "main", __pvm_main);

/* From the heap itself: a small program needs no allocator for this, and malloc copes with gaps. */
static void *take(size_t size) {
    size = (size + 15) & ~(size_t)15;
    char *end = pvm_sbrk(size + 15);
    return end ? (void *)((uintptr_t)(end - size) & ~(uintptr_t)15) : NULL;
}

int32_t __pvm_main(void) {
    static char *none[] = {NULL};
    char **arguments = none;
    int count = 0;
    int32_t size = pvm_args(NULL, 0);
    char *text = size > 0 ? take((size_t)size) : NULL;
    if (text && pvm_args(text, (uint32_t)size) == size) {
        for (int32_t i = 0; i < size; i++)
            count += !text[i];
        char **list = take(((size_t)count + 1) * sizeof *list);
        if (!list)
            give_up("no memory for the arguments");
        for (int i = 0; i < count; i++, text += strlen(text) + 1)
            list[i] = text;
        list[count] = NULL;
        arguments = list;
    }
    exit(main(count, arguments));
}
