/* What the module was told of the types that launches meet. */
#ifndef TRLAUNCH_KNOWN_H
#define TRLAUNCH_KNOWN_H

#include "dlpack.h"

/* References here are strong and last as long as the process: the module cannot be unloaded. */

/*
 * A tensor of torch is read by functions of torch's stable C interface (torch/csrc/inductor/aoti_torch/c/shim.h), which
 * take the at::Tensor inside of the Python object (torch/csrc/autograd/python_variable.h). The exchange table does the
 * same behind pybind11's casts, which takes ten times as long.
 */
typedef int32_t (*handle_pointer)(void *tensor, void **out);
typedef int32_t (*handle_number)(void *tensor, int32_t *out);
typedef int32_t (*handle_stream)(int32_t device, void **out);

/* What nearly every launch reads. */
static _Alignas(64) struct {
    PyTypeObject *tensor;      /* tensor_types[0].type, once it can be read by its table or by the functions */
    const Exchange *exchange;  /* its table, or null */
    Py_ssize_t handle;         /* offset of the at::Tensor, a pointer to the TensorImpl; 0: the functions are not known */
    Py_ssize_t key;            /* offset of the bytes in a TensorImpl that say dtype and device, see key_of; 0: not known */
    handle_pointer data;
    handle_stream stream;      /* may be null */
    PyTypeObject *pointer, *array;
    Py_ssize_t pointer_offset, array_offset; /* of the slots `address` and `_native` */
    PyTypeObject *launched, *last_launched;  /* has its plans in a slot; the last type that was found to be one */
    Py_ssize_t launched_offset;
    int32_t torch_type, dlpack_type; /* GPU, as the functions and as DLPack name it */
} known;

static struct {
    handle_number device_type, device, dtype;
    int8_t numbers[64]; /* torch's ScalarType -> number of dtype_of, or -1 */
} handles;

/*
 * What the bytes at known.key hold where they are what they are taken for: a ScalarType (16 bits), a device type, a device
 * index, and that there is a device. A tensor with the bytes of one that the functions said to fit, fits.
 */
static const uint64_t KEY_MASK = (UINT64_C(1) << 40) - 1;
static uint64_t key_of(int32_t dtype, int32_t device_type, int32_t device) {
    return (uint16_t)dtype | (uint64_t)(uint8_t)device_type << 16 | (uint64_t)(uint8_t)device << 24 | UINT64_C(1) << 32;
}

static struct { PyTypeObject *type; const Exchange *api; } tensor_types[MAX_TYPES];
static int tensor_type_count;
static PyObject *tensor_dtypes;  /* dict: torch dtype -> number of dtype_of */
static PyObject *tensor_stream;  /* torch's function: device ordinal -> handle */
static int tensor_device_type;   /* of the devices that torch calls cuda, as DLPack has it */
/* Types of arrays that are read by __cuda_array_interface__, and what tells of the next ones (trlaunch.launch_slots). */
static PyTypeObject *array_types[MAX_ARRAY_TYPES];
static int array_type_count;
static PyObject *is_array, *array_dtypes, *array_dtype; /* of a value; dict: dtype -> number; of a dtype not in it */

static PyTypeObject *descriptor_type, *foreign_descriptor_type; /* trlaunch's and Triton's */
static PyObject *stream_handle;  /* trlaunch.streams.handle */

static PyObject *s_stream, *s_device, *s_data_ptr, *s_get_device, *s_dtype,
    *s_tensor, *s_base, *s_shape, *s_strides, *s_block_shape, *s_padding, *s_tf32, *s_zero, *s_nan,
    *s_interface, *s_data, *s_typestr;

static void keep_type(PyTypeObject **where, PyObject *type) {
    PyTypeObject *old = *where;
    *where = type == Py_None ? NULL : (PyTypeObject *)Py_NewRef(type);
    Py_XDECREF(old);
}

static void keep_object(PyObject **where, PyObject *object) {
    PyObject *old = *where;
    *where = object == Py_None ? NULL : Py_NewRef(object);
    Py_XDECREF(old);
}

#endif
