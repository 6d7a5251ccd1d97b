/* SPDX-License-Identifier: MIT
 *
 * tables: see tables.h.
 */
#include "tables.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "decode.h"

struct tables_header {
    uint32_t enter;
    uint32_t trap;
    uint32_t halt;
    uint32_t gas_stubs_at;
    uint32_t instruction_count;
    uint32_t gas_stub_count;
};

/* --- writing ----------------------------------------------------------------------------------------------- */

size_t pvm_tables_size(const struct pvm_recompiled *recompiled)
{
    return sizeof(struct tables_header) + recompiled->instruction_count * sizeof(uint32_t) +
           recompiled->gas_stub_count * sizeof *recompiled->gas_stubs;
}

void pvm_tables_write(const struct pvm_recompiled *recompiled, uint8_t *out)
{
    const struct tables_header header = {
        .enter = recompiled->enter,
        .trap = recompiled->trap,
        .halt = recompiled->halt,
        .gas_stubs_at = recompiled->gas_stubs_at,
        .instruction_count = (uint32_t)recompiled->instruction_count,
        .gas_stub_count = (uint32_t)recompiled->gas_stub_count,
    };
    memcpy(out, &header, sizeof header);
    out += sizeof header;
    for (size_t n = 0; n < recompiled->instruction_count; n++, out += sizeof(uint32_t))
        memcpy(out, &recompiled->instructions[n].native, sizeof(uint32_t));
    if (recompiled->gas_stub_count > 0)
        memcpy(out, recompiled->gas_stubs, recompiled->gas_stub_count * sizeof *recompiled->gas_stubs);
}

/* --- reading ----------------------------------------------------------------------------------------------- */

static const char *check_header(const struct tables_header *header, const struct pvm_program *program,
                                const struct pvm_execution *execution, uint64_t code_size, size_t size)
{
    const uint64_t needed = sizeof *header + (uint64_t)header->instruction_count * sizeof(uint32_t) +
                            (uint64_t)header->gas_stub_count * sizeof(struct pvm_gas_stub);
    if (needed != size)
        return "the counts of instructions and gas stubs do not add up to the size of the tables";
    if (header->instruction_count == 0 || header->instruction_count > (uint64_t)program->code_size + 1)
        return "no program of this size has so many instructions";
    if (code_size > INT32_MAX)
        return "there is more native code than jumps can cross";
    if (header->gas_stubs_at + (uint64_t)header->gas_stub_count * PVM_GAS_STUB_LENGTH != code_size)
        return "the gas stubs do not end where the native code does";
    if ((header->gas_stub_count != 0) != (execution->gas_metering != PVM_GAS_NONE))
        return "there are gas stubs without gas metering, or none with it";
    return NULL;
}

/* The instructions, in the order of the recompiler's walk, and the stretches with them. */
struct reader {
    const struct pvm_program *program;
    struct pvm_recompiled *result; /* its tables are filled up to instruction_count */
    const uint8_t *native;         /* those that are left */
    size_t left;
    size_t stretches_begun;
};

static void begin_stretches(struct reader *reader, uint32_t pc)
{
    struct pvm_recompiled *result = reader->result;
    while (reader->stretches_begun <= pc / PVM_STRETCH) {
        const uint32_t n = (uint32_t)reader->stretches_begun++;
        result->stretches[n] = (struct pvm_stretch){
            .starts = pvm_bitmask_word(reader->program, n * PVM_STRETCH),
            .first = (uint32_t)result->instruction_count,
        };
    }
}

static bool add_instruction(struct reader *reader, uint32_t pc)
{
    struct pvm_recompiled *result = reader->result;
    if (reader->left == 0)
        return false;
    struct pvm_instruction *instruction = &result->instructions[result->instruction_count++];
    instruction->pc = pc;
    memcpy(&instruction->native, reader->native, sizeof instruction->native);
    reader->native += sizeof instruction->native;
    reader->left--;
    return true;
}

static bool add_implicit(struct reader *reader, uint32_t pc)
{
    begin_stretches(reader, pc);
    reader->result->stretches[pc / PVM_STRETCH].starts |= UINT64_C(1) << pc % PVM_STRETCH;
    return add_instruction(reader, pc);
}

