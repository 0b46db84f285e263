/* What a kernel takes on one device. */
#ifndef TRLAUNCH_PLAN_H
#define TRLAUNCH_PLAN_H

#include "known.h"

typedef struct {
    uint64_t address;
    int32_t dtype, rank, nan, tf32;
    int64_t shape[MAX_RANK], strides[MAX_RANK], block[MAX_RANK];
} MapKey;

typedef struct {
    MapKey key;
    int used, taken, start, size;
    unsigned char bytes[MAP_BYTES];
} Map;

/* How the driver encodes a slot's map: what the compiler decided, and what follows the map in the buffer. */
typedef struct {
    int element_type, element_size, swizzle, rank;
    int fp4;       /* 1: the innermost axis counts half elements in the map, 2: in the shape that follows, too */
    int clear_bit; /* see trlaunch.tensor_descriptor.encode */
    uint64_t dtypes;
    uint32_t box[MAX_RANK]; /* innermost first */
    int taken;              /* slots: the map, the shape (int32), the strides (int64) */
} Encoding;

/* What a launch reads of a parameter, as little as can be: behind a launch it is no longer in the nearest cache. */
typedef struct {
    uint8_t kind, size;
    uint16_t offset;
    uint32_t below; /* divisibility - 1; it is a power of two */
    union {
        struct { int64_t low; uint64_t high; };
        struct { uint64_t dtypes, usual; }; /* what the last tensor was that fitted: see read_usual, read_handle */
    };
} Slot;

enum { NEVER_USUAL = -1 };

typedef struct {
    PyObject *name;
    uint64_t dtypes; /* of a pointer where the slot may also be an integer */
    Map *maps;
    int next_map, encodes;
    Encoding encoding;
} More;

/* How a driver's launch function is called, and of which one that is the way. */
enum {
    CONFIG_AND_BUFFER,     /* cuLaunchKernelEx (cuda.h) */
    CONFIG_AND_ADDRESSES,  /* hipDrvLaunchKernelEx (hip_runtime_api.h) */
    NUMBERS_AND_ADDRESSES, /* hipModuleLaunchKernel */
    COOPERATIVE_NUMBERS_AND_ADDRESSES, /* hipModuleLaunchCooperativeKernel */
    CONVENTIONS
};

typedef int (*launch_function)(const void *config, void *function, void **parameters, void **extra);
typedef int (*numbers_function)(void *function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                                unsigned shared, void *stream, void **parameters, void **extra);
typedef int (*cooperative_function)(void *function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                                    unsigned shared, void *stream, void **parameters);
typedef int (*identify_function)(void *context, unsigned long long *id);
typedef int (*push_function)(void *context);
typedef int (*pop_function)(void **context);
typedef int (*current_device_function)(int *ordinal);
typedef int (*set_device_function)(int ordinal);
/* cuTensorMapEncodeTiled (cuda.h) */
typedef int (*encode_function)(void *map, int type, uint32_t rank, void *address, const uint64_t *shape,
                               const uint64_t *strides, const uint32_t *box, const uint32_t *steps, int interleave,
                               int swizzle, int promotion, int fill);
/* cuPointerGetAttributes (cuda.h) */
typedef int (*owner_function)(unsigned count, const int *attributes, void **values, uint64_t address);
enum { MEMORY_TYPE = 2, DEVICE_ORDINAL = 9 };
enum { NO_INTERLEAVE = 0, PROMOTE_L2_128B = 2, FILL_ZERO = 0, FILL_NAN = 1, TFLOAT32 = 11 };

