/*
 * The launch path without the interpreter: arguments -> parameter buffer on the stack -> the driver's launch function.
 *
 * Nothing here explains an error. Whatever is not plainly right (a wrong type, a value out of range, a tensor on another
 * device, an unknown keyword) is "unusual": the call is handed to the Python path, which raises or does it the long way.
 * What a kernel takes is given by trlaunch/launching.py; driver functions are known by address, headers of no vendor are
 * used. CUlaunchConfig is copied from one that cuda.bindings filled; only its grid and stream are changed, at offsets
 * which launching.py has found in it.
 *
 * The GIL protects every object here and is released around the driver's launch, which waits when its queue is full.
 * Free-threaded Python is not supported: the module declines to be imported there.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "parameter buffers are little-endian, and so must the host be"
#endif

enum {
    MAX_PARAMETERS = 4096, /* bytes of the buffer on the stack; larger ones take the Python path */
    USUAL_BYTES = 1024, /* of that of launch_usual; a multiple of 64 */
    MAX_ADDRESSES = 512, CONFIG_BYTES = 64, MAX_PLANS = 32, MAX_ENTRIES = 8, MAX_GRIDS = 16, MAX_DEVICES = 4, MAX_TYPES = 4,
    MAX_ARRAY_TYPES = 16,
    MAPS = 8, MAP_SIZE = 128, MAP_BYTES = 256, MAX_RANK = 5, MAX_DEPTH = 16
};

enum { POINTER, INTEGER, FP16, BF16, FP32, FP64, UNTYPED4, UNTYPED8, TENSOR_MAP,
       DIGIT /* an INTEGER of 4 bytes that takes whatever an int of one digit holds: nearly all are; see plan_init */ };

enum { UNUSUAL = 0, DONE = 1, FAILED = -1, ELSEWHERE = 2 };

/*
 * What nearly every launch runs is laid out together, what others run is kept out of it: behind the driver's launch the
 * instructions have to come from a farther cache, and a launch costs what it has to fetch. The buffers in HOT functions
 * are written at offsets that plan_init checked, so that they need no stack protector.
 */
#if defined(__has_attribute)
#if __has_attribute(no_stack_protector)
#define HOT __attribute__((hot, no_stack_protector))
#endif
#endif
#ifndef HOT
#define HOT __attribute__((hot))
#endif
#define APART __attribute__((noinline))

/* ---- DLPack 1.1 to 1.3 (dlpack.h) ---------------------------------------------------------------------------- */

typedef struct {
    void *data;
    int32_t device_type, device_id;
    int32_t ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} DLTensor;

typedef struct ExchangeHeader {
    uint32_t major, minor;
    struct ExchangeHeader *previous;
} ExchangeHeader;

typedef struct {
    ExchangeHeader header;
    void *allocate, *managed_from_object, *managed_to_object;
    int (*tensor_from_object)(void *object, DLTensor *out); /* may be null */
    int (*current_stream)(int device_type, int32_t device, void **out);
} Exchange;

_Static_assert(sizeof(DLTensor) == 48 && offsetof(DLTensor, byte_offset) == 40, "DLTensor of dlpack.h");
_Static_assert(sizeof(Exchange) == 56, "DLPackExchangeAPI of dlpack.h");

enum { EXCHANGE_MAJOR = 1, FP32_NUMBER = 2 * 4 + 2 };

/* DLPack's code and bits as one small number, the bit of a mask: code * 4 + log2(bytes). -1: none. */
static int dtype_of(uint8_t code, uint8_t bits, uint16_t lanes) {
    int width = bits == 8 ? 0 : bits == 16 ? 1 : bits == 32 ? 2 : bits == 64 ? 3 : -1;
    return width < 0 || code > 15 || lanes != 1 ? -1 : code * 4 + width;
}

/* ---- what the module was told -------------------------------------------------------------------------------- */

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

/* ---- what a kernel takes on one device ----------------------------------------------------------------------- */

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

