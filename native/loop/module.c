/* SPDX-License-Identifier: MIT */
#include "core.h"
#include "file.h"

/*
 * The extension aioring._loop. Its state is global and of one interpreter: asyncio's own types, which ours derive from,
 * are another object in each. A second interpreter that imports it gets an ImportError.
 */
struct loop_state loop_state;

static PyTypeObject *add_type(PyObject *module, PyType_Spec *spec, PyObject *base)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, base);

    if (type != NULL && PyModule_AddType(module, (PyTypeObject *)type) != 0)
        Py_CLEAR(type);
    return (PyTypeObject *)type;
}

static PyObject *import_name(const char *module, const char *name)
{
    PyObject *imported = PyImport_ImportModule(module);
    PyObject *result = imported != NULL ? PyObject_GetAttrString(imported, name) : NULL;

    Py_XDECREF(imported);
    return result;
}

static int intern_names(void)
{
#define INTERN_NAME(name)                                                                                             \
    if ((loop_state.str_##name = PyUnicode_InternFromString(#name)) == NULL)                                          \
        return -1;
    LOOP_NAMES(INTERN_NAME)
#undef INTERN_NAME
    return 0;
}

static int import_all(void)
{
    PyObject *base_loop = import_name("asyncio.base_events", "BaseEventLoop");

    if (base_loop == NULL)
        return -1;
    loop_state.base_create_task = PyObject_GetAttrString(base_loop, "create_task");
    Py_DECREF(base_loop);
    loop_state.future_type = import_name("asyncio.futures", "Future");
    loop_state.task_type = import_name("asyncio.tasks", "Task");
    loop_state.socket_type = import_name("socket", "socket");
    loop_state.unsupported_error = import_name("io", "UnsupportedOperation");
    loop_state.owner_error = import_name("aioring._errors", "RingOwnerError");
    loop_state.forked_error = import_name("aioring._errors", "RingForkedError");
    loop_state.task_keywords = Py_BuildValue("(sss)", "loop", "name", "context");
    loop_state.empty_tuple = PyTuple_New(0);
    return loop_state.base_create_task != NULL && loop_state.future_type != NULL && loop_state.task_type != NULL &&
                   loop_state.socket_type != NULL && loop_state.owner_error != NULL &&
                   loop_state.unsupported_error != NULL &&
                   loop_state.forked_error != NULL && loop_state.task_keywords != NULL && loop_state.empty_tuple != NULL
               ? 0
               : -1;
}

static int add_streams(PyObject *module)
{
    PyObject *reader = import_name("asyncio.streams", "StreamReader");
    PyObject *writer = import_name("asyncio.streams", "StreamWriter");
    int result = reader != NULL && writer != NULL ? streams_init(module, reader, writer) : -1;

    Py_XDECREF(reader);
    Py_XDECREF(writer);
    return result;
}

static int module_exec(PyObject *module)
{
    PyObject *flow_control;

    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(PyExc_ImportError, "aioring works in the main interpreter only");
        return -1;
    }
    if (loop_state.core_type != NULL) {
        PyErr_SetString(PyExc_ImportError, "aioring._loop is loaded once in a process");
        return -1;
    }
    if (intern_names() != 0 || import_all() != 0 || handle_types_init(module) != 0)
        return -1;
    flow_control = import_name("asyncio.transports", "_FlowControlMixin");
    if (flow_control == NULL)
        return -1;
    loop_state.core_type = add_type(module, &core_spec, NULL);
    loop_state.listener_type = add_type(module, &listener_spec, NULL);
    loop_state.socket_call_type = add_type(module, &socket_call_spec, NULL);
    loop_state.stream_call_type = add_type(module, &stream_call_spec, NULL);
    loop_state.file_type = add_type(module, &file_spec, NULL);
    loop_state.transfer_type = add_type(module, &transfer_spec, NULL);
    loop_state.stream_type = stream_type_new(module, flow_control);
    Py_DECREF(flow_control);
    return loop_state.core_type != NULL && loop_state.listener_type != NULL && loop_state.socket_call_type != NULL &&
                   loop_state.stream_call_type != NULL && loop_state.file_type != NULL &&
                   loop_state.transfer_type != NULL && add_streams(module) == 0 &&
                   loop_state.stream_type != NULL && core_add_socket_methods() == 0
               ? 0
               : -1;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030c0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "aioring._loop",
    .m_doc = "The native half of aioring.EventLoop.",
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__loop(void);
PyMODINIT_FUNC PyInit__loop(void)
{
    return PyModuleDef_Init(&module_definition);
}
