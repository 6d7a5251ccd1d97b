/* SPDX-License-Identifier: MIT */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <structmember.h>
#include <sys/stat.h>
#include <unistd.h>

/* The type that aioring.fs.RawFile derives from: a descriptor, and the transfers on it. */

/* _attach(loop, fd, flags): take the descriptor, whose open(2) flags these are. */
static PyObject *file_attach(File *file, PyObject *const *args, Py_ssize_t count)
{
    struct stat status;
    long fd, flags;

    if (count != 3 || !PyObject_TypeCheck(args[0], loop_state.core_type)) {
        PyErr_SetString(PyExc_TypeError, "_attach(loop, fd, flags)");
        return NULL;
    }
    fd = PyLong_AsLong(args[1]);
    flags = PyLong_AsLong(args[2]);
    if (PyErr_Occurred())
        return NULL;
    if (file->core != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the file is open");
        return NULL;
    }
    if (fstat((int)fd, &status) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    file->core = (Core *)Py_NewRef(args[0]);
    file->fd = (int)fd;
    file->readable = (flags & O_ACCMODE) != O_WRONLY;
    file->writable = (flags & O_ACCMODE) != O_RDONLY;
    file->appending = (flags & O_APPEND) != 0;
    file->direct = (flags & O_DIRECT) != 0;
    file->regular = S_ISREG(status.st_mode) || S_ISBLK(status.st_mode);
    file->seekable = lseek((int)fd, 0, SEEK_CUR) >= 0;
    file->inline_reads = file->regular && !file->direct;
    Py_RETURN_NONE;
}

static void unfix(File *file)
{
    if (file->slot >= 0 && file->core != NULL && file->generation == file->core->registered.generation)
        registered_remove_file(file->core, file->slot);
    file->slot = -1;
}

/* _fix(): register the descriptor with the ring. OSError. */
static PyObject *file_fix(File *file, PyObject *Py_UNUSED(unused))
{
    int slot = registered_add_file(file->core, file->fd);

    if (slot < 0)
        return raise_errno(-slot);
    file->slot = slot;
    file->generation = file->core->registered.generation;
    Py_RETURN_NONE;
}

/*
 * _stop(): no more transfers. Those in flight end by themselves on a regular file, elsewhere they are cancelled.
 * Returns the future that is done when all have ended, or None if they have.
 */
static PyObject *file_stop(File *file, PyObject *Py_UNUSED(unused))
{
    file->closing = true;
    if (file->in_flight == 0)
        Py_RETURN_NONE;
    if (!file->regular)
        transfers_stop(file);
    if (file->idle == NULL && (file->idle = core_create_future(file->core, NULL)) == NULL)
        return NULL;
    return Py_NewRef(file->idle);
}

/* _release(): give the descriptor up, for the caller to close; -1 if it was given up before. */
static PyObject *file_release(File *file, PyObject *Py_UNUSED(unused))
{
    int fd = file->fd;

    unfix(file);
    file->closing = true;
    file->fd = -1;
    return PyLong_FromLong(fd);
}

/* ---- transfers ------------------------------------------------------------------------------------------------------- */

static bool check_open(const File *file, bool reading)
{
    if (file->fd < 0 || file->closing) {
        PyErr_SetString(PyExc_ValueError, "I/O operation on closed file");
        return false;
    }
    if (reading ? file->readable : file->writable)
        return true;
    PyErr_Format(loop_state.unsupported_error, "File not open for %s", reading ? "reading" : "writing");
    return false;
}

static bool count_is(const char *name, Py_ssize_t count, Py_ssize_t right)
{
    if (count == right)
        return true;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments (%zd given)", name, right, count);
    return false;
}

/* As the system call would have it: negative is EINVAL. */
static bool read_number(PyObject *object, int64_t *out)
{
    PyObject *number = PyNumber_Index(object);

    if (number == NULL)
        return false;
    *out = PyLong_AsLongLong(number);
    Py_DECREF(number);
    if (*out == -1 && PyErr_Occurred())
        return false;
    if (*out >= 0)
        return true;
    raise_errno(EINVAL);
    return false;
}

static PyObject *pread_method(File *file, PyObject *const *args, Py_ssize_t count)
{
    int64_t size, offset;

    if (!count_is("pread", count, 2) || !check_open(file, true) || !read_number(args[0], &size) ||
        !read_number(args[1], &offset))
        return NULL;
    return transfer_new(file, "pread", TRANSFER_READ, (Py_ssize_t)size, NULL, false, offset);
}

static PyObject *read_method(File *file, PyObject *argument)
{
    int64_t size;

    if (!check_open(file, true) || !read_number(argument, &size))
        return NULL;
    return transfer_new(file, "read", TRANSFER_READ, (Py_ssize_t)size, NULL, false, -1);
}

static PyObject *
with_buffers(File *file, const char *name, enum transfer_kind kind, bool many, PyObject *const *args, Py_ssize_t count)
{
    int64_t offset;

    if (!count_is(name, count, 2) || !check_open(file, kind != TRANSFER_WRITE) || !read_number(args[1], &offset))
        return NULL;
    return transfer_new(file, name, kind, 0, args[0], many, offset);
}

static PyObject *pread_into_method(File *file, PyObject *const *args, Py_ssize_t count)
{
    return with_buffers(file, "pread_into", TRANSFER_READ_INTO, false, args, count);
}

static PyObject *preadv_method(File *file, PyObject *const *args, Py_ssize_t count)
{
    return with_buffers(file, "preadv", TRANSFER_READ_INTO, true, args, count);
}

static PyObject *pwrite_method(File *file, PyObject *const *args, Py_ssize_t count)
{
    return with_buffers(file, "pwrite", TRANSFER_WRITE, false, args, count);
}

static PyObject *pwritev_method(File *file, PyObject *const *args, Py_ssize_t count)
{
    return with_buffers(file, "pwritev", TRANSFER_WRITE, true, args, count);
}

static PyObject *read_into_method(File *file, PyObject *buffer)
{
    return check_open(file, true) ? transfer_new(file, "readinto", TRANSFER_READ_INTO, 0, buffer, false, -1) : NULL;
}

static PyObject *write_method(File *file, PyObject *buffer)
{
    return check_open(file, false) ? transfer_new(file, "write", TRANSFER_WRITE, 0, buffer, false, -1) : NULL;
}

/* ---- the type -------------------------------------------------------------------------------------------------------- */

static PyObject *file_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(keywords))
{
    File *file = (File *)type->tp_alloc(type, 0);

    if (file != NULL)
        file->fd = file->slot = -1;
    return (PyObject *)file;
}