/* Goes from instruction to instruction as the recompiler did (emit_code). */
static bool add_instructions(struct reader *reader)
{
    const struct pvm_program *program = reader->program;
    const uint8_t *op_of_byte = pvm_op_of_byte[program->isa];
    bool lands_jumps = pvm_has_instruction(program, 0);
    if (!lands_jumps && !add_implicit(reader, 0))
        return false;
    for (uint32_t base = 0; base < program->code_size; base += PVM_STRETCH) {
        uint64_t left = pvm_bitmask_word(program, base), jump_targets = 0;
        begin_stretches(reader, base);
        for (; left; left &= left - 1) {
            const uint32_t pc = base + (uint32_t)__builtin_ctzll(left);
            const enum pvm_op op = (enum pvm_op)op_of_byte[program->code[pc]];
            const struct pvm_extent extent = pvm_extent(program, pc);
            jump_targets |= (uint64_t)lands_jumps << pc % PVM_STRETCH;
            lands_jumps = pvm_op_ends_block[op] & (op != PVM_OP_invalid) & extent.goes_on;
            if (!add_instruction(reader, pc))
                return false;
            if (!extent.goes_on && pvm_falls_through(op) && !add_implicit(reader, pc + 1 + extent.skip))
                return false;
        }
        reader->result->stretches[base / PVM_STRETCH].jump_targets = jump_targets;
    }
    begin_stretches(reader, program->code_size);
    return reader->left == 0;
}

/* Trampolines, instructions and gas stubs follow each other in the native code. */
static const char *check_order(const struct pvm_recompiled *tables)
{
    const struct pvm_instruction *instructions = tables->instructions;
    const uint32_t first = instructions[0].native, end = tables->gas_stubs_at;
    uint32_t last = first;
    if (tables->enter >= first || tables->trap >= first || tables->halt >= first)
        return "a trampoline is not before the first instruction";
    for (size_t n = 0; n < tables->instruction_count; n++) {
        if (instructions[n].native < last)
            return "the native offsets of the instructions run backwards";
        last = instructions[n].native;
    }
    if (last >= end)
        return "an instruction is not before the gas stubs";
    last = first;
    for (size_t n = 0; n < tables->gas_stub_count; n++) {
        const struct pvm_gas_stub *stub = &tables->gas_stubs[n];
        if (stub->native < last || stub->native >= end)
            return "a gas stub leads to no instruction, or they run backwards";
        if (stub->cost > INT32_MAX)
            return "a gas stub gives back more than any block costs";
        last = stub->native;
    }
    return NULL;
}

int pvm_tables_read(const struct pvm_program *program, const struct pvm_execution *execution, uint64_t code_size,
                    const uint8_t *data, size_t size, struct pvm_recompiled *result, const char **what)
{
    *result = (struct pvm_recompiled){0};
    *what = "the tables are shorter than their header";
    struct tables_header header;
    if (program->isa >= PVM_ISA_COUNT || program->code_size == 0 || size < sizeof header)
        return -EBADMSG;
    memcpy(&header, data, sizeof header);
    *what = check_header(&header, program, execution, code_size, size);
    if (*what != NULL)
        return -EBADMSG;

    const size_t stubs_size = header.gas_stub_count * sizeof *result->gas_stubs;
    result->code_size = code_size;
    result->enter = header.enter;
    result->trap = header.trap;
    result->halt = header.halt;
    result->gas_stubs_at = header.gas_stubs_at;
    result->gas_stub_count = header.gas_stub_count;
    result->stretch_count = program->code_size / PVM_STRETCH + 1;
    result->instructions = pvm_allocate_table(header.instruction_count * sizeof *result->instructions);
    result->stretches = pvm_allocate_table(result->stretch_count * sizeof *result->stretches);
    result->gas_stubs = stubs_size > 0 ? malloc(stubs_size) : NULL;
    if (result->instructions == NULL || result->stretches == NULL || (stubs_size > 0 && result->gas_stubs == NULL)) {
        pvm_recompiled_free(result);
        return -ENOMEM;
    }
    if (stubs_size > 0)
        memcpy(result->gas_stubs, data + size - stubs_size, stubs_size);
    struct reader reader = {
        .program = program,
        .result = result,
        .native = data + sizeof header,
        .left = header.instruction_count,
    };
    *what = add_instructions(&reader) ? check_order(result) : "the program has another number of instructions";
    if (*what == NULL)
        return 0;
    pvm_recompiled_free(result);
    return -EBADMSG;
}
