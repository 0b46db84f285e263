/* What a launch needs to know of a tensor. */
#ifndef TRLAUNCH_TENSORS_H
#define TRLAUNCH_TENSORS_H

#include "plan.h"

typedef struct {
    uint64_t address;
    int device_type, ordinal, dtype;
    const int64_t *shape, *strides; /* null: not known here; valid while the object is */
    int rank;
    int is_torch;
    const Exchange *api;
    uint64_t asked; /* stream that its exporter wants to be waited for, 0 for none; the default one is 1 there */
    int64_t axes[2][MAX_RANK]; /* where shape and strides may point to */
} Tensor;

static int unusual(void) {
    PyErr_Clear();
    return UNUSUAL;
}

/* The value of an int of one digit, which nearly every one is; 0 for another. */
static inline int digit_of(PyObject *object, int64_t *out) {
#if PY_VERSION_HEX >= 0x030C0000
    if (!PyUnstable_Long_IsCompact((PyLongObject *)object)) return 0;
    *out = PyUnstable_Long_CompactValue((PyLongObject *)object);
#else
    Py_ssize_t size = Py_SIZE(object);
    if (size < -1 || size > 1) return 0;
    *out = size * (int64_t)((PyLongObject *)object)->ob_digit[0]; /* 0 has no digit that counts */
#endif
    return 1;
}

/* The same of any object. */
static inline int small(PyObject *object, int64_t *out) { return PyLong_CheckExact(object) && digit_of(object, out); }

static inline PyObject *slot_of(PyObject *object, Py_ssize_t offset) { return *(PyObject **)((char *)object + offset); }

/* An address in an int; 0 for what is none, and for null. */
static inline uint64_t address_of(PyObject *number) {
    if (!number || !PyLong_CheckExact(number)) return 0;
#if PYLONG_BITS_IN_DIGIT == 30 && PY_VERSION_HEX < 0x030E0000 /* an address has two digits */
    const digit *digits;
#if PY_VERSION_HEX >= 0x030C0000
    digits = ((PyLongObject *)number)->long_value.ob_digit;
    if (((PyLongObject *)number)->long_value.lv_tag == 2 << 3) /* positive */
#else
    digits = ((PyLongObject *)number)->ob_digit;
    if (Py_SIZE(number) == 2)
#endif
        return (uint64_t)digits[0] | (uint64_t)digits[1] << 30;
#endif
    uint64_t address = PyLong_AsUnsignedLongLong(number);
    if (address == UINT64_MAX && PyErr_Occurred()) {
        PyErr_Clear();
        return 0;
    }
    return address;
}

/* trlaunch's array: its `_native` is (address, DLPack device type, ordinal, dtype). */
static inline int read_array(PyObject *object, Tensor *out) {
    PyObject *native = slot_of(object, known.array_offset);
    int64_t kind, ordinal, dtype;
    if (!native || !PyTuple_CheckExact(native) || PyTuple_GET_SIZE(native) != 4) return UNUSUAL;
    if (!small(PyTuple_GET_ITEM(native, 1), &kind) || !small(PyTuple_GET_ITEM(native, 2), &ordinal)) return UNUSUAL;
    if (!small(PyTuple_GET_ITEM(native, 3), &dtype) || dtype < 0 || dtype > 63) return UNUSUAL;
    out->address = address_of(PyTuple_GET_ITEM(native, 0));
    out->device_type = (int)kind;
    out->ordinal = (int)ordinal;
    out->dtype = (int)dtype;
    return out->address ? DONE : UNUSUAL;
}

/* torch's tensor by its Python methods, where the type has no exchange table. */
static int read_by_methods(PyObject *object, Tensor *out) {
    PyObject *number = PyObject_CallMethodNoArgs(object, s_data_ptr);
    if (!number) return unusual();
    out->address = PyLong_AsUnsignedLongLong(number);
    Py_DECREF(number);
    if (PyErr_Occurred() || !(number = PyObject_CallMethodNoArgs(object, s_get_device))) return unusual();
    long ordinal = PyLong_AsLong(number);
    Py_DECREF(number);
    if (PyErr_Occurred() || ordinal < 0) return unusual();
    PyObject *dtype = PyObject_GetAttr(object, s_dtype);
    if (!dtype) return unusual();
    PyObject *found = tensor_dtypes ? PyDict_GetItemWithError(tensor_dtypes, dtype) : NULL; /* borrowed */
    Py_DECREF(dtype);
    if (!found) return unusual();
    out->dtype = (int)PyLong_AsLong(found);
    out->ordinal = (int)ordinal;
    out->device_type = tensor_device_type;
    return DONE;
}

static int is_interface_array(PyObject *object) {
    for (int i = 0; i < array_type_count; i++) if (array_types[i] == Py_TYPE(object)) return 1;
    PyObject *answer = is_array ? PyObject_CallOneArg(is_array, object) : NULL;
    if (!answer) return unusual();
    int found = answer == Py_True;
    Py_DECREF(answer);
    if (found && array_type_count < MAX_ARRAY_TYPES)
        array_types[array_type_count++] = (PyTypeObject *)Py_NewRef((PyObject *)Py_TYPE(object));
    return found;
}

