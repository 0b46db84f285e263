/* Where a launch happens, and the driver's own call. */
#ifndef TRLAUNCH_SUBMIT_H
#define TRLAUNCH_SUBMIT_H

#include "plan.h"

static APART void *entry_of(const Plan *plan, unsigned long long id) {
    for (int i = 0; i < plan->entry_count; i++)
        if (plan->entries[i].id == id) return plan->entries[i].function;
    return NULL;
}

/* Allocate the scratch of a launch and write its addresses; what `release` is given, or null with an error. */
static PyObject *grant_scratch(Plan *plan, unsigned char *data, const unsigned *ctas, uint64_t stream) {
    PyObject *granted = PyObject_CallFunction(plan->grant, "(III)K", ctas[0], ctas[1], ctas[2],
                                              (unsigned long long)stream);
    if (!granted) return NULL;
    for (Py_ssize_t i = 0; PyList_Check(granted) && i < PyList_GET_SIZE(granted); i++) {
        int offset;
        unsigned long long address;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(granted, i), "iK", &offset, &address)) goto error;
        if (offset < 0 || offset + 8 > plan->bytes) {
            PyErr_SetString(PyExc_ValueError, "scratch outside of the parameters");
            goto error;
        }
        memcpy(data + offset, &address, 8);
    }
    return granted;
error:
    Py_DECREF(granted);
    return NULL;
}

/* Give it back, whether the launch has failed or not; an error of its own takes the place of the launch's. */
static int release_scratch(Plan *plan, PyObject *granted, uint64_t stream) {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *answer = PyObject_CallFunction(plan->release, "OK", granted, (unsigned long long)stream);
    Py_DECREF(granted);
    if (!answer) {
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(traceback);
        return 0;
    }
    Py_DECREF(answer);
    PyErr_Restore(type, value, traceback);
    return 1;
}

/* CTAs along each axis; 0 where a launch of so many is not plainly right. */
static inline int count_ctas(const Plan *plan, const unsigned *programs, unsigned *ctas) {
    for (int i = 0; i < 3; i++) {
        uint64_t count = (uint64_t)programs[i] * plan->cluster[i];
        if (count > plan->limit[i]) return 0;
        ctas[i] = (unsigned)count;
    }
    return 1;
}

/*
 * What identifies where the thread is, 0 for nowhere: the current context's identity, or a device's ordinal and one. The
 * status.
 */
static inline int identify(const Plan *plan, unsigned long long *id) {
    int status, ordinal = -1;
    *id = 0;
    if (plan->by_ordinal) {
        status = plan->current_device(&ordinal);
        *id = (unsigned long long)(ordinal + 1);
    } else {
        status = plan->identify(NULL, id);
        if (status == plan->no_context) status = 0, *id = 0;
    }
    return status;
}

/* Have the plan's context or device be the thread's current one; a status. */
static int enter(const Plan *plan) {
    return plan->by_ordinal ? plan->set_device(plan->ordinal) : plan->push(plan->primary);
}

/* Have that be current again which was before; the status, 0 where nothing was done. */
static int leave(const Plan *plan, int entered, unsigned long long before) {
    void *popped;
    if (!entered) return 0;
    return plan->by_ordinal ? plan->set_device((int)before - 1) : plan->pop(&popped);
}

/* torch's current stream on the plan's device. */
static inline int torch_stream(const Plan *plan, const Exchange *api, uint64_t *stream) {
    void *current = NULL;
    int failed;
    if (known.stream && plan->device_type == known.dlpack_type) {
        failed = known.stream(plan->ordinal, &current);
    } else if (api) {
        failed = api->current_stream(plan->device_type, plan->ordinal, &current);
    } else {
        PyObject *ordinal = PyLong_FromLong(plan->ordinal);
        PyObject *number = ordinal && tensor_stream ? PyObject_CallOneArg(tensor_stream, ordinal) : NULL;
        Py_XDECREF(ordinal);
        *stream = number ? PyLong_AsUnsignedLongLong(number) : 0;
        Py_XDECREF(number);
        return number && !PyErr_Occurred();
    }
    *stream = (uint64_t)(uintptr_t)current;
    return !failed;
}

/* A launch with an address for each parameter; out of the way of those that need none. */
static APART int submit_addresses(const Plan *plan, void *function, const unsigned *ctas,
                                                      uint64_t stream, unsigned char *data) {
    void *addresses[MAX_ADDRESSES + 1], *at = (void *)(uintptr_t)stream;
    const unsigned *block = plan->block;
    _Alignas(16) unsigned char config[CONFIG_BYTES];
    int status = 0;
    for (int i = 0; i < plan->offset_count; i++) addresses[i] = data + plan->offsets[i];
    addresses[plan->offset_count] = NULL;
    memcpy(config, plan->config, CONFIG_BYTES);
    memcpy(config + plan->grid_offset, ctas, 3 * sizeof *ctas);
    memcpy(config + plan->stream_offset, &stream, 8);
    Py_BEGIN_ALLOW_THREADS
    switch (plan->convention) {
    case CONFIG_AND_ADDRESSES:
        status = plan->launch(config, function, addresses, NULL);
        break;
    case NUMBERS_AND_ADDRESSES:
        status = plan->launch_numbers(function, ctas[0], ctas[1], ctas[2], block[0], block[1], block[2], plan->shared, at,
                                      addresses, NULL);
        break;
    default:
        status = plan->launch_cooperative(function, ctas[0], ctas[1], ctas[2], block[0], block[1], block[2],
                                          plan->shared, at, addresses);
    }
    Py_END_ALLOW_THREADS
    return status;
}

/* The driver's launch, in the plan's convention; its status. The GIL is given up: the call waits when its queue is full. */
static inline int submit(const Plan *plan, void *function, const unsigned *ctas, uint64_t stream, unsigned char *data) {
    int status;
    if (plan->convention == CONFIG_AND_BUFFER) {
        _Alignas(16) unsigned char config[CONFIG_BYTES];
        memcpy(config, plan->config, CONFIG_BYTES);
        memcpy(config + plan->grid_offset, ctas, 3 * sizeof *ctas);
        memcpy(config + plan->stream_offset, &stream, 8);
        size_t bytes = (size_t)plan->bytes;
        /* CU_LAUNCH_PARAM_BUFFER_POINTER, _SIZE, _END (cuda.h) */
        void *extra[] = {(void *)1, data, (void *)2, &bytes, NULL};
        launch_function launch = plan->launch;
        Py_BEGIN_ALLOW_THREADS
        status = launch(config, function, NULL, bytes ? extra : NULL);
        Py_END_ALLOW_THREADS
        return status;
    }
    return submit_addresses(plan, function, ctas, stream, data);
}

#endif
