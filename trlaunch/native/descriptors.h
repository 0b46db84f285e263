/* Tensor descriptors: their maps, kept or encoded by the driver. */
#ifndef TRLAUNCH_DESCRIPTORS_H
#define TRLAUNCH_DESCRIPTORS_H

#include "packing.h"

/* Ints of a list or tuple; 0 when it is something else. */
static int read_numbers(PyObject *owner, PyObject *name, int64_t *out, int *rank, const int64_t *otherwise) {
    PyObject *value = PyObject_GetAttr(owner, name);
    if (!value) return unusual();
    int fits = 1;
    if (value == Py_None && otherwise) {
        memcpy(out, otherwise, sizeof *out * *rank);
    } else if ((PyList_CheckExact(value) || PyTuple_Check(value)) && PySequence_Fast_GET_SIZE(value) <= MAX_RANK
               && (*rank < 0 || PySequence_Fast_GET_SIZE(value) == *rank)) {
        *rank = (int)PySequence_Fast_GET_SIZE(value);
        for (int i = 0; i < *rank && fits; i++) {
            PyObject *item = PySequence_Fast_GET_ITEM(value, i);
            if (small(item, &out[i])) continue;
            fits = PyLong_CheckExact(item);
            if (fits) out[i] = PyLong_AsLongLong(item);
        }
        if (PyErr_Occurred()) fits = unusual();
    } else {
        fits = 0;
    }
    Py_DECREF(value);
    return fits;
}

static int read_flags(PyObject *object, MapKey *key, int optional) {
    PyObject *padding = PyObject_GetAttr(object, s_padding);
    if (!padding) {
        if (!optional) return unusual();
        PyErr_Clear();
    } else {
        int fits = padding == s_zero || (PyUnicode_CheckExact(padding) && !PyUnicode_Compare(padding, s_zero));
        if (!fits) {
            key->nan = fits = PyUnicode_CheckExact(padding) && !PyUnicode_Compare(padding, s_nan);
        }
        Py_DECREF(padding);
        if (!fits) return UNUSUAL;
    }
    PyObject *tf32 = PyObject_GetAttr(object, s_tf32);
    if (!tf32) {
        if (!optional) return unusual();
        PyErr_Clear();
        return DONE;
    }
    int plain = tf32 == Py_True || tf32 == Py_False;
    key->tf32 = tf32 == Py_True;
    Py_DECREF(tf32);
    return plain;
}

static Map *next_map(More *more) {
    if (!more->maps) more->maps = PyMem_Calloc(MAPS, sizeof(Map));
    if (!more->maps) return NULL;
    Map *map = &more->maps[more->next_map];
    more->next_map = (more->next_map + 1) % MAPS;
    map->used = 0;
    return map;
}

/* Python checks and encodes it, once for these numbers: (slots, first byte, bytes), or None when it is unusual. */
static Map *encode_in_python(Packing *p, More *more, PyObject *descriptor, const MapKey *key) {
    PyObject *made = PyObject_CallFunction(p->plan->encode, "iO", p->position, descriptor);
    if (!made) {
        PyErr_Clear();
        return NULL;
    }
    Map *map = NULL;
    int taken, start;
    Py_buffer bytes;
    if (made != Py_None && PyArg_ParseTuple(made, "iiy*", &taken, &start, &bytes)) {
        int fits = bytes.len <= MAP_BYTES && start >= 0 && start + bytes.len <= p->plan->bytes && taken > 0
            && p->position + taken <= p->plan->count;
        if (fits && (map = next_map(more))) {
            map->key = *key;
            map->used = 1, map->taken = taken, map->start = start, map->size = (int)bytes.len;
            memcpy(map->bytes, bytes.buf, bytes.len);
        }
        PyBuffer_Release(&bytes);
    }
    Py_DECREF(made);
    PyErr_Clear();
    return map;
}

