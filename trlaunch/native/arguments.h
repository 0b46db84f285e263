/* All arguments of a call into the parameter buffer. */
#ifndef TRLAUNCH_ARGUMENTS_H
#define TRLAUNCH_ARGUMENTS_H

#include "descriptors.h"
#include "plans.h"
#include "usual.h"

static int place(Packing *p, PyObject *value, int depth) {
    PyTypeObject *type = Py_TYPE(value);
    if (PyTuple_Check(value) || PyList_Check(value)) {
        if (depth >= MAX_DEPTH) return UNUSUAL;
        for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(value); i++) {
            PyObject *item = Py_NewRef(PySequence_Fast_GET_ITEM(value, i));
            int found = place(p, item, depth + 1);
            Py_DECREF(item);
            if (found != DONE) return found;
        }
        return DONE;
    }
    if (p->position >= p->plan->count) return UNUSUAL;
    const Slot *s = &p->plan->slots[p->position];
    if (type == descriptor_type || type == foreign_descriptor_type)
        return place_descriptor(p, &p->plan->more[p->position], value);
    switch (s->kind) {
    case POINTER: return place_pointer(p, s, value);
    case INTEGER: case DIGIT: return place_integer(p, s, value);
    case FP16: case BF16: case FP32: case FP64: return place_float(p, s, s->kind, value);
    case UNTYPED4: return PyFloat_Check(value) ? place_float(p, s, FP32, value) : place_integer(p, s, value);
    case UNTYPED8: return PyLong_Check(value) ? place_integer(p, s, value) : place_pointer(p, s, value);
    default: return UNUSUAL;
    }
}

static int same_name(PyObject *a, PyObject *b) {
    return a == b || (PyUnicode_CheckExact(b) && !PyUnicode_Compare(a, b));
}

typedef struct {
    unsigned programs[3];
    int has_stream;
    uint64_t stream;
    PyObject *device;
    PyObject *const *args;
    Py_ssize_t count;
    PyObject *const *named;
    PyObject *names; /* tuple or null; stream and device are among them */
} Call;

static int is_setting(PyObject *name) { return same_name(s_stream, name) || same_name(s_device, name); }

static int pack_named(Packing *p, const Call *call, int settings) {
    Py_ssize_t left = PyTuple_GET_SIZE(call->names) - settings;
    while (p->position < p->plan->count) {
        PyObject *wanted = p->plan->more[p->position].name;
        Py_ssize_t i = 0, count = PyTuple_GET_SIZE(call->names);
        if (wanted == Py_None) return UNUSUAL;
        while (i < count && !same_name(wanted, PyTuple_GET_ITEM(call->names, i))) i++;
        if (i == count || (settings && is_setting(wanted))) return UNUSUAL;
        PyObject *value = call->named[i];
        if (PyTuple_Check(value) || PyList_Check(value)) return UNUSUAL;
        int found = place(p, value, 0);
        if (found != DONE) return found;
        left--;
    }
    return left == 0;
}

static int pack(Packing *p, const Call *call) {
    int settings = 0, seen = 0;
    for (Py_ssize_t i = 0; i < call->count; i++) {
        Py_ssize_t taken = pack_usual(p->plan, p->data, p->position, call->args + i, call->count - i, &seen);
        p->position += (int)taken;
        if (seen & LOCATED) p->located = 1;
        if (seen & BY_TORCH) p->is_torch = 1, p->api = known.exchange;
        if ((i += taken) == call->count) break;
        int found = place(p, call->args[i], 0);
        if (found != DONE) return found;
    }
    if (call->names) {
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(call->names); i++)
            settings += is_setting(PyTuple_GET_ITEM(call->names, i));
        return pack_named(p, call, settings);
    }
    return p->position == p->plan->count;
}

#endif