/* ---- the plans of a kernel ----------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    Plan *last;
    int fixed; /* the kernel was given its device */
    int count;
    Plan *plans[MAX_PLANS];
    struct { PyObject *key; Plan *plan; } devices[MAX_DEVICES]; /* what device= was, by identity */
    int device_count, next_device;
} Launches;

static int launches_clear(Launches *self) {
    self->last = NULL;
    self->next_device = 0;
    while (self->count) {
        self->count--;
        Py_CLEAR(self->plans[self->count]);
    }
    while (self->device_count) {
        self->device_count--;
        Py_CLEAR(self->devices[self->device_count].key);
    }
    return 0;
}

static int launches_traverse(Launches *self, visitproc visit, void *arg) {
    for (int i = 0; i < self->count; i++) Py_VISIT(self->plans[i]);
    for (int i = 0; i < self->device_count; i++) Py_VISIT(self->devices[i].key);
    return 0;
}

static void launches_dealloc(Launches *self) {
    PyObject_GC_UnTrack(self);
    launches_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static int launches_init(Launches *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"fixed", NULL};
    return PyArg_ParseTupleAndKeywords(args, keywords, "p", names, &self->fixed) ? 0 : -1;
}

static PyObject *launches_add(Launches *self, PyObject *args) {
    Plan *plan;
    int usual;
    if (!PyArg_ParseTuple(args, "O!p", &Plan_Type, &plan, &usual)) return NULL;
    if (self->count < MAX_PLANS) {
        self->plans[self->count++] = (Plan *)Py_NewRef(plan);
        if (usual) self->last = plan;
    }
    Py_RETURN_NONE;
}

/* Launches with device= this very object go to the plan. */
static PyObject *launches_add_device(Launches *self, PyObject *args) {
    PyObject *key;
    Plan *plan;
    if (!PyArg_ParseTuple(args, "OO!", &key, &Plan_Type, &plan)) return NULL;
    int known = 0;
    for (int i = 0; i < self->count; i++) known |= self->plans[i] == plan;
    if (known) {
        int at = self->next_device;
        PyObject *old = at < self->device_count ? self->devices[at].key : NULL;
        self->devices[at].key = Py_NewRef(key);
        self->devices[at].plan = plan;
        if (self->device_count < MAX_DEVICES) self->device_count++;
        self->next_device = (at + 1) % MAX_DEVICES;
        Py_XDECREF(old);
    }
    Py_RETURN_NONE;
}

/* While launches are hooked, bound callables find none; whoever empties this keeps the plans. */
static PyObject *launches_forget(Launches *self, PyObject *unused) {
    (void)unused;
    launches_clear(self);
    Py_RETURN_NONE;
}

static PyMethodDef launches_methods[] = {
    {"add", (PyCFunction)launches_add, METH_VARARGS, "add(plan, usual): of another device; for launches without device="},
    {"add_device", (PyCFunction)launches_add_device, METH_VARARGS, "Add an object that stands for a plan's device."},
    {"forget", (PyCFunction)launches_forget, METH_NOARGS, "Drop every plan."},
    {NULL, NULL, 0, NULL}};

static PyMemberDef launches_members[] = {{"fixed", T_INT, offsetof(Launches, fixed), READONLY, NULL}, {NULL}};

static PyTypeObject Launches_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "trlaunch._launcher.Launches",
    .tp_doc = "The plans of one kernel.",
    .tp_basicsize = sizeof(Launches),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)launches_init,
    .tp_dealloc = (destructor)launches_dealloc,
    .tp_traverse = (traverseproc)launches_traverse,
    .tp_clear = (inquiry)launches_clear,
    .tp_methods = launches_methods,
    .tp_members = launches_members,
};

