/* SPDX-License-Identifier: MIT */
#include "core.h"

#include <math.h>

/* A wait without a limit ends once a day, as asyncio's own waits do; see uring_enter() for why there is always one. */
#define FOREVER (24 * 3600 * INT64_C(1000000000))

/* How long the next wait may last. Nanoseconds. */
static int64_t patience(Core *core)
{
    double left;

    if (core->ready.count != 0 || core->stopping)
        return 0;
    if (core->timers.count == 0)
        return FOREVER;
    /* Rounded up: a wait that ends before a timer's time would cost a second one. */
    left = ceil((core->timers.heap[0].when - clock_now()) * 1e9);
    return left <= 0 ? 0 : left < (double)FOREVER ? (int64_t)left : FOREVER;
}

static int run_item(Core *core, PyObject *item)
{
    PyTypeObject *type = Py_TYPE(item);

    if (type == loop_state.handle_type || type == loop_state.timer_type)
        return handle_run((Handle *)item, core);
    if (PyType_IsSubtype(type, loop_state.stream_type))
        return stream_run(item, core);
    if (type == loop_state.listener_type)
        return listener_run(item, core);
    return handle_run((Handle *)item, core); /* an asyncio.Handle: see _add_callback() */
}

static int iterate(Core *core)
{
    do {
        size_t count;

        if (core_reap(core, patience(core)) != 0 || PyErr_CheckSignals() != 0)
            return -1;
        core->interrupted = false;
        if (core->timers.count != 0 && timers_expire(&core->timers, clock_now(), &core->ready) != 0)
            return -1;
        /* What callbacks add is for the next iteration. A nested clear may have left less. */
        count = core->ready.count;
        while (count-- != 0 && core->ready.count != 0) {
            PyObject *item = ready_pop(&core->ready);
            int error;

            core->inlined = 0;
            error = run_item(core, item);
            ready_done(item);
            if (error != 0)
                return -1;
        }
    } while (!core->stopping);
    return 0;
}

int core_run(Core *core)
{
    bool outer = !core->running; /* not in a callback of itself */
    int error;

    core->running = true;
    error = iterate(core);
    if (outer) {
        core->running = false;
        ready_show(&core->ready);
    }
    core->interrupted = error != 0 && core->ready.count != 0;
    return error;
}
