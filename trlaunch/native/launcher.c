/*
 * The launch path without the interpreter: arguments -> parameter buffer on the stack -> the driver's launch function.
 *
 * Nothing here explains an error. Whatever is not plainly right (a wrong type, a value out of range, a tensor on another
 * device, an unknown keyword) is "unusual": the call is handed to the Python path, which raises or does it the long way.
 * What a kernel takes is given by trlaunch/launching.py; driver functions are known by address, headers of no vendor are
 * used. CUlaunchConfig or HIP_LAUNCH_CONFIG is copied from one that is filled in; only grid and stream are changed, at
 * offsets that the plan was told.
 *
 * The GIL protects every object here and is released around the driver's launch, which waits when its queue is full.
 * Free-threaded Python is not supported: the module declines to be imported there.
 */
#include "callables.h"

/* Where the objects of a type have a slot; -1, with an error, when it is none. */
static Py_ssize_t slot_offset(PyObject *type, const char *name) {
    PyObject *member = PyObject_GetAttrString(type, name);
    if (!member) return -1;
    Py_ssize_t found = -1;
    if (Py_TYPE(member) == &PyMemberDescr_Type && ((PyMemberDescrObject *)member)->d_member->type == T_OBJECT_EX)
        found = ((PyMemberDescrObject *)member)->d_member->offset;
    else PyErr_Format(PyExc_TypeError, "expected %R to have a slot %s", type, name);
    Py_DECREF(member);
    return found;
}

static PyObject *know(PyObject *module, PyObject *args) {
    PyObject *pointer, *array, *descriptor, *handle;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!O!O!O", &PyType_Type, &pointer, &PyType_Type, &array, &PyType_Type, &descriptor,
                          &handle))
        return NULL;
    Py_ssize_t at[2] = {slot_offset(pointer, "address"), 0};
    if (at[0] < 0 || (at[1] = slot_offset(array, "_native")) < 0) return NULL;
    known.pointer_offset = at[0], known.array_offset = at[1];
    keep_type(&known.pointer, pointer);
    keep_type(&known.array, array);
    keep_type(&descriptor_type, descriptor);
    keep_object(&stream_handle, handle);
    Py_RETURN_NONE;
}

/* The type of kernels, which have their plans in a slot. */
static PyObject *know_launched(PyObject *module, PyObject *type) {
    (void)module;
    if (!PyType_Check(type)) return PyErr_Format(PyExc_TypeError, "expected a type");
    Py_ssize_t at = slot_offset(type, "_launches");
    if (at < 0) return NULL;
    keep_type(&known.launched, type);
    known.launched_offset = at;
    Py_RETURN_NONE;
}

static PyObject *know_descriptor(PyObject *module, PyObject *type) {
    (void)module;
    if (!PyType_Check(type)) return PyErr_Format(PyExc_TypeError, "expected a type");
    keep_type(&foreign_descriptor_type, type);
    Py_RETURN_NONE;
}

/* The table of a type, of a major version that is understood here; null when there is none. */
static const Exchange *table_of(PyObject *type) {
    PyObject *capsule = PyObject_GetAttrString(type, "__dlpack_c_exchange_api__");
    ExchangeHeader *header = NULL;
    if (capsule && PyCapsule_CheckExact(capsule)) header = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
    Py_XDECREF(capsule);
    PyErr_Clear();
    while (header && header->major > EXCHANGE_MAJOR) header = header->previous;
    if (!header || header->major != EXCHANGE_MAJOR) return NULL;
    const Exchange *api = (const Exchange *)header;
    return api->tensor_from_object && api->current_stream ? api : NULL;
}

static PyObject *know_tensors(PyObject *module, PyObject *args) {
    PyObject *type, *dtypes, *stream;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!O!Oi", &PyType_Type, &type, &PyDict_Type, &dtypes, &stream, &tensor_device_type))
        return NULL;
    const Exchange *api = table_of(type);
    int i = 0;
    while (i < tensor_type_count && tensor_types[i].type != (PyTypeObject *)type) i++;
    if (i == MAX_TYPES) return PyErr_Format(PyExc_ValueError, "more than %d types of tensors", MAX_TYPES);
    if (i == tensor_type_count) {
        keep_type(&tensor_types[i].type, type);
        tensor_type_count++;
    }
    tensor_types[i].api = api;
    if (!i) {
        known.exchange = api;
        known.tensor = api || known.handle ? tensor_types[0].type : NULL;
    }
    keep_object(&tensor_dtypes, dtypes);
    keep_object(&tensor_stream, stream);
    return PyBool_FromLong(api != NULL);
}

static PyObject *know_arrays(PyObject *module, PyObject *args) {
    PyObject *test, *dtypes, *dtype;
    (void)module;
    if (!PyArg_ParseTuple(args, "OO!O", &test, &PyDict_Type, &dtypes, &dtype)) return NULL;
    keep_object(&is_array, test);
    keep_object(&array_dtypes, dtypes);
    keep_object(&array_dtype, dtype);
    Py_RETURN_NONE;
}

