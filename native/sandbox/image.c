/* SPDX-License-Identifier: MIT
 *
 * image: see image.h.
 */
#define _GNU_SOURCE
#include "sandbox/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sandbox/generic.h"
#include "sandbox/memfd.h"

/* No instruction becomes more than this many bytes of native code on average; a program that does is refused. */
#define IMAGE_CODE_PER_BYTE 64u
#define IMAGE_CODE_MIN UINT64_C(0x10000)

static uint8_t *image_duplicate(const uint8_t *data, uint32_t size)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);
    if (copy != NULL && size > 0)
        memcpy(copy, data, size);
    return copy;
}

static void image_fill_tables(const struct sandbox_image *image, uint8_t *file)
{
    const struct pvm_program *program = &image->program;
    uint64_t *table = (uint64_t *)(void *)file;
    const uint64_t slots = UINT64_C(2) * ((uint64_t)program->jump_table_count + 1);
    const uint64_t code_base = sandbox_image_code_base(image);
    pvm_fill_jump_table(program, &image->recompiled, code_base, table);
    for (uint64_t slot = slots; slot < image->jump_table_size / sizeof *table; slot++)
        table[slot] = PVM_INVALID_CODE_ADDRESS;

    uint64_t *page = (uint64_t *)(void *)(file + image->jump_table_size);
    page[0] = code_base + image->recompiled.halt;
    for (uint64_t slot = 1; slot < LAYOUT_PAGE / sizeof *page; slot++)
        page[slot] = PVM_INVALID_CODE_ADDRESS;
}

/* What the interpreter needs instead: decoded instructions, and the read-only data in memory of its own. */
static int image_interpret(struct sandbox_image *image, const struct sandbox_program *source)
{
    if (image->map.ro_size > 0) {
        uint8_t *ro = mmap(NULL, image->map.ro_size, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (ro == MAP_FAILED)
            return -errno;
        image->ro = ro;
        if (source->ro_data_size > 0)
            memcpy(ro, source->ro_data, source->ro_data_size);
        if (mprotect(ro, image->map.ro_size, PROT_READ) != 0)
            return -errno;
    }
    return pvm_interpreter_create(&image->program, &image->execution, &image->interpreter);
}

static const struct pvm_target image_worker_target = {
    .vmctx = (int64_t)LAYOUT_VMCTX_BASE - (int64_t)LAYOUT_CODE_BASE,
    .jump_table = (int64_t)LAYOUT_JUMP_TABLE_BASE - (int64_t)LAYOUT_CODE_BASE,
    .exit = (int64_t)LAYOUT_EXIT - (int64_t)LAYOUT_CODE_BASE,
};

static const struct pvm_target image_generic_target = {
    .vmctx = GENERIC_TARGET_VMCTX,
    .jump_table = (int64_t)GENERIC_JUMP_TABLE,
    .exit = GENERIC_TARGET_EXIT,
    .gs_base = true,
};

/* Reserves address space for native code and its tables in this process. */
static int image_reserve(struct sandbox_image *image)
{
    void *reserved =
        mmap(NULL, GENERIC_CODE_RESERVATION, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED)
        return -errno;
    image->here = reserved;
    return 0;
}

/* Maps the sealed file into the reservation. */
static int image_map_here(const struct sandbox_image *image)
{
    struct zygote_mapping windows[WINDOW_COUNT];
    sandbox_image_windows(image, windows);
    const unsigned kinds[] = {WINDOW_JUMP_TABLE, WINDOW_RETURN, WINDOW_CODE};
    for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        const struct zygote_mapping *window = &windows[kinds[i]];
        const int protection = PROT_READ | (kinds[i] == WINDOW_CODE ? PROT_EXEC : 0);
        if (mmap(image->here + (window->address - LAYOUT_CODE_BASE), window->size, protection, MAP_SHARED | MAP_FIXED,
                 image->file, (off_t)window->offset) == MAP_FAILED)
            return -errno;
    }
    return 0;
}

/* Recompiles straight into the file, through a mapping that is gone before the seals go on; or puts there what is
 * stored. */
