/* SPDX-License-Identifier: MIT
 *
 * libFuzzer target: recompiler, interpreter and gas models on hostile programs. Built with sanitizers by run.py, and
 * with replay.c by test_corpus.py; every buffer has its exact size on the heap, so that one byte too far is seen.
 *
 * An input is a head of fixed size, read by read_*() in the order of LLVMFuzzerTestOneInput, then the code: items of
 * a control byte and the bytes that it counts. Below 0xf0 it starts an instruction, of 1 to 16 bytes; from there on
 * it is a stretch of up to 60 bytes without one. What is missing reads as zeros, so every input has a meaning.
 *
 * Of the interpreter two are run side by side: one as the input says, one that stops before each instruction if the
 * first does not, and the other way round, and has a budget of 1. They have to agree on all that a host can see.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decode.h"
#include "execution.h"
#include "gas.h"
#include "interpreter.h"
#include "recompiler.h"

#define CHECK(condition) ((condition) ? (void)0 : fail(#condition, __LINE__))
#define CODE_BASE UINT64_C(0x600000000000)

enum {
    MOST_CODE = 40000,  /* bytes: blocks of more than the 2^15 instructions after which the budget is looked at */
    MOST_PCS = 300,     /* for which block costs are computed: the time is quadratic */
    MOST_CALLS = 500,   /* of the interpreter, in one turn */
    MOST_HEAP = 1000,   /* bytes a guest gets by sbrk */
    MOST_ENTRIES = 15,  /* of the jump table */
    TURNS = 8,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fail(const char *condition, int line)
{
    fprintf(stderr, "fuzz_pvm.c:%d: %s\n", line, condition);
    abort();
}

static void *exactly(size_t size)
{
    void *data = malloc(size);
    CHECK(data || size == 0);
    return data;
}

/* --- input ------------------------------------------------------------------------------------------------- */

struct input {
    const uint8_t *at;
    const uint8_t *end;
};

static uint8_t read_byte(struct input *input)
{
    return input->at < input->end ? *input->at++ : 0;
}

static struct pvm_execution read_execution(struct input *input)
{
    static const uint32_t latencies[] = {4, 25, 37, 0};
    uint8_t settings = read_byte(input), model = read_byte(input);
    struct pvm_execution execution = {
        .gas_metering = settings % 3,
        .per_instruction = settings >> 2 & 1,
        .step_tracing = settings >> 3 & 1,
        .cost = {.kind = model & 1, .memory_latency = latencies[model >> 1 & 3]},
    };
    for (uint32_t n = 0; n < PVM_OP_COUNT; n++) {
        const uint32_t costs[] = {1, 0, n * 7 % 50, UINT32_MAX - n % 2};
        execution.cost.costs[n] = costs[model >> 3 & 3];
    }
    return execution;
}

static void read_jump_table(struct input *input, struct pvm_program *program)
{
    uint8_t shape = read_byte(input);
    program->jump_table_entry_size = shape % 5;
    program->jump_table_count = shape >> 4;
    uint32_t size = program->jump_table_entry_size;
    uint8_t *table = exactly((size_t)program->jump_table_count * size), entries[MOST_ENTRIES];
    for (uint32_t n = 0; n < MOST_ENTRIES; n++)
        entries[n] = read_byte(input);
    for (uint32_t n = 0; n < program->jump_table_count; n++) {
        uint32_t pc = entries[n] == UINT8_MAX ? UINT32_MAX : entries[n];
        memcpy(table + (size_t)n * size, &pc, size);
    }
    program->jump_table = table;
}