static PyObject *know_handles(PyObject *module, PyObject *args) {
    long long offset, key;
    int torch_type, dlpack_type;
    unsigned long long data, device_type, device, dtype, stream;
    const char *numbers;
    Py_ssize_t count;
    (void)module;
    if (!PyArg_ParseTuple(args, "(LL)(KKKKK)iiy#", &offset, &key, &data, &device_type, &device, &dtype, &stream, &torch_type,
                          &dlpack_type, &numbers, &count))
        return NULL;
    if (!tensor_type_count || offset < (long long)sizeof(PyObject) || count != sizeof handles.numbers || !data
        || !device_type || !device || !dtype || key < 0 || key > 248 || offset + 8 > tensor_types[0].type->tp_basicsize)
        return PyErr_Format(PyExc_ValueError, "handles whose numbers do not fit together");
    known.data = (handle_pointer)(uintptr_t)data;
    handles.device_type = (handle_number)(uintptr_t)device_type;
    handles.device = (handle_number)(uintptr_t)device;
    handles.dtype = (handle_number)(uintptr_t)dtype;
    known.stream = (handle_stream)(uintptr_t)stream;
    known.torch_type = torch_type;
    known.dlpack_type = dlpack_type;
    memcpy(handles.numbers, numbers, sizeof handles.numbers);
    known.key = (Py_ssize_t)key;
    known.handle = (Py_ssize_t)offset;
    known.tensor = tensor_types[0].type;
    Py_RETURN_NONE;
}

static PyObject *read_as_tuple(PyObject *module, PyObject *object) {
    Tensor t;
    (void)module;
    if (!read_tensor(NULL, object, &t)) Py_RETURN_NONE;
    return Py_BuildValue("(Kiii)", (unsigned long long)t.address, t.device_type, t.ordinal, t.dtype);
}

static PyMethodDef functions[] = {
    {"know", know, METH_VARARGS, "know(pointer, array, descriptor, stream_handle): trlaunch's own types."},
    {"know_launched", know_launched, METH_O, "know_launched(type): of kernels, which have their plans in a slot."},
    {"know_descriptor", know_descriptor, METH_O, "know_descriptor(type): Triton's TensorDescriptor."},
    {"know_tensors", know_tensors, METH_VARARGS,
     "know_tensors(type, dtypes, current_stream, device_type): torch's tensors. Whether they are read by the exchange table."},
    {"know_arrays", know_arrays, METH_VARARGS,
     "know_arrays(is_array, dtypes, dtype): what is read by __cuda_array_interface__, and the numbers of dtypes."},
    {"know_handles", know_handles, METH_VARARGS,
     "know_handles((offset, key), functions, torch_type, dlpack_type, numbers): torch's tensors by its C interface."},
    {"read", read_as_tuple, METH_O, "read(tensor): (address, DLPack device type, ordinal, dtype), or None."},
    {NULL, NULL, 0, NULL}};

static int fill(PyObject *module) {
#ifdef Py_GIL_DISABLED
    PyErr_SetString(PyExc_ImportError, "trlaunch._launcher relies on the GIL: free-threaded Python runs without it");
    return -1;
#endif
    static struct { PyObject **where; const char *text; } texts[] = {
        {&s_stream, "stream"}, {&s_device, "device"}, {&s_data_ptr, "data_ptr"}, {&s_get_device, "get_device"}, {&s_dtype, "dtype"},
        {&s_tensor, "tensor"}, {&s_base, "base"}, {&s_shape, "shape"}, {&s_strides, "strides"},
        {&s_block_shape, "block_shape"}, {&s_padding, "padding"}, {&s_tf32, "round_f32_to_tf32"}, {&s_zero, "zero"},
        {&s_nan, "nan"}, {&s_interface, "__cuda_array_interface__"}, {&s_data, "data"}, {&s_typestr, "typestr"}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!*texts[i].where && !(*texts[i].where = PyUnicode_InternFromString(texts[i].text))) return -1;
    static const struct { const char *name; int value; } numbers[] = {
        {"POINTER", POINTER}, {"INTEGER", INTEGER}, {"FP16", FP16}, {"BF16", BF16}, {"FP32", FP32}, {"FP64", FP64},
        {"UNTYPED4", UNTYPED4}, {"UNTYPED8", UNTYPED8}, {"TENSOR_MAP", TENSOR_MAP}, {"MAX_PARAMETERS", MAX_PARAMETERS},
        {"CONFIG_AND_BUFFER", CONFIG_AND_BUFFER}, {"CONFIG_AND_ADDRESSES", CONFIG_AND_ADDRESSES},
        {"NUMBERS_AND_ADDRESSES", NUMBERS_AND_ADDRESSES},
        {"COOPERATIVE_NUMBERS_AND_ADDRESSES", COOPERATIVE_NUMBERS_AND_ADDRESSES}, {"MAX_ADDRESSES", MAX_ADDRESSES},
        {"INTERFACE", 3}};  // what launching.py expects of this file: counted up together with its _INTERFACE
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (PyModule_AddIntConstant(module, numbers[i].name, numbers[i].value)) return -1;
    static PyTypeObject *const types[] = {&Plan_Type, &Launches_Type, &Method_Type, &Bound_Type};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (PyModule_AddType(module, types[i])) return -1;
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, fill},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "trlaunch._launcher", .m_doc = "Launches without the interpreter.",
    .m_size = 0, .m_methods = functions, .m_slots = module_slots};

PyMODINIT_FUNC PyInit__launcher(void) { return PyModuleDef_Init(&definition); }