/* ---- tensors ------------------------------------------------------------------------------------------------- */

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
    PyObject *known = tensor_dtypes ? PyDict_GetItemWithError(tensor_dtypes, dtype) : NULL; /* borrowed */
    Py_DECREF(dtype);
    if (!known) return unusual();
    out->dtype = (int)PyLong_AsLong(known);
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
    PyObject *known = Py_XNewRef(PyDict_GetItemWithError(array_dtypes, dtype));
    if (!known && !PyErr_Occurred()) known = PyObject_CallOneArg(array_dtype, dtype);
    Py_DECREF(dtype);
    long number = known ? PyLong_AsLong(known) : -1;
    Py_XDECREF(known);
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
    if (plan->owner(2, attributes, values, out->address) || !kind || ordinal < 0) return UNUSUAL;
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

/* ---- packing ------------------------------------------------------------------------------------------------- */

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

/* ---- tensor descriptors -------------------------------------------------------------------------------------- */

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
        int known = padding == s_zero || (PyUnicode_CheckExact(padding) && !PyUnicode_Compare(padding, s_zero));
        if (!known) {
            key->nan = known = PyUnicode_CheckExact(padding) && !PyUnicode_Compare(padding, s_nan);
        }
        Py_DECREF(padding);
        if (!known) return UNUSUAL;
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

/* ---- one launch ---------------------------------------------------------------------------------------------- */

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
        int known = dtype_of(view.code, view.bits, view.lanes);
        if (known < 0 || !(s->dtypes >> known & 1)) return UNUSUAL;
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

static APART void *entry_of(const Plan *plan, unsigned long long id) {
    for (int i = 0; i < plan->entry_count; i++)
        if (plan->entries[i].id == id) return plan->entries[i].function;
    return NULL;
}