/* `shape`: how often the items are repeated, and the padding of the bitmask. */
static void read_code(struct input *input, uint8_t shape, struct pvm_program *program)
{
    static const uint32_t repetitions[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 8, MOST_CODE};
    uint8_t *code = exactly(MOST_CODE), *starts = calloc(MOST_CODE, 1);
    uint32_t size = 0;
    CHECK(starts);
    while (input->at < input->end && size < MOST_CODE) {
        uint8_t control = read_byte(input);
        uint32_t length = control < 0xf0 ? (control & 15) + 1 : 4 * (control & 15);
        for (uint32_t n = 0; n < length && size < MOST_CODE; n++) {
            starts[size] = control < 0xf0 && n == 0;
            code[size++] = read_byte(input);
        }
    }
    if (size == 0)
        code[size++] = 0;
    uint64_t all = (uint64_t)size * repetitions[shape & 15];
    program->code_size = all < MOST_CODE ? (uint32_t)all : MOST_CODE;

    uint32_t bitmask_size = (program->code_size + 7) / 8;
    uint8_t *exact = exactly(program->code_size), *bitmask = calloc(bitmask_size, 1);
    CHECK(bitmask);
    for (uint32_t n = 0; n < program->code_size; n++) {
        exact[n] = code[n % size];
        bitmask[n / 8] = (uint8_t)(bitmask[n / 8] | starts[n % size] << n % 8);
    }
    if (shape & 16) /* a parser may let it through */
        for (uint32_t n = program->code_size; n < 8 * bitmask_size; n++)
            bitmask[n / 8] = (uint8_t)(bitmask[n / 8] | 1 << n % 8);
    free(code);
    free(starts);
    program->code = exact;
    program->bitmask = bitmask;
}

static void free_program(struct pvm_program *program)
{
    free((void *)program->code);
    free((void *)program->bitmask);
    free((void *)program->jump_table);
}

/* --- recompiler -------------------------------------------------------------------------------------------- */

static void check_instructions(const struct pvm_program *program, const struct pvm_recompiled *recompiled)
{
    const struct pvm_instruction *all = recompiled->instructions;
    size_t count = recompiled->instruction_count, explicit_count = 0;
    CHECK(count > 0 && all[0].pc == 0);
    CHECK(pvm_find_native(recompiled, (uint64_t)all[0].native - 1) == NULL);
    CHECK(pvm_find_native(recompiled, recompiled->code_size) == NULL);
    CHECK(pvm_find_native(recompiled, UINT64_MAX) == NULL);
    CHECK(pvm_find_pc(recompiled, UINT32_MAX) == NULL);
    for (size_t n = 0; n < count; n++) {
        size_t end = n + 1 < count ? all[n + 1].native : recompiled->gas_stubs_at;
        CHECK(n == 0 || (all[n].pc > all[n - 1].pc && all[n].native >= all[n - 1].native));
        CHECK(end >= all[n].native);
        CHECK(pvm_find_pc(recompiled, all[n].pc) == &all[n]);
        if (end > all[n].native) {
            CHECK(pvm_find_native(recompiled, all[n].native) == &all[n]);
            CHECK(pvm_find_native(recompiled, end - 1) == &all[n]);
        }
        explicit_count += pvm_has_instruction(program, all[n].pc);
    }
    for (uint32_t pc = 0; pc < program->code_size + 100; pc++) {
        const struct pvm_instruction *found = pvm_find_pc(recompiled, pc);
        CHECK(found ? found->pc == pc : !pvm_has_instruction(program, pc));
        explicit_count -= pvm_has_instruction(program, pc);
    }
    CHECK(explicit_count == 0);
}

static void check_jump_table(const struct pvm_program *program, const struct pvm_recompiled *recompiled)
{
    size_t count = 2 * ((size_t)program->jump_table_count + 1), size = program->jump_table_entry_size;
    uint64_t *slots = exactly(count * sizeof *slots);
    pvm_fill_jump_table(program, recompiled, CODE_BASE, slots);
    for (size_t address = 0; address < count; address++) {
        uint32_t pc = 0;
        bool valid = address >= 2 && address % 2 == 0 && size > 0;
        if (valid)
            memcpy(&pc, program->jump_table + (address / 2 - 1) * size, size);
        valid = valid && pvm_is_jump_target(program, pc);
        CHECK(slots[address] ==
              (valid ? CODE_BASE + pvm_find_pc(recompiled, pc)->native : PVM_INVALID_CODE_ADDRESS));
    }
    free(slots);
}