/* The number of an array's dtype, or of its typestr where it has no dtype; -1: none. */
static int dtype_of_array(PyObject *object, PyObject *typestr) {
    PyObject *dtype = PyObject_GetAttr(object, s_dtype);
    if (!dtype) {
        PyErr_Clear();
        dtype = Py_NewRef(typestr);
    }
    PyObject *found = Py_XNewRef(PyDict_GetItemWithError(array_dtypes, dtype));
    if (!found && !PyErr_Occurred()) found = PyObject_CallOneArg(array_dtype, dtype);
    Py_DECREF(dtype);
    long number = found ? PyLong_AsLong(found) : -1;
    Py_XDECREF(found);
    PyErr_Clear();
    return number >= 0 && number < 64 ? (int)number : -1;
}

/* Bytes of an item by a typestr such as "<f4"; 0: it is none. */
static int64_t item_size(PyObject *typestr) {
    Py_ssize_t length;
    const char *text = PyUnicode_CheckExact(typestr) ? PyUnicode_AsUTF8AndSize(typestr, &length) : NULL;
    if (!text || length < 3 || length > 6) return unusual();
    int64_t size = 0;
    for (text += 2; *text >= '0' && *text <= '9'; text++) size = size * 10 + *text - '0';
    return *text ? 0 : size;
}

/* Version 2 and 3 of the CUDA array interface (Numba's documentation), as trlaunch.tensors.view reads it. */
static int read_interface(PyObject *object, PyObject *interface, Tensor *out) {
    PyObject *data = PyDict_GetItemWithError(interface, s_data), *typestr = PyDict_GetItemWithError(interface, s_typestr),
             *shape = PyDict_GetItemWithError(interface, s_shape), *strides = PyDict_GetItemWithError(interface, s_strides),
             *stream = PyDict_GetItemWithError(interface, s_stream); /* borrowed */
    if (!data || !PyTuple_CheckExact(data) || PyTuple_GET_SIZE(data) != 2 || !typestr || !shape) return unusual();
    if (!PyTuple_CheckExact(shape)) return UNUSUAL;
    int64_t size = item_size(typestr), number;
    Py_ssize_t rank = PyTuple_GET_SIZE(shape);
    if (!size || !(out->address = address_of(PyTuple_GET_ITEM(data, 0)))) return UNUSUAL;
    if (strides == Py_None) strides = NULL;
    if (strides && (!PyTuple_CheckExact(strides) || PyTuple_GET_SIZE(strides) != rank)) return UNUSUAL;
    for (Py_ssize_t i = 0; i < rank; i++) {
        for (int what = 0; what < 1 + !!strides; what++) {
            PyObject *item = PyTuple_GET_ITEM(what ? strides : shape, i);
            if (!small(item, &number)) {
                number = PyLong_CheckExact(item) ? PyLong_AsLongLong(item) : -1;
                if (number == -1 && PyErr_Occurred()) return unusual();
            }
            if (what ? number % size : number < 1) return UNUSUAL;
            if (i < MAX_RANK) out->axes[what][i] = what ? number / size : number;
        }
    }
    if (rank <= MAX_RANK) {
        out->rank = (int)rank;
        out->shape = out->axes[0];
        out->strides = strides ? out->axes[1] : NULL;
    }
    if (stream && stream != Py_None) {
        if (!PyLong_CheckExact(stream)) return UNUSUAL;
        uint64_t handle = PyLong_AsUnsignedLongLong(stream);
        if (PyErr_Occurred()) return unusual();
        out->asked = handle ? handle : 1;
    }
    out->dtype = dtype_of_array(object, typestr);
    return out->dtype >= 0;
}

static int read_foreign(const Plan *plan, PyObject *object, Tensor *out) {
    if (!plan || !plan->owner || !is_interface_array(object)) return UNUSUAL;
    PyObject *interface = PyObject_GetAttr(object, s_interface);
    if (!interface) return unusual();
    int found = PyDict_CheckExact(interface) && read_interface(object, interface, out);
    Py_DECREF(interface);
    if (!found) return UNUSUAL;
    unsigned kind = 0;
    int ordinal = -1;
    static const int attributes[] = {MEMORY_TYPE, DEVICE_ORDINAL};
    void *values[] = {&kind, &ordinal};
    int status = plan->owner(2, attributes, values, out->address);
    if (status) forget(plan, status);
    if (status || !kind || ordinal < 0) return UNUSUAL;
    out->device_type = plan->device_type;
    out->ordinal = ordinal;
    out->is_torch = 0;
    out->api = NULL;
    return DONE;
}

/* What a launch needs of a tensor; `plan` may be null for those that say themselves on which device they are. */
static inline int read_tensor(const Plan *plan, PyObject *object, Tensor *out) {
    PyTypeObject *type = Py_TYPE(object);
    out->shape = out->strides = NULL;
    out->asked = 0;
    for (int i = 0; i < tensor_type_count; i++) {
        if (tensor_types[i].type != type) continue;
        out->is_torch = 1;
        out->api = tensor_types[i].api;
        if (!out->api) return read_by_methods(object, out) && out->address ? DONE : UNUSUAL;
        DLTensor view;
        if (out->api->tensor_from_object(object, &view)) return unusual();
        out->address = (uint64_t)(uintptr_t)view.data + view.byte_offset;
        out->device_type = view.device_type;
        out->ordinal = view.device_id;
        out->dtype = dtype_of(view.code, view.bits, view.lanes);
        out->shape = view.shape;
        out->strides = view.strides;
        out->rank = view.ndim;
        return view.data && out->dtype >= 0 ? DONE : UNUSUAL;
    }
    if (type == known.array) {
        out->is_torch = 0;
        out->api = NULL;
        return read_array(object, out);
    }
    return read_foreign(plan, object, out);
}

#endif
