/* Values of any kind into the parameter buffer. */
#ifndef TRLAUNCH_PACKING_H
#define TRLAUNCH_PACKING_H

#include "tensors.h"

typedef struct {
    Plan *plan;
    unsigned char *data;
    int position;
    int choosing; /* the first tensor decides on the device */
    int located, wanted, is_torch;
    const Exchange *api;
    uint64_t asked; /* stream on which the launch must be, 0: any */
} Packing;

static int accept_place(Packing *p, const Tensor *t) {
    if (t->device_type != p->plan->device_type) return UNUSUAL;
    if (t->ordinal != p->plan->ordinal) {
        if (!p->choosing || p->located) return UNUSUAL;
        p->wanted = t->ordinal;
        return ELSEWHERE;
    }
    if (t->asked) {
        if (p->asked && p->asked != t->asked) return UNUSUAL;
        p->asked = t->asked;
    }
    p->located = 1;
    if (t->is_torch) {
        p->is_torch = 1;
        p->api = t->api;
    }
    return DONE;
}

static int place_address(Packing *p, const Slot *s, uint64_t address) {
    if (address & s->below) return UNUSUAL;
    memcpy(p->data + s->offset, &address, 8);
    p->position++;
    return DONE;
}

static inline int place_pointer(Packing *p, const Slot *s, PyObject *value) {
    if (Py_TYPE(value) == known.pointer) {
        PyObject *number = slot_of(value, known.pointer_offset);
        if (!number) return UNUSUAL;
        uint64_t address = PyLong_AsUnsignedLongLong(number);
        return address == UINT64_MAX && PyErr_Occurred() ? unusual() : place_address(p, s, address);
    }
    Tensor t;
    if (!read_tensor(p->plan, value, &t)) return UNUSUAL;
    int found = accept_place(p, &t);
    if (found != DONE) return found;
    uint64_t dtypes = s->kind == POINTER ? s->dtypes : p->plan->more[p->position].dtypes;
    return dtypes >> t.dtype & 1 ? place_address(p, s, t.address) : UNUSUAL;
}

static inline int place_number(Packing *p, const Slot *s, uint64_t number) {
    if (number & s->below) return UNUSUAL;
    unsigned char *to = p->data + s->offset;
    switch (s->size) {
    case 4: memcpy(to, &number, 4); break;
    case 8: memcpy(to, &number, 8); break;
    default: memcpy(to, &number, s->size);
    }
    p->position++;
    return DONE;
}

static int place_large(Packing *p, const Slot *s, PyObject *value) {
    int overflow = 0;
    if (!PyLong_Check(value)) return UNUSUAL;
    int64_t number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow < 0) return UNUSUAL;
    if (overflow) {
        uint64_t large = PyLong_AsUnsignedLongLong(value);
        if (PyErr_Occurred()) return unusual();
        return large > s->high ? UNUSUAL : place_number(p, s, large);
    }
    return (number < 0 ? number < s->low : (uint64_t)number > s->high) ? UNUSUAL : place_number(p, s, (uint64_t)number);
}

static inline int place_integer(Packing *p, const Slot *s, PyObject *value) {
    int64_t number;
    if (!small(value, &number)) return place_large(p, s, value);
    return (number < 0 ? number < s->low : (uint64_t)number > s->high) ? UNUSUAL : place_number(p, s, (uint64_t)number);
}

/* Once to nearest even: fp32 made sticky on the way, as trlaunch.scalars.bfloat16_bits does. */
static uint16_t bfloat16(double value) {
    float single = (float)value;
    uint32_t bits;
    memcpy(&bits, &single, 4);
    if ((double)single != value && (bits & 0x7F800000) != 0x7F800000) {
        float magnitude = single < 0 ? -single : single;
        if ((double)magnitude > (value < 0 ? -value : value)) bits--;
        bits |= 1;
    }
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static int place_float(Packing *p, const Slot *s, int kind, PyObject *value) {
    double number;
    if (PyFloat_Check(value)) {
        number = PyFloat_AS_DOUBLE(value);
    } else if (PyLong_Check(value)) {
        number = PyLong_AsDouble(value);
        if (PyErr_Occurred()) return unusual();
    } else {
        return UNUSUAL;
    }
    if (number != number) return UNUSUAL; /* which NaN it becomes is for one place to decide */
    unsigned char *to = p->data + s->offset;
    if (kind == FP32) {
        float single = (float)number;
        memcpy(to, &single, 4);
    } else if (kind == FP64) {
        memcpy(to, &number, 8);
    } else if (kind == BF16) {
        uint16_t bits = bfloat16(number);
        memcpy(to, &bits, 2);
    } else if (number >= 65520 || number <= -65520) { /* halfway to where the next power of two would be */
        uint16_t bits = number > 0 ? 0x7C00 : 0xFC00;
        memcpy(to, &bits, 2);
    } else {
#if PY_VERSION_HEX >= 0x030B0000
        if (PyFloat_Pack2(number, (char *)to, 1)) return unusual();
#else
        if (_PyFloat_Pack2(number, to, 1)) return unusual();
#endif
    }
    p->position++;
    return DONE;
}

#endif
