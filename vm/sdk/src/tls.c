/* SPDX-License-Identifier: MIT */
/* Thread-local variables, of the only thread: what -femulated-tls makes of them (as in compiler-rt's emutls.c). */
#include "give_up.h"

struct emutls {
    size_t size, alignment;
    void *object; /* once there is one */
    const void *initial; /* NULL: zeros */
};

void *__emutls_get_address(struct emutls *variable) {
    if (!variable->object) {
        void *object = aligned_alloc(variable->alignment, variable->size);
        if (!object)
            give_up("no memory for a thread-local variable");
        if (variable->initial)
            memcpy(object, variable->initial, variable->size);
        else
            memset(object, 0, variable->size);
        variable->object = object;
    }
    return variable->object;
}
