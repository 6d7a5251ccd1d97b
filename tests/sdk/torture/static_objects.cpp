// SPDX-License-Identifier: MIT
// Static constructors in order, with priorities, static locals, destructors at exit in the opposite order.
#include <stdlib.h>
#include "torture.h"

static int sequence;
struct Tracer {
    const char *name;
    int at;
    explicit Tracer(const char *n) : name(n), at(++sequence) { printf("+%s%d ", name, at); }
    ~Tracer() { printf("-%s%d ", name, at); }
};
__attribute__((init_priority(500))) static Tracer early("early");
__attribute__((init_priority(400))) static Tracer earliest("earliest");
static Tracer first("first"), second("second");
static const int computed = sequence * 100 + (int)strlen(second.name);
static uint32_t table[64];
static struct Filler {
    Filler() {
        for (int i = 0; i < 64; i++)
            table[i] = (uint32_t)(i * i) ^ (uint32_t)computed;
    }
} filler;
struct Registry {
    static Registry *head;
    const char *name;
    Registry *next;
    explicit Registry(const char *n) : name(n), next(head) { head = this; }
};
Registry *Registry::head;
static Registry one("one"), two("two"), three("three");
__attribute__((constructor)) static void plain() { printf("plain%d ", sequence > 0); }

static Tracer &local(const char *name) {
    static Tracer tracer(name);
    return tracer;
}
static int initialized_once() {
    static int value = ++sequence * 1000;
    return value++;
}

int main() {
    puts("\nmain");
    printf("%d %d %d\n", computed, (int)table[7], (int)table[63]);
    for (Registry *entry = Registry::head; entry; entry = entry->next)
        printf("%s ", entry->name);
    printf("%s ", local("local").name), printf("%s\n", local("not again").name);
    printf("%d ", initialized_once());
    printf("%d\n", initialized_once());
    atexit([] { printf("lambda "); });
    Tracer *leaked = new Tracer("leaked");
    {
        Tracer inner("inner");
    }
    delete new Tracer("heap");
    printf("%d\n", leaked->at);
    exit(3);
}