static int image_build(struct sandbox_image *image, const struct sandbox_program *source, struct sandbox_stored *stored)
{
    struct pvm_target target = source->in_process ? image_generic_target : image_worker_target;
    target.cpu_features = pvm_cpu_features();
    if (source->in_process) {
        const int error = image_reserve(image); /* the jump table holds addresses */
        if (error < 0)
            return error;
    }
    image->jump_table_size = sandbox_page_up(UINT64_C(16) * ((uint64_t)image->program.jump_table_count + 1));
    image->ro_offset = image->jump_table_size + LAYOUT_PAGE;
    image->code_offset = image->ro_offset + image->map.ro_size;
    uint64_t capacity = sandbox_page_up((uint64_t)source->code_size * IMAGE_CODE_PER_BYTE) + IMAGE_CODE_MIN;
    uint64_t expected = (uint64_t)source->code_size * (source->gas_metering != 0 ? 9 : 6) / 4;
    if (stored != NULL)
        expected = capacity = sandbox_page_up(stored->code_size);
    if (capacity > LAYOUT_CODE_LIMIT)
        capacity = LAYOUT_CODE_LIMIT;
    const uint64_t largest = image->code_offset + capacity;

    if (ftruncate(image->file, (off_t)largest) != 0)
        return -errno;
    uint8_t *file = mmap(NULL, largest, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, image->file, 0);
    if (file == MAP_FAILED)
        return -errno;
    /* A child that another thread forks now would keep a writable mapping, and F_SEAL_WRITE would fail. */
    int error = madvise(file, largest, MADV_DONTFORK) == 0 ? 0 : -errno;
    /* One call is cheaper than a fault for every page; Linux 5.14, and if it fails, faults will do. */
    if (error == 0)
        madvise(file, image->code_offset + (expected < capacity ? expected : capacity), MADV_POPULATE_WRITE);
    uint8_t *code = file + image->code_offset;
    if (error == 0 && stored != NULL)
        error = sandbox_image_restore(image, stored, code);
    else if (error == 0)
        error = pvm_recompile(&image->program, &image->execution, &target, code, capacity, &image->recompiled);
    if (error == 0) {
        image_fill_tables(image, file);
        if (source->ro_data_size > 0)
            memcpy(file + image->ro_offset, source->ro_data, source->ro_data_size);
    }
    munmap(file, largest);
    if (error < 0)
        return error;
    if (ftruncate(image->file, (off_t)(image->code_offset + sandbox_page_up(image->recompiled.code_size))) != 0)
        return -errno;
    /* Nobody, host included, changes code, table or read-only data from here on. */
    if (fcntl(image->file, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
        return -errno;
    if (image->map.ro_size > 0) {
        void *ro = mmap(NULL, image->map.ro_size, PROT_READ, MAP_SHARED, image->file, (off_t)image->ro_offset);
        if (ro == MAP_FAILED)
            return -errno;
        image->ro = ro;
    }
    return image->here != NULL ? image_map_here(image) : 0;
}

int sandbox_image_create(const struct sandbox_program *program, sandbox_image **result)
{
    return sandbox_image_make(program, NULL, result);
}

int sandbox_image_make(const struct sandbox_program *program, struct sandbox_stored *stored, sandbox_image **result)
{
    const struct sandbox_memory_map *map = &program->map;
    if (program->ro_data_size > map->ro_size || program->rw_data_size > map->rw_size)
        return -EINVAL;
    if (((map->ro_size | map->rw_size | map->stack_size | map->aux_size) & (uint32_t)(LAYOUT_PAGE - 1)) != 0)
        return -EINVAL;
    struct sandbox_image *image = calloc(1, sizeof *image);
    if (image == NULL)
        return -ENOMEM;
    image->map = *map;
    image->dynamic_paging = program->dynamic_paging != 0;
    image->rw_data_size = program->rw_data_size;
    image->execution = (struct pvm_execution){
        .gas_metering = program->gas_metering,
        .per_instruction = program->per_instruction != 0,
        .step_tracing = program->step_tracing != 0,
        .cost = {.kind = program->cost_kind, .memory_latency = program->memory_latency},
    };
    memcpy(image->execution.cost.costs, program->costs, sizeof image->execution.cost.costs);
    image->code = image_duplicate(program->code, program->code_size);
    image->bitmask = image_duplicate(program->bitmask, (program->code_size + 7) / 8);
    image->rw_data = image_duplicate(program->rw_data, program->rw_data_size);
    image->file = -1;
    image->program = (struct pvm_program){
        .isa = program->isa,
        .code = image->code,
        .code_size = program->code_size,
        .bitmask = image->bitmask,
        .jump_table = program->jump_table,
        .jump_table_count = program->jump_table_entry_size > 0 ? program->jump_table_count : 0,
        .jump_table_entry_size = program->jump_table_entry_size,
    };
    int error = 0;
    if (image->code == NULL || image->bitmask == NULL || image->rw_data == NULL)
        error = -ENOMEM;
    else if (program->isa >= PVM_ISA_COUNT)
        error = -EINVAL;
    else if (program->interpreted)
        error = image_interpret(image, program);
    else if ((image->file = memfd_make("pvm-image", MFD_ALLOW_SEALING)) < 0)
        error = image->file;
    else
        error = image_build(image, program, stored);
    image->program.jump_table = NULL; /* borrowed, and needed no more */
    image->program.jump_table_count = 0;
    if (error < 0) {
        sandbox_image_destroy(image);
        return error;
    }
    *result = image;
    return 0;
}

void sandbox_image_destroy(sandbox_image *image)
{
    if (image == NULL)
        return;
    if (image->ro != NULL)
        munmap((void *)(uintptr_t)image->ro, image->map.ro_size);
    if (image->here != NULL)
        munmap(image->here, GENERIC_CODE_RESERVATION);
    if (image->file >= 0)
        close(image->file);
    pvm_recompiled_free(&image->recompiled);
    pvm_interpreter_destroy(image->interpreter);
    free(image->code);
    free(image->bitmask);
    free(image->rw_data);
    free(image);
}

uint64_t sandbox_image_code_size(const sandbox_image *image)
{
    return image->recompiled.code_size;
}

uint32_t sandbox_cost_count(void)
{
    return PVM_OP_COUNT;
}

int64_t sandbox_image_gas_cost(const sandbox_image *image, uint32_t pc)
{
    uint32_t start;
    if (!pvm_block_start(&image->program, pc, &start))
        return -1;
    return pvm_block_cost(&image->program, &image->execution.cost, start);
}

int64_t sandbox_image_native_offset(const sandbox_image *image, uint32_t pc)
{
    /* the tables of an image for the interpreter are empty */
    const struct pvm_instruction *instruction = pvm_find_pc(&image->recompiled, pc);
    return instruction != NULL ? (int64_t)instruction->native : -1;
}

uint64_t sandbox_image_read_code(const sandbox_image *image, uint64_t offset, uint8_t *out, uint64_t size)
{
    const uint64_t available = image->recompiled.code_size;
    if (offset >= available)
        return 0;
    if (size > available - offset)
        size = available - offset;
    const ssize_t count = pread(image->file, out, size, (off_t)(image->code_offset + offset));
    return count > 0 ? (uint64_t)count : 0;
}

/* --- the ram file (memory.h) --- */

uint64_t sandbox_image_stack_offset(const struct sandbox_image *image)
{
    (void)image;
    return LAYOUT_VMCTX_SIZE;
}

uint64_t sandbox_image_rw_offset(const struct sandbox_image *image)
{
    return sandbox_image_stack_offset(image) + image->map.stack_size;
}

uint64_t sandbox_image_rw_limit(const struct sandbox_image *image)
{
    const uint64_t top = (uint64_t)image->map.heap_base + image->map.heap_size_max;
    const uint64_t limit = sandbox_page_up(top - image->map.rw_address);
    return limit > image->map.rw_size ? limit : image->map.rw_size;
}

void sandbox_image_windows(const struct sandbox_image *image, struct zygote_mapping windows[WINDOW_COUNT])
{
    const struct sandbox_memory_map *map = &image->map;
    windows[WINDOW_JUMP_TABLE] = (struct zygote_mapping){LAYOUT_JUMP_TABLE_BASE, image->jump_table_size, 0};
    windows[WINDOW_RETURN] = (struct zygote_mapping){LAYOUT_RETURN_PAGE, LAYOUT_PAGE, image->jump_table_size};
    windows[WINDOW_CODE] =
        (struct zygote_mapping){LAYOUT_CODE_BASE, sandbox_page_up(image->recompiled.code_size), image->code_offset};
    windows[WINDOW_RO] = (struct zygote_mapping){map->ro_address, map->ro_size, image->ro_offset};
    windows[WINDOW_STACK] =
        (struct zygote_mapping){map->stack_low, map->stack_size, sandbox_image_stack_offset(image)};
    windows[WINDOW_AUX] = (struct zygote_mapping){map->aux_address, map->aux_size, 0};
    windows[WINDOW_RW] =
        (struct zygote_mapping){map->rw_address, sandbox_image_rw_limit(image), sandbox_image_rw_offset(image)};
}
