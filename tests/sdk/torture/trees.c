/* SPDX-License-Identifier: MIT */
/* Pointers to pointers: an AVL tree, a list that is reversed and sorted in place, a hash table that grows. */
#include <stdlib.h>
#include "torture.h"

struct node {
    struct node *side[2];
    int32_t key, height;
};
static int height(struct node *n) { return n ? n->height : 0; }
static void measure(struct node *n) {
    n->height = 1 + (height(n->side[0]) > height(n->side[1]) ? height(n->side[0]) : height(n->side[1]));
}
static struct node *rotate(struct node *n, int side) {
    struct node *up = n->side[!side];
    n->side[!side] = up->side[side], up->side[side] = n;
    measure(n), measure(up);
    return up;
}
static struct node *balance(struct node *n) {
    measure(n);
    for (int side = 0; side < 2; side++)
        if (height(n->side[side]) > height(n->side[!side]) + 1) {
            if (height(n->side[side]->side[!side]) > height(n->side[side]->side[side]))
                n->side[side] = rotate(n->side[side], side);
            return rotate(n, !side);
        }
    return n;
}
static struct node *insert(struct node *n, int32_t key) {
    if (!n) {
        n = calloc(1, sizeof *n), n->key = key, n->height = 1;
        return n;
    }
    if (n->key != key)
        n->side[n->key < key] = insert(n->side[n->key < key], key);
    return balance(n);
}
static int walk(struct node *n) {
    if (!n)
        return 0;
    int count = walk(n->side[0]);
    feed((uint64_t)n->key), feed((uint64_t)n->height);
    return count + 1 + walk(n->side[1]);
}
static void drop(struct node *n) {
    if (n)
        drop(n->side[0]), drop(n->side[1]), free(n);
}

struct link {
    struct link *next;
    uint32_t value;
};
static struct link *reversed(struct link *list) {
    struct link *result = NULL;
    while (list) {
        struct link *next = list->next;
        list->next = result, result = list, list = next;
    }
    return result;
}
static struct link *sorted(struct link *list) {
    struct link *result = NULL;
    while (list) {
        struct link *next = list->next, **at = &result;
        while (*at && (*at)->value < list->value)
            at = &(*at)->next;
        list->next = *at, *at = list, list = next;
    }
    return result;
}

int main(void) {
    struct node *root = NULL;
    for (int i = 0; i < 3000; i++)
        root = insert(root, i < 500 ? i : (int32_t)(next_random() % 100000) - 50000);
    printf("%d nodes, height %d\n", walk(root), root->height);
    drop(root);
    tell("tree");
    static struct link links[400];
    for (int i = 0; i < 400; i++)
        links[i].value = (uint32_t)next_random(), links[i].next = i < 399 ? &links[i + 1] : NULL;
    struct link *list = sorted(reversed(links));
    int count = 0;
    for (; list; list = list->next)
        feed(list->value), count++;
    printf("%d links\n", count);
    tell("list");
    uint32_t size = 8, used = 0, *table = calloc(size, 4);
    for (int i = 0; i < 2000; i++) {
        uint32_t key = (uint32_t)next_random() % 1500 + 1, at = key * 2654435761u & (size - 1);
        while (table[at] && table[at] != key)
            at = (at + 1) & (size - 1);
        used += !table[at], table[at] = key;
        if (used * 4 > size * 3) {
            uint32_t *old = table, before = size;
            table = calloc(size *= 2, 4);
            for (uint32_t k = 0; k < before; k++)
                if (old[k]) {
                    uint32_t to = old[k] * 2654435761u & (size - 1);
                    while (table[to])
                        to = (to + 1) & (size - 1);
                    table[to] = old[k];
                }
            free(old);
        }
    }
    for (uint32_t i = 0; i < size; i++)
        feed(table[i]);
    free(table);
    printf("%u of %u\n", used, size);
    tell("table");
    return 0;
}
