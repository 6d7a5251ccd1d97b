/* SPDX-License-Identifier: MIT
 *
 * What a program is predecoded into, for the parts of the interpreter.
 *
 * Every guest instruction becomes one step of 16 bytes: the address of the C code that does it, its operands, and
 * where it jumps to as an index of steps. An implicit invalid instruction becomes a step that traps. Two kinds of
 * step are the interpreter's own:
 *
 * pause   before each instruction where execution is traced or charged by the instruction: stops, or charges
 * check   in the middle of very long blocks, so that the budget is looked at in these too
 *
 * The budget is otherwise looked at, and blocks are charged for, by the step that ends a block; there is none at a
 * block's start.
 *
 * Common sequences of two or three steps are done at once, by the C code of the first. The others stay as they are,
 * for whoever comes to them by another way.
 */
#ifndef PVM_INTERPRETER_INTERNAL_H
#define PVM_INTERPRETER_INTERNAL_H

#include "interpreter.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "guest memory is copied as it is");

/* The branches, for lists with one entry each. */
#define PVM_BRANCHES(S) \
    S(branch_eq, A == B) \
    S(branch_not_eq, A != B) \
    S(branch_less_unsigned, A < B) \
    S(branch_less_signed, SIGNED(A) < SIGNED(B)) \
    S(branch_greater_or_equal_unsigned, A >= B) \
    S(branch_greater_or_equal_signed, SIGNED(A) >= SIGNED(B)) \
    S(branch_eq_imm, A == X) \
    S(branch_not_eq_imm, A != X) \
    S(branch_less_unsigned_imm, A < X) \
    S(branch_less_or_equal_unsigned_imm, A <= X) \
    S(branch_greater_or_equal_unsigned_imm, A >= X) \
    S(branch_greater_unsigned_imm, A > X) \
    S(branch_less_signed_imm, SIGNED(A) < SIGNED(X)) \
    S(branch_less_or_equal_signed_imm, SIGNED(A) <= SIGNED(X)) \
    S(branch_greater_or_equal_signed_imm, SIGNED(A) >= SIGNED(X)) \
    S(branch_greater_signed_imm, SIGNED(A) > SIGNED(X))

/* What a step does: an enum pvm_op, or one of these. In the names of sequences, an add_imm, a load and so on is the
 * one as wide as registers. */
enum step_kind {
    STEP_PAUSE = PVM_OP_COUNT,
    STEP_CHECK,
    STEP_LOAD_IMM_AND_TRAP, /* load_imm_and_jump to nowhere */

    STEP_ADD_IMM_ADD_IMM,
    STEP_LOAD_IMM_ADD,
    STEP_LOAD_ADD,
    STEP_LOAD_LOAD,
    STEP_LOAD_SHIFT_LEFT,
    STEP_LOAD_SHIFT_RIGHT,
    STEP_LOAD_U8_SHIFT_LEFT_IMM,
    STEP_STORE_STORE,
    STEP_STORE_U8_ADD_IMM,
    STEP_SHIFT_RIGHT_STORE_U8,
    STEP_SHIFT_LEFT_IMM_SHIFT_RIGHT_IMM, /* of registers that hold smaller numbers */
#define KINDS(name, condition) STEP_ADD_IMM_##name, STEP_ADD_IMM_ADD_IMM_##name,
    PVM_BRANCHES(KINDS)
#undef KINDS
    STEP_KINDS,
};

struct step {
    int32_t code; /* of its C code: the distance to it from that of STEP_CHECK */
    uint8_t a, b;
    union {
        uint8_t d;
        uint16_t length; /* steps that end a block, and STEP_CHECK: what to take from the budget */
    };
    int32_t x; /* STEP_PAUSE: what to charge */
    uint32_t y; /* jumps: the index of the target; load_imm64: the upper half */
};

/* Instructions between two steps that look at the budget. */
#define MOST_UNCHECKED 0x8000u

/* Costs of blocks are below. */
#define NO_BLOCK UINT32_MAX /* entered, it traps: specification, end of section 8 */

#define NO_STEP UINT32_MAX

struct pvm_interpreter {
    struct pvm_program program;
    struct pvm_execution execution;
    bool pauses;       /* there is a STEP_PAUSE before each instruction */
    uint32_t count;    /* of steps */
    struct step *steps;
    uint32_t *pcs;     /* of each step, ascending: a pause has that of its instruction, a check of the one before */
    uint32_t *costs;   /* of the block that the step is in; 0 for a pause */
    uint32_t *index;   /* [n] is the first step at or behind pc n * INDEX_STRIDE */
    size_t index_count;
    uint32_t *table;   /* the jump table: indexes of steps, or NO_STEP */
};

