/* SPDX-License-Identifier: MIT */
#include "core.h"

#include <errno.h>
#include <string.h>

/* More than so many submissions are worth letting other threads run meanwhile. */
#define LONG_SUBMISSION 32

/* An Operation of the LoopRing, which it knows by number. `more`: this is not its last completion. */
static int ring_operation_completed(Core *core, int64_t number, int32_t result, bool more)
{
    PyObject *key = PyLong_FromLongLong(number);
    PyObject *code = PyLong_FromLong(result);
    PyObject *operation = NULL;
    PyObject *done = NULL;
    int error = -1;

    if (key == NULL || code == NULL)
        goto out;
    operation = PyDict_GetItemWithError(core->in_flight, key);
    if (operation == NULL) {
        error = PyErr_Occurred() ? -1 : 0;
        goto out;
    }
    Py_INCREF(operation);
    done = PyObject_CallMethodOneArg(operation, more ? loop_state.str__more : loop_state.str__complete, code);
    if (done == NULL) {
        /* A signal handler's exception, anywhere in it: it comes again, which Operation._complete bears. */
        core->again_number = number;
        core->again_result = result;
        core->again_more = more;
        goto out;
    }
    error = 0;
    if (more)
        goto out;
    error = core->in_flight != NULL ? PyDict_Contains(core->in_flight, key) : 0;
    if (error == 1)
        error = PyDict_DelItem(core->in_flight, key);
out:
    Py_XDECREF(done);
    Py_XDECREF(operation);
    Py_XDECREF(code);
    Py_XDECREF(key);
    return error;
}

static int dispatch(Core *core, const struct io_uring_cqe *cqe)
{
    uint64_t data = cqe->user_data;

    if (data & WATCH_BIT) {
        struct uring_completion fired;

        if (!uring_watch_fired(core->ring, cqe, &fired))
            return 0;
        return watchers_fired(core, (int)~fired.number, (uint32_t)fired.result);
    }
    if (data & NATIVE_BIT) {
        operation_completed(core, (struct operation *)(uintptr_t)(data & ~NATIVE_BIT), cqe->res, cqe->flags);
        return PyErr_Occurred() ? -1 : 0;
    }
    if (data == 0)
        return 0;
    return ring_operation_completed(core, (int64_t)data, cqe->res, (cqe->flags & IORING_CQE_F_MORE) != 0);
}

int core_dispatch(Core *core)
{
    unsigned count;

    if (core->again_number != 0) {
        int64_t number = core->again_number;

        core->again_number = 0;
        if (ring_operation_completed(core, number, core->again_result, core->again_more) != 0)
            return -1;
    }
    /* Each is consumed before its dispatch, which may reap by itself, or fork. */
    for (count = core->ring != NULL ? io_uring_cq_ready(&core->ring->ring) : 0; count != 0; count--) {
        struct io_uring_cqe *next = NULL;
        struct io_uring_cqe cqe;
        unsigned head;

        if (core->ring == NULL)
            break;
        io_uring_for_each_cqe(&core->ring->ring, head, next)
            break;
        if (next == NULL)
            break;
        memcpy(&cqe, next, sizeof cqe);
        io_uring_cq_advance(&core->ring->ring, 1);
        if (dispatch(core, &cqe) != 0)
            return -1;
    }
    return 0;
}

int core_reap(Core *core, int64_t timeout)
{
    int error;

    if (core->ring == NULL) {
        core_raise_no_ring(core);
        return -1;
    }
    uring_arm_watches(core->ring);
    operations_prepare(core);
    if (core->again_number != 0 || io_uring_cq_ready(&core->ring->ring) != 0)
        timeout = 0;
    if (timeout > 0 || io_uring_sq_ready(&core->ring->ring) >= LONG_SUBMISSION) {
        core->waiting = true;
        Py_BEGIN_ALLOW_THREADS
        error = uring_enter(core->ring, timeout);
        Py_END_ALLOW_THREADS
        core->waiting = false;
        core->woken = false;
    } else {
        error = uring_enter(core->ring, timeout);
    }
    if (error != 0) {
        raise_errno(-error);
        return -1;
    }
    return core_dispatch(core);
}
