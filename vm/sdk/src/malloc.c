/* SPDX-License-Identifier: MIT */
/* malloc over sbrk: two-level segregated fit (M. Masmano et al., "TLSF: a new dynamic memory allocator for real-time
   systems", ECRTS 2004). Every operation takes bounded time, whatever the guest did before.

   A block is a header of one granule (two words) and its memory, a multiple of granules. The header holds the size
   with two flags, and the size of the block before it in memory. Free blocks of about the same size form a list. A
   region of the heap ends with a header of size 0 in use; when sbrk goes on where the last region ends, it grows. */
#include "give_up.h"
#if __STDC_HOSTED__
#include <errno.h>
#define FAIL() (errno = ENOMEM)
#else
#define FAIL() ((void)0)
#endif

#define GRANULE 16
#define USED 1u
/* Set in the first block of a region: there is none before it. */
#define FIRST 2u
#define FLAGS 3u
/* What the heap grows by at least, if there is that much. */
#define GROWTH 0x10000u
/* Half of the address space: sizes beyond it are mistakes, and sums of two sizes do not overflow. */
#define LARGEST ((size_t)1 << 31)

struct block {
    size_t size; /* of the memory behind this header, in bytes, and flags */
    size_t before; /* the size of the previous block in this region */
    /* The rest is there in free blocks only. */
    struct block *next, *previous;
};

#define HEADER GRANULE
_Static_assert(offsetof(struct block, next) <= HEADER, "a header is a granule");
/* Free blocks need room for their links. */
#define SMALLEST (sizeof(struct block) > HEADER + GRANULE ? 2 * GRANULE : GRANULE)

/* Size classes: 16 of equal width for each power of two from 256 on, below it one for each size. */
#define STEPS_LOG 4
#define STEPS (1u << STEPS_LOG)
#define FIRST_LOG 8
#define LEVELS (32 - FIRST_LOG + 1)

static uint32_t levels;
static uint32_t steps[LEVELS];
static struct block *lists[LEVELS][STEPS];
/* The header at the end of the region that grows. */
static struct block *last;

static size_t size_of(const struct block *block) { return block->size & ~(size_t)FLAGS; }

static struct block *after(const struct block *block) {
    return (struct block *)((char *)block + HEADER + size_of(block));
}

static struct block *before(const struct block *block) {
    return (struct block *)((char *)block - block->before - HEADER);
}

static void *memory_of(struct block *block) { return (char *)block + HEADER; }

static struct block *block_of(void *memory) { return (struct block *)((char *)memory - HEADER); }

static void classify(size_t size, unsigned *level, unsigned *step) {
    if (size < 1u << FIRST_LOG) {
        *level = 0;
        *step = (unsigned)size / GRANULE;
    } else {
        unsigned log = 31 - (unsigned)__builtin_clz((uint32_t)size);
        *level = log - FIRST_LOG + 1;
        *step = (unsigned)(size >> (log - STEPS_LOG)) - STEPS;
    }
}

static void resize(struct block *block, size_t size) {
    block->size = size | (block->size & FLAGS);
    after(block)->before = size;
}

static void insert(struct block *block) {
    unsigned level, step;
    classify(size_of(block), &level, &step);
    struct block *head = lists[level][step];
    block->size &= ~(size_t)USED;
    block->next = head;
    block->previous = NULL;
    if (head)
        head->previous = block;
    lists[level][step] = block;
    steps[level] |= 1u << step;
    levels |= 1u << level;
}

static void take_out(struct block *block) {
    unsigned level, step;
    classify(size_of(block), &level, &step);
    if (block->next)
        block->next->previous = block->previous;
    if (block->previous)
        block->previous->next = block->next;
    else if (!(lists[level][step] = block->next) && !(steps[level] &= ~(1u << step)))
        levels &= ~(1u << level);
    block->size |= USED;
}

/* A free block of at least `size` bytes, taken out of its list; NULL if there is none. */
static struct block *find(size_t size) {
    unsigned level, step;
    /* Rounded up to the next class, of which any block will do. */
    if (size >= 1u << FIRST_LOG)
        size += ((size_t)1 << (31 - STEPS_LOG - (unsigned)__builtin_clz((uint32_t)size))) - 1;
    classify(size, &level, &step);
    uint32_t found = steps[level] & ~0u << step;
    if (!found) {
        uint32_t above = levels & (level < 31 ? ~0u << (level + 1) : 0);
        if (!above)
            return NULL;
        level = (unsigned)__builtin_ctz(above);
        found = steps[level];
    }
    struct block *block = lists[level][__builtin_ctz(found)];
    take_out(block);
    return block;
}

/* Gives up what a used block has beyond `size` bytes. */
static void trim(struct block *block, size_t size) {
    size_t whole = size_of(block);
    if (whole - size < HEADER + SMALLEST)
        return;
    resize(block, size);
    struct block *rest = after(block);
    rest->size = USED;
    resize(rest, whole - size - HEADER);
    struct block *next = after(rest);
    if (!(next->size & USED)) {
        take_out(next);
        resize(rest, size_of(rest) + HEADER + size_of(next));
    }
    insert(rest);
}