static APART int fail(Plan *plan, const char *what, int status, const unsigned *ctas, uint64_t stream) {
    PyObject *answer = PyObject_CallFunction(plan->fail, "si(III)K", what, status, ctas[0], ctas[1], ctas[2],
                                             (unsigned long long)stream);
    Py_XDECREF(answer);
    if (!PyErr_Occurred()) PyErr_Format(PyExc_SystemError, "%s failed with %d", what, status);
    return FAILED;
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

/* What identifies where the thread is, 0 for nowhere: the current context's identity, or a device's ordinal and one. */
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
    return !status;
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

/* Everything but what is packed; `other` becomes the plan of the device that it is for, where that is ELSEWHERE. */
static int queue(Plan *plan, const Call *call, Packing *p, Plan **other, Launches *launches) {
    unsigned ctas[3];
    if (!count_ctas(plan, call->programs, ctas)) return UNUSUAL;
    if (plan->listed) {
        int i = 0;
        while (i < plan->grid_count && memcmp(plan->grids[i], ctas, sizeof ctas)) i++;
        if (i == plan->grid_count) return UNUSUAL;
    }
    unsigned long long before, id;
    if (!identify(plan, &before)) return UNUSUAL;
    void *function = before ? entry_of(plan, before) : NULL;
    if (p->choosing && !p->located) { /* the thread's own device it is then */
        for (int i = 0; i < launches->count && !function; i++)
            if (before ? entry_of(launches->plans[i], before) != NULL : launches->plans[i]->ordinal == 0)
                *other = launches->plans[i];
        if (*other && *other != plan) return ELSEWHERE;
        if (!function && !*other) return UNUSUAL;
    }
    int entered = 0, status;
    if (!function) {
        int i = 0;
        while (i < plan->stranger_count && plan->strangers[i] != before) i++;
        if (i == plan->stranger_count || enter(plan)) return UNUSUAL;
        entered = 1;
        if (!identify(plan, &id) || !(function = entry_of(plan, id))) {
            status = leave(plan, entered, before);
            return status ? fail(plan, "leave", status, ctas, call->stream) : UNUSUAL;
        }
    }
    uint64_t stream = call->stream;
    int known = call->has_stream || !p->is_torch || torch_stream(plan, p->api, &stream);
    if (!known || (entered && plan->grant) || (p->asked && p->asked != (stream ? stream : 1))) {
        PyErr_Clear();
        status = leave(plan, entered, before);
        return status ? fail(plan, "leave", status, ctas, stream) : UNUSUAL;
    }
    PyObject *granted = NULL;
    if (plan->grant && !(granted = grant_scratch(plan, p->data, ctas, stream))) return FAILED;
    status = submit(plan, function, ctas, stream, p->data);
    int leaving = leave(plan, entered, before), result = DONE;
    if (status) result = fail(plan, "launch", status, ctas, stream);
    else if (leaving) result = fail(plan, "leave", leaving, ctas, stream);
    if (granted && !release_scratch(plan, granted, stream)) result = FAILED;
    return result;
}

/* A launch of any kind that a plan serves. */
static APART int launch_any(Launches *launches, const Call *call) {
    Plan *plan = launches->last;
    int choosing = !launches->fixed;
    if (call->device) {
        plan = NULL;
        for (int i = 0; i < launches->device_count; i++)
            if (launches->devices[i].key == call->device) plan = launches->devices[i].plan;
        choosing = 0;
    }
    if (!plan) return UNUSUAL;
    _Alignas(64) unsigned char data[MAX_PARAMETERS];
    for (int attempt = 0; attempt < 2; attempt++) {
        Packing p = {plan, data, 0, choosing && !attempt, 0, -1, 0, NULL, 0};
        memset(data, 0, plan->bytes);
        Plan *other = NULL;
        Py_INCREF(plan); /* Python code may run, and drop the plans */
        int found = pack(&p, call);
        if (found == DONE) {
            if (attempt && choosing) p.located = 1;
            found = queue(plan, call, &p, &other, launches);
        }
        if (found == DONE && !call->device && launches->last) launches->last = plan; /* not if dropped meanwhile */
        Py_DECREF(plan);
        if (found != ELSEWHERE) return found;
        for (int i = 0; !other && i < launches->count; i++)
            if (launches->plans[i]->ordinal == p.wanted) other = launches->plans[i];
        if (!other) return UNUSUAL;
        plan = other;
    }
    return UNUSUAL;
}

/*
 * The launch that nearly all are: on the device of the last one, which is the thread's own, each argument for a slot and
 * read by pack_usual. It decides nothing: what it does not do, launch_any does from the start. It is kept short, since
 * behind the driver's launch most of its instructions have to be fetched from a farther cache.
 */
static HOT int launch_usual(Launches *launches, const Call *call) {
    Plan *plan = launches->last;
    unsigned ctas[3];
    unsigned long long id;
    uint64_t stream = call->stream;
    int seen = 0;
    if (!plan || !plan->usual || call->count != plan->count || !count_ctas(plan, call->programs, ctas)) return UNUSUAL;
    _Alignas(64) unsigned char data[USUAL_BYTES];
    for (int i = 0; i < plan->bytes; i += 64) memset(data + i, 0, 64);
    if (pack_usual(plan, data, 0, call->args, call->count, &seen) != call->count) return UNUSUAL;
    if (!identify(plan, &id) || !id) return UNUSUAL;
    void *function = plan->entries[0].id == id ? plan->entries[0].function : entry_of(plan, id);
    if (!function) return UNUSUAL;
    if (seen & BY_TORCH && !call->has_stream && !torch_stream(plan, known.exchange, &stream)) return unusual();
    Py_INCREF(plan); /* another thread may drop the plans while the GIL is given up */
    int status = submit(plan, function, ctas, stream, data);
    int result = status ? fail(plan, "launch", status, ctas, stream) : DONE;
    Py_DECREF(plan);
    return result;
}

static inline int launch(Launches *launches, const Call *call) {
    if (!call->names && !call->device) {
        int found = launch_usual(launches, call);
        if (found != UNUSUAL) return found;
    }
    return launch_any(launches, call);
}

static int read_size(PyObject *value, unsigned *out) {
    int64_t number;
    if (!small(value, &number)) {
        int overflow;
        if (!PyLong_CheckExact(value)) return 0;
        number = PyLong_AsLongAndOverflow(value, &overflow);
        if (overflow) return 0;
    }
    if (number < 1 || number > 0x7FFFFFFF) return 0; /* an empty grid is not launched */
    *out = (unsigned)number;
    return 1;
}

static int read_grid(PyObject *grid, unsigned *out) {
    out[0] = out[1] = out[2] = 1;
    if (PyLong_CheckExact(grid)) return read_size(grid, out);
    if (!PyTuple_CheckExact(grid) && !PyList_CheckExact(grid)) return 0;
    Py_ssize_t axes = PySequence_Fast_GET_SIZE(grid);
    if (axes < 1 || axes > 3) return 0;
    for (Py_ssize_t i = 0; i < axes; i++) if (!read_size(PySequence_Fast_GET_ITEM(grid, i), &out[i])) return 0;
    return 1;
}

static int read_stream(PyObject *stream, Call *call) {
    if (stream == Py_None) return 1;
    PyObject *number = PyLong_CheckExact(stream) ? Py_NewRef(stream)
        : stream_handle ? PyObject_CallOneArg(stream_handle, stream) : NULL;
    call->stream = number ? PyLong_AsUnsignedLongLong(number) : 0;
    Py_XDECREF(number);
    if (!number || PyErr_Occurred()) return unusual();
    return call->has_stream = 1;
}

/* Read stream and device; names that are nothing else are then forgotten. */
static APART int read_settings(Call *call) {
    Py_ssize_t count = PyTuple_GET_SIZE(call->names), settings = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *name = PyTuple_GET_ITEM(call->names, i);
        if (same_name(s_stream, name)) {
            if (!read_stream(call->named[i], call)) return 0;
            settings++;
        } else if (same_name(s_device, name)) {
            if (call->named[i] != Py_None) call->device = call->named[i];
            settings++;
        }
    }
    if (settings == count) call->names = NULL;
    return 1;
}

