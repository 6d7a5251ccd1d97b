/* SPDX-License-Identifier: MIT */
/* The environment, fetched from the host when it is first asked for. */
#include "pvm_host.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *nothing[] = {NULL};
char **__environ = NULL;
extern char **environ __attribute__((weak, alias("__environ")));

/* A program can own the variable: it is then what it assigned. */
static void fetch(void) {
    __environ = nothing;
    int32_t size = pvm_env(NULL, 0);
    if (size <= 0)
        return;
    char *text = malloc((size_t)size);
    if (!text || pvm_env(text, (uint32_t)size) != size) {
        free(text);
        return;
    }
    size_t count = 0;
    for (int32_t i = 0; i < size; i++)
        count += !text[i];
    char **list = malloc((count + 1) * sizeof *list);
    if (!list) {
        free(text);
        return;
    }
    for (size_t i = 0; i < count; i++, text += strlen(text) + 1)
        list[i] = text;
    list[count] = NULL;
    __environ = list;
}

char *getenv(const char *name) {
    size_t length = strcspn(name, "=");
    if (!length || name[length])
        return NULL;
    if (!__environ)
        fetch();
    for (char **entry = __environ; *entry; entry++)
        if (!strncmp(*entry, name, length) && (*entry)[length] == '=')
            return *entry + length + 1;
    return NULL;
}