static void check_gas_stubs(const struct pvm_execution *execution, const struct pvm_recompiled *recompiled)
{
    CHECK((recompiled->gas_stub_count != 0) == (execution->gas_metering != PVM_GAS_NONE));
    CHECK(recompiled->code_size == recompiled->gas_stubs_at + 2 * recompiled->gas_stub_count);
    CHECK(pvm_find_gas_stub(recompiled, recompiled->code_size) == NULL);
    CHECK(pvm_find_gas_stub(recompiled, UINT64_MAX) == NULL);
    for (size_t n = 0; n < recompiled->gas_stub_count; n++) {
        const struct pvm_gas_stub *stub = pvm_find_gas_stub(recompiled, recompiled->gas_stubs_at + 2 * n);
        CHECK(stub == &recompiled->gas_stubs[n]);
        CHECK(pvm_find_gas_stub(recompiled, recompiled->gas_stubs_at + 2 * n + 1) == NULL);
        CHECK(pvm_find_native(recompiled, recompiled->gas_stubs_at + 2 * n) == NULL);
        CHECK(pvm_find_native(recompiled, stub->native) != NULL);
        CHECK(n == 0 || stub->native >= recompiled->gas_stubs[n - 1].native);
    }
}

/* `shape`: features of the CPU, the home, and a capacity just above or below what is needed. */
static void check_recompiler(const struct pvm_program *program, const struct pvm_execution *execution, uint8_t shape)
{
    const struct pvm_target target = {
        .vmctx = -0x20000,
        .jump_table = 0x40000000,
        .exit = -0x10000,
        .gs_base = (shape & 2) != 0,
        .cpu_features = PVM_CPU_REQUIRED | (shape & 1 ? PVM_CPU_BMI2 : 0),
    };
    struct pvm_recompiled recompiled, again;
    size_t enough = 4096 + 256 * (size_t)program->code_size;
    uint8_t *out = exactly(enough);
    CHECK(pvm_recompile(program, execution, &target, out, enough, &recompiled) == 0);
    check_instructions(program, &recompiled);
    check_gas_stubs(execution, &recompiled);
    check_jump_table(program, &recompiled);

    /* any other capacity: the same code, or an error */
    size_t slack = shape >> 1, capacity = recompiled.code_size + 64;
    capacity = slack < 100 ? capacity - slack : capacity * (slack - 100) / 28;
    uint8_t *small = exactly(capacity);
    int status = pvm_recompile(program, execution, &target, small, capacity, &again);
    CHECK(status == 0 || status == -EFBIG);
    if (status == 0)
        CHECK(again.code_size == recompiled.code_size && memcmp(small, out, again.code_size) == 0);
    else
        CHECK(again.instructions == NULL && again.stretches == NULL && again.gas_stubs == NULL);
    free(small);
    free(out);
    pvm_recompiled_free(&again);
    pvm_recompiled_free(&recompiled);
}

/* --- gas --------------------------------------------------------------------------------------------------- */

static void check_block_costs(const struct pvm_program *program, const struct pvm_cost_model *model)
{
    uint32_t behind = program->code_size + 30, pc = behind > MOST_PCS ? behind - MOST_PCS : 0;
    for (; pc <= behind; pc++) {
        uint32_t start, again;
        CHECK(pvm_block_cost(program, model, pc) <= INT32_MAX);
        if (!pvm_block_start(program, pc, &start))
            continue;
        CHECK(start <= pc && pvm_has_instruction(program, pc) && pvm_has_instruction(program, start));
        CHECK(pvm_block_start(program, start, &again) && again == start);
    }
    CHECK(pvm_block_cost(program, model, UINT32_MAX) <= INT32_MAX);
}

/* --- interpreter ------------------------------------------------------------------------------------------- */

/* A machine and whom it is run by. */
struct player {
    const struct pvm_program *program;
    struct pvm_execution execution;
    struct pvm_interpreter *interpreter;
    struct pvm_machine machine;
    uint64_t budget; /* of one call; 0 and up */
};

/* What no store may change, and what memory holds at first. */
static uint8_t content(uint32_t region, uint64_t n)
{
    return (uint8_t)(n * 37 + region);
}