/* ---- Kernel.launch ------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *wrapped;
} Method;

/* Whether an object has its plans in a slot; the type of the last one that has is known without looking at its bases. */
static inline int is_launched(PyObject *object) {
    if (Py_TYPE(object) == known.last_launched) return 1;
    if (!known.launched || !PyObject_TypeCheck(object, known.launched)) return 0;
    keep_type(&known.last_launched, (PyObject *)Py_TYPE(object));
    return 1;
}

static HOT PyObject *method_call(Method *self, PyObject *const *args, size_t flags, PyObject *names) {
    Py_ssize_t count = PyVectorcall_NARGS(flags);
    if (count >= 2 && is_launched(args[0])) { /* the kernel and the grid */
        PyObject *launches = slot_of(args[0], known.launched_offset);
        if (launches && Py_TYPE(launches) == &Launches_Type && ((Launches *)launches)->last) {
            Call call = {.args = args + 2, .count = count - 2, .named = args + count, .names = names};
            int found = UNUSUAL;
            Py_INCREF(launches);
            if (read_grid(args[1], call.programs) && (!names || read_settings(&call)))
                found = launch((Launches *)launches, &call);
            Py_DECREF(launches);
            if (found == DONE) Py_RETURN_NONE;
            if (found == FAILED) return NULL;
        }
    }
    return PyObject_Vectorcall(self->wrapped, args, flags, names);
}

static PyObject *method_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    PyObject *wrapped;
    static char *names[] = {"function", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O", names, &wrapped)) return NULL;
    Method *self = (Method *)type->tp_alloc(type, 0);
    if (self) {
        self->vectorcall = (vectorcallfunc)method_call;
        self->wrapped = Py_NewRef(wrapped);
    }
    return (PyObject *)self;
}

static int method_traverse(Method *self, visitproc visit, void *arg) {
    Py_VISIT(self->wrapped);
    return 0;
}

static int method_clear(Method *self) {
    Py_CLEAR(self->wrapped);
    return 0;
}

