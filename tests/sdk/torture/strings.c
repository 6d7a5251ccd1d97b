/* SPDX-License-Identifier: MIT */
/* string.h: results that differ by length, alignment and where the difference is. Only signs of comparisons are told.
 */
#include <ctype.h>
#include <stdlib.h>
#include "torture.h"

static int sign(int x) { return (x > 0) - (x < 0); }

int main(void) {
    static char room[256], other[256];
    for (int length = 0; length < 40; length++)
        for (int offset = 0; offset < 8; offset++) {
            char *text = room + offset;
            for (int i = 0; i < length; i++)
                text[i] = (char)('a' + (i * 7 + offset) % 26);
            text[length] = 0;
            feed(strlen(text)), feed(strnlen(text, 10)), feed_text(strcpy(other + 3, text));
            feed((uint64_t)sign(strcmp(text, other + 3)));
            if (length) {
                other[3 + length / 2] = (char)0xe9;
                feed((uint64_t)sign(strcmp(text, other + 3))),
                    feed((uint64_t)sign(memcmp(text, other + 3, (size_t)length)));
                feed((uint64_t)sign(strncmp(text, other + 3, (size_t)length / 2)));
            }
            char *at = strchr(text, 'q');
            feed(at ? (uint64_t)(at - text) : 999), at = strrchr(text, 'd'), feed(at ? (uint64_t)(at - text) : 999);
            at = strstr(text, "xel"), feed(at ? (uint64_t)(at - text) : 999), at = memchr(text, 's', (size_t)length);
            feed(at ? (uint64_t)(at - text) : 999), feed(strspn(text, "ahovcjqx")), feed(strcspn(text, "dk"));
            memset(other, '!', sizeof other - 1), strncpy(other, text, 20), feed_text(other + 20 - (length < 20));
        }
    tell("string.h");
    char list[] = "one, two,,three ; four";
    for (char *word = strtok(list, ", ;"); word; word = strtok(NULL, ", ;"))
        printf("<%s>", word);
    char text[40] = "ab";
    strcat(text, "cd"), strncat(text, "efgh", 2);
    printf("%s %s %d\n", text, strpbrk(text, "xfd"), (int)strlen(strcpy(text + 20, "")));
    char *copy = strdup("copied");
    for (char *c = copy; *c; c++)
        *c = (char)toupper((unsigned char)*c);
    puts(copy);
    free(copy);
    for (int c = 0; c < 256; c++)
        feed((uint64_t)(!!isalpha(c) | !!isdigit(c) << 1 | !!isspace(c) << 2 | !!ispunct(c) << 3 | !!isxdigit(c) << 4 |
                        !!iscntrl(c) << 5 | !!isupper(c) << 6)),
            feed((uint64_t)tolower(c));
    tell("ctype.h");
    return 0;
}