static void read_regions(struct input *input, struct pvm_machine *machine)
{
    uint64_t end = 0; /* of the region before */
    for (uint32_t n = 0; n < PVM_REGION_COUNT; n++) {
        uint8_t shape = read_byte(input), size = read_byte(input);
        const uint64_t addresses[] = {UINT64_MAX, end, (n + 1) * 0x10000, UINT32_MAX - (shape & 31)};
        uint64_t address = addresses[shape >> 6];
        if (address > UINT32_MAX || address < end)
            continue; /* not there */
        struct pvm_region *region = &machine->regions[n];
        *region = (struct pvm_region){
            .address = (uint32_t)address,
            .size = size,
            .memory = exactly(size),
            .writable = (shape >> 5 & 1) == 0,
        };
        for (uint32_t at = 0; at < size; at++)
            region->memory[at] = content(n, at);
        end = address + size;
    }
}

static uint64_t number(const struct player *player, uint8_t form)
{
    const struct pvm_region *region = &player->machine.regions[form & 3];
    uint64_t small = form & 63;
    const uint64_t numbers[] = {
        region->address + small,
        region->address + region->size - small / 4,
        2 * small, /* code addresses, for one */
        form == UINT8_MAX ? PVM_RETURN_TO_HOST : UINT64_MAX >> small ^ UINT64_C(0x1234567) >> (small & 31),
    };
    uint64_t value = numbers[form >> 6];
    return player->program->isa == PVM_ISA_LATEST32 ? (uint32_t)value : value;
}

/* The same machine, for another interpreter. */
static struct player twin_of(const struct player *player)
{
    struct player twin = *player;
    twin.execution.step_tracing = !player->execution.step_tracing;
    twin.budget = 1;
    CHECK(pvm_interpreter_create(twin.program, &twin.execution, &twin.interpreter) == 0);
    for (uint32_t n = 0; n < PVM_REGION_COUNT; n++) {
        const struct pvm_region *region = &player->machine.regions[n];
        twin.machine.regions[n].memory = exactly(region->size);
        if (region->size)
            memcpy(twin.machine.regions[n].memory, region->memory, region->size);
    }
    return twin;
}

static void end_player(struct player *player)
{
    for (uint32_t n = 0; n < PVM_REGION_COUNT; n++)
        free(player->machine.regions[n].memory);
    pvm_interpreter_destroy(player->interpreter);
}

static void check_exit(const struct player *player, enum pvm_exit end)
{
    const struct pvm_machine *machine = &player->machine;
    uint64_t code_size = player->program->code_size;
    switch (end) {
    case PVM_EXIT_BUDGET:
    case PVM_EXIT_STEP:
        CHECK(machine->pc <= code_size && machine->next_pc == machine->pc);
        CHECK(end == PVM_EXIT_BUDGET || player->execution.step_tracing);
        break;
    case PVM_EXIT_ECALLI:
    case PVM_EXIT_SBRK:
        CHECK(pvm_has_instruction(player->program, (uint32_t)machine->pc));
        CHECK(machine->next_pc == pvm_decode(player->program, (uint32_t)machine->pc).next);
        break;
    case PVM_EXIT_NOT_ENOUGH_GAS:
        CHECK(player->execution.gas_metering != PVM_GAS_NONE && machine->next_pc == machine->pc);
        CHECK((player->execution.gas_metering == PVM_GAS_SYNC) == (machine->pc != PVM_NO_PC));
        break;
    case PVM_EXIT_TRAP:
    case PVM_EXIT_FINISHED:
        CHECK(machine->next_pc == PVM_NO_PC);
        break;
    default:
        fail("an unknown exit", __LINE__);
    }
    if (player->program->isa == PVM_ISA_LATEST32)
        for (uint32_t n = 0; n < PVM_REGISTER_COUNT; n++)
            CHECK(machine->regs[n] <= UINT32_MAX);
}

