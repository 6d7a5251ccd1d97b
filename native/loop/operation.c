/* SPDX-License-Identifier: MIT */
#include "operation.h"

#include "core.h"

#include <errno.h>

static uint64_t address_of(struct operation *operation)
{
    return NATIVE_BIT | (uint64_t)(uintptr_t)operation;
}

static void link_to(struct operation *head, struct operation *operation)
{
    operation->previous = head->previous;
    operation->next = head;
    head->previous->next = operation;
    head->previous = operation;
}

static void unlink_it(struct operation *operation)
{
    operation->previous->next = operation->next;
    operation->next->previous = operation->previous;
}

static void move_to(struct operation *head, struct operation *operation, enum operation_state state)
{
    unlink_it(operation);
    link_to(head, operation);
    operation->state = state;
}

/* Its owner may be gone after this. */
static void become_idle(struct operation *operation)
{
    PyObject *owner = operation->owner;

    unlink_it(operation);
    operation->state = OPERATION_IDLE;
    operation->owner = NULL;
    Py_DECREF(owner);
}

void operations_init(struct operations *operations)
{
    operations->due.previous = operations->due.next = &operations->due;
    operations->armed.previous = operations->armed.next = &operations->armed;
}

static void prepare(struct io_uring_sqe *sqe, struct operation *operation)
{
    switch (operation->kind) {
    case OPERATION_POLL:
        /* Edge-triggered: it completes again for each event on the file, and stays armed. */
        io_uring_prep_poll_multishot(sqe, operation->fd, operation->mask);
        break;
    case OPERATION_POLL_ONCE:
        io_uring_prep_poll_add(sqe, operation->fd, operation->mask);
        break;
    case OPERATION_ACCEPT:
        io_uring_prep_multishot_accept(sqe, operation->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        break;
    case OPERATION_TRANSFER:
        operation->prepare(operation, sqe);
        break;
    }
}

void operations_prepare(Core *core)
{
    struct operations *operations = &core->operations;

    while (operations->due.next != &operations->due) {
        struct operation *operation = operations->due.next;
        struct io_uring_sqe *sqe;

        if (operation->state == OPERATION_DUE) {
            /* No room, and the kernel takes nothing before completions were consumed: the rest stays due. */
            if (uring_take(core->ring, address_of(operation), &sqe) != 0)
                return;
            prepare(sqe, operation);
            move_to(&operations->armed, operation, OPERATION_ARMED);
        } else {
            if (uring_take(core->ring, 0, &sqe) != 0)
                return;
            io_uring_prep_cancel64(sqe, address_of(operation), 0);
            move_to(&operations->armed, operation, OPERATION_ENDING);
        }
    }
}

void operation_start(Core *core, struct operation *operation, PyObject *owner)
{
    if (operation->state != OPERATION_IDLE || core->shutting)
        return;
    operation->owner = Py_NewRef(owner);
    operation->state = OPERATION_DUE;
    link_to(&core->operations.due, operation);
}

void operation_stop(Core *core, struct operation *operation)
{
    if (operation->state == OPERATION_DUE)
        become_idle(operation);
    else if (operation->state == OPERATION_ARMED)
        move_to(&core->operations.due, operation, OPERATION_UNWANTED);
}

int operation_stop_now(Core *core, struct operation *operation)
{
    int error = 0;

    operation_stop(core, operation);
    if (operation->state == OPERATION_UNWANTED) {
        operations_prepare(core);
        /* Submitting runs the cancellation, and getting events the operation's own end, which puts the file. */
        error = io_uring_submit_and_get_events(&core->ring->ring);
    }
    return error < 0 && error != -EBUSY && error != -EAGAIN && error != -EINTR ? error : 0;
}

void operation_completed(Core *core, struct operation *operation, int32_t result, uint32_t flags)
{
    bool more = (flags & IORING_CQE_F_MORE) != 0;
    PyObject *owner = Py_NewRef(operation->owner);

    if (!more)
        become_idle(operation);
    operation->done(core, operation, result, more);
    Py_DECREF(owner);
}

void operations_again(Core *core)
{
    struct operations *operations = &core->operations;
    struct operation *operation = operations->armed.next;

    while (operation != &operations->armed) {
        struct operation *next = operation->next;

        if (operation->state == OPERATION_ARMED)
            move_to(&operations->due, operation, OPERATION_DUE);
        else
            become_idle(operation);
        operation = next;
    }
    operation = operations->due.next;
    while (operation != &operations->due) {
        struct operation *next = operation->next;

        if (operation->state == OPERATION_UNWANTED)
            become_idle(operation);
        operation = next;
    }
}

void operations_stop(Core *core)
{
    struct operations *operations = &core->operations;
    struct operation *next;

    core->shutting = true;
    for (struct operation *each = operations->due.next; each != &operations->due; each = next) {
        next = each->next;
        operation_stop(core, each);
    }
    for (struct operation *each = operations->armed.next; each != &operations->armed; each = next) {
        next = each->next;
        operation_stop(core, each);
    }
    operations_prepare(core);
}

Py_ssize_t operations_transfers(const struct operations *operations)
{
    const struct operation *heads[] = {&operations->due, &operations->armed};
    Py_ssize_t count = 0;

    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        for (const struct operation *each = heads[i]->next; each != heads[i]; each = each->next)
            count += each->kind == OPERATION_TRANSFER;
    }
    return count;
}

static void forget(struct operation *head)
{
    while (head->next != head) {
        struct operation *operation = head->next;

        /*
         * A transfer whose end was not seen, because its thread has ended, or because it is the parent's. A device may
         * still write to its memory: it keeps its owner, which keeps that. One that is due was not submitted.
         */
        if (operation->kind == OPERATION_TRANSFER && operation->state != OPERATION_DUE) {
            unlink_it(operation);
            operation->state = OPERATION_LOST;
        } else {
            become_idle(operation);
        }
    }
}

void operations_forget(Core *core)
{
    struct operations *operations = &core->operations;

    forget(&operations->due);
    forget(&operations->armed);
}

int operations_traverse(struct operations *operations, visitproc visit, void *arg)
{
    if (operations->due.next == NULL)
        return 0;
    for (struct operation *each = operations->due.next; each != &operations->due; each = each->next)
        Py_VISIT(each->owner);
    for (struct operation *each = operations->armed.next; each != &operations->armed; each = each->next)
        Py_VISIT(each->owner);
    return 0;
}