static void method_dealloc(Method *self) {
    PyObject_GC_UnTrack(self);
    method_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *method_get(PyObject *self, PyObject *owner, PyObject *type) {
    (void)type;
    return owner && owner != Py_None ? PyMethod_New(self, owner) : Py_NewRef(self);
}

/* Name, docstring, annotations are the function's. */
static PyObject *method_attribute(Method *self, PyObject *name) {
    static const char *const own[] = {"__class__", "__call__", "__get__", NULL};
    for (int i = 0; own[i]; i++)
        if (PyUnicode_CompareWithASCIIString(name, own[i]) == 0) return PyObject_GenericGetAttr((PyObject *)self, name);
    if (PyUnicode_CompareWithASCIIString(name, "__wrapped__") == 0) return Py_NewRef(self->wrapped);
    return PyObject_GetAttr(self->wrapped, name);
}

static PyTypeObject Method_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "trlaunch._launcher.Method",
    .tp_doc = "A method that launches natively, and calls the function it was made from where it cannot.",
    .tp_basicsize = sizeof(Method),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR,
    .tp_vectorcall_offset = offsetof(Method, vectorcall),
    .tp_call = PyVectorcall_Call,
    .tp_new = method_new,
    .tp_dealloc = (destructor)method_dealloc,
    .tp_traverse = (traverseproc)method_traverse,
    .tp_clear = (inquiry)method_clear,
    .tp_descr_get = method_get,
    .tp_getattro = (getattrofunc)method_attribute,
};

/* ---- a kernel bound to a grid -------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *launches, *slow, *device;
    Call call;
    int usual;
} Bound;

/* Whether what was bound is given again: the Python path says so. */
static APART int has_settings(PyObject *names) {
    int settings = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); i++) settings |= is_setting(PyTuple_GET_ITEM(names, i));
    return settings;
}

static HOT PyObject *bound_call(Bound *self, PyObject *const *args, size_t flags, PyObject *names) {
    if (self->usual && ((Launches *)self->launches)->last) {
        Call call = self->call;
        call.args = args;
        call.count = PyVectorcall_NARGS(flags);
        call.named = args + call.count;
        call.names = names;
        int found = names && has_settings(names) ? UNUSUAL : launch((Launches *)self->launches, &call);
        if (found == FAILED) return NULL;
        if (found == DONE) Py_RETURN_NONE;
    }
    return PyObject_Vectorcall(self->slow, args, flags, names);
}

static int bound_traverse(Bound *self, visitproc visit, void *arg) {
    Py_VISIT(self->launches);
    Py_VISIT(self->slow);
    Py_VISIT(self->device);
    return 0;
}

static int bound_clear(Bound *self) {
    self->usual = 0;
    Py_CLEAR(self->launches);
    Py_CLEAR(self->slow);
    Py_CLEAR(self->device);
    return 0;
}

static void bound_dealloc(Bound *self) {
    PyObject_GC_UnTrack(self);
    bound_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *bound_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    static char *names[] = {"launches", "slow", "grid", "stream", "device", NULL};
    PyObject *launches, *slow, *grid, *stream, *device;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!OOOO", names, &Launches_Type, &launches, &slow, &grid, &stream,
                                     &device))
        return NULL;
    Bound *self = (Bound *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->vectorcall = (vectorcallfunc)bound_call;
    self->launches = Py_NewRef(launches);
    self->slow = Py_NewRef(slow);
    self->device = Py_NewRef(device);
    self->call.device = device == Py_None ? NULL : device;
    self->usual = read_grid(grid, self->call.programs) && read_stream(stream, &self->call);
    return (PyObject *)self;
}

static PyTypeObject Bound_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "trlaunch._launcher.Bound",
    .tp_doc = "A kernel with grid, stream and device settled.",
    .tp_basicsize = sizeof(Bound),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_vectorcall_offset = offsetof(Bound, vectorcall),
    .tp_call = PyVectorcall_Call,
    .tp_new = bound_new,
    .tp_dealloc = (destructor)bound_dealloc,
    .tp_traverse = (traverseproc)bound_traverse,
    .tp_clear = (inquiry)bound_clear,
};

/* ---- the module ---------------------------------------------------------------------------------------------- */

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