static int file_traverse(File *file, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(file));
    Py_VISIT(file->core);
    Py_VISIT(file->idle);
    return 0;
}

static int file_clear(File *file)
{
    /* Not the core: transfers count on it. It does not hold its files, but for those in flight. */
    Py_CLEAR(file->idle);
    Py_CLEAR(file->kept);
    return 0;
}

static void file_dealloc(File *file)
{
    PyTypeObject *type = Py_TYPE(file);

    PyObject_GC_UnTrack(file);
    file_clear(file);
    Py_CLEAR(file->core);
    type->tp_free(file);
    Py_DECREF(type);
}

#define FAST(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef file_methods[] = {
    {"pread", FAST(pread_method), METH_FASTCALL,
     "pread(size, offset, /)\n--\n\n"
     "Read `size` bytes at `offset`; fewer only where the file ends. The file's position stays where it is."},
    {"pread_into", FAST(pread_into_method), METH_FASTCALL,
     "pread_into(buffer, offset, /)\n--\n\n"
     "Read at `offset` into a writable, contiguous buffer, which is the kernel's until then. How many bytes; fewer\n"
     "than its size only where the file ends."},
    {"preadv", FAST(preadv_method), METH_FASTCALL,
     "preadv(buffers, offset, /)\n--\n\nAs pread_into(), into a sequence of buffers, one after the other."},
    {"pwrite", FAST(pwrite_method), METH_FASTCALL,
     "pwrite(data, offset, /)\n--\n\n"
     "Write all of the data at `offset` (at the end, if the file was opened to append). How many bytes.\n\n"
     "An OSError in the middle, and CancelledError, say in `characters_written` how many were."},
    {"pwritev", FAST(pwritev_method), METH_FASTCALL,
     "pwritev(buffers, offset, /)\n--\n\nAs pwrite(), from a sequence of buffers, one after the other."},
    {"_read", (PyCFunction)read_method, METH_O, "_read(size): at the file's position."},
    {"_read_into", (PyCFunction)read_into_method, METH_O, "_read_into(buffer): at the file's position."},
    {"_write", (PyCFunction)write_method, METH_O, "_write(data): at the file's position."},
    {"_attach", FAST(file_attach), METH_FASTCALL, "_attach(loop, fd, flags): take a descriptor."},
    {"_fix", (PyCFunction)file_fix, METH_NOARGS, "Register the descriptor with the ring."},
    {"_stop", (PyCFunction)file_stop, METH_NOARGS, "No more transfers; a future for the end of those in flight."},
    {"_release", (PyCFunction)file_release, METH_NOARGS, "Give the descriptor up; -1 if that was done before."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef file_members[] = {
    {"_loop", T_OBJECT, offsetof(File, core), READONLY, NULL},
    {"_fd", T_INT, offsetof(File, fd), READONLY, NULL},
    {"_slot", T_INT, offsetof(File, slot), READONLY, NULL},
    {"_in_flight", T_PYSSIZET, offsetof(File, in_flight), READONLY, NULL},
    {"_readable", T_BOOL, offsetof(File, readable), READONLY, NULL},
    {"_writable", T_BOOL, offsetof(File, writable), READONLY, NULL},
    {"_appending", T_BOOL, offsetof(File, appending), READONLY, NULL},
    {"_seekable", T_BOOL, offsetof(File, seekable), READONLY, NULL},
    {"_regular", T_BOOL, offsetof(File, regular), READONLY, NULL},
    {"_closing", T_BOOL, offsetof(File, closing), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot file_slots[] = {
    {Py_tp_doc, "The native half of aioring.fs.RawFile."},
    {Py_tp_new, file_new},
    {Py_tp_dealloc, file_dealloc},
    {Py_tp_traverse, file_traverse},
    {Py_tp_clear, file_clear},
    {Py_tp_methods, file_methods},
    {Py_tp_members, file_members},
    {0, NULL},
};

PyType_Spec file_spec = {
    .name = "aioring._loop.File",
    .basicsize = sizeof(File),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = file_slots,
};
