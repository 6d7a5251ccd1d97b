/* SPDX-License-Identifier: MIT
 *
 * image_file: native code and tables of an image on their way to a file and back; the file itself is Python's
 * (vm/_module_file.py). What comes back is believed only as far as the sandbox goes: a worker may run any code.
 */
#include <errno.h>
#include <string.h>

#include "build_id.h"
#include "pvm/tables.h"
#include "sandbox/image.h"

const char *sandbox_build_id(void)
{
    return SANDBOX_BUILD_ID;
}

uint32_t sandbox_cpu_features(void)
{
    return pvm_cpu_features();
}

uint64_t sandbox_image_tables_size(const sandbox_image *image)
{
    return pvm_tables_size(&image->recompiled);
}

void sandbox_image_write_tables(const sandbox_image *image, uint8_t *out)
{
    pvm_tables_write(&image->recompiled, out);
}

int sandbox_image_restore(struct sandbox_image *image, struct sandbox_stored *stored, uint8_t *out)
{
    const int error = pvm_tables_read(&image->program, &image->execution, stored->code_size, stored->tables,
                                      stored->tables_size, &image->recompiled, &stored->what);
    if (error == 0)
        memcpy(out, stored->code, stored->code_size);
    return error;
}

int sandbox_image_load(const struct sandbox_program *program, const uint8_t *code, uint64_t code_size,
                       const uint8_t *tables, uint64_t tables_size, sandbox_image **image, const char **what)
{
    struct sandbox_stored stored = {
        .code = code,
        .code_size = code_size,
        .tables = tables,
        .tables_size = tables_size,
        .what = "the size of the native code is out of range",
    };
    if (program->interpreted)
        return -EINVAL;
    if ((pvm_cpu_features() & PVM_CPU_REQUIRED) != PVM_CPU_REQUIRED)
        return -ENOTSUP;
    const int error =
        code_size > 0 && code_size <= LAYOUT_CODE_LIMIT ? sandbox_image_make(program, &stored, image) : -EBADMSG;
    *what = stored.what;
    return error;
}
