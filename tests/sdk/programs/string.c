/* SPDX-License-Identifier: MIT */
/* <string.h> and <strings.h>. The same lines come from any C library. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static int sign(int x) { return (x > 0) - (x < 0); }

/* Every offset and length around the word size, against a byte loop. */
static unsigned moves(void) {
    static unsigned char a[160], b[160], c[160];
    unsigned sum = 0;
    for (size_t from = 0; from < 20; from++)
        for (size_t to = 0; to < 20; to++)
            for (size_t n = 0; n < 100; n += 7) {
                for (size_t i = 0; i < sizeof a; i++)
                    a[i] = b[i] = c[i] = (unsigned char)(i * 37 + n);
                memmove(a + to, a + from, n);
                for (size_t i = 0; i < n; i++)
                    c[to + i] = b[from + i];
                if (memcmp(a, c, sizeof a))
                    printf("memmove %zu %zu %zu is wrong\n", from, to, n);
                memcpy(b, a + from, n);
                memset(b + to, (int)n, n);
                for (size_t i = 0; i < sizeof b; i++)
                    sum = sum * 31 + b[i];
            }
    return sum;
}

int main(void) {
    char text[64], other[64];
    printf("%x\n", moves());
    printf("%d %d %d %d\n", sign(memcmp("abc", "abd", 3)), sign(memcmp("abcdefghijk", "abcdefghijk", 11)),
           sign(memcmp("abcdefgh\xff", "abcdefgh\x01", 9)), sign(memcmp("a", "b", 0)));
    printf("%zu %zu %zu\n", strlen(""), strlen("hello"), strnlen("hello", 3));
    strcpy(text, "one");
    printf("%s %s\n", strcat(text, "two"), strncat(strcpy(other, "x"), "threefour", 5));
    strncpy(other, "abcdef", 3);
    printf("%d\n", strncmp(other, "abcee", 3));
    printf("%d\n", (int)(stpcpy(other, "xyz") - other));
    printf("%d %d %d\n", sign(strcmp("a", "b")), sign(strcmp("b", "a")), sign(strcmp("\xff", "a")));
    printf("%d %d\n", sign(strcasecmp("HeLLo", "hEllO")), sign(strncasecmp("ABx", "abY", 2)));
    printf("%s %s %s\n", strchr("hello", 'l'), strrchr("hello", 'l'), strstr("a needle in hay", "needle"));
    printf("%d %d\n", strchr("abc", 'z') == NULL, strstr("abc", "abcd") == NULL);
    printf("%s\n", strstr("xabababac", "ababac"));
    printf("%zu %zu %s\n", strspn("123abc", "0123456789"), strcspn("abc123", "0123456789"), strpbrk("key=value", "=:"));
    strcpy(text, "a,b;;c");
    for (char *save, *token = strtok_r(text, ",;", &save); token; token = strtok_r(NULL, ",;", &save))
        printf("<%s>", token);
    strcpy(text, " x  y ");
    for (char *token = strtok(text, " "); token; token = strtok(NULL, " "))
        printf("<%s>", token);
    char *rest = strcpy(text, "k::v");
    for (char *part; (part = strsep(&rest, ":"));)
        printf("(%s)", part);
    printf("\n%s %s\n", (char *)memchr("hello", 'l', 5), (char *)memrchr("hello", 'l', 5));
    printf("%s\n", (char *)memmem("hay needle hay", 14, "needle", 6));
    char *copy = strdup("duplicate"), *half = strndup("duplicate", 3);
    printf("%s %s %s\n", copy, half, (char *)memccpy(text, "ab:cd", ':', 5) == text + 3 ? "ok" : "bad");
    free(copy);
    free(half);
    printf("%d %d %zu\n", sign(strcoll("a", "b")), sign(strverscmp("file9", "file10")), strxfrm(NULL, "abc", 0));
    printf("%s|%s|%s\n", strerror(2), strerror(22), strerror(0) ? "text" : "none");
    printf("%d %d\n", ffs(0x50), ffs(0));
    return 0;
}