typedef struct {
    PyObject_HEAD
    /* What launch_usual reads, together. */
    int usual; /* whether it serves: no scratch, no list of grids, a short buffer */
    int convention, by_ordinal; /* by_ordinal: threads have a current device, and no context */
    int count, bytes;
    int grid_offset, stream_offset;
    int device_type, ordinal;
    unsigned cluster[3], limit[3];
    Slot *slots;
    union { launch_function launch; numbers_function launch_numbers; cooperative_function launch_cooperative; };
    union { identify_function identify; current_device_function current_device; };
    int no_context; /* the status that says that the thread has none */
    int entry_count;
    struct { unsigned long long id; void *function; } entries[MAX_ENTRIES];
    unsigned char config[CONFIG_BYTES];
    /* What other launches read, too. */
    union { push_function push; set_device_function set_device; };
    pop_function pop;
    encode_function encode_tiled; /* null: there is none */
    owner_function owner; /* null: arrays are not asked */
    void *primary;
    int listed; /* only grids that were found right before */
    int offset_count;
    uint16_t *offsets; /* of every parameter, Triton's scratch included, where the driver is given addresses */
    unsigned block[3], shared; /* where it is given numbers */
    More *more;
    unsigned grids[MAX_GRIDS][3];
    int grid_count, next_grid;
    unsigned long long strangers[MAX_ENTRIES]; /* contexts of other devices, 0 for none: the primary one is pushed */
    int stranger_count;
    PyObject *keep, *fail, *encode;
    PyObject *grant, *release; /* null: the kernel wants no scratch */
} Plan;

static PyTypeObject Plan_Type;

static int plan_clear(Plan *self) {
    Py_CLEAR(self->keep);
    Py_CLEAR(self->fail);
    Py_CLEAR(self->encode);
    Py_CLEAR(self->grant);
    Py_CLEAR(self->release);
    return 0;
}

static int plan_traverse(Plan *self, visitproc visit, void *arg) {
    Py_VISIT(self->keep);
    Py_VISIT(self->fail);
    Py_VISIT(self->encode);
    Py_VISIT(self->grant);
    Py_VISIT(self->release);
    return 0;
}

static void plan_dealloc(Plan *self) {
    PyObject_GC_UnTrack(self);
    plan_clear(self);
    for (int i = 0; i < self->count; i++) {
        Py_XDECREF(self->more[i].name);
        PyMem_Free(self->more[i].maps);
    }
    PyMem_Free(self->slots);
    PyMem_Free(self->more);
    PyMem_Free(self->offsets);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* Where every parameter is in the buffer, and the numbers of a launch that are no arguments: ([offsets], block, shared). */
static int read_parameters(Plan *self, PyObject *given) {
    PyObject *offsets;
    if (!PyArg_ParseTuple(given, "O!(III)I", &PyList_Type, &offsets, &self->block[0], &self->block[1], &self->block[2],
                          &self->shared))
        return 0;
    Py_ssize_t count = PyList_GET_SIZE(offsets);
    if (count > MAX_ADDRESSES) return 0;
    if (!(self->offsets = PyMem_Calloc(count ? count : 1, sizeof *self->offsets))) return !!PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count; i++) {
        long offset = PyLong_AsLong(PyList_GET_ITEM(offsets, i));
        if (offset < 0 || offset >= self->bytes) return 0;
        self->offsets[i] = (uint16_t)offset;
    }
    self->offset_count = (int)count;
    return 1;
}