/* One call, with what has to hold after each. */
static enum pvm_exit call(struct player *player)
{
    struct pvm_machine *machine = &player->machine;
    int64_t before = machine->gas;
    enum pvm_exit end = pvm_interpreter_run(player->interpreter, machine, player->budget);
    check_exit(player, end);

    const struct pvm_execution *execution = &player->execution;
    uint64_t spent = (uint64_t)before - (uint64_t)machine->gas;
    CHECK(machine->gas <= before);
    CHECK(execution->gas_metering != PVM_GAS_NONE || spent == 0);
    CHECK(execution->gas_metering != PVM_GAS_SYNC || machine->gas >= 0);
    /* Where an instruction costs one, gas counts them: to the end of the block that the budget ends in, and what was
     * charged on entry. Async metering also takes what it has not executed. */
    bool counts = execution->gas_metering == PVM_GAS_SYNC &&
                  (execution->per_instruction ||
                   (execution->cost.kind == PVM_COST_TABLE && execution->cost.costs[PVM_OP_trap] == 1 &&
                    execution->cost.costs[PVM_OP_jump] == 1));
    if (counts)
        CHECK(spent <= (player->budget ? player->budget : 1) + 2 * ((uint64_t)player->program->code_size + 1));
    return end;
}

/* Until something happens that is not of the player's own making, for so many calls at most. */
static enum pvm_exit turn(struct player *player, uint64_t calls)
{
    enum pvm_exit end;
    do {
        end = call(player);
    } while ((end == PVM_EXIT_BUDGET || end == PVM_EXIT_STEP) && --calls > 0);
    return end;
}

static void check_same(const struct player *player, const struct player *twin, enum pvm_exit end)
{
    const struct pvm_machine *one = &player->machine, *other = &twin->machine;
    CHECK(one->pc == other->pc);
    CHECK(one->next_pc == other->next_pc);
    CHECK(one->gas == other->gas);
    CHECK(memcmp(one->regs, other->regs, sizeof one->regs) == 0);
    CHECK(end != PVM_EXIT_TRAP || one->fault == other->fault);
    CHECK(end != PVM_EXIT_ECALLI || one->host_call == other->host_call);
    for (uint32_t n = 0; n < PVM_REGION_COUNT; n++) {
        const struct pvm_region *region = &one->regions[n];
        CHECK(region->size == 0 || memcmp(region->memory, other->regions[n].memory, region->size) == 0);
        for (uint64_t at = 0; !region->writable && at < region->size; at++)
            CHECK(region->memory[at] == content(n, at));
    }
}

/* The host's part of an sbrk: the last region grows, nothing is behind it. */
static void grow_heap(struct player *player)
{
    struct pvm_machine *machine = &player->machine;
    struct pvm_region *heap = &machine->regions[PVM_REGION_COUNT - 1];
    const struct pvm_decoded i = pvm_decode(player->program, (uint32_t)machine->pc);
    uint64_t more = machine->regs[i.a] & 127, size = heap->size + more;
    if (heap->memory && heap->writable && size <= MOST_HEAP) {
        uint8_t *memory = exactly(size);
        if (heap->size)
            memcpy(memory, heap->memory, heap->size);
        memset(memory + heap->size, 0, more);
        free(heap->memory);
        heap->memory = memory;
        heap->size = size;
        machine->regs[i.d] = (uint32_t)(heap->address + size);
    } else {
        machine->regs[i.d] = 0;
    }
}

/* What a host does between two turns; the same for both players. */
static void act(struct player *player, enum pvm_exit end, uint8_t action, uint8_t argument)
{
    struct pvm_machine *machine = &player->machine;
    const struct pvm_program *program = player->program;
    if (end == PVM_EXIT_SBRK)
        grow_heap(player);
    switch (action & 7) {
    case 1: /* more gas */
        machine->gas += (int64_t)argument << (action >> 3);
        break;
    case 2: /* a result */
        machine->regs[7] = number(player, argument);
        break;
    case 3: /* a fault is cured, or not */
        if (end == PVM_EXIT_TRAP && machine->fault != PVM_NO_ADDRESS) {
            machine->next_pc = machine->pc;
            machine->regs[argument % PVM_REGISTER_COUNT] = number(player, (uint8_t)(action >> 1));
        }
        break;
    case 4: /* a call, to where an instruction is */
    case 5: /* or is not */
    case 6: /* or outside of the code */
        machine->next_pc = (uint64_t)argument * program->code_size >> 8;
        if ((action & 7) == 4)
            machine->next_pc = pvm_seek_instruction(program, (uint32_t)machine->next_pc);
        else if ((action & 7) == 6)
            machine->next_pc = (action & 8 ? program->code_size : UINT64_C(1) << (action >> 3)) + argument;
        machine->entering = true;
        machine->regs[0] = PVM_RETURN_TO_HOST;
        break;
    default: /* on with it, whether there is something to go on with or not */
        break;
    }
}