/* Makes a used block and its free neighbours one, still used. */
static struct block *merge(struct block *block) {
    struct block *next = after(block);
    if (!(next->size & USED)) {
        take_out(next);
        resize(block, size_of(block) + HEADER + size_of(next));
    }
    if (!(block->size & FIRST)) {
        struct block *previous = before(block);
        if (!(previous->size & USED)) {
            take_out(previous);
            resize(previous, size_of(previous) + HEADER + size_of(block));
            return previous;
        }
    }
    return block;
}

/* A used block of at least `size` bytes from new memory; NULL if there is not that much. */
static struct block *grow(size_t size) {
    /* A header at either end, and what the alignment may cost. */
    size_t least = size + 2 * HEADER + GRANULE - 1, wanted = least > GROWTH ? least : GROWTH;
    char *end = pvm_sbrk(wanted);
    if (!end) {
        wanted = least;
        end = pvm_sbrk(wanted);
        if (!end)
            return NULL;
    }
    char *start = end - wanted;
    end -= (uintptr_t)end % GRANULE;
    struct block *block;
    /* Where the last region ended, give or take what its alignment cost. */
    if (last && (uintptr_t)(start - (char *)memory_of(last)) < GRANULE) {
        block = last;
    } else {
        block = (struct block *)(start + -(uintptr_t)start % GRANULE);
        block->size = USED | FIRST;
        block->before = 0;
    }
    last = (struct block *)(end - HEADER);
    last->size = USED;
    resize(block, (size_t)((char *)last - (char *)memory_of(block)));
    return merge(block);
}

/* The size of the block for a request; 0 if it is too large. */
static size_t rounded(size_t size) {
    if (size > LARGEST - GROWTH)
        return 0;
    size = (size + GRANULE - 1) & ~(size_t)(GRANULE - 1);
    return size < SMALLEST ? SMALLEST : size;
}

static struct block *checked(void *memory) {
    struct block *block = block_of(memory);
    if ((uintptr_t)memory % GRANULE || !(block->size & USED) || after(block)->before != size_of(block))
        give_up("free or realloc of memory that malloc did not give, or twice");
    return block;
}

void *malloc(size_t size) {
    size_t need = rounded(size);
    struct block *block = need ? find(need) : NULL;
    if (!block && need)
        block = grow(need);
    if (!block) {
        FAIL();
        return NULL;
    }
    trim(block, need);
    return memory_of(block);
}

void free(void *memory) {
    if (memory)
        insert(merge(checked(memory)));
}

void *calloc(size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        FAIL();
        return NULL;
    }
    void *memory = malloc(bytes);
    return memory ? __builtin_memset(memory, 0, bytes) : NULL;
}

void *realloc(void *memory, size_t size) {
    if (!memory)
        return malloc(size);
    struct block *block = checked(memory), *next = after(block);
    size_t need = rounded(size), have = size_of(block);
    if (need > have && !(next->size & USED) && have + HEADER + size_of(next) >= need) {
        take_out(next);
        resize(block, have + HEADER + size_of(next));
    }
    if (need && need <= size_of(block)) {
        trim(block, need);
        return memory;
    }
    void *other = malloc(size);
    if (other) {
        __builtin_memcpy(other, memory, have < size ? have : size);
        free(memory);
    }
    return other;
}

/* NULL also if the alignment is no power of two. */
void *aligned_alloc(size_t alignment, size_t size) {
    if (alignment <= GRANULE)
        return malloc(size);
    size_t need = rounded(size);
    if (alignment & (alignment - 1) || alignment > LARGEST / 2 || !need || need > LARGEST / 2) {
        FAIL();
        return NULL;
    }
    /* Room for a free block in front. */
    char *memory = malloc(need + alignment + HEADER + SMALLEST);
    if (!memory)
        return NULL;
    struct block *block = block_of(memory);
    if ((uintptr_t)memory % alignment) {
        uintptr_t least = (uintptr_t)memory + HEADER + SMALLEST;
        char *aligned = (char *)((least + alignment - 1) & ~(uintptr_t)(alignment - 1));
        size_t whole = size_of(block), front = (size_t)(aligned - memory);
        resize(block, front - HEADER);
        struct block *rest = block_of(aligned);
        rest->size = USED;
        resize(rest, whole - front);
        insert(merge(block));
        block = rest;
    }
    trim(block, need);
    return memory_of(block);
}

void *memalign(size_t alignment, size_t size) { return aligned_alloc(alignment, size); }

int posix_memalign(void **result, size_t alignment, size_t size) {
    void *memory = aligned_alloc(alignment, size);
    if (!memory)
        return alignment & (alignment - 1) ? 22 /* EINVAL */ : 12 /* ENOMEM */;
    *result = memory;
    return 0;
}

size_t malloc_usable_size(void *memory) { return memory ? size_of(checked(memory)) : 0; }
