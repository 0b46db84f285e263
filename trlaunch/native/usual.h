/* The arguments that nearly all are, without a call for each. */
#ifndef TRLAUNCH_USUAL_H
#define TRLAUNCH_USUAL_H

#include "tensors.h"

/* Whether a torch tensor is on the plan's device and of a dtype that fits, by the functions of `handles`. */
static APART int ask_handle(const Plan *plan, Slot *s, void *handle, uint64_t key) {
    int32_t type = -1, device = -1, dtype = -1;
    int failed = handles.device_type(handle, &type) | handles.device(handle, &device) | handles.dtype(handle, &dtype);
    if (failed | (type != known.torch_type) | (plan->device_type != known.dlpack_type) | (device != plan->ordinal))
        return UNUSUAL;
    if ((uint32_t)dtype > 63 || handles.numbers[dtype] < 0 || !(s->dtypes >> handles.numbers[dtype] & 1)) return UNUSUAL;
    if (key == key_of(dtype, type, device)) s->usual = key;
    else known.key = 0; /* a tensor whose bytes say something else than its functions: they are asked from now on */
    return DONE;
}

/* Its address. */
static inline int read_handle(const Plan *plan, Slot *s, PyObject *value, uint64_t *address) {
    void *handle = (char *)value + known.handle, *data = NULL;
    const char *implementation = *(char **)handle;
    uint64_t key = 0;
    if (!implementation) return UNUSUAL;
    if (known.key) memcpy(&key, implementation + known.key, 8), key &= KEY_MASK;
    if ((!key || key != s->usual) && !ask_handle(plan, s, handle, key)) return UNUSUAL;
    if (known.data(handle, &data) || !data) return UNUSUAL;
    *address = (uint64_t)(uintptr_t)data;
    return DONE;
}

/* The same by the exchange table. */
static inline int read_usual(const Plan *plan, Slot *s, PyObject *value, const Exchange *api, uint64_t *address) {
    DLTensor view;
    if (api->tensor_from_object(value, &view)) return unusual();
    uint64_t dtype = view.code | (uint64_t)view.bits << 8 | (uint64_t)view.lanes << 16; /* less than any key_of */
    if (view.device_type != plan->device_type || view.device_id != plan->ordinal || !view.data) return UNUSUAL;
    if (dtype != s->usual) {
        int number = dtype_of(view.code, view.bits, view.lanes);
        if (number < 0 || !(s->dtypes >> number & 1)) return UNUSUAL;
        s->usual = dtype;
    }
    *address = (uint64_t)(uintptr_t)view.data + view.byte_offset;
    return DONE;
}

/*
 * Have what is read of torch's tensors come into the nearest cache, for all tensors at once: behind a launch it is no
 * longer there, and each would be waited for in turn. A TensorImpl takes three lines, of which the last has dtype and
 * device; the first points to the storage.
 */
static inline void fetch_tensors(PyObject *const *args, Py_ssize_t count, const PyTypeObject *tensor) {
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *value = args[i];
        if (Py_TYPE(value) != tensor) continue;
        const char *implementation = *(char **)((char *)value + known.handle);
        __builtin_prefetch(implementation);
        __builtin_prefetch(implementation + 64);
        __builtin_prefetch(implementation + 128);
    }
}

/* An int that fits into the 4 or 8 bytes of a slot. */
static APART int pack_integer(const Slot *s, unsigned char *data, int64_t number) {
    if (s->kind != INTEGER || (number < 0 ? number < s->low : (uint64_t)number > s->high)) return UNUSUAL;
    if ((uint64_t)number & s->below || (s->size != 4 && s->size != 8)) return UNUSUAL;
    memcpy(data + s->offset, &number, s->size);
    return DONE;
}

enum { LOCATED = 1, BY_TORCH = 2 }; /* what pack_usual saw: values on the plan's device, torch's tensors */

/*
 * The arguments that nearly all are, without a call for each: small ints, floats for fp32, and tensors and pointers that
 * are where and what they should be. Returns how many it took, one for each slot; what comes then is for `place`.
 */
static HOT APART Py_ssize_t pack_usual(const Plan *plan, unsigned char *data, int position, PyObject *const *args,
                                       Py_ssize_t count, int *seen) {
    Slot *s = plan->slots + position;
    const Exchange *api = known.exchange;
    PyTypeObject *const tensor = known.tensor;
    Py_ssize_t i = 0;
    if (count > plan->count - position) count = plan->count - position;
    if (known.handle) fetch_tensors(args, count, tensor);
    for (; i < count; i++, s++) {
        PyObject *value = args[i];
        PyTypeObject *type = Py_TYPE(value);
        if (type == &PyLong_Type) {
            int64_t number;
            if (!digit_of(value, &number)) break;
            if (s->kind == DIGIT) memcpy(data + s->offset, &number, 4);
            else if (!pack_integer(s, data, number)) break;
        } else if (s->kind == POINTER) {
            uint64_t address;
            if (type == tensor) {
                if (known.handle ? !read_handle(plan, s, value, &address) : !read_usual(plan, s, value, api, &address))
                    break;
                *seen |= LOCATED | BY_TORCH;
            } else if (type == known.pointer) {
                address = address_of(slot_of(value, known.pointer_offset));
                if (!address) break; /* or null, for others to look at */
            } else if (type == known.array) {
                Tensor t;
                if (!read_array(value, &t) || t.device_type != plan->device_type || t.ordinal != plan->ordinal) break;
                if (!(s->dtypes >> t.dtype & 1)) break;
                address = t.address;
                *seen |= LOCATED;
            } else {
                break;
            }
            if (address & s->below) break;
            memcpy(data + s->offset, &address, 8);
        } else if (type == &PyFloat_Type && s->kind == FP32) {
            double number = PyFloat_AS_DOUBLE(value);
            float single = (float)number;
            if (number != number) break; /* which NaN it becomes is for one place to decide */
            memcpy(data + s->offset, &single, 4);
        } else {
            break;
        }
    }
    return i;
}

#endif