static int plan_init(Plan *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"slots", "bytes", "config", "grid_offset", "stream_offset", "functions", "primary",
        "no_context", "cluster", "limit", "listed", "place", "keep", "fail", "encode", "scratch", "convention",
        "parameters", NULL};
    PyObject *slots, *keep, *fail, *encode, *scratch = Py_None, *parameters = Py_None;
    Py_buffer config;
    unsigned long long launch, identify, push, pop, encode_tiled, owner, primary;
    if (self->slots) {
        PyErr_SetString(PyExc_TypeError, "a Plan is made once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!iy*ii(KKKKKK)Ki(III)(III)p(ii)OOO|OiO", names, &PyList_Type,
            &slots, &self->bytes, &config, &self->grid_offset, &self->stream_offset, &launch, &identify, &push, &pop,
            &encode_tiled, &owner, &primary, &self->no_context, &self->cluster[0], &self->cluster[1], &self->cluster[2],
            &self->limit[0], &self->limit[1], &self->limit[2], &self->listed, &self->device_type, &self->ordinal, &keep,
            &fail, &encode, &scratch, &self->convention, &parameters))
        return -1;
    int fits = config.len <= CONFIG_BYTES && self->grid_offset >= 0 && self->grid_offset + 12 <= config.len
        && self->stream_offset >= 0 && self->stream_offset + 8 <= config.len
        && self->bytes >= 0 && self->bytes <= MAX_PARAMETERS && self->convention >= 0 && self->convention < CONVENTIONS;
    if (fits) memcpy(self->config, config.buf, config.len);
    PyBuffer_Release(&config);
    self->launch = (launch_function)(uintptr_t)launch;
    self->by_ordinal = self->convention != CONFIG_AND_BUFFER;
    if (self->by_ordinal) {
        self->current_device = (current_device_function)(uintptr_t)identify;
        self->set_device = (set_device_function)(uintptr_t)push;
        if (parameters == Py_None || !read_parameters(self, parameters)) fits = 0;
        if (PyErr_Occurred()) return -1;
    } else {
        self->identify = (identify_function)(uintptr_t)identify;
        self->push = (push_function)(uintptr_t)push;
        self->pop = (pop_function)(uintptr_t)pop;
    }
    self->encode_tiled = (encode_function)(uintptr_t)encode_tiled;
    self->owner = (owner_function)(uintptr_t)owner;
    self->primary = (void *)(uintptr_t)primary;
    Py_ssize_t count = PyList_GET_SIZE(slots);
    self->slots = PyMem_Calloc(count ? count : 1, sizeof(Slot));
    self->more = PyMem_Calloc(count ? count : 1, sizeof(More));
    if (!self->slots || !self->more) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < count && fits; i++) {
        Slot *s = &self->slots[i];
        More *more = &self->more[i];
        int kind, offset, size;
        long long low, divisibility;
        unsigned long long high, dtypes;
        PyObject *name, *encoding;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(slots, i), "iiiLKLKOO", &kind, &offset, &size, &low, &high,
                              &divisibility, &dtypes, &name, &encoding))
            return -1;
        more->name = Py_NewRef(name);
        more->dtypes = dtypes;
        self->count++;
        fits = kind >= POINTER && kind <= TENSOR_MAP && offset >= 0 && size > 0 && offset + size <= self->bytes
            && divisibility > 0 && divisibility <= 1LL << 31 && !(divisibility & (divisibility - 1))
            && (kind == TENSOR_MAP || size <= 8);
        if (!fits) break;
        s->kind = (uint8_t)kind, s->size = (uint8_t)size, s->offset = (uint16_t)offset;
        s->below = (uint32_t)(divisibility - 1);
        if (kind == POINTER) s->dtypes = dtypes, s->usual = (uint64_t)NEVER_USUAL;
        else s->low = low, s->high = high;
        if (kind == INTEGER && size == 4 && low <= -(1LL << PyLong_SHIFT) && high >= 1ULL << PyLong_SHIFT && !s->below)
            s->kind = DIGIT;
        if (encoding == Py_None || !self->encode_tiled) continue;
        Encoding *e = &more->encoding;
        unsigned long long those;
        PyObject *box;
        if (!PyArg_ParseTuple(encoding, "iiiiipKO!i", &e->element_type, &e->element_size, &e->swizzle, &e->rank,
                              &e->fp4, &e->clear_bit, &those, &PyTuple_Type, &box, &e->taken))
            return -1;
        e->dtypes = those;
        fits = kind == TENSOR_MAP && size == MAP_SIZE && e->rank >= 1 && e->rank <= MAX_RANK
            && PyTuple_GET_SIZE(box) == e->rank && e->taken == 1 + 2 * e->rank && i + e->taken <= count;
        for (int axis = 0; fits && axis < e->rank; axis++)
            e->box[axis] = (uint32_t)PyLong_AsUnsignedLong(PyTuple_GET_ITEM(box, axis));
        if (PyErr_Occurred()) return -1;
        more->encodes = fits;
    }
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "a Plan whose numbers do not fit together");
        return -1;
    }
    PyObject *grant, *release;
    if (scratch != Py_None) {
        if (!PyArg_ParseTuple(scratch, "OO", &grant, &release)) return -1;
        self->grant = Py_NewRef(grant);
        self->release = Py_NewRef(release);
    }
    self->keep = Py_NewRef(keep);
    self->fail = Py_NewRef(fail);
    self->encode = Py_NewRef(encode);
    self->usual = !self->grant && !self->listed && self->bytes <= USUAL_BYTES;
    return 0;
}