/* Below zero there is none but with async metering, which may get there by itself. */
static int64_t read_gas(struct input *input, uint8_t shape, const struct pvm_execution *execution)
{
    int64_t few = read_byte(input);
    if (shape & 4)
        return INT64_MAX - (INT64_C(1) << 44) + few; /* room for what act() adds */
    if (shape & 8 && execution->gas_metering == PVM_GAS_ASYNC)
        return INT64_MIN + few;
    return few << (shape >> 4);
}

static void check_interpreter(struct input *input, const struct pvm_program *program,
                              const struct pvm_execution *execution)
{
    static const uint64_t budgets[] = {200, 0, 1, 20};
    struct player player = {.program = program, .execution = *execution};
    CHECK(pvm_interpreter_create(program, execution, &player.interpreter) == 0);
    CHECK(pvm_interpreter_size(player.interpreter) < 10000 + 60 * (size_t)program->code_size);
    uint8_t shape = read_byte(input);
    player.budget = budgets[shape & 3];
    player.machine.gas = read_gas(input, shape, execution);
    read_regions(input, &player.machine);
    for (uint32_t n = 0; n < PVM_REGISTER_COUNT; n++)
        player.machine.regs[n] = number(&player, read_byte(input));
    player.machine.entering = true;
    struct player twin = twin_of(&player);

    uint8_t actions[TURNS][2];
    for (uint32_t n = 0; n < TURNS; n++)
        for (uint32_t byte = 0; byte < 2; byte++)
            actions[n][byte] = read_byte(input);
    /* few where blocks may be long, because a call gets to the end of one */
    uint64_t calls = 1 + MOST_CALLS / (1 + program->code_size / 64);
    bool together = true;
    for (uint32_t n = 0; n < TURNS; n++) {
        enum pvm_exit end = turn(&player, calls);
        together = together && end != PVM_EXIT_BUDGET && end != PVM_EXIT_STEP;
        if (together) {
            /* a call gets on by an instruction or a byte at least; it takes two where they are traced */
            CHECK(turn(&twin, 4 * calls * (player.budget + program->code_size + 1)) == end);
            check_same(&player, &twin, end);
            act(&twin, end, actions[n][0], actions[n][1]);
        }
        act(&player, end, actions[n][0], actions[n][1]);
    }
    end_player(&player);
    end_player(&twin);
}

/* --- all --------------------------------------------------------------------------------------------------- */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {.at = data, .end = data + size};
    struct pvm_program program = {.isa = read_byte(&input) % PVM_ISA_COUNT};
    struct pvm_execution execution = read_execution(&input);
    uint8_t shape_of_code = read_byte(&input), shape_of_output = read_byte(&input);
    read_jump_table(&input, &program);

    struct input machine = input; /* its part comes before the code, and is of fixed size */
    enum { MACHINE = 1 + 1 + 2 * PVM_REGION_COUNT + PVM_REGISTER_COUNT + 2 * TURNS };
    size_t left = (size_t)(input.end - input.at), skipped = left < MACHINE ? left : MACHINE;
    machine.end = input.at += skipped;
    read_code(&input, shape_of_code, &program);

    check_recompiler(&program, &execution, shape_of_output);
    check_block_costs(&program, &execution.cost);
    check_interpreter(&machine, &program, &execution);
    free_program(&program);
    return 0;
}