/* What is plainly right, by the rules of trlaunch.tensor_descriptor, is encoded by the driver at once; null otherwise. */
static Map *encode_map(Packing *p, More *more, const MapKey *key) {
    const Encoding *e = &more->encoding;
    int rank = key->rank;
    if (rank != e->rank || !(e->dtypes >> key->dtype & 1) || key->address % 16 || key->strides[rank - 1] != 1) return NULL;
    if (key->tf32 && key->dtype != FP32_NUMBER) return NULL;
    uint64_t shape[MAX_RANK], strides[MAX_RANK] = {0}, span = 1;
    uint32_t steps[MAX_RANK];
    for (int i = 0; i < rank; i++) {
        int axis = rank - 1 - i; /* the driver counts from the innermost */
        int64_t size = key->shape[axis], step = key->strides[axis];
        if (size < 1 || size >= 1LL << 32 || key->block[axis] < 1 || key->block[axis] >= 1LL << 32) return NULL;
        if (step < 0 || step >= (1LL << 40) / e->element_size || (i && step * e->element_size % 16)) return NULL;
        shape[i] = (uint64_t)size;
        if (i) strides[i - 1] = (uint64_t)(step * e->element_size);
        steps[i] = 1;
        if (__builtin_add_overflow(span, (uint64_t)(size - 1) * (uint64_t)step, &span)) span = UINT64_MAX / 16;
    }
    if (e->fp4) shape[0] *= 2;
    Map *map = next_map(more);
    if (!map) return NULL;
    _Alignas(64) uint64_t words[MAP_SIZE / 8];
    if (p->plan->encode_tiled(words, key->tf32 ? TFLOAT32 : e->element_type, (uint32_t)rank,
                              (void *)(uintptr_t)key->address, shape, strides, e->box, steps, NO_INTERLEAVE, e->swizzle,
                              PROMOTE_L2_128B, key->nan ? FILL_NAN : FILL_ZERO))
        return NULL;
    if (e->clear_bit && span * (uint64_t)e->element_size < 128 * 1024) words[1] &= ~(1ULL << 21);
    const Slot *s = &p->plan->slots[p->position];
    const Slot *last = s + e->taken - 1;
    map->key = *key;
    map->taken = e->taken, map->start = s->offset, map->size = last->offset + last->size - s->offset;
    if (map->size > MAP_BYTES) return NULL;
    memset(map->bytes, 0, sizeof map->bytes);
    memcpy(map->bytes, words, MAP_SIZE);
    for (int axis = 0; axis < rank; axis++) {
        int64_t size = key->shape[axis] << (e->fp4 == 2 && axis == rank - 1);
        memcpy(map->bytes + s[1 + axis].offset - s->offset, &size, 4);
        memcpy(map->bytes + s[1 + rank + axis].offset - s->offset, &key->strides[axis], 8);
    }
    map->used = 1;
    return map;
}

/* Shape and strides of the tensor itself, in elements; the rank, or -1 when they are not known here. */
static int own_layout(PyObject *base, const Tensor *t, int64_t *shape, int64_t *strides) {
    if (t->shape && t->rank >= 0 && t->rank <= MAX_RANK) {
        memcpy(shape, t->shape, sizeof *shape * t->rank);
        if (t->strides) {
            memcpy(strides, t->strides, sizeof *strides * t->rank);
            return t->rank;
        }
    } else if (Py_TYPE(base) != known.array) {
        return -1;
    }
    int rank = t->shape ? t->rank : -1;
    if (!t->shape && !read_numbers(base, s_shape, shape, &rank, NULL)) return -1;
    int64_t step = 1; /* C-contiguous, as DLPack means without strides, and as trlaunch's arrays are */
    for (int axis = rank - 1; axis >= 0; axis--) {
        strides[axis] = step;
        if (shape[axis] > 1 && __builtin_mul_overflow(step, shape[axis], &step)) return -1;
    }
    return rank;
}

/* Numbers that a descriptor states, or where it has None those of its tensor, of which there must be as many. */
static int read_layout(PyObject *value, PyObject *name, int64_t *out, int rank, const int64_t *own, int own_rank) {
    int found = rank;
    return read_numbers(value, name, out, &found, own_rank == rank ? own : NULL);
}

static int place_descriptor(Packing *p, More *more, PyObject *value) {
    int foreign = Py_TYPE(value) == foreign_descriptor_type;
    PyObject *base = PyObject_GetAttr(value, foreign ? s_base : s_tensor);
    if (!base) return unusual();
    Tensor t;
    MapKey key;
    memset(&key, 0, sizeof key);
    int found = read_tensor(p->plan, base, &t);
    if (found == DONE) found = accept_place(p, &t);
    if (found == DONE) {
        int64_t shape[MAX_RANK], strides[MAX_RANK];
        int own = own_layout(base, &t, shape, strides), rank = -1;
        key.address = t.address;
        key.dtype = t.dtype;
        found = read_numbers(value, s_block_shape, key.block, &rank, NULL) && rank >= 1
            && read_layout(value, s_shape, key.shape, rank, shape, own)
            && read_layout(value, s_strides, key.strides, rank, strides, own) && read_flags(value, &key, foreign);
        key.rank = rank;
    }
    Py_DECREF(base);
    if (found != DONE) return found;
    Map *map = NULL;
    for (int i = 0; more->maps && i < MAPS && !map; i++)
        if (more->maps[i].used && !memcmp(&more->maps[i].key, &key, sizeof key)) map = &more->maps[i];
    if (!map && more->encodes) map = encode_map(p, more, &key);
    if (!map && !(map = encode_in_python(p, more, value, &key))) return UNUSUAL;
    memcpy(p->data + map->start, map->bytes, map->size);
    p->position += map->taken;
    return DONE;
}

#endif
