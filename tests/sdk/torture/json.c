/* SPDX-License-Identifier: MIT */
/* A JSON reader and writer: recursion, text, numbers, escapes, errors with their place. */
#include <stdlib.h>
#include "torture.h"

struct json {
    enum { NIL, FALSE, TRUE, NUMBER, STRING, ARRAY, OBJECT } kind;
    double number;
    char *text;
    char **keys;
    struct json **items;
    int count;
};
static const char *start, *at, *error;
static struct json *value(void);
static void space(void) { at += strspn(at, " \t\r\n"); }
static struct json *made(int kind) {
    struct json *j = calloc(1, sizeof *j);
    j->kind = kind;
    return j;
}
static char *string(void) {
    char *result = malloc(strlen(at) + 1), *to = result;
    for (at++; *at != '"'; at++) {
        if ((unsigned char)*at < 0x20) {
            error = "control character";
            break;
        }
        if (*at != '\\') {
            *to++ = *at;
            continue;
        }
        static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
        const char *which = *++at ? strchr(from, *at) : NULL;
        if (which) {
            *to++ = into[which - from];
        } else if (*at == 'u') {
            unsigned code = 0;
            for (int i = 0; i < 4; i++)
                code = code * 16 + (unsigned)(strchr("0123456789abcdef", at[1] | 0x20) - "0123456789abcdef"), at++;
            if (code < 0x80) {
                *to++ = (char)code;
            } else if (code < 0x800) {
                *to++ = (char)(0xc0 | code >> 6), *to++ = (char)(0x80 | (code & 0x3f));
            } else {
                *to++ = (char)(0xe0 | code >> 12), *to++ = (char)(0x80 | (code >> 6 & 0x3f)),
                *to++ = (char)(0x80 | (code & 0x3f));
            }
        } else {
            error = "escape";
            break;
        }
    }
    at += !error;
    *to = 0;
    return result;
}
static struct json *collection(int kind, char last) {
    struct json *j = made(kind);
    at++, space();
    while (*at != last && !error) {
        if (j->count) {
            if (*at++ != ',') {
                error = "comma";
                return j;
            }
            space();
        }
        j->items = realloc(j->items, sizeof *j->items * (size_t)(j->count + 1));
        if (kind == OBJECT) {
            j->keys = realloc(j->keys, sizeof *j->keys * (size_t)(j->count + 1));
            if (*at != '"') {
                error = "key";
                return j;
            }
            j->keys[j->count] = string(), space();
            if (*at++ != ':') {
                error = "colon";
                return j;
            }
        }
        j->items[j->count++] = value();
        space();
    }
    at++;
    return j;
}
static struct json *value(void) {
    space();
    if (*at == '{')
        return collection(OBJECT, '}');
    if (*at == '[')
        return collection(ARRAY, ']');
    if (*at == '"') {
        struct json *j = made(STRING);
        j->text = string();
        return j;
    }
    static const char *const names[] = {"null", "false", "true"};
    for (int i = 0; i < 3; i++)
        if (!strncmp(at, names[i], strlen(names[i]))) {
            at += strlen(names[i]);
            return made(i);
        }
    struct json *j = made(NUMBER);
    char *end;
    j->number = strtod(at, &end);
    if (end == at)
        error = "value";
    at = end;
    return j;
}
static void show(const struct json *j) {
    switch (j->kind) {
    case NIL: printf("null"); break;
    case FALSE: printf("false"); break;
    case TRUE: printf("true"); break;
    case NUMBER: printf("%.17g", j->number); break;
    case STRING: printf("<%s>", j->text); break;
    case ARRAY:
    case OBJECT:
        putchar(j->kind == ARRAY ? '[' : '{');
        for (int i = 0; i < j->count; i++) {
            if (i)
                putchar(',');
            if (j->keys)
                printf("%s=", j->keys[i]);
            show(j->items[i]);
        }
        putchar(j->kind == ARRAY ? ']' : '}');
    }
}
static void drop(struct json *j) {
    for (int i = 0; i < j->count; i++) {
        if (j->keys)
            free(j->keys[i]);
        drop(j->items[i]);
    }
    free(j->keys), free(j->items), free(j->text), free(j);
}

int main(void) {
    static const char *const texts[] = {"null",
                                        " [1, 2.5, -3e2, 0.1]",
                                        "{\"a\": {\"b\": [true, false, null]}, \"c\": \"d\\n\\u00e9\\u20ac\\\"\"}",
                                        "[[[[[[]]]]], {}]",
                                        "[1 2]",
                                        "{\"a\" 1}",
                                        "{1:2}",
                                        "\"\\x\"",
                                        "[1,]",
                                        "tru",
                                        "123456789012345678",
                                        "\"tab\there\""};
    for (size_t i = 0; i < COUNT(texts); i++) {
        start = at = texts[i], error = NULL;
        struct json *j = value();
        space();
        if (error) {
            printf("%s at %d\n", error, (int)(at - start));
            continue; /* what was read until then is in an unknown state: left */
        }
        show(j), drop(j);
        puts(*at ? " and more" : "");
    }
    return 0;
}