/* What control pays to get past the step at the start of a block, or past a pause. */
static inline uint32_t pvm_entry_cost(const struct pvm_interpreter *interpreter, uint32_t step)
{
    return interpreter->pauses ? (uint32_t)interpreter->steps[step].x : interpreter->costs[step];
}

/* Gas that goes below zero. */
static inline int64_t pvm_overdraw(int64_t gas, uint32_t cost)
{
    return gas < INT64_MIN + cost ? INT64_MIN : gas - cost;
}

/* Fills steps, pcs, costs and index. -ENOMEM leaves what there is to be freed. `codes` is by step_kind. */
int pvm_predecode(struct pvm_interpreter *interpreter, const int32_t *codes);

/* Executes from the step `first` on. With `codes` it only tells the addresses of the steps' code. */
enum pvm_exit pvm_execute_32(const struct pvm_interpreter *interpreter, struct pvm_machine *machine, uint32_t first,
                             int64_t budget, const int32_t **codes);
enum pvm_exit pvm_execute_64(const struct pvm_interpreter *interpreter, struct pvm_machine *machine, uint32_t first,
                             int64_t budget, const int32_t **codes);

/* The first step of the instruction at `pc`, or NO_STEP. */
uint32_t pvm_find_step(const struct pvm_interpreter *interpreter, uint64_t pc);

/* --- memory ------------------------------------------------------------------------------------------------ */

/* The regions as one kind of access sees them. Empty ones match nothing. */
struct view {
    struct {
        uint32_t address;
        uint64_t size; /* ends at 2^32 at most */
        uint8_t *memory;
    } regions[PVM_REGION_COUNT];
    /* Those that come by the page are empty above: the machine's own, and whether the access writes. */
    const struct pvm_region *paged;
    bool for_writing;
};

static inline struct view pvm_view(const struct pvm_machine *machine, bool for_writing)
{
    struct view view = {0};
    uint32_t count = 0;
    for (uint32_t n = 0; n < PVM_REGION_COUNT; n++) {
        const struct pvm_region *region = &machine->regions[n];
        uint64_t most = (UINT64_C(1) << 32) - region->address;
        if (region->size == 0 || (for_writing && !region->writable))
            continue;
        if (region->pages != NULL) {
            view.paged = machine->regions;
            view.for_writing = for_writing;
            continue;
        }
        view.regions[count].address = region->address;
        view.regions[count].size = region->size < most ? region->size : most;
        view.regions[count++].memory = region->memory;
    }
    return view;
}

/* Where `size` bytes at `address` are in region `n`; NULL if they are not all there. An address below the region's is
 * an offset beyond its end, because regions end at 2^32. */
static inline uint8_t *pvm_locate_in(const struct view *view, uint32_t n, uint32_t address, uint32_t size)
{
    uint32_t offset = address - view->regions[n].address;
    if (__builtin_expect((uint64_t)offset + size > view->regions[n].size, 0))
        return NULL;
    if (view->regions[n].memory == NULL)
        __builtin_unreachable(); /* spares a test at each access */
    return view->regions[n].memory + offset;
}

/* The same for all regions. The first two are looked at in place, the others less often. */
uint8_t *pvm_locate_further(const struct view *view, uint32_t address, uint32_t size);

/* Where the byte at `address` is, and in *room, at most as large as it was, how many are there from it on; NULL if it is
 * not there. */
uint8_t *pvm_locate_run(const struct view *view, uint32_t address, uint32_t *room);

static inline uint8_t *pvm_locate(const struct view *view, uint32_t address, uint32_t size)
{
    uint8_t *found = pvm_locate_in(view, 0, address, size);
    if (__builtin_expect(found != NULL, 1))
        return found;
    found = pvm_locate_in(view, 1, address, size);
    if (__builtin_expect(found != NULL, 1))
        return found;
    return pvm_locate_further(view, address, size);
}

/* Accesses that pvm_locate cannot help with: false if they fail, and then nothing is stored. */
bool pvm_gather(const struct view *view, uint32_t address, uint32_t size, uint64_t *value);
bool pvm_scatter(const struct view *view, uint32_t address, uint32_t size, uint64_t value);

/* The first byte of a failed access that there is no access to; PVM_NO_ADDRESS if it lies behind the last address. */
uint64_t pvm_first_missing(const struct view *view, uint32_t address, uint32_t size);

#endif