/* The kernel in a context: another launch there needs no Python. */
static PyObject *plan_add_entry(Plan *self, PyObject *args) {
    unsigned long long id, function;
    if (!PyArg_ParseTuple(args, "KK", &id, &function)) return NULL;
    id += (unsigned)self->by_ordinal; /* as `identify` has it */
    for (int i = 0; i < self->entry_count; i++) if (self->entries[i].id == id) Py_RETURN_NONE;
    /* Full: the oldest goes. Identities are never used twice, so that it can only be missed, not mistaken. */
    if (self->entry_count == MAX_ENTRIES)
        memmove(&self->entries[0], &self->entries[1], sizeof self->entries[0] * --self->entry_count);
    self->entries[self->entry_count].id = id;
    self->entries[self->entry_count++].function = (void *)(uintptr_t)function;
    Py_RETURN_NONE;
}

/* A context of another device, or 0 for none: launches under it push the primary context. */
static PyObject *plan_add_stranger(Plan *self, PyObject *arg) {
    unsigned long long id = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred()) return NULL;
    id += (unsigned)self->by_ordinal;
    for (int i = 0; i < self->stranger_count; i++) if (self->strangers[i] == id) Py_RETURN_NONE;
    if (self->stranger_count == MAX_ENTRIES)
        memmove(&self->strangers[0], &self->strangers[1], sizeof self->strangers[0] * --self->stranger_count);
    self->strangers[self->stranger_count++] = id;
    Py_RETURN_NONE;
}

static PyObject *plan_add_grid(Plan *self, PyObject *args) {
    unsigned x, y, z;
    if (!PyArg_ParseTuple(args, "III", &x, &y, &z)) return NULL;
    unsigned *to = self->grids[self->next_grid];
    to[0] = x, to[1] = y, to[2] = z;
    self->next_grid = (self->next_grid + 1) % MAX_GRIDS;
    if (self->grid_count < MAX_GRIDS) self->grid_count++;
    Py_RETURN_NONE;
}

static PyMethodDef plan_methods[] = {
    {"add_entry", (PyCFunction)plan_add_entry, METH_VARARGS, "Add a context's identity and the function in it."},
    {"add_stranger", (PyCFunction)plan_add_stranger, METH_O, "Add the identity of a context of another device."},
    {"add_grid", (PyCFunction)plan_add_grid, METH_VARARGS, "Add CTAs along x, y, z that were found right."},
    {NULL, NULL, 0, NULL}};

static PyMemberDef plan_members[] = {{"keep", T_OBJECT_EX, offsetof(Plan, keep), READONLY, NULL}, {NULL}};

static PyTypeObject Plan_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "trlaunch._launcher.Plan",
    .tp_doc = "What a kernel takes on one device, compiled.",
    .tp_basicsize = sizeof(Plan),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)plan_init,
    .tp_dealloc = (destructor)plan_dealloc,
    .tp_traverse = (traverseproc)plan_traverse,
    .tp_clear = (inquiry)plan_clear,
    .tp_methods = plan_methods,
    .tp_members = plan_members,
};

/* Have Python raise what a call answered: `step` is one of direct.steps. */
static APART int fail(const Plan *plan, const char *what, int status, const unsigned *ctas, uint64_t stream) {
    PyObject *answer = PyObject_CallFunction(plan->fail, "si(III)K", what, status, ctas[0], ctas[1], ctas[2],
                                             (unsigned long long)stream);
    Py_XDECREF(answer);
    if (!PyErr_Occurred()) PyErr_Format(PyExc_SystemError, "%s failed with %d", what, status);
    return FAILED;
}

/* The same where another way is taken then: what the driver remembers of the failure is cleared, nothing is raised. */
static APART void forget(const Plan *plan, int status) {
    static const unsigned none[3];
    fail(plan, "owner", status, none, 0);
    PyErr_Clear();
}

#endif
